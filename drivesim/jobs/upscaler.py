"""What lies beside ``upsampler.safetensors`` where it is an upscaler of latents: its own autoencoder and text encoder,
which are not those of the frames that it enlarges."""

from pathlib import Path
from typing import Any

import torch

from drivesim import disk, weights
from drivesim.config import build
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.errors import Mistake
from drivesim.models import text

AUTOENCODER = "upsampler-autoencoder.safetensors"
TEXT = "upsampler-text"
PARENTS = {"upsampler-autoencoder": AUTOENCODER, "upsampler-text": TEXT}  # as headers call them


def is_latent(header: weights.Header) -> bool:
    """Whether the upsampler makes latents; else it makes pixels."""
    return bool(header.latent.get("f", 1) > 1)


def parents(folder: Path) -> dict[str, str]:
    """The hashes of what lies in ``folder`` beside an upscaler of latents."""
    found = {"upsampler-autoencoder": disk.sha256(folder / AUTOENCODER)} if (folder / AUTOENCODER).is_file() else {}
    if (folder / TEXT).is_dir():
        found["upsampler-text"] = text.identity(folder / TEXT)
    return found


def low_schedule(header: weights.Header, where: Path) -> ScheduleConfig:
    """That of the noise on the low-resolution frames, which public upscalers have apart from their own."""
    return build(ScheduleConfig, header.latent.get("low_schedule", header.schedule), where)


def check(file: Path, header: weights.Header) -> None:
    """Raises:
    Mistake: its autoencoder or text encoder is not beside it, or another; its latents are not as large as what it is
        shown.
    """
    found = parents(file.parent)
    for name, wanted in header.parents.items():
        if name not in PARENTS:
            continue
        if name not in found:
            mend = "'drivesim weights convert' writes it; copy it with the upscaler"
            raise Mistake(f"{PARENTS[name]} is not beside it", where=file, mend=mend)
        if found[name] != wanted:
            what = f"made with another {PARENTS[name]} ({wanted[:12]}, here {found[name][:12]})"
            raise Mistake(what, where=file, mend="copy all three of one conversion")
    f, factor = header.latent["f"], header.latent["factor"]
    if f != factor:
        what = f"enlarges {factor} times on latents {f} times smaller: what it is shown would not meet them"
        raise Mistake(what, where=file, mend=f"an upscaler of {f} times, or an autoencoder of f = {factor}")


def whitening(latent: dict[str, Any], on: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation as ``C 1 1``."""
    mean, std = (torch.tensor(latent[name], device=on)[:, None, None] for name in ("mean", "std"))
    return mean, std
