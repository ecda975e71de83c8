"""A few steps of a training ahead of it, on a stage that is thrown away: how long they take, what a checkpoint weighs.

They are the real steps: Lightning's loop, the optimisers, the average, the precision, the loader, a checkpoint, sample
pictures. Nothing is written, and torch's random state is left as it was.
"""

import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import CheckpointIO
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader, Dataset

from drivesim.errors import Interrupted
from drivesim.training import checkpoints, together
from drivesim.training.loop import Stage, averaging, quiet, trainer_for

WARM = 2  # steps that come first and are slower: kernels are chosen, optimisers set up
LEAST, MOST = 3, 20
SECONDS = 1.0  # after which no more steps are tried


@dataclass(frozen=True)
class Trial:
    """Seconds of one ``step`` on the whole, of one ``checkpoint`` and of one set of ``pictures`` (0 for none), and the
    bytes of a checkpoint."""

    step: float
    checkpoint: float
    pictures: float
    checkpoint_bytes: int


def attempt(stage: Stage, dataset: Dataset[Any], samples: range, device: str, at: int, timed: bool = True) -> Trial:
    """Tries ``stage``, which is of no use afterwards.

    Args:
        dataset: gives the items; one batch of the numbers ``samples`` is read for every step.
        at: the step of the training that the tried ones stand for.
        timed: False takes as many steps as the memory's peak needs, and no pictures.

    Raises:
        Interrupted: Ctrl-C.
    """
    watch = _Watch(at, LEAST if timed else 0, timed)
    scales = Scales()
    stage.steps_done = at
    with torch.random.fork_rng(devices=[]), quiet(), together.apart():
        loader = DataLoader(dataset, batch_sampler=_Same(samples), generator=torch.Generator().manual_seed(0))
        trainer = trainer_for(
            stage, device, [*averaging(stage), watch], logger=False, enable_checkpointing=False, plugins=[scales]
        )
        try:
            trainer.fit(stage, train_dataloaders=loader)
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise Interrupted("nothing has begun yet") from None
    stage.trainer = None  # with it go the optimisers and the average, which hold each other
    del trainer, loader
    gc.collect()
    return Trial(watch.step, watch.checkpoint, watch.pictures, scales.bytes)


class _Same:
    """The same batch for as long as it is asked for."""

    def __init__(self, samples: range):
        self.samples = list(samples)

    def __iter__(self) -> Iterator[list[int]]:
        return repeat(self.samples)

    def __len__(self) -> int:
        return WARM + MOST


class _Watch(Callback):
    """Takes the time of steps and of what else a training does, and ends it."""

    def __init__(self, at: int, least: int, timed: bool):
        self.at, self.least, self.timed = at, least, timed
        self.ends: list[float] = []
        self.step = self.checkpoint = self.pictures = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ends.append(_now(pl_module))
        taken = self.ends[WARM - 1 :]
        if len(taken) <= self.least or (self.timed and taken[-1] - taken[0] < SECONDS and len(taken) <= MOST):
            return
        self.step = (taken[-1] - taken[0]) / max(1, len(taken) - 1)
        trainer.save_checkpoint("")
        self.checkpoint = _now(pl_module) - self.ends[-1]
        trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.timed and hasattr(pl_module, "pictures"):
            begin = _now(pl_module)
            pl_module.eval().pictures()
            self.pictures = _now(pl_module) - begin


def _now(stage: Stage) -> float:
    if stage.device.type == "cuda":
        torch.cuda.synchronize(stage.device)
    return time.perf_counter()


class Scales(CheckpointIO):
    """Takes a checkpoint as it would be written, and keeps its length alone."""

    bytes = 0

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with open(os.devnull, "wb") as nowhere:
            self.bytes = checkpoints.write(checkpoint, nowhere).size

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        raise NotImplementedError("a trial starts anew")

    def remove_checkpoint(self, path: Any) -> None:
        raise NotImplementedError("a trial leaves nothing behind")
