"""The same samples as diffusers' schedulers give on one model (it sees the variance-preserving state and the index)."""

import numpy as np
import pytest
import torch

from drivesim.diffusion.noise import Levels, Schedule, ScheduleConfig
from drivesim.diffusion.precondition import Denoiser
from drivesim.diffusion.samplers import sampler
from drivesim.errors import Mistake
from drivesim.scene import Condition

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # its own, of numpy's __array__

SPACINGS = [("leading", 0), ("leading", 1), ("trailing", 0), ("linspace", 0)]
SHAPE = (1, 2, 3, 4, 4)


def network(x, told, condition=None):
    """Any smooth function of the state and the index."""
    time = torch.as_tensor(told, dtype=torch.float32).reshape(-1)[0] / 1000
    return torch.sin(2 * x + time) * (0.5 + 0.5 * time) + 0.3 * torch.roll(x, 1, dims=-1)


def unit(key: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(key))


def peer(cls, config: ScheduleConfig, **more):
    """A scheduler of diffusers with our configuration."""
    names = {"scaled_linear": "scaled_linear", "linear": "linear", "cosine": "squaredcos_cap_v2"}
    return cls(
        num_train_timesteps=config.steps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=names[config.betas],
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[config.target],
        **more,
    )


def theirs(scheduler, steps: int, x: torch.Tensor, **step_args) -> torch.Tensor:
    scheduler.set_timesteps(steps)
    for n, time in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(x, time)
        extra = {"variance_noise": unit(n), **step_args} if step_args else {}
        x = scheduler.step(network(seen, time), time, x, **extra).prev_sample
    return x


def ours(name: str, config: ScheduleConfig, levels: Levels, x: torch.Tensor, eta: float = 0.0) -> torch.Tensor:
    denoiser = Denoiser(network, Schedule(config))
    return sampler(name, eta)(lambda x, level: denoiser(x, level, Condition()), x, levels, unit)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((found - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("target", ["eps", "v"])
@pytest.mark.parametrize(
    ("spacing", "offset", "steps", "total"),
    [
        ("leading", 0, 20, 1000),
        ("leading", 1, 30, 1000),
        ("trailing", 0, 20, 1000),
        # diffusers' DDIM goes to index t - total // steps: under linspace the next index only if every index is visited
        ("linspace", 0, 40, 40),
    ],
)
def test_ddim(spacing, offset, steps, total, target, eta):
    config = ScheduleConfig(target=target, steps=total)
    scheduler = peer(
        diffusers.DDIMScheduler,
        config,
        timestep_spacing=spacing,
        steps_offset=offset,
        clip_sample=False,
        set_alpha_to_one=True,
    )
    levels = Schedule(config).levels(steps, spacing, offset, sampler="ddim")
    x = unit(999_999)
    expected = theirs(scheduler, steps, x, eta=eta)
    assert scheduler.timesteps.tolist() == levels.indices.tolist()
    assert_close(
        ours("ddim", config, levels, x * Schedule(config).start_scale(levels.sigmas[0]).float(), eta), expected
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(("spacing", "offset"), [("leading", 1), ("trailing", 0)])
def test_ddim_that_ends_at_the_first_level(spacing, offset, eta):
    """Stable Diffusion's own scheduler: a little noise is left, in a state of unit variance."""
    config, more = ScheduleConfig(target="eps"), {"clip_sample": False, "set_alpha_to_one": False}
    scheduler = peer(diffusers.DDIMScheduler, config, timestep_spacing=spacing, steps_offset=offset, **more)
    levels = Schedule(config).levels(20, spacing, offset, end="first")
    assert levels.sigmas[-1] == Schedule(config).sigmas[0]
    start = unit(100)
    found = ours("ddim", config, levels, start * Schedule(config).start_scale(levels.sigmas[0]), eta)
    extra = {"eta": eta} if eta else {}
    assert_close(found / Schedule(config).start_scale(levels.sigmas[-1]), theirs(scheduler, 20, start, **extra))


@pytest.mark.parametrize(("name", "spacing"), [("ddim", "leading"), ("heun", "trailing"), ("dpmpp_2m", "trailing")])
def test_an_end_that_does_not_fit(name, spacing):
    with pytest.raises(Mistake, match="end 'first'"):
        Schedule(ScheduleConfig()).levels(20, spacing, 0, name, "first")
    with pytest.raises(Mistake, match="end 'first'"):
        Schedule(ScheduleConfig(kind="edm", target="edm")).levels(20, "karras", end="first")


@pytest.mark.parametrize("target", ["eps", "v"])
@pytest.mark.parametrize("steps", [12, 25])
@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
def test_euler(spacing, offset, steps, target):
    config = ScheduleConfig(target=target)
    scheduler = peer(diffusers.EulerDiscreteScheduler, config, timestep_spacing=spacing, steps_offset=offset)
    levels = Schedule(config).levels(steps, spacing, offset, sampler="euler")
    x = unit(999_999) * Schedule(config).start_scale(levels.sigmas[0]).float()
    expected = theirs(scheduler, steps, x)
    np.testing.assert_allclose(scheduler.timesteps.numpy(), levels.indices.numpy(), rtol=1e-6)
    np.testing.assert_allclose(scheduler.sigmas.numpy(), levels.sigmas.numpy(), rtol=2e-5)
    assert_close(ours("euler", config, levels, x), expected)


@pytest.mark.parametrize("target", ["eps", "v"])
@pytest.mark.parametrize("steps", [12, 25])
@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
def test_dpmpp_2m(spacing, offset, steps, target):
    config = ScheduleConfig(target=target)
    scheduler = peer(diffusers.DPMSolverMultistepScheduler, config, timestep_spacing=spacing, steps_offset=offset)
    levels = Schedule(config).levels(steps, spacing, offset, sampler="dpmpp_2m")
    x = unit(999_999)
    expected = theirs(scheduler, steps, x)
    assert scheduler.timesteps.tolist() == levels.indices.tolist()
    assert_close(ours("dpmpp_2m", config, levels, x * Schedule(config).start_scale(levels.sigmas[0]).float()), expected)


@pytest.mark.parametrize("cls", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_karras(cls):
    config = ScheduleConfig(target="eps")
    scheduler = peer(getattr(diffusers, cls), config, use_karras_sigmas=True)
    name = {"EulerDiscreteScheduler": "euler", "DPMSolverMultistepScheduler": "dpmpp_2m"}[cls]
    levels = Schedule(config).levels(15, "karras", sampler=name)
    x = unit(999_999)
    start = x * Schedule(config).start_scale(levels.sigmas[0]).float()
    expected = theirs(scheduler, 15, start if name == "euler" else x)
    np.testing.assert_allclose(scheduler.timesteps.numpy(), levels.indices.numpy(), atol=2e-3)
    np.testing.assert_allclose(scheduler.sigmas.numpy(), levels.sigmas.numpy(), rtol=2e-5)
    assert_close(ours(name, config, levels, start), expected)


def test_stable_video_diffusion():
    """EDM preconditioning with ln(sigma) / 4, karras levels from 700 to 0.002: SVD's scheduler."""
    config = ScheduleConfig(kind="edm", target="edm")
    scheduler = diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
    )
    levels = Schedule(config).levels(25, "karras")
    x = unit(999_999) * Schedule(config).start_scale(levels.sigmas[0]).float()
    expected = theirs(scheduler, 25, x)
    np.testing.assert_allclose(scheduler.sigmas.numpy(), levels.sigmas.numpy(), rtol=2e-5)
    assert_close(ours("euler", config, levels, x), expected)


@pytest.mark.parametrize("betas", ["scaled_linear", "linear", "cosine"])
def test_schedules(betas):
    config = ScheduleConfig(betas=betas)
    kept = peer(diffusers.DDIMScheduler, config).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(1 / (1 + Schedule(config).sigmas.numpy() ** 2), kept, rtol=1e-4)
