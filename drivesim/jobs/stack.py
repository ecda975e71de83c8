"""From weight files to models that run: loads, checks that parents match, and makes the rollout's ``Stack``.

W                                                    with a backbone B, and temporal layers of FILE
autoencoder, image, text                             from B
keyframes                                            FILE, or W's: the interface is compared, not the parents
interpolation, decoder, upsampler(-temporal)         from W
what temporal layers and interpolation are told      by W's text encoder
"""

import shlex
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drivesim import disk, weights
from drivesim.config import build
from drivesim.diffusion.noise import Schedule, ScheduleConfig
from drivesim.diffusion.precondition import Denoiser
from drivesim.errors import Mistake
from drivesim.jobs import tiny, upscaler
from drivesim.jobs.calling import Calling
from drivesim.models import text
from drivesim.models.autoencoder import Autoencoder, split_moments
from drivesim.models.blocks import tuples
from drivesim.models.conditions import UNKNOWN, label_tensors
from drivesim.models.decoder import DecoderConfig, DecoderLayers, VideoDecoder
from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.unet import UNetConfig
from drivesim.models.video import ImageModel, VideoUNet, WholeModel, interface, temporal_config, unet_config
from drivesim.rollout.stack import Interpolation, LatentSpace, Stack, TemporalDecoder, Tokens, Upsampler, Usual
from drivesim.scene import KEYFRAME_FPS, Labels


def load_image(file: Path, stage: str = "image") -> tuple[ImageModel, weights.Header]:
    tensors, header = weights.load(file, stage)
    model = ImageModel(unet_config(header.config))
    weights.fill(model, tensors, file)
    return model.eval().requires_grad_(False), header


def load_decoder(file: Path, autoencoder: Autoencoder) -> tuple[DecoderLayers, weights.Header]:
    tensors, header = weights.load(file, "decoder")
    layers = DecoderLayers(DecoderConfig(**tuples(header.config)), autoencoder)
    weights.fill(layers, tensors, file)
    return layers.eval().requires_grad_(False), header


def load_temporal(file: Path, image: ImageModel, stage: str = "keyframes") -> tuple[TemporalLayers, weights.Header]:
    """Temporal layers for ``image``.

    Raises:
        Mistake: they were trained for an image model of other shapes.
    """
    tensors, header = weights.load(file, stage)
    if header.interface != (here := interface(image.unet.config)):
        what = f"temporal layers of an image model of other shapes: interface {header.interface}, here {here}"
        mend = "take an image model of the same make ('drivesim weights convert' tells its interface), or train others"
        raise Mistake(what, where=file, mend=mend)
    layers = TemporalLayers(temporal_config(header.config), image.unet)
    weights.fill(layers, tensors, file)
    return layers.eval().requires_grad_(False), header


BESIDE_SCHEDULE = (
    "shared",
    "known",
    "distilled",
)  # what headers of temporal layers hold beside the schedule's own numbers


def schedule_of(header: weights.Header, where: Path) -> Schedule:
    own = {key: value for key, value in header.schedule.items() if key not in BESIDE_SCHEDULE}
    return Schedule(build(ScheduleConfig, own, where))


USUAL = ("mean", "deviation")  # what headers of key-frames tell of their footage's frames, and how much each varies
NEEDED = ("autoencoder", "image", "keyframes")
FURTHER = ("interpolation", "decoder", "upsampler", "upsampler-temporal")
SPATIAL = ("autoencoder", "image")
OFF = "off"  # in the place of a file of temporal layers
ALONE = 8  # key-frames without temporal layers, and without a file that names their number: as many as text's T


def check_folder(folder: Path) -> None:
    """Raises:
    Mistake: it is not there, or a public pipeline.
    """
    if (folder / "model_index.json").is_file() or (folder / "unet").is_dir():
        mend = f"convert it once: drivesim weights convert {shlex.quote(str(folder))} --out W"
        raise Mistake("is a public pipeline, not weights of drivesim", where=folder, mend=mend)
    if not folder.is_dir():
        raise Mistake("no such folder of weights", where=folder, mend="'drivesim train' writes RUN/weights")


@dataclass(frozen=True)
class Sources:
    """Where the parts of a stack lie.

    Args:
        folder: of the weights. ``base``: of image, autoencoder and text, the same but for a backbone.
        temporal: the layers of the key-frames; None where they are switched off.
        swapped: image model or temporal layers are others than those that were trained together.
    """

    folder: Path
    base: Path
    temporal: Path | None
    swapped: bool

    @classmethod
    def of(cls, folder: Path, backbone: Path | None, temporal: str | Path | None) -> "Sources":
        """Raises:
        Mistake: a folder is not there, or is a public pipeline.
        """
        folder, base = tiny.named(folder), tiny.named(backbone or folder)
        own = folder / "keyframes.safetensors"
        for place in (folder, base):
            check_folder(place)
        layers = None if temporal == OFF else Path(temporal or own)
        if layers is not None and not layers.is_file() and (base / text.FOLDER).is_dir():
            mend = "'drivesim train keyframes' makes them; with --temporal off every key-frame is an image for itself"
            raise Mistake("no such file of temporal layers", where=layers, mend=mend)
        return cls(folder, base, layers, base != folder or layers not in (None, own))

    @property
    def files(self) -> dict[str, Path]:
        """The weight file of each stage that is needed, or there."""
        found = {stage: self.base / f"{stage}.safetensors" for stage in SPATIAL}
        if self.temporal is not None:
            found["keyframes"] = self.temporal
        further = {stage: self.folder / f"{stage}.safetensors" for stage in FURTHER}
        if self.temporal is None:
            del further["interpolation"]
        return found | {stage: file for stage, file in further.items() if file.exists()}


def load(
    folder: Path,
    device: str = "cpu",
    precision: str = "bf16",
    backbone: Path | None = None,
    temporal: str | Path | None = None,
    compiled: bool = False,
) -> Stack:
    """All that a rollout needs from ``folder``: ``autoencoder``, ``image`` and ``keyframes`` ``.safetensors``, and as
    many as there are of those that follow; of models that are told words also ``text``.

    Args:
        backbone: another folder, whose image model, autoencoder and text encoder stand in the place of its own.
        temporal: another file of the key-frames' temporal layers, or "off" for none: every key-frame is then an image
            for itself.
        compiled: see ``Calling``.

    Raises:
        Mistake: a missing file, weights of another stage, a public pipeline, a parent other than the one trained on,
            or, with a backbone, temporal layers of another interface; no compiler.
    """
    on = torch.device(device)
    calling = Calling(on, precision, compiled)
    sources = Sources.of(folder, backbone, temporal)
    files = sources.files
    headers, hashes = _checked(files, sources)
    autoencoder = Autoencoder.load(files["autoencoder"]).to(on)
    image, header = load_image(files["image"])
    image = image.to(on)
    schedule = schedule_of(header, files["image"])
    told = _words(sources, image, on) if image.unet.config.text else _labels(image, on)
    tokens, null_tokens = told
    apart = "temporal-text" in hashes
    others = _encoder(folder / text.FOLDER, on) if apart else told
    temporal_tokens, null_temporal = others if image.unet.config.text and sources.temporal else (None, None)
    layers, network = None, VideoUNet(image.unet)
    if sources.temporal is not None:
        network, layers, own = _predictor(sources.temporal, image, null_tokens)
        network = network.to(on)
        _check_width(None if layers.config.told else layers.config.cross, others[1], sources.temporal)
    else:
        own = _alone(sources, header)
    if own.fps != str(KEYFRAME_FPS):
        raise Mistake(
            f"trained at {own.fps} frames a second, key-frames are at {KEYFRAME_FPS}", where=files["keyframes"]
        )
    known = bool(own.schedule.get("known"))
    latent = headers["autoencoder"].latent
    f, (height, width) = latent["f"], own.size
    if not height or not width:
        mend = "convert or train it again: newer files do"
        raise Mistake("does not say how large its frames are", where=files["image"], mend=mend)
    return Stack(
        image=Denoiser(calling.denoiser(VideoUNet(image.unet)), schedule),
        keyframes=Denoiser(calling.denoiser(network), schedule, own.schedule.get("distilled")),
        tokens=tokens,
        null_tokens=null_tokens,
        mean=torch.tensor(latent["mean"], device=on),
        std=torch.tensor(latent["std"], device=on),
        encode=calling.network(lambda x: split_moments(autoencoder.encode(x))[0]),
        decode=calling.network(autoencoder.decode),
        frames=own.frames,
        size=(height, width),
        latent_shape=(latent["channels"], height // f, width // f),
        weights=hashes,
        device=on,
        shared=own.schedule.get("shared", 0.0),
        precision=calling.told,
        interpolation=_interpolation(files, image, schedule, others[1], calling),
        temporal_decoder=_temporal_decoder(files, autoencoder, calling),
        upsampler=_upsampler(files, (height, width), calling),
        boxed=image.told if image.takes_boxes else None,
        words=image.unet.config.text,
        temporal=layers is not None,
        contextual=layers is not None and (known or _contextual(layers.config, network.spatial.config)),
        known=known,
        most_given=_most_given(own, layers),
        usual=_usual(own.latent.get("usual"), on, with_own=not sources.swapped),
        stretches=layers is None or (layers.config.alpha == "scalar" and layers.config.positions == "relative"),
        temporal_tokens=temporal_tokens,
        null_temporal=null_temporal,
        apart=apart,
    )


def _most_given(header: weights.Header, layers: TemporalLayers | None) -> int:
    """How many given frames a model of key-frames has learned: in the window itself, or beside it."""
    in_window = header.schedule.get("known", 0)
    return in_window or (2 if layers is None else layers.config.given)


def _predictor(
    file: Path, image: ImageModel, tokens: Tensor | None
) -> tuple[VideoUNet, TemporalLayers, weights.Header]:
    """Of temporal layers over ``image``, or of a model of both in one file.

    Args:
        tokens: ``L D``, such as it will be told.
    """
    if "model" in weights.header(file, "keyframes").config:
        return _whole(file, image, tokens, "keyframes")
    layers, header = load_temporal(file, image)
    return VideoUNet(image.unet, layers), layers, header


def _contextual(layers: TemporalConfig, image: UNetConfig) -> bool:
    """Whether a model of key-frames sees the frames that it is given; else it makes all of them from noise."""
    return bool(layers.context_channels or layers.blend or {"context", "mask"} & set(image.joined))


def _usual(told: dict[str, Any] | None, on: torch.device, with_own: bool) -> Usual | None:
    """Args:
    with_own: the models are those that the bounds were measured with.
    """
    if told is None:
        return None
    mean, deviation = (
        (torch.tensor(told[name], device=on), torch.tensor(told[f"{name} varies"], device=on)) for name in USUAL
    )
    return Usual(mean, deviation, told.get("bounds") if with_own else None)


def _alone(sources: Sources, image: weights.Header) -> weights.Header:
    """What stands for the header of temporal layers that are switched off: how many frames there are, and how large."""
    file = sources.folder / "keyframes.safetensors"
    own = weights.header(file, "keyframes") if file.exists() else image
    frames = own.frames if file.exists() else ALONE
    return weights.Header("keyframes", {}, size=own.size, frames=frames, fps=str(KEYFRAME_FPS))


def _checked(files: dict[str, Path], sources: Sources) -> tuple[dict[str, weights.Header], dict[str, str]]:
    """Headers and hashes of the weight files, every one of its stage and beside the parents that it was trained on; and
    the identities of the text encoders: ``text``, and ``temporal-text`` where temporal layers have one of their own.

    What was not trained over a backbone is held to what it was trained with but for that.
    """
    headers = {stage: weights.header(file, stage) for stage, file in files.items()}
    hashes = {stage: disk.sha256(file) for stage, file in files.items()}
    if "upsampler" in files:
        hashes |= upscaler.parents(files["upsampler"].parent)
    known = hashes
    if headers["image"].labels == ["text"]:
        hashes["text"] = _identity(sources.base)
        if sources.temporal is not None and sources.base != sources.folder:
            other = _identity(sources.folder)
            known = {**hashes, "text": other}
            hashes |= {"temporal-text": other} if other != hashes["text"] else {}
    elif sources.temporal is not None and sources.base != sources.folder and (sources.folder / text.FOLDER).is_dir():
        mend = "temporal layers of a model of words need a backbone that is told words"
        raise Mistake("this image model is told labels", where=files["image"], mend=mend)
    for stage, header in headers.items():
        for parent, wanted in header.parents.items():
            if sources.swapped and stage not in SPATIAL and parent in SPATIAL:
                continue
            found = (hashes if stage in SPATIAL else known).get(parent)
            if found is None:
                raise Mistake(f"trained on {parent} weights, which are not beside it", where=files[stage])
            if found != wanted:
                mend = f"put the {parent} weights that it was trained on beside it"
                what = f"trained on another {parent} ({wanted[:12]}, here {found[:12]})"
                raise Mistake(what, where=files[stage], mend=mend)
    return headers, hashes


def _identity(folder: Path) -> str:
    if not (folder / text.FOLDER).is_dir():
        mend = "put text/ of the weights that it was trained with there"
        raise Mistake("no text encoder, and the models are told words", where=folder / text.FOLDER, mend=mend)
    return text.identity(folder / text.FOLDER)


def _interpolation(
    files: dict[str, Path],
    image: ImageModel,
    schedule: Schedule,
    tokens: Tensor | None,
    calling: Calling,
) -> Interpolation | None:
    """Of layers over ``image``, or of a model of their own.

    Args:
        tokens: ``L D``, such as it will be told.
    """
    if "interpolation" not in files:
        return None
    file = files["interpolation"]
    whole = "model" in weights.header(file, "interpolation").config
    if whole:
        network, layers, header = _whole(file, image, tokens)
        network, schedule = network.to(calling.device), schedule_of(header, file)
    else:
        layers, header = load_temporal(file, image, "interpolation")
        network = VideoUNet(image.unet, layers.to(calling.device))
    _check_width(None if layers.config.told else layers.config.cross, tokens, file)
    denoiser = Denoiser(calling.denoiser(network), schedule, header.schedule.get("distilled"))
    return Interpolation(denoiser, layers.config.rates, header.schedule.get("shared", 0.0), whole)


def _whole(
    file: Path, image: ImageModel, told: Tensor | None, stage: str = "interpolation"
) -> tuple[VideoUNet, TemporalLayers, weights.Header]:
    """A model of image and temporal layers in one file.

    Raises:
        Mistake: its latents have another number of channels than those of ``image``, or its tokens another width.
    """
    tensors, header = weights.load(file, stage)
    model = WholeModel(unet_config(header.config["model"]), temporal_config(header.config["temporal"]))
    weights.fill(model, tensors, file)
    model = model.eval().requires_grad_(False)
    own, spatial = model.image.unet.config, image.unet.config
    if own.out_channels != spatial.out_channels:
        what = f"makes latents of {own.out_channels} channels, the image model of {spatial.out_channels}"
        raise Mistake(what, where=file)
    _check_width(own.cross, told, file)
    return model.network, model.temporal, header


def _check_width(cross: int | None, tokens: Tensor | None, where: Path) -> None:
    """Raises:
    Mistake: a network that takes tokens ``cross`` wide is told others.
    """
    found = None if tokens is None else tokens.shape[-1]
    if cross is not None and cross != found:
        what = f"is told tokens {cross} wide, and these are {found or 'none'}"
        raise Mistake(what, where=where, mend="the text encoder that it was trained with is text/ beside --weights")


def _temporal_decoder(files: dict[str, Path], autoencoder: Autoencoder, calling: Calling) -> TemporalDecoder | None:
    if "decoder" not in files:
        return None
    layers, header = load_decoder(files["decoder"], autoencoder)
    video = VideoDecoder(autoencoder, layers.to(calling.device))
    return TemporalDecoder(calling.network(video.decode), header.frames, Fraction(header.fps))


def _upsampler(files: dict[str, Path], low: tuple[int, int], calling: Calling) -> Upsampler | None:
    if "upsampler" not in files:
        return None
    file, on = files["upsampler"], calling.device
    model, header = load_image(file, "upsampler")
    model, layers, frames, shared, known = model.to(on), None, 1, 0.0, 0
    taught = header.schedule.get("distilled")
    if "upsampler-temporal" in files:
        layers, own = load_temporal(files["upsampler-temporal"], model, "upsampler-temporal")
        layers, frames = layers.to(on), own.frames
        shared, known = own.schedule.get("shared", 0.0), own.schedule.get("known", 0)
        taught = own.schedule.get("distilled")
    factor, unit = header.latent["factor"], model.unet.config.patch * header.latent["f"]
    for side in low:
        if side * factor % unit:
            what = f"makes frames whose sides are multiples of {unit}, not {low[0] * factor}x{low[1] * factor}"
            raise Mistake(what, where=file)
    space = _latent_space(file, header, calling)
    words = model.unet.config.text
    tokens, null_tokens = _encoder(file.with_name(upscaler.TEXT), on) if words else _labels(model, on)
    network = calling.denoiser(VideoUNet(model.unet, layers))
    return Upsampler(
        Denoiser(network, schedule_of(header, file), taught), frames, factor, header.latent["low_levels"], tokens,
        null_tokens, unit, shared, known, space,
    )  # fmt: skip


def _latent_space(file: Path, header: weights.Header, calling: Calling) -> LatentSpace | None:
    """Of an upsampler that makes latents: its own autoencoder, whose latents are whitened here."""
    if not upscaler.is_latent(header):
        return None
    upscaler.check(file, header)
    autoencoder = Autoencoder.load(file.with_name(upscaler.AUTOENCODER)).to(calling.device)
    mean, std = upscaler.whitening(header.latent, calling.device)
    return LatentSpace(
        header.latent["f"],
        header.latent["channels"],
        calling.network(lambda x: (split_moments(autoencoder.encode(x))[0] - mean) / std),
        calling.network(lambda z: autoencoder.decode(z * std + mean)),
        Schedule(upscaler.low_schedule(header, file)),
    )


def _words(sources: Sources, image: ImageModel, on: torch.device) -> tuple[Tokens, Tensor]:
    """What makes tokens of prompts, and those of the empty one.

    Raises:
        Mistake: the image model was made for tokens of another width.
    """
    tokens, empty = _encoder(sources.base / text.FOLDER, on)
    if empty.shape[-1] != image.unet.config.cross:
        what = f"makes tokens {empty.shape[-1]} wide, the image model takes {image.unet.config.cross}"
        raise Mistake(what, where=sources.base / text.FOLDER, mend="put the text/ that it was trained with there")
    return tokens, empty


def _encoder(folder: Path, on: torch.device) -> tuple[Tokens, Tensor]:
    encoder = text.TextEncoder.load(folder).to(on)

    def tokens(labels: list[Labels]) -> Tensor:
        return encoder.tokens([each.prompt or "" for each in labels])

    return tokens, encoder.tokens([""])[0]


def _labels(model: ImageModel, on: torch.device) -> tuple[Tokens | None, Tensor | None]:
    """What makes tokens of labels, and those of dropped ones, where the model has any."""
    if (words := model.labels) is None:
        return None, None

    def tokens(labels: list[Labels]) -> Tensor:
        night, cars = label_tensors(labels)
        return words(night.to(on), cars.to(on))

    return tokens, words(*(torch.tensor([UNKNOWN], device=on),) * 2)[0]
