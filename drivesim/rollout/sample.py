"""What every sampling stage shares: noise by absolute frame, and one run of a sampler."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from einops import rearrange
from torch import Tensor

from drivesim.diffusion.guidance import Guidance
from drivesim.diffusion.known import holding, keeping
from drivesim.diffusion.noise import Levels, shared_noise
from drivesim.diffusion.precondition import Denoiser
from drivesim.diffusion.samplers import Sampler
from drivesim.randomness import normal
from drivesim.rollout.stack import Stack, Tokens
from drivesim.rollout.tracks import Tracks
from drivesim.scene import VIDEO_FPS, Condition, Labels, Level, frame_boxes

START = -1  # the "step" of the noise that a sample starts from; the sampler's own steps count from 0
Draw = Callable[[int], Tensor]  # step -> unit noise
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class NoiseSource:
    """Noise as a function of (seed, scenario, stage, branch, frame at 30 fps, step): windows that overlap share it.

    Args:
        scenario: the scenario's identity. ``branch`` tells futures of one rollout apart.
    """

    seed: int
    scenario: str
    branch: int = 0

    def __call__(self, stage: str, frames: Iterable[int], step: int, shape: Shape, shared: float = 0.0) -> Tensor:
        """Unit noise ``1 T C h w`` on the CPU for the absolute ``frames`` at 30 fps.

        Args:
            shared: correlation between the noise of two frames.
        """
        key = (self.seed, self.scenario, stage, self.branch)
        own = torch.stack([normal((*key, frame, step), shape) for frame in frames])[None]
        if not shared:
            return own
        return shared_noise(normal((*key, "all", step), shape)[None, None], own, shared)


@dataclass(frozen=True)
class Told:
    """What every window is told: the labels, and the boxes of its frames, which None leaves unknown.

    Args:
        temporal_prompt: what temporal layers are told in the place of the labels' prompt; None: the same.
    """

    labels: Labels = field(default_factory=Labels)
    boxes: Tracks | None = None
    temporal_prompt: str | None = None

    def tokens(self, tokens: Tokens | None, device: torch.device) -> Tensor | None:
        """The labels as ``1 L D``, or None for models without labels."""
        if tokens is None:
            return None
        with torch.inference_mode():
            return tokens([self.labels]).to(device)

    def temporal(self, stack: Stack) -> Tensor | None:
        """What temporal layers are told, ``1 L D``; None where that is what the spatial ones are."""
        if stack.temporal_tokens is None or not (stack.apart or self.temporal_prompt is not None):
            return None
        words = self.labels.prompt if self.temporal_prompt is None else self.temporal_prompt
        return Told(Labels(prompt=words)).tokens(stack.temporal_tokens, stack.device)

    def boxed(self, condition: Condition, windows: Sequence[Sequence[int]], stack: Stack) -> Condition:
        """``condition`` with the boxes of B ``windows`` of T frames at 30 fps, for models that take them."""
        if self.boxes is None or stack.boxed is None:
            return condition
        times = [Fraction(frame) / VIDEO_FPS for frames in windows for frame in frames]
        boxes = frame_boxes(self.boxes.identified(sorted(set(times))), times)
        placed = boxes.map(lambda x: rearrange(x, "1 (b t) ... -> b t ...", b=len(windows)).to(stack.device))
        return stack.boxed(placed, stack.latent_shape[1:], condition)


def sample(
    plain: Denoiser,
    guided: Guidance,
    method: Sampler,
    levels: Levels,
    condition: Condition,
    draw: Draw,
    known: Tensor | None = None,
    clean: bool = False,
    held: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``B T C h w`` under ``condition``.

    Args:
        known: ``B g C h w``, the first frames, which come out unchanged. ``clean``: the model has learned to see them
            without noise.
        held: ``B T C h w`` and the cells ``B T 1 h w`` in which it comes out so.
    """
    start = draw(START)
    x = start * plain.schedule.start_scale(levels.sigmas[0]).to(start)

    def denoise(x: Tensor, level: Level) -> Tensor:
        return guided(x, level, condition)

    inner = denoise if held is None else holding(denoise, *held)
    least = plain.schedule.least if clean else None
    made = method(inner if known is None else keeping(inner, known, least), x, levels, draw)
    if (left := float(levels.sigmas[-1])) == 0:
        return made
    return made / plain.schedule.start_scale(left).to(made)  # the noise that is left is in the unit variance, too


def rate_of(fps: Fraction, count: int, device: torch.device) -> Tensor:
    """``B`` frames a second, as a condition tells them."""
    return torch.full((count,), float(fps), device=device)
