"""What the builders share: the result, and the parents' files that a configuration names."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from drivesim import disk, weights
from drivesim.data.latent_windows import LatentData
from drivesim.data.latents import LatentCache
from drivesim.errors import Mistake
from drivesim.jobs.preflight import Part
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.text import TextEncoder
from drivesim.training.diffusion import Latents
from drivesim.training.loop import LoopConfig, Stage


@dataclass(frozen=True, eq=False)
class Built:
    """A stage ready to train, and what becomes of it afterwards.

    Args:
        module: what is trained and saved; ``header`` says what it is, once it is trained and on the CPU.
        parents: weight files that lie beside it, and folders of text encoders.
        origin: names the data.
        text: trained along and saved beside, in the folder ``text``; its identity becomes a parent.
        init: weights that training begins with, where the configuration's ``init`` does not name them.
        prepare: makes in the folder OUT, on a device, what the training needs besides; ``beforehand`` says what that
            will take.
        notes: lines to be told.
    """

    stage: Stage
    module: torch.nn.Module
    data: Any
    parents: tuple[Path, ...]
    origin: str
    header: Callable[[], weights.Header]
    text: TextEncoder | None = None
    init: Path | None = None
    prepare: Callable[[Path, str], None] | None = None
    beforehand: Callable[[Path, str], Part] | None = None
    notes: tuple[str, ...] = ()


def latents_of(autoencoder: Path) -> Latents:
    latent = weights.header(autoencoder, "autoencoder").latent
    return Latents(torch.tensor(latent["mean"]), torch.tensor(latent["std"]), Autoencoder.load(autoencoder))


def cached(
    cache: str, autoencoder: Path, frames: int, loop: LoopConfig, begin: int, rates: tuple[Fraction, ...] = ()
) -> tuple[LatentCache, LatentData]:
    given(cache, "cache", "drivesim encode")
    sha = disk.sha256(autoencoder)
    opened = LatentCache.open(cache, autoencoder=sha)  # no path: it may be a URL
    data = LatentData(
        cache, autoencoder=sha, frames=frames, batch=loop.batch, steps=loop.steps, start_step=begin, seed=loop.seed,
        workers=loop.workers, rates=rates,
    )  # fmt: skip
    return opened, data


def rate_of(fps: str | int | float) -> Fraction:
    try:
        rate = Fraction(str(fps))
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise Mistake(f"a rate above 0 is expected, not '{fps}'", field="fps", mend="such as 1, 30 or 15/8")
    return rate


def given(value: str, key: str, command: str) -> Path:
    if not value:
        raise Mistake(f"'{key}' is not set", where="train", mend=f"{key}=FOLDER, as '{command}' wrote it")
    return Path(value)


def weights_of(value: str, stage: str) -> Path:
    if not value:
        raise Mistake(f"'{stage}' is not set", where="train", mend=f"{stage}=RUN/weights/{stage}.safetensors")
    weights.header(value, stage)
    return Path(value)
