"""Average precision as COCO defines it: precision at 101 levels of recall, over all frames together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drivesim.metrics.matching import ALL, DROPPED, Frame, Range

OVERLAPS = tuple(round(0.5 + 0.05 * n, 2) for n in range(10))  # AP50:95 is the mean over these
LEVELS = np.linspace(0, 1, 101)


HELD = 4 << 20  # numbers that are held at a time


@dataclass(frozen=True, eq=False)
class Marks:
    """The detections of one class that count, in the order of their scores, falling, to the last that is a told box:
    what comes behind it changes no precision.

    Args:
        frame: ``D`` numbers of frames.
        hit: ``D`` bool, whether it is a told box.
        positives: ``F`` counts of the judged boxes of every frame.
    """

    frame: np.ndarray
    hit: np.ndarray
    positives: np.ndarray

    def precision(self) -> float | None:
        """Average precision in [0, 1]; None where no box is judged."""
        return known(self.precisions(np.ones((1, len(self.positives))))[0])

    def precisions(self, weights: np.ndarray) -> np.ndarray:
        """``R`` average precisions, NaN where no box is judged, for ``R F``: how many times each frame counts."""
        count = max(1, HELD // max(1, len(self.hit)))
        parts = [self._precisions(weights[n : n + count]) for n in range(0, len(weights), count)]
        return np.concatenate(parts)

    def _precisions(self, weights: np.ndarray) -> np.ndarray:
        total = weights @ self.positives
        each = weights[:, self.frame]
        true, both = np.cumsum(each * self.hit, 1), np.cumsum(each, 1)
        recall = np.divide(true, total[:, None], out=np.zeros_like(true), where=total[:, None] > 0)
        precision = np.divide(true, both, out=np.zeros_like(true), where=both > 0)
        best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]  # at this recall or a higher one
        best = np.concatenate([best, np.zeros((len(best), 1))], 1)
        places = [np.searchsorted(row, LEVELS, side="left") for row in recall]
        found = np.take_along_axis(best, np.stack(places), 1).mean(1)
        return np.where(total > 0, found, np.nan)

    def of(self, frames: np.ndarray) -> "Marks":
        """Those of some frames (``F`` bool), numbered anew in their order."""
        number, inside = np.cumsum(frames) - 1, frames[self.frame]
        return Marks(number[self.frame[inside]], self.hit[inside], self.positives[frames])


def marks(frames: Sequence[Frame], leasts: Sequence[float] = OVERLAPS[:1], within: Range = ALL) -> list[Marks]:
    """For each overlap of ``leasts`` what becomes of the detections; ``frames`` are of one class, or of all as one."""
    scores: list[list[np.ndarray]] = [[] for _ in leasts]
    places: list[list[np.ndarray]] = [[] for _ in leasts]
    hits: list[list[np.ndarray]] = [[] for _ in leasts]
    positives = np.zeros(len(frames), np.int64)
    for number, frame in enumerate(frames):
        if not len(frame):
            continue
        for n, (found, judged) in enumerate(frame.outcomes(leasts, within)):
            positives[number], kept = judged, found != DROPPED
            scores[n].append(frame.seen.score[kept])
            places[n].append(np.full(int(kept.sum()), number))
            hits[n].append(found[kept] >= 0)
    made = []
    for n in range(len(leasts)):
        score = np.concatenate([*scores[n], np.empty(0)])
        order = np.argsort(-score, kind="stable")
        place, hit = (np.concatenate([*parts[n], np.empty(0, int)])[order] for parts in (places, hits))
        end = int(np.flatnonzero(hit)[-1]) + 1 if hit.any() else 0
        made.append(Marks(place[:end], hit[:end].astype(bool), positives))
    return made


def known(value: float) -> float | None:
    """None for NaN."""
    return None if np.isnan(value) else float(value)


def mean(values: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Of arrays ``R``, element by element, of those that are no NaN; NaN where all are, and where there are none."""
    rows = np.stack([*values, np.full(count, np.nan)])
    there = ~np.isnan(rows)
    return np.divide(np.where(there, rows, 0).sum(0), there.sum(0), out=np.full(count, np.nan), where=there.any(0))


def over_classes(marks: Mapping[str, Marks], weights: np.ndarray) -> np.ndarray:
    """``R`` means over the classes of which a box is judged; see ``Marks.precisions``."""
    return mean([each.precisions(weights) for each in marks.values()], len(weights))
