"""What a network must offer so that it can be asked where traffic is in a frame, and what it answers."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


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


@runtime_checkable
class Detector(Protocol):
    """A frozen network from frames to boxes.

    Args:
        name: as it stands in a receipt.
        sha: SHA-256 of its weight file.
        classes: words of ``scene.CLASSES`` that it tells apart; of others it knows nothing.
    """

    name: str
    sha: str
    classes: frozenset[str]

    def __call__(self, frames: np.ndarray) -> list[Found]:
        """uint8 ``T H W 3`` of any size to what it sees in each; doubles are suppressed already."""
        ...
