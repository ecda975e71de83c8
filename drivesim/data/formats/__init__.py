"""Label formats, a file each: how it is told apart, read, and written where it can be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from drivesim.data.annotations import Known, Labelled, Remarks

# What a format can carry of boxes; what it cannot is counted when it is written. "ids" are any names of tracks, "words"
# the source's for classes, "times" any moments, not only whole frames.
CARRIES = ("ids", "classes", "words", "visibility", "ignore", "times", "empty frames", "size")


@dataclass(frozen=True)
class Reel:
    """A video that lies on the disk as pictures among those of other videos; the label tables alone tell them apart.

    Args:
        video: its name, as the labels give it.
        drive: which drive it was cut from.
        pictures: JPEG files, in order; ``times`` are seconds from the first.
    """

    video: str
    drive: str
    pictures: tuple[Path, ...]
    times: tuple[Fraction, ...]


Read = Callable[[Path, Known, Remarks], list[Labelled]]
Reels = Callable[[Path], list[Reel]]
Write = Callable[[Sequence[Labelled], Path, Fraction, Remarks], None]


@dataclass(frozen=True)
class Format:
    """Args:
    name: as ``--format`` takes it.
    title: as documents call it.
    carries: of ``CARRIES``, what its files hold; where they are written, it survives whatever it is.
    claims: whether a file or folder is of this format, by a look at its beginning; never raises.
    read: every video of a file or folder. What is wrong with a box goes to the remarks; a file that is not what it
        claims to be is a ``Mistake``.
    write: videos to a folder (made if missing), at a rate of so many frames a second where the format counts frames;
        what it cannot carry goes to the remarks. None where it is only read.
    reels: the pictures of every video, where they lie in no folder of their own. None where they do.
    """

    name: str
    title: str
    carries: frozenset[str]
    claims: Callable[[Path], bool]
    read: Read
    write: Write | None = None
    reels: Reels | None = None
