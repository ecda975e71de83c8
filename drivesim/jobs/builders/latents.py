"""Stages ``image``, ``keyframes`` and ``interpolation``: diffusion on cached latents."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from drivesim import config, weights
from drivesim.data.latents import LatentCache, LatentData
from drivesim.diffusion.loss import LossConfig
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.errors import Mistake
from drivesim.jobs import stack
from drivesim.jobs.builders.common import Built, cached, latents_of, weights_of
from drivesim.models.temporal import TemporalConfig
from drivesim.models.unet import UNetConfig
from drivesim.models.video import ImageModel, interface
from drivesim.scene import KEYFRAME_FPS
from drivesim.training.diffusion import Conditions, ContextConfig, ImageStage, KeyframeStage, TemporalStage
from drivesim.training.interpolation import FRAMES, EndsConfig, InterpolationStage
from drivesim.training.loop import LoopConfig


@dataclass(frozen=True)
class ImageRun:
    """Args:
    cache: folder that ``drivesim encode`` wrote.
    init: weights of this stage, of the same shapes, that training begins with; none named is random ones.
    autoencoder: the weights that it was encoded with.
    label_drop, box_drop: how often the labels, and the boxes, are unknown to a sample.
    box_weight: how much more the loss counts where agents are.
    """

    cache: str = ""
    init: str = ""
    autoencoder: str = ""
    label_drop: float = 0.1
    box_drop: float = 0.1
    box_weight: float = 0.0
    model: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True)
class KeyframesRun:
    """Args:
    cache: folder that ``drivesim encode`` wrote.
    init: weights of this stage, of the same shapes, that training begins with; none named is random ones.
    image: weights of the image model; its autoencoder lies beside it. The noise schedule is the image model's [§3.1].
    """

    cache: str = ""
    init: str = ""
    image: str = ""
    label_drop: float = 0.1
    box_drop: float = 0.1
    box_weight: float = 0.0
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True)
class InterpolationRun:
    """Args:
    cache: folder that ``drivesim encode`` wrote, at the highest of ``temporal.rates``.
    init: weights of this stage, of the same shapes, that training begins with; none named is random ones.
    image: weights of the image model; its autoencoder lies beside it. The noise schedule is the image model's [§3.1].
    """

    cache: str = ""
    init: str = ""
    image: str = ""
    label_drop: float = 0.1
    box_drop: float = 0.1
    box_weight: float = 0.0
    temporal: TemporalConfig = field(default_factory=lambda: TemporalConfig(FRAMES, cross=512, told=("rate",)))
    ends: EndsConfig = field(default_factory=EndsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        temporal = self.temporal
        if temporal.frames != FRAMES:
            what = f"frames is {FRAMES}, both ends and three between, not {temporal.frames}"
            raise Mistake(what, field="temporal.frames")
        if not temporal.rates or min(temporal.rates) <= 0 or ("rate" not in temporal.told and len(temporal.rates) > 1):
            raise Mistake("needs rates > 0, and several must be told apart: told: [rate]", field="temporal.rates")

    @property
    def rates(self) -> tuple[Fraction, ...]:
        return tuple(Fraction(rate).limit_denominator(1001) for rate in self.temporal.rates)


def build_image(settings: ImageRun, begin: int) -> Built:
    autoencoder = weights_of(settings.autoencoder, "autoencoder")
    cache, data = cached(settings.cache, autoencoder, 1, settings.loop, begin)
    image = ImageModel(settings.model)
    stage = ImageStage(
        image, latents_of(autoencoder), settings.schedule, settings.loss, settings.loop,
        _conditions(settings),
    )  # fmt: skip
    check_boxes(image, cache, settings.box_weight)

    def header() -> weights.Header:
        return weights.Header(
            "image",
            config.plain(settings.model),
            parents={"autoencoder": weights.sha256(autoencoder)},
            interface=interface(settings.model),
            size=cache.size,
            latent=weights.header(autoencoder).latent,
            schedule=config.plain(settings.schedule),
            labels=(["night", "cars"] if image.labels else []) + (["boxes"] if image.takes_boxes else []),
        )

    return Built(stage, image, data, (autoencoder,), cache.fingerprint, header)


def build_keyframes(settings: KeyframesRun, begin: int) -> Built:
    backbone = _backbone(settings.image)
    cache, data = cached(settings.cache, backbone.autoencoder, settings.temporal.frames, settings.loop, begin)
    if cache.fps != KEYFRAME_FPS:
        what = f"holds latents at {cache.fps} frames a second, key-frames are at {KEYFRAME_FPS}"
        raise Mistake(what, where=settings.cache, mend=f"encode with --fps {KEYFRAME_FPS}")
    stage = KeyframeStage(
        backbone.image, latents_of(backbone.autoencoder), settings.temporal, settings.context, backbone.schedule,
        settings.loss, settings.loop, _conditions(settings),
    )  # fmt: skip
    check_boxes(backbone.image, cache, settings.box_weight)
    return backbone.built("keyframes", stage, settings.loss, cache, data, cache.fps)


def build_interpolation(settings: InterpolationRun, begin: int) -> Built:
    backbone = _backbone(settings.image)
    cache, data = cached(settings.cache, backbone.autoencoder, FRAMES, settings.loop, begin, settings.rates)
    stage = InterpolationStage(
        backbone.image, latents_of(backbone.autoencoder), settings.temporal, settings.ends, backbone.schedule,
        settings.loss, settings.loop, _conditions(settings),
    )  # fmt: skip
    check_boxes(backbone.image, cache, settings.box_weight)
    return backbone.built("interpolation", stage, settings.loss, cache, data, max(settings.rates))


def _conditions(settings: ImageRun | KeyframesRun | InterpolationRun) -> Conditions:
    return Conditions(settings.label_drop, settings.box_drop, settings.box_weight)


def check_boxes(image: ImageModel, cache: LatentCache, weight: float) -> None:
    """Raises:
    Mistake: a model that is told boxes, or a loss that weighs them, and a cache that holds none; a weight below 0.
    """
    if weight < 0:
        raise Mistake(f"is 0 or more, not {weight:g}", field="box_weight")
    if weight and not cache.about.boxes:
        what, mend = (
            "holds no boxes, which the loss is to weigh",
            "index with --labels and encode again; or box_weight=0",
        )
        raise Mistake(what, where=cache.folder, mend=mend)
    if image.takes_boxes and not cache.about.boxes:
        mend = "index with --labels and encode again; or train an image model without joined: [boxes] and box_tokens"
        raise Mistake("holds no boxes, and the image model is told them", where=cache.folder, mend=mend)


@dataclass(frozen=True, eq=False)
class Backbone:
    """The frozen image model that temporal layers are trained in, and the files that it and its latents come from."""

    image: ImageModel
    header: weights.Header
    file: Path
    autoencoder: Path

    @property
    def schedule(self) -> ScheduleConfig:
        return config.build(ScheduleConfig, self.header.schedule, self.file)

    def built(
        self, name: str, stage: TemporalStage, loss: LossConfig, cache: LatentCache, data: LatentData, fps: Fraction
    ) -> Built:
        def header() -> weights.Header:
            own = stage.temporal.config
            return weights.Header(
                name,
                config.plain(own),
                parents={"autoencoder": weights.sha256(self.autoencoder), "image": weights.sha256(self.file)},
                interface=self.header.interface,
                size=cache.size,
                frames=own.frames,
                fps=str(fps),
                latent=self.header.latent,
                schedule={**self.header.schedule, "shared": loss.shared},
                labels=self.header.labels,
                alpha=own.alpha,
                norm=own.norm,
            )

        return Built(stage, stage.temporal, data, (self.autoencoder, self.file), cache.fingerprint, header)


def _backbone(image: str) -> Backbone:
    """The image model in the file ``image``, whose autoencoder lies beside it.

    Raises:
        Mistake: a missing file, weights of another stage, or another autoencoder than the image model's.
    """
    file = weights_of(image, "image")
    autoencoder = file.parent / "autoencoder.safetensors"
    model, header = stack.load_image(file)
    weights.header(autoencoder, "autoencoder")
    if weights.sha256(autoencoder) != header.parents.get("autoencoder"):
        raise Mistake("not the autoencoder that the image model was trained on", where=autoencoder)
    return Backbone(model, header, file, autoencoder)
