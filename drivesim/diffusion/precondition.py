"""The wrapper between a network, which knows nothing of noise, and ``D(x, level, condition) -> x0``.

With ``s`` the variance-exploding sigma, ``alpha = 1 / sqrt(1 + s^2)`` and ``sigma_vp = s / sqrt(1 + s^2)``, the
network sees ``alpha x``, which is the variance-preserving ``alpha x0 + sigma_vp n``, and its output ``F`` means

    eps   x0 = x - s F
    v     x0 = alpha (alpha x) - sigma_vp F                     [Salimans & Ho, arXiv 2202.00512, app. D]
    edm   x0 = x / (s^2 + 1) - s / sqrt(s^2 + 1) F              [SVD, arXiv 2311.15127, app. D]

The last two are one formula; "edm" differs in what the network is told of the level: ``ln(s) / 4`` instead of an index.
"""

from collections.abc import Callable

from torch import Tensor

from drivesim.diffusion.noise import Schedule
from drivesim.scene import Condition, Level

Network = Callable[[Tensor, Tensor, Condition], Tensor]  # (c_in x: B T C h w, noise: B T, condition) -> F: B T C h w


class Denoiser:
    """``D(x, level, condition) -> x0`` around a network.

    Args:
        network: called as ``network(c_in * x, noise, condition)``; ``noise`` is ``B T`` float32, the index or
            ``ln(sigma) / 4``.
        schedule: what the network was trained with.
        steps: of DDIM that it was distilled to (``distill.few``), and knows no others; None for any.
    """

    def __init__(self, network: Network, schedule: Schedule, steps: int | None = None):
        self.network, self.schedule, self.steps = network, schedule, steps

    def __call__(self, x: Tensor, level: Level, condition: Condition) -> Tensor:
        return self.x0(self.predict(x, level, condition), x, level)

    def predict(self, x: Tensor, level: Level, condition: Condition) -> Tensor:
        """The network's own output at ``x``, in ``x``'s precision."""
        alpha, _ = _preserving(level, x)
        return self.network(alpha * x, self._told(level), condition).to(x.dtype)

    def x0(self, output: Tensor, x: Tensor, level: Level) -> Tensor:
        """The clean latents that the network's ``output`` at ``x`` means."""
        if self.schedule.config.target == "eps":
            return x - level.of(x) * output
        alpha, sigma = _preserving(level, x)
        return alpha * (alpha * x) - sigma * output

    def target(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """The output that a perfect network gives at ``x0 + sigma noise``.

        For "edm", the plain square error to it is the error of x0 with EDM's weight ``(1 + s^2) / s^2 = 1 / c_out^2``.
        """
        if self.schedule.config.target == "eps":
            return noise
        alpha, sigma = _preserving(level, x0)
        return alpha * noise - sigma * x0

    def _told(self, level: Level) -> Tensor:
        if self.schedule.config.kind == "edm":
            return (level.sigma.log() / 4).float()
        if level.index is None:
            raise ValueError("a discrete model needs the level's index; use Schedule.level or Schedule.levels")
        return level.index.float()


def _preserving(level: Level, x: Tensor) -> tuple[Tensor, Tensor]:
    """``alpha`` and ``sigma_vp`` as ``B T 1 1 1``, computed in the level's precision and given in ``x``'s."""
    total = (1 + level.sigma**2).sqrt()
    return Level(1 / total).of(x), Level(level.sigma / total).of(x)
