"""What a network must offer so that video can be scored in its features."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@runtime_checkable
class Extractor(Protocol):
    """A frozen network from a clip to a vector, in two steps: frames are prepared as they are read, each on its own,
    and prepared clips go through the network in batches.

    Args:
        name: as it stands in a receipt, for example ``builtin-v1``.
        sha: SHA-256 of its weight file.
        size: ``(h, w)`` that it looks at.
        min_frames: shorter clips are refused.
        dim: ``d``, the length of a feature vector.
    """

    name: str
    sha: str
    size: tuple[int, int]
    min_frames: int
    dim: int

    def prepare(self, frames: np.ndarray) -> np.ndarray:
        """uint8 ``T H W 3`` to what the network takes: ``T h w 3``, uint8 or float32, in 0..255."""
        ...

    def __call__(self, prepared: Tensor) -> Tensor:
        """``B T h w 3`` as prepared to float32 ``B d`` on the CPU; a clip's vector is its own, whatever is beside."""
        ...


def check_prepared(prepared: Tensor, min_frames: int, size: tuple[int, int]) -> None:
    """The door of every extractor.

    Raises:
        ValueError: not ``B T h w 3`` of ``size``, or fewer frames than ``min_frames``.
    """
    if prepared.ndim != 5 or prepared.shape[2:] != (*size, 3):
        raise ValueError(f"prepared clips are B T {size[0]} {size[1]} 3, not {tuple(prepared.shape)}")
    if prepared.shape[1] < min_frames:
        raise ValueError(f"{prepared.shape[1]} frames, at least {min_frames} are needed")


def prepared_clips(extractor: Extractor, video: np.ndarray | Tensor) -> Tensor:
    """uint8 ``B T H W 3`` to ``B T h w 3`` as ``extractor`` takes it.

    Raises:
        ValueError: not uint8 ``B T H W 3``.
    """
    video = torch.as_tensor(video)
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[-1] != 3:
        raise ValueError(f"video is uint8 B T H W 3, not {video.dtype} {tuple(video.shape)}")
    return torch.stack([torch.from_numpy(extractor.prepare(clip)) for clip in video.cpu().numpy()])
