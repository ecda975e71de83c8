"""What happens around a training step: the count of steps, the line on the terminal, the curves, the checkpoints."""

import csv
import math
import os
import time
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint
from rich.console import Console

LOG_EVERY = 10
SURE_AFTER = 5  # steps: the first are slower, and a rate from none of them is no rate


class Counted(Protocol):
    """What the callbacks need of a stage."""

    steps_done: int

    @property
    def minutes_spent(self) -> float: ...

    @property
    def progress(self) -> float: ...


class Count(Callback):
    """Counts steps and stops at the end of the budget; the first callback, so that the others see the new count."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.steps_done += 1
        if pl_module.progress >= 1.0:
            trainer.should_stop = True


class Progress(Callback):
    """One line every few seconds: stage, step, loss, rate, time left; in place on a terminal."""

    def __init__(self, name: str, every: float = 10.0):
        self.name, self.every, self.console = name, every, Console(stderr=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.begun, self.first, self.last = time.monotonic(), pl_module.steps_done, time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now, done = time.monotonic(), trainer.should_stop
        if now - self.last < (0.5 if self.console.is_terminal else self.every) and not done:
            return
        self.last = now
        loss = float(trainer.callback_metrics.get("loss", math.nan))
        line = self.line(pl_module, loss, now - self.begun)
        self.console.print(line, end="\r" if self.console.is_terminal and not done else "\n", highlight=False)

    def line(self, stage: Counted, loss: float, seconds: float) -> str:
        """What is known ``seconds`` after the (re)start."""
        words, steps = f"{self.name}: step {stage.steps_done}, loss {loss:.4f}", stage.steps_done - self.first
        if steps < SURE_AFTER:
            return words
        left = max(0.0, stage.minutes_spent * 60 * (1 / stage.progress - 1))
        return f"{words}, {steps / seconds:.1f} steps/s, {left:.0f} s left"


class Curves(Callback):
    """``metrics.csv``: what the stage logs, every few steps; a resumed run goes on behind the rows it had by then."""

    def __init__(self, file: Path):
        self.file = file

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        rows = self._rows() if pl_module.steps_done else []
        self.names = list(rows[0]) if rows else []
        self._write([row for row in rows if _step(row) <= pl_module.steps_done], "w")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.steps_done % LOG_EVERY and pl_module.steps_done > 1 and not trainer.should_stop:
            return
        row = {name: f"{float(value):.7g}" for name, value in trainer.callback_metrics.items()}
        row = {"step": str(pl_module.steps_done), **row}
        if not self.names:
            self.names = list(row)
            self._write([row], "w")
        else:
            self._write([row], "a")

    def _rows(self) -> list[dict[str, str]]:
        if not self.file.exists():
            return []
        with open(self.file, newline="", encoding="utf-8") as opened:
            return list(csv.DictReader(opened))

    def _write(self, rows: list[dict[str, str]], mode: str) -> None:
        with open(self.file, mode, newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, self.names, extrasaction="ignore")
            if mode == "w" and self.names:
                writer.writeheader()
            writer.writerows(rows)


def _step(row: dict[str, str]) -> float:
    """A line that a crash cut off counts as later than all."""
    try:
        return float(row["step"])
    except (KeyError, TypeError, ValueError):
        return math.inf


class Checkpoints(Checkpoint):
    """Lightning's checkpoints as ``step-00001000.ckpt``, every so many steps (0: none) and at the end.

    Lightning's own callback counts steps of optimisers, of which the autoencoder has two: it would miss some steps and
    misname others.
    """

    def __init__(self, folder: Path, every: int):
        self.folder, self.every = folder, every

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.should_stop or (self.every and pl_module.steps_done % self.every == 0):
            file = self.folder / f"step-{pl_module.steps_done:08d}.ckpt"
            part = file.with_name(f".{file.name}.part")
            trainer.save_checkpoint(part)
            os.replace(part, file)
