"""The models of a rollout, ready to be called: what ``jobs`` hands to the engine, which trains and loads nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from drivesim.diffusion.noise import Schedule
from drivesim.diffusion.precondition import Denoiser
from drivesim.scene import Condition, FrameBoxes, Labels

Tokens = Callable[[list[Labels]], Tensor]  # labels to ``B L D``
Boxed = Callable[[FrameBoxes, tuple[int, int], Condition], Condition]
"""A condition with the boxes in it, as models are told them on (h, w) cells."""


@dataclass(frozen=True, eq=False)
class Interpolation:
    """The interpolation model, called with T = 5 on whitened latents.

    Args:
        rates: frames a second that it knows.
        whole: it has spatial layers of its own; what these are told is what temporal layers are.
    """

    denoiser: Denoiser
    rates: tuple[float, ...]
    shared: float = 0.0
    whole: bool = False


@dataclass(frozen=True, eq=False)
class TemporalDecoder:
    """``decode`` B T C h w -> B T 3 H W, for any T; trained on ``frames`` frames at ``fps``."""

    decode: Callable[[Tensor], Tensor]
    frames: int
    fps: Fraction


@dataclass(frozen=True, eq=False)
class LatentSpace:
    """Where an upsampler works that makes no pixels.

    Args:
        f: pixels that a cell is wide; ``channels``: C.
        encode, decode: ``n 3 H W`` in [-1, 1] to whitened mean latents ``n C h w``, and back.
        low: the schedule of the noise on what it is shown, which is as large as its latents are.
    """

    f: int
    channels: int
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    low: Schedule


@dataclass(frozen=True, eq=False)
class Upsampler:
    """The upsampler, a denoiser of pixels in [-1, 1], or of latents.

    Args:
        denoiser: called with T = ``frames``; 1 for the image upsampler alone.
        factor: how many times as high and wide its frames are as what it is shown.
        levels: the largest index of its schedule that its input was noised by in training.
        tokens, null_tokens: as a ``Stack``'s.
        unit: sides of what the network is given are multiples of it.
        shared: share of the noise that all frames have in common, as in training.
        known: how many first frames it has learned to be shown without noise.
        latent: where it works; None: on pixels.
    """

    denoiser: Denoiser
    frames: int
    factor: int
    levels: int
    tokens: Tokens | None
    null_tokens: Tensor | None
    unit: int = 1
    shared: float = 0.0
    known: int = 0
    latent: LatentSpace | None = None


@dataclass(frozen=True, eq=False)
class Usual:
    """Over the frames of a data set: the mean and the deviation, each ``C``, of a frame's own mean and of its own
    deviation over its cells, in whitened latents.

    Args:
        width: the bounds that helped these weights where it was measured; None: it was not.
    """

    mean: tuple[Tensor, Tensor]
    deviation: tuple[Tensor, Tensor]
    width: float | None = None

    def bounded(self, frames: Tensor, width: float) -> Tensor:
        """``T C h w`` whose means and deviations are at most ``width`` deviations from the usual ones; a frame within
        them stays as it is."""
        mean, deviation = frames.mean((-2, -1)), frames.std((-2, -1)).clamp(min=1e-6)
        wanted = _within(mean, self.mean, width)
        scale = _within(deviation, self.deviation, width).clamp(min=0) / deviation
        return (frames - mean[..., None, None]) * scale[..., None, None] + wanted[..., None, None]


def _within(x: Tensor, usual: tuple[Tensor, Tensor], width: float) -> Tensor:
    middle, reach = usual[0], width * usual[1]
    return x.clamp(middle - reach, middle + reach)


@dataclass(frozen=True, eq=False)
class Stack:
    """The models of a rollout, ready to be called; the engine trains and loads nothing.

    Args:
        image: start frames, called with T = 1; None where every opening is a real clip.
        keyframes: the prediction model, called with T = ``frames``. Both work on whitened latents.
        tokens: labels to ``B L D``; None for models without labels.
        null_tokens: ``L D``, the tokens of dropped labels; None: a model is told nothing instead.
        boxed: tells the models of latents boxes; None for models that take none.
        mean, std: ``C``; whitened = (latent - mean) / std.
        encode: ``b 3 H W`` in [-1, 1] to the mean latents ``b C h w``; ``decode`` is its way back.
        frames: T of the prediction model.
        size: ``(H, W)`` of a decoded frame and ``latent_shape`` its ``(C, h, w)``.
        weights: SHA-256 of each weight file, by stage.
        shared: share of the noise that all frames of a window have in common, as in training.
        precision: that the networks compute in, ``32`` or ``bf16``, and whether they are compiled; it decides the bits.
        interpolation, temporal_decoder, upsampler: what follows, where there are weights for it.
        words: the labels that the models are told are words, and no others.
        temporal: the prediction model has temporal layers; without, every key-frame is an image for itself.
        contextual: it sees the frames that it is given; else it makes all from noise, in one window.
        known: it sees them in their places in the window, without noise, and not beside it.
        most_given: frames that it has learned to be given, at most.
        usual: the statistics of frames that it has learned from, where its weights tell them.
        stretches: it makes more frames at once than it was trained on [App. D].
        temporal_tokens, null_temporal: as ``tokens``, of the text encoder that temporal layers were trained with; None
            for models that are told no words. ``apart``: it is another than that of ``tokens``.
    """

    image: Denoiser | None
    keyframes: Denoiser
    tokens: Tokens | None
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
    precision: str = "32"
    interpolation: Interpolation | None = None
    temporal_decoder: TemporalDecoder | None = None
    upsampler: Upsampler | None = None
    boxed: Boxed | None = None
    words: bool = False
    temporal: bool = True
    contextual: bool = True
    known: bool = False
    most_given: int = 2
    usual: Usual | None = None
    stretches: bool = False
    temporal_tokens: Tokens | None = None
    null_temporal: Tensor | None = None
    apart: bool = False

    @property
    def upsampled(self) -> tuple[int, int] | None:
        """``(H, W)`` behind the upsampler."""
        factor = self.upsampler.factor if self.upsampler else 0
        return (self.size[0] * factor, self.size[1] * factor) if factor else None

    def whiten(self, latents: Tensor) -> Tensor:
        """Unscaled ``... C h w`` to zero mean and unit variance per channel."""
        return (latents - self.mean[:, None, None]) / self.std[:, None, None]

    def unwhiten(self, latents: Tensor) -> Tensor:
        return latents * self.std[:, None, None] + self.mean[:, None, None]
