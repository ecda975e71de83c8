"""The pass of ``evaluate``: vectors of all clips into the cache, by this process, by several, or by workers."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from drivesim.data.gather import Source
from drivesim.jobs.fanout import Engine
from drivesim.jobs.instruments import Settings, ruler_for
from drivesim.metrics.measure import Cache, Ruler, Wanted, measure, missing
from drivesim.metrics.protocols import Protocol
from drivesim.metrics.survey import Probes, Side, survey
from drivesim.rollout import memory

HANDED_BACK_EVERY = 16  # clips after which freed memory goes back to the system
BATCHES = 4  # of clips in a worker's task, at least


def both_sides(
    places: tuple[list[Source], list[Source]], protocol: Protocol, probes: Probes, readers: int, console: Console
) -> tuple[Side, Side]:
    """The videos of both, with the clips that are taken of each.

    Raises:
        Mistake: see ``survey``.
    """
    found = []
    for name, sources in zip(("real", "generated"), places, strict=True):
        with bar_on(console) as bar:
            task = bar.add_task(f"{name}: looking", total=len(sources))

            def counted(done: Iterable[Any], bar: Progress = bar, task: Any = task) -> Iterator[Any]:
                for one in done:
                    yield one
                    bar.advance(task)

            found.append(survey(sources, protocol, probes, readers, counted))
    return found[0], found[1]


def measure_side(name: str, side: Side, ruler: Ruler, cache: Cache, readers: int, console: Console) -> dict[str, str]:
    """Why a video could not be decoded, by its hash; all else is in the cache now."""
    todo = [left for wanted in side.videos if (left := missing(wanted, cache)).clips]
    clips = sum(len(wanted.clips) for wanted in todo)
    if not clips:
        return {}
    with bar_on(console) as bar:
        task, finished = bar.add_task(f"{name}: measuring clips", total=clips), itertools.count(1)

        def done(clips: int) -> None:
            bar.advance(task, clips)
            if next(finished) % HANDED_BACK_EVERY == 0:
                memory.hand_back()

        return measure(todo, ruler, cache, readers, done)


@dataclass(frozen=True)
class Batch:
    """A worker's task: some videos of a side, which is measured with ``controls`` or without."""

    videos: tuple[Wanted, ...]
    controls: bool


@dataclass(frozen=True)
class Measurer:
    """What does it: features of videos into the cache in ``folder``, which all workers see."""

    protocol: Protocol
    settings: Settings
    device: str
    folder: Path

    @cached_property
    def ruler(self) -> Ruler:
        return ruler_for(self.protocol, self.settings, torch.device(self.device))

    def __call__(self, batch: Batch) -> dict[str, str]:
        """Why a video could not be decoded, by its hash."""
        ruler = replace(self.ruler, controls=batch.controls)
        failed = measure(batch.videos, ruler, Cache(self.folder, ruler), 1, lambda clips: None)
        memory.hand_back()
        return failed


def fan_out(
    engine: Engine, sides: tuple[Side, Side], rulers: Sequence[Ruler], folder: Path, settings: Settings, device: str
) -> dict[str, str]:
    """By ``engine``'s workers: why videos could not be decoded, by their hashes; all else is in the cache now.

    Raises:
        Mistake: a worker's own, or too many of them died.
    """
    todo = [batch for side, own in zip(sides, rulers, strict=True) for batch in _batches(side, own, folder)]
    if not todo:
        return {}
    work = Measurer(rulers[0].protocol, settings, torch.device(device).type, folder.absolute())
    with engine.crew(device) as crew:
        found = crew.map(work, todo, "batches of videos", lambda batch: batch.videos[0].source.file)
        return {clip_id: reason for failed in found for clip_id, reason in failed.items()}


def _batches(side: Side, ruler: Ruler, folder: Path) -> Iterator[Batch]:
    """What is not in the cache, so many videos together that the last batch of clips, which is padded, is one of a
    few."""
    held, cache = list[Wanted](), Cache(folder, ruler)
    for wanted in side.videos:
        if (left := missing(wanted, cache)).clips:
            held.append(left)
        if sum(len(each.clips) for each in held) >= BATCHES * ruler.batch:
            yield Batch(tuple(held), ruler.controls)
            held = []
    if held:
        yield Batch(tuple(held), ruler.controls)


def leave_out_failed(side: Side, ruler: Ruler, cache: Cache, failed: dict[str, str]) -> None:
    """Videos whose clips are still missing could not be decoded; those of other processes are tried once more, for the
    reason."""
    todo = [left for wanted in side.videos if (left := missing(wanted, cache)).clips]
    unknown = [wanted for wanted in todo if wanted.clip_id not in failed]
    reasons = failed | (measure(unknown, ruler, cache, 1, lambda count: None) if unknown else {})
    for wanted in [wanted for wanted in side.videos if wanted.clip_id in {left.clip_id for left in todo}]:
        if wanted.clip_id in reasons:
            side.videos.remove(wanted)
            side.left_out.add(reasons[wanted.clip_id], wanted.source.file)


def bar_on(console: Console) -> Progress:
    """A bar that is drawn on a terminal alone, and goes when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(
        *columns,
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
