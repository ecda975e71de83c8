"""The distance against analytic Gaussians, an independent matrix root, and sets of fewer samples than dimensions."""

import numpy as np
import pytest
import scipy.linalg
import torch

from drivesim.metrics.frechet import Gaussian, Statistics, distance, distance_of, frechet_distance


def draw(seed: int, n: int, d: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, d, generator=g, dtype=torch.float64) @ torch.randn(d, d, generator=g, dtype=torch.float64) + seed
    )


def plain(x: np.ndarray, y: np.ndarray) -> float:
    s1, s2 = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(s1 @ s2)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root.real))


def test_diagonal_gaussians_have_a_closed_form():
    mu1, mu2 = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 4.0])
    s1, s2 = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 0.0, 9.0])
    found = frechet_distance(mu1, torch.diag(s1), mu2, torch.diag(s2))
    assert found == pytest.approx(1 + 4 + (1 - 2) ** 2 + 2**2, rel=1e-12)


def test_agrees_with_scipy():
    x, y = draw(1, 300, 24), draw(2, 200, 24)
    assert distance(Statistics.of(x), Statistics.of(y)) == pytest.approx(plain(x.numpy(), y.numpy()), rel=1e-9)


@pytest.mark.parametrize("n", [3, 10, 200])
def test_identical_sets_score_nothing(n):
    x = Statistics.of(draw(3, n, 40))
    assert 0 <= distance(x, x) < 1e-9 * float(x.covariance().trace())


@pytest.mark.parametrize(("n", "m", "d"), [(5, 7, 40), (5, 200, 40), (39, 41, 40)])
def test_fewer_samples_than_dimensions_equals_the_nuclear_norm(n, m, d):
    x, y = draw(4, n, d), draw(5, m, d)
    a, b = (x - x.mean(0)) / (n - 1) ** 0.5, (y - y.mean(0)) / (m - 1) ** 0.5
    overlap = torch.linalg.svdvals(a @ b.T).sum()  # tr sqrt(S1 S2) from the samples themselves
    wanted = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * overlap
    assert distance(Statistics.of(x), Statistics.of(y)) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 250, 24), (20, 250, 24), (250, 20, 24), (9, 20, 24), (24, 25, 24)])
def test_from_features_and_from_sums_alike(n, m, d):
    x, y = draw(1, n, d), draw(2, m, d)
    for ddof in (0, 1):
        assert distance_of(x, y, ddof) == pytest.approx(distance(Statistics.of(x), Statistics.of(y), ddof), rel=1e-6)
        assert distance_of(y, x, ddof) == pytest.approx(distance_of(x, y, ddof), rel=1e-9)
    assert distance_of(x, x) < 1e-9 * float(Statistics.of(x).covariance().trace())


def test_a_singular_covariance_beside_a_regular_one_has_a_closed_form():
    mu, s1, s2 = torch.zeros(3), torch.tensor([4.0, 0.0, 1.0]), torch.tensor([1.0, 9.0, 1.0])
    for a, b in ((s1, s2), (s2, s1)):
        assert frechet_distance(mu, torch.diag(a), mu, torch.diag(b)) == pytest.approx(1 + 9 + 0, rel=1e-12)


def test_commuting_covariances_in_many_dimensions():
    """Analytic: the same eigenvectors, eigenvalues known."""
    turn = torch.linalg.qr(draw(3, 60, 60))[0]
    a, b = torch.linspace(0.01, 5, 60, dtype=torch.float64), torch.linspace(7, 0.1, 60, dtype=torch.float64)
    found = frechet_distance(torch.zeros(60), turn @ a.diag() @ turn.T, torch.ones(60), turn @ b.diag() @ turn.T)
    assert found == pytest.approx(60 + float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-12)


def test_what_is_taken_out_of_a_sum_leaves_the_rest():
    x = draw(9, 50, 6)
    rest = Statistics.of(x) - Statistics.of(x[:20])
    torch.testing.assert_close(rest.covariance(), torch.cov(x[20:].T))
    with pytest.raises(ValueError, match="needs more than 1"):
        Gaussian.fit(x[:1])


def test_a_turn_changes_nothing():
    x, y = draw(6, 100, 12), draw(7, 90, 12)
    turn = torch.linalg.qr(draw(8, 12, 12))[0]
    before, after = (
        distance(Statistics.of(x), Statistics.of(y)),
        distance(Statistics.of(x @ turn), Statistics.of(y @ turn)),
    )
    assert after == pytest.approx(before, rel=1e-10)


def test_sums_of_parts_are_those_of_the_whole():
    x = draw(9, 50, 6)
    parts = Statistics.of(x[:20]) + Statistics.of(x[20:])
    assert parts.n == 50
    torch.testing.assert_close(parts.mean, x.mean(0))
    torch.testing.assert_close(parts.covariance(), torch.cov(x.T))
    torch.testing.assert_close(parts.covariance(0), torch.cov(x.T, correction=0))


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="more than 1"):
        Statistics.of(draw(1, 1, 4)).covariance()
