"""Between given ends: what the model is told, what bears loss, what its pictures keep."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from drivesim.errors import Mistake
from drivesim.scene import Condition
from drivesim.training.interpolation import EndsConfig, InterpolationStage

from .tiny import LOOP, Memory, stage


def made(**more: Any) -> InterpolationStage:
    found = stage("interpolation", LOOP, **more)
    assert isinstance(found, InterpolationStage)
    return found


def batch(count: int = 2) -> dict[str, Tensor]:
    memory = Memory("interpolation", LOOP)
    items = [memory[n] for n in range(count)]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def test_both_ends_or_neither_by_seed_and_sample() -> None:
    trained = made(drop=0.25)
    mask = trained._given(5, list(range(400)))
    assert {tuple(row) for row in mask.tolist()} == {(1.0, 0.0, 0.0, 0.0, 1.0), (0.0,) * 5}
    assert 0.2 < float((mask.sum(dim=1) == 0).float().mean()) < 0.3
    assert torch.equal(mask[[7, 301]], trained._given(5, [7, 301]))
    assert float(made(drop=0.0)._given(5, list(range(50))).sum()) == 100


def test_the_model_is_told_ends_noise_and_rate() -> None:
    found = batch(20)
    z, samples = found["moments"][:, :, :4], found["sample"].tolist()
    condition, predicted = made(drop=0.5, noise=0.3)._condition(found, z, samples)
    assert condition.context is not None and condition.context_mask is not None and predicted is not None
    assert condition.context_level is not None and condition.given is not None
    ends = condition.context_mask == 1
    assert torch.equal(predicted, ~ends) and not condition.context[~ends].any()
    assert set(condition.given.tolist()) == {0, 2} and torch.equal(condition.given, ends.sum(dim=1))
    assert torch.equal(condition.fps, torch.tensor([30.0, 7.5] * 10))  # type: ignore[arg-type]
    level = condition.context_level[ends]
    assert 0 < level.max() <= 0.3 and not condition.context_level[~ends].any()
    added = (condition.context - z)[ends].std(dim=(1, 2, 3))
    assert torch.all((added / level - 1).abs() < 0.4)  # 128 cells each
    exact = made(drop=0.0, noise=0.0)._condition(found, z, samples)[0]
    assert torch.equal(exact.context[:, [0, -1]], z[:, [0, -1]])  # type: ignore[index]


class Spoiled(InterpolationStage):
    """Predicts nothing that counts at the ends."""

    @property
    def network(self) -> Any:
        def run(x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
            out = torch.zeros_like(x)
            out[:, [0, -1]] = torch.nan
            return out

        return run


@pytest.mark.parametrize("drop", [0.0, 0.999])
def test_given_frames_bear_no_loss(drop: float) -> None:
    """Where they are not given, all five do."""
    trained = made(drop=drop)
    trained.__class__ = Spoiled
    loss = trained(batch())
    assert bool(loss.isfinite()) == (drop == 0.0)


def test_the_rate_makes_a_difference_once_trained() -> None:
    trained, found = made(drop=0.0), batch(1)
    for parameter in trained.temporal.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    z = found["moments"][:, :, :4]
    outs = []
    for fps in (7.5, 30.0):
        condition, _ = trained._condition({**found, "fps": torch.tensor([fps])}, z, [0])
        with torch.no_grad():
            outs.append(trained.network(z, torch.full((1, 5), 400.0), condition))
    assert not torch.allclose(outs[0], outs[1], atol=1e-4)


def test_pictures_keep_the_real_ends() -> None:
    trained = made()
    trained.shown = batch()
    grid = trained.pictures()
    assert grid.shape == (4, 5, 16, 32, 3)
    assert np.array_equal(grid[:2, [0, -1]], grid[2:, [0, -1]]) and not np.array_equal(grid[:2, 2], grid[2:, 2])


def test_wrong_shares_are_a_mistake() -> None:
    for wrong in ({"drop": 1.0}, {"drop": -0.1}, {"noise": -1.0}):
        with pytest.raises(Mistake, match="0 <= drop < 1"):
            EndsConfig(**wrong)
