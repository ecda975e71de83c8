"""The three frames between two, from the interpolation model [§3.3]: first at 15/2 fps, then at 30."""

import torch
from torch import Tensor

from drivesim.rollout.plan import BETWEEN, PASS_FPS, video_frame
from drivesim.rollout.sample import START, NoiseSource, Told, rate_of, sample
from drivesim.rollout.settings import InterpolationConfig
from drivesim.rollout.stack import Stack
from drivesim.scene import Condition

T = BETWEEN + 2
ENDS = [0, T - 1]


class Interpolator:
    """The interpolation model as one pass of the stage ``interpolate`` calls it.

    Args:
        number: of the pass, from 1. Behind it there are ``4 ** number`` frames a key-frame.
        told: to every call.
    """

    def __init__(self, stack: Stack, config: InterpolationConfig, noise: NoiseSource, told: Told, number: int):
        assert stack.interpolation is not None  # the engine plans no pass without
        self.stack, self.model, self.config, self.noise = stack, stack.interpolation, config, noise
        self.told, self.number, self.fps = told, number, PASS_FPS[number - 1]
        self.tokens, self.temporal = told.tokens(stack.tokens, stack.device), told.temporal(stack)
        nothing = stack.null_tokens
        if self.model.whole and self.temporal is not None:
            self.tokens, nothing = self.temporal, stack.null_temporal
        self.denoiser = config.guidance.around(self.model.denoiser, nothing, stack.null_temporal)
        self.sampler, self.levels = config.sampler.build(self.model.denoiser)

    @torch.inference_mode()
    def __call__(self, place: int, ends: Tensor) -> Tensor:
        """``p 3 C h w`` between ``ends`` p 2 C h w, both unscaled; the first gap begins at frame ``place``.

        The network is always called with ``config.batch`` gaps: pixels may depend on it.
        """
        stack, count = self.stack, len(ends)
        gaps = [place + n for n in range(self.config.batch)]
        ends = torch.cat([ends, ends[-1:].expand(self.config.batch - count, *ends.shape[1:])]).to(stack.device)

        def draw(step: int, stage: str = f"interpolation-{self.number}") -> Tensor:
            own = [self.noise(stage, self._frames(gap), step, stack.latent_shape, self.model.shared) for gap in gaps]
            return torch.cat(own).to(stack.device)

        condition = self._condition(ends, draw(START, f"context-{self.number}"))
        condition = self.told.boxed(condition, [self._frames(gap) for gap in gaps], stack)
        x = sample(self.model.denoiser, self.denoiser, self.sampler, self.levels, condition, draw)
        return stack.unwhiten(x[:count, 1:-1]).float()

    def _frames(self, gap: int) -> list[int]:
        """The absolute frames at 30 fps of the five frames from ``gap`` on, which counts those that come in."""
        before, behind = ((BETWEEN + 1) ** number for number in (self.number - 1, self.number))
        first = video_frame(gap, before)
        return [first + video_frame(n, behind) for n in range(T)]

    def _condition(self, ends: Tensor, noise: Tensor) -> Condition:
        stack, level = self.stack, self.config.context_noise
        shown = ends.new_zeros(len(ends), T, *stack.latent_shape)
        shown[:, ENDS] = stack.whiten(ends) + level * noise[:, ENDS]
        mask = ends.new_zeros(len(ends), T)
        mask[:, ENDS] = 1
        return Condition(
            tokens=None if self.tokens is None else self.tokens.expand(len(ends), -1, -1),
            temporal_tokens=None if self.temporal is None else self.temporal.expand(len(ends), -1, -1),
            context=shown,
            context_mask=mask,
            context_level=level * mask,
            given=torch.full((len(ends),), 2, device=ends.device),
            fps=rate_of(self.fps, len(ends), ends.device),
        )
