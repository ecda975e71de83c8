"""Noise schedules: which levels there are, which of them a sampler visits, where it starts.

Everything is float64: the product of a thousand alphas, and differences of neighbouring sigmas, lose digits in float32.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from drivesim.errors import Mistake, nearest
from drivesim.scene import Level

Spacing = Literal["leading", "trailing", "linspace", "karras"]
SamplerName = Literal["ddim", "euler", "heun", "dpmpp_2m"]
End = Literal["zero", "first"]
SPACINGS = ("leading", "trailing", "linspace", "karras")


@dataclass(frozen=True)
class ScheduleConfig:
    """What a model was trained with; it is written beside the weights.

    Args:
        kind: "discrete" has ``steps`` levels from betas, "edm" any sigma in ``[sigma_min, sigma_max]``.
        steps, beta_start, beta_end, betas: of "discrete". The defaults are Stable Diffusion's.
        target: what the network's output means. "edm" belongs to kind "edm", "eps" and "v" to "discrete".
        sigma_min, sigma_max: of "edm"; the defaults are SVD's.
        rho: curvature of the karras spacing [EDM, eq. 5].
    """

    kind: Literal["discrete", "edm"] = "discrete"
    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    betas: Literal["scaled_linear", "linear", "cosine"] = "scaled_linear"
    target: Literal["eps", "v", "edm"] = "v"
    sigma_min: float = 0.002
    sigma_max: float = 700.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if (self.kind == "edm") != (self.target == "edm"):
            mend = "kind 'edm' takes target 'edm'; kind 'discrete' takes 'eps' or 'v'"
            raise Mistake(
                f"a schedule of kind '{self.kind}' has no target '{self.target}'", field="schedule", mend=mend
            )
        if self.steps < 1 or not 0 < self.beta_start <= self.beta_end < 1:
            raise Mistake("needs steps >= 1 and 0 < beta_start <= beta_end < 1", field="schedule")
        if not 0 < self.sigma_min < self.sigma_max or self.rho <= 0:
            raise Mistake("needs 0 < sigma_min < sigma_max and rho > 0", field="schedule")


@dataclass(frozen=True, eq=False)
class Levels:
    """The levels that a sampler visits, from noise to nothing.

    Args:
        sigmas: ``steps + 1`` float64, falling; the last is 0, or the schedule's lowest.
        indices: ``steps`` indices of the discrete schedule, float64 where a spacing falls between two; None for "edm".
    """

    sigmas: Tensor
    indices: Tensor | None = None

    def __post_init__(self) -> None:
        if self.sigmas.ndim != 1 or self.sigmas[-1] < 0 or not bool((self.sigmas.diff() < 0).all()):
            raise ValueError("sigmas fall strictly, and not below 0")
        if self.indices is not None and len(self.indices) != len(self):
            raise ValueError(f"{len(self)} steps, but {len(self.indices)} indices")

    def __len__(self) -> int:
        """The number of steps, one less than there are sigmas."""
        return len(self.sigmas) - 1

    def at(self, step: int, x: Tensor) -> Level:
        """The level of ``step``, the same for every frame of ``x`` (``B T C h w``)."""

        def full(values: Tensor) -> Tensor:
            """Written there, not copied to it: a device is not waited for."""
            return torch.full(x.shape[:2], values[step].item(), dtype=values.dtype, device=x.device)

        return Level(full(self.sigmas), None if self.indices is None else full(self.indices))


class Schedule:
    """The noise levels of one model.

    Attributes:
        sigmas: float64, rising: a level per index for "discrete", the two ends for "edm".
    """

    def __init__(self, config: ScheduleConfig):
        self.config = config
        if config.kind == "edm":
            self.sigmas = torch.tensor([config.sigma_min, config.sigma_max], dtype=torch.float64)
        else:
            kept = (1 - _betas(config)).cumprod(0)
            self.sigmas = ((1 - kept) / kept).sqrt()
        self._at: dict[torch.device, Tensor] = {}  # where levels are asked for

    def level(self, index: Tensor) -> Level:
        """The level of each frame, from ``index`` (``B T`` long) into a discrete schedule."""
        if self.config.kind != "discrete":
            raise ValueError("a schedule of kind 'edm' has no indices; write Level(sigma)")
        if index.device not in self._at:
            self._at[index.device] = self.sigmas.to(index.device)
        return Level(self._at[index.device][index], index)

    def least(self, level: Level) -> Level:
        """Of the shape of ``level``, the lowest there is: what clean frames are said to be at."""
        if level.index is not None:
            return self.level(torch.zeros_like(level.index))
        return Level(torch.full_like(level.sigma, self.config.sigma_min))

    def start_scale(self, sigma: float | Tensor) -> Tensor:
        """By what unit noise is multiplied to start at ``sigma``.

        Variance-preserving training ends in unit variance, data included: ``sqrt(1 + sigma^2)`` here; EDM: ``sigma``.
        """
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        return sigma if self.config.kind == "edm" else (1 + sigma**2).sqrt()

    def levels(
        self,
        steps: int,
        spacing: Spacing = "trailing",
        offset: int = 0,
        sampler: SamplerName = "ddim",
        end: End = "zero",
    ) -> Levels:
        """The levels of a sampler of ``steps`` steps.

        Args:
            spacing: "leading", "trailing", "linspace" of indices (arXiv 2305.08891, Table 2), or "karras" of sigmas
                [EDM, eq. 5].
            offset: added to the indices of "leading"; Stable Diffusion's is 1.
            sampler: whose convention to follow, where diffusers' schedulers differ for one spacing: DPM-Solver++ lays
                out one point more and leaves out the cleanest; Euler and Heun do not round to whole indices.
            end: where the last step goes: to no noise, or to the schedule's first level, of which a little is left, as
                with ``set_alpha_to_one`` false in Stable Diffusion's own scheduler; "ddim" alone may.

        Raises:
            Mistake: more steps than levels, an unknown spacing, an index spacing for "edm", an end that does not fit.
        """
        if end == "first":
            return self._to_first(self.levels(steps, spacing, offset, sampler), sampler)
        if spacing not in SPACINGS:
            raise Mistake(f"no spacing '{spacing}'", where="sampler", mend=nearest(str(spacing), SPACINGS))
        if steps < 1:
            raise Mistake(f"{steps} steps are not enough", where="sampler", mend="take at least 1")
        if spacing == "karras":
            return self._karras(steps, rounded=sampler not in ("euler", "heun"))
        if self.config.kind == "edm":
            raise Mistake(f"spacing '{spacing}' needs a discrete schedule", where="sampler", mend="take 'karras'")
        indices = _indices(self.config.steps, steps, spacing, offset, sampler)
        if indices.min() < 0 or indices.max() > self.config.steps - 1 or len(np.unique(indices)) < steps:
            mend = f"fewer steps, or an offset other than {offset}"
            raise Mistake(f"{steps} steps do not fit into {self.config.steps} levels", where="sampler", mend=mend)
        sigmas = np.interp(indices, np.arange(self.config.steps), self.sigmas.numpy())
        return Levels(_to_zero(sigmas), torch.from_numpy(indices))

    def _to_first(self, levels: Levels, sampler: SamplerName) -> Levels:
        lowest = self.sigmas[0]
        if sampler != "ddim" or self.config.kind == "edm":
            raise Mistake("end 'first' is for 'ddim' and discrete schedules", where="sampler", mend="end 'zero'")
        if levels.sigmas[-2] <= lowest:
            what = "the last step begins where end 'first' has it go"
            raise Mistake(what, where="sampler", mend="offset 1 with spacing 'leading', or end 'zero'")
        return Levels(torch.cat([levels.sigmas[:-1], lowest[None]]), levels.indices)

    def _karras(self, steps: int, rounded: bool) -> Levels:
        low, high = (float(self.sigmas[end]) ** (1 / self.config.rho) for end in (0, -1))
        sigmas = np.linspace(high, low, steps) ** self.config.rho
        if self.config.kind == "edm":
            return Levels(_to_zero(sigmas))
        indices = np.interp(np.log(sigmas), self.sigmas.log().numpy(), np.arange(self.config.steps))
        return Levels(_to_zero(sigmas), torch.from_numpy(indices.round().astype(np.int64) if rounded else indices))


def shared_noise(clip: Tensor, frame: Tensor, shared: float) -> Tensor:
    """Unit noise that the frames of a clip share in part: ``sqrt(shared) clip + sqrt(1 - shared) frame``.

    Args:
        clip: ``B 1 C h w`` unit noise; ``frame``: ``B T C h w`` unit noise, independent of it.
        shared: the correlation between two frames' noise, in [0, 1] (PYoCo's mixed noise, arXiv 2305.10474).
    """
    return shared**0.5 * clip + (1 - shared) ** 0.5 * frame


def _betas(config: ScheduleConfig) -> Tensor:
    """``steps`` float64 variances of the forward process."""
    if config.betas == "scaled_linear":
        return _linspace(config.beta_start**0.5, config.beta_end**0.5, config.steps) ** 2
    if config.betas == "linear":
        return _linspace(config.beta_start, config.beta_end, config.steps)
    time = _linspace(0, 1, config.steps + 1)  # Nichol & Dhariwal, arXiv 2102.09672, eq. 17; betas clipped as there
    kept = ((time + 0.008) / 1.008 * torch.pi / 2).cos() ** 2
    return (1 - kept[1:] / kept[:-1]).clamp(max=0.999)


def _linspace(start: float, end: float, steps: int) -> Tensor:
    return torch.linspace(start, end, steps, dtype=torch.float64)


def _indices(total: int, steps: int, spacing: Spacing, offset: int, sampler: SamplerName) -> np.ndarray:
    """``steps`` falling indices, by the rules of diffusers' DDIM, EulerDiscrete and DPMSolverMultistep schedulers."""
    points = steps + 1 if sampler == "dpmpp_2m" else steps
    if spacing == "trailing":  # arange's own rounding decides ties, so it is written as they write it
        return np.arange(total, 0, -total / steps)[:steps].round().astype(np.int64) - 1
    if spacing == "leading":
        return (np.arange(points) * (total // points))[::-1][:steps] + offset
    even = np.linspace(0, total - 1, points)[::-1][:steps]
    return even.copy() if sampler in ("euler", "heun") else even.round().astype(np.int64)


def _to_zero(sigmas: np.ndarray) -> Tensor:
    return torch.from_numpy(np.append(sigmas, 0.0))
