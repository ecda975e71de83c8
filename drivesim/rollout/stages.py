"""The stages of a rollout: iterators of chunks to iterators of chunks, pulled one window at a time.

    keyframes -> decode -> fill -> write

So memory is flat, and the first segment can be watched while the last are made. A chunk carries ``state``: what the
stages must remember to go on behind it. Latents between stages are float32, unscaled, and never quantised.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from drivesim.data import video
from drivesim.diffusion.precondition import Denoiser
from drivesim.rollout.plan import Plan, Window
from drivesim.scene import Labels, to_pixels

FillMode = Literal["blend", "repeat"]
State = dict[str, Tensor]
# The presets from "veryfast" on turn on x264's macroblock tree, whose results differ from run to run: in a process with
# a second thread, 1 file in 100 with the x264 of PyAV 18.1, and none in 16,000 without the tree.
PRESET = "superfast"


@dataclass(frozen=True, eq=False)
class Stack:
    """The models of a rollout, ready to be called; the engine trains and loads nothing.

    Args:
        image: start frames, called with T = 1; None where every opening is a real clip.
        keyframes: the prediction model, called with T = ``frames``. Both work on whitened latents.
        tokens: labels to ``B L D``; None for models without labels.
        null_tokens: ``L D``, the tokens of dropped labels; None: a model is told nothing instead.
        mean, std: ``C``; whitened = (latent - mean) / std.
        encode: ``b 3 H W`` in [-1, 1] to the mean latents ``b C h w``; ``decode`` is its way back.
        frames: T of the prediction model.
        size: ``(H, W)`` of a frame and ``latent_shape`` its ``(C, h, w)``.
        weights: SHA-256 of each weight file, by stage.
        shared: share of the noise that all frames of a window have in common, as in training.
    """

    image: Denoiser | None
    keyframes: Denoiser
    tokens: Callable[[list[Labels]], Tensor] | None
    null_tokens: Tensor | None
    mean: Tensor
    std: Tensor
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    frames: int
    size: tuple[int, int]
    latent_shape: tuple[int, int, int]
    weights: dict[str, str]
    device: torch.device
    shared: float = 0.0

    def whiten(self, latents: Tensor) -> Tensor:
        """Unscaled ``... C h w`` to zero mean and unit variance per channel."""
        return (latents - self.mean[:, None, None]) / self.std[:, None, None]

    def unwhiten(self, latents: Tensor) -> Tensor:
        return latents * self.std[:, None, None] + self.mean[:, None, None]


@dataclass(frozen=True, eq=False)
class LatentChunk:
    """The key-frames ``[window.first, window.last)`` as latents, ``n C h w``."""

    window: Window
    latents: Tensor
    state: State


@dataclass(frozen=True, eq=False)
class FrameChunk:
    """Frames ``n 3 H W`` in about [-1, 1], in the order of the output.

    Args:
        kinds: what each frame is: ``key``, ``blended`` or ``repeated``.
    """

    window: Window
    frames: Tensor
    kinds: tuple[str, ...]
    state: State

    def __post_init__(self) -> None:
        if len(self.kinds) != len(self.frames):
            raise ValueError(f"{len(self.frames)} frames, {len(self.kinds)} kinds")


@dataclass(frozen=True, eq=False)
class Segment:
    """A written segment: a video file of ``frames`` frames that plays alone."""

    window: Window
    file: Path
    kinds: tuple[str, ...]
    state: State


def keyframes(
    plan: Plan, predict: Callable[[Window, Tensor], Tensor], context: Tensor, begin: int = 0
) -> Iterator[LatentChunk]:
    """Chains prediction windows by their latents, from window ``begin`` on.

    Args:
        predict: the key-frames ``T C h w`` of a window, its given ones first and unchanged.
        context: ``g C h w``, the given key-frames of window ``begin``.
    """
    for window in plan.windows(begin):
        made = predict(window, context[-window.given :])
        kept = made[: window.last - window.start]
        context = kept[-plan.overlap :].clone()  # a copy: the window itself can be freed
        yield LatentChunk(window, kept[window.first - window.start :], {"latents": context})


def decode(chunks: Iterable[LatentChunk], decoder: Callable[[Tensor], Tensor], batch: int = 4) -> Iterator[FrameChunk]:
    """Every key-frame by itself, ``batch`` at a time. The last batch is filled up: pixels may depend on its size."""
    for chunk in chunks:
        with torch.inference_mode():  # left before the yield: the caller's own mode is not ours to change
            frames = torch.cat([_decode_padded(part, decoder, batch) for part in chunk.latents.split(batch)])
        yield FrameChunk(chunk.window, frames, ("key",) * len(frames), chunk.state)


def _decode_padded(part: Tensor, decoder: Callable[[Tensor], Tensor], batch: int) -> Tensor:
    padding = part[-1:].expand(batch - len(part), -1, -1, -1)
    return decoder(torch.cat([part, padding]))[: len(part)].float()


def fill(
    chunks: Iterable[FrameChunk], factor: int, mode: FillMode = "blend", last: Tensor | None = None
) -> Iterator[FrameChunk]:
    """Fills the ``factor - 1`` frames between key-frames, in pixel space, until the interpolation models exist.

    ``blend`` goes linearly from one key-frame to the next, ``repeat`` holds the former.

    Args:
        last: ``3 H W``, the key-frame before the first chunk; None where the output starts with it.
    """
    for chunk in chunks:
        frames: list[Tensor] = []
        kinds: list[str] = []
        for key in chunk.frames:
            if last is not None:
                between = [step / factor for step in range(1, factor)]
                frames += [last if mode == "repeat" else torch.lerp(last, key, share) for share in between]
                kinds += ["repeated" if mode == "repeat" else "blended"] * len(between)
            frames.append(key)
            kinds.append("key")
            last = key
        last = chunk.frames[-1].clone()  # a copy: the chunk itself can be freed
        yield FrameChunk(chunk.window, torch.stack(frames), tuple(kinds), {**chunk.state, "pixels": last})


def write(
    chunks: Iterable[FrameChunk], file: Callable[[int], Path], size: tuple[int, int], fps: Fraction
) -> Iterator[Segment]:
    """A video file per window, at ``file(n)``, each with an encoder of its own; a file is there when it is whole."""
    for chunk in chunks:
        target = file(chunk.window.n)
        with video.Writer(target, size, fps, preset=PRESET) as writer:
            for part in chunk.frames.split(16):
                writer.write(to_pixels(part))
        yield Segment(chunk.window, target, chunk.kinds, chunk.state)
