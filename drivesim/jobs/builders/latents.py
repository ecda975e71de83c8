"""Stages ``image`` and ``keyframes``: diffusion on cached latents."""

from dataclasses import dataclass, field

import torch

from drivesim import config, weights
from drivesim.diffusion.loss import LossConfig
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.errors import Mistake
from drivesim.jobs import stack
from drivesim.jobs.builders.common import Built, cached, latents_of, weights_of
from drivesim.models.temporal import TemporalConfig
from drivesim.models.unet import UNetConfig
from drivesim.models.video import ImageModel, interface
from drivesim.scene import KEYFRAME_FPS
from drivesim.training.diffusion import ContextConfig, ImageStage, KeyframeStage
from drivesim.training.loop import LoopConfig


@dataclass(frozen=True)
class ImageRun:
    """Args:
    cache: folder that ``drivesim encode`` wrote.
    autoencoder: the weights that it was encoded with.
    """

    cache: str = ""
    autoencoder: str = ""
    label_drop: float = 0.1
    model: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True)
class KeyframesRun:
    """Args:
    cache: folder that ``drivesim encode`` wrote.
    image: weights of the image model; its autoencoder lies beside it. The noise schedule is the image model's [§3.1].
    """

    cache: str = ""
    image: str = ""
    label_drop: float = 0.1
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def build_image(settings: ImageRun, begin: int) -> Built:
    autoencoder = weights_of(settings.autoencoder, "autoencoder")
    cache, data = cached(settings.cache, autoencoder, 1, settings.loop, begin)
    image = ImageModel(settings.model)
    stage = ImageStage(
        image, latents_of(autoencoder), settings.schedule, settings.loss, settings.loop, settings.label_drop
    )

    def finish() -> tuple[torch.nn.Module, weights.Header]:
        header = weights.Header(
            "image",
            config.plain(settings.model),
            parents={"autoencoder": weights.sha256(autoencoder)},
            interface=interface(settings.model),
            size=cache.size,
            latent=weights.header(autoencoder).latent,
            schedule=config.plain(settings.schedule),
            labels=["night", "cars"] if image.labels else [],
        )
        return image.cpu(), header

    return Built(stage, data, (autoencoder,), cache.fingerprint, finish)


def build_keyframes(settings: KeyframesRun, begin: int) -> Built:
    image_file = weights_of(settings.image, "image")
    autoencoder = image_file.parent / "autoencoder.safetensors"
    image, of_image = stack.load_image(image_file)
    weights.header(autoencoder, "autoencoder")
    if weights.sha256(autoencoder) != of_image.parents.get("autoencoder"):
        raise Mistake("not the autoencoder that the image model was trained on", where=autoencoder)
    cache, data = cached(settings.cache, autoencoder, settings.temporal.frames, settings.loop, begin)
    if cache.fps != KEYFRAME_FPS:
        what = f"holds latents at {cache.fps} frames a second, key-frames are at {KEYFRAME_FPS}"
        raise Mistake(what, where=settings.cache, mend=f"encode with --fps {KEYFRAME_FPS}")
    schedule = config.build(ScheduleConfig, of_image.schedule, image_file)
    stage = KeyframeStage(
        image, latents_of(autoencoder), settings.temporal, settings.context, schedule, settings.loss, settings.loop,
        settings.label_drop,
    )  # fmt: skip

    def finish() -> tuple[torch.nn.Module, weights.Header]:
        header = weights.Header(
            "keyframes",
            config.plain(settings.temporal),
            parents={"autoencoder": weights.sha256(autoencoder), "image": weights.sha256(image_file)},
            interface=of_image.interface,
            size=cache.size,
            frames=settings.temporal.frames,
            fps=str(cache.fps),
            latent=of_image.latent,
            schedule={**of_image.schedule, "shared": settings.loss.shared},
            labels=of_image.labels,
            alpha=settings.temporal.alpha,
            norm=settings.temporal.norm,
        )
        return stage.temporal.cpu(), header

    return Built(stage, data, (autoencoder, image_file), cache.fingerprint, finish)
