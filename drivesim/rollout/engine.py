"""A scenario and a seed become a run folder: the opening, the stages, the journal, the record of the run."""

import hashlib
import json
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from drivesim import __version__, config
from drivesim.data import video
from drivesim.errors import Interrupted, Mistake
from drivesim.models.temporal import MAX_GIVEN
from drivesim.rollout import stages
from drivesim.rollout.journal import Journal, claimed
from drivesim.rollout.plan import Plan, describe, factor_for, keyframes_for
from drivesim.rollout.record import Record
from drivesim.rollout.sample import NoiseSource, Predictor, RolloutConfig, start_frame
from drivesim.rollout.scenario import Opening, Scenario
from drivesim.rollout.stages import Stack
from drivesim.scene import KEYFRAME_FPS, to_model
from drivesim.weights import sha256, write_atomic


@dataclass(frozen=True, eq=False)
class Rollout:
    """A rollout that is planned and checked, of which nothing is written yet.

    Args:
        given: ``g C h w`` latents of a real opening; None where the image model makes the start frame.
        description: the content of plan.json.
    """

    stack: Stack
    scenario: Scenario
    seed: int
    config: RolloutConfig
    plan: Plan
    noise: NoiseSource
    given: Tensor | None
    description: dict[str, Any]

    def context(self) -> Tensor:
        """The given key-frames of window 0."""
        if self.given is not None:
            return self.given
        return start_frame(self.stack, self.config, self.noise, self.scenario.opening.generate or self.scenario.told)


def prepare(stack: Stack, scenario: Scenario, seed: int, settings: RolloutConfig) -> Rollout:
    """Reads the opening, and checks that scenario, settings and weights fit.

    Raises:
        Mistake: they do not, or the opening cannot be read.
    """
    settings = _scaled(settings, scenario)
    if scenario.size not in (None, stack.size):
        made, asked = ("x".join(map(str, size)) for size in (stack.size, scenario.size or ()))
        raise Mistake(
            f"these weights make {made} frames, not {asked}", where="size", mend="leave it out, or train at that size"
        )
    if settings.overlap >= stack.frames:
        mend = f"at most {stack.frames - 1}"
        raise Mistake(
            f"{settings.overlap} frames leave nothing to predict in windows of {stack.frames}",
            where="overlap",
            mend=mend,
        )
    if settings.overlap > MAX_GIVEN:
        raise Mistake(f"{settings.overlap} given frames; the models learn from at most {MAX_GIVEN}", where="overlap")
    opening = scenario.opening
    if opening.given >= stack.frames:
        raise Mistake(
            f"{opening.given} given frames fill a window of {stack.frames}", where="opening.frames", mend="give 1"
        )
    if not opening.clip and stack.image is None:
        raise Mistake(
            "no image weights to make a start frame with", mend="--opening CLIP@SECOND starts from a real clip"
        )
    for denoiser, sampler in ((stack.keyframes, settings.sampler), (stack.image, settings.start)):
        if denoiser is not None:
            sampler.build(denoiser)
    plan = Plan(
        keyframes_for(scenario.seconds), stack.frames, settings.overlap, opening.given, factor_for(scenario.rate)
    )
    clip_id = _identify(Path(opening.clip)) if opening.clip else ""
    noise = NoiseSource(seed, scenario.identity(clip_id), shared=stack.shared)
    fixed = {
        "seed": seed,
        "noise": noise.scenario,
        "settings": config.plain(settings),
        "weights": stack.weights,
        "size": stack.size,
        "precision": stack.precision,
        "device": torch.device(stack.device).type,
        "version": __version__,
    }
    given = _encode_opening(stack, opening) if opening.clip else None
    return Rollout(stack, scenario, seed, settings, plan, noise, given, describe(plan, fixed))


def roll(
    rollout: Rollout, out: Path, *, resume: bool = False, argv: Iterable[str] = (), title: str = "rollout"
) -> Path:
    """Makes ``out/video.mp4``, window by window; memory and temporary disk do not grow with its length.

    Raises:
        Mistake: the folder is not free, another process has it, or it holds another plan.
        Interrupted: SIGTERM or Ctrl-C; ``resume`` goes on with identical frames.
    """
    with claimed(out, resume):
        _settle(rollout, out)
        record = Record(out, rollout.stack.device, _facts(rollout, list(argv)))
        try:
            with _terminable():
                record.save("running")
                _run(rollout, out, record, title)
                record.save("done")
        except KeyboardInterrupt:
            record.save("interrupted")
            raise Interrupted(f"{out}: stopped; the same command with --resume goes on") from None
        except BaseException:
            record.save("failed")
            raise
    return out


def _facts(rollout: Rollout, argv: list[str]) -> dict[str, Any]:
    plan, filled = rollout.plan, {"blend": "blended", "repeat": "repeated"}[rollout.config.fill]
    return {
        "job": "generate",
        "argv": argv,
        "config": config.digest(rollout.config),
        "plan": rollout.description["hash"],
        "weights": rollout.stack.weights,
        "seed": rollout.seed,
        "fps": str(plan.fps),
        "frames": {"key": plan.keyframes, filled: plan.total - plan.keyframes},
    }


def _run(rollout: Rollout, out: Path, record: Record, title: str) -> None:
    stack, plan, settings = rollout.stack, rollout.plan, rollout.config
    journal = Journal(out, rollout.description["hash"])
    begin, state = journal.resume()
    if begin:
        record.resumed_at.append(begin)
    video_file = out / "video.mp4"
    if begin < plan.count:
        video_file.unlink(missing_ok=True)
        state = {name: tensor.to(stack.device) for name, tensor in state.items()}
        context = state["latents"] if begin else rollout.context()
        predict = Predictor(stack, settings, rollout.noise, rollout.scenario.told)
        latents = record.timed("keyframes", stages.keyframes(plan, predict, context, begin))
        frames = record.timed("decode", stages.decode(latents, stack.decode, settings.decode_batch))
        filled = record.timed("fill", stages.fill(frames, plan.factor, settings.fill, state.get("pixels")))
        written = record.timed("write", stages.write(filled, journal.segment_file, stack.size, plan.fps))
        with _progress() as progress:
            done = plan.segment(plan.window(begin))[0]
            task = progress.add_task(title, total=plan.total, completed=done)
            for segment in written:
                journal.commit(segment)
                progress.update(task, completed=plan.segment(segment.window)[1])
    if not video_file.exists():
        video.remux([journal.segment_file(n) for n in range(plan.count)], video_file, stages.MARK)


def _settle(rollout: Rollout, out: Path) -> None:
    """Writes what the run is made from, or compares it with what stands there."""
    file = out / "plan.json"
    if file.exists():
        try:
            found = json.loads(file.read_bytes())
            differs = _differences({**found["plan"], **found["fixed"]}, rollout.description)
            same = found["hash"] == rollout.description["hash"]
        except (ValueError, KeyError, TypeError):
            raise Mistake("cannot be read", where=file, mend="start anew in another --out") from None
        if not same:
            mend = "repeat the command that it was begun with, or name another --out"
            raise Mistake(f"this run has another plan ({differs})", where=out, mend=mend)
        return
    write_atomic(out / "scenario.yaml", config.to_yaml(rollout.scenario).encode())
    write_atomic(out / "config.yaml", config.to_yaml(rollout.config).encode())
    write_atomic(file, json.dumps(rollout.description, indent=1).encode())  # last: with it, the folder is a run


def _differences(found: dict[str, Any], description: dict[str, Any]) -> str:
    asked = {**description["plan"], **description["fixed"]}
    names = [name for name in asked if found.get(name) != asked[name]]
    return ", ".join(names) + " differ" if names else "its hash differs"


def _scaled(settings: RolloutConfig, scenario: Scenario) -> RolloutConfig:
    """The settings under the scenario's own guidance scales."""
    own = {name: value for name, value in config.plain(scenario.guidance).items() if value is not None}
    return replace(settings, guidance=replace(settings.guidance, **own))


def _identify(clip: Path) -> str:
    """SHA-256 of a video's bytes, or over those of a folder's images."""
    if not clip.exists():
        raise Mistake("no such file", where=clip)
    if clip.is_file():
        return sha256(clip)
    return hashlib.sha256("".join(map(sha256, video.image_folder(clip))).encode()).hexdigest()


def _encode_opening(stack: Stack, opening: Opening) -> Tensor:
    """Unscaled latents ``g C h w`` of the opening's frames, which lie 8/15 s apart."""
    clip = video.read(
        opening.clip or "", fps=KEYFRAME_FPS, start=Fraction(str(opening.at)), frames=opening.frames, size=stack.size
    )
    with torch.inference_mode():
        return stack.encode(to_model(clip.frames).to(stack.device)).float()


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does. Files are replaced whole, so it may come at any time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} frames/s" if speed else "", style="progress.data.speed")


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns)
