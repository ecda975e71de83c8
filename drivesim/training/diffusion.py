"""Stages ``image`` and ``keyframes``: diffusion on cached latents, the second with temporal layers alone trained [§3,
Fig. 2]."""

from dataclasses import dataclass

import numpy as np
import torch
from einops import repeat
from torch import Tensor

from drivesim.diffusion.loss import DiffusionLoss, LossConfig
from drivesim.diffusion.noise import Schedule, ScheduleConfig
from drivesim.diffusion.precondition import Denoiser
from drivesim.diffusion.samplers import ddim
from drivesim.errors import Mistake
from drivesim.models.autoencoder import Autoencoder, split_moments
from drivesim.models.conditions import UNKNOWN
from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.video import ImageModel, VideoUNet
from drivesim.randomness import normal, uniform
from drivesim.scene import Condition, to_pixels
from drivesim.training.loop import LoopConfig, Stage


@dataclass(frozen=True, eq=False)
class Latents:
    """What the stages need of the autoencoder: the whitening ``(C,)``, and a decoder for the sample pictures."""

    mean: Tensor
    std: Tensor
    decoder: Autoencoder

    def whiten(self, z: Tensor) -> Tensor:
        return (z - self.mean.to(z)[:, None, None]) / self.std.to(z)[:, None, None]

    def pixels(self, whitened: Tensor) -> np.ndarray:
        """``B T C h w`` to uint8 ``B T H W 3``."""
        z = whitened.float() * self.std.to(whitened)[:, None, None] + self.mean.to(whitened)[:, None, None]
        decoded = [to_pixels(self.decoder.to(z.device).decode(clip)) for clip in z]
        return np.stack(decoded)


@dataclass(frozen=True)
class ContextConfig:
    """Args:
    given: probabilities of 0, 1 and 2 given frames *(open in the paper)*; 0 is what context guidance contrasts with.
    noise: the given latents are noised by U(0, noise) of their deviation, and the model is told how much: rollouts feed
        the model its own, imperfect frames.
    """

    given: tuple[float, float, float] = (0.15, 0.25, 0.6)
    noise: float = 0.2

    def __post_init__(self) -> None:
        if abs(sum(self.given) - 1) > 1e-6 or min(self.given) < 0 or self.noise < 0:
            raise Mistake("given must be three probabilities that add up to 1, noise >= 0", where="context")


class ImageStage(Stage):
    """The image LDM, from batches ``{"moments": B T 2C h w, "night": B, "cars": B, "sample": B}``.

    It learns the posterior's means. Draws from it, as latent diffusion takes them, hold noise that no model can
    predict: with the strong KL of the small configurations that was most of the loss.
    """

    latents: Latents

    def __init__(
        self,
        image: ImageModel,
        latents: Latents,
        schedule: ScheduleConfig,
        loss: LossConfig,
        loop: LoopConfig,
        label_drop: float = 0.1,
    ):
        super().__init__(loop)
        self.image = image
        self.schedule = Schedule(schedule)
        self.objective = DiffusionLoss(self.schedule, loss)
        self.label_drop = label_drop
        self.__dict__["latents"] = latents  # not a submodule: the frozen decoder stays out of checkpoints and of EMA
        self.shown: dict[str, Tensor] | None = None

    @property
    def network(self) -> VideoUNet:
        return VideoUNet(self.image.unet)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimiser(p for p in self.parameters() if p.requires_grad)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        samples = [int(n) for n in batch["sample"]]
        z = self.latents.whiten(split_moments(batch["moments"].float())[0])
        noise, u = self._noise(z, samples), self._uniform("level", samples).to(z)
        condition, predicted = self._condition(batch, z, samples)
        per_sample = self.objective(self.network, z, noise, u, condition, predicted)
        loss = per_sample.mean()
        self.log("loss", loss.detach())
        self.shown = {k: v[:2] for k, v in batch.items()}
        return loss

    def _condition(self, batch: dict[str, Tensor], z: Tensor, samples: list[int]) -> tuple[Condition, Tensor | None]:
        return Condition(tokens=self._tokens(batch, samples)), None

    def _tokens(self, batch: dict[str, Tensor], samples: list[int] | None) -> Tensor | None:
        """Tokens of the labels; with ``samples``, dropped for a share of them [E.1]."""
        if self.image.labels is None:
            return None
        night, cars = batch["night"], batch["cars"]
        if samples is not None:
            dropped = (self._uniform("drop", samples) < self.label_drop).to(night.device)
            night, cars = (torch.where(dropped, UNKNOWN, y) for y in (night, cars))
        return self.image.labels(night, cars)

    def _noise(self, z: Tensor, samples: list[int]) -> Tensor:
        seed, (t, *cell) = self.loop.seed, z.shape[1:]
        frame = torch.stack([normal((seed, "noise", n), (t, *cell)) for n in samples]).to(z)
        if not self.objective.config.shared:
            return frame
        clip = torch.stack([normal((seed, "noise of the clip", n), (1, *cell)) for n in samples]).to(z)
        return self.objective.noise(clip, frame)

    def _uniform(self, what: str, samples: list[int]) -> Tensor:
        return torch.stack([uniform((self.loop.seed, what, n)) for n in samples])

    def _sampled(self, z: Tensor, condition: Condition, network: VideoUNet) -> Tensor:
        denoiser = Denoiser(network, self.schedule)
        levels = (
            self.schedule.levels(20) if self.schedule.config.kind == "discrete" else self.schedule.levels(20, "karras")
        )
        start = torch.stack([normal((self.loop.seed, "picture", i), tuple(z.shape[1:])) for i in range(len(z))]).to(z)
        x = start * float(self.schedule.start_scale(levels.sigmas[0]))
        return ddim(lambda y, level: denoiser(y, level, condition), x, levels)

    @torch.no_grad()
    def pictures(self) -> np.ndarray:
        """Real frames above, sampled ones with the same labels below."""
        assert self.shown is not None
        z = self.latents.whiten(split_moments(self.shown["moments"].float())[0])
        sampled = self._sampled(z, Condition(tokens=self._tokens(self.shown, None)), self.network)
        return np.concatenate([self.latents.pixels(z), self.latents.pixels(sampled)])


class KeyframeStage(ImageStage):
    """The prediction model: the image model frozen, its temporal layers trained, 0, 1 or 2 frames given [§3.2]."""

    def __init__(
        self,
        image: ImageModel,
        latents: Latents,
        temporal: TemporalConfig,
        context: ContextConfig,
        schedule: ScheduleConfig,
        loss: LossConfig,
        loop: LoopConfig,
        label_drop: float = 0.1,
    ):
        super().__init__(image, latents, schedule, loss, loop, label_drop)
        self.image.requires_grad_(False)
        self.temporal = TemporalLayers(temporal, image.unet)
        self.context = context

    @property
    def network(self) -> VideoUNet:
        return VideoUNet(self.image.unet, self.temporal)

    def _condition(self, batch: dict[str, Tensor], z: Tensor, samples: list[int]) -> tuple[Condition, Tensor | None]:
        t = z.shape[1]
        count = self._given(samples).to(z.device)
        mask = (torch.arange(t, device=z.device) < count[:, None]).to(z)
        amount = self._uniform("context level", samples).to(z) * self.context.noise
        level = repeat(amount, "b -> b t", t=t) * mask
        noise = torch.stack([normal((self.loop.seed, "context", n), tuple(z.shape[1:])) for n in samples]).to(z)
        context = (z + level[..., None, None, None] * noise) * mask[..., None, None, None]
        condition = Condition(
            tokens=self._tokens(batch, samples), context=context, context_mask=mask, context_level=level, given=count
        )
        return condition, mask == 0

    def _given(self, samples: list[int]) -> Tensor:
        none, one, _ = self.context.given
        u = self._uniform("given", samples)
        return (u >= none).long() + (u >= none + one).long()

    @torch.no_grad()
    def pictures(self) -> np.ndarray:
        """Real windows above; below, windows sampled from their first two frames."""
        assert self.shown is not None
        z = self.latents.whiten(split_moments(self.shown["moments"].float())[0])
        mask = (torch.arange(z.shape[1], device=z.device) < 2).to(z).expand(z.shape[:2])
        plane = mask[..., None, None, None]
        condition = Condition(
            tokens=self._tokens(self.shown, None),
            context=z * plane,
            context_mask=mask,
            context_level=torch.zeros_like(mask),
            given=torch.full((len(z),), 2, device=z.device),
        )
        sampled = self._sampled(z, condition, self.network)
        return np.concatenate([self.latents.pixels(z), self.latents.pixels(plane * z + (1 - plane) * sampled)])
