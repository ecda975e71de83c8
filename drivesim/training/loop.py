"""What all stages share: the budget, the learning rate, EMA, checkpoints, progress, and the one call that trains.

A run ends after ``steps`` or, where ``minutes`` is given, when the time is up, whichever is first; the cosine follows
whichever is further along. With ``steps`` alone the result is a function of the configuration; ``minutes`` is for
demos.
"""

import hashlib
import logging
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import Strategy
from torch import Tensor

from drivesim import disk
from drivesim.errors import Interrupted, Mistake, out_of_memory
from drivesim.signals import Stop
from drivesim.training import checkpoints, together
from drivesim.training.callbacks import AVERAGE, Average, BadSteps, Checkpoints, Count, Curves, Progress
from drivesim.training.pictures import Pictures
from drivesim.training.recompute import recomputing

NOISE = (
    "Found .* module.* in eval mode",  # the frozen image model
    ".*does not have many workers.*",
    ".*GPU available but not used.*",
    "The number of training batches",
    "Checkpoint directory .* exists and is not empty",
    ".*LeafSpec.*",
    "You're resuming from a checkpoint that ended before the epoch ended",  # our order is a function of the step
    ".*find_unused_parameters=True was specified in DDP constructor, but did not find any.*",
    ".*FSDP2-wrapped module .* returned a view tensor.*",  # nothing here is changed in place
    ".*Grad strides do not match bucket view strides.*",
)


@dataclass(frozen=True)
class LoopConfig:
    """Args:
    steps, minutes: the budget; see above.
    batch: samples a step, of all processes together: losses and weights are the same for any number of them.
    accumulate: parts that a process takes its samples of a step in, one after another, so that they fit into memory.
    recompute: activations of the U-Net's blocks are computed again on the way back instead of being kept.
    strategy: of several processes: each holds a copy of the model ("ddp"), or a part of it ("fsdp").
    checkpoint: one file, or a folder that every process writes a part of ("sharded"); any number of processes goes on
        from either.
    lr: the peak; ``warmup`` steps up to it, then a cosine to zero.
    ema: decay of the averaged weights, which are the ones that are kept; 0 for none.
    clip: largest norm of the gradient.
    precision: Lightning's.
    checkpoint_every, sample_every: steps between checkpoints, and between sample pictures; 0 for the end only.
    checkpoints_kept: the newest that stay; 0 for all. Two more than one, as the newest may be damaged.
    bad_steps: a step whose loss or gradient is not finite is skipped; after so many in a row the training ends. With
        16-mixed those count, too, by which the scale of the loss is found.
    """

    steps: int = 1000
    minutes: float | None = None
    batch: int = 8
    lr: float = 1e-4
    warmup: int = 20
    weight_decay: float = 0.01
    ema: float = 0.9999
    clip: float = 1.0
    seed: int = 0
    workers: int = 0
    precision: Literal["bf16-mixed", "16-mixed", "32-true"] = "bf16-mixed"
    checkpoint_every: int = 1000
    sample_every: int = 0
    checkpoints_kept: int = 3
    bad_steps: int = 10
    accumulate: int = 1
    recompute: bool = False
    strategy: Literal["ddp", "fsdp"] = "ddp"
    checkpoint: Literal["whole", "sharded"] = "whole"

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise Mistake(f"is 1 or more, not {self.accumulate}", field="loop.accumulate")
        if self.checkpoints_kept < 0 or self.bad_steps < 1:
            raise Mistake("needs checkpoints_kept >= 0 and bad_steps >= 1", field="loop")
        if self.steps < 1 or self.batch < 1 or not 0.0 <= self.ema < 1.0:
            raise Mistake("needs steps >= 1, batch >= 1 and 0 <= ema < 1", field="loop")
        if self.lr <= 0 or (self.minutes is not None and self.minutes <= 0):
            raise Mistake("needs lr > 0, and minutes > 0 or none", field="loop")

    def part(self, processes: int = 1) -> int:
        """Samples that one of the processes computes at once.

        Raises:
            Mistake: the batch does not divide; or the budget is minutes, which no two processes agree on.
        """
        parts = processes * self.accumulate
        if self.batch % parts:
            below, above = (round_(self.batch / parts) * parts for round_ in (math.floor, math.ceil))
            what = f"{self.batch} does not divide by {processes} processes x loop.accumulate {self.accumulate}"
            raise Mistake(what, field="loop.batch", mend=f"loop.batch={below or above} or {above}")
        if processes > 1 and self.minutes is not None:
            raise Mistake("is for one process", field="loop.minutes", mend="loop.minutes=null, and loop.steps")
        return self.batch // parts

    def of_one(self, processes: int) -> "LoopConfig":
        """The loop as one of the processes takes it, each part of a step as a step: the same time and memory."""
        n = self.accumulate
        return replace(
            self,
            steps=n * self.steps,
            batch=self.part(processes),
            accumulate=1,
            checkpoint_every=n * self.checkpoint_every,
            sample_every=n * self.sample_every,
        )


class Stage(pl.LightningModule):
    """A LightningModule with a budget: the base of every stage. ``forward`` is the loss of a part of a batch.

    A step whose loss or gradient is not finite is skipped: its gradients are dropped before the optimiser sees them.
    ``flaw`` says then what was wrong, in words; ``skipped`` counts such steps, ``bad_in_a_row`` the latest.
    """

    shards = True  # whether it may be: all that is trained is used within ``forward``

    def __init__(self, loop: LoopConfig):
        super().__init__()
        self.automatic_optimization = False  # a step takes several parts, and some stages two optimisers
        self.loop = loop
        self.started = time.monotonic()
        self.steps_done = 0
        self.minutes_before = 0.0
        self.flaw: str | None = None
        self.skipped = self.bad_in_a_row = 0
        self.frozen_hash = ""  # the hash of the weights that are frozen, once a training begins
        self._loss: Tensor | None = None

    @property
    def minutes_spent(self) -> float:
        return self.minutes_before + (time.monotonic() - self.started) / 60

    @property
    def progress(self) -> float:
        """The share of the budget that is used up."""
        by_time = self.minutes_spent / self.loop.minutes if self.loop.minutes else 0.0
        return max(self.steps_done / self.loop.steps, by_time)

    def rate(self) -> float:
        warm = min(1.0, (self.steps_done + 1) / max(1, self.loop.warmup))
        return self.loop.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress)))

    def last_change(self) -> int:
        """The step from which on every step costs the same: later, for one, when an adversary joins only then."""
        return 0

    def setup(self, stage: str) -> None:
        if self.loop.recompute:
            recomputing(self)

    def on_train_start(self) -> None:
        self.started = time.monotonic()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.flaw = None
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate()

    def frozen_weights(self) -> dict[str, Tensor]:
        """By name. They are those of the parents' files: no checkpoint holds them, which may be half of its bytes."""
        return {name: p.detach() for name, p in self.named_parameters() if not p.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        frozen = self.frozen_weights()
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: tensor for name, tensor in state.items() if name not in frozen}
        checkpoint["drivesim"] = {
            "frozen": self.frozen_hash,
            "steps_done": self.steps_done,
            "minutes": self.minutes_spent,
            "skipped": self.skipped,
            "bad_in_a_row": self.bad_in_a_row,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises:
        Mistake: it was trained on other weights that are frozen, or by a version before.
        """
        kept = checkpoint["drivesim"]
        if "frozen" not in kept:
            mend = "begin again in another --out; init= takes the weights of a finished run"
            raise Mistake("is the checkpoint of a version before, which kept other things", where="--resume", mend=mend)
        if kept["frozen"] != self.frozen_hash:
            mend = "put the weights back that it began with, or begin again in another --out"
            raise Mistake("began with other weights of the model that it builds on", where="--resume", mend=mend)
        checkpoint["state_dict"] = {**self.frozen_weights(), **checkpoint["state_dict"]}
        self.steps_done, self.minutes_before = kept["steps_done"], kept["minutes"]
        self.skipped, self.bad_in_a_row = kept.get("skipped", 0), kept.get("bad_in_a_row", 0)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        (optimiser,) = self.own_optimisers()
        optimiser.zero_grad()
        total = torch.zeros((), device=self.device)
        for part, share, averaged in self.parts(batch):
            with averaged:
                loss = self(part) * share
                self.manual_backward(loss)
            total += loss.detach()
        self._loss = together.mean(total)
        self.step(optimiser)
        self.log("loss", self._loss)

    def parts(self, batch: Any) -> Iterator[tuple[Any, float, Any]]:
        """The parts of this process's ``batch``, the share of each, and the context for its way back: gradients are
        averaged over the processes once, with the last part's."""
        count = len(batch["sample"])
        size = max(1, count // self.loop.accumulate)
        for first in range(0, count, size):
            part = {name: value[first : first + size] for name, value in batch.items()}
            last = first + size >= count
            context = nullcontext() if last else together.without_averaging(self.trainer.strategy.model)
            yield part, min(size, count - first) / count, context

    def own_optimisers(self) -> list[Any]:
        held = self.optimizers()
        return held if isinstance(held, list) else [held]

    def step(self, optimiser: Any) -> None:
        """Clips and steps, unless the step is bad: ``_loss`` tells, and the gradient's norm."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            scaler.unscale_(optimiser.optimizer)
        self.configure_gradient_clipping(optimiser.optimizer)
        optimiser.step()

    def optimiser(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.loop.lr, weight_decay=self.loop.weight_decay, fused=True)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips by norm; Lightning's own way refuses fused optimisers under mixed precision, loss scaling or not.

        The last thing before the optimiser, so here a bad step is dropped: without gradients its step does nothing.
        Once one optimiser of a step was, so are the others.
        """
        held = [p for group in optimizer.param_groups for p in group["params"]]
        norm = together.whole(torch.nn.utils.clip_grad_norm_(held, self.loop.clip))
        loss = norm if self._loss is None else self._loss
        if self.flaw is None and not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            self.flaw = "the gradient is not finite" if bool(torch.isfinite(loss)) else f"the loss is {float(loss)}"
        if self.flaw is not None:
            for parameter in held:
                parameter.grad = None


def train(
    stage: Stage,
    data: pl.LightningDataModule,
    name: str,
    out: Path,
    device: str,
    begin: Path | None = None,
    clip: Callable[[int], str] | None = None,
    devices: int = 1,
    nodes: int = 1,
) -> None:
    """Fits ``stage``; afterwards it holds the averaged weights, or this process's part of them.

    Writes ``checkpoints/step-*.ckpt``, ``metrics.csv``, TensorBoard's events and ``samples/`` under ``out``. Of several
    processes, which are there already, each calls this; the first one writes.

    Args:
        begin: the checkpoint to go on from; None begins anew.
        clip: the clip that a sample is of, to be named when something is wrong with it.
        devices, nodes: processes on each machine, and machines.

    Raises:
        Mistake: too little memory, a file that cannot be written, a batch that does not divide, or values that are not
            finite (see ``BadSteps``).
        Interrupted: SIGTERM, SIGUSR1 or Ctrl-C, after the step that it came into and its checkpoint, or at once when
            asked twice; or another process is lost.
    """
    loop = stage.loop
    loop.part(devices * nodes)
    stage.frozen_hash = _digest(stage.frozen_weights())
    if begin is not None and checkpoints.steps_in(begin) >= loop.steps:  # only the weight file is missing
        content = checkpoints.read(begin)
        stage.on_load_checkpoint(content)
        averaged = content[AVERAGE]["tensors"] if AVERAGE in content else {}
        stage.load_state_dict({**content["state_dict"], **averaged})
        return
    averages = averaging(stage)
    average = averages[0] if averages else None
    rank = together.rank()
    callbacks: list[Callback] = [Count(), BadSteps(name, loop.bad_steps, average, clip)]
    callbacks += [Progress(name), Curves(out / "metrics.csv")] if rank == 0 else []
    callbacks += averages
    strategy = _strategy(stage) if devices * nodes > 1 else None
    if hasattr(stage, "pictures") and (rank == 0 or isinstance(strategy, together.Shards)):
        callbacks.append(Pictures(out / "samples", loop.sample_every, average))
    stopping = Stop("step", signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, speaks=rank == 0)
    with quiet(), stopping as stop, disk.writing(out):
        callbacks.append(Checkpoints(out, loop.checkpoint_every, loop.checkpoints_kept, stop))
        store = checkpoints.Store(loop.checkpoint == "sharded")
        more: dict[str, Any] = {} if strategy is None else {"strategy": strategy, "num_nodes": nodes}
        logger = TensorBoardLogger(out, name="", version="events")
        trainer = trainer_for(
            stage, device, callbacks, devices, logger=logger, log_every_n_steps=10, plugins=[store], **more
        )
        try:
            trainer.fit(stage, datamodule=data, ckpt_path=begin and str(begin))
        except SystemExit:  # Lightning's answer to Ctrl-C, and to a signal while nothing has begun yet
            kept = any((out / checkpoints.FOLDER).glob(checkpoints.NAMES))
            mend = "the same command with --resume goes on" if kept else "nothing is kept"
            raise Interrupted(f"{out}: stopped at step {stage.steps_done}; {mend}") from None
        except Mistake as mistake:
            if rank > 0 and not isinstance(mistake, together.Agreed):  # the first process does not come to it
                print(f"drivesim: process {rank}: {mistake}", file=sys.stderr, flush=True)
            raise
        except (RuntimeError, MemoryError) as problem:
            if together.lost(problem):
                what = f"{out}: another process was lost at step {stage.steps_done}"
                raise Interrupted(f"{what}; the same command with --resume goes on") from None
            if not out_of_memory(problem):
                raise
            raise Mistake(
                f"a step of batch {loop.batch} does not fit into the memory of {device}",
                where=f"train {name}",
                mend=smaller(loop.batch, loop.part(devices * nodes)),
            ) from None


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names and values; "" of none."""
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(name.encode())
        found.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest() if tensors else ""


def _strategy(stage: Stage) -> Strategy:
    """Raises:
    Mistake: a stage that cannot be sharded.
    """
    if stage.loop.strategy == "ddp":
        return together.Copies()
    if not stage.shards:
        what = "is for models of diffusion; this stage's model is small, and its adversary needs it whole"
        raise Mistake(what, field="loop.strategy", mend="loop.strategy=ddp")
    return together.Shards()


def smaller(batch: int, part: int | None = None) -> str:
    """What to try when ``part`` of the ``batch`` samples of a step take too much memory; None: all of them."""
    if part is not None and 1 < part < batch:
        return f"try a loop.accumulate that is {part // math.gcd(part, part // 2 or 1)} times as large"
    if batch > 1:
        return f"try loop.batch={batch // 2}, in another --out: a run keeps the batch that it began with"
    return "a single sample does not fit: take a smaller model or size, or a device with more memory"


def averaging(stage: Stage) -> list[Average]:
    """EMA, where there is to be one."""
    return [Average(stage.loop.ema)] if stage.loop.ema else []


def trainer_for(stage: Stage, device: str, callbacks: list[Callback], devices: int = 1, **more: Any) -> pl.Trainer:
    """Lightning's trainer as every stage is trained by; ``more`` are its arguments, too."""
    return pl.Trainer(
        max_epochs=1,
        accelerator="cpu" if device == "cpu" else "gpu",
        devices=[torch.device(device).index or 0] if device != "cpu" and "strategy" not in more else devices,
        precision=stage.loop.precision,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        use_distributed_sampler=False,  # the order of samples is ours: a function of (seed, epoch, step)
        **more,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's lines on devices, its tips, and warnings that no user of ours can act on; and without the
    traceback of the thread that writes TensorBoard's events, whose error comes again in the training's own."""
    before = threading.excepthook

    def silent(problem: threading.ExceptHookArgs) -> None:
        if not isinstance(problem.exc_value, OSError):
            before(problem)

    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in NOISE:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        threading.excepthook = silent
        try:
            yield
        finally:
            threading.excepthook = before
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
