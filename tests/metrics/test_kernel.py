"""The kernel distance against torchmetrics' own, its error, and that it is unbiased."""

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from drivesim.metrics.kernel import kernel_distance


def draw(seed: int, n: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


@pytest.mark.parametrize(("n", "m"), [(40, 40), (200, 200), (7, 7)])
def test_it_is_torchmetrics_polynomial_mmd(n, m):
    x, y = draw(1, n), draw(2, m, 0.5)
    assert kernel_distance(x, y)[0] == pytest.approx(float(poly_mmd(x, y)), rel=1e-10)


def test_unequal_sides_by_the_definition():
    x, y = draw(1, 33), draw(2, 50, 0.5)
    k = lambda a, b: (a @ b.T / 8 + 1) ** 3  # noqa: E731
    xx, yy = k(x, x), k(y, y)
    wanted = (xx.sum() - xx.trace()) / (33 * 32) + (yy.sum() - yy.trace()) / (50 * 49) - 2 * k(x, y).mean()
    assert kernel_distance(x, y)[0] == pytest.approx(float(wanted), rel=1e-10)


def test_it_is_unbiased_at_few_samples_and_its_error_is_honest():
    found = [kernel_distance(draw(2 * seed, 64), draw(2 * seed + 1, 64)) for seed in range(80)]
    values, errors = np.array([value for value, _ in found]), np.array([spread.se for _, spread in found])
    assert abs(values.mean()) < 3 * values.std() / 80**0.5
    assert errors.mean() > values.std(), "of equal sides a group's loss says more than the whole varies: never too sure"
    apart = [kernel_distance(draw(2 * seed, 64), draw(2 * seed + 1, 64, 0.5)) for seed in range(80)]
    values, errors = np.array([value for value, _ in apart]), np.array([spread.se for _, spread in apart])
    assert errors.mean() == pytest.approx(values.std(), rel=0.3)


def test_too_few():
    assert kernel_distance(draw(1, 20), draw(2, 20))[1] is None
    with pytest.raises(ValueError, match="two samples"):
        kernel_distance(draw(1, 1), draw(2, 20))
