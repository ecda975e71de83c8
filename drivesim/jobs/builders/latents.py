"""Stages ``image``, ``keyframes`` and ``interpolation``: diffusion on cached latents, or on a subject's pictures."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial

import torch

from drivesim import config, weights
from drivesim.data.latent_windows import LatentData
from drivesim.diffusion.distill import DistillConfig
from drivesim.diffusion.loss import LossConfig
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.errors import Mistake
from drivesim.jobs.builders.backbone import Backbone, backbone_of, in_folder
from drivesim.jobs.builders.common import Built, cached, latents_of, weights_of
from drivesim.jobs.builders.subject import build_subject
from drivesim.models.autoencoder import split_moments
from drivesim.models.temporal import TemporalConfig
from drivesim.models.unet import UNetConfig
from drivesim.models.video import ImageModel, interface
from drivesim.scene import KEYFRAME_FPS
from drivesim.training.diffusion import Conditions, ContextConfig, ImageStage, KeyframeStage, Latents
from drivesim.training.interpolation import FRAMES, EndsConfig, InterpolationStage, widened
from drivesim.training.loop import LoopConfig
from drivesim.training.subject import SubjectConfig

SAMPLED = 512  # frames of the footage that say what is usual


@dataclass(frozen=True)
class ImageRun:
    """Args:
    cache: folder that ``drivesim encode`` wrote.
    backbone: a folder of weights whose image model is trained further; its autoencoder, its text encoder (where it is
        told words), shapes and schedule are taken over. ``model``, ``schedule``, ``autoencoder`` and ``init`` are then
        left out.
    subject: a few pictures to learn it from, in the place of ``cache``.
    init: weights of this stage, of the same shapes, that training begins with; none named is random ones.
    autoencoder: the weights that it was encoded with.
    label_drop, box_drop: how often the labels or the caption, and the boxes, are unknown to a sample.
    box_weight: how much more the loss counts where agents are.
    box_small: how much more of that small agents have: theirs times (16 / cells of the latent) ** box_small.
    """

    cache: str = ""
    backbone: str = ""
    init: str = ""
    autoencoder: str = ""
    label_drop: float = 0.1
    box_drop: float = 0.1
    box_weight: float = 0.0
    box_small: float = 0.0
    subject: SubjectConfig = field(default_factory=SubjectConfig)
    model: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        own = {"model": UNetConfig(), "schedule": ScheduleConfig(), "autoencoder": "", "init": ""}
        given = [name for name, default in own.items() if getattr(self, name) != default]
        if self.backbone and given:
            raise Mistake("is the backbone's", field=given[0], mend=f"leave {', '.join(given)} out, or the backbone")
        if self.model.text and not self.backbone:
            mend = "backbone=W, a folder of weights that are told words: 'drivesim weights convert' makes one"
            raise Mistake("a model that is told words needs a text encoder", field="model.text", mend=mend)
        if self.subject.asked:
            if not self.backbone:
                mend = "backbone=W, a folder of weights that are told words"
                raise Mistake("a subject is learned by a model that knows its class", field="subject", mend=mend)
            if self.cache:
                raise Mistake("a subject is learned from its pictures", field="cache", mend="leave the cache out")
            if self.loop.batch % 2:
                what = f"half of a batch is the subject, half its class: {self.loop.batch} is odd"
                raise Mistake(what, field="loop.batch", mend=f"loop.batch={self.loop.batch + 1}")
            if self.box_weight:
                raise Mistake("pictures have no boxes", field="box_weight", mend="box_weight=0")


@dataclass(frozen=True)
class KeyframesRun:
    """Args:
    cache: folder that ``drivesim encode`` wrote.
    init: weights of this stage, of the same shapes, that training begins with; none named is random ones.
    image: weights of the image model; its autoencoder lies beside it, and its text encoder, where it is told words. The
        noise schedule is the image model's [§3.1].
    whole: the image model's layers are trained along, and one file holds all. Of an image model that was trained for a
        step, this is training end to end, from random weights [Table 7].
    distill: with a teacher: in few steps what that reaches in more.
    """

    cache: str = ""
    init: str = ""
    image: str = ""
    whole: bool = False
    label_drop: float = 0.1
    box_drop: float = 0.1
    box_weight: float = 0.0
    box_small: float = 0.0
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.context.most != self.temporal.given:
            most = self.context.most
            what = f"context.given gives up to {most} frames, temporal.given counts up to {self.temporal.given}"
            raise Mistake(what, field="temporal.given", mend=f"temporal.given={most}")
        if self.distill.teacher and self.context.own:
            what = "a model that is distilled makes no frames in one step of any level"
            raise Mistake(what, field="context.own", mend="context.own=0")
        if self.context.clean and (self.temporal.context_channels or self.temporal.blend):
            what = "given frames that stand in the window are shown to no layers beside it"
            raise Mistake(what, field="context.clean", mend="temporal.context_channels=0 temporal.blend=false")


@dataclass(frozen=True)
class InterpolationRun:
    """Args:
    cache: folder that ``drivesim encode`` wrote, at the highest of ``temporal.rates``.
    init: weights of this stage, of the same shapes, that training begins with; none named is random ones.
    image: weights of the image model; its autoencoder lies beside it, and its text encoder, where it is told words. The
        noise schedule is the image model's [§3.1].
    whole: the image model's layers are trained along, and see the ends at their input: one file holds all [H.2]. Else
        the image model stays as it is, and the temporal layers are a file of their own.
    distill: with a teacher: in few steps what that reaches in more.
    """

    cache: str = ""
    init: str = ""
    image: str = ""
    whole: bool = False
    label_drop: float = 0.1
    box_drop: float = 0.1
    box_weight: float = 0.0
    box_small: float = 0.0
    temporal: TemporalConfig = field(default_factory=lambda: TemporalConfig(FRAMES, cross=512, told=("rate",)))
    ends: EndsConfig = field(default_factory=EndsConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
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
    opened = None
    if not settings.backbone and not settings.subject.asked:  # a bad cache is told before a large model is made
        autoencoder = weights_of(settings.autoencoder, "autoencoder")
        opened = cached(settings.cache, autoencoder, 1, settings.loop, begin)
    backbone = backbone_of(in_folder(settings.backbone)) if settings.backbone else _anew(settings)
    backbone.image.requires_grad_(True).train()
    if settings.subject.asked:
        return build_subject(settings.subject, backbone, _told(settings, backbone), settings.loss, settings.loop, begin)
    cache, data = opened or cached(settings.cache, backbone.autoencoder, 1, settings.loop, begin)
    backbone.check(cache, settings.box_weight)
    stage = ImageStage(
        backbone.image, latents_of(backbone.autoencoder), backbone.schedule, settings.loss, settings.loop,
        _told(settings, backbone),
    )  # fmt: skip
    header = partial(backbone.of_image, cache.size)
    built = Built(stage, backbone.image, data, backbone.beside, cache.fingerprint, header, notes=backbone.cut(cache))
    return replace(built, init=backbone.file if settings.backbone else None)


def build_keyframes(settings: KeyframesRun, begin: int) -> Built:
    backbone = backbone_of(weights_of(settings.image, "image"))
    cache, data = cached(settings.cache, backbone.autoencoder, settings.temporal.frames, settings.loop, begin)
    if cache.fps != KEYFRAME_FPS:
        what = f"holds latents at {cache.fps} frames a second, key-frames are at {KEYFRAME_FPS}"
        raise Mistake(what, where=settings.cache, mend=f"encode with --fps {KEYFRAME_FPS}")
    backbone.check(cache, settings.box_weight, settings.temporal)
    latents = latents_of(backbone.autoencoder)
    stage = KeyframeStage(
        backbone.image, latents, settings.temporal, settings.context, backbone.schedule,
        settings.loss, settings.loop, _told(settings, backbone), settings.whole,
    )  # fmt: skip
    usual = _usual(data, latents)

    def header() -> weights.Header:
        made = backbone.of_temporal("keyframes", stage, settings.loss, cache.size, cache.fps)
        known = {"known": settings.context.most} if settings.context.clean else {}
        return replace(made, latent={**made.latent, "usual": usual}, schedule={**made.schedule, **known})

    parents = (*backbone.beside, backbone.file)
    return Built(stage, stage.trained, data, parents, cache.fingerprint, header, notes=backbone.cut(cache))


def build_interpolation(settings: InterpolationRun, begin: int) -> Built:
    backbone = backbone_of(weights_of(settings.image, "image"))
    cache, data = cached(settings.cache, backbone.autoencoder, FRAMES, settings.loop, begin, settings.rates)
    backbone.check(cache, settings.box_weight, settings.temporal)
    image = widened(backbone.image) if settings.whole else backbone.image
    stage = InterpolationStage(
        image, latents_of(backbone.autoencoder), settings.temporal, settings.ends, backbone.schedule,
        settings.loss, settings.loop, _told(settings, backbone), settings.whole,
    )  # fmt: skip
    header = partial(backbone.of_temporal, "interpolation", stage, settings.loss, cache.size, max(settings.rates))
    parents = (*backbone.beside, backbone.file)
    return Built(stage, stage.trained, data, parents, cache.fingerprint, header, notes=backbone.cut(cache))


def _usual(data: LatentData, latents: Latents) -> dict[str, list[float]]:
    """Of the latents' channels, over frames of the footage: the mean and the deviation of a frame, and how these vary
    (``rollout.stack.Usual``)."""
    windows = data.training()
    samples = [windows[n]["moments"][0] for n in range(min(len(windows), SAMPLED))]
    z = latents.whiten(split_moments(torch.stack(samples).float())[0][None])[0]
    own = {"mean": z.mean((-2, -1)), "deviation": z.std((-2, -1))}
    told = {name: values.mean(0).tolist() for name, values in own.items()}
    return told | {f"{name} varies": values.std(0, unbiased=False).tolist() for name, values in own.items()}


def _anew(settings: ImageRun) -> Backbone:
    """With random weights, as ``settings`` say."""
    autoencoder = weights_of(settings.autoencoder, "autoencoder")
    image = ImageModel(settings.model)
    header = weights.Header(
        "image",
        config.plain(settings.model),
        interface=interface(settings.model),
        latent=weights.header(autoencoder).latent,
        schedule=config.plain(settings.schedule),
        labels=(["night", "cars"] if image.labels else []) + (["boxes"] if image.takes_boxes else []),
    )
    return Backbone(image, header, autoencoder.with_name("image.safetensors"), autoencoder)


def _told(settings: ImageRun | KeyframesRun | InterpolationRun, backbone: Backbone) -> Conditions:
    if settings.box_small < 0 or (settings.box_small and not settings.box_weight):
        what = "is 0 or more" if settings.box_small < 0 else "shares out a box_weight, which is 0"
        raise Mistake(what, field="box_small", mend="box_weight=3 box_small=0.5")
    return Conditions(settings.label_drop, settings.box_drop, settings.box_weight, settings.box_small, backbone.words)
