"""What a long command will take, told before it starts: time, memory and disk; and whether that is there.

Time is a sum of parts, each a number of calls times the seconds of one that was measured. Memory follows a line over
the size of a batch, through the peaks of the sizes that were tried.
"""

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from drivesim.errors import Mistake
from drivesim.rollout import memory

MIB, GIB = 2**20, 2**30
SPARE = 0.05  # of what is free, kept back for what else the machine does
TELLING = 0.01  # a smaller share of the time is not shown
FAINT = MIB // 4  # a slope below is noise: a sample more makes no difference that could be measured


@dataclass(frozen=True)
class Part:
    """``calls`` of something that takes ``seconds`` each."""

    name: str
    calls: float
    seconds: float


@dataclass(frozen=True)
class Room:
    """What there is: bytes that this process may come to hold (None: unknown), and bytes free on the disk."""

    memory: int | None
    disk: int

    @classmethod
    def at(cls, out: Path, device: str | torch.device) -> "Room":
        """Of ``device``, and of the file system that ``out`` lies on or would lie on."""
        reach = memory.within_reach(torch.device(device))
        there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free
        return cls(None if reach is None else int(reach * (1 - SPARE)), int(free * (1 - SPARE)))


@dataclass(frozen=True)
class Law:
    """Peak bytes by the size of the batch, through the smallest and the largest size that was tried."""

    peaks: dict[int, int]

    @property
    def slope(self) -> float:
        """Bytes of one more; 0 where one size alone was tried, or where the difference drowns in noise."""
        low, high = min(self.peaks), max(self.peaks)
        slope = (self.peaks[high] - self.peaks[low]) / max(1, high - low)
        return slope if slope >= FAINT else 0.0

    def at(self, size: int) -> int:
        if size in self.peaks:
            return self.peaks[size]
        low = min(self.peaks)
        return round(self.peaks[low] + self.slope * (size - low))

    def largest(self, room: int) -> int | None:
        """The largest size whose peak is at most ``room``, 0 where none fits; None where size makes no difference."""
        low = min(self.peaks)
        if self.peaks[low] > room:
            return 0
        return low + math.floor((room - self.peaks[low]) / self.slope) if self.slope else None


@dataclass(frozen=True)
class Estimate:
    """What a command will take.

    Args:
        title: the command.
        parts: where its time goes, the most telling first.
        most: seconds after which it ends in any case.
        peak: bytes of memory; None = unknown. ``fits``: the largest setting that fits, as it is typed.
        disk: bytes that it writes, and of what (``written``).
    """

    title: str
    parts: tuple[Part, ...]
    peak: int | None
    disk: int
    written: str
    fits: str = ""
    most: float = math.inf

    @property
    def seconds(self) -> float:
        return min(self.most, sum(part.calls * part.seconds for part in self.parts))

    def lines(self, room: Room) -> list[str]:
        """The table, a line each: what is needed, of what, and what is there."""
        parts = [part for part in self.parts if part.calls * part.seconds >= TELLING * self.seconds]
        shown = [f"{part.name} {round(part.calls)} x {_precise(part.seconds)}" for part in parts]
        if self.seconds == self.most:
            shown.append(f"ended after {duration(self.most)}")
        held = "unknown" if self.peak is None else size(self.peak)
        there = "unknown how much can be had" if room.memory is None else f"{size(room.memory)} can be had"
        rows = [
            ("time", duration(self.seconds), ", ".join(shown)),
            ("memory", held, f"{there}; {self.fits} is the largest that fits" if self.fits else there),
            ("disk", size(self.disk), f"{self.written}; {size(room.disk)} free"),
        ]
        return [f"{self.title} will take about", *(f"  {name:<8}{need:<14}{words}" for name, need, words in rows)]

    def show(self, room: Room, console: Console | None = None) -> None:
        say = (console or Console()).print
        for line in self.lines(room):
            say(line, highlight=False, soft_wrap=True, markup=False)


def check_memory(need: int | None, room: Room, where: str, mend: str) -> None:
    """Raises:
    Mistake: ``need`` bytes cannot be had.
    """
    if need is not None and room.memory is not None and need > room.memory:
        raise Mistake(f"needs about {size(need)} of memory, {size(room.memory)} can be had", where=where, mend=mend)


def check_disk(need: int, room: Room, where: object, mend: str) -> None:
    """Raises:
    Mistake: ``need`` bytes are not free.
    """
    if need > room.disk:
        raise Mistake(f"needs about {size(need)} of disk, {size(room.disk)} is free", where=where, mend=mend)


def now(device: torch.device) -> float:
    """Seconds of a clock, once ``device`` has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def size(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB" if count >= MIB else "under 1 MiB"


def duration(seconds: float) -> str:
    """Two units at most: ``8.2 s``, ``4 min 10 s``, ``3 h 12 min``, ``2 d 3 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    scales = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    unit, name, part, of = next(scale for scale in scales if seconds >= scale[0])
    whole, rest = divmod(round(seconds / part), unit // part)
    return f"{whole} {name} {rest} {of}" if rest else f"{whole} {name}"


def _precise(seconds: float) -> str:
    """Of one call: three digits."""
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"
