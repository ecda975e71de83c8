"""Preconditioning: a perfect network gives back x0; the formulas agree with those of the papers."""

import pytest
import torch

from drivesim.diffusion.noise import Schedule, ScheduleConfig
from drivesim.diffusion.precondition import Denoiser
from drivesim.scene import Condition, Level

CONFIGS = {
    "eps": ScheduleConfig(target="eps"),
    "v": ScheduleConfig(target="v"),
    "edm": ScheduleConfig(kind="edm", target="edm"),
}


def level_of(schedule: Schedule) -> Level:
    """Another level for each of 2 x 3 frames."""
    if schedule.config.kind == "edm":
        return Level(torch.tensor([[0.01, 0.5, 1.0], [3.0, 40.0, 600.0]], dtype=torch.float64))
    return schedule.level(torch.tensor([[0, 10, 200], [500, 800, 999]]))


@pytest.fixture
def pair():
    draw = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, 3, 4, 5, 6, generator=draw, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("target", CONFIGS)
def test_a_perfect_network_gives_back_x0(target, pair):
    x0, noise = pair
    schedule = Schedule(CONFIGS[target])
    level = level_of(schedule)
    perfect = Denoiser(lambda x, told, condition: answer, schedule)
    answer = perfect.target(x0, noise, level)
    x = x0 + level.of(x0) * noise
    torch.testing.assert_close(perfect(x, level, Condition()), x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("target", CONFIGS)
def test_what_the_network_sees(target, pair):
    x0, noise = pair
    schedule = Schedule(CONFIGS[target])
    level, condition, seen = level_of(schedule), Condition(), {}

    def network(x, told, given):
        seen.update(x=x, told=told, condition=given)
        return x.to(torch.bfloat16)

    x = x0 + level.of(x0) * noise
    assert Denoiser(network, schedule)(x, level, condition).dtype == x.dtype
    torch.testing.assert_close(seen["x"], x / (1 + level.of(x) ** 2).sqrt())
    expected = level.sigma.log() / 4 if target == "edm" else level.index
    torch.testing.assert_close(seen["told"], expected.float())
    assert seen["condition"] is condition


def test_edm_coefficients_as_printed(pair):
    """c_skip = 1/(s^2+1), c_out = -s/sqrt(s^2+1), weight (1+s^2)/s^2 = 1/c_out^2: loss on F is weighted on x0."""
    x0, noise = pair
    schedule = Schedule(CONFIGS["edm"])
    level, output = level_of(schedule), noise.flip(0)
    denoiser = Denoiser(lambda *_: output, schedule)
    s = level.of(x0)
    x = x0 + s * noise
    torch.testing.assert_close(denoiser(x, level, Condition()), x / (s**2 + 1) - s / (s**2 + 1).sqrt() * output)
    weighted = (1 + s**2) / s**2 * (denoiser(x, level, Condition()) - x0) ** 2
    torch.testing.assert_close((output - denoiser.target(x0, noise, level)) ** 2, weighted, rtol=1e-6, atol=1e-6)


def test_v_as_printed(pair):
    """v = alpha n - sigma_vp x0, x0 = alpha x_vp - sigma_vp v [Salimans & Ho, app. D]."""
    x0, noise = pair
    schedule = Schedule(CONFIGS["v"])
    level = level_of(schedule)
    kept = 1 / (1 + level.of(x0) ** 2)
    v = kept.sqrt() * noise - (1 - kept).sqrt() * x0
    torch.testing.assert_close(Denoiser(lambda *_: v, schedule).target(x0, noise, level), v)


def test_a_discrete_model_needs_an_index():
    with pytest.raises(ValueError, match="index"):
        Denoiser(lambda x, *_: x, Schedule(CONFIGS["v"]))(
            torch.zeros(1, 1, 1, 1, 1), Level(torch.ones(1, 1)), Condition()
        )
