"""``drivesim train STAGE CONFIG [key.sub=value ...]``: configuration in, RUN/weights/STAGE.safetensors out.

The parents' files are put beside the new ones, so that RUN/weights is complete for the next stage and for generating.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from drivesim import __version__, config, weights, yamlfile
from drivesim.errors import Mistake, nearest
from drivesim.jobs.builders.autoencoder import AutoencoderRun, build_autoencoder
from drivesim.jobs.builders.common import Built
from drivesim.jobs.builders.decoder import DecoderRun, build_decoder
from drivesim.jobs.builders.latents import (
    ImageRun,
    InterpolationRun,
    KeyframesRun,
    build_image,
    build_interpolation,
    build_keyframes,
)
from drivesim.jobs.builders.upsampler import (
    UpsamplerRun,
    UpsamplerTemporalRun,
    build_upsampler,
    build_upsampler_temporal,
)
from drivesim.jobs.rehearsal import rehearse
from drivesim.jobs.run import recorded
from drivesim.training.loop import latest, steps_in, train

STAGES: dict[str, tuple[type, Callable[[Any, int], Built]]] = {
    "autoencoder": (AutoencoderRun, build_autoencoder),
    "image": (ImageRun, build_image),
    "keyframes": (KeyframesRun, build_keyframes),
    "interpolation": (InterpolationRun, build_interpolation),
    "decoder": (DecoderRun, build_decoder),
    "upsampler": (UpsamplerRun, build_upsampler),
    "upsampler-temporal": (UpsamplerTemporalRun, build_upsampler_temporal),
}


def run(
    stage: str,
    file: Path | None,
    overrides: list[str],
    out: Path,
    seed: int | None = None,
    device: str = "cpu",
    resume: bool = False,
    print_config: bool = False,
    dry_run: bool = False,
) -> Path:
    """Trains one stage; returns its weight file.

    Args:
        print_config: prints what results, and trains nothing.
        dry_run: prints what the training will take (see ``rehearsal``), and writes nothing.

    Raises:
        Mistake: anything of the above does not fit, or memory or disk do not suffice; nothing is written then.
        Interrupted: Ctrl-C; ``resume`` goes on.
    """
    if stage not in STAGES:
        raise Mistake(f"no stage '{stage}'", where="train", mend=nearest(stage, STAGES))
    kind, build = STAGES[stage]
    settings: Any = config.load(kind, file, overrides)
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

    def built_anew() -> Built:
        # initial weights alone are torch's; order and noise have keys of their own
        with torch.random.fork_rng(devices=[]), config.located(file, overrides):
            torch.manual_seed(settings.loop.seed)
            try:
                return build(settings, begin)
            except ValueError as problem:  # torch's own word on widths and groups that do not fit
                raise Mistake(str(problem), where=file or "train", mend="--print-config shows every value") from None

    if begin < settings.loop.steps:
        rehearse(stage, built_anew, settings.loop, begin, out, device, dry_run)
    if dry_run:
        return target
    built = built_anew()
    left_out = {reason: count for reason, count in built.data.left_out.items() if count}
    for reason, count in left_out.items():
        print(f"{count} clip{'s' * (count > 1)} left out: {reason}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(config.to_yaml(settings))
    with recorded(out, device, "train", stage=stage, config=config.digest(settings), left_out=left_out) as noted:
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


def _same_configuration(settings: Any, out: Path) -> None:
    """Refuses to go on with other settings; what changes no step may differ."""
    free = ("steps", "minutes", "workers", "checkpoint_every", "sample_every")
    now, before = config.plain(settings), yamlfile.read(out / "config.yaml")
    for name in free:
        now["loop"].pop(name), before.get("loop", {}).pop(name, None)
    other = [key for key in now if now[key] != before.get(key)]
    if other:
        mend = "resume with the configuration in its config.yaml, or choose another --out"
        raise Mistake(f"began with another {', '.join(other)}", where=out, mend=mend)
