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

from drivesim.metrics.detection import Found
from drivesim.scene import Boxes

LEAST = 8.0  # pixels, the root of an area: below it a box is a few latent cells at most, and no detector is sure
VISIBLE = 0.5
MOST = 100  # detections of a frame, the most certain ones, as in COCO
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
    found = np.full(len(shared), FREE)
    if not shared.size or shared.max() < least:
        return found
    left = np.ones(shared.shape[1], bool)
    for row, values in enumerate(shared):
        for kind in (judged, ~judged):
            open_ = kind & left & (values >= least)
            if open_.any():
                place = int(np.argmax(np.where(open_, values, -1.0)))
                left[place] = region[place]
                found[row] = place if judged[place] else DROPPED
                break
    return found


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame: what it was told, and what was found in it."""

    told: Told
    seen: Seen

    def only(self, cls: str | None) -> "Frame":
        """Of one class; "don't care" stays, whatever class it has. None = of all, which are then one."""
        if cls is None:
            return self
        own = np.array([each == cls for each in self.told.cls], bool) | ~self.told.judged
        rows = np.flatnonzero(own)
        part = Told(
            self.told.box[rows],
            tuple(self.told.cls[n] for n in rows),
            self.told.track[rows],
            self.told.judged[rows],
            self.told.region[rows],
        )
        return Frame(part, self.seen.rows([n for n, each in enumerate(self.seen.cls) if each == cls]))

    def outcomes(self, leasts: Sequence[float], within: Range = ALL) -> Iterator[tuple[np.ndarray, int]]:
        """For each overlap of ``leasts`` what every detection is, as of ``matched``, and how many boxes are judged.

        Args:
            within: root of area, in pixels; boxes outside of it are "don't care", detections outside of it that have no
                judged box are dropped.
        """
        size, own = self.told.extent, self.seen.extent
        judged = self.told.judged & (size >= within[0]) & (size < within[1])
        outside = (own < within[0]) | (own >= within[1])
        shared = overlap(self.seen.box, self.told.box, self.told.region)
        for least in leasts:
            found = matched(shared, judged, self.told.region, least)
            found[(found == FREE) & outside] = DROPPED
            yield found, int(judged.sum())
