"""What a network must offer so that it can be asked where traffic is in a frame, and what it answers."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

MOST = 100  # detections of a frame, the most certain ones, as in COCO


@dataclass(frozen=True, eq=False)
class Found:
    """What a detector sees in one frame, most certain first.

    Args:
        box: ``N 4`` float, ``x0 y0 x1 y1`` as fractions of width and height.
        cls: ``N`` words of ``scene.CLASSES``.
        score: ``N`` float in [0, 1], falling.
    """

    box: np.ndarray
    cls: tuple[str, ...]
    score: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.cls)
        if self.box.shape != (n, 4) or self.score.shape != (n,):
            raise ValueError(f"detections disagree: {n} classes, {self.box.shape} boxes, {self.score.shape} scores")

    def __len__(self) -> int:
        return len(self.cls)


def distinct(box: np.ndarray, kind: np.ndarray, score: np.ndarray, least: float, same: float) -> np.ndarray:
    """Non-maximum suppression: the rows that stay, most certain first, at most ``MOST``.

    Args:
        box: ``N 4``, corners; ``kind``: ``N`` whole numbers; ``score``: ``N``.
        least: score below which nothing stays.
        same: overlap from which on two boxes of a kind are one thing.
    """
    corner_and_size = np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], 1)
    kept = cv2.dnn.NMSBoxesBatched(corner_and_size.tolist(), score.tolist(), kind.tolist(), least, same)
    rows = np.sort(np.asarray(kept, np.int64).reshape(-1))
    return rows[np.argsort(-score[rows], kind="stable")][:MOST]


@runtime_checkable
class Detector(Protocol):
    """A frozen network from frames to boxes.

    Args:
        name: as it stands in a receipt.
        sha: SHA-256 of its weight file.
        classes: words of ``scene.CLASSES`` that it tells apart; of others it knows nothing.
        threshold: score from which a box counts as found, where one score must do.
    """

    name: str
    sha: str
    classes: frozenset[str]
    threshold: float

    def __call__(self, frames: np.ndarray) -> list[Found]:
        """uint8 ``T H W 3`` of any size to what it sees in each; doubles are suppressed already."""
        ...
