"""What a network must offer so that video can be scored in its features."""

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@runtime_checkable
class Extractor(Protocol):
    """A frozen network from a clip to a vector.

    Args:
        name: as it stands in a receipt, for example ``builtin-v1``.
        sha: SHA-256 of its weight file.
        size: ``(H, W)`` that it looks at; other sizes are resized by it.
        min_frames: shorter clips are refused.
        dim: ``d``, the length of a feature vector.
    """

    name: str
    sha: str
    size: tuple[int, int]
    min_frames: int
    dim: int

    def __call__(self, video: Tensor) -> Tensor:
        """uint8 ``B T H W 3`` to float32 ``B d`` on the CPU; a clip's vector is its own, whatever is beside it."""
        ...


def check_video(video: Tensor, min_frames: int) -> None:
    """The door of every extractor.

    Raises:
        ValueError: not uint8 ``B T H W 3``, or fewer frames than ``min_frames``.
    """
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[-1] != 3:
        raise ValueError(f"video is uint8 B T H W 3, not {video.dtype} {tuple(video.shape)}")
    if video.shape[1] < min_frames:
        raise ValueError(f"{video.shape[1]} frames, at least {min_frames} are needed")


def extract(extractor: Extractor, clips: Iterable[np.ndarray], batch: int = 8) -> Tensor:
    """Features ``N d`` of clips ``T H W 3`` of one shape, a few at a time, so that memory stays flat."""
    parts = [extractor(torch.from_numpy(np.stack(group))) for group in _groups(clips, batch)]
    return torch.cat(parts) if parts else torch.zeros(0, extractor.dim)


def _groups(clips: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    group: list[np.ndarray] = []
    for clip in clips:
        group.append(clip)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
