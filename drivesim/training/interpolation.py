"""Stage ``interpolation``: the frames between two neighbours, at four times their rate [§3.3].

One set of weights goes from 15/8 to 15/2 and from 15/2 to 30 frames a second; which of the two it is told, and a batch
holds both. *(open)* in the paper: in which shares; here alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from drivesim.diffusion.loss import LossConfig
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.errors import Mistake
from drivesim.models.temporal import TemporalConfig
from drivesim.models.video import ImageModel
from drivesim.training.diffusion import USUAL, Conditions, Latents, TemporalStage
from drivesim.training.loop import LoopConfig

FRAMES = 5  # both ends and three between: a rate times four


@dataclass(frozen=True)
class EndsConfig:
    """Args:
    drop: how often neither end is given *(open in the paper)*: what context guidance contrasts with.
    noise: the ends are noised by U(0, noise) of their deviation, and the model is told how much: in a rollout they are
        made, not real.
    """

    drop: float = 0.1
    noise: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop < 1.0 or self.noise < 0:
            raise Mistake("needs 0 <= drop < 1 and noise >= 0", field="ends")


class InterpolationStage(TemporalStage):
    """Both ends of a window are given, what is between them is predicted; given frames bear no loss."""

    def __init__(
        self,
        image: ImageModel,
        latents: Latents,
        temporal: TemporalConfig,
        ends: EndsConfig,
        schedule: ScheduleConfig,
        loss: LossConfig,
        loop: LoopConfig,
        conditions: Conditions = USUAL,
    ):
        super().__init__(image, latents, temporal, ends.noise, schedule, loss, loop, conditions)
        self.ends = ends

    def _given(self, t: int, samples: list[int] | None) -> Tensor:
        places = torch.arange(t)
        both = ((places == 0) | (places == t - 1)).float()
        if samples is None:
            return both
        return (self._uniform("given", samples) >= self.ends.drop)[:, None] * both
