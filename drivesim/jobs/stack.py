"""From weight files to models that run: loads, checks that parents match, and makes the rollout's ``Stack``."""

from fractions import Fraction
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
from drivesim.models.decoder import DecoderConfig, DecoderLayers, VideoDecoder
from drivesim.models.temporal import TemporalLayers
from drivesim.models.video import ImageModel, VideoUNet, interface, temporal_config, unet_config
from drivesim.rollout.stack import Interpolation, Stack, TemporalDecoder, Tokens, Upsampler
from drivesim.scene import KEYFRAME_FPS, Labels


def load_image(file: Path, stage: str = "image") -> tuple[ImageModel, weights.Header]:
    tensors, header = weights.load(file, stage)
    model = ImageModel(unet_config(header.config))
    weights.fill(model, tensors, file)
    return model.eval().requires_grad_(False), header


def load_temporal(file: Path, image: ImageModel, stage: str = "keyframes") -> tuple[TemporalLayers, weights.Header]:
    """Temporal layers for ``image``.

    Raises:
        Mistake: they were trained for an image model of other shapes.
    """
    tensors, header = weights.load(file, stage)
    if header.interface != interface(image.unet.config):
        raise Mistake("temporal layers of an image model of other shapes", where=file)
    layers = TemporalLayers(temporal_config(header.config), image.unet)
    weights.fill(layers, tensors, file)
    return layers.eval().requires_grad_(False), header


def schedule_of(header: weights.Header, where: Path) -> Schedule:
    return Schedule(build(ScheduleConfig, header.schedule, where))


NEEDED = ("autoencoder", "image", "keyframes")
FURTHER = ("interpolation", "decoder", "upsampler", "upsampler-temporal")


def load(folder: Path, device: str = "cpu", precision: str = "bf16") -> Stack:
    """All that a rollout needs from ``folder``: ``autoencoder``, ``image`` and ``keyframes`` ``.safetensors``, and as
    many as there are of those that follow.

    Raises:
        Mistake: a missing file, weights of another stage, or a parent other than the one trained on.
    """
    on = torch.device(device)
    if not folder.is_dir():
        raise Mistake("no such folder of weights", where=folder, mend="'drivesim train' writes RUN/weights")
    files = {stage: folder / f"{stage}.safetensors" for stage in (*NEEDED, *FURTHER)}
    files = {stage: file for stage, file in files.items() if stage in NEEDED or file.exists()}
    headers, hashes = _checked(files)
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
    tokens, null_tokens = _labels(image, on)
    return Stack(
        image=Denoiser(_in(precision, on, VideoUNet(image.unet)), schedule),
        keyframes=Denoiser(_in(precision, on, VideoUNet(image.unet, temporal)), schedule),
        tokens=tokens,
        null_tokens=null_tokens,
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
        interpolation=_interpolation(files, image, schedule, on, precision),
        temporal_decoder=_temporal_decoder(files, autoencoder, on, precision),
        upsampler=_upsampler(files, (height, width), on, precision),
        boxed=image.told if image.takes_boxes else None,
    )


def _checked(files: dict[str, Path]) -> tuple[dict[str, weights.Header], dict[str, str]]:
    """Headers and hashes of the weight files, every one of its stage and beside the parents that it was trained on."""
    headers = {stage: weights.header(file, stage) for stage, file in files.items()}
    hashes = {stage: weights.sha256(file) for stage, file in files.items()}
    for stage, header in headers.items():
        for parent, wanted in header.parents.items():
            if parent not in hashes:
                raise Mistake(f"trained on {parent} weights, which are not beside it", where=files[stage])
            if hashes[parent] != wanted:
                mend = f"put the {parent} weights that it was trained on beside it"
                what = f"trained on another {parent} ({wanted[:12]}, here {hashes[parent][:12]})"
                raise Mistake(what, where=files[stage], mend=mend)
    return headers, hashes


def _interpolation(
    files: dict[str, Path], image: ImageModel, schedule: Schedule, on: torch.device, precision: str
) -> Interpolation | None:
    if "interpolation" not in files:
        return None
    layers, header = load_temporal(files["interpolation"], image, "interpolation")
    network = VideoUNet(image.unet, layers.to(on))
    rates = layers.config.rates
    return Interpolation(Denoiser(_in(precision, on, network), schedule), rates, header.schedule.get("shared", 0.0))


def _temporal_decoder(
    files: dict[str, Path], autoencoder: Autoencoder, on: torch.device, precision: str
) -> TemporalDecoder | None:
    if "decoder" not in files:
        return None
    tensors, header = weights.load(files["decoder"], "decoder")
    layers = DecoderLayers(DecoderConfig(**header.config), autoencoder)
    weights.fill(layers, tensors, files["decoder"])
    video = VideoDecoder(autoencoder, layers.eval().requires_grad_(False).to(on))
    return TemporalDecoder(_in(precision, on, video.decode), header.frames, Fraction(header.fps))


def _upsampler(files: dict[str, Path], low: tuple[int, int], on: torch.device, precision: str) -> Upsampler | None:
    if "upsampler" not in files:
        return None
    file = files["upsampler"]
    model, header = load_image(file, "upsampler")
    model, layers, frames, shared, known = model.to(on), None, 1, 0.0, 0
    if "upsampler-temporal" in files:
        layers, own = load_temporal(files["upsampler-temporal"], model, "upsampler-temporal")
        layers, frames = layers.to(on), own.frames
        shared, known = own.schedule.get("shared", 0.0), own.schedule.get("known", 0)
    factor, unit = header.latent["factor"], model.unet.config.patch
    for side in low:
        if side * factor % unit:
            what = f"makes frames whose sides are multiples of {unit}, not {low[0] * factor}x{low[1] * factor}"
            raise Mistake(what, where=file)
    tokens, null_tokens = _labels(model, on)
    network = _in(precision, on, VideoUNet(model.unet, layers))
    return Upsampler(
        Denoiser(network, schedule_of(header, file)), frames, factor, header.latent["low_levels"], tokens, null_tokens,
        unit, shared, known,
    )  # fmt: skip


def _labels(model: ImageModel, on: torch.device) -> tuple[Tokens | None, Tensor | None]:
    """What makes tokens of labels, and those of dropped ones, where the model has any."""
    if (words := model.labels) is None:
        return None, None

    def tokens(labels: list[Labels]) -> Tensor:
        night, cars = label_tensors(labels)
        return words(night.to(on), cars.to(on))

    return tokens, words(*(torch.tensor([UNKNOWN], device=on),) * 2)[0]


def _in(precision: str, device: torch.device, call):  # type: ignore[no-untyped-def]  # any network, its signature kept
    """``call`` under autocast to bfloat16, its result in float32; ``precision`` 32 leaves it alone."""
    if precision == "32":
        return call

    def cast(*args: object) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return call(*args).float()

    return cast
