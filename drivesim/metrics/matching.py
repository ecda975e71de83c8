"""Which detections of a frame are which of the boxes that it was told, and which of both are judged at all.

The rules are those of COCO (Lin et al. 2014, as in its published evaluation code). A told box is judged from ``LEAST``
pixels on (the root of its area, at the video's size), where at least ``VISIBLE`` of it is seen (unknown passes for
seen), and where the detector knows its class. Any other box is "don't care": it is not missing when nothing is found
there, and a detection that has no judged box but overlaps it is dropped. In an ignored region any number of detections
is dropped, and what counts is the share of the detection that lies in the region. A detection smaller than ``LEAST``
that has no judged box is dropped as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from drivesim.metrics.detection import MOST, Found
from drivesim.scene import Boxes

LEAST = 8.0  # pixels, the root of an area: below it a box is a few latent cells at most, and no detector is sure
VISIBLE = 0.5
SIZES = {"small": (LEAST, 16.0), "middle": (16.0, 32.0), "large": (32.0, float("inf"))}  # pixels, from and below
ALL = (LEAST, float("inf"))

Size = tuple[int, int]
Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Told:
    """The boxes of one frame that its video is held against.

    Args:
        box: ``N 4`` float, ``x0 y0 x1 y1`` in pixels.
        cls: ``N`` words of ``scene.CLASSES``.
        track: ``N`` ids, persistent over the video.
        judged: ``N`` bool; the others are "don't care" for every class.
        region: ``N`` bool, ignored regions; none of them is judged.
    """

    box: np.ndarray
    cls: tuple[str, ...]
    track: np.ndarray
    judged: np.ndarray
    region: np.ndarray

    def __len__(self) -> int:
        return len(self.cls)

    @property
    def extent(self) -> np.ndarray:
        """``N`` roots of areas, in pixels."""
        return extent(self.box)


@dataclass(frozen=True, eq=False)
class Seen:
    """What was found in one frame, most certain first: as ``Found``, in pixels."""

    box: np.ndarray
    cls: tuple[str, ...]
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.cls)

    @property
    def extent(self) -> np.ndarray:
        """``N`` roots of areas, in pixels."""
        return extent(self.box)

    def rows(self, which: Sequence[int] | np.ndarray) -> "Seen":
        """The rows of these numbers, in their order."""
        places = np.asarray(which, np.int64)
        return Seen(self.box[places], tuple(self.cls[n] for n in places), self.score[places])


def told(boxes: Boxes, size: Size, classes: frozenset[str]) -> Told:
    """The boxes of one moment in a frame of ``size`` (height, width) for a detector that knows ``classes``."""
    box = boxes.box * _scale(size)
    seen = np.isnan(boxes.visibility) | (boxes.visibility >= VISIBLE)
    known = np.array([cls in classes for cls in boxes.cls], bool)
    judged = ~boxes.ignored & seen & known & (extent(box) >= LEAST)
    return Told(box, boxes.cls, boxes.track, judged, boxes.ignored)


def seen(found: Found, size: Size) -> Seen:
    """Detections in a frame of ``size`` (height, width), the ``MOST`` most certain ones."""
    order = np.argsort(-found.score, kind="stable")[:MOST]
    return Seen(found.box * _scale(size), found.cls, found.score).rows(order)


def _scale(size: Size) -> np.ndarray:
    return np.array([size[1], size[0]] * 2, np.float64)


def extent(box: np.ndarray) -> np.ndarray:
    """The root of the area of ``N 4`` boxes."""
    return np.sqrt(np.prod(np.clip(box[:, 2:] - box[:, :2], 0, None), axis=1))


def overlap(one: np.ndarray, other: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union of every box ``D 4`` with every other ``N 4``: ``D N``. Of those that are a ``region``
    (``N`` bool), intersection over the first box's area instead."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    own, its = extent(one)[:, None] ** 2, extent(other)[None] ** 2
    union = own + its - shared
    if region is not None:
        union = np.where(region[None], own, union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


DROPPED, FREE = -2, -1


def matched(shared: np.ndarray, judged: np.ndarray, region: np.ndarray, least: float) -> np.ndarray:
    """What each detection is, most certain first: the place of a told box, ``FREE``, or ``DROPPED`` for a "don't care".

    Each takes the box that it overlaps most of those not taken yet, judged ones before others; a region is never taken.

    Args:
        shared: ``D N``, as of ``overlap``.
        judged, region: ``N`` bool.
        least: overlap from which on a detection is of a box.
    """
    found, taken = np.full(len(shared), FREE), set[int]()
    pairs = np.argwhere(shared >= least)  # few, and in the order of the detections
    best: dict[int, tuple[bool, float, int]] = {}
    for (row, place), value in zip(pairs.tolist(), shared[tuple(pairs.T)].tolist(), strict=True):
        _settle(best, row, found, taken, region)
        choice = bool(judged[place]), value, place
        if place not in taken and (row not in best or choice[:2] > best[row][:2]):
            best[row] = choice
    _settle(best, -1, found, taken, region)
    return found


def _settle(
    best: dict[int, tuple[bool, float, int]], row: int, found: np.ndarray, taken: set[int], region: np.ndarray
) -> None:
    """The detection before ``row`` takes what is best for it."""
    for before in [each for each in best if each != row]:
        judged, _, place = best.pop(before)
        found[before] = place if judged else DROPPED
        if not region[place]:
            taken.add(place)


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame: what it was told, what was found in it, and how they overlap, ``D N``."""

    told: Told
    seen: Seen
    shared: np.ndarray

    @classmethod
    def of(cls, told: Told, seen: Seen) -> "Frame":
        return cls(told, seen, overlap(seen.box, told.box, told.region))

    def __len__(self) -> int:
        """Of all that could count; a frame of length 0 changes no number but that of frames."""
        return len(self.seen) + int(self.told.judged.sum())

    def only(self, cls: str | None) -> "Frame":
        """Of one class; "don't care" stays, whatever class it has. None = of all, which are then one."""
        if cls is None:
            return self
        rows = np.flatnonzero(
            [each == cls or not own for each, own in zip(self.told.cls, self.told.judged, strict=True)]
        )
        part = Told(
            self.told.box[rows],
            tuple(self.told.cls[n] for n in rows),
            self.told.track[rows],
            self.told.judged[rows],
            self.told.region[rows],
        )
        places = np.flatnonzero(np.array([each == cls for each in self.seen.cls], bool))
        return Frame(part, self.seen.rows(places), self.shared[np.ix_(places, rows)])

    def sure(self, least: float) -> "Frame":
        """With the detections of at least that score."""
        places = np.flatnonzero(self.seen.score >= least)
        return Frame(self.told, self.seen.rows(places), self.shared[places])

    def outcomes(self, leasts: Sequence[float], within: Range = ALL) -> Iterator[tuple[np.ndarray, int]]:
        """For each overlap of ``leasts`` what every detection is, as of ``matched``, and how many boxes are judged.

        Args:
            within: root of area, in pixels; boxes outside of it are "don't care", detections outside of it that have no
                judged box are dropped.
        """
        size, own = self.told.extent, self.seen.extent
        judged = self.told.judged & (size >= within[0]) & (size < within[1])
        outside = (own < within[0]) | (own >= within[1])
        for least in leasts:
            found = matched(self.shared, judged, self.told.region, least)
            found[(found == FREE) & outside] = DROPPED
            yield found, int(judged.sum())
