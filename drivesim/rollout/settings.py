"""How a rollout is made, stage by stage; what it shows is the scenario's."""

from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal

from torch import Tensor

from drivesim.diffusion.guidance import Denoise, Guidance, Scale
from drivesim.diffusion.noise import End, Levels, SamplerName, Spacing
from drivesim.diffusion.precondition import Denoiser
from drivesim.diffusion.samplers import Sampler, sampler
from drivesim.errors import Mistake

STEPS, STEPS_BETWEEN = 20, 10  # of samplers, where neither the user nor the weights say
FillMode = Literal["blend", "repeat"]


@dataclass(frozen=True)
class SamplerConfig:
    """
    Args:
        steps: None for those that the model was distilled to, which takes no others, or else 20; between frames 10.
        eta: 0 is deterministic, 1 ancestral; "ddim" alone takes it. The paper predicts with ddim, 200 steps, eta 1.
        spacing: of the levels; "leading" takes ``offset`` (Stable Diffusion's is 1).
        end: of the last step, no noise at all or the ``first`` level of the schedule, as Stable Diffusion's scheduler
            has it.
    """

    name: SamplerName = "ddim"
    steps: int | None = None
    eta: float = 0.0
    spacing: Spacing = "trailing"
    offset: int = 0
    end: End = "zero"

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise Mistake(f"{self.steps} steps are not enough", field="steps", mend="take at least 1")

    def build(self, denoiser: Denoiser) -> tuple[Sampler, Levels]:
        """The sampler and its levels on ``denoiser``'s schedule; a Mistake where they do not fit."""
        steps = self.steps or denoiser.steps or STEPS
        levels = denoiser.schedule.levels(steps, self.spacing, self.offset, self.name, self.end)
        return sampler(self.name, self.eta), levels

    def settled(self, denoiser: Denoiser | None, field: str, usual: int = STEPS) -> "SamplerConfig":
        """With a number of steps, for ``denoiser``; None: there is no such model.

        Raises:
            Mistake: a distilled model, and another sampler than it was taught.
        """
        if denoiser is None or (taught := denoiser.steps) is None:
            return replace(self, steps=self.steps or usual)
        edm = denoiser.schedule.config.kind == "edm"
        own = SamplerConfig(steps=taught, spacing="karras" if edm else "trailing")
        asked = replace(self, steps=self.steps or taught, offset=0, spacing=own.spacing if edm else self.spacing)
        if asked != own:
            what = f"these weights were distilled to {taught} steps of ddim, and know no other sampler"
            raise Mistake(what, field=field, mend=f"leave {field} out, or take the weights that they were taught by")
        return own


@dataclass(frozen=True)
class GuidanceConfig:
    """Guidance scales; 1 is none. They hold for ``low < sigma <= high``; ``high`` None is no bound.

    Args:
        batched: the branches in one call, which takes more memory.
    """

    context: float = 1.0
    labels: float = 1.0
    boxes: float = 1.0
    low: float = 0.0
    high: float | None = None
    batched: bool = False

    def around(self, denoiser: Denoise, null_tokens: Tensor | None, null_temporal: Tensor | None = None) -> Guidance:
        high = inf if self.high is None else self.high
        context, labels, boxes = (Scale(value, self.low, high) for value in (self.context, self.labels, self.boxes))
        return Guidance(
            denoiser, context=context, labels=labels, boxes=boxes, null_tokens=null_tokens,
            null_temporal=null_temporal, batched=self.batched,
        )  # fmt: skip


@dataclass(frozen=True)
class InterpolationConfig:
    """
    Args:
        sampler: the paper takes ddim, 50 steps, eta 0, and a guidance of 2 by the ends.
        context_noise: sigma of the noise added to both ends, which the model is told.
        batch: gaps that are interpolated at once, always as many.
    """

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    context_noise: float = 0.0
    batch: int = 1

    def __post_init__(self) -> None:
        if self.context_noise < 0 or self.batch < 1:
            raise Mistake("needs context_noise >= 0 and batch >= 1", field="interpolation")


@dataclass(frozen=True)
class DecodeConfig:
    """
    Args:
        batch: frames that the image decoder is given at once, always as many.
        frames: length of a piece for the decoder with temporal layers, which decodes at its own rate alone.
        overlap: frames that a piece shares with the one before; over them one fades into the other.
    """

    batch: int = 4
    frames: int = 12
    overlap: int = 4

    def __post_init__(self) -> None:
        if self.batch < 1 or not 0 <= self.overlap <= self.frames // 2 or self.frames < 1:
            raise Mistake("needs batch >= 1, frames >= 1, and an overlap of at most half of them", field="decode")


@dataclass(frozen=True)
class UpsampleConfig:
    """
    Args:
        sampler: the paper takes ddim, 50 steps, eta 1.
        noise: index in the upsampler's schedule of the noise added to its input; None for three fifths of the largest
            that it learned from: 150 of 250, the paper's for driving.
            An upscaler of latents takes 30, the paper's for text.
        overlap: frames that neighbouring windows share, where one fades into the other *(open in the paper)*.
        tile: height and width that the network is given at once; None for whole frames.
        tile_overlap: pixels that tiles share at least.
        guidance: by labels or words; the paper's text-to-video takes ddim, 250 steps, eta 1, and labels 2.
    """

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    noise: int | None = None
    overlap: int = 2
    tile: tuple[int, int] | None = None
    tile_overlap: int = 64

    def __post_init__(self) -> None:
        if min(self.noise or 0, self.overlap, self.tile_overlap) < 0:
            raise Mistake("needs noise, overlap and tile_overlap >= 0", field="upsample")
        if self.tile is not None and min(self.tile) <= self.tile_overlap:
            height, width = self.tile
            mend = f"upsample.tile_overlap={min(self.tile) // 4}"
            raise Mistake(f"tiles of {height}x{width} cannot share {self.tile_overlap}", field="upsample", mend=mend)


@dataclass(frozen=True)
class RolloutConfig:
    """
    Args:
        overlap: S, key-frames that a window is given of the one before.
        context_noise: sigma, in whitened latents, of the noise added to what is given; the model is told it. Without it
            a rollout drifts after 20 to 30 windows (GameNGen, arXiv 2408.14837). 0 for weights that see given frames in
            the window itself (``context.clean``).
        bounds: every key-frame's mean and contrast, by channel of its latents, are kept within so many deviations of
            those of the footage that the model learned from; 3 lets ordinary frames pass, 0 is none. None: what the
            weights say, or none.
        sampler: of the key-frames; ``start``: of a generated start frame.
        states: what windows leave to the next is kept, ``all`` of it, so that a branch may part anywhere, or the
            ``newest`` two, which resuming needs.
        fill: what stands between the frames that models make, where there is no interpolation model for it.
    """

    overlap: int = 2
    context_noise: float = 0.1
    bounds: float | None = None
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    start: SamplerConfig = field(default_factory=SamplerConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    states: Literal["all", "newest"] = "all"
    fill: FillMode = "blend"
    interpolation: InterpolationConfig = field(default_factory=InterpolationConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    upsample: UpsampleConfig = field(default_factory=UpsampleConfig)

    def __post_init__(self) -> None:
        if self.overlap < 1 or self.context_noise < 0:
            field = "overlap" if self.overlap < 1 else "context_noise"
            raise Mistake("needs overlap >= 1 and context_noise >= 0", field=field)
        if self.bounds is not None and self.bounds < 0:
            raise Mistake("is above 0, 0 for none, or null: as the weights say", field="bounds")
