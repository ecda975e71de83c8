"""Noise is a function of its key, and it is normal."""

import numpy as np
import pytest
import torch

from drivesim.randomness import generator, normal, philox, uniform

KNOWN = [7412500984573818858, 10742696061272022940]
KNOWN_NORMAL = [-1.0665504, 0.45907745, -0.828197]


def test_the_same_key_gives_the_same_bits_and_another_key_others() -> None:
    key = (1, "keyframes", "prior", 48, 3)
    torch.rand(5)  # the global state is none of its business
    assert torch.equal(normal(key, (3, 5)), normal(key, (3, 5)))
    others = [(2, *key[1:]), (*key[:-1], 4), key[:-1], ("1", "keyframesprior", 48, 3)]
    assert all(not torch.equal(normal(key, (3, 5)), normal(other, (3, 5))) for other in others)


def test_parts_of_a_key_do_not_run_together() -> None:
    assert not torch.equal(normal((1, 23), (4,)), normal((12, 3), (4,)))


def test_known_integers() -> None:
    """Frozen: files made with a seed stay reproducible; a change here is a change of every rollout."""
    assert philox(0, "a").random_raw(2).tolist() == KNOWN
    assert normal((0, "a"), (3,)).numpy() == pytest.approx(KNOWN_NORMAL, abs=1e-6)


def test_moments() -> None:
    x = normal((7,), (200_000,)).double()
    assert x.mean().abs() < 4 / 200_000**0.5
    assert (x.var() - 1).abs() < 4 * (2 / 200_000) ** 0.5
    assert (x**3).mean().abs() < 4 * (15 / 200_000) ** 0.5
    assert ((x**4).mean() - 3).abs() < 4 * (96 / 200_000) ** 0.5
    assert torch.corrcoef(torch.stack([x[:100_000], x[100_000:]]))[0, 1].abs() < 4 / 100_000**0.5
    assert x.isfinite().all()


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3, 5)])
def test_shapes(shape: tuple[int, ...]) -> None:
    assert normal((0,), shape).shape == shape and normal((0,), shape).dtype == torch.float32
    assert uniform((0,), shape).shape == shape


def test_uniform_is_in_the_half_open_interval() -> None:
    u = uniform((3,), (50_000,))
    assert u.min() >= 0 and u.max() < 1 and (u.mean() - 0.5).abs() < 4 * (1 / 12 / 50_000) ** 0.5


def test_a_generator_of_a_key_is_numpys_on_philox() -> None:
    assert isinstance(generator(1, "x").bit_generator, np.random.Philox)
    assert generator(1, "x").integers(1 << 40) == generator(1, "x").integers(1 << 40)
