"""One window of latents from the prediction model, and one start frame from the image model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

import torch
from torch import Tensor

from drivesim.diffusion.guidance import Guidance, Scale
from drivesim.diffusion.noise import Levels, SamplerName, Spacing, shared_noise
from drivesim.diffusion.precondition import Denoiser
from drivesim.diffusion.samplers import Sampler, sampler
from drivesim.errors import Mistake
from drivesim.randomness import normal
from drivesim.rollout.plan import Window, video_frame
from drivesim.rollout.stages import FillMode, Stack
from drivesim.scene import KEYFRAME_FPS, Condition, Labels

START = -1  # the "step" of the noise that a sample starts from; the sampler's own steps count from 0


@dataclass(frozen=True)
class SamplerConfig:
    """
    Args:
        eta: 0 is deterministic, 1 ancestral; "ddim" alone takes it. The paper predicts with ddim, 200 steps, eta 1.
        spacing: of the levels; "leading" takes ``offset`` (Stable Diffusion's is 1).
    """

    name: SamplerName = "ddim"
    steps: int = 20
    eta: float = 0.0
    spacing: Spacing = "trailing"
    offset: int = 0

    def build(self, denoiser: Denoiser) -> tuple[Sampler, Levels]:
        """The sampler and its levels on ``denoiser``'s schedule; a Mistake where they do not fit."""
        levels = denoiser.schedule.levels(self.steps, self.spacing, self.offset, self.name)
        return sampler(self.name, self.eta), levels


@dataclass(frozen=True)
class GuidanceConfig:
    """Guidance scales; 1 is none. They hold for ``low < sigma <= high``; ``high`` None is no bound.

    Args:
        batched: the branches in one call, which takes more memory.
    """

    context: float = 1.0
    labels: float = 1.0
    low: float = 0.0
    high: float | None = None
    batched: bool = False

    def around(self, denoiser: Denoiser, null_tokens: Tensor | None) -> Guidance:
        high = inf if self.high is None else self.high
        context, labels = Scale(self.context, self.low, high), Scale(self.labels, self.low, high)
        return Guidance(denoiser, context=context, labels=labels, null_tokens=null_tokens, batched=self.batched)


@dataclass(frozen=True)
class RolloutConfig:
    """How a rollout is made; what it shows is the scenario's.

    Args:
        overlap: S, key-frames that a window is given of the one before.
        context_noise: sigma, in whitened latents, of the noise added to what is given; the model is told it. Without it
            a rollout drifts after 20 to 30 windows (GameNGen, arXiv 2408.14837).
        sampler: of the key-frames; ``start``: of a generated start frame.
        fill: what stands between key-frames until the interpolation models exist.
        decode_batch: frames that the decoder is given at once, always as many.
    """

    overlap: int = 2
    context_noise: float = 0.1
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    start: SamplerConfig = field(default_factory=SamplerConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    fill: FillMode = "blend"
    decode_batch: int = 4

    def __post_init__(self) -> None:
        if self.overlap < 1 or self.context_noise < 0 or self.decode_batch < 1:
            raise Mistake("needs overlap >= 1, context_noise >= 0 and decode_batch >= 1", where="settings")


@dataclass(frozen=True)
class NoiseSource:
    """Noise as a function of (seed, scenario, stage, branch, frame at 30 fps, step): windows that overlap share it.

    Args:
        scenario: the scenario's identity. ``branch`` tells futures of one rollout apart.
        shared: correlation between the noise of two frames.
    """

    seed: int
    scenario: str
    branch: int = 0
    shared: float = 0.0

    def __call__(self, stage: str, keyframes: range, step: int, shape: tuple[int, int, int]) -> Tensor:
        """Unit noise ``1 T C h w`` on the CPU for the absolute ``keyframes``."""
        key = (self.seed, self.scenario, stage, self.branch)
        frames = torch.stack([normal((*key, video_frame(k), step), shape) for k in keyframes])[None]
        if not self.shared:
            return frames
        return shared_noise(normal((*key, "all", step), shape)[None, None], frames, self.shared)


class Predictor:
    """The prediction model as the stage ``keyframes`` calls it.

    Args:
        labels: told to every window.
    """

    def __init__(self, stack: Stack, config: RolloutConfig, noise: NoiseSource, labels: Labels):
        self.stack, self.config, self.noise = stack, config, noise
        self.tokens = _tokens(stack, labels)
        self.denoiser = config.guidance.around(stack.keyframes, stack.null_tokens)
        self.sampler, self.levels = config.sampler.build(stack.keyframes)

    @torch.inference_mode()
    def __call__(self, window: Window, context: Tensor) -> Tensor:
        """Key-frames ``T C h w`` of ``window``, unscaled; the first ``window.given`` are ``context``, bit for bit."""
        stack, given = self.stack, window.given
        if context.shape != (given, *stack.latent_shape):
            raise ValueError(
                f"window {window.n} is given {given} frames of {stack.latent_shape}, not {tuple(context.shape)}"
            )
        frames = range(window.start, window.start + stack.frames)
        condition = self._condition(frames, context.to(stack.device))
        draw = _drawing(stack, self.noise, "keyframes", frames)
        x = _sample(stack.keyframes, self.denoiser, self.sampler, self.levels, condition, draw)
        made = stack.unwhiten(x[0]).float()
        made[:given] = context
        return made

    def _condition(self, frames: range, context: Tensor) -> Condition:
        """What a window is told: the given frames, noised at a level that is told too, and the labels."""
        stack, given, level = self.stack, len(context), self.config.context_noise
        noise = self.noise("context", frames[:given], START, stack.latent_shape)[0].to(stack.device)
        shown = torch.zeros(1, stack.frames, *stack.latent_shape, device=stack.device)
        shown[0, :given] = stack.whiten(context) + level * noise
        mask = (torch.arange(stack.frames, device=stack.device) < given).float()[None]
        return Condition(
            tokens=self.tokens,
            context=shown,
            context_mask=mask,
            context_level=level * mask,
            given=torch.tensor([given], device=stack.device),
            fps=torch.tensor([float(KEYFRAME_FPS)], device=stack.device),
        )


@torch.inference_mode()
def start_frame(stack: Stack, config: RolloutConfig, noise: NoiseSource, labels: Labels) -> Tensor:
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
    draw = _drawing(stack, noise, "image", range(1))
    x = _sample(stack.image, denoiser, method, levels, Condition(tokens=_tokens(stack, labels)), draw)
    return stack.unwhiten(x[0]).float()


def _drawing(stack: Stack, noise: NoiseSource, stage: str, frames: range) -> Callable[[int], Tensor]:
    return lambda step: noise(stage, frames, step, stack.latent_shape).to(stack.device)


def _sample(
    plain: Denoiser,
    guided: Guidance,
    method: Sampler,
    levels: Levels,
    condition: Condition,
    draw: Callable[[int], Tensor],
) -> Tensor:
    """Whitened latents ``1 T C h w`` under ``condition``."""
    start = draw(START)
    x = start * plain.schedule.start_scale(levels.sigmas[0]).to(start)
    return method(lambda x, level: guided(x, level, condition), x, levels, draw)


def _tokens(stack: Stack, labels: Labels) -> Tensor | None:
    if stack.tokens is None:
        return None
    with torch.inference_mode():
        return stack.tokens([labels]).to(stack.device)
