"""Distillation to few steps: a student learns to go in one step of DDIM where its teacher goes in several.

    s_0          s_1          s_2          s_3          s_4          the teacher's levels, here 2 steps of 4 substeps
     |------------|------------|------------|-----...
     start                                   end of the student's step

In variance-exploding sigmas a step of DDIM from ``s`` to ``r < s`` is ``x_r = x0 + r / s (x_s - x0)``. So the one
prediction that leads from ``x_s`` to a given ``x_e`` is ``x0* = (x_e - e / s x_s) / (1 - e / s)``, and that is what the
student is taught at ``x_s``. How ``x_e`` is found is the method:

    progressive   the teacher takes all substeps [Salimans & Ho, arXiv 2202.00512, alg. 2, with any number of substeps]
    consistency   the teacher takes one from a random substep, the student itself the rest in one step, without a
                  gradient [multistep consistency models: Heek et al., arXiv 2403.06807, alg. 1]

The teacher is guided; the student needs no guidance, and so one call a step. It is sampled by DDIM at the levels that
it was taught: no other sampler, and no other number of steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from einops import repeat
from torch import Tensor

from drivesim.diffusion.guidance import Denoise
from drivesim.diffusion.known import shown_clean
from drivesim.diffusion.loss import square_error
from drivesim.diffusion.noise import Levels, Schedule, Spacing
from drivesim.diffusion.precondition import Denoiser, Network
from drivesim.errors import Mistake
from drivesim.scene import Condition, Level

Shown = Callable[[Tensor, Level], tuple[Tensor, Level]]  # what a network is shown in the place of ``x`` at ``level``


@dataclass(frozen=True)
class DistillConfig:
    """Args:
    teacher: weights of the same stage, which the training begins with and whose sampling it is to reach in fewer steps;
        none named is plain training.
    steps: of DDIM that the trained model is sampled with.
    substeps: of the teacher in the place of each.
    method: ``progressive`` or ``consistency``, see above.
    context, labels, boxes: scales of the teacher's guidance, which the student then has in it; 1 is none.

    The levels are those of the steps: of ``loss``, ``shared`` alone still counts.
    """

    teacher: str = ""
    steps: int = 4
    substeps: int = 4
    method: Literal["progressive", "consistency"] = "progressive"
    context: float = 1.0
    labels: float = 1.0
    boxes: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.substeps < 2:
            field = "distill.steps" if self.steps < 1 else "distill.substeps"
            raise Mistake("needs steps >= 1 and substeps >= 2", field=field)


def few(schedule: Schedule, steps: int) -> Levels:
    """The levels that a model distilled to ``steps`` steps is sampled at: from pure noise on."""
    spacing: Spacing = "trailing" if schedule.config.kind == "discrete" else "karras"
    return schedule.levels(steps, spacing)


class Distillation:
    """The loss of one training step; it stands in the place of ``DiffusionLoss`` and is called as that is.

    Args:
        schedule: of teacher and student.
        teacher: ``(x, level, condition) -> x0``, guided.

    Raises:
        Mistake: ``steps`` times ``substeps`` levels are more than the schedule has.
    """

    def __init__(self, schedule: Schedule, config: DistillConfig, teacher: Denoise):
        self.schedule, self.config, self.teacher = schedule, config, teacher
        coarse = few(schedule, config.steps)
        self.levels = _between(schedule, coarse, config.substeps)

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
        """Loss per sample, ``B``; the arguments are those of ``DiffusionLoss``, ``u`` is one number a sample."""
        if predicted is None:
            predicted = torch.ones(x0.shape[:2], dtype=torch.bool, device=x0.device)
        counts, student = predicted.bool(), Denoiser(network, self.schedule)
        begin, end = self._stretch(u)
        level = self._level(begin, x0)
        x = x0 + level.of(x0) * noise
        shown = self._showing(x0, ~counts) if clean else _as_it_is
        with torch.no_grad():
            wanted = self._wanted(student, x, begin, end, condition, shown)
        target = student.target(wanted, (x - wanted) / level.of(x0), level)
        output = student.predict(*shown(x, level), condition)
        return square_error(output, target, counts, weight)

    def _stretch(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """``B`` places in the levels where the student's step begins and ends."""
        substeps, steps = self.config.substeps, self.config.steps
        place = (u.double() * steps * substeps).long().clamp(0, steps * substeps - 1)
        end = (place // substeps + 1) * substeps
        return (end - substeps if self.config.method == "progressive" else place), end

    def _wanted(
        self,
        student: Denoiser,
        x: Tensor,
        begin: Tensor,
        end: Tensor,
        condition: Condition,
        shown: Shown,
    ) -> Tensor:
        """The prediction that leads from ``x`` to where the method's steps lead."""
        y, place = x, begin
        for _ in range(self.config.substeps if self.config.method == "progressive" else 1):
            y = self._step(self.teacher, y, place, place + 1, condition, shown)
            place = place + 1
        if self.config.method == "consistency":
            ahead = self._step(student, y, place.clamp(max=len(self.levels) - 1), end, condition, shown)
            y = torch.where(_of_clip(place < end, y), ahead, y)
        ratio = _of_clip(self._sigma(end, x) / self._sigma(begin, x), x).to(x)
        return (y - ratio * x) / (1 - ratio)

    def _step(
        self,
        denoise: Denoise,
        x: Tensor,
        at: Tensor,
        to: Tensor,
        condition: Condition,
        shown: Shown,
    ) -> Tensor:
        level = self._level(at, x)
        x0 = denoise(*shown(x, level), condition)
        ratio = _of_clip(self._sigma(to, x) / self._sigma(at, x), x).to(x)
        return x0 + ratio * (x - x0)

    def _sigma(self, place: Tensor, x: Tensor) -> Tensor:
        return self.levels.sigmas.to(x.device)[place]

    def _level(self, place: Tensor, x: Tensor) -> Level:
        t, indices = x.shape[1], self.levels.indices
        index = None if indices is None else repeat(indices.to(x.device)[place], "b -> b t", t=t)
        return Level(repeat(self._sigma(place, x), "b -> b t", t=t), index)

    def _showing(self, x0: Tensor, given: Tensor) -> Shown:
        """Shows the ``given`` frames as they are, at the lowest level."""
        return lambda x, level: shown_clean(x, level, x0, given, self.schedule.least(level))


def _as_it_is(x: Tensor, level: Level) -> tuple[Tensor, Level]:
    return x, level


def _of_clip(each: Tensor, x: Tensor) -> Tensor:
    """``B`` numbers as ``B 1 1 1 1``."""
    return each.to(x.device)[:, None, None, None, None]


def _between(schedule: Schedule, coarse: Levels, substeps: int) -> Levels:
    """``coarse`` with ``substeps`` steps in the place of each of its own."""
    if coarse.indices is None:  # evenly in EDM's own measure of sigmas [eq. 5]
        ends = coarse.sigmas ** (1 / schedule.config.rho)
        shares = torch.arange(substeps, dtype=torch.float64) / substeps
        inner = (ends[:-1, None] + (ends[1:] - ends[:-1])[:, None] * shares).flatten() ** schedule.config.rho
        return Levels(torch.cat([inner, coarse.sigmas[-1:]]))
    fine = schedule.levels(len(coarse) * substeps, "trailing")
    assert fine.indices is not None  # as coarse has them
    sigmas, indices = fine.sigmas.clone(), fine.indices.clone()
    sigmas[::substeps], indices[::substeps] = coarse.sigmas, coarse.indices  # whichever way a tie was rounded
    return Levels(sigmas, indices)
