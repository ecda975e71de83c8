"""What all stages share: the budget, the learning rate, EMA, checkpoints, progress, and the one call that trains.

A run ends after ``steps`` or, where ``minutes`` is given, when the time is up, whichever is first; the cosine follows
whichever is further along. With ``steps`` alone the result is a function of the configuration; ``minutes`` is for
demos.
"""

import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from drivesim import weights
from drivesim.errors import Interrupted, Mistake, out_of_memory
from drivesim.signals import Stop
from drivesim.training import checkpoints
from drivesim.training.callbacks import Average, BadSteps, Checkpoints, Count, Curves, Progress
from drivesim.training.pictures import Pictures

NOISE = (
    "Found .* module.* in eval mode",  # the frozen image model
    ".*does not have many workers.*",
    ".*GPU available but not used.*",
    "The number of training batches",
    "Checkpoint directory .* exists and is not empty",
    ".*LeafSpec.*",
    "You're resuming from a checkpoint that ended before the epoch ended",  # our order is a function of the step
)


@dataclass(frozen=True)
class LoopConfig:
    """Args:
    steps, minutes: the budget; see above.
    batch: samples a step.
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

    def __post_init__(self) -> None:
        if self.checkpoints_kept < 0 or self.bad_steps < 1:
            raise Mistake("needs checkpoints_kept >= 0 and bad_steps >= 1", field="loop")
        if self.steps < 1 or self.batch < 1 or not 0.0 <= self.ema < 1.0:
            raise Mistake("needs steps >= 1, batch >= 1 and 0 <= ema < 1", field="loop")
        if self.lr <= 0 or (self.minutes is not None and self.minutes <= 0):
            raise Mistake("needs lr > 0, and minutes > 0 or none", field="loop")


class Stage(pl.LightningModule):
    """A LightningModule with a budget: the base of every stage.

    A step whose loss or gradient is not finite is skipped: its gradients are dropped before the optimiser sees them.
    ``flaw`` says then what was wrong, in words; ``skipped`` counts such steps, ``bad_in_a_row`` the latest.
    """

    def __init__(self, loop: LoopConfig):
        super().__init__()
        self.loop = loop
        self.started = time.monotonic()
        self.steps_done = 0
        self.minutes_before = 0.0
        self.flaw: str | None = None
        self.skipped = self.bad_in_a_row = 0
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

    def on_train_start(self) -> None:
        self.started = time.monotonic()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.flaw = None
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["drivesim"] = {
            "steps_done": self.steps_done,
            "minutes": self.minutes_spent,
            "skipped": self.skipped,
            "bad_in_a_row": self.bad_in_a_row,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint["drivesim"]
        self.steps_done, self.minutes_before = kept["steps_done"], kept["minutes"]
        self.skipped, self.bad_in_a_row = kept.get("skipped", 0), kept.get("bad_in_a_row", 0)

    def on_before_backward(self, loss: Tensor) -> None:
        self._loss = loss.detach()

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
        norm = torch.nn.utils.clip_grad_norm_(held, self.loop.clip)
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
) -> None:
    """Fits ``stage``; afterwards it holds the averaged weights.

    Writes ``checkpoints/step-*.ckpt``, ``metrics.csv``, TensorBoard's events and ``samples/`` under ``out``.

    Args:
        begin: the checkpoint to go on from; None begins anew.
        clip: the clip that a sample is of, to be named when something is wrong with it.

    Raises:
        Mistake: too little memory, a file that cannot be written, or values that are not finite
            (see ``BadSteps``).
        Interrupted: SIGTERM, SIGUSR1 or Ctrl-C, after the step that it came into and its checkpoint, or at once when
            asked twice.
    """
    loop = stage.loop
    if begin is not None and checkpoints.steps_in(begin) >= loop.steps:  # only the weight file is missing
        content = checkpoints.read(begin)
        stage.on_load_checkpoint(content)
        stage.load_state_dict(content["state_dict"])  # the averaged ones: Lightning keeps the others beside them
        return
    averages = averaging(stage)
    average = averages[0] if averages else None
    callbacks: list[Callback] = [Count(), BadSteps(name, loop.bad_steps, average, clip)]
    callbacks += [Progress(name), Curves(out / "metrics.csv"), *averages]
    if hasattr(stage, "pictures"):
        callbacks.append(Pictures(out / "samples", loop.sample_every, average))
    with quiet(), Stop("step", signal.SIGTERM, signal.SIGUSR1, signal.SIGINT) as stop, weights.writing(out):
        callbacks.append(Checkpoints(out, loop.checkpoint_every, loop.checkpoints_kept, stop))
        logger = TensorBoardLogger(out, name="", version="events")
        trainer = trainer_for(
            stage, device, callbacks, logger=logger, log_every_n_steps=10, plugins=[checkpoints.Store()]
        )
        try:
            trainer.fit(stage, datamodule=data, ckpt_path=begin and str(begin))
        except SystemExit:  # Lightning's answer to Ctrl-C, and to a signal while nothing has begun yet
            kept = any((out / checkpoints.FOLDER).glob(checkpoints.NAMES))
            mend = "the same command with --resume goes on" if kept else "nothing is kept"
            raise Interrupted(f"{out}: stopped at step {stage.steps_done}; {mend}") from None
        except (RuntimeError, MemoryError) as problem:
            if not out_of_memory(problem):
                raise
            raise Mistake(
                f"a step of batch {loop.batch} does not fit into the memory of {device}",
                where=f"train {name}",
                mend=smaller(loop.batch),
            ) from None


def smaller(batch: int) -> str:
    """What to try when a step of ``batch`` samples takes too much memory."""
    if batch > 1:
        return f"try loop.batch={batch // 2}, in another --out: a run keeps the batch that it began with"
    return "a single sample does not fit: take a smaller model or size, or a device with more memory"


def averaging(stage: Stage) -> list[Average]:
    """EMA, where there is to be one."""
    return [Average(stage.loop.ema)] if stage.loop.ema else []


def trainer_for(stage: Stage, device: str, callbacks: list[Callback], **more: Any) -> pl.Trainer:
    """Lightning's trainer as every stage is trained by; ``more`` are its arguments, too."""
    return pl.Trainer(
        max_epochs=1,
        accelerator="cpu" if device == "cpu" else "gpu",
        devices=[torch.device(device).index or 0] if device != "cpu" else 1,
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
