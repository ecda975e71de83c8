"""Distillation on an analytic denoiser: what a student is taught leads, in few steps, where its teacher goes."""

import pytest
import torch

from drivesim.diffusion.distill import Distillation, DistillConfig, few
from drivesim.diffusion.noise import Schedule, ScheduleConfig
from drivesim.diffusion.precondition import Denoiser
from drivesim.diffusion.samplers import ddim
from drivesim.errors import Mistake
from drivesim.scene import Condition, Level

MEAN, STD = 0.7, 0.4
B, T = 8, 3
SCHEDULES = [
    ScheduleConfig(betas="cosine"),
    ScheduleConfig(target="eps"),
    ScheduleConfig(kind="edm", target="edm", sigma_max=80.0),
]


def gaussian(x, level, condition=None):
    """The exact denoiser of data N(MEAN, STD^2)."""
    sigma = level.of(x)
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def network_of(denoise, schedule):
    """A network whose Denoiser predicts what ``denoise`` does; it remembers what it was shown, and where."""
    wrapped = Denoiser(lambda x, told, condition: x, schedule)
    seen = []

    def network(x, told, condition):
        if schedule.config.kind == "edm":
            level = Level((4 * told.double()).exp())
        else:
            level = Level(schedule.sigmas[told.long()], told.long())
        y = x * (1 + level.of(x) ** 2) ** 0.5
        seen.append((y, level))
        x0 = denoise(y, level)
        return wrapped.target(x0, (y - x0) / level.of(y), level)

    return network, seen


def draws(t=T):
    made = torch.Generator().manual_seed(0)
    x0 = MEAN + STD * torch.randn(B, t, 2, 4, 4, generator=made, dtype=torch.float64)
    noise = torch.randn(B, t, 2, 4, 4, generator=made, dtype=torch.float64)
    return x0, noise, (torch.arange(B, dtype=torch.float64) + 0.5) / B


@pytest.mark.parametrize("config", SCHEDULES, ids=["v", "eps", "edm"])
@pytest.mark.parametrize("method", ["progressive", "consistency"])
def test_a_student_that_has_learned_it_goes_where_the_teacher_goes(config, method):
    """The student that steps exactly where the teacher's substeps lead has no loss, at any place of any step; and its
    few steps end where the teacher's many do."""
    schedule = Schedule(config)
    objective = Distillation(schedule, DistillConfig(steps=2, substeps=4, method=method), gaussian)
    levels = objective.levels

    def learned(x, level):
        """From every sample's level to the end of its step, as the teacher goes."""
        out = []
        for one, sigma in zip(x, level.sigma[:, 0], strict=True):
            place = int((levels.sigmas[:-1] - sigma).abs().argmin())
            end, y = (place // 4 + 1) * 4, one[None]
            for n in range(place, end):
                at = Level(levels.sigmas[n].expand(1, x.shape[1]))
                y = gaussian(y, at) + levels.sigmas[n + 1] / levels.sigmas[n] * (y - gaussian(y, at))
            ratio = levels.sigmas[end] / levels.sigmas[place]
            out.append((y - ratio * one[None]) / (1 - ratio))
        return torch.cat(out)

    network, _ = network_of(learned, schedule)
    loss = objective(network, *draws(), Condition())
    assert loss.shape == (B,) and float(loss.max()) < 1e-8
    wrong, _ = network_of(gaussian, schedule)
    assert float(objective(wrong, *draws(), Condition()).max()) > 1e-4, "the teacher itself, in few steps, is elsewhere"

    coarse = few(schedule, 2)
    start = draws()[1] * float(schedule.start_scale(coarse.sigmas[0]))
    many = ddim(gaussian, start, levels)
    torch.testing.assert_close(ddim(learned, start, coarse), many, atol=1e-6, rtol=1e-6)
    assert float((ddim(gaussian, start, coarse) - many).abs().max()) > 0.05


def test_progressive_is_taught_at_the_beginnings_of_steps_and_consistency_between():
    schedule = Schedule(ScheduleConfig(betas="cosine"))
    for method, known in (("progressive", {999, 749, 499, 249}), ("consistency", {999, 936, 874, 811, 749})):
        network, seen = network_of(gaussian, schedule)
        Distillation(schedule, DistillConfig(method=method), gaussian)(network, *draws(), Condition())
        places = set(seen[-1][1].index.flatten().tolist())
        assert places <= known if method == "progressive" else places - {999, 749, 499, 249}


def test_frames_that_are_given_are_shown_clean_and_bear_no_loss():
    schedule = Schedule(ScheduleConfig())
    x0, noise, u = draws()
    predicted = torch.ones(B, T, dtype=torch.bool)
    predicted[:, 0] = False

    def teacher(x, level, condition):
        torch.testing.assert_close(x[:, 0], x0[:, 0])
        assert bool((level.index[:, 0] == 0).all())
        return gaussian(x, level)

    network, seen = network_of(gaussian, schedule)
    objective = Distillation(schedule, DistillConfig(), teacher)
    loss = objective(network, x0, noise, u, Condition(), predicted, clean=True)
    torch.testing.assert_close(seen[-1][0][:, 0], x0[:, 0])
    other = noise.clone()
    other[:, 0] = 100
    torch.testing.assert_close(objective(network, x0, other, u, Condition(), predicted, clean=True), loss)


def test_no_gradient_reaches_the_target():
    """Of the student's own step ahead, in consistency, either."""
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    schedule = Schedule(ScheduleConfig(betas="cosine"))
    calls = []

    def network(x, told, condition):
        out = scale * x
        calls.append(out.requires_grad)
        return out

    Distillation(schedule, DistillConfig(method="consistency"), gaussian)(
        network, *draws(), Condition()
    ).sum().backward()
    assert calls == [False, True] and scale.grad is not None


def test_mistakes():
    with pytest.raises(Mistake, match="steps >= 1"):
        DistillConfig(steps=0)
    with pytest.raises(Mistake, match="do not fit"):
        Distillation(Schedule(ScheduleConfig(steps=10)), DistillConfig(steps=4, substeps=3), gaussian)
