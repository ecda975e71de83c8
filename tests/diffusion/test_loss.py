"""The loss: known values, the density of levels, and nothing from frames that do not count."""

import pytest
import torch

from drivesim.diffusion.loss import DiffusionLoss, LossConfig
from drivesim.diffusion.noise import Schedule, ScheduleConfig, shared_noise
from drivesim.diffusion.precondition import Denoiser
from drivesim.errors import Mistake
from drivesim.scene import Condition

CONFIGS = {
    "eps": ScheduleConfig(target="eps"),
    "v": ScheduleConfig(target="v"),
    "edm": ScheduleConfig(kind="edm", target="edm"),
}
PREDICTED = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 0]])


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(2)
    x0, noise, output = (torch.randn(3, 3, 4, 5, 6, generator=draw) for _ in range(3))
    return x0, noise, torch.rand(3, 3, generator=draw), output


@pytest.mark.parametrize("target", CONFIGS)
def test_a_perfect_network_has_no_loss(target, batch):
    x0, noise, u, _ = batch
    loss = DiffusionLoss(Schedule(CONFIGS[target]))
    answer = Denoiser(lambda *_: x0, loss.schedule).target(x0, noise, loss.level(u, 3))
    torch.testing.assert_close(loss(lambda *_: answer, x0, noise, u, Condition()), torch.zeros(3))


def test_eps_by_hand(batch):
    x0, noise, u, output = batch
    loss = DiffusionLoss(Schedule(CONFIGS["eps"]))(lambda *_: output, x0, noise, u, Condition(), PREDICTED)
    square = (output - noise) ** 2
    torch.testing.assert_close(loss, torch.stack([square[0, 1:].mean(), square[1, 2].mean(), torch.tensor(0.0)]))


@pytest.mark.parametrize("target", CONFIGS)
def test_given_frames_bear_no_loss_and_no_gradient(target, batch):
    x0, noise, u, output = batch
    loss = DiffusionLoss(Schedule(CONFIGS[target]))
    clean = loss(lambda *_: output, x0, noise, u, Condition(), PREDICTED)
    spoiled = torch.where(PREDICTED.bool()[..., None, None, None], output, torch.nan).requires_grad_()
    found = loss(lambda *_: spoiled, x0, noise, u, Condition(), PREDICTED)
    torch.testing.assert_close(found, clean, rtol=0, atol=0)
    found.sum().backward()
    given = ~PREDICTED.bool()
    assert bool((spoiled.grad[given] == 0).all()) and bool((spoiled.grad[~given] != 0).any())


def test_weight_map(batch):
    x0, noise, u, output = batch
    loss = DiffusionLoss(Schedule(CONFIGS["eps"]))
    half = torch.zeros(1, 1, 1, 1, 6)
    half[..., :3] = 2
    found = loss(lambda *_: output, x0, noise, u, Condition(), weight=half)
    torch.testing.assert_close(found, ((output - noise) ** 2)[..., :3].mean(dim=(1, 2, 3, 4)))


def test_a_level_per_clip_or_per_frame():
    loss = DiffusionLoss(Schedule(ScheduleConfig()))
    assert loss.level(torch.tensor([0.0, 0.9995]), 2).index.tolist() == [[0, 0], [999, 999]]
    assert loss.level(torch.tensor([[0.25, 0.5]]), 2).index.tolist() == [[250, 500]]


def test_power_moves_weight_to_high_noise():
    """P(t <= x) of t = u ** p is x ** (1 / p)."""
    u = ((torch.arange(100_000) + 0.5) / 100_000)[None]
    index = DiffusionLoss(Schedule(ScheduleConfig()), LossConfig(power=0.7)).level(u, 1).index
    assert float((index < 500).double().mean()) == pytest.approx(0.5 ** (1 / 0.7), abs=1e-3)


def test_edm_levels_are_lognormal_and_bounded():
    u = ((torch.arange(100_000) + 0.5) / 100_000)[None]
    loss = DiffusionLoss(Schedule(ScheduleConfig(kind="edm", target="edm")), LossConfig(mean=1.0, std=1.6))
    logs = loss.level(u, 1).sigma.log()
    assert float(logs.mean()) == pytest.approx(1.0, abs=0.01) and float(logs.std()) == pytest.approx(1.6, abs=0.01)
    ends = loss.level(torch.tensor([[0.0, 1.0]]), 2).sigma
    assert bool(ends.isfinite().all()) and float(ends.min()) >= 0.002 and float(ends.max()) <= 700


def test_noise_is_mixed_as_configured():
    draw = torch.Generator().manual_seed(3)
    clip, frame = torch.randn(2, 1, 4, 8, 8, generator=draw), torch.randn(2, 3, 4, 8, 8, generator=draw)
    torch.testing.assert_close(shared_noise(clip, frame, 0), frame)
    torch.testing.assert_close(shared_noise(clip, frame, 1), clip.expand_as(frame))


@pytest.mark.parametrize("values", [{"power": 0}, {"shared": 1.5}, {"std": 0}])
def test_mistakes(values):
    with pytest.raises(Mistake):
        LossConfig(**values)


@pytest.mark.parametrize("target", CONFIGS)
def test_frames_that_are_not_predicted_may_be_shown_clean(target, batch):
    x0, noise, u, output = batch
    loss, seen = DiffusionLoss(Schedule(CONFIGS[target])), []

    def network(x, told, condition):
        seen.append((x, told))
        return output

    clean = loss(network, x0, noise, u, Condition(), PREDICTED, clean=True)
    noisy = loss(network, x0, noise, u, Condition(), PREDICTED)
    torch.testing.assert_close(clean, noisy)  # the network's answer being the same
    (shown, told), (other, level) = seen
    given = ~PREDICTED.bool()
    least = loss.schedule.least(loss.level(u, 3))
    scale = (1 / (1 + least.sigma.double() ** 2).sqrt())[..., None, None, None].to(x0)
    torch.testing.assert_close(shown[given], (scale * x0)[given])
    torch.testing.assert_close(shown[~given], other[~given])
    assert len(set(told[given].tolist())) == 1 and torch.equal(told[~given], level[~given])
    assert bool((told[given] <= level.min()).all())
