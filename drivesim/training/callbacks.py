"""What happens around a training step: the count of steps, bad steps, the line on the terminal, the curves, the
checkpoints."""

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from rich.console import Console
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from drivesim import disk
from drivesim.errors import Interrupted
from drivesim.signals import Stop
from drivesim.training import checkpoints, together
from drivesim.training.together import Agreed

LOG_EVERY = 10
AVERAGE = "average"  # of a checkpoint: how many steps are in the averages, and these
NAMED = 6  # samples, or clips, that an error names
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


class Average(Callback):
    """The running average of what is trained; a step that was skipped leaves it alone.

    It begins at the weights behind the first step. What is frozen is its own average, and is not copied: Lightning's
    and torch's averages copy the whole model, in memory and in every checkpoint.

    ``tensors`` are the averages by the names of their weights, shards where these are; ``count`` steps are in them.
    """

    def __init__(self, decay: float):
        self.count, self.tensors = 0, dict[str, Tensor]()
        self._mixed = get_ema_multi_avg_fn(decay)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint[AVERAGE]
        self.count, self.tensors = kept["count"], dict(kept["tensors"])

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[AVERAGE] = {"count": self.count, "tensors": dict(self.tensors)}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.begin(pl_module)

    def begin(self, stage: nn.Module) -> None:
        """The averages are where the weights are, and in shards where these are: at once as they are, or as a
        checkpoint has them."""
        kept = self.tensors
        self.tensors = {
            name: together.spread(kept[name], now).to(now.device) if name in kept else now.clone()
            for name, now in trained(stage).items()
        }

    @torch.no_grad()
    def update(self, stage: nn.Module) -> None:
        now, held = list(trained(stage).values()), list(self.tensors.values())
        if self.count:
            self._mixed(held, now, self.count)
        else:
            for average, weight in zip(held, now, strict=True):
                average.copy_(weight)
        self.count += 1

    @contextmanager
    def inside(self, stage: pl.LightningModule) -> Iterator[None]:
        """``stage`` holds the averages within the block."""
        self._swap(stage)
        try:
            yield
        finally:
            self._swap(stage)

    @torch.no_grad()
    def _swap(self, stage: nn.Module) -> None:
        for name, now in trained(stage).items():
            kept = self.tensors[name].clone()
            self.tensors[name].copy_(now)
            now.copy_(kept)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.flaw is None:
            self.update(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """The averages are what remains."""
        for name, now in trained(pl_module).items():
            now.copy_(self.tensors[name])
        self.tensors = {}


def trained(module: nn.Module) -> dict[str, Tensor]:
    """The weights of ``module`` that are not frozen, by name, detached: what is written to them is written to it."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


class BadSteps(Callback):
    """Counts and tells the steps that ``Stage`` skipped, and ends a training that comes to nothing.

    After ``most`` of them in a row, or at once where the weights or their average hold a value that is not finite:
    every later step would be bad. They are looked at after a bad step and every ``LOG_EVERY``; no checkpoint is written
    of them in any case.

    Args:
        average: None where there is none.
        clip: the clip that a sample is of, by its number; None where that is not known.
    """

    def __init__(self, name: str, most: int, average: Average | None, clip: Callable[[int], str] | None):
        self.name, self.most, self.average, self.clip = name, most, average, clip
        self.console = Console(stderr=True)
        self.recent: list[int] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, bad = pl_module.steps_done, pl_module.flaw is not None
        if not bad:
            pl_module.bad_in_a_row, self.recent = 0, []
            if step % LOG_EVERY == 0:
                self._check_weights(pl_module, step, batch)
            return
        pl_module.skipped += 1
        pl_module.bad_in_a_row += 1
        samples, found = together.everyones(_samples(batch)), together.everyones(spoiled(batch))
        self.recent += found or samples
        words = f"{self.name}: step {step} is skipped: {pl_module.flaw}{_spoiled_words(found)}"
        if together.rank() == 0:
            self.console.print(f"{words}; {self._named(samples)}", highlight=False, markup=False, soft_wrap=True)
        self._check_weights(pl_module, step, batch)
        if pl_module.bad_in_a_row >= self.most:
            what = f"{pl_module.bad_in_a_row} steps in a row were skipped, up to step {step}: {pl_module.flaw}"
            mend = "look at these clips; or take a lower loop.lr, and --resume goes on from the last checkpoint"
            raise Agreed(f"{what}{_spoiled_words(found)}; {self._named(self.recent)}", where=self.name, mend=mend)

    def _check_weights(self, stage: nn.Module, step: int, batch: Any) -> None:
        held = {"weights": stage.state_dict(), "averaged weights": self.average.tensors if self.average else {}}
        for words, tensors in held.items():
            for name, tensor in tensors.items():
                if tensor.is_floating_point() and not bool(together.whole(torch.isfinite(tensor).all())):
                    what = f"the {words} are not finite at step {step}, first {name}"
                    mend = "--resume goes on from the last checkpoint, which is sound"
                    samples = together.everyones(_samples(batch))
                    raise Agreed(f"{what}; {self._named(samples)}", where=self.name, mend=mend)

    def _named(self, samples: list[int]) -> str:
        """``samples 24, 25 (clips a.mp4, b.mp4)``."""
        words = f"sample{'s' * (len(samples) > 1)} {_few(list(map(str, samples)))}"
        if self.clip is None or not samples:
            return words
        clips = list(dict.fromkeys(map(self.clip, samples)))
        return f"{words} (clip{'s' * (len(clips) > 1)} {_few(clips)})"


def spoiled(batch: Any) -> list[int]:
    """The samples of ``batch`` that hold a value that is not finite."""
    samples = _samples(batch)
    bad = torch.zeros(len(samples), dtype=torch.bool)
    for tensor in batch.values() if isinstance(batch, Mapping) else ():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and len(tensor) == len(samples):
            bad |= ~torch.isfinite(tensor).flatten(1).all(1).cpu() if tensor.ndim > 1 else ~torch.isfinite(tensor).cpu()
    return [sample for sample, wrong in zip(samples, bad.tolist(), strict=True) if wrong]


def _spoiled_words(found: list[int]) -> str:
    return f", and sample{'s' * (len(found) > 1)} {_few(list(map(str, found)))} came with such values" if found else ""


def _samples(batch: Any) -> list[int]:
    return [int(n) for n in batch["sample"]] if isinstance(batch, Mapping) and "sample" in batch else []


def _few(words: list[str]) -> str:
    return ", ".join(words[:NAMED]) + (f" and {len(words) - NAMED} more" if len(words) > NAMED else "")


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
    """``metrics.csv``: what the stage logs, every few steps; a resumed run goes on behind the rows it had by then.

    Rows are put behind each other whole; where a column comes in later, as ``skipped`` does with the first bad step,
    the file is written anew.
    """

    def __init__(self, file: Path):
        self.file = file
        self.rows: list[dict[str, str]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        done = pl_module.steps_done
        self.rows = [row for row in rows(self.file) if _step(row) <= done] if done else []
        disk.write_atomic(self.file, _text(self.rows, header=True).encode())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.steps_done % LOG_EVERY and pl_module.steps_done > 1 and not trainer.should_stop:
            return
        row = {name: f"{float(value):.7g}" for name, value in trainer.callback_metrics.items()}
        row = {"step": str(pl_module.steps_done), **row}
        if pl_module.skipped:
            row["skipped"] = str(pl_module.skipped)
        names = _names(self.rows)
        self.rows.append(row)
        if names == _names(self.rows):
            disk.append(self.file, _text([row], names))
        else:
            disk.write_atomic(self.file, _text(self.rows, header=True).encode())


def rows(file: Path) -> list[dict[str, str]]:
    """Of a table that may end in a line that was cut off."""
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    return [{name: value for name, value in row.items() if value} for row in csv.DictReader(io.StringIO(whole))]


def _names(rows: list[dict[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _text(rows: list[dict[str, str]], names: list[str] | None = None, header: bool = False) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, names or _names(rows), restval="")
    if header and rows:
        writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _step(row: dict[str, str]) -> float:
    """A line that a crash has spoiled counts as later than all."""
    try:
        return float(row["step"])
    except (KeyError, TypeError, ValueError):
        return math.inf


class Checkpoints(Checkpoint):
    """Lightning's checkpoints as ``step-00001000.ckpt``, every so many steps (0: none), at the end and before the work
    is laid down because it was asked to stop; of the older ones all but the ``kept`` newest go.

    All processes stop after the same step, whichever of them was asked to. Lightning's own callback counts steps of
    optimisers, of which the autoencoder has two: it would miss some steps and misname others. It also saves within the
    handler of a signal, where a second process or thread may hang.
    """

    def __init__(self, out: Path, every: int, kept: int, stop: Stop):
        self.out, self.every, self.kept, self.stop = out, every, kept, stop

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.stop.listen()  # Lightning has put its own handler before ours, which ends the run without a checkpoint

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        due = self.every and pl_module.steps_done % self.every == 0
        asked = together.anyone(self.stop.asked, pl_module.device)  # a signal may have reached one process alone
        if trainer.should_stop or asked or due:
            file = checkpoints.named(self.out, pl_module.steps_done)
            trainer.save_checkpoint(file)
            if together.rank() == 0:
                checkpoints.rotate(file, self.kept)
        if asked and not trainer.should_stop:
            mend = "the same command with --resume goes on"
            raise Interrupted(f"{self.out}: stopped at step {pl_module.steps_done}; {mend}")
