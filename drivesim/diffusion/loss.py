"""The training loss: a level for every sample (or frame) from uniform numbers, the square error on predicted frames.

Uniforms and noise are arguments, since randomness is a function of (seed, sample, step) and not of the batch.
"""

from dataclasses import dataclass

import torch
from einops import repeat
from torch import Tensor

from drivesim.diffusion.known import shown_clean
from drivesim.diffusion.noise import Schedule
from drivesim.diffusion.precondition import Denoiser, Network
from drivesim.errors import Mistake
from drivesim.scene import Condition, Level


@dataclass(frozen=True)
class LossConfig:
    """
    Args:
        power: ``t = u ** power``, with ``t`` in [0, 1) from clean to noise; below 1 favours high noise, 1 is uniform.
        shared: share of the noise's variance that all frames of a clip have in common.
        apart: share of the samples whose frames have levels of their own (diffusion forcing, arXiv 2407.01392); a level
            for all frames else.
        mean, std: of ``ln sigma``, for "edm"; SVD's run from (-1.2, 1.0) at low resolution to (1.0, 1.6).
    """

    power: float = 1.0
    shared: float = 0.0
    apart: float = 0.0
    mean: float = -1.2
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (self.power > 0 and 0 <= self.shared <= 1 and 0 <= self.apart <= 1 and self.std > 0):
            raise Mistake("needs power > 0, shared and apart in [0, 1] and std > 0", field="loss")


class DiffusionLoss:
    """The loss of one training step, of a network that learns ``schedule.config.target``."""

    def __init__(self, schedule: Schedule, config: LossConfig | None = None):
        self.schedule, self.config = schedule, config or LossConfig()

    def level(self, u: Tensor, frames: int) -> Level:
        """Uniforms ``B`` (one level per clip) or ``B T`` (one per frame) in [0, 1) to a level of ``B T``."""
        u = u.double() if u.ndim == 2 else repeat(u.double(), "b -> b t", t=frames)
        time = u**self.config.power
        config = self.schedule.config
        if config.kind == "edm":
            normal = torch.special.ndtri(time.clamp(1e-7, 1 - 1e-7))
            log_sigma = self.config.mean + self.config.std * normal
            return Level(log_sigma.exp().clamp(config.sigma_min, config.sigma_max))
        return self.schedule.level((time * config.steps).long().clamp(0, config.steps - 1))

    def __call__(
        self,
        network: Network,
        x0: Tensor,
        noise: Tensor,
        u: Tensor,
        condition: Condition,
        predicted: Tensor | None = None,
        weight: Tensor | None = None,
        clean: bool = False,
    ) -> Tensor:
        """Loss per sample, ``B``: mean over predicted frames of the square error in the target's parameterisation.

        Args:
            network: ``(c_in x, noise B T, condition) -> output``.
            x0: ``B T C h w`` whitened latents.
            noise: ``B T C h w``, of unit variance.
            u: ``B`` or ``B T`` uniform in [0, 1).
            predicted: ``B T``, true (1) where the frame is to be predicted; given frames bear no loss and no
                gradient. None is all.
            weight: broadcastable to ``B T 1 h w``, a weight for every cell (mean 1 keeps the loss's scale).
            clean: frames that are not predicted are shown as they are, at the lowest level, not noised like the rest.

        A sample without a predicted frame has loss 0.
        """
        denoiser = Denoiser(network, self.schedule)
        level = self.level(u, x0.shape[1])
        if predicted is None:
            predicted = torch.ones(x0.shape[:2], dtype=torch.bool, device=x0.device)
        counts = predicted.bool()
        x = x0 + level.of(x0) * noise
        if clean:
            x, level = shown_clean(x, level, x0, ~counts, self.schedule.least(level))
        output = denoiser.predict(x, level, condition)
        return square_error(output, denoiser.target(x0, noise, level), counts, weight)


def square_error(output: Tensor, target: Tensor, counts: Tensor, weight: Tensor | None = None) -> Tensor:
    """``B``: the mean over the frames that count (``B T`` bool) of the square error, cells weighed by ``weight``."""
    # where(), before the square: not even a NaN in a frame that does not count reaches the loss or its gradient
    square = torch.where(counts[..., None, None, None], output - target, 0.0) ** 2
    if weight is not None:
        square = square * weight.to(square)
    return square.mean(dim=(2, 3, 4)).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
