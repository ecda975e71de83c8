"""Stage ``interpolation``: the frames between two neighbours, at four times their rate [§3.3].

One set of weights goes from 15/8 to 15/2 and from 15/2 to 30 frames a second; which of the two it is told, and a batch
holds both. *(open)* in the paper: in which shares; here alike.

The text-to-video model's is trained whole, image layers included, and sees the ends at its input [H.2]: ``whole``, of
an image model that is ``widened``.
"""

from dataclasses import dataclass, replace

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
    levels: in its place, the noise is that of a level of the schedule, uniform in 0 (none) .. levels; the paper's
        text-to-video model has 250, and no noise at test.
    """

    drop: float = 0.1
    noise: float = 0.1
    levels: int | None = None

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 1:
            raise Mistake("is 1 or more, or none", field="ends.levels")
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
        whole: bool = False,
    ):
        super().__init__(image, latents, temporal, ends.noise, schedule, loss, loop, conditions, whole)
        if ends.levels is not None and (schedule.kind != "discrete" or ends.levels > schedule.steps):
            what = f"the image model's schedule is {schedule.kind}, of {schedule.steps} levels, not of {ends.levels}"
            raise Mistake(what, field="ends.levels", mend="null, for noise by ends.noise")
        self.ends = ends

    def _given(self, t: int, samples: list[int] | None) -> Tensor:
        places = torch.arange(t)
        both = ((places == 0) | (places == t - 1)).float()
        if samples is None:
            return both
        return (self._uniform("given", samples) >= self.ends.drop)[:, None] * both

    def _amount(self, u: Tensor) -> Tensor:
        if self.ends.levels is None:
            return super()._amount(u)
        sigmas = torch.cat([torch.zeros(1), self.schedule.sigmas.float()]).to(u)
        return sigmas[(u * (self.ends.levels + 1)).long().clamp(max=self.ends.levels)]


def widened(image: ImageModel) -> ImageModel:
    """``image`` with the context latents and their mask beside the noisy ones at its input. The weights of what is new
    start at zero, so that it computes what ``image`` does.

    Raises:
        Mistake: it sees something else there, or folds its input.
    """
    own = image.unet.config
    if own.joined or own.patch > 1:
        what = "a model that is trained whole starts from an image model that sees its latents alone, unfolded"
        raise Mistake(what, field="whole", mend="another image model, or whole=false")
    wide = ImageModel(replace(own, in_channels=2 * own.out_channels + 1, joined=("context", "mask")))
    entering = torch.zeros_like(wide.unet.conv_in.weight)
    entering[:, : own.in_channels] = image.unet.conv_in.weight.detach()
    wide.load_state_dict({**image.state_dict(), "unet.conv_in.weight": entering})
    return wide
