"""What ``evaluate`` will take, told before it starts: a clip of each kind is read and put through the networks."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from drivesim.errors import Mistake
from drivesim.jobs.obey import Plan
from drivesim.jobs.preflight import Estimate, Part, Room, check_disk, check_memory
from drivesim.jobs.processes import Team
from drivesim.metrics.detection import Detector
from drivesim.metrics.features import Extractor
from drivesim.metrics.measure import BATCH_FRAMES, FRAMES, Cache, Item, Ruler, Wanted, missing, prepared
from drivesim.metrics.measure import clips as clips_of
from drivesim.metrics.survey import Side
from drivesim.rollout import memory

LONG = 20  # batches; what takes fewer is over before it has been foreseen
READ = 3  # clips that are read to see how long one takes
TRIED = 8  # frames that the detector is shown for the same reason


def foresee(
    sides: tuple[Side, Side],
    rulers: Sequence[Ruler],
    folder: Path,
    team: Team,
    console: Console,
    dry_run: bool,
    further: Sequence[Callable[[], Part]] = (),
) -> None:
    """Says what the pass will take, where it is long or where nothing else is asked for.

    Args:
        further: what else is done beside the distances; asked where there is something to say.

    Raises:
        Mistake: memory or disk do not suffice.
    """
    todo = [
        [left for wanted in side.videos if (left := missing(wanted, Cache(folder, own))).clips]
        for side, own in zip(sides, rulers, strict=True)
    ]
    clips = [sum(len(wanted.clips) for wanted in side) for side in todo]
    ruler, room = rulers[0], Room.at(folder, team.device)
    rows = sum(count * (len(own.words) - 2) for count, own in zip(clips, rulers, strict=True))  # through the network
    if not dry_run and rows < LONG * ruler.batch:
        return
    beside = [part for part in (each() for each in further) if part.calls]
    if not sum(clips):
        kept = "all features are in the cache"
        if beside:
            Estimate("evaluate", tuple(beside), None, 0, f"nothing: {kept}").show(room, console)
        else:
            console.print(f"evaluate will take no time: {kept}", highlight=False)
        return
    disk = 4 * (rows * ruler.clip.dim + sum(clips) * FRAMES * ruler.frame.dim)
    check_disk(disk, room, folder, "name a --cache on another disk, or take fewer --clips")
    with memory.measured(team.device) as piece:
        reading, batch, frames = _tried([wanted for side in todo for wanted in side], ruler)
    together = team.size if team.device.type == "cpu" else 1  # processes that share the memory
    peak = None if piece.peak is None else piece.peak * together
    fit = 0 if piece.peak is None or room.memory is None else room.memory // piece.peak
    mend = f"--devices {fit} fits" if together > 1 and fit else "a --device with more memory"
    check_memory(peak, room, "evaluate", mend)
    networks = (
        Part(f"batches of {ruler.clip.name}", rows / ruler.batch / team.size, batch),
        Part("batches of single frames", sum(clips) * FRAMES / BATCH_FRAMES / team.size, frames),
    )
    read = Part("clips to read", sum(clips) / team.size, reading / team.cores)
    if team.device.type != "cpu":  # readers and networks work side by side; on a CPU they share the cores
        meanwhile = sum(part.calls * part.seconds for part in networks)
        read = replace(read, seconds=max(0.0, read.seconds - meanwhile / read.calls))
    fits = f"--devices {fit}" if together > 1 else ""
    Estimate("evaluate", (*networks, read, *beside), peak, disk, f"features of {sum(clips)} clips", fits).show(
        room, console
    )


def _tried(todo: list[Wanted], ruler: Ruler) -> tuple[float, float, float]:
    """Seconds to read and prepare a clip, and of a batch of either network; of the first video that can be read."""
    for wanted in todo:
        begin, made = time.perf_counter(), list[Item]()
        try:
            for clip, frames in islice(clips_of(wanted, ruler.protocol), READ):
                made.append(prepared(wanted, clip, frames, ruler))
        except Mistake:
            continue  # the pass leaves it out, and says why
        reading = (time.perf_counter() - begin) / len(made)
        whole, single = made[0].prepared, made[0].frames
        assert whole is not None and single is not None
        return (
            reading,
            _seconds(ruler.clip, np.repeat(whole[None], ruler.batch, axis=0)),
            _seconds(ruler.frame, np.repeat(single[:1, None], BATCH_FRAMES, axis=0)),
        )
    return 0.0, 0.0, 0.0


def looked_at(watch: Plan, detector: Detector) -> Part:
    """What a detector is shown, which no cache keeps; from a few frames without anything in them, shown twice, as the
    first call also sets up."""
    empty = np.zeros((TRIED, *watch.made[0].size, 3), np.uint8)
    detector(empty)
    begin = time.perf_counter()
    detector(empty)
    return Part("frames for the detector", watch.frames, (time.perf_counter() - begin) / TRIED)


def _seconds(network: Extractor, batch: np.ndarray) -> float:
    """Of a batch, the second one: the first also sets up."""
    network(torch.from_numpy(batch))
    begin = time.perf_counter()
    network(torch.from_numpy(batch))
    return time.perf_counter() - begin
