"""Samplers on an analytic Gaussian: the right mean and variance, the right order, the calls they cost."""

import pytest
import torch

from drivesim.diffusion.noise import Levels, Schedule, ScheduleConfig
from drivesim.diffusion.samplers import SAMPLERS, ddim, dpmpp_2m, euler, heun, sampler
from drivesim.errors import Mistake

MEAN, STD = 0.7, 0.4
SCHEDULE = Schedule(ScheduleConfig())
SHAPE = (16, 2, 4, 16, 16)


def gaussian(x, level):
    """The exact denoiser of data N(MEAN, STD^2)."""
    sigma = level.of(x)
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def exact(x, sigma):
    """Where the probability-flow ODE takes x from sigma to 0: its distance from the mean shrinks as the spread does."""
    return MEAN + (x - MEAN) * STD / (STD**2 + sigma**2) ** 0.5


def unit(key: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(key), dtype=torch.float64)


def start(levels: Levels) -> torch.Tensor:
    return MEAN + unit(999_999) * (STD**2 + float(levels.sigmas[0]) ** 2) ** 0.5


@pytest.mark.parametrize("spacing", ["trailing", "karras"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_mean_and_variance(name, spacing):
    levels = SCHEDULE.levels(400, spacing, sampler=name)
    found = sampler(name)(gaussian, start(levels), levels, None)
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(found.std()) == pytest.approx(STD, rel=0.02)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_stochastic_ddim_has_the_same_distribution(eta):
    levels = SCHEDULE.levels(1000, "trailing")
    found = ddim(gaussian, start(levels), levels, unit, eta)
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(found.std()) == pytest.approx(STD, rel=0.02)


def error(solve, steps: int) -> float:
    """Of the ODE's solution on smooth levels, from sigma 10 to 0.01 and then to 0."""
    sigmas = torch.linspace(10 ** (1 / 7), 0.01 ** (1 / 7), steps, dtype=torch.float64) ** 7
    levels = Levels(torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)]))
    x = start(levels)
    return float((solve(gaussian, x, levels) - exact(x, float(sigmas[0]))).abs().max())


@pytest.mark.parametrize("solve", [heun, dpmpp_2m])
def test_second_order_is_better_than_euler(solve):
    for steps in (10, 20, 40):
        assert error(solve, steps) < error(euler, steps)


@pytest.mark.parametrize(("solve", "order"), [(euler, 1), (ddim, 1), (heun, 2), (dpmpp_2m, 2)])
def test_order_of_convergence(solve, order):
    """Doubling the steps divides the error by 2 ** order; the last step, to sigma 0, is exact enough not to matter."""
    ratio = error(solve, 32) / error(solve, 64)
    assert 0.75 * 2**order < ratio < 1.35 * 2**order


def test_ddim_without_noise_is_euler():
    levels = SCHEDULE.levels(20)
    x = start(levels)
    torch.testing.assert_close(ddim(gaussian, x, levels), euler(gaussian, x, levels))


@pytest.mark.parametrize(("name", "calls"), [("ddim", 9), ("euler", 9), ("heun", 17), ("dpmpp_2m", 9)])
def test_calls(name, calls):
    seen = []

    def counted(x, level):
        seen.append(level)
        return gaussian(x, level)

    levels = SCHEDULE.levels(9, sampler=name)
    sampler(name)(counted, start(levels), levels, None)
    assert len(seen) == calls and all(level.sigma.shape == SHAPE[:2] for level in seen)
    assert torch.equal(seen[-1].sigma, levels.at(8, torch.zeros(SHAPE)).sigma)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_the_prediction(name):
    levels = SCHEDULE.levels(1)
    x = start(levels)
    torch.testing.assert_close(sampler(name)(gaussian, x, levels, None), gaussian(x, levels.at(0, x)))


def test_noise_is_asked_for_once_a_step_but_the_last():
    asked = []

    def noise(step):
        asked.append(step)
        return unit(step)

    levels = SCHEDULE.levels(5)
    ddim(gaussian, start(levels), levels, noise, eta=1.0)
    assert asked == [0, 1, 2, 3]


def test_mistakes():
    with pytest.raises(Mistake, match="no sampler"):
        sampler("eulr")
    with pytest.raises(Mistake, match="eta"):
        sampler("euler", eta=1.0)
    with pytest.raises(ValueError, match="noise"):
        sampler("ddim", eta=1.0)(gaussian, torch.zeros(1, 1, 1, 1, 1), SCHEDULE.levels(2), None)
