"""One window of key-frames from the prediction model, and one start frame from the image model."""

from collections.abc import Callable

import torch
from torch import Tensor

from drivesim.errors import Mistake
from drivesim.rollout.kept import Held
from drivesim.rollout.plan import Window, video_frame
from drivesim.rollout.sample import START, NoiseSource, Told, rate_of, sample
from drivesim.rollout.settings import RolloutConfig
from drivesim.rollout.stack import Stack
from drivesim.scene import KEYFRAME_FPS, Condition


class Predictor:
    """The prediction model as the stage ``keyframes`` calls it.

    Args:
        told: to every window.
        frames: T, those of a window; 0: as many as it was trained on.
        kept: of each window what stays as it is in another run; None: nothing.
    """

    def __init__(
        self,
        stack: Stack,
        config: RolloutConfig,
        noise: NoiseSource,
        told: Told,
        frames: int = 0,
        kept: Callable[[Window], Held] | None = None,
    ):
        self.stack, self.config, self.noise, self.told, self.kept = stack, config, noise, told, kept
        self.frames = frames or stack.frames
        self.tokens, self.temporal = told.tokens(stack.tokens, stack.device), told.temporal(stack)
        self.denoiser = config.guidance.around(stack.keyframes, stack.null_tokens, stack.null_temporal)
        self.sampler, self.levels = config.sampler.build(stack.keyframes)

    @torch.inference_mode()
    def __call__(self, window: Window, context: Tensor) -> Tensor:
        """Key-frames ``T C h w`` of ``window``, unscaled; the first ``window.given`` are ``context``, bit for bit."""
        stack, given = self.stack, window.given
        if context.shape != (given, *stack.latent_shape):
            raise ValueError(
                f"window {window.n} is given {given} frames of {stack.latent_shape}, not {tuple(context.shape)}"
            )
        frames = [video_frame(k) for k in range(window.start, window.start + self.frames)]

        def draw(step: int) -> Tensor:
            return self.noise("keyframes", frames, step, stack.latent_shape, stack.shared).to(stack.device)

        condition = self._condition(frames, context.to(stack.device))
        kept = self.kept(window) if self.kept else None
        held = None if kept is None else (stack.whiten(kept.frames)[None], kept.where[None])
        known = stack.whiten(context.to(stack.device))[None] if stack.known and given else None
        x = sample(
            stack.keyframes, self.denoiser, self.sampler, self.levels, condition, draw, known, stack.known, held
        )[0]
        if stack.usual is not None and self.config.bounds:
            x = stack.usual.bounded(x, self.config.bounds)
        made = stack.unwhiten(x).float()
        if kept is not None:
            made = torch.where(kept.where, kept.frames, made)  # bit for bit
        made[:given] = context
        return made

    def _condition(self, frames: list[int], context: Tensor) -> Condition:
        """What a window is told: the given frames, noised at a level that is told too, labels and boxes."""
        fps = rate_of(KEYFRAME_FPS, 1, self.stack.device)
        if not self.stack.contextual:
            condition = Condition(tokens=self.tokens, temporal_tokens=self.temporal, fps=fps)
            return self.told.boxed(condition, [frames], self.stack)
        stack, given, level = self.stack, len(context), self.config.context_noise
        noise = self.noise("context", frames[:given], START, stack.latent_shape, stack.shared)[0].to(stack.device)
        shown = torch.zeros(1, self.frames, *stack.latent_shape, device=stack.device)
        shown[0, :given] = stack.whiten(context) + level * noise
        mask = (torch.arange(self.frames, device=stack.device) < given).float()[None]
        condition = Condition(
            tokens=self.tokens,
            temporal_tokens=self.temporal,
            context=shown,
            context_mask=mask,
            context_level=level * mask,
            given=torch.tensor([given], device=stack.device),
            fps=fps,
        )
        return self.told.boxed(condition, [frames], stack)


@torch.inference_mode()
def start_frame(stack: Stack, config: RolloutConfig, noise: NoiseSource, told: Told) -> Tensor:
    """Key-frame 0 from the image model: ``1 C h w``, unscaled.

    Raises:
        Mistake: there is no image model.
    """
    if stack.image is None:
        raise Mistake(
            "no image weights to make a start frame with", mend="--opening CLIP@SECOND starts from a real clip"
        )
    denoiser = config.guidance.around(stack.image, stack.null_tokens)
    method, levels = config.start.build(stack.image)

    def draw(step: int) -> Tensor:
        return noise("image", [0], step, stack.latent_shape, stack.shared).to(stack.device)

    condition = told.boxed(Condition(tokens=told.tokens(stack.tokens, stack.device)), [[0]], stack)
    x = sample(stack.image, denoiser, method, levels, condition, draw)
    return stack.unwhiten(x[0]).float()
