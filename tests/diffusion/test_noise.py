"""Schedules: known numbers, invariants of the levels that samplers visit, shared noise."""

import numpy as np
import pytest
import torch

from drivesim.diffusion.noise import Levels, Schedule, ScheduleConfig, shared_noise
from drivesim.errors import Mistake

DISCRETE = [ScheduleConfig(betas=betas) for betas in ("scaled_linear", "linear", "cosine")]
EDM = ScheduleConfig(kind="edm", target="edm")


@pytest.mark.parametrize("config", DISCRETE, ids=lambda config: config.betas)
def test_sigmas_rise_in_float64(config):
    sigmas = Schedule(config).sigmas
    assert sigmas.dtype == torch.float64 and len(sigmas) == config.steps
    assert sigmas[0] > 0 and bool((sigmas.diff() > 0).all())


def test_stable_diffusions_ends():
    """The first and last sigma of Stable Diffusion, as k-diffusion prints them: 0.0292 and 14.6146."""
    sigmas = Schedule(ScheduleConfig()).sigmas
    assert float(sigmas[0]) == pytest.approx(0.0292, abs=5e-5)
    assert float(sigmas[-1]) == pytest.approx(14.6146, abs=5e-5)


def test_linear_by_hand():
    sigmas = Schedule(ScheduleConfig(steps=3, beta_start=0.1, beta_end=0.3, betas="linear")).sigmas
    kept = np.array([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])
    np.testing.assert_allclose(sigmas.numpy(), np.sqrt((1 - kept) / kept), rtol=1e-14)


def test_cosine_follows_its_formula():
    """Before the clip of betas, alpha-bar is f(t) / f(0)."""
    sigmas = Schedule(ScheduleConfig(betas="cosine")).sigmas.numpy()
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(1 / (1 + sigmas[:900] ** 2), f[1:901] / f[0], rtol=1e-10)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "karras"])
@pytest.mark.parametrize("steps", [1, 2, 7, 25, 100])
def test_levels_fall_to_zero(sampler, spacing, steps):
    schedule = Schedule(ScheduleConfig())
    levels = schedule.levels(steps, spacing, offset=1, sampler=sampler)
    assert len(levels) == steps and levels.sigmas.dtype == torch.float64 and levels.sigmas[-1] == 0
    assert bool((levels.sigmas.diff() < 0).all()) and float(levels.sigmas[0]) <= float(schedule.sigmas[-1]) * (
        1 + 1e-12
    )
    if not levels.indices.is_floating_point() and spacing != "karras":
        torch.testing.assert_close(levels.sigmas[:-1], schedule.sigmas[levels.indices], rtol=0, atol=0)


def test_trailing_starts_at_the_noisiest_level_and_leading_does_not():
    schedule = Schedule(ScheduleConfig())
    assert schedule.levels(50, "trailing").indices[0] == 999
    assert schedule.levels(50, "leading", offset=1).indices.tolist() == list(range(981, 0, -20))


def test_every_level_can_be_visited():
    levels = Schedule(ScheduleConfig(steps=20)).levels(20, "leading")
    assert levels.indices.tolist() == list(range(19, -1, -1))


def test_edm_levels_are_karras():
    levels = Schedule(EDM).levels(25, "karras")
    expected = np.linspace(700 ** (1 / 7), 0.002 ** (1 / 7), 25) ** 7
    np.testing.assert_allclose(levels.sigmas[:-1].numpy(), expected, rtol=1e-9)
    assert levels.indices is None


def test_level_looks_up_every_frame():
    schedule = Schedule(ScheduleConfig())
    level = schedule.level(torch.tensor([[0, 999], [5, 5]]))
    torch.testing.assert_close(level.sigma, schedule.sigmas[level.index], rtol=0, atol=0)


@pytest.mark.parametrize("steps", [0, 8])
def test_a_step_is_the_same_level_for_every_frame(steps):
    levels = Schedule(ScheduleConfig()).levels(10)
    level = levels.at(steps, torch.zeros(2, 3, 4, 1, 1))
    assert level.sigma.shape == level.index.shape == (2, 3)
    assert bool((level.sigma == levels.sigmas[steps]).all()) and bool((level.index == levels.indices[steps]).all())


def test_start_scale():
    assert float(Schedule(ScheduleConfig()).start_scale(3.0)) == pytest.approx(10**0.5)
    assert float(Schedule(EDM).start_scale(3.0)) == 3.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: ScheduleConfig(kind="edm", target="v"),
        lambda: ScheduleConfig(target="edm"),
        lambda: ScheduleConfig(beta_start=0.0),
        lambda: ScheduleConfig(sigma_min=2.0, sigma_max=1.0),
        lambda: Schedule(ScheduleConfig()).levels(10, "trialing"),
        lambda: Schedule(ScheduleConfig()).levels(0),
        lambda: Schedule(ScheduleConfig()).levels(1001, "trailing"),
        lambda: Schedule(ScheduleConfig(steps=20)).levels(20, "leading", offset=1),
        lambda: Schedule(EDM).levels(10, "trailing"),
    ],
)
def test_mistakes(call):
    with pytest.raises(Mistake):
        call()


def test_levels_refuse_what_does_not_fall_to_zero():
    with pytest.raises(ValueError, match="fall"):
        Levels(torch.tensor([1.0, 2.0, 0.0]))
    with pytest.raises(ValueError, match="indices"):
        Levels(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1]))


@pytest.mark.parametrize("shared", [0.0, 0.3, 1.0])
def test_shared_noise_has_unit_variance_and_the_stated_correlation(shared):
    draw = torch.Generator().manual_seed(0)
    noise = shared_noise(
        torch.randn(4, 1, 8, 64, 64, generator=draw), torch.randn(4, 2, 8, 64, 64, generator=draw), shared
    )
    first, second = noise[:, 0].flatten().double(), noise[:, 1].flatten().double()
    assert float(first.var()) == pytest.approx(1, abs=0.02)
    assert float((first * second).mean()) == pytest.approx(shared, abs=0.02)
