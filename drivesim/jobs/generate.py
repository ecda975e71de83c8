"""``drivesim generate``: scenarios and weights become run folders with a video each.

A run is a task: of this process, one after another, or of workers (``fanout``). A worker that takes over the run of one
that died goes on behind its journal.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from rich import print as say
from rich.markup import escape

from drivesim import config
from drivesim.data.formats import Format, known
from drivesim.errors import Mistake
from drivesim.jobs import stack as stacks
from drivesim.jobs.fanout import Engine
from drivesim.jobs.outlook import foresee
from drivesim.jobs.preflight import Room
from drivesim.rollout import memory
from drivesim.rollout import scenario as scenarios
from drivesim.rollout.branch import Branch, changed, part
from drivesim.rollout.engine import Rollout, prepare, roll
from drivesim.rollout.journal import check_free
from drivesim.rollout.log import Log
from drivesim.rollout.scenario import Scenario
from drivesim.rollout.settings import RolloutConfig
from drivesim.rollout.stack import Stack


@dataclass(frozen=True)
class Task:
    """A run: ``scenario`` with ``seed``, read from ``source`` (None: from options alone), into ``folder``."""

    folder: Path
    title: str
    scenario: Scenario
    seed: int
    source: Path | None


@dataclass(frozen=True)
class Loading:
    """Which weights are loaded, and how they are called: each worker does so for itself. See ``stack.load``."""

    weights: Path
    device: str
    precision: str
    backbone: Path | None
    temporal: str | None
    compiled: bool

    def load(self) -> Stack:
        """Raises:
        Mistake: see ``stack.load``.
        """
        return stacks.load(self.weights, self.device, self.precision, self.backbone, self.temporal, self.compiled)


@dataclass(frozen=True)
class Parting:
    """Where a branch parts from its run, and whether it keeps what does not change: see ``branch.part``."""

    parent: Path
    at: Fraction
    keep: bool

    def branch(self) -> Branch:
        """Raises:
        Mistake: see ``branch.part``.
        """
        return part(self.parent, self.at, self.keep)


@dataclass(frozen=True)
class Roller:
    """What does a task in a worker.

    Args:
        loading: what a worker loads.
        settings, export: see ``run``.
        parting: of a branch; None for a run of its own.
        command: a word that no other command has; see ``journal.owned``.
    """

    loading: Loading
    settings: tuple[str, ...]
    export: str | None
    parting: Parting | None
    command: str

    @cached_property
    def stack(self) -> Stack:
        return self.loading.load()

    def __call__(self, task: Task) -> list[str]:
        """Makes or finishes the video, whether its folder was free is known already; returns what is said of it."""
        branch = self.parting.branch() if self.parting else None
        settings = branch.settings if branch else config.load(RolloutConfig, None, list(self.settings))
        rollout = _prepared(self.stack, task, settings, branch)
        told: dict[str, Any] = {"argv": sys.argv, "title": task.title, "export": _formats(self.export)}
        roll(rollout, task.folder, resume=True, heir=self.command, **told)
        return _lines(task.folder, rollout)


def run(
    scenario: Path | None,
    weights: Path,
    out: Path,
    opening: str | None = None,
    minutes: float | None = None,
    seeds: list[int] | None = None,
    size: tuple[int, int] | None = None,
    fps: Fraction | None = None,
    device: str = "cpu",
    resume: bool = False,
    settings: list[str] | None = None,
    precision: str = "bf16",
    compiled: bool = False,
    keep_opening: bool = False,
    dry_run: bool = False,
    export: str | None = None,
    parent: Path | None = None,
    at: Fraction | None = None,
    edit: Path | None = None,
    keep: bool = False,
    prompt: str | None = None,
    temporal_prompt: str | None = None,
    backbone: Path | None = None,
    temporal: str | None = None,
    engine: Engine | None = None,
) -> list[Path]:
    """Generates every scenario with every seed; returns the run folders. Says before what that will take.

    Args:
        scenario: a scenario file, a folder of them (a sub-folder of ``out`` each), or None for the options alone.
        weights: the folder with STAGE.safetensors.
        opening: ``CLIP@SECOND``.
        opening, minutes, seeds, size, fps, prompt, temporal_prompt: what is given of these replaces the scenario's.
        keep_opening: the real frames of the opening stand in front.
        seeds: more than one make sub-folders ``seed-1``, ``seed-2``, ...
        settings: ``key.sub=value`` for ``RolloutConfig``.
        precision: ``bf16`` or ``32``, of the networks; latents between stages are float32 either way.
        compiled: the denoisers are; what it will take is said of those that are not.
        dry_run: stops once that is said, and writes nothing.
        parent: a run of which another future is made, in the place of a scenario: from second ``at`` on, with what the
            file ``edit`` changes. Its settings stay; ``seeds`` are of the noise from there on.
        keep: the branch keeps what lies outside of the places whose boxes ``edit`` changes.
        backbone, temporal: other weights in the place of some of ``weights``; see ``stack.load``.
        export: label formats of the boxes, by name with commas between them, or ``none``; None is all that are written.
        engine: who makes the runs; None: this process.

    Raises:
        Mistake: anything of the above does not fit, or memory or disk do not suffice; nothing is written then.
        Interrupted: asked to stop; ``resume`` goes on.
    """
    rollout_config, formats, branch = config.load(RolloutConfig, None, settings or []), _formats(export), None
    parting = None if parent is None or at is None else Parting(parent, at, keep)
    if parting is None:
        _check_from(parent, at, edit, keep)
        found = {
            name: _with_options(each, opening, minutes, seeds or [], size, fps, keep_opening, prompt, temporal_prompt)
            for name, each in _scenarios(scenario).items()
        }
    else:
        _check_alone(
            scenario=scenario, opening=opening, minutes=minutes, size=size, fps=fps, keep_opening=keep_opening,
            settings=settings, prompt=prompt, temporal_prompt=temporal_prompt,
        )  # fmt: skip
        branch, scenario = parting.branch(), edit
        found, rollout_config = {"": _future(branch, edit, seeds or [])}, branch.settings
    if export is not None and formats and all(each.boxes == "unknown" for each in found.values()):
        mend = "a scenario with boxes: none, or boxes: tracks; or leave --export out"
        raise Mistake("there are no boxes to write: they are unknown", where="--export", mend=mend)
    _check_free(out, found, resume)
    asked = Loading(weights, device, precision, backbone, temporal, compiled)
    with Log() as log:
        with memory.measured(torch.device(device)) as held:
            stack = asked.load()
        for name, each in found.items():
            if each.boxes != "unknown" and stack.boxed is None:
                what = f"boxes: {each.boxes}, and these weights take no boxes"
                mend = (
                    "train an image model with joined: [boxes] (docs/boxes.md); 'drivesim scenario preview' needs none"
                )
                raise Mistake(what, where=name or scenario, mend=mend)
        tasks = list(_tasks(out, found, scenario))
        rollouts = [_prepared(stack, task, rollout_config, branch) for task in tasks]
        remarks = (line for rollout in rollouts if rollout.placed for line in rollout.placed.remarks.lines())
        for line in dict.fromkeys(remarks):
            say(f"[yellow]labels[/] {escape(line)}")
        with (engine or Engine()).crew(device) as crew:
            pairs = zip(tasks, rollouts, strict=True)
            if left := [rollout for task, rollout in pairs if not (task.folder / "video.mp4").exists()]:
                room = Room.at(out, stack.device)
                with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
                    crew.shared(foresee(left, out, room, held.peak), room).show(room)
            if dry_run:
                return []
            if crew.far:
                del stack, rollouts, left  # each worker has its own
                there = replace(asked, device=torch.device(device).type)  # which of its devices, Ray says
                roller = Roller(there, tuple(settings or ()), export, parting, uuid4().hex)
                for lines in crew.map(roller, tasks, "scenarios", lambda task: task.folder):
                    _say(lines)
            else:
                for task, rollout in zip(tasks, rollouts, strict=True):
                    told: dict[str, Any] = {"argv": sys.argv, "title": task.title, "export": formats, "log": log}
                    roll(rollout, task.folder, resume=resume, **told)
                    _say(_lines(task.folder, rollout))
                    log.to(None)
        done = [task.folder for task in tasks]
        _tell_lost(done)
    return done


def _tasks(out: Path, found: dict[str, Scenario], source: Path | None) -> Iterator[Task]:
    for name, each in found.items():
        for seed in each.seeds:
            folder = _folder(out, found, name, each, seed)
            file = source / f"{name}.yaml" if source and name else source
            yield Task(folder, folder.relative_to(out.parent).as_posix(), each, seed, file)


def _check_from(parent: Path | None, at: Fraction | None, edit: Path | None, keep: bool) -> None:
    if parent is not None:
        raise Mistake("needs --at SECOND, where the branch parts", where="--from")
    for name, value in (("--at", at), ("--edit", edit), ("--keep", keep or None)):
        if value is not None:
            raise Mistake("belongs to a branch", where=name, mend="add --from RUN")


def _check_alone(**given: object) -> None:
    """Raises:
    Mistake: an option beside ``--from`` that would change the past.
    """
    named = [name.replace("_", "-") for name, value in given.items() if value]
    if named:
        mend = "what may change from --at on stands in the file of --edit; --seed takes other noise"
        raise Mistake(f"goes without {', '.join(named)}: the run has settled that", where="--from", mend=mend)


def _future(branch: Branch, edit: Path | None, seeds: list[int]) -> Scenario:
    """Raises:
    Mistake: nothing in it would differ from the run.
    """
    if edit is None and (not seeds or branch.seed in seeds):
        mend = "--edit FILE changes boxes or labels, another --seed the noise"
        raise Mistake("would be the run itself again", where="--from", mend=mend)
    return scenarios.check(replace(changed(branch, edit), seeds=seeds or [branch.seed]))


def _formats(names: str | None) -> tuple[Format, ...]:
    if names in (None, "all"):
        return known.WRITTEN
    chosen = [name.strip() for name in names.split(",")] if names != "none" else []
    return tuple(known.written(name, "--export") for name in dict.fromkeys(chosen))


def _lines(folder: Path, rollout: Rollout) -> list[str]:
    """What is said of a run that is done."""
    plan, (height, width) = rollout.plan, rollout.course.size
    length, fps = float(plan.total / rollout.played), float(rollout.played)
    made = f", made at {float(plan.fps):g}" if rollout.played != plan.fps else ""
    lines = [f"{folder / 'video.mp4'}: {plan.total} frames of {height}x{width}, {length:.1f} s at {fps:g} fps{made}"]
    lines.append(f"  {', '.join(rollout.course.words(rollout.filled))}")
    if rollout.branch is not None:
        lines.append(f"  parts from {rollout.branch.run} at {float(rollout.branch.second):.2f} s")
    record = json.loads((folder / "run.json").read_bytes())
    exported = ", ".join(record["export"]) or "none" if "export" in record else "none, as its boxes are unknown"
    lines.append(f"  label files: {exported}")
    if handover := record.get("handover"):
        change = f"a change of {handover['jump']} levels, {handover['ratio']} times those that follow"
        lines.append(f"  from real to made: {change}")
    return lines


def _say(lines: list[str]) -> None:
    for line in lines:
        say(line)


def _tell_lost(folders: list[Path]) -> None:
    """What formats could not carry, once for all runs."""
    lost: dict[str, int] = {}
    for folder in folders:
        for name, reasons in json.loads((folder / "run.json").read_bytes()).get("export", {}).items():
            for reason, count in reasons.items():
                lost[f"{name}: {reason}"] = lost.get(f"{name}: {reason}", 0) + count
    for line, count in lost.items():
        say(f"[yellow]labels[/] {count} x {escape(line)}")


def _check_free(out: Path, found: dict[str, Scenario], resume: bool) -> None:
    """Refuses an ``out`` that is in use, before any model is loaded."""
    folders = [_folder(out, found, name, each, seed) for name, each in found.items() for seed in each.seeds]
    if folders == [out]:
        check_free(out, resume)
    elif out.exists() and (not out.is_dir() or (any(out.iterdir()) and not resume)):
        mend = "--resume goes on with its runs; or name another --out"
        raise Mistake("this folder is not empty" if out.is_dir() else "is a file, not a folder", where=out, mend=mend)
    else:
        for folder in folders:
            check_free(folder, resume)


def _scenarios(source: Path | None) -> dict[str, Scenario]:
    """Scenarios by the name of their sub-folder; a single one has the name "" and none."""
    if source is None:
        return {"": Scenario()}
    if not source.is_dir():
        return {"": scenarios.load(source)}
    files = sorted(source.glob("*.yaml"))
    if not files:
        raise Mistake("holds no scenario", where=source, mend="scenarios are files that end in .yaml")
    return {file.stem: scenarios.load(file) for file in files}


def _prepared(stack: Stack, task: Task, settings: RolloutConfig, branch: Branch | None) -> Rollout:
    """``prepare``; what of the scenario does not fit its clip's labels is told with the line of its file."""
    with config.located(task.source):
        return prepare(stack, task.scenario, task.seed, settings, branch)


def _with_options(
    scenario: Scenario,
    opening: str | None,
    minutes: float | None,
    seeds: list[int],
    size: tuple[int, int] | None,
    fps: Fraction | None,
    keep_opening: bool,
    prompt: str | None,
    temporal_prompt: str | None,
) -> Scenario:
    start = scenarios.parse_opening(opening) if opening else scenario.opening
    given: dict[str, Any] = {
        "opening": replace(start, keep=True) if keep_opening else start,
        "seconds": None if minutes is None else minutes * 60,
        "seeds": seeds or None,
        "size": size,
        "fps": None if fps is None else str(fps),
        "labels": None if prompt is None else replace(scenario.told, prompt=prompt),
        "temporal_prompt": temporal_prompt,
    }
    return scenarios.check(replace(scenario, **{name: value for name, value in given.items() if value is not None}))


def _folder(out: Path, found: dict[str, Scenario], name: str, scenario: Scenario, seed: int) -> Path:
    folder = out / name if len(found) > 1 or name else out
    return folder / f"seed-{seed}" if len(scenario.seeds) > 1 else folder
