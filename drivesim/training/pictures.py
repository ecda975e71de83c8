"""Sample pictures while a model trains: a grid into ``samples/`` and TensorBoard, every so many steps and at the
end."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
from einops import rearrange
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from drivesim import disk
from drivesim.training import together
from drivesim.training.callbacks import Average


class Pictures(Callback):
    """Those of the first process's samples. The last is of the averaged weights, and is written before the last
    checkpoint: with that, a training is done.

    Args:
        average: None where there is none.
    """

    def __init__(self, folder: Path, every: int, average: Average | None):
        self.folder, self.every, self.average = folder, every, average

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.should_stop:
            with self.average.inside(pl_module) if self.average else nullcontext():
                self._write(trainer, pl_module)
        elif self.every and pl_module.steps_done % self.every == 0:
            self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, stage: Any) -> None:
        was_training = stage.training
        stage.eval()
        with together.gathered(stage):
            grid = rearrange(stage.pictures(), "r c h w k -> (r h) (c w) k")
        stage.train(was_training)
        if together.rank() > 0:
            return
        png = cv2.imencode(".png", np.ascontiguousarray(grid[..., ::-1]))[1]
        disk.write_atomic(self.folder / f"step-{stage.steps_done:08d}.png", png.tobytes())
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", grid, stage.steps_done, dataformats="HWC")
