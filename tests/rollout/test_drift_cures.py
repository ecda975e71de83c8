"""What keeps long rollouts from drifting, each for itself."""

from dataclasses import replace

import pytest
import torch

from drivesim.errors import Mistake
from drivesim.rollout.course import course, settled
from drivesim.rollout.predictor import Predictor
from drivesim.rollout.sample import NoiseSource, Told
from drivesim.rollout.scenario import Scenario
from drivesim.rollout.settings import RolloutConfig, SamplerConfig
from drivesim.rollout.stack import Usual
from tests.rollout import mock

FEW = RolloutConfig(sampler=SamplerConfig(steps=2))


def usual() -> Usual:
    c = mock.LATENT[0]
    return Usual((torch.zeros(c), torch.full((c,), 0.1)), (torch.ones(c), torch.full((c,), 0.2)))


def test_statistics_are_kept_in_bounds_and_ordinary_frames_as_they_are() -> None:
    draw = torch.Generator().manual_seed(0)
    frames = torch.randn(2, 3, 16, 32, generator=draw)
    frames[1] = 5 * frames[1] + 7
    kept = usual().bounded(frames, 3)
    torch.testing.assert_close(kept[0], frames[0])
    torch.testing.assert_close(kept[1].mean((-2, -1)), torch.full((3,), 0.3))
    torch.testing.assert_close(kept[1].std((-2, -1)), torch.full((3,), 1.6))
    shape = (kept[1] - 0.3) / 1.6
    wanted = (frames[1] - frames[1].mean((-2, -1), keepdim=True)) / frames[1].std((-2, -1), keepdim=True)
    torch.testing.assert_close(shape, wanted, atol=1e-5, rtol=1e-4)


def test_a_window_is_bounded_but_for_what_it_is_given() -> None:
    stack = replace(mock.stack(), usual=usual())
    given = torch.full((2, *mock.LATENT), 9.0)
    noise, told, window = NoiseSource(0, "a"), Told(), course(stack, Scenario(), FEW).plan.window(1)
    made = {width: Predictor(stack, replace(FEW, bounds=width), noise, told)(window, given) for width in (None, 0.5)}
    for frames in made.values():
        torch.testing.assert_close(frames[:2], given)
    bounded = stack.whiten(made[0.5][2:])
    assert float(bounded.mean((-2, -1)).abs().max()) <= 0.05 + 1e-5
    assert not torch.equal(made[None], made[0.5])


def test_weights_may_say_their_bounds_and_users_others_or_none() -> None:
    stack = replace(mock.stack(), usual=replace(usual(), width=0.5))
    asked = {None: 0.5, 0.0: 0.0, 2.0: 2.0}
    assert {bounds: settled(stack, replace(FEW, bounds=bounds)).bounds for bounds in asked} == asked
    assert settled(replace(stack, usual=usual()), FEW).bounds is None
    assert settled(mock.stack(), FEW).bounds is None
    given = torch.full((2, *mock.LATENT), 9.0)
    noise, told, window = NoiseSource(0, "a"), Told(), course(stack, Scenario(), FEW).plan.window(1)
    made = {bounds: Predictor(stack, replace(FEW, bounds=bounds), noise, told)(window, given) for bounds in (None, 0.0)}
    torch.testing.assert_close(made[0.0], made[None], atol=0, rtol=0)
    course(mock.stack(), Scenario(), replace(FEW, bounds=0.0))


@pytest.mark.parametrize(
    ("settings", "what"),
    [({"bounds": 3.0}, "do not say what their footage is like"), ({"overlap": 3}, "learned from at most 2")],
)
def test_what_the_weights_must_know(settings: dict[str, float], what: str) -> None:
    with pytest.raises(Mistake, match=what):
        course(mock.stack(), Scenario(), replace(FEW, **settings))
    course(replace(mock.stack(), usual=usual(), most_given=4), Scenario(), replace(FEW, **settings))
    with pytest.raises(Mistake, match="above 0"):
        RolloutConfig(bounds=-1.0)
