"""A public pipeline becomes a folder of weights: Stable Diffusion's in the diffusers layout, our own files behind.

What a pipeline calls ``unet``, ``vae`` and ``text_encoder`` with ``tokenizer`` are here ``image.safetensors``,
``autoencoder.safetensors`` and the folder ``text``; its scheduler's numbers stand in the image model's header.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from drivesim import config, weights
from drivesim.data.index import whole_folder
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.errors import Mistake
from drivesim.models import pretrained, text
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.unet import UNet
from drivesim.models.video import interface

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
BETAS = {"scaled_linear": "scaled_linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
TARGETS = {"epsilon": "eps", "v_prediction": "v"}
SCALING = 0.18215  # of Stable Diffusion's latents, where vae/config.json names none


def convert(folder: Path, out: Path) -> list[str]:
    """The pipeline in ``folder`` as the weights that ``train`` and ``generate`` take; returns a line for each.

    Raises:
        Mistake: a part is missing or of another make, or ``out`` is there already.
    """
    if out.exists():
        raise Mistake("is there already", where=out, mend="choose another --out")
    if missing := [part for part in PARTS if not (folder / part).is_dir()]:
        raise Mistake(f"holds no {missing[0]}/", where=folder, mend=f"a pipeline has {', '.join(PARTS)}")
    with whole_folder(out) as part:
        _autoencoder(folder / "vae", part / "autoencoder.safetensors")
        encoder = text.TextEncoder.load(folder)
        encoder.save(part / text.FOLDER)
        _image(folder, part, encoder.width)
    return [f"{out / name}: {what}" for name, what in _kinds(out)]


def _kinds(out: Path) -> list[tuple[str, str]]:
    made = weights.header(out / "image.safetensors", "image")
    levels = f"{made.schedule['target']} of {made.schedule['steps']} levels"
    words = text.TextEncoder.load(out / text.FOLDER)
    return [
        ("autoencoder.safetensors", f"f = {made.latent['f']}, {made.latent['channels']} channels"),
        (
            "image.safetensors",
            f"{levels}, interface {made.interface}",
        ),
        (text.FOLDER, f"{words.length} tokens of {words.width}"),
    ]


def _autoencoder(vae: Path, file: Path) -> None:
    model = pretrained.load(vae)
    if not isinstance(model, Autoencoder):
        raise Mistake("is no autoencoder of images", where=vae)
    own, scaling = model.config, float(weights.settings(vae).get("scaling_factor", SCALING))
    latent = {
        "f": own.f, "channels": own.latent, "regularizer": own.regularizer,
        "mean": [0.0] * own.latent, "std": [1 / scaling] * own.latent,
    }  # fmt: skip
    weights.save(file, model.state_dict(), weights.Header("autoencoder", config.plain(own), latent=latent, licence=""))


def _image(folder: Path, out: Path, width: int) -> None:
    model, parent = pretrained.load(folder / "unet"), out / "autoencoder.safetensors"
    if not isinstance(model, UNet) or model.config.joined:
        raise Mistake("is no image model that is told words alone", where=folder / "unet")
    if model.config.cross != width:
        what = f"its tokens are {model.config.cross} wide, those of its text encoder {width}"
        raise Mistake(what, where=folder / "unet")
    own = replace(model.config, text=True)
    parents = {"autoencoder": weights.sha256(parent), "text": text.identity(out / text.FOLDER)}
    header = weights.Header(
        "image",
        config.plain(own),
        parents=parents,
        interface=interface(own),
        latent=weights.header(parent).latent,
        schedule=config.plain(schedule(folder)),
        labels=["text"],
        licence="",
    )
    weights.save(out / "image.safetensors", {f"unet.{k}": v for k, v in model.state_dict().items()}, header)


def schedule(folder: Path) -> ScheduleConfig:
    """From ``scheduler/scheduler_config.json``.

    Raises:
        Mistake: numbers that no schedule of ours has.
    """
    file = folder / "scheduler" / "scheduler_config.json"
    values: dict[str, Any] = weights.settings(file.parent, file.name)
    betas, target = str(values.get("beta_schedule", "linear")), str(values.get("prediction_type", "epsilon"))
    if betas not in BETAS or target not in TARGETS or values.get("trained_betas") is not None:
        raise Mistake(f"no schedule of {betas} betas that predicts {target} is read", where=file)
    start, end = (values.get(key, default) for key, default in (("beta_start", 1e-4), ("beta_end", 0.02)))
    steps = values.get("num_train_timesteps", 1000)
    given = {"betas": BETAS[betas], "target": TARGETS[target], "beta_start": start, "beta_end": end, "steps": steps}
    return config.build(ScheduleConfig, given, file)
