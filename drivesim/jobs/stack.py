"""From weight files to models that run: loads, checks that parents match, and makes the rollout's ``Stack``."""

from pathlib import Path

import torch
from torch import Tensor

from drivesim import weights
from drivesim.config import build
from drivesim.diffusion.noise import Schedule, ScheduleConfig
from drivesim.diffusion.precondition import Denoiser
from drivesim.errors import Mistake
from drivesim.models.autoencoder import Autoencoder, split_moments
from drivesim.models.conditions import UNKNOWN, label_tensors
from drivesim.models.temporal import TemporalLayers
from drivesim.models.video import ImageModel, VideoUNet, interface, temporal_config, unet_config
from drivesim.rollout.stages import Stack
from drivesim.scene import KEYFRAME_FPS, Labels


def load_image(file: Path) -> tuple[ImageModel, weights.Header]:
    tensors, header = weights.load(file, "image")
    model = ImageModel(unet_config(header.config))
    weights.fill(model, tensors, file)
    return model.eval().requires_grad_(False), header


def load_temporal(file: Path, image: ImageModel) -> tuple[TemporalLayers, weights.Header]:
    """Temporal layers for ``image``.

    Raises:
        Mistake: they were trained for an image model of other shapes.
    """
    tensors, header = weights.load(file, "keyframes")
    if header.interface != interface(image.unet.config):
        raise Mistake("temporal layers of an image model of other shapes", where=file)
    layers = TemporalLayers(temporal_config(header.config), image.unet)
    weights.fill(layers, tensors, file)
    return layers.eval().requires_grad_(False), header


def schedule_of(header: weights.Header, where: Path) -> Schedule:
    return Schedule(build(ScheduleConfig, header.schedule, where))


def load(folder: Path, device: str = "cpu", precision: str = "bf16") -> Stack:
    """All that a rollout needs from ``folder`` with ``autoencoder``, ``image`` and ``keyframes`` ``.safetensors``.

    Raises:
        Mistake: a missing file, weights of another stage, or a parent other than the one trained on.
    """
    on = torch.device(device)
    files = {stage: folder / f"{stage}.safetensors" for stage in ("autoencoder", "image", "keyframes")}
    if not folder.is_dir():
        raise Mistake("no such folder of weights", where=folder, mend="'drivesim train' writes RUN/weights")
    headers = {stage: weights.header(file, stage) for stage, file in files.items()}
    hashes = {stage: weights.sha256(file) for stage, file in files.items()}
    for stage, header in headers.items():
        for parent, wanted in header.parents.items():
            if hashes[parent] != wanted:
                mend = f"put the {parent} weights that it was trained on beside it"
                raise Mistake(
                    f"trained on another {parent} ({wanted[:12]}, here {hashes[parent][:12]})",
                    where=files[stage],
                    mend=mend,
                )
    autoencoder = Autoencoder.load(files["autoencoder"]).to(on)
    image, header = load_image(files["image"])
    temporal, own = load_temporal(files["keyframes"], image)
    image, temporal = image.to(on), temporal.to(on)
    if own.fps != str(KEYFRAME_FPS):
        raise Mistake(
            f"trained at {own.fps} frames a second, key-frames are at {KEYFRAME_FPS}", where=files["keyframes"]
        )
    latent = headers["autoencoder"].latent
    schedule = schedule_of(header, files["image"])
    f, (height, width) = latent["f"], own.size

    def tokens(labels: list[Labels]) -> Tensor:
        night, cars = label_tensors(labels)
        assert image.labels is not None  # else the stack has no tokens
        return image.labels(night.to(on), cars.to(on))

    return Stack(
        image=Denoiser(_in(precision, on, VideoUNet(image.unet)), schedule),
        keyframes=Denoiser(_in(precision, on, VideoUNet(image.unet, temporal)), schedule),
        tokens=tokens if image.labels else None,
        null_tokens=image.labels(*(torch.tensor([UNKNOWN], device=on),) * 2)[0] if image.labels else None,
        mean=torch.tensor(latent["mean"], device=on),
        std=torch.tensor(latent["std"], device=on),
        encode=_in(precision, on, lambda x: split_moments(autoencoder.encode(x))[0]),
        decode=_in(precision, on, autoencoder.decode),
        frames=own.frames,
        size=(height, width),
        latent_shape=(latent["channels"], height // f, width // f),
        weights=hashes,
        device=on,
        shared=own.schedule.get("shared", 0.0),
        precision=precision,
    )


def _in(precision: str, device: torch.device, call):  # type: ignore[no-untyped-def]  # any network, its signature kept
    """``call`` under autocast to bfloat16, its result in float32; ``precision`` 32 leaves it alone."""
    if precision == "32":
        return call

    def cast(*args: object) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return call(*args).float()

    return cast
