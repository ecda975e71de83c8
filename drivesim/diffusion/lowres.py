"""What an upsampler is shown of the frames it enlarges: noised, so that it learns to mend what a rollout hands it, then
resized to its own grid [§3.4, H.1].

The noise is of the model's own schedule and falls on the low-resolution grid, so that it looks like the faults it
stands for: a cell of them covers ``factor x factor`` pixels.

Bilinear, not bicubic: a mean of neighbours never overshoots, keeps a linear ramp exactly (torch's bicubic, a = -0.75,
does not) and adds no edge that the network would have to take back.
"""

import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from drivesim.diffusion.noise import Schedule
from drivesim.scene import Level


def augmented(low: Tensor, index: Tensor, noise: Tensor, schedule: Schedule, factor: int) -> Tensor:
    """Low-resolution frames with noise, at the resolution of the high ones.

    Args:
        low: ``B T 3 h w`` in [-1, 1].
        index: ``B`` long, of a discrete ``schedule``; one for all frames of a clip. The network is told it too.
        noise: like ``low``, of unit variance.
        factor: how many high-resolution pixels a low one is wide.

    Returns:
        ``B T 3 (factor h) (factor w)``: ``alpha low + sigma noise`` with ``alpha^2 + sigma^2 = 1``, resized bilinearly
        between pixel centres; beyond the outermost centres it stays as it is there.
    """
    level = schedule.level(repeat(index, "b -> b t", t=low.shape[1]))
    total = (1 + level.sigma**2).sqrt()
    noised = Level(1 / total).of(low) * low + Level(level.sigma / total).of(low) * noise
    return resized(noised, factor)


def resized(low: Tensor, factor: int) -> Tensor:
    """``B T C h w`` enlarged ``factor`` times, bilinearly between pixel centres."""
    frames = rearrange(low, "b t c h w -> (b t) c h w")
    larger = F.interpolate(frames, scale_factor=factor, mode="bilinear", align_corners=False)
    return rearrange(larger, "(b t) c h w -> b t c h w", t=low.shape[1])


def reduced(high: Tensor, factor: int) -> Tensor:
    """``B T C H W`` made ``factor`` times smaller by the mean over ``factor x factor`` pixels."""
    frames = rearrange(high, "b t c h w -> (b t) c h w")
    return rearrange(F.avg_pool2d(frames, factor), "(b t) c h w -> b t c h w", t=high.shape[1])
