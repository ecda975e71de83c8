"""A public pipeline becomes a folder of weights: Stable Diffusion's in the diffusers layout, our own files behind.

What a pipeline calls ``unet``, ``vae`` and ``text_encoder`` with ``tokenizer`` are here ``image.safetensors``,
``autoencoder.safetensors`` and the folder ``text``; its scheduler's numbers stand in the image model's header. Those of
the x4 upscaler are ``upsampler``, ``upsampler-autoencoder`` and ``upsampler-text``: they go beside others' weights.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from drivesim import config, disk, weights
from drivesim.data.index import whole_folder
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.errors import Mistake
from drivesim.jobs import upscaler
from drivesim.models import pretrained, text
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.unet import UNet
from drivesim.models.video import interface

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
LOW_SCHEDULER = "low_res_scheduler"
IMAGE = ("autoencoder.safetensors", "image.safetensors", text.FOLDER)
UPSCALER = (upscaler.AUTOENCODER, "upsampler.safetensors", upscaler.TEXT)
BETAS = {"scaled_linear": "scaled_linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
TARGETS = {"epsilon": "eps", "v_prediction": "v"}
SCALING, UPSCALER_SCALING = 0.18215, 0.08333  # of their latents, where vae/config.json names none
MOST_NOISE = 350  # of the upscaler's low-resolution frames, where model_index.json does not say


def convert(folder: Path, out: Path) -> list[str]:
    """The pipeline in ``folder`` as the weights that ``train`` and ``generate`` take; returns a line for each.

    Raises:
        Mistake: a part is missing or of another make, or ``out`` is there already.
    """
    if out.exists():
        raise Mistake("is there already", where=out, mend="choose another --out")
    enlarges = _is_upscaler(folder)
    parts = (*PARTS, LOW_SCHEDULER) if enlarges else PARTS
    if missing := [part for part in parts if not (folder / part).is_dir()]:
        what = "a pipeline of the x4 upscaler" if enlarges else "a pipeline"
        raise Mistake(f"holds no {missing[0]}/", where=folder, mend=f"{what} has {', '.join(parts)}")
    names = UPSCALER if enlarges else IMAGE
    with whole_folder(out) as part:
        autoencoder, model, words = (part / name for name in names)
        _autoencoder(folder / "vae", autoencoder, UPSCALER_SCALING if enlarges else SCALING)
        encoder = text.TextEncoder.load(folder)
        encoder.save(words)
        (_upscaler if enlarges else _image)(folder, autoencoder, model, words, encoder.width)
    return [f"{out / name}: {what}" for name, what in zip(names, _kinds(*(out / name for name in names)), strict=True)]


def _is_upscaler(folder: Path) -> bool:
    """Whether the U-Net sees more than it makes; where there is none, whether anything says how frames are noised."""
    if not (folder / "unet" / "config.json").is_file():
        return (folder / LOW_SCHEDULER).is_dir()
    values = weights.settings(folder / "unet")
    return bool(values.get("num_class_embeds")) or (folder / LOW_SCHEDULER).is_dir()


def _kinds(autoencoder: Path, model: Path, words: Path) -> tuple[str, str, str]:
    made, own = weights.header(model), weights.header(autoencoder, "autoencoder").latent
    levels = f"{made.schedule['target']} of {made.schedule['steps']} levels"
    encoder = text.TextEncoder.load(words)
    beyond = f", x{made.latent['factor']}, noise 0 to {made.latent['low_levels']}" if "factor" in made.latent else ""
    return (
        f"f = {own['f']}, {own['channels']} channels",
        f"{levels}{beyond}, interface {made.interface}",
        f"{encoder.length} tokens of {encoder.width}",
    )


def _autoencoder(vae: Path, file: Path, usual: float) -> None:
    model = pretrained.load(vae)
    if not isinstance(model, Autoencoder):
        raise Mistake("is no autoencoder of images", where=vae)
    own, scaling = model.config, float(weights.settings(vae).get("scaling_factor", usual))
    latent = {
        "f": own.f, "channels": own.latent, "regularizer": own.regularizer,
        "mean": [0.0] * own.latent, "std": [1 / scaling] * own.latent,
    }  # fmt: skip
    weights.save(file, model.state_dict(), weights.Header("autoencoder", config.plain(own), latent=latent, licence=""))


def _image(folder: Path, autoencoder: Path, file: Path, words: Path, width: int) -> None:
    model = _unet(folder, width)
    if model.config.joined:
        raise Mistake("is no image model that is told words alone", where=folder / "unet")
    parents = {"autoencoder": disk.sha256(autoencoder), "text": text.identity(words)}
    _save(folder, file, model, "image", parents, weights.header(autoencoder).latent)


def _upscaler(folder: Path, autoencoder: Path, file: Path, words: Path, width: int) -> None:
    model, latent = _unet(folder, width), weights.header(autoencoder).latent
    if model.config.joined != ("low",) or not model.config.classes:
        what = "is no upscaler: its U-Net sees no low-resolution frames, or is not told how noisy they are"
        raise Mistake(what, where=folder / "unet")
    if model.config.in_channels != model.config.out_channels + 3 or latent["channels"] != model.config.out_channels:
        own = model.config
        what = f"makes {own.out_channels} of {own.in_channels} channels, of latents of {latent['channels']} beside RGB"
        raise Mistake(what, where=folder / "unet")
    noising = schedule(folder, LOW_SCHEDULER)
    index = folder / "model_index.json"
    most = weights.settings(folder, index.name).get("max_noise_level", MOST_NOISE) if index.is_file() else MOST_NOISE
    low = {
        "factor": latent["f"],
        "low_levels": min(int(most or MOST_NOISE), model.config.classes - 1, noising.steps - 1),
        "low_schedule": config.plain(noising),
    }
    _save(folder, file, model, "upsampler", upscaler.parents(file.parent), {**latent, **low})


def _unet(folder: Path, width: int) -> UNet:
    model = pretrained.load(folder / "unet")
    if not isinstance(model, UNet):
        raise Mistake("is no model of images", where=folder / "unet")
    if model.config.cross != width:
        what = f"its tokens are {model.config.cross} wide, those of its text encoder {width}"
        raise Mistake(what, where=folder / "unet")
    return model


def _save(folder: Path, file: Path, model: UNet, stage: str, parents: dict[str, str], latent: dict[str, Any]) -> None:
    own = replace(model.config, text=True)
    side = int(weights.settings(folder / "unet").get("sample_size") or 0) * latent["f"]
    header = weights.Header(
        stage,
        config.plain(own),
        parents=parents,
        interface=interface(own),
        size=(side, side),
        latent=latent,
        schedule=config.plain(schedule(folder)),
        labels=["text"],
        licence="",
    )
    weights.save(file, {f"unet.{k}": v for k, v in model.state_dict().items()}, header)


def schedule(folder: Path, part: str = "scheduler") -> ScheduleConfig:
    """From ``scheduler_config.json`` of a part.

    Raises:
        Mistake: numbers that no schedule of ours has.
    """
    file = folder / part / "scheduler_config.json"
    values: dict[str, Any] = weights.settings(file.parent, file.name)
    betas, target = str(values.get("beta_schedule", "linear")), str(values.get("prediction_type", "epsilon"))
    if betas not in BETAS or target not in TARGETS or values.get("trained_betas") is not None:
        raise Mistake(f"no schedule of {betas} betas that predicts {target} is read", where=file)
    start, end = (values.get(key, default) for key, default in (("beta_start", 1e-4), ("beta_end", 0.02)))
    steps = values.get("num_train_timesteps", 1000)
    given = {"betas": BETAS[betas], "target": TARGETS[target], "beta_start": start, "beta_end": end, "steps": steps}
    return config.build(ScheduleConfig, given, file)
