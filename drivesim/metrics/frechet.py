"""The Frechet distance of two Gaussians, and the float64 sums that a set of features is reduced to.

tr sqrt(S1 S2) is taken as the nuclear norm of A^T B with S1 = A A^T and S2 = B B^T. No matrix root is taken of a
product, so that singular covariances (fewer samples than dimensions) are exact and identical sets score 0 and not a
large negative number.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums of ``n`` feature vectors; two of them add up to those of the union.

    Args:
        n: number of vectors.
        sum: float64 ``d``.
        outer: float64 ``d d``, the sum of x x^T.
    """

    n: int
    sum: Tensor
    outer: Tensor

    @staticmethod
    def of(features: Tensor) -> "Statistics":
        """The sums of ``features``, ``N d``."""
        x = features.detach().to(torch.float64)
        return Statistics(len(x), x.sum(0), x.T @ x)

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(self.n + other.n, self.sum + other.sum, self.outer + other.outer)

    @property
    def mean(self) -> Tensor:
        return self.sum / self.n

    def covariance(self, ddof: int = 1) -> Tensor:
        """``d d``, over ``n - ddof``.

        Raises:
            ValueError: ``n`` is not above ``ddof``.
        """
        if self.n <= ddof:
            raise ValueError(f"a covariance over N - {ddof} needs more than {self.n} samples")
        centred = self.outer - torch.outer(self.sum, self.sum) / self.n
        return (centred + centred.T) / (2 * (self.n - ddof))


def frechet_distance(mu1: Tensor, s1: Tensor, mu2: Tensor, s2: Tensor) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)) in float64 [Dowson and Landau 1982].

    Args:
        mu1, mu2: ``d``.
        s1, s2: ``d d``, symmetric and positive semi-definite, of any rank.

    Returns:
        The distance, never below 0.
    """
    mu1, s1, mu2, s2 = (x.detach().to("cpu", torch.float64) for x in (mu1, s1, mu2, s2))
    a, b = _root(s1), _root(s2)
    overlap = torch.linalg.svdvals(a.T @ b).sum()
    distance = (mu1 - mu2).square().sum() + a.square().sum() + b.square().sum() - 2 * overlap
    return max(float(distance), 0.0)


def distance(real: Statistics, generated: Statistics, ddof: int = 1) -> float:
    """The Frechet distance between two sets, from their sums."""
    return frechet_distance(real.mean, real.covariance(ddof), generated.mean, generated.covariance(ddof))


def _root(s: Tensor) -> Tensor:
    """``A`` with A A^T = s: eigenvectors times the roots of the eigenvalues; what rounding made negative is 0."""
    values, vectors = torch.linalg.eigh(s)
    return vectors * values.clamp_min(0).sqrt()
