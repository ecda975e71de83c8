"""Average precision as COCO defines it: precision at 101 levels of recall, over all frames together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drivesim.metrics.matching import ALL, DROPPED, Frame, Range

OVERLAPS = tuple(round(0.5 + 0.05 * n, 2) for n in range(10))  # AP50:95 is the mean over these
LEVELS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class Marks:
    """All detections of one class that count, in the order of their scores, falling.

    Args:
        frame: ``D`` numbers of frames.
        hit: ``D`` bool, whether it is a told box.
        positives: ``F`` counts of the judged boxes of every frame.
    """

    frame: np.ndarray
    hit: np.ndarray
    positives: np.ndarray

    def precision(self, weight: np.ndarray | None = None) -> float | None:
        """Average precision in [0, 1]; None where no box is judged.

        Args:
            weight: ``F``, how many times each frame counts; None = once.
        """
        weight = np.ones(len(self.positives)) if weight is None else weight
        total = float(weight @ self.positives)
        if total <= 0:
            return None
        each = weight[self.frame]
        true, false = np.cumsum(each * self.hit), np.cumsum(each * ~self.hit)
        recall = true / total
        precision = np.divide(true, true + false, out=np.zeros_like(true), where=true + false > 0)
        precision = np.maximum.accumulate(precision[::-1])[::-1]  # the best at this recall or a higher one
        place = np.searchsorted(recall, LEVELS, side="left")
        return float(np.append(precision, 0.0)[place].mean())

    def of(self, frames: np.ndarray) -> "Marks":
        """Those of some frames (``F`` bool), numbered anew in their order."""
        number, inside = np.cumsum(frames) - 1, frames[self.frame]
        return Marks(number[self.frame[inside]], self.hit[inside], self.positives[frames])


def marks(
    frames: Sequence[Frame], cls: str | None, leasts: Sequence[float] = OVERLAPS[:1], within: Range = ALL
) -> list[Marks]:
    """For each overlap of ``leasts`` what becomes of the detections of ``cls``, None = of any class."""
    scores: list[list[np.ndarray]] = [[] for _ in leasts]
    places: list[list[np.ndarray]] = [[] for _ in leasts]
    hits: list[list[np.ndarray]] = [[] for _ in leasts]
    positives = np.zeros(len(frames), np.int64)
    for number, frame in enumerate(frames):
        own = frame.only(cls)
        for n, (found, judged) in enumerate(own.outcomes(leasts, within)):
            positives[number], kept = judged, found != DROPPED
            scores[n].append(own.seen.score[kept])
            places[n].append(np.full(int(kept.sum()), number))
            hits[n].append(found[kept] >= 0)
    made = []
    for n in range(len(leasts)):
        score = np.concatenate([*scores[n], np.empty(0)])
        order = np.argsort(-score, kind="stable")
        place, hit = np.concatenate([*places[n], np.empty(0, int)]), np.concatenate([*hits[n], np.empty(0, bool)])
        made.append(Marks(place[order], hit[order], positives))
    return made


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def over_classes(marks: Mapping[str, Marks], weight: np.ndarray | None = None) -> float | None:
    """The mean over the classes of which a box is judged."""
    return mean(each.precision(weight) for each in marks.values())
