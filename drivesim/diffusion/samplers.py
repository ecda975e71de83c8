"""Samplers: functions of ``denoise(x, level) -> x0`` and of the levels to visit.

They know no model and draw no random number. All work on ``B T C h w`` with every frame at one level, in
variance-exploding sigmas, where the probability-flow ODE is ``dx/dsigma = (x - D) / sigma`` (EDM, arXiv 2206.00364,
eqs. 1 and 3), and end at the levels' last sigma. ``x`` is noise times ``Schedule.start_scale(levels.sigmas[0])``.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import expm1, log, sqrt

from torch import Tensor

from drivesim.diffusion.noise import Levels
from drivesim.errors import Mistake, nearest
from drivesim.scene import Level

Denoise = Callable[[Tensor, Level], Tensor]
Noise = Callable[[int], Tensor]  # step -> unit noise like x
Sampler = Callable[[Denoise, Tensor, Levels, Noise | None], Tensor]


def ddim(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise | None = None, eta: float = 0.0) -> Tensor:
    """DDIM; ``eta`` 0 is deterministic (and then Euler), 1 is ancestral (DDPM).

    Song et al., arXiv 2010.02502, eqs. 12 and 16, with ``abar = 1 / (1 + sigma^2)``: in a step from ``s`` to ``r < s``
    they add noise of variance

        eta^2 (1 - abar_r) / (1 - abar_s) (1 - abar_s / abar_r)

    to the variance-preserving state. That state is ``sqrt(abar_r)`` times ours; with ``(1 - abar_r) / abar_r = r^2``,
    ``1 - abar_s = s^2 / (1 + s^2)`` and ``1 - abar_s / abar_r = (s^2 - r^2) / (1 + s^2)``, our variance is
    ``eta^2 r^2 (s^2 - r^2) / s^2``.
    """
    if eta > 0 and noise is None:
        raise ValueError("ddim with eta > 0 needs a noise source")
    for step, (sigma, lower) in enumerate(_pairs(levels)):
        x0 = denoise(x, levels.at(step, x))
        added = eta * lower / sigma * sqrt(sigma**2 - lower**2)
        kept = sqrt(max(lower**2 - added**2, 0.0))
        x = x0 + kept / sigma * (x - x0)
        if added > 0 and noise is not None:
            x = x + added * noise(step)
    return x


def euler(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise | None = None) -> Tensor:
    """Euler's method on the probability-flow ODE; one call a step."""
    for step, (sigma, lower) in enumerate(_pairs(levels)):
        slope = (x - denoise(x, levels.at(step, x))) / sigma
        x = x + (lower - sigma) * slope
    return x


def heun(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise | None = None) -> Tensor:
    """Heun's second-order method [EDM, algorithm 1]; two calls a step, one in the last."""
    for step, (sigma, lower) in enumerate(_pairs(levels)):
        slope = (x - denoise(x, levels.at(step, x))) / sigma
        ahead = x + (lower - sigma) * slope
        if lower > 0:
            there = (ahead - denoise(ahead, levels.at(step + 1, x))) / lower
            ahead = x + (lower - sigma) * (slope + there) / 2
        x = ahead
    return x


def dpmpp_2m(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise | None = None) -> Tensor:
    """DPM-Solver++ 2M, midpoint (arXiv 2211.01095, algorithm 2, with ``lambda = -ln sigma``); one call a step.

    The first step has no past and the last no finite ``lambda``: these two are of first order.
    """
    pairs = _pairs(levels)
    before: Tensor | None = None
    for step, (sigma, lower) in enumerate(pairs):
        x0 = denoise(x, levels.at(step, x))
        if lower == 0:
            return x0
        width = log(sigma / lower)
        straight = x0
        if before is not None:
            ratio = log(pairs[step - 1][0] / sigma) / width
            straight = x0 + (x0 - before) / (2 * ratio)
        x = lower / sigma * x - expm1(-width) * straight
        before = x0
    return x


SAMPLERS = ("ddim", "dpmpp_2m", "euler", "heun")


def sampler(name: str, eta: float = 0.0) -> Sampler:
    """The sampler of that name, called as ``(denoise, x, levels, noise)``; only "ddim" takes ``eta``.

    Raises:
        Mistake: no such sampler, or ``eta`` for one that draws no noise.
    """
    known: dict[str, Sampler] = {"ddim": partial(ddim, eta=eta), "euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}
    if name not in known:
        raise Mistake(f"no sampler '{name}'", where="sampler", mend=nearest(name, known))
    if eta and name != "ddim":
        raise Mistake(f"'{name}' draws no noise and takes no eta", where="sampler", mend="take 'ddim', or eta 0")
    return known[name]


def _pairs(levels: Levels) -> list[tuple[float, float]]:
    """Every step's sigma and the one it goes to, as exact Python floats."""
    return list(pairwise(levels.sigmas.tolist()))
