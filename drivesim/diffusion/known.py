"""Sampling around frames that are known: their prediction is replaced by themselves at every step."""

from collections.abc import Callable

import torch
from torch import Tensor

from drivesim.scene import Level

Denoise = Callable[[Tensor, Level], Tensor]


def keeping(denoise: Denoise, known: Tensor) -> Denoise:
    """``denoise`` whose first frames are always predicted to be ``known``, ``B g C h w``.

    So at every level the other frames see them with the very noise of that level, and they come out unchanged, since
    every sampler's last step gives the prediction itself.
    """

    def kept(x: Tensor, level: Level) -> Tensor:
        return torch.cat([known.to(x), denoise(x, level)[:, known.shape[1] :]], dim=1)

    return kept
