"""Label formats, a file each: how it is told apart, read, and written where it can be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from drivesim.data.annotations import Known, Labelled, Remarks

# What a format can carry of boxes; what it cannot is counted when it is written.
CARRIES = ("ids", "classes", "words", "visibility", "ignore", "times", "empty frames", "size")

Read = Callable[[Path, Known, Remarks], list[Labelled]]
Write = Callable[[Sequence[Labelled], Path, Fraction, Remarks], None]


@dataclass(frozen=True)
class Format:
    """Args:
    name: as ``--format`` takes it.
    title: as documents call it.
    carries: of ``CARRIES``, what survives.
    claims: whether a file or folder is of this format, by a look at its beginning; never raises.
    read: every video of a file or folder. What is wrong with a box goes to the remarks; a file that is not what it
        claims to be is a ``Mistake``.
    write: videos to a folder (made if missing), at a rate of so many frames a second where the format counts frames;
        what it cannot carry goes to the remarks. None where it is only read.
    """

    name: str
    title: str
    carries: frozenset[str]
    claims: Callable[[Path], bool]
    read: Read
    write: Write | None = None
