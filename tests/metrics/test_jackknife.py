"""The jackknife against Gaussians whose distance is known: the bias goes, and the error is honest."""

import numpy as np
import pytest
import torch

from drivesim.metrics import jackknife
from drivesim.metrics.frechet import Gaussian, distance_of

D = 24
SHIFT = torch.full((D,), 0.3, dtype=torch.float64)
TRUE = float(SHIFT.square().sum()) + D * (1.2 - 1) ** 2  # N(0, 1) against N(0.3, 1.2^2)


def draw(seed: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(n, D, generator=g, dtype=torch.float64) for _ in range(2))
    return x, y * 1.2 + SHIFT


def test_a_linear_bias_is_removed_exactly():
    """f(N) = 5 + 3 / N of 64 samples in 16 groups: by definition the estimate is nearly 5."""
    found = jackknife.jackknife(5 + 3 / 64, lambda group: 5 + 3 / 60)
    assert found.value == pytest.approx(5, abs=1e-12) and found.se == pytest.approx(0, abs=1e-12)


def test_the_bias_goes_and_the_error_covers():
    plain, estimates, errors = [], [], []
    for seed in range(60):
        x, y = draw(seed, 160)
        estimate = jackknife.frechet(x, y)
        plain.append(distance_of(x, y))
        estimates.append(estimate.value)
        errors.append(estimate.se)
    assert np.mean(plain) > 1.3 * TRUE
    assert np.mean(estimates) == pytest.approx(TRUE, rel=0.06)
    covered = np.abs(np.array(estimates) - TRUE) < 1.96 * np.array(errors)
    assert 0.85 <= covered.mean() <= 1
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.3)


def test_it_leaves_out_neighbours_of_both_sides():
    x, y = draw(1, 64)
    left = [
        distance_of(torch.cat([x[: 4 * g], x[4 * g + 4 :]]), torch.cat([y[: 4 * g], y[4 * g + 4 :]])) for g in range(16)
    ]
    expected = jackknife.jackknife(distance_of(x, y), lambda group: left[group])
    found = jackknife.frechet(x, y)
    assert found.value == pytest.approx(expected.value, rel=1e-8) and found.se == pytest.approx(expected.se, rel=1e-6)


def test_fewer_samples_than_dimensions_and_too_few_for_groups():
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(40, 100, generator=g, dtype=torch.float64) for _ in range(2))
    assert jackknife.frechet(x, y).se > 0
    assert jackknife.frechet(x[:31], y) is None
    still = jackknife.frechet_to(Gaussian.fit(x), y)
    assert 0 < still.se and jackknife.frechet_to(Gaussian.fit(x), y[:31]) is None
