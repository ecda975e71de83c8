"""``evaluate --clipsim``: which words every video goes by, and how well it goes with them, as CLIP sees it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from drivesim.data import captions, index
from drivesim.data.gather import Source
from drivesim.data.video import frames_in
from drivesim.errors import Mistake
from drivesim.jobs.preflight import Part
from drivesim.metrics import clipsim, survey
from drivesim.metrics.clipsim import Clip, Kept, Side
from drivesim.metrics.receipt import Score, clips_hash
from drivesim.metrics.survey import Tally, identity
from drivesim.rollout import scenario

NO_WORDS = "has no words"


@dataclass(frozen=True, eq=False)
class Plan:
    """The generated and the real videos that have words."""

    made: list[tuple[Source, str]]
    real: list[tuple[Source, str]]
    left_out: Tally = field(default_factory=Tally)

    @property
    def count(self) -> int:
        return len(self.made) + len(self.real)


def planned(names: tuple[str | Path, str | Path], places: tuple[Sequence[Source], Sequence[Source]]) -> Plan:
    """Which videos have words.

    Args:
        names, places: real and generated: what the user named, and its videos.

    Raises:
        Mistake: no generated video has any.
    """
    plan = Plan([], [])
    for name, sources, side, found in (
        ("real", places[0], names[0], plan.real),
        ("generated", places[1], names[1], plan.made),
    ):
        known = _index(side)
        for source in sources:
            try:
                words = known.get(source.clip_id) if known is not None else beside(source)
            except Mistake as problem:
                plan.left_out.add(f"{name}: {problem.what}", source.file)
                continue
            if words:
                found.append((source, words))
            else:
                plan.left_out.add(f"{name}: {NO_WORDS}", source.file)
    if not plan.made:
        mend = "a prompt in the run's scenario, captions in an index, or NAME.txt beside NAME.mp4"
        raise Mistake("no generated video has words", where="--clipsim", mend=mend)
    return plan


def _index(name: str | Path) -> dict[str, str | None] | None:
    """The captions of the index ``name`` by clip; None where it is no index."""
    if not (Path(name) / index.FILES).is_file():
        return None
    return {entry.clip_id: entry.caption for entry in index.Index.open(name).entries}


def beside(source: Source) -> str | None:
    """The prompt of the run that a video is of, or the text beside it; None where there is neither.

    Raises:
        Mistake: they cannot be read.
    """
    run = source.file.parent
    if (run / "run.json").is_file() and (run / "scenario.yaml").is_file():
        prompt = scenario.load(run / "scenario.yaml").told.prompt
        if prompt:
            return " ".join(prompt.split())
    return captions.beside(source.file, source.root or run)


def ahead(plan: Plan, sides: Sequence[survey.Side], clip: Clip, folder: Path, rate: Fraction | None) -> Part:
    """The frames that CLIP has not seen yet, and what one takes, from a few without anything in them."""
    kept = Kept(folder, clip, rate)
    known = {wanted.source.file: wanted for side in sides for wanted in side.videos}
    videos = {source.file for source, _ in (*plan.made, *plan.real)} & known.keys()
    left = [known[file].info for file in videos if not kept.holds(known[file].clip_id)]
    if not left:
        return Part("frames for CLIP", 0, 0.0)
    empty = np.zeros((clipsim.BATCH, left[0].height, left[0].width, 3), np.uint8)
    clip.images(clip.preparation.cut(empty))  # the first call also sets up
    begin = time.perf_counter()
    clip.images(clip.preparation.cut(empty))
    each = (time.perf_counter() - begin) / len(empty)
    return Part("frames for CLIP", sum(frames_in(info.seconds, rate or info.fps) for info in left), each)


def measured(plan: Plan, clip: Clip, folder: Path, rate: Fraction | None, done: Callable[[int], None]) -> list[Score]:
    """``clipsim`` of the generated videos and, where they have words, of the real ones.

    Args:
        folder: of features, kept by the content of the video.
        rate: frames a second that are taken; None: all.
        done: is told of every video that is finished.

    Raises:
        Mistake: none of the generated videos can be read.
    """
    kept, left_out, notes = Kept(folder, clip, rate), plan.left_out, Tally()
    sides = []
    for name, videos in (("generated", plan.made), ("real", plan.real)):
        words, frames, clips = [], [], []
        for source, text in videos:
            try:
                clip_id = identity(source)
                frames.append(kept.mean(source, clip_id, clip, rate))
            except Mistake as problem:
                if name == "generated" and len(videos) == 1:
                    raise
                left_out.add(f"{name}: {problem.what}", source.file)
                continue
            finally:
                done(1)
            words.append(text)
            clips.append(clip_id)
            if clip.is_long(text):
                notes.add(f"{name}: words are cut off after {clip.length} tokens", source.file)
        sides.append(Side(words, torch.stack(frames), clips_hash((c, Fraction(0)) for c in clips)) if words else None)
    made, real = sides
    if made is None:
        raise Mistake(f"no video can be held against its words: {next(iter(left_out.files))}", where="--clipsim")
    return clipsim.scores(clip, made, real, rate, left_out.counted("words"), notes.counted("words"))
