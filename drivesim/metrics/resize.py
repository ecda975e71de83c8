"""From the frames of a video to what an extractor looks at: the resizings of the FVD protocols, each by its name.

All take uint8 ``T H W 3``, every frame on its own, and give float32 ``T h w 3`` in 0..255. Which protocol takes which
stands in ``protocols.py``; how far apart they are, in docs/evaluation.md.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

SIZE = 224  # I3D's and VideoMAE's input
CDFVD_SIZE = 256  # cd-fvd's default resolution, before its own resize to 224

Resize = Callable[[np.ndarray], np.ndarray]


def tf1(frames: np.ndarray, size: int = SIZE) -> np.ndarray:
    """TensorFlow 1's ``resize_bilinear`` to a square: aspect ignored, no antialiasing, no half-pixel offset.

    The source of an output pixel ``i`` is ``i * in / out``, and the last row or column stands in for what is past it;
    in float32, columns before rows, as the kernel does [tensorflow/core/kernels/image/resize_bilinear_op.cc].
    """
    (top, bottom, down), (left, right, across) = (_tf1_axis(n, size) for n in frames.shape[1:3])
    across = across[:, None]

    def row(chosen: np.ndarray) -> np.ndarray:
        near, far = frames[:, chosen][:, :, left].astype(np.float32), frames[:, chosen][:, :, right].astype(np.float32)
        return near + (far - near) * across

    upper, lower = row(top), row(bottom)
    return upper + (lower - upper) * down[:, None, None]


def _tf1_axis(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output cell: the two source cells and the weight of the second."""
    source = np.arange(size, dtype=np.float32) * np.float32(length / size)
    first = source.astype(np.int64)
    return first, np.minimum(first + 1, length - 1), source - first.astype(np.float32)


def bilinear(frames: np.ndarray) -> np.ndarray:
    """Half-pixel bilinear to 224x224, aspect ignored, no antialiasing: torch's ``interpolate``, StyleGAN-V's custom."""
    return _each(frames, (SIZE, SIZE))


def short_side_crop(frames: np.ndarray) -> np.ndarray:
    """Short side to 224, half-pixel bilinear without antialiasing, then the central 224x224 [MCVD, VideoGPT]."""
    height, width = _short_side(frames.shape[1:3], SIZE)
    return _centre(_each(frames, (height, width)), SIZE)


def cdfvd(frames: np.ndarray) -> np.ndarray:
    """cd-fvd's chain: short side to 256 with antialiasing, centre crop, fractions cut off, half-pixel bilinear to 224.

    Its antialiasing is torch's (a triangle as wide as the step), which OpenCV does not have, and works in 0..1, where
    a level may come out a hair lower and be cut off: so do we, to the last bit. A frame at a time stays in the
    processor's cache, in less than half of the time.
    """
    size = _short_side(frames.shape[1:3], CDFVD_SIZE)
    levels = np.empty((len(frames), CDFVD_SIZE, CDFVD_SIZE, 3), np.uint8)
    for frame, into in zip(frames, levels, strict=True):
        x = rearrange(torch.from_numpy(frame), "h w c -> 1 c h w").float() / 255
        x = F.interpolate(x, size, mode="bilinear", antialias=True)
        into[:] = _centre((rearrange(x, "1 c h w -> 1 h w c") * 255).byte().numpy(), CDFVD_SIZE)[0]
    return _each(levels, (SIZE, SIZE))


RESIZES: dict[str, Resize] = {
    "tf1": tf1, "bilinear": bilinear, "short-side-crop": short_side_crop, "cdfvd": cdfvd,
}  # fmt: skip


def _each(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Every frame by OpenCV in float32: its bilinear is half-pixel and without antialiasing, as torch's, and faster."""
    resized = np.empty((len(frames), *size, 3), np.float32)
    for frame, into in zip(frames, resized, strict=True):
        cv2.resize(frame.astype(np.float32), (size[1], size[0]), into, interpolation=cv2.INTER_LINEAR)
    return resized


def _short_side(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """``(H, W)`` whose smaller is ``size``; the other is rounded up, as the protocols do."""
    height, width = shape
    scale = size / min(height, width)
    return (size, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), size)


def _centre(frames: np.ndarray, size: int) -> np.ndarray:
    top, left = (frames.shape[1] - size) // 2, (frames.shape[2] - size) // 2
    return frames[:, top : top + size, left : left + size]
