"""``drivesim train STAGE CONFIG [key.sub=value ...]``: configuration in, RUN/weights/STAGE.safetensors out.

The parents' files are put beside the new ones, so that RUN/weights is complete for the next stage and for generating.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from drivesim import __version__, config, disk, weights, yamlfile
from drivesim.data.index import QUARANTINE
from drivesim.errors import Interrupted, Mistake, nearest
from drivesim.jobs.builders.autoencoder import AutoencoderRun, build_autoencoder
from drivesim.jobs.builders.common import Built
from drivesim.jobs.builders.decoder import DecoderRun, build_decoder
from drivesim.jobs.builders.distill import distilled
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
from drivesim.jobs.processes import Team, processes
from drivesim.jobs.rehearsal import rehearse
from drivesim.jobs.run import recorded
from drivesim.models import text
from drivesim.rollout.journal import owned
from drivesim.rollout.log import Log
from drivesim.training import checkpoints, together
from drivesim.training.loop import train

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
    devices: int = 1,
) -> Path:
    """Trains one stage; returns its weight file.

    Args:
        print_config: prints what results, and trains nothing.
        dry_run: prints what the training will take (see ``rehearsal``), and writes nothing.
        devices: processes on this machine; those that torchrun or SLURM started are known by themselves. The first one
            looks at memory and disk, writes, and speaks.

    Raises:
        Mistake: anything of the above does not fit, another process trains in ``out``, memory or disk do not suffice
            (nothing is written then), or see ``loop.train``.
        Interrupted: SIGTERM, SIGUSR1 or Ctrl-C; ``resume`` goes on.
    """
    if stage not in STAGES:
        raise Mistake(f"no stage '{stage}'", where="train", mend=nearest(stage, STAGES))
    settings: Any = config.load(STAGES[stage][0], file, overrides)
    if seed is not None:
        settings = replace(settings, loop=replace(settings.loop, seed=seed))
    if print_config:
        print(config.to_yaml(settings), end="")
        return out
    with processes(device, devices, together.PATIENCE) as team:
        with config.located(file, overrides):
            settings.loop.part(team.size)
        if dry_run:
            return _train(stage, settings, file, overrides, out, team, resume, None)
        try:
            with Log() as log, ExitStack() as held:
                resume = team.first(lambda: _goes_on(stage, out, resume, held.enter_context(owned(out))))
                return _train(stage, settings, file, overrides, out, team, resume, log)
        except RuntimeError as problem:
            if not together.lost(problem):
                raise
            raise Interrupted(f"{out}: another process was lost; the same command with --resume goes on") from None


def _goes_on(stage: str, out: Path, asked: bool, killed: bool) -> bool:
    """Whether there is something to go on from, where that is asked for."""
    has_begun = killed or (out / "run.json").is_file()
    if asked and has_begun and not _has_run(stage, out):
        print(f"{out} was stopped before its first checkpoint: it begins again")
        return False
    return asked


def _has_run(stage: str, out: Path) -> bool:
    """Whether there is anything that a new training would overwrite."""
    return _target(stage, out).exists() or any((out / checkpoints.FOLDER).glob(checkpoints.NAMES))


def _target(stage: str, out: Path) -> Path:
    return out / "weights" / f"{stage}.safetensors"


def _holds(target: Path, steps: int) -> bool:
    """Whether the weights of so many steps are there; those of a run that was shorter then are none."""
    return target.is_file() and weights.header(target).train.get("steps") == steps


def _train(
    stage: str,
    settings: Any,
    file: Path | None,
    overrides: list[str],
    out: Path,
    team: Team,
    resume: bool,
    log: Log | None,
) -> Path:
    """``log``: None stops once it is said what the training will take."""
    build, loop, device = STAGES[stage][1], settings.loop, str(team.device)
    target = _target(stage, out)
    newest = team.first(lambda: _newest(stage, settings, out, resume, log is not None))
    begin = 0 if newest is None else checkpoints.steps_in(newest)
    if begin >= loop.steps and team.first(lambda: _holds(target, begin)):
        return target  # nothing is left to train

    def built_anew() -> Built:
        # initial weights alone are torch's; order and noise have keys of their own
        with torch.random.fork_rng(devices=[]), config.located(file, overrides):
            torch.manual_seed(settings.loop.seed)
            try:
                made = build(settings, begin)
                if (few := getattr(settings, "distill", None)) is not None and few.teacher:
                    return distilled(made, few, stage, settings.init)
                return begun(made, "" if begin else settings.init, stage)
            except ValueError as problem:  # torch's own word on widths and groups that do not fit
                raise Mistake(str(problem), where=file or "train", mend="--print-config shows every value") from None

    def rehearsed() -> None:
        own, taken = loop.of_one(team.size), begin * loop.accumulate

        def part() -> Built:
            built = built_anew()
            built.stage.loop = own
            return built

        try:
            rehearse(stage, part, own, taken, out, device, log is None, loop.batch // own.batch)
        except Mistake as mistake:
            if own.batch == loop.batch or "loop.batch" not in (mistake.mend or ""):
                raise
            mend = f"a larger loop.accumulate: {own.batch} samples at once are too many for a process"
            raise Mistake(mistake.what, where=mistake.where, mend=mend) from None

    if begin < loop.steps:
        team.first(rehearsed)
    if log is None:
        return target
    built = built_anew()
    built.data.quarantine = out / QUARANTINE

    def trained() -> dict[str, Any]:
        """The weights, whole; by all processes."""
        team.meet()  # what was prepared is there
        train(
            built.stage, built.data, stage, out, device, newest, built.data.clip, team.each, team.size // team.each
        )  # fmt: skip
        return dict(together.whole(built.module.state_dict()))

    if team.rank > 0:
        trained()
        team.meet()  # the first one writes
        return target
    left_out = {reason: count for reason, count in built.data.left_out.items() if count}
    for reason, count in left_out.items():
        print(f"{count} clip{'s' * (count > 1)} left out: {reason}")
    for note in built.notes:
        print(note)
    disk.write_atomic(out / "config.yaml", config.to_yaml(settings).encode())
    facts = {"stage": stage, "config": config.digest(settings), "left_out": left_out}
    with recorded(out, device, "train", facts, log) as noted:
        if built.prepare is not None:
            with noted.timing("prepare"):
                built.prepare(out, device)
        with noted.timing(stage):
            found = trained()
        if built.data.quarantine.exists():
            passed_over = len(set(built.data.quarantine.read_text(encoding="utf-8").splitlines()))
            noted.facts["quarantined"] = passed_over
            print(f"{passed_over} clip{'s' * (passed_over > 1)} could not be read, see {built.data.quarantine}")
        for parent in built.parents:
            _put(parent, target.parent / parent.name)
        if not isinstance(built.module, FSDPModule):
            built.module.cpu()
        header = built.header()
        if built.text is not None:
            built.text.cpu().save(target.parent / text.FOLDER)
            header.parents["text"] = text.identity(target.parent / text.FOLDER)
        provenance = {
            "steps": built.stage.steps_done,
            "seed": settings.loop.seed,
            "data": built.origin,
            "version": __version__,
            "date": date.today().isoformat(),
            "hours": round(built.stage.minutes_spent / 60, 4),
        } | ({"init": disk.sha256(begins)} if (begins := settings.init or built.init) else {})
        found = {name: tensor.cpu() for name, tensor in found.items()}
        sha = weights.save(target, found, replace(header, ema=settings.loop.ema, train=provenance))
        noted.facts["weights"] = {stage: sha}
    team.meet()
    return target


def _newest(stage: str, settings: Any, out: Path, resume: bool, tidy: bool) -> Path | None:
    """The checkpoint to go on from; None to begin.

    Raises:
        Mistake: there is a run, and it is not to be resumed; or none of its checkpoints is whole, or it has other
            settings.
    """
    if not resume and _has_run(stage, out):
        raise Mistake("holds a run already", where=out, mend="--resume goes on with it; or choose another --out")
    if not resume:
        return None
    newest = checkpoints.latest(out, print)
    _same_configuration(settings, out)
    if tidy:
        checkpoints.settle(newest, settings.loop.checkpoints_kept)
    return newest


def _put(parent: Path, place: Path) -> None:
    """A copy of a parent, a file or a folder of files, unless it lies there."""
    if parent.resolve() == place.resolve():
        return
    if parent.is_file():
        disk.copy_atomic(parent, place)
        return
    for file in sorted(parent.iterdir()):
        disk.copy_atomic(file, place / file.name)


def begun(built: Built, init: str, stage: str) -> Built:
    """``built`` with the weights in the file ``init`` instead of random ones, where one is named.

    Raises:
        Mistake: no such file, weights of another stage or of other shapes.
    """
    if init:
        tensors, _ = weights.load(init, stage)
        weights.fill(built.module, tensors, init)
    return built


def _same_configuration(settings: Any, out: Path) -> None:
    """Refuses to go on with other settings; what changes no step may differ."""
    free = (
        *("steps", "minutes", "workers", "checkpoint_every", "sample_every", "checkpoints_kept", "bad_steps"),
        *("accumulate", "recompute", "strategy", "checkpoint"),
    )
    now, before = config.plain(settings), yamlfile.read(out / "config.yaml")
    for name in free:
        now["loop"].pop(name), before.get("loop", {}).pop(name, None)
    other = [key for key in now if now[key] != before.get(key)]
    if other:
        mend = "resume with the configuration in its config.yaml, or choose another --out"
        raise Mistake(f"began with another {', '.join(other)}", where=out, mend=mend)
