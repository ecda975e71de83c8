"""The preflight of ``train``: a few real steps at batch 1, at 2 and, where it fits, at the batch that is asked for."""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from drivesim.data.index import size_of
from drivesim.data.loader import Clips
from drivesim.errors import Mistake, out_of_memory
from drivesim.jobs.builders.common import Built
from drivesim.jobs.preflight import Estimate, Law, Part, Room, check_disk, check_memory, size
from drivesim.rollout import memory
from drivesim.training.loop import LoopConfig
from drivesim.training.trial import Trial, attempt

FLOAT = 4  # bytes of a number in a weight file


def rehearse(
    name: str,
    build: Callable[[], Built],
    loop: LoopConfig,
    begin: int,
    out: Path,
    device: str,
    dry_run: bool = False,
    parts: int = 1,
) -> None:
    """Says what the training of what ``build`` gives will take; that is gone afterwards, and nothing is written.

    Args:
        name: the stage.
        begin: steps that are done already.
        dry_run: nothing follows in this process, so that more may be tried than the training would reach.
        parts: how many batches of ``loop`` a step of the whole training takes, of all its processes.

    Raises:
        Mistake: memory or disk do not suffice.
    """
    room = Room.at(out, device)
    estimate = Rehearsal(name, build(), loop, begin, torch.device(device), room, parts).estimate(out, dry_run)
    gc.collect()  # a stage and its trainer hold each other
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    estimate.show(room)


class Rehearsal:
    """What is tried, and what is known so far of the memory that it takes."""

    def __init__(
        self, name: str, built: Built, loop: LoopConfig, begin: int, device: torch.device, room: Room, parts: int = 1
    ):
        self.parts = parts
        self.where = f"train {name}"
        self.built, self.loop, self.begin, self.device, self.room = built, loop, begin, device, room
        self.dataset: Dataset[Any] = built.data.training()
        self.peaks: dict[int, int] = {}
        clips, content = self.dataset.kept() if isinstance(self.dataset, Clips) else (0, 0)
        # of the clips that stay decoded, how many the samples that are left will have touched
        self.touched = clips * (1 - (1 - 1 / clips) ** self.samples) if clips else 0.0
        self.held = round(content * self.touched / clips) if clips else 0

    @property
    def samples(self) -> int:
        return (self.loop.steps - self.begin) * self.loop.batch

    def estimate(self, out: Path, dry_run: bool) -> Estimate:
        """Tries sizes from small to large, each only once it is known to fit.

        Raises:
            Mistake: memory or disk do not suffice.
        """
        check_memory(self.least, self.room, self.where, self._smaller())
        batch, change = self.loop.batch, self.built.stage.last_change()
        late = min(max(self.begin, change), self.loop.steps - 1)  # where a step is heaviest
        for less in (n for n in (1, 2) if n < batch):
            self._check()
            self._try(less, late, timed=False)
        self._check()
        cold, hot = self._read()
        early = self._try(batch, self.begin) if self.begin < late else None
        trial = self._try(batch, late)
        self._check()
        if dry_run and batch == 1 and self._twice_fits:
            self._try(2, late, timed=False)
        law = Law(self.peaks)
        largest = None if self.room.memory is None or self.begin else law.largest(self.room.memory - self.held)
        checkpoints = times(self.loop.steps, self.begin, self.loop.checkpoint_every)
        if self.loop.checkpoints_kept:
            checkpoints = min(checkpoints, self.loop.checkpoints_kept + 1)  # one goes once the next is there
        beside = self._weights()
        disk = checkpoints * trial.checkpoint_bytes + beside
        check_disk(disk, self.room, out, self._rarer(trial.checkpoint_bytes, self.room.disk - beside))
        before = [] if self.built.beforehand is None else [self.built.beforehand(out, str(self.device))]
        return Estimate(
            self.where,
            (
                *before,
                *self._parts(trial, early, hot),
                Part("first reading of a clip", self.touched, max(0.0, cold - hot)),
            ),
            law.at(batch) + self.held if self.peaks else None,
            disk,
            f"{checkpoints} checkpoint{'s' * (checkpoints > 1)} of {size(trial.checkpoint_bytes)}, weights",
            f"loop.batch={largest * self.parts}" if largest else "",
            self._budget,
        )

    @property
    def least(self) -> int | None:
        """Bytes that any step holds: the weights and, of those that are trained, gradients, AdamW's two moments and the
        running average; None of a model that is spread over processes. What is hopeless is not tried: on a CPU the
        system would end this process, or another."""
        if self.loop.strategy == "fsdp":
            return None
        held = 4 + bool(self.loop.ema)
        sizes = ((p.numel() * p.element_size(), p.requires_grad) for p in self.built.stage.parameters())
        return sum(held * count if trains else count for count, trains in sizes)

    @property
    def _twice_fits(self) -> bool:
        """Whether two samples do for certain."""
        return not self.peaks or self.room.memory is None or 2 * self.peaks[1] <= self.room.memory

    @property
    def _budget(self) -> float:
        return float("inf") if self.loop.minutes is None else self.loop.minutes * 60

    def _try(self, batch: int, at: int, timed: bool = True) -> Trial:
        first = self.begin * self.loop.batch
        try:
            with memory.measured(self.device) as piece:
                trial = attempt(
                    self.built.stage, self.dataset, range(first, first + batch), str(self.device), at, timed
                )
        except (RuntimeError, MemoryError) as problem:
            if not out_of_memory(problem):
                raise
            largest = max(self.peaks, default=0)
            raise Mistake(
                f"a step of batch {batch} does not fit into the memory of {self.device}",
                where=self.where,
                mend=f"loop.batch={largest} fits" if largest else self._smaller(),
            ) from None
        if piece.peak is not None:
            self.peaks[batch] = max(piece.peak, self.peaks.get(batch, 0))
        return trial

    def _check(self) -> None:
        if not self.peaks or self.room.memory is None:
            return
        law = Law(self.peaks)
        largest = law.largest(self.room.memory - self.held)
        need = law.at(self.loop.batch) + self.held
        if largest and self.begin:
            mend = f"this run began with loop.batch={self.loop.batch}; loop.batch={largest} in another --out fits"
        else:
            mend = f"loop.batch={largest} fits" if largest else self._smaller()
        check_memory(need, self.room, self.where, mend)

    @staticmethod
    def _smaller() -> str:
        return "a single sample does not fit: take a smaller model or size, or a device with more memory"

    def _read(self) -> tuple[float, float]:
        """Seconds to read a sample for the first time, and again."""
        first, taken = self.begin * self.loop.batch, []
        for _ in range(2):
            begin = time.perf_counter()
            for sample in range(first, first + self.loop.batch):
                self.dataset[sample]
            taken.append((time.perf_counter() - begin) / self.loop.batch)
        return taken[0], taken[1]

    def _parts(self, trial: Trial, early: Trial | None, hot: float) -> list[Part]:
        loop, change = self.loop, self.built.stage.last_change()
        before = min(change, loop.steps) - self.begin if early else 0
        parts = [Part("steps", loop.steps - self.begin - before, self._step(trial.step, hot))]
        if early:
            parts.insert(0, Part("steps before the last change", before, self._step(early.step, hot)))
        saved, shown = (times(loop.steps, self.begin, n) for n in (loop.checkpoint_every, loop.sample_every))
        return [*parts, Part("checkpoints", saved, trial.checkpoint), Part("pictures", shown, trial.pictures)]

    def _step(self, seconds: float, hot: float) -> float:
        """Workers read beside the steps; a trial has none."""
        if not self.loop.workers:
            return seconds
        reading = hot * self.loop.batch
        return max(seconds - reading, reading / self.loop.workers)

    def _weights(self) -> int:
        """Bytes of the weight files: what is trained, and its parents beside it."""
        trained = sum(p.numel() for p in self.built.stage.parameters() if p.requires_grad) * FLOAT
        return trained + sum(map(size_of, self.built.parents))

    def _rarer(self, each: int, free: int) -> str:
        """How many steps must lie between checkpoints of ``each`` bytes so that they fit."""
        fit = free // each
        if fit >= 2 and not 0 < self.loop.checkpoints_kept < fit:
            return f"loop.checkpoints_kept={fit - 1} fits"
        for every in range(self.loop.checkpoint_every or self.loop.steps, self.loop.steps):
            if times(self.loop.steps, self.begin, every) <= fit:
                return f"loop.checkpoint_every={every} fits"
        return "loop.checkpoint_every=0 fits" if fit >= 1 else "free some, or name an --out on another disk"


def times(steps: int, begin: int, every: int) -> int:
    """How often something happens in the steps after ``begin``: after every ``every`` (0: never), and at the end."""
    regular = steps // every - begin // every if every else 0
    return regular + (not every or steps % every > 0)
