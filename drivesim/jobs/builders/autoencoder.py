"""Stage ``autoencoder``."""

import math
from dataclasses import dataclass, field

import torch

from drivesim import config, weights
from drivesim.data.loader import ClipData
from drivesim.errors import Mistake
from drivesim.jobs.builders.common import Built, given, rate_of
from drivesim.models.autoencoder import AutoencoderConfig
from drivesim.training.autoencoder import AutoencoderLoss, AutoencoderStage, latent_statistics
from drivesim.training.loop import LoopConfig


@dataclass(frozen=True)
class AutoencoderRun:
    """Args:
    index: folder that ``drivesim index`` wrote.
    init: weights of this stage, of the same shapes, that training begins with; none named is random ones.
    size: height and width that frames are resized and cropped to.
    fps: rate at which frames are taken from the clips; the paper trains on single frames at 1 fps.
    statistics: frames that the latents' mean and deviation are measured on.
    """

    index: str = ""
    init: str = ""
    size: tuple[int, int] = (512, 1024)
    fps: str | int | float = "1"
    statistics: int = 256
    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    loss: AutoencoderLoss = field(default_factory=AutoencoderLoss)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        rate_of(self.fps)
        if self.statistics < 1:
            raise Mistake(f"at least 1 is expected, not {self.statistics}", field="statistics")
        if self.model.regularizer == "none":
            mend = "python tools/make_pixels.py writes such a file"
            raise Mistake(
                "there is nothing to train: pixels are their own latents", field="model.regularizer", mend=mend
            )
        if min(self.size) < 1 or any(side % self.model.f for side in self.size):
            raise Mistake(f"{self.size[0]}x{self.size[1]} does not divide by f = {self.model.f}", field="size")


def build_autoencoder(settings: AutoencoderRun, begin: int) -> Built:
    from drivesim.metrics import builtin  # its first layers stand in for LPIPS, whose weights nobody has here

    index = given(settings.index, "index", "drivesim index")
    loop = settings.loop
    perceptual = builtin.perceptual if settings.loss.perceptual else None
    stage = AutoencoderStage(settings.model, settings.loss, loop, perceptual)

    def clips(start: int, steps: int) -> ClipData:
        return ClipData(
            index, frames=1, fps=rate_of(settings.fps), size=settings.size, batch=loop.batch,
            steps=steps, start_step=start, seed=loop.seed, workers=loop.workers, boxes=settings.loss.boxes > 0,
        )  # fmt: skip

    data = clips(begin, loop.steps)

    def header() -> weights.Header:
        loader = clips(0, math.ceil(settings.statistics / loop.batch)).train_dataloader()  # however training ended
        frames = torch.cat([batch["video"].flatten(0, 1) for batch in loader])
        latent = {
            "f": settings.model.f, "channels": settings.model.latent, "regularizer": settings.model.regularizer,
            **latent_statistics(stage.model.eval(), frames),
        }  # fmt: skip
        return weights.Header(
            "autoencoder", config.plain(settings.model), size=settings.size, latent=latent, fps=str(settings.fps)
        )

    return Built(stage, stage.model, data, (), data.digest, header)
