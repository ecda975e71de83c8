"""``drivesim train STAGE CONFIG [key.sub=value ...]``: configuration in, RUN/weights/STAGE.safetensors out.

The parents' files are put beside the new ones, so that RUN/weights is complete for the next stage and for generating.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from drivesim import __version__, config, weights
from drivesim.data.latents import LatentCache, LatentData
from drivesim.data.loader import ClipData
from drivesim.diffusion.loss import LossConfig
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.errors import Mistake, nearest
from drivesim.jobs import stack
from drivesim.jobs.run import recorded
from drivesim.models.autoencoder import Autoencoder, AutoencoderConfig
from drivesim.models.temporal import TemporalConfig
from drivesim.models.unet import UNetConfig
from drivesim.models.video import ImageModel, interface
from drivesim.scene import KEYFRAME_FPS
from drivesim.training.autoencoder import AutoencoderLoss, AutoencoderStage, latent_statistics
from drivesim.training.diffusion import ContextConfig, ImageStage, KeyframeStage, Latents
from drivesim.training.loop import LoopConfig, Stage, latest, steps_in, train


@dataclass(frozen=True)
class AutoencoderRun:
    """Args:
    index: folder that ``drivesim index`` wrote.
    size: height and width that frames are resized and cropped to.
    fps: rate at which frames are taken from the clips; the paper trains on single frames at 1 fps.
    statistics: frames that the latents' mean and deviation are measured on.
    """

    index: str = ""
    size: tuple[int, int] = (512, 1024)
    fps: str | int | float = "1"
    statistics: int = 256
    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    loss: AutoencoderLoss = field(default_factory=AutoencoderLoss)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        try:
            rate = Fraction(str(self.fps))
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if rate <= 0 or self.statistics < 1:
            raise Mistake("needs fps > 0, such as 1 or 15/8, and statistics >= 1", where="autoencoder")
        if min(self.size) < 1 or any(side % self.model.f for side in self.size):
            raise Mistake(f"{self.size[0]}x{self.size[1]} does not divide by f = {self.model.f}", where="size")


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


STAGES: dict[str, type] = {"autoencoder": AutoencoderRun, "image": ImageRun, "keyframes": KeyframesRun}


def run(
    stage: str,
    file: Path | None,
    overrides: list[str],
    out: Path,
    seed: int | None = None,
    device: str = "cpu",
    resume: bool = False,
    print_config: bool = False,
) -> Path:
    """Trains one stage; returns its weight file. ``print_config`` prints what results and trains nothing."""
    if stage not in STAGES:
        raise Mistake(f"no stage '{stage}'", where="train", mend=nearest(stage, STAGES))
    settings: Any = config.load(STAGES[stage], file, overrides)
    if seed is not None:
        settings = replace(settings, loop=replace(settings.loop, seed=seed))
    if print_config:
        print(config.to_yaml(settings), end="")
        return out
    target = out / "weights" / f"{stage}.safetensors"
    if not resume and (target.exists() or any((out / "checkpoints").glob("step-*.ckpt"))):
        raise Mistake("holds a run already", where=out, mend="--resume goes on with it; or choose another --out")
    begin = steps_in(latest(out)) if resume else 0
    if resume:
        _same_configuration(settings, out)
        if begin >= settings.loop.steps and target.is_file():
            return target  # nothing is left to train, and the weights are there
    build: dict[str, Callable[[Any, int], Built]] = {
        "autoencoder": _autoencoder,
        "image": _image,
        "keyframes": _keyframes,
    }
    with torch.random.fork_rng(devices=[]):  # initial weights alone; order and noise have keys of their own
        torch.manual_seed(settings.loop.seed)
        try:
            built = build[stage](settings, begin)
        except ValueError as problem:  # torch's own word on widths and groups that do not fit
            raise Mistake(str(problem), where=file or "train", mend="--print-config shows every value") from None
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(config.to_yaml(settings))
    with recorded(out, device, "train", stage=stage, config=config.digest(settings)) as noted:
        with noted.timing(stage):
            train(built.stage, built.data, stage, out, device, resume)
        for parent in built.parents:
            target.parent.mkdir(parents=True, exist_ok=True)
            if parent.resolve() != (target.parent / parent.name).resolve():
                shutil.copyfile(parent, target.parent / parent.name)
        module, header = built.finish()
        provenance = {
            "steps": built.stage.steps_done,
            "seed": settings.loop.seed,
            "data": built.origin,
            "version": __version__,
            "date": date.today().isoformat(),
            "hours": round(built.stage.minutes_spent / 60, 4),
        }
        sha = weights.save(target, module.state_dict(), replace(header, ema=settings.loop.ema, train=provenance))
        noted.facts["weights"] = {stage: sha}
    return target


@dataclass(frozen=True, eq=False)
class Built:
    """A stage ready to train, and what becomes of it afterwards."""

    stage: Stage
    data: Any
    parents: tuple[Path, ...]
    origin: str
    finish: Callable[[], tuple[torch.nn.Module, weights.Header]]


def _autoencoder(settings: AutoencoderRun, begin: int) -> Built:
    from drivesim.metrics import builtin  # its first layers stand in for LPIPS, whose weights nobody has here

    index = _given(settings.index, "index", "drivesim index")
    loop = settings.loop
    perceptual = builtin.perceptual if settings.loss.perceptual else None
    stage = AutoencoderStage(settings.model, settings.loss, loop, perceptual)

    def clips(start: int, steps: int) -> ClipData:
        return ClipData(
            index, frames=1, fps=Fraction(str(settings.fps)), size=settings.size, batch=loop.batch, steps=steps,
            start_step=start, seed=loop.seed, workers=loop.workers,
        )  # fmt: skip

    data = clips(begin, loop.steps)

    def finish() -> tuple[torch.nn.Module, weights.Header]:
        loader = clips(0, math.ceil(settings.statistics / loop.batch)).train_dataloader()  # however training ended
        frames = torch.cat([batch["video"].flatten(0, 1) for batch in loader])
        model = stage.model.cpu().eval()
        latent = {
            "f": settings.model.f, "channels": settings.model.latent, "regularizer": settings.model.regularizer,
            **latent_statistics(model, frames),
        }  # fmt: skip
        header = weights.Header(
            "autoencoder", config.plain(settings.model), size=settings.size, latent=latent, fps=str(settings.fps)
        )
        return model, header

    return Built(stage, data, (), data.digest, finish)


def _latents(autoencoder: Path) -> Latents:
    latent = weights.header(autoencoder, "autoencoder").latent
    return Latents(torch.tensor(latent["mean"]), torch.tensor(latent["std"]), Autoencoder.load(autoencoder))


def _cached(cache: str, autoencoder: Path, frames: int, loop: LoopConfig, begin: int) -> tuple[LatentCache, LatentData]:
    folder = _given(cache, "cache", "drivesim encode")
    sha = weights.sha256(autoencoder)
    opened = LatentCache.open(folder, autoencoder=sha)
    data = LatentData(
        folder, autoencoder=sha, frames=frames, batch=loop.batch, steps=loop.steps, start_step=begin, seed=loop.seed,
        workers=loop.workers,
    )  # fmt: skip
    return opened, data


def _image(settings: ImageRun, begin: int) -> Built:
    autoencoder = _weights(settings.autoencoder, "autoencoder")
    cache, data = _cached(settings.cache, autoencoder, 1, settings.loop, begin)
    image = ImageModel(settings.model)
    stage = ImageStage(
        image, _latents(autoencoder), settings.schedule, settings.loss, settings.loop, settings.label_drop
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


def _keyframes(settings: KeyframesRun, begin: int) -> Built:
    image_file = _weights(settings.image, "image")
    autoencoder = image_file.parent / "autoencoder.safetensors"
    image, of_image = stack.load_image(image_file)
    weights.header(autoencoder, "autoencoder")
    if weights.sha256(autoencoder) != of_image.parents.get("autoencoder"):
        raise Mistake("not the autoencoder that the image model was trained on", where=autoencoder)
    cache, data = _cached(settings.cache, autoencoder, settings.temporal.frames, settings.loop, begin)
    if cache.fps != KEYFRAME_FPS:
        what = f"holds latents at {cache.fps} frames a second, key-frames are at {KEYFRAME_FPS}"
        raise Mistake(what, where=settings.cache, mend=f"encode with --fps {KEYFRAME_FPS}")
    schedule = config.build(ScheduleConfig, of_image.schedule, image_file)
    stage = KeyframeStage(
        image, _latents(autoencoder), settings.temporal, settings.context, schedule, settings.loss, settings.loop,
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


def _same_configuration(settings: Any, out: Path) -> None:
    """Refuses to go on with other settings; what changes no step may differ."""
    free = ("steps", "minutes", "workers", "checkpoint_every", "sample_every")
    now, before = config.plain(settings), config.read_yaml(out / "config.yaml")
    for name in free:
        now["loop"].pop(name), before.get("loop", {}).pop(name, None)
    other = [key for key in now if now[key] != before.get(key)]
    if other:
        mend = "resume with the configuration in its config.yaml, or choose another --out"
        raise Mistake(f"began with another {', '.join(other)}", where=out, mend=mend)


def _given(value: str, key: str, command: str) -> Path:
    if not value:
        raise Mistake(f"'{key}' is not set", where="train", mend=f"{key}=FOLDER, as '{command}' wrote it")
    return Path(value)


def _weights(value: str, stage: str) -> Path:
    if not value:
        raise Mistake(f"'{stage}' is not set", where="train", mend=f"{stage}=RUN/weights/{stage}.safetensors")
    weights.header(value, stage)
    return Path(value)
