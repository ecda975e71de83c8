"""A scenario and a seed become a run folder: the opening, the stages, the journal, the record of the run."""

import hashlib
import json
import signal
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor

from drivesim import __version__, config, disk
from drivesim.data import video
from drivesim.data.formats import Format, known
from drivesim.disk import sha256, write_atomic
from drivesim.errors import Interrupted, Mistake, out_of_memory
from drivesim.rollout import labels, memory, stages
from drivesim.rollout.behind import Behind
from drivesim.rollout.branch import Branch
from drivesim.rollout.course import Course, course, scaled, settled
from drivesim.rollout.handover import Handover
from drivesim.rollout.interpolator import Interpolator
from drivesim.rollout.journal import Journal, claimed
from drivesim.rollout.kept import Around, Kept
from drivesim.rollout.log import Log
from drivesim.rollout.mark import mark
from drivesim.rollout.placed import Placed, placed
from drivesim.rollout.plan import Plan, describe, places
from drivesim.rollout.predictor import Predictor, start_frame
from drivesim.rollout.record import Record
from drivesim.rollout.sample import NoiseSource, Told
from drivesim.rollout.scenario import Opening, Scenario
from drivesim.rollout.scenario import load as load_scenario
from drivesim.rollout.settings import RolloutConfig
from drivesim.rollout.stack import Stack
from drivesim.rollout.stages import Chunk, State
from drivesim.rollout.upscaler import Upscaler
from drivesim.scene import KEYFRAME_FPS, to_model
from drivesim.signals import Stop

STATES = 2  # of what windows leave to the next: since 2 those of the upsampler fade into each other
WORDS_PLAYED = Fraction(4, 5)  # of the rate that frames are made at: 113 at 30 are shown at 24 [4.2]
PAST_MEND = "take the weights, the device, the precision and --compile as that run did"
PAST = ("keep", "played", "weights", "size", "precision", "device", "version", "states")  # of its run, in a branch


@dataclass(frozen=True, eq=False)
class Rollout:
    """A rollout that is planned and checked, of which nothing is written yet.

    Args:
        scenario: with the size and the rate that were chosen.
        given: ``g C h w`` latents of a real opening, of none where all is made from noise; None where the image model
            makes the start frame.
        front: uint8 ``n H W 3``, the real frames up to the output's frame 0, at its rate and size; 0 without a clip.
        description: the content of plan.json.
        placed: the boxes; None where they are unknown.
        mark: in the metadata of every file that is made.
        clip_id: of the opening's clip; "" without one.
        branch: the run whose past this one has; None for a run of its own.
    """

    stack: Stack
    scenario: Scenario
    seed: int
    config: RolloutConfig
    course: Course
    noise: NoiseSource
    given: Tensor | None
    front: np.ndarray
    description: dict[str, Any]
    placed: Placed | None
    mark: str
    clip_id: str
    branch: Branch | None = None

    @property
    def plan(self) -> Plan:
        return self.course.plan

    @property
    def filled(self) -> str:
        """What frames are called that no model makes."""
        return {"blend": "blended", "repeat": "repeated"}[self.config.fill]

    @property
    def before(self) -> np.ndarray:
        """The real frames that stand in front of the output's frame 0."""
        return self.front[:-1] if self.scenario.opening.keep else self.front[:0]

    @property
    def told(self) -> Told:
        """What the models are told of every window."""
        boxes = self.placed.told if self.placed else None
        return Told(self.scenario.told, boxes, self.scenario.temporal_prompt)

    @property
    def played(self) -> Fraction:
        """Frames a second of the files."""
        return played(self.stack, self.scenario, self.plan)

    def context(self) -> Tensor:
        """The given key-frames of window 0."""
        if self.given is not None:
            return self.given
        told = replace(self.told, labels=self.scenario.opening.generate or self.scenario.told)
        return start_frame(self.stack, self.config, self.noise, told)

    def known(self) -> Tensor | None:
        """``1 3 H W``, the real frame that the output begins with, where it does."""
        shown = self.scenario.opening.keep or self.course.upsampler
        return to_model(self.front[-1:]) if shown and len(self.front) else None


def prepare(
    stack: Stack, scenario: Scenario, seed: int, settings: RolloutConfig, branch: Branch | None = None
) -> Rollout:
    """Reads the opening and its labels, and checks that scenario, settings and weights fit.

    Args:
        seed: of a branch, that of the noise from where it parts.

    Raises:
        Mistake: they do not, the opening cannot be read, a branch would have another past, or what it is to keep is
            not there.
    """
    settings = settled(stack, scaled(settings, scenario))
    chosen, opening = course(stack, scenario, settings), scenario.opening
    rate = played(stack, scenario, chosen.plan)
    scenario = replace(
        scenario, size=chosen.size, fps=str(chosen.plan.fps), seeds=[seed],
        played=None if rate == chosen.plan.fps and scenario.played is None else str(rate),
    )  # fmt: skip
    _check_words(stack, scenario)
    clip_id = _identify(Path(opening.clip), opening.rate) if opening.clip else ""
    noise = NoiseSource(seed, branch.noise if branch else scenario.identity(clip_id))
    boxes = placed(scenario, chosen.size)
    told = boxes.digest if boxes else None
    fixed = {
        "seed": seed,
        "noise": noise.scenario,
        "settings": config.plain(settings),
        "keep": opening.keep,
        **({"boxes": told} if told else {}),
        **({"from": branch.told} if branch else {}),
        **({"played": str(rate)} if rate != chosen.plan.fps else {}),
        **({} if scenario.temporal_prompt is None else {"temporal_prompt": scenario.temporal_prompt}),
        "weights": stack.weights,
        "size": chosen.size,
        "precision": stack.precision,
        "device": torch.device(stack.device).type,
        "version": __version__,
        "states": STATES,
    }
    if branch is not None:
        _check_past(branch, fixed, chosen.plan)
    given = None if stack.contextual else torch.zeros(0, *stack.latent_shape, device=stack.device)
    given = _encode_opening(stack, opening) if opening.clip else given
    front = _front(opening, chosen) if opening.clip else np.zeros((0, *chosen.size, 3), np.uint8)
    made_at = chosen.plan.fps if rate != chosen.plan.fps else None
    plan, own = describe(chosen.plan, fixed), mark(seed, noise.scenario, stack.weights, clip_id, told, made_at)
    return Rollout(stack, scenario, seed, settings, chosen, noise, given, front, plan, boxes, own, clip_id, branch)


def played(stack: Stack, scenario: Scenario, plan: Plan) -> Fraction:
    """Frames a second at which the file is written."""
    if scenario.played is not None:
        return Fraction(str(scenario.played))
    return plan.fps * (WORDS_PLAYED if stack.words else 1)


def _check_words(stack: Stack, scenario: Scenario) -> None:
    """Raises:
    Mistake: a prompt that a text encoder does not read to its end.
    """
    if not stack.words:
        return
    told = Told(scenario.told, None, scenario.temporal_prompt)
    by_field = "labels.prompt" if scenario.labels else "opening.generate.prompt"
    for field, words in (
        (by_field, lambda: told.tokens(stack.tokens, stack.device)),
        ("temporal_prompt", lambda: told.temporal(stack)),
    ):
        try:
            words()
        except Mistake as mistake:
            if mistake.field != "prompt":
                raise
            raise Mistake(mistake.what, field=field, mend=mistake.mend) from None


def _check_past(branch: Branch, fixed: dict[str, Any], plan: Plan) -> None:
    asked = json.loads(json.dumps(fixed, default=str))
    differs = [name for name in PAST if asked.get(name) != branch.fixed.get(name)]
    if differs:
        what = f"a branch has the past of its run; {', '.join(differs)} would differ"
        raise Mistake(what, where=branch.run, mend=PAST_MEND)
    if plan.count <= branch.window:
        raise Mistake(f"the branch ends before it parts, at {float(branch.second):.2f} s", field="seconds")
    if branch.keeps:
        if asked.get("boxes") in (None, branch.fixed["boxes"]):
            what = "keeps all but the places whose boxes change, and none does"
            raise Mistake(what, where="--keep", mend="--edit FILE with tracks or edits, and boxes that are known")
        branch.context(plan.count - 1)  # the last that it will ask for: told before hours go into the others


def roll(
    rollout: Rollout,
    out: Path,
    *,
    resume: bool = False,
    argv: Iterable[str] = (),
    title: str = "rollout",
    export: Iterable[Format] = known.WRITTEN,
    log: Log | None = None,
    heir: str = "",
) -> Path:
    """Makes ``out/video.mp4``, window by window; memory does not grow with its length. Then its boxes,
    where they are known, are written, also in the formats of ``export``: they are held in memory at once.

    Args:
        log: what has heard the terminal already; it goes on into ``out`` and is the caller's to end. None: a new one.
        heir: see ``journal.owned``.

    Raises:
        Mistake: the folder is not free, another process has it, it holds another plan, a file cannot be written, or
            memory does not suffice.
        Interrupted: SIGTERM or SIGUSR1, after the window that it came into; Ctrl-C, or a second signal, at once.
            ``resume`` goes on with identical frames.
    """
    with claimed(out, resume, heir), nullcontext(log) if log else Log() as heard:
        _settle(rollout, out)
        heard.to(out)
        record = Record(out, rollout.stack.device, _facts(rollout, list(argv)))
        try:
            with record.kept(), Stop("window", signal.SIGTERM, signal.SIGUSR1) as stop:
                _run(rollout, out, record, title, stop)
                _label(rollout, out, record, export)
        except KeyboardInterrupt:
            raise Interrupted(f"{out}: stopped; the same command with --resume goes on") from None
        except (RuntimeError, MemoryError) as problem:
            if not out_of_memory(problem):
                raise
            what = f"a window does not fit into the memory of {rollout.stack.device}"
            raise Mistake(what, where=out, mend=_smaller(rollout)) from None
    return out


def _smaller(rollout: Rollout) -> str:
    """The next setting to try when memory does not suffice, of the stage that holds most: the last."""
    settings, end = rollout.config, "in another --out: a run keeps its settings"
    if rollout.course.upsampler:
        sides = settings.upsample.tile or rollout.course.size
        unit = rollout.stack.upsampler.unit if rollout.stack.upsampler else 1
        height, width = (side // 2 // unit * unit for side in sides)
        if min(height, width) > settings.upsample.tile_overlap:
            return f"try upsample.tile=[{height},{width}] {end}"
    if settings.interpolation.batch > 1 and rollout.plan.passes:
        return f"try interpolation.batch={settings.interpolation.batch // 2} {end}"
    if settings.decode.batch > 1:
        return f"try decode.batch={settings.decode.batch // 2} {end}"
    return "take smaller models, or a --device with more memory"


def _facts(rollout: Rollout, argv: list[str]) -> dict[str, Any]:
    plan, words = rollout.plan, {"filled": rollout.filled}
    return {
        "job": "generate",
        "argv": argv,
        "config": config.digest(rollout.config),
        "plan": rollout.description["hash"],
        "weights": rollout.stack.weights,
        "seed": rollout.seed,
        "opening": rollout.clip_id or None,
        "from": _parting(rollout.branch) if rollout.branch else None,
        "stages": rollout.course.words(rollout.filled),
        "size": rollout.course.size,
        "fps": str(plan.fps),
        "played": str(rollout.played),
        "frames": {words.get(kind, kind): count for kind, count in plan.kinds().items() if count},
    }


def _parting(branch: Branch) -> dict[str, Any]:
    return {**branch.told, "run": str(branch.run), "second": round(float(branch.second), 3)}


def _run(rollout: Rollout, out: Path, record: Record, title: str, stop: Stop) -> None:
    plan, before = rollout.plan, rollout.before
    journal = Journal(out, rollout.description["hash"], rollout.config.states == "all")
    if (branch := rollout.branch) is not None:
        journal.adopt(Journal(branch.run, branch.plan), branch.window)
    begin, state = journal.resume()
    if branch is not None and begin < branch.window:
        raise Mistake("is no longer what it was when this branch was planned", where=branch.run, mend=f"remove {out}")
    if begin:
        record.resumed_at.append(begin)
    video_file, front = out / "video.mp4", out / "segments" / "opening.mp4"
    if begin < plan.count:
        with disk.writing(video_file):
            video_file.unlink(missing_ok=True)
        if len(before):
            with video.Writer(front, rollout.course.size, rollout.played) as writer:
                writer.write(before)
        state = {name: tensor.to(rollout.stack.device) for name, tensor in state.items()}
        with _progress() as progress:
            _write(rollout, journal, record, begin, state, stop, progress, progress.add_task(title, total=plan.total))
    if not video_file.exists():
        segments = [file for n in range(plan.count) if (file := journal.segment_file(n)).exists()]
        video.remux([front, *segments] if len(before) else segments, video_file, rollout.mark)


def _write(
    rollout: Rollout,
    journal: Journal,
    record: Record,
    begin: int,
    state: State,
    stop: Stop,
    progress: Progress,
    task: TaskID,
) -> None:
    """Windows from ``begin`` on. Encoding, hashing and the journal have a thread of their own, beside the networks."""
    chosen, plan = rollout.course, rollout.plan
    chunks, first = _made(rollout, record, begin, state)

    def written(given: Iterator[Chunk]) -> None:
        for segment in stages.write(given, journal.segment_file, chosen.size, rollout.played, first, rollout.mark):
            journal.commit(segment)
            progress.update(task, completed=segment.last)

    behind, ended = Behind(written), None
    try:
        with behind:
            for chunk in chunks:
                behind.give(chunk)
                if chunk.state is not None:
                    memory.hand_back()
                    if stop.asked:
                        ended = chunk.window.n + 1
                        break
    finally:
        record.seconds["write"] = record.seconds.get("write", 0.0) + behind.busy
    if ended is not None:
        mend = "the same command with --resume goes on"
        raise Interrupted(f"{journal.out}: stopped behind window {ended} of {plan.count}; {mend}")


def _label(rollout: Rollout, out: Path, record: Record, export: Iterable[Format]) -> None:
    """What every frame is, and its boxes where they are known: as tables, and in the formats of ``export``."""
    plan, size, told = rollout.plan, rollout.course.size, rollout.scenario.told
    front, real = len(rollout.before), 0 if rollout.known() is None else 1
    fps = rollout.played
    labelled = labels.save(out, plan, fps, rollout.filled, told, rollout.placed, size, front, real, rollout.branch)
    if labelled is not None:
        record.facts["export"] = labels.export(labelled, out, fps, export)


def _made(rollout: Rollout, record: Record, begin: int, state: State) -> tuple[Iterator[Chunk], int]:
    """What the stages make from window ``begin`` on, and the output frame that comes first."""
    stack, plan, settings, chosen = rollout.stack, rollout.plan, rollout.config, rollout.course
    at = places(plan, begin, *(len(state.get(name, ())) for name in ("decode.latents", "upsample.low")))
    told, kept = rollout.told, _kept(rollout)
    context, last = (state["latents"], state["latents"][-1]) if begin else (rollout.context(), None)
    predict = Predictor(stack, settings, rollout.noise, told, plan.frames, kept)
    chunks = record.timed("keyframes", stages.keyframes(plan, predict, context, begin))
    for number, place in enumerate(at.passes, start=1):
        between = Interpolator(stack, settings.interpolation, rollout.noise, told, number)
        made = stages.interpolate(chunks, between, place, last, settings.interpolation.batch)
        chunks = record.timed(f"interpolation-{number}", made)
    if chosen.decoder and stack.temporal_decoder:
        made = stages.decode_pieces(chunks, stack.temporal_decoder.decode, chosen.decoder, state)
    else:
        made = stages.decode(chunks, stack.decode, settings.decode.batch)
    chunks = record.timed("decode", made)
    if plan.filled > 1:
        chunks = record.timed("fill", stages.fill(chunks, plan.filled, settings.fill, state.get("fill.pixels")))
    known = rollout.known()
    if chosen.upsampler:
        upscaler = Upscaler(stack, settings.upsample, rollout.noise, told, plan.factor)
        made = stages.upsample(chunks, upscaler, chosen.upsampler, at.output, state, known)
        chunks = record.timed("upsample", made)
    if at.output == 0 and len(rollout.front):
        chunks = stages.opened(chunks, known)
        handover = Handover(rollout.front[-1], 0 if known is None else 1)
        chunks = handover.watch(chunks)
        record.late["handover"] = handover.told
    if kept is not None:
        chunks = _around(rollout, kept, at.output)(chunks)
    return chunks, at.output


def _kept(rollout: Rollout) -> Kept | None:
    """What a branch keeps of its run outside of the places that it changes, where it does."""
    branch, stack = rollout.branch, rollout.stack
    if branch is None or not branch.keeps or rollout.placed is None:
        return None
    scenario = load_scenario(branch.run / "scenario.yaml")
    before = placed(scenario, rollout.course.size)
    assert before is not None  # ``part`` has seen that the run was told boxes
    told = Told(scenario.told, before.told, scenario.temporal_prompt)
    noise = NoiseSource(branch.seed, branch.noise)
    predict = Predictor(stack, branch.settings, noise, told, rollout.plan.frames)
    return Kept(predict, lambda n: branch.context(n).to(stack.device), before.told, rollout.placed.told)


def _around(rollout: Rollout, kept: Kept, first: int) -> Around:
    """What a branch that keeps shows of its run's video, from output frame ``first`` on."""
    assert rollout.branch is not None
    start = (len(rollout.before) + first) / rollout.played
    clips = video.stream(rollout.branch.run / "video.mp4", start=start, chunk=16)
    frames = (frame for clip in clips for frame in clip.frames)
    return Around(frames, first, rollout.plan.fps, kept.before, kept.after)


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


def _identify(clip: Path, rate: Fraction | None) -> str:
    """SHA-256 of a video's bytes, or over those of a folder's images, once it is known to be one.

    Raises:
        Mistake: see ``video.probe``.
    """
    video.probe(clip, rate=rate)
    if clip.is_file():
        return sha256(clip)
    return hashlib.sha256("".join(map(sha256, video.image_folder(clip))).encode()).hexdigest()


def _encode_opening(stack: Stack, opening: Opening) -> Tensor:
    """Unscaled latents ``g C h w`` of the opening's frames, which lie 8/15 s apart."""
    start = Fraction(str(opening.at))
    count, size, rate = opening.frames, stack.size, opening.rate
    clip = video.read(opening.clip or "", fps=KEYFRAME_FPS, start=start, frames=count, size=size, rate=rate)
    with torch.inference_mode():
        return stack.encode(to_model(clip.frames).to(stack.device)).float()


def _front(opening: Opening, chosen: Course) -> np.ndarray:
    """The real frames from the first given one to the last, at the output's rate and size; the last alone where the
    others are not to be shown."""
    clip, given = opening.clip or "", (opening.given - 1) * chosen.plan.factor
    count = 1 + given if opening.keep else 1
    start = Fraction(str(opening.at)) + (given + 1 - count) / chosen.plan.fps
    size, rate = chosen.size, opening.rate
    return video.read(clip, fps=chosen.plan.fps, start=start, frames=count, size=size, rate=rate).frames


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} frames/s" if speed else "", style="progress.data.speed")


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns)
