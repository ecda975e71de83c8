"""Sampling around frames, or parts of them, that are known: their prediction is replaced by themselves at every step.

A model that was trained so also sees them as they are, at the lowest level; another sees them with the noise of the
level, of which little is left to be seen where a sampler takes few steps.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from drivesim.scene import Level

Denoise = Callable[[Tensor, Level], Tensor]


def keeping(denoise: Denoise, known: Tensor, least: Callable[[Level], Level] | None = None) -> Denoise:
    """``denoise`` whose first frames are always predicted to be ``known``, ``B g C h w``.

    So they come out unchanged, since every sampler's last step gives the prediction itself.

    Args:
        least: the lowest level of the model's schedule, in the shape of another: it is shown the known frames without
            noise. None: it sees them with the very noise of each level.
    """
    given = known.shape[1]

    def kept(x: Tensor, level: Level) -> Tensor:
        if least is not None:
            there = (torch.arange(x.shape[1], device=x.device) < given).expand(x.shape[:2])
            whole = torch.cat([known.to(x), x[:, given:]], dim=1)
            x, level = shown_clean(x, level, whole, there, least(level))
        return torch.cat([known.to(x), denoise(x, level)[:, given:]], dim=1)

    return kept


def holding(denoise: Denoise, known: Tensor, where: Tensor) -> Denoise:
    """``denoise`` that always predicts ``known`` (``B T C h w``) in the cells ``where`` (``B T 1 h w`` bool), which
    come out so; the others are made to fit them."""
    return lambda x, level: torch.where(where, known.to(x), denoise(x, level))


def shown_clean(x: Tensor, level: Level, clean: Tensor, which: Tensor, least: Level) -> tuple[Tensor, Level]:
    """``x`` and its ``level`` with the frames ``which`` (``B T`` bool) as in ``clean``, at the level ``least``."""
    index = None if level.index is None or least.index is None else torch.where(which, least.index, level.index)
    sigma = torch.where(which, least.sigma.to(level.sigma), level.sigma)
    return torch.where(which[..., None, None, None], clean, x), Level(sigma, index)
