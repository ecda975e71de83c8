"""Stages ``upsampler`` and ``upsampler-temporal`` [§3.4, H.1]: 4x diffusion in pixel space, told the low-resolution
frames and how much noise they have; first on single frames, then with temporal layers alone trained.

Both learn on parts of frames, and are run on whole ones: nothing in them depends on the size. The low-resolution part
is made from the high one, by the mean over squares of pixels. Where there is an autoencoder, its latents of the high
part are what is diffused [H.2]: they are then as large as the low part.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from drivesim.diffusion.loss import LossConfig
from drivesim.diffusion.lowres import augmented, reduced
from drivesim.diffusion.noise import Schedule, ScheduleConfig
from drivesim.errors import Mistake
from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.video import ImageModel, VideoUNet
from drivesim.randomness import normal
from drivesim.scene import Condition, to_pixels
from drivesim.training.diffusion import USUAL, Batch, Conditions, ImageStage, Latents
from drivesim.training.loop import LoopConfig


@dataclass(frozen=True)
class LowConfig:
    """Args:
    factor: how many times higher and wider the frames become.
    levels: the highest index of the noise on the low-resolution frames, which is uniform in 0 .. levels [H.1: 250].
    schedule: of that noise; None: the model's own.
    """

    factor: int = 4
    levels: int = 250
    schedule: ScheduleConfig | None = None

    def __post_init__(self) -> None:
        if self.factor < 2 or self.levels < 0:
            raise Mistake("needs factor >= 2 and low_levels >= 0", field="factor" if self.factor < 2 else "low_levels")


class Pixels:
    """Where pixels themselves are diffused, in the place of ``Latents``."""

    f = 1

    def of(self, video: Tensor) -> Tensor:
        return video

    def pixels(self, x: Tensor) -> np.ndarray:
        return to_pixels(x)


class UpsamplerStage(ImageStage):
    """The image upsampler, from batches ``{"video": B T 3 H W, "night": B, "cars": B, "sample": B}``, T = 1; of a model
    that is told words, with ``"caption"``, B strings, where the index has any.

    Args:
        latents: of an autoencoder whose f is ``low.factor``; None: pixels are diffused as they are.
    """

    space: Latents | Pixels

    def __init__(
        self,
        image: ImageModel,
        low: LowConfig,
        schedule: ScheduleConfig,
        loss: LossConfig,
        loop: LoopConfig,
        conditions: Conditions = USUAL,
        latents: Latents | None = None,
    ):
        super().__init__(image, latents, schedule, loss, loop, conditions)
        self.low, self.noising = low, Schedule(low.schedule or schedule)
        self.__dict__["space"] = latents or Pixels()  # no submodule, as latents are none

    @torch.no_grad()
    def _clean(self, batch: Batch) -> Tensor:
        return self.space.of(batch["video"])

    def _condition(self, batch: Batch, z: Tensor, samples: list[int]) -> tuple[Condition, Tensor | None]:
        u = self._uniform("low level", samples).to(z.device)
        index = (u * (self.low.levels + 1)).long().clamp(max=self.low.levels)
        return self._told(batch, reduced(batch["video"], self.low.factor), index, samples), None

    def _told(self, batch: Batch, low: Tensor, index: Tensor, samples: list[int] | None = None) -> Condition:
        """The condition of low-resolution frames with noise ``index``; labels dropped for some of the ``samples``."""
        numbers = samples if samples is not None else [int(n) for n in batch["sample"]]
        noise = torch.stack([normal((self.loop.seed, "low", n), tuple(low.shape[1:])) for n in numbers]).to(low)
        shown = augmented(low, index, noise, self.noising, self.low.factor // self.space.f)
        return Condition(tokens=self._tokens(batch, samples), low=shown, low_level=index)

    def _tokens(self, batch: Batch, samples: list[int] | None) -> Tensor | None:
        """Clips of an index without captions are told ""."""
        silent = {} if "caption" in batch else {"caption": [""] * len(batch["sample"])}
        return super()._tokens({**batch, **silent}, samples)

    @torch.no_grad()
    def pictures(self) -> np.ndarray:
        """Low-resolution frames, bicubically enlarged, above; sampled ones in the middle, from low-resolution frames
        with a fifth of the most noise that training puts on them; real ones below."""
        assert self.shown is not None
        high = self.shown["video"]
        low = reduced(high, self.low.factor)
        index = torch.full((len(high),), self.low.levels // 5, device=high.device)
        sampled = self._sampled(self._clean(self.shown), self._told(self.shown, low, index), self.network)
        rows = [bicubic(to_pixels(low), self.low.factor), self.space.pixels(sampled), to_pixels(high)]
        return np.stack([rearrange(row, "b t h w c -> (b t) h w c") for row in rows])


class UpsamplerTemporalStage(UpsamplerStage):
    """The image upsampler frozen, its temporal layers trained on consecutive frames: the same batches, with T > 1.

    Args:
        known: probabilities of 0, 1, ... first frames that are shown as they are, without noise and loss *(open in the
            paper)*: a rollout from a real opening knows one.
    """

    clean = True

    def __init__(
        self,
        image: ImageModel,
        temporal: TemporalConfig,
        known: tuple[float, ...],
        low: LowConfig,
        schedule: ScheduleConfig,
        loss: LossConfig,
        loop: LoopConfig,
        conditions: Conditions = USUAL,
        latents: Latents | None = None,
    ):
        super().__init__(image, low, schedule, loss, loop, conditions, latents)
        self.image.requires_grad_(False)
        self.temporal, self.known = TemporalLayers(temporal, image.unet), known

    @property
    def network(self) -> VideoUNet:
        return VideoUNet(self.image.unet, self.temporal)

    def _condition(self, batch: Batch, z: Tensor, samples: list[int]) -> tuple[Condition, Tensor | None]:
        condition, _ = super()._condition(batch, z, samples)
        ends = torch.tensor(self.known).cumsum(0)[:-1]
        count = (self._uniform("known", samples)[:, None] >= ends).sum(1)
        return condition, (torch.arange(z.shape[1]) >= count[:, None]).to(z.device)


def bicubic(frames: np.ndarray, factor: int) -> np.ndarray:
    """uint8 ``B T h w 3`` enlarged by OpenCV's bicubic, what an upsampler has to better."""
    height, width = frames.shape[2] * factor, frames.shape[3] * factor
    larger = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for clip in frames for frame in clip]
    return rearrange(np.stack(larger), "(b t) h w c -> b t h w c", b=frames.shape[0])
