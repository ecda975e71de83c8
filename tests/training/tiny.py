"""Networks of a few thousand weights and data in memory, for tests of the training loop."""

from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from drivesim.data.order import Batches
from drivesim.diffusion.loss import LossConfig
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.models.autoencoder import Autoencoder, AutoencoderConfig
from drivesim.models.decoder import DecoderConfig
from drivesim.models.temporal import TemporalConfig
from drivesim.models.unet import UNetConfig
from drivesim.models.video import ImageModel
from drivesim.randomness import normal
from drivesim.training.autoencoder import AutoencoderLoss, AutoencoderStage, ReconstructionLoss
from drivesim.training.decoder import DecoderStage
from drivesim.training.diffusion import ContextConfig, ImageStage, KeyframeStage, Latents
from drivesim.training.interpolation import EndsConfig, InterpolationStage
from drivesim.training.loop import LoopConfig, Stage

LOOP = LoopConfig(steps=20, batch=2, lr=3e-3, warmup=1, ema=0.0, seed=3, precision="32-true", checkpoint_every=0)
AUTOENCODER = AutoencoderConfig(channels=(8, 8, 8), blocks=1, attention=False, groups=4)
UNET = UNetConfig(channels=(16, 16), blocks=1, attention=(False, True), head_channels=8, cross=8, groups=4)
TEMPORAL = TemporalConfig(frames=4, depth=1, head_channels=8, context_channels=8)
BETWEEN = replace(TEMPORAL, frames=5, cross=8, told=("rate",))
FRAMES = {"image": 1, "keyframes": 4, "interpolation": 5}
SCHEDULE = ScheduleConfig(target="v", betas="cosine")


class Memory(pl.LightningDataModule):
    """Batches as a function of the sample's number; with ``repeat``, the first one over and over."""

    def __init__(self, stage: str, loop: LoopConfig, start_step: int = 0, repeat: bool = False):
        super().__init__()
        self.stage, self.loop, self.start_step, self.repeat = stage, loop, start_step, repeat
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.loop.steps * self.loop.batch

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        self.asked.append(sample)
        sample = sample % self.loop.batch if self.repeat else sample
        if self.stage == "autoencoder":
            content = {"video": normal(("video", sample), (1, 3, 32, 32)).tanh()}
        elif self.stage == "decoder":
            clip = F.interpolate(normal(("video", sample), (6, 3, 4, 4)).tanh(), scale_factor=8)
            content = {"video": clip.contiguous(memory_format=torch.channels_last)}  # as it is read
        else:
            fps = torch.tensor(7.5 if sample % 2 else 30.0)
            content = {"moments": normal(("moments", sample), (FRAMES[self.stage], 8, 4, 8)), "fps": fps}
        return {**content, **{name: torch.tensor(value) for name, value in self.labels(sample).items()}}

    @staticmethod
    def labels(sample: int) -> dict[str, int]:
        return {"night": sample % 2, "cars": sample % 7, "sample": sample}

    def train_dataloader(self) -> DataLoader[Any]:
        batches = Batches(self.loop.batch, self.start_step, self.loop.steps)
        own = torch.Generator().manual_seed(0)
        return DataLoader(self, batch_sampler=batches, generator=own)  # type: ignore[arg-type]


def loop(**more: Any) -> LoopConfig:
    return replace(LOOP, **more)


def stage(name: str, settings: LoopConfig, **more: Any) -> Stage:
    """A stage with the same initial weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        loss = {"perceptual": 0.0, "adversarial": 0.0, "width": 8} | more
        if name == "autoencoder":
            return AutoencoderStage(AUTOENCODER, AutoencoderLoss(**loss), settings)
        if name == "decoder":
            return DecoderStage(Autoencoder(AUTOENCODER), DecoderConfig(), ReconstructionLoss(**loss), settings)
        latents = Latents(torch.zeros(4), torch.ones(4), Autoencoder(AUTOENCODER))
        image = ImageModel(UNET)
        if name == "image":
            return ImageStage(image, latents, SCHEDULE, LossConfig(), settings)
        if name == "interpolation":
            ends = EndsConfig(**more)
            return InterpolationStage(image, latents, BETWEEN, ends, SCHEDULE, LossConfig(), settings)
        return KeyframeStage(image, latents, TEMPORAL, ContextConfig(), SCHEDULE, LossConfig(), settings)
