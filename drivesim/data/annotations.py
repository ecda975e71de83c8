"""What a label file says of a video, whatever its format; and the one door through which every box comes in.

A reader of a format (``data/formats``) turns its file into calls of ``Sheet.add``, one a box, in pixels. There, and
nowhere else, boxes are checked; what is wrong with them is remembered as a reason with a count and examples. Nothing
is dropped without one.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from drivesim.data.classes import class_of
from drivesim.errors import printable
from drivesim.scene import Boxes, Labels

EXAMPLES = 5  # places that are named of each reason
SLACK = 2.0  # pixels that a box may reach over the edge: formats differ in where a pixel begins
MOST_INVERTED = 0.3  # above it, the numbers are not corners

# reasons, as they are told
NOT_A_NUMBER = "a coordinate is not a number"
INVERTED = "its corners are in the wrong order"
FLAT = "has no area"
OUTSIDE = "lies outside of the frame"
CUT = "reached out of the frame and was cut to it"
UNKNOWN_CLASS = "has a class that is not known, and became 'other'"
TWICE = "is the second box of its track at that time"
TOO_LATE = "is of a frame behind the video's last"
DROPPED = (NOT_A_NUMBER, INVERTED, FLAT, OUTSIDE, TWICE, TOO_LATE)
LIKE_SIZES = "corners in the wrong order in most boxes: they look like x, y, width, height"
LIKE_FRACTIONS = "all coordinates are below 2: they look like fractions of the frame, not pixels"
OTHER_SIZE = "was labelled on frames of another shape than the video's"


@dataclass(frozen=True)
class Footage:
    """What is known of a video apart from its labels.

    Args:
        size: height and width in pixels, as shown.
        fps: of its frames; frame n of the labels stands at n / fps where a format has no times.
        frames: how many it has.
    """

    size: tuple[int, int] | None = None
    fps: Fraction | None = None
    frames: int | None = None


Known = Callable[[str], Footage]  # by the name that the labels give the video


@dataclass
class Remarks:
    """What was the matter, by reason: how often, and where first."""

    count: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, where: str, count: int = 1) -> None:
        self.count[reason] = self.count.get(reason, 0) + count
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append(where)

    def extend(self, other: "Remarks") -> None:
        for reason, count in other.count.items():
            self.count[reason] = self.count.get(reason, 0) + count
            shown = self.examples.setdefault(reason, [])
            shown += other.examples[reason][: EXAMPLES - len(shown)]

    def lines(self) -> list[str]:
        """A line a reason: the count, the reason, and a place."""
        return [printable(f"{n} x {reason}, first {self.examples[reason][0]}") for reason, n in self.count.items()]


@dataclass(frozen=True, eq=False)
class Labelled:
    """The boxes of one video.

    Args:
        video: its name in the label file, without folders and suffix.
        boxes: sorted by time and track; fractions of the frame.
        size: height and width of the frames that were labelled, in pixels; 0 where it cannot be known (the format has
            fractions, and no video is at hand).
        times: the moments that were labelled, in order, with boxes in them or none.
        ids: what the file calls a track, where that is not its number.
        labels: night and cars, where the format has them.
    """

    video: str
    boxes: Boxes
    size: tuple[int, int]
    times: tuple[Fraction, ...]
    ids: Mapping[int, str] = field(default_factory=dict)
    labels: Labels = field(default_factory=Labels)

    def id_of(self, track: int) -> str:
        return self.ids.get(track, str(track))


@dataclass(frozen=True)
class Row:
    time: Fraction
    track: int
    cls: str
    word: str
    box: tuple[float, float, float, float]
    visibility: float
    ignore: bool


class Sheet:
    """The boxes of one video on their way in.

    Args:
        video: as in ``Labelled``.
        size: height and width of the frames that were labelled, in pixels; (1, 1) for fractions.
        footage: of the video, as far as it is known.
        remarks: takes what is wrong, at the end: of a sheet that is refused whole, that alone.
    """

    def __init__(self, video: str, size: tuple[int, int], footage: Footage, remarks: Remarks):
        self.video, self.size, self.footage, self.remarks = video, size, footage, remarks
        self.labels = Labels()
        self._found = Remarks()
        self._rows: list[Row] = []
        self._times: set[Fraction] = set()
        self._tracks: dict[str, int] = {}
        self._taken: set[tuple[Fraction, int]] = set()
        self._inverted = self._asked = 0
        self._widest = 0.0

    def look(self, time: Fraction) -> None:
        """The moment was labelled, be there boxes or none."""
        self._times.add(time)

    def add(
        self,
        time: Fraction,
        track: str | int | None,
        word: str,
        box: tuple[float, float, float, float],
        visibility: float = math.nan,
        ignore: bool = False,
        where: str = "",
    ) -> None:
        """Takes a box, unless something is wrong with it.

        Args:
            time: seconds from the video's first frame.
            track: what the file calls it; None for a region that has none.
            word: the file's name for its class.
            box: ``x0 y0 x1 y1`` in pixels of ``size``, x1 and y1 exclusive.
            where: for the remark: line, frame or track.
        """
        self.look(time)
        self._asked += 1
        number = self._number(track)
        reason = self._wrong(time, number, box)
        if reason is not None:
            self._tell(reason, where)
            return
        cls = class_of(word)
        if cls is None and not ignore:
            self._tell(f"{UNKNOWN_CLASS}: {word}", where)
        self._taken.add((time, number))
        self._widest = max(self._widest, *map(abs, box))
        self._rows.append(Row(time, number, cls or "other", word, self._cut(box, where), visibility, ignore))

    def _tell(self, reason: str, where: str) -> None:
        self._found.add(reason, f"{self.video}: {where}".rstrip(": "))

    def _wrong(self, time: Fraction, track: int, box: tuple[float, float, float, float]) -> str | None:
        x0, y0, x1, y1 = box
        height, width = self.size
        if not all(map(math.isfinite, box)):
            return NOT_A_NUMBER
        if x1 < x0 or y1 < y0:
            self._inverted += 1
            return INVERTED
        if x1 == x0 or y1 == y0:
            return FLAT
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            return OUTSIDE
        if (time, track) in self._taken:
            return TWICE
        fps, frames = self.footage.fps, self.footage.frames
        if time < 0 or (fps is not None and frames is not None and time * fps >= frames):
            return TOO_LATE
        return None

    def _cut(self, box: tuple[float, float, float, float], where: str) -> tuple[float, float, float, float]:
        """The box as fractions of the frame, cut to it."""
        height, width = self.size
        x0, y0, x1, y1 = box
        over = max(-x0, -y0, x1 - width, y1 - height)
        if over > SLACK * min(1.0, min(self.size) / 100):  # of fractions, a fiftieth
            self._tell(CUT, where)
        return max(x0, 0) / width, max(y0, 0) / height, min(x1, width) / width, min(y1, height) / height

    def _number(self, name: str | int | None) -> int:
        """A track's number: that of its name, where this is one; else the next free negative or positive one."""
        if name is None:
            key = f"\0{len(self._tracks)}"  # a region of its own
            self._tracks[key] = -1 - sum(k.startswith("\0") for k in self._tracks)
            return self._tracks[key]
        key = str(name)
        if key not in self._tracks:
            plain = re.fullmatch(r"0|[1-9]\d{0,17}", key)
            taken = set(self._tracks.values())
            number = int(key) if plain else 0
            while number in taken or (not plain and str(number) in self._tracks):
                number += 1
            self._tracks[key] = number
        return self._tracks[key]

    def refused(self) -> str | None:
        """Why the whole sheet cannot be meant as it is read: mistakes that every box of a file shares."""
        height, width = self.size
        if self._asked > 4 and self._inverted > MOST_INVERTED * self._asked:
            return LIKE_SIZES
        if self._rows and min(height, width) > 16 and self._widest < 2:
            return LIKE_FRACTIONS
        if self.footage.size is not None and (height, width) != (1, 1):
            own, other = width / height, self.footage.size[1] / self.footage.size[0]
            if abs(own / other - 1) > 0.02:
                words = f"{width}x{height}, the video has {self.footage.size[1]}x{self.footage.size[0]}"
                return f"{OTHER_SIZE} ({words})"
        return None

    def done(self) -> Labelled | None:
        """What was taken; None, with a remark, where all of it must be wrong."""
        why = self.refused()
        if why is not None:
            self.remarks.add(why, self.video, max(1, self._asked))
            return None
        self.remarks.extend(self._found)
        rows = sorted(self._rows, key=lambda row: (row.time, row.track))
        boxes = Boxes(
            time=tuple(row.time for row in rows),
            track=np.array([row.track for row in rows], np.int64),
            cls=tuple(row.cls for row in rows),
            box=np.array([row.box for row in rows], np.float64).reshape(-1, 4),
            visibility=np.array([row.visibility for row in rows], np.float64),
            word=tuple(row.word for row in rows),
            ignore=np.array([row.ignore for row in rows], bool),
        )
        ids = {n: name for name, n in self._tracks.items() if name != str(n) and not name.startswith("\0")}
        size = self.size if self.size != (1, 1) else self.footage.size or (0, 0)
        return Labelled(self.video, boxes, size, tuple(sorted(self._times)), ids, self.labels)
