"""Stage ``autoencoder`` [§3.1.1, Table 8]: L1, perceptual, KL or codebook, and a patch discriminator, as in latent
diffusion; and what it has in common with the stage that adds temporal layers to its decoder."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivesim.errors import Mistake
from drivesim.models.autoencoder import Autoencoder, AutoencoderConfig, kl, split_moments
from drivesim.models.boxes import coverage
from drivesim.models.discriminator import PatchDiscriminator, adversarial_weight, hinge
from drivesim.randomness import normal
from drivesim.scene import FrameBoxes, to_pixels
from drivesim.training import together
from drivesim.training.loop import LoopConfig, Stage

Perceptual = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ReconstructionLoss:
    """Weights of the loss beside L1, which has 1.

    Args:
        perceptual: of the feature distance that the job passes in.
        gradient: of the L1 of image gradients at three scales: edges of far cars and lane marks weigh little in L1.
        adversarial: of the discriminator, times the adaptive weight; from step ``adversarial_from`` on; 0 for none.
        width: channels of the discriminator's first layer.
    """

    perceptual: float = 1.0
    gradient: float = 0.0
    adversarial: float = 0.5
    adversarial_from: int = 5000
    width: int = 64


@dataclass(frozen=True)
class AutoencoderLoss(ReconstructionLoss):
    """Args:
    kl: of the divergence, in nats an element. A model with a codebook has the codebook's loss instead, weight 1.
    boxes: how much more L1 and gradients count inside of boxes: agents of few cells are blurred away else.
    """

    kl: float = 1e-3
    boxes: float = 0.0

    def __post_init__(self) -> None:
        if self.boxes < 0:
            raise Mistake(f"is 0 or more, not {self.boxes:g}", field="loss.boxes")


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What is made of frames, and how it is judged.

    Args:
        x, y: the frames and what is made of them, ``... 3 H W``, as the discriminator takes them.
        beside: is added to the loss.
        weight: of each pixel, ``n 1 H W``; None: all count alike.
    """

    x: Tensor
    y: Tensor
    beside: Tensor | float = 0.0
    weight: Tensor | None = None


class ReconstructionStage(Stage, ABC):
    """Learns to give back its input, and after a while against a discriminator, which has an optimiser of its own.

    Args:
        discriminator: None for none.
        perceptual: how unlike two sets of frames ``n 3 H W`` look, a scalar; None: the loss is without.
    """

    weights: ReconstructionLoss
    shards = False

    def __init__(
        self,
        loss: ReconstructionLoss,
        loop: LoopConfig,
        discriminator: nn.Module | None,
        perceptual: Perceptual | None,
    ):
        super().__init__(loop)
        self.weights = loss
        self.discriminator = discriminator
        self.perceptual = perceptual
        self.shown: Tensor | None = None

    def last_change(self) -> int:
        return 0 if self.discriminator is None else self.weights.adversarial_from

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """What the first optimiser holds."""

    @property
    @abstractmethod
    def last(self) -> Tensor:
        """The weight at which the adaptive weight compares the gradients: the last that is trained."""

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimisers = [self.optimiser(self.trained.parameters())]
        if self.discriminator is not None:
            optimisers.append(self.optimiser(self.discriminator.parameters()))
        return optimisers

    @abstractmethod
    def forward(self, batch: dict[str, Tensor]) -> Reconstruction:
        """What the model makes of its input."""

    def facts(self, made: Reconstruction) -> dict[str, Tensor]:
        """What is logged beside the loss, means over a part of a batch."""
        return {}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """One step of each optimiser; the adversary learns from the reconstructions that were made before either."""
        optimisers = self.own_optimisers()
        adversary = self.discriminator if self.steps_done >= self.weights.adversarial_from else None
        for optimiser in optimisers:
            optimiser.zero_grad()
        balance = None
        if adversary is not None and self.loop.accumulate > 1:  # the whole batch tells it: made once more, and ahead
            balance = self._balance(adversary, ((self(part), share) for part, share, _ in self.parts(batch)))
        told: dict[str, Tensor] = {}
        for part, share, averaged in self.parts(batch):
            with averaged:
                for name, value in self._learn(self(part), adversary, balance, share).items():
                    told[name] = told.get(name, 0.0) + share * value
        values = together.mean(torch.stack(list(told.values())))
        told = dict(zip(told, values, strict=True))
        self._loss = told["loss"]
        for optimiser in optimisers[: 1 if adversary is None else 2]:
            self.step(optimiser)
        told["psnr"] = -10 * torch.log10(told.pop("square") / 4)
        self.log_dict(told)

    def _learn(
        self, made: Reconstruction, adversary: nn.Module | None, balance: Tensor | None, share: float
    ) -> dict[str, Tensor]:
        """Both ways back for ``share`` of the batch; what is told of it."""
        loss = self._nll(made) + made.beside
        if adversary is not None:
            if balance is None:
                balance = self._balance(adversary, [(made, 1.0)])
            loss = loss - self.weights.adversarial * balance * adversary(made.y).float().mean()
        self._back(0, share * loss)
        if adversary is not None:
            self._back(1, share * hinge(adversary(made.x).float(), adversary(made.y.detach()).float()))
        square = F.mse_loss(made.y.detach().clamp(-1, 1), made.x)
        return {"loss": loss.detach(), "square": square, **self.facts(made)}

    def _balance(self, adversary: nn.Module, parts: Iterable[tuple[Reconstruction, float]]) -> Tensor:
        """The adaptive weight, of the batch of all processes."""
        total = torch.zeros(2, *self.last.shape, device=self.last.device)
        for made, share in parts:
            losses = self._nll(made), -adversary(made.y).float().mean()
            of = [torch.autograd.grad(loss, self.last, retain_graph=True)[0] for loss in losses]
            total += share * torch.stack(of)
        return adversarial_weight(*together.mean(total))

    def _nll(self, made: Reconstruction) -> Tensor:
        """Of its frames, ``n 3 H W``."""
        x, y, weight = made.x.flatten(0, -4), made.y.flatten(0, -4), made.weight
        nll = F.l1_loss(y, x) if weight is None else ((y - x).abs() * weight).mean()
        if self.weights.gradient:
            nll = nll + self.weights.gradient * gradient_loss(x, y, weight)
        if self.perceptual is not None and self.weights.perceptual:
            nll = nll + self.weights.perceptual * self.perceptual(y, x)
        return nll

    def _back(self, which: int, loss: Tensor) -> None:
        """Gradients for one of the optimisers alone."""
        optimiser = self.own_optimisers()[which]
        self.toggle_optimizer(optimiser)
        self.manual_backward(loss)
        self.untoggle_optimizer(optimiser)


class AutoencoderStage(ReconstructionStage):
    """Trains on single frames: batch ``{"video": B T 3 H W, "sample": B}``; frames count as images."""

    weights: AutoencoderLoss

    def __init__(
        self, config: AutoencoderConfig, loss: AutoencoderLoss, loop: LoopConfig, perceptual: Perceptual | None = None
    ):
        model = Autoencoder(config)
        super().__init__(loss, loop, PatchDiscriminator(loss.width) if loss.adversarial else None, perceptual)
        self.model = model

    @property
    def trained(self) -> nn.Module:
        return self.model

    @property
    def last(self) -> Tensor:
        return self.model.decoder.conv_out.weight

    def forward(self, batch: dict[str, Tensor]) -> Reconstruction:
        kind, x = self.model.config.regularizer, batch["video"].flatten(0, 1)
        noise = self._noise(batch["sample"], x)
        moments = self.model.encode(x)
        mean, deviation = split_moments(moments)
        y = self.model.decode(mean + deviation * noise).float()
        beside = self.weights.kl * kl(moments) if kind == "kl" else self.model.codebook_loss(mean)
        self.shown = x[:4].detach()
        return Reconstruction(x, y, beside, self._weight(batch, x))

    def _weight(self, batch: dict[str, Tensor], x: Tensor) -> Tensor | None:
        """``n 1 H W``: 1, and ``weights.boxes`` more inside of boxes."""
        if (boxes := FrameBoxes.of(batch)) is None:
            return None
        return 1 + self.weights.boxes * coverage(boxes, x.shape[-2], x.shape[-1]).flatten(0, 1)

    def _noise(self, samples: Tensor, x: Tensor) -> Tensor:
        f, channels = self.model.config.f, self.model.config.latent
        per = x.shape[0] // samples.shape[0]
        shape = (per, channels, x.shape[-2] // f, x.shape[-1] // f)
        return torch.cat([normal((self.loop.seed, "posterior", int(n)), shape) for n in samples]).to(x)

    @torch.no_grad()
    def pictures(self) -> np.ndarray:
        """Frames above, reconstructions below."""
        assert self.shown is not None
        mean, _ = split_moments(self.model.encode(self.shown))
        return np.stack([to_pixels(self.shown), to_pixels(self.model.decode(mean))])


def gradient_loss(x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """L1 between the image gradients of ``n 3 H W`` at full, half and quarter size, by ``weight`` (``n 1 H W``)."""
    total = x.new_zeros(())
    difference, weight = y - x, torch.ones_like(x[:, :1]) if weight is None else weight
    for _ in range(3):
        across, down = difference.diff(dim=-1).abs(), difference.diff(dim=-2).abs()
        total = total + (across * weight[..., 1:]).mean() + (down * weight[..., 1:, :]).mean()
        difference, weight = F.avg_pool2d(difference, 2), F.avg_pool2d(weight, 2)
    return total / 3


@torch.no_grad()
def latent_statistics(model: Autoencoder, frames: Tensor) -> dict[str, Any]:
    """Mean and deviation of each channel of the posterior's means over ``frames`` n 3 H W; and the PSNR."""
    means, square = [], 0.0
    for part in frames.split(8):  # all at once would take more memory than training did
        means.append(split_moments(model.encode(part))[0])
        square += float((model.decode(means[-1]).clamp(-1, 1) - part).square().sum())
    mean = torch.cat(means)
    return {
        "mean": mean.mean(dim=(0, 2, 3)).tolist(),
        "std": mean.std(dim=(0, 2, 3)).tolist(),
        "psnr": -10 * math.log10(square / frames.numel() / 4),
    }
