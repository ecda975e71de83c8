"""Stages ``upsampler`` and ``upsampler-temporal``: diffusion on pixels, or on latents, from an index of clips."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drivesim import config, disk, weights
from drivesim.data.loader import ClipData
from drivesim.diffusion.distill import DistillConfig
from drivesim.diffusion.loss import LossConfig
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.errors import Mistake
from drivesim.jobs import stack, upscaler
from drivesim.jobs.builders.common import Built, given, latents_of, rate_of, weights_of
from drivesim.models.temporal import TemporalConfig
from drivesim.models.text import TextEncoder
from drivesim.models.unet import UNetConfig
from drivesim.models.video import ImageModel, interface
from drivesim.training.diffusion import Conditions, Latents
from drivesim.training.loop import LoopConfig
from drivesim.training.upsampler import LowConfig, UpsamplerStage, UpsamplerTemporalStage

PAPER = UNetConfig(  # [Table 6]; the noise of the low-resolution frames told by a table, as in SD's x4 upscaler
    channels=(160, 320, 640, 640),
    blocks=2,
    attention=(False, False, False, True),
    heads=4,
    cross=768,
    in_channels=6,
    out_channels=3,
    joined=("low",),
    classes=1000,
)
PAPER_TEMPORAL = TemporalConfig(frames=8, depth=4, heads=4, cross=768, context="low")


@dataclass(frozen=True)
class UpsamplerRun:
    """Args:
    index: folder that ``drivesim index`` wrote; clips with smaller frames than ``size`` are left out.
    init: weights of this stage, of the same shapes, that training begins with; none named is random ones.
    autoencoder: weights called ``upsampler-autoencoder.safetensors``, of f = ``factor``: its latents are enlarged, not
        pixels. The text encoder of a model that is told words, ``upsampler-text``, lies beside them.
    size: height and width of the high-resolution frames; their clips should be at least as large.
    crop: height and width of the part of them that a step sees; the model is then run on whole frames.
    fps: rate at which single frames are taken from the clips.
    factor: how many times smaller the low-resolution frames are.
    low_levels: the highest index of their noise, see ``LowConfig``.
    low_schedule: of that noise; null for the model's own.
    distill: with a teacher: in few steps what that reaches in more.
    """

    index: str = ""
    init: str = ""
    autoencoder: str = ""
    size: tuple[int, int] = (512, 1024)
    crop: tuple[int, int] = (256, 256)
    fps: str | int | float = "1"
    factor: int = 4
    low_levels: int = 250
    low_schedule: ScheduleConfig | None = None
    label_drop: float = 0.1
    model: UNetConfig = PAPER
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(beta_start=1e-4, beta_end=2e-2, betas="linear")
    )
    distill: DistillConfig = field(default_factory=DistillConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        own, schedule = self.model, self.low_schedule or self.schedule
        if self.autoencoder:
            if own.joined != ("low",) or own.in_channels != own.out_channels + 3:
                mend = f"model.in_channels={own.out_channels + 3} model.joined=[low]"
                raise Mistake("enlarges latents beside the low-resolution frames", field="model", mend=mend)
        elif (own.in_channels, own.out_channels, own.joined) != (6, 3, ("low",)):
            mend = "model.in_channels=6 model.out_channels=3 model.joined=[low]"
            raise Mistake("enlarges pixels beside the low-resolution frames", field="model", mend=mend)
        if own.text and not self.autoencoder:
            mend = "autoencoder=W/upsampler-autoencoder.safetensors, with upsampler-text beside it"
            raise Mistake("a model that is told words is one of latents here", field="model.text", mend=mend)
        if schedule.kind != "discrete" or not self.low_levels < min(own.classes, schedule.steps):
            what = f"low_levels {self.low_levels} is an index of the schedule, and the model has a row for each"
            mend = f"a discrete schedule of more steps, and model.classes={self.low_levels + 1} or more"
            raise Mistake(what, field="low_levels", mend=mend)
        LowConfig(self.factor, self.low_levels)  # what it refuses is refused here
        _check(self.size, self.crop, self.factor, own.patch * (self.factor if self.autoencoder else 1))
        rate_of(self.fps)


@dataclass(frozen=True)
class UpsamplerTemporalRun:
    """Args:
    index: folder that ``drivesim index`` wrote; clips with smaller frames than ``size`` are left out.
    init: weights of this stage, of the same shapes, that training begins with; none named is random ones.
    upsampler: weights of the image upsampler; its schedule and its low-resolution frames are taken over. Where it
        enlarges latents, its autoencoder and text encoder lie beside it.
    size: as of the image upsampler; null for the size that it was trained at.
    crop: height and width of the part of the frames that a step sees.
    fps: of the ``temporal.frames`` consecutive frames of a window, that of the rollout's video.
    known: probabilities of 0, 1, ... first frames that are shown as they are, without noise and loss *(open in the
        paper)*: a rollout from a real opening knows one.
    distill: with a teacher: in few steps what that reaches in more.
    """

    index: str = ""
    init: str = ""
    upsampler: str = ""
    size: tuple[int, int] | None = None
    crop: tuple[int, int] = (256, 256)
    fps: str | int | float = "30"
    label_drop: float = 0.1
    known: tuple[float, ...] = (0.4, 0.6)
    temporal: TemporalConfig = PAPER_TEMPORAL
    distill: DistillConfig = field(default_factory=DistillConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.temporal.context_channels and self.temporal.context != "low":
            mend = "temporal.context=low"
            raise Mistake("the context is the low-resolution frames", field="temporal.context", mend=mend)
        if self.temporal.told:
            raise Mistake("is told nothing but labels", field="temporal.told", mend="temporal.told=[]")
        if not self.known or min(self.known) < 0 or abs(sum(self.known) - 1) > 1e-6:
            raise Mistake("is probabilities of 0, 1, ... known frames, which add up to 1", field="known")
        if len(self.known) > self.temporal.frames:
            what = f"{len(self.known) - 1} known frames leave none of {self.temporal.frames} to be made"
            raise Mistake(what, field="known", mend="fewer probabilities")
        rate_of(self.fps)


@dataclass(frozen=True, eq=False)
class Beside:
    """What an upscaler of latents is trained with: its autoencoder, and its text encoder where it is told words."""

    latents: Latents | None = None
    latent: dict[str, Any] = field(default_factory=lambda: {"f": 1, "channels": 3})
    text: TextEncoder | None = None
    files: tuple[Path, ...] = ()
    parents: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, model: UNetConfig, factor: int) -> "Beside":
        """Raises:
        Mistake: a part is missing, of another factor, or made for tokens of another width.
        """
        file, words = folder / upscaler.AUTOENCODER, folder / upscaler.TEXT
        latent = weights.header(file, "autoencoder").latent
        if (latent["f"], latent["channels"]) != (factor, model.out_channels):
            what = f"its latents are {latent['f']} times smaller, of {latent['channels']} channels"
            mend = f"one of f = {factor} and {model.out_channels} channels: as factor and model.out_channels say"
            raise Mistake(what, where=file, mend=mend)
        encoder = TextEncoder.load(words) if model.text else None
        if encoder is not None and encoder.width != model.cross:
            what = f"makes tokens {encoder.width} wide, the model takes {model.cross}"
            raise Mistake(what, where=words, mend=f"model.cross={encoder.width}")
        files = (file, words) if encoder else (file,)
        known = upscaler.parents(folder)
        parents = {name: known[name] for name in list(upscaler.PARENTS)[: len(files)]}
        return cls(latents_of(file), latent, encoder, files, parents)


def build_upsampler(settings: UpsamplerRun, begin: int) -> Built:
    file = Path(settings.autoencoder)
    if settings.autoencoder and file.name != upscaler.AUTOENCODER:
        mend = f"cp it to {upscaler.AUTOENCODER}: autoencoder.safetensors is that of the frames which it enlarges"
        raise Mistake(f"is not called {upscaler.AUTOENCODER}", where=file, mend=mend)
    beside = Beside.of(file.parent, settings.model, settings.factor) if settings.autoencoder else Beside()
    data = _clips(settings, settings.size, 1, begin)
    image = ImageModel(settings.model)
    low = LowConfig(settings.factor, settings.low_levels, settings.low_schedule)
    stage = UpsamplerStage(
        image, low, settings.schedule, settings.loss, settings.loop, Conditions(settings.label_drop, text=beside.text),
        beside.latents,
    )  # fmt: skip
    noising = {"low_schedule": config.plain(settings.low_schedule)} if settings.low_schedule else {}

    def header() -> weights.Header:
        return weights.Header(
            "upsampler",
            config.plain(settings.model),
            parents=beside.parents,
            interface=interface(settings.model),
            size=settings.size,
            fps=str(settings.fps),
            latent={**beside.latent, "factor": settings.factor, "low_levels": settings.low_levels, **noising},
            schedule=config.plain(settings.schedule),
            labels=["text"] if settings.model.text else ["night", "cars"] if image.labels else [],
        )

    return Built(stage, image, data, beside.files, data.digest, header)


def build_upsampler_temporal(settings: UpsamplerTemporalRun, begin: int) -> Built:
    file = weights_of(settings.upsampler, "upsampler")
    image, of_image = stack.load_image(file, "upsampler")
    size, factor = settings.size or of_image.size, of_image.latent["factor"]
    if not all(size):
        raise Mistake("the image upsampler does not say how large its frames are", field="size", mend="size=[H,W]")
    _check(size, settings.crop, factor, image.unet.config.patch * of_image.latent["f"])
    if image.unet.config.cross != settings.temporal.cross:
        what = f"the image upsampler's tokens are {image.unet.config.cross} wide, not {settings.temporal.cross}"
        mend = f"temporal.cross={image.unet.config.cross or 'null'}"
        raise Mistake(what, field="temporal.cross", mend=mend)
    beside = Beside()
    if upscaler.is_latent(of_image):
        upscaler.check(file, of_image)
        beside = Beside.of(file.parent, image.unet.config, factor)
    data = _clips(settings, size, settings.temporal.frames, begin)
    schedule = config.build(ScheduleConfig, of_image.schedule, file)
    low = LowConfig(factor, of_image.latent["low_levels"], upscaler.low_schedule(of_image, file))
    stage = UpsamplerTemporalStage(
        image, settings.temporal, settings.known, low, schedule, settings.loss, settings.loop,
        Conditions(settings.label_drop, text=beside.text), beside.latents,
    )  # fmt: skip

    def header() -> weights.Header:
        return weights.Header(
            "upsampler-temporal",
            config.plain(settings.temporal),
            parents={"upsampler": disk.sha256(file)},
            interface=of_image.interface,
            size=size,
            frames=settings.temporal.frames,
            fps=str(settings.fps),
            latent=of_image.latent,
            schedule={**of_image.schedule, "shared": settings.loss.shared, "known": len(settings.known) - 1},
            labels=of_image.labels,
            alpha=settings.temporal.alpha,
            norm=settings.temporal.norm,
        )

    return Built(stage, stage.temporal, data, (file, *beside.files), data.digest, header)


def _clips(settings: UpsamplerRun | UpsamplerTemporalRun, size: tuple[int, int], frames: int, begin: int) -> ClipData:
    loop = settings.loop
    return ClipData(
        given(settings.index, "index", "drivesim index"), frames=frames, fps=rate_of(settings.fps), size=size,
        crop=settings.crop, batch=loop.batch, steps=loop.steps, start_step=begin, seed=loop.seed, workers=loop.workers,
        enlarge=False,
    )  # fmt: skip


def _check(size: tuple[int, int], crop: tuple[int, int], factor: int, patch: int) -> None:
    """Raises:
    Mistake: a size or a crop that does not divide by what the low-resolution frames and the network need.
    """
    step = math.lcm(factor, patch)
    for name, (height, width) in (("size", size), ("crop", crop)):
        if height < 1 or width < 1 or height % step or width % step:
            below, above = (
                tuple(max(step, rounding(side / step) * step) for side in (height, width))
                for rounding in (math.floor, math.ceil)
            )
            what = f"{height}x{width} does not divide by {step} (factor {factor}, patch {patch})"
            mend = f"the nearest that do: {below[0]}x{below[1]} and {above[0]}x{above[1]}"
            raise Mistake(what, field=name, mend=mend)
    if crop[0] > size[0] or crop[1] > size[1]:
        raise Mistake(f"{crop[0]}x{crop[1]} is no part of {size[0]}x{size[1]}", field="crop", mend="a smaller crop")
