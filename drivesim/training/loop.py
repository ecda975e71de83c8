"""What all stages share: the budget, the learning rate, EMA, checkpoints, progress, and the one call that trains.

A run ends after ``steps`` or, where ``minutes`` is given, when the time is up, whichever is first; the cosine follows
whichever is further along. With ``steps`` alone the result is a function of the configuration; ``minutes`` is for
demos.
"""

import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger
from torch.optim.swa_utils import get_ema_multi_avg_fn

from drivesim.errors import Interrupted, Mistake
from drivesim.training.callbacks import Checkpoints, Count, Curves, Progress
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

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0.0 <= self.ema < 1.0:
            raise Mistake("needs steps >= 1, batch >= 1 and 0 <= ema < 1", field="loop")
        if self.lr <= 0 or (self.minutes is not None and self.minutes <= 0):
            raise Mistake("needs lr > 0, and minutes > 0 or none", field="loop")


class Stage(pl.LightningModule):
    """A LightningModule with a budget: the base of every stage."""

    def __init__(self, loop: LoopConfig):
        super().__init__()
        self.loop = loop
        self.started = time.monotonic()
        self.steps_done = 0
        self.minutes_before = 0.0

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
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["drivesim"] = {"steps_done": self.steps_done, "minutes": self.minutes_spent}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps_done = checkpoint["drivesim"]["steps_done"]
        self.minutes_before = checkpoint["drivesim"]["minutes"]

    def optimiser(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.loop.lr, weight_decay=self.loop.weight_decay, fused=True)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips by norm; Lightning's own way refuses fused optimisers under mixed precision, loss scaling or not."""
        held = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(held, self.loop.clip)


def train(stage: Stage, data: pl.LightningDataModule, name: str, out: Path, device: str, resume: bool) -> None:
    """Fits ``stage``; afterwards it holds the averaged weights.

    Writes ``checkpoints/step-*.ckpt``, ``metrics.csv``, TensorBoard's events and ``samples/`` under ``out``.

    Raises:
        Mistake: nothing to resume from.
        Interrupted: Ctrl-C; ``resume`` goes on from the last checkpoint.
    """
    loop = stage.loop
    checkpoints = out / "checkpoints"
    if resume and steps_in(latest(out)) >= loop.steps:  # only the weight file is missing
        content = torch.load(latest(out), map_location="cpu", weights_only=True)
        stage.on_load_checkpoint(content)
        stage.load_state_dict(content["state_dict"])  # the averaged ones: Lightning keeps the others beside them
        return
    callbacks: list[Callback] = [Count(), Progress(name), Curves(out / "metrics.csv"), *averaging(stage)]
    if hasattr(stage, "pictures"):
        callbacks.append(Pictures(out / "samples", loop.sample_every))
    callbacks.append(Checkpoints(checkpoints, loop.checkpoint_every))
    with quiet():
        trainer = trainer_for(
            stage, device, callbacks, logger=TensorBoardLogger(out, name="", version="events"), log_every_n_steps=10
        )
        try:
            trainer.fit(stage, datamodule=data, ckpt_path=str(latest(out)) if resume else None)
        except SystemExit:  # Lightning's answer to Ctrl-C
            mend = (
                "the same command with --resume goes on" if any(checkpoints.glob("step-*.ckpt")) else "nothing is kept"
            )
            raise Interrupted(f"{out}: stopped at step {stage.steps_done}; {mend}") from None


def averaging(stage: Stage) -> list[Callback]:
    """EMA, where there is to be one."""
    return [WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(stage.loop.ema))] if stage.loop.ema else []


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
    """Without Lightning's lines on devices, its tips, and warnings that no user of ours can act on."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in NOISE:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def latest(out: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        Mistake: there is none.
    """
    found = sorted((out / "checkpoints").glob("step-*.ckpt"))
    if not found:
        raise Mistake("no checkpoint to resume from", where=out, mend="leave --resume away to begin")
    return found[-1]


def steps_in(checkpoint: Path) -> int:
    """How many steps a checkpoint has behind it, so that the loader can go on behind them."""
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception:  # torch has a dozen kinds for a file that is not whole
        mend = "remove it: --resume then takes the one before"
        raise Mistake("not a whole checkpoint", where=checkpoint, mend=mend) from None
    return int(content["drivesim"]["steps_done"])
