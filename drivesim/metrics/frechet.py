"""The Frechet distance of two Gaussians, and the float64 sums that a set of features is reduced to.

|mu1 - mu2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)) [Dowson and Landau 1982]. No matrix root of a product is ever taken, so that
singular covariances are exact and identical sets score 0 and not a large negative number:

- more samples than dimensions: S1 = L L^T, and tr sqrt(S1 S2) is the sum of the roots of the eigenvalues of L^T S2 L;
- fewer: it is the nuclear norm of A^T B with S1 = A A^T, S2 = B B^T, where A and B are the centred samples themselves,
  or, where only the sums are left, the roots of S1 and S2.

The linear algebra is numpy's: its products of float64 matrices take half the time of torch's on some processors.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivesim.errors import Mistake
from drivesim.metrics import store

DEGENERATE = 1e-13  # of the largest pivot: below it a Cholesky factor is noise
BLOCKS, ROWS = 8, 1024


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
        """The sums of ``features``, ``N d`` or ``N r d``; some rows at a time, as float64 copies take memory."""
        features = features.flatten(0, -2)
        d = features.shape[1]
        total, outer = np.zeros(d), np.zeros((d, d))
        for part in features.detach().split(ROWS):
            x = part.to("cpu", torch.float64).numpy()
            total += x.sum(0)
            outer += x.T @ x
        return Statistics(len(features), torch.from_numpy(total), torch.from_numpy(outer))

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(self.n + other.n, self.sum + other.sum, self.outer + other.outer)

    def __sub__(self, part: "Statistics") -> "Statistics":
        """What is left of a union without ``part``."""
        return Statistics(self.n - part.n, self.sum - part.sum, self.outer - part.outer)

    @property
    def mean(self) -> Tensor:
        return self.sum / self.n

    def covariance(self, ddof: int = 1) -> Tensor:
        """``d d``, over ``n - ddof``.

        Raises:
            ValueError: ``n`` is not above ``ddof``.
        """
        if self.n <= ddof:
            raise ValueError(f"a covariance over N - {ddof} needs more than {ddof} samples, not {self.n}")
        centred = self.outer - torch.outer(self.sum, self.sum) / self.n
        return (centred + centred.T) / (2 * (self.n - ddof))

    def gaussian(self, ddof: int = 1) -> "Gaussian":
        covariance = self.covariance(ddof).to("cpu", torch.float64).numpy()
        return Gaussian(self.mean.to("cpu", torch.float64).numpy(), covariance)

    def save(self, file: str | Path, about: dict[str, Any] | None = None) -> None:
        """Safetensors, with ``about`` (what the features are of) in the header."""
        tensors = {"n": torch.tensor(self.n), "sum": self.sum, "outer": self.outer}
        store.write(Path(file), tensors, {"kind": "statistics", **(about or {})})

    @staticmethod
    def load(file: str | Path) -> tuple["Statistics", dict[str, Any]]:
        """The sums that ``save`` wrote, and what they are about.

        Raises:
            Mistake: no such file, or not statistics.
        """
        tensors, about = store.read(Path(file))
        if about.get("kind") != "statistics" or tensors.keys() != {"n", "sum", "outer"}:
            raise Mistake("does not hold feature statistics", where=file)
        return Statistics(int(tensors["n"]), tensors["sum"], tensors["outer"]), about


class Gaussian:
    """A mean and a covariance, or samples in the place of a covariance; its root is formed once, however often it is
    compared."""

    def __init__(self, mean: np.ndarray, covariance: np.ndarray | None = None, samples: np.ndarray | None = None):
        self.mean, self.given, self.samples = mean, covariance, samples

    @staticmethod
    def fit(features: Tensor, ddof: int = 1) -> "Gaussian":
        """Of features ``N d``, or ``N r d`` with r rows a clip; no more of them than dimensions are kept, centred.

        Raises:
            ValueError: too few samples for a covariance.
        """
        features = features.flatten(0, -2)
        if len(features) > features.shape[1]:
            return Statistics.of(features).gaussian(ddof)
        if len(features) <= ddof:
            raise ValueError(f"a covariance over N - {ddof} needs more than {ddof} samples")
        x = features.detach().to("cpu", torch.float64).numpy()
        return Gaussian(x.mean(0), samples=(x - x.mean(0)) / (len(x) - ddof) ** 0.5)

    @cached_property
    def trace(self) -> float:
        return float(np.trace(self.given) if self.given is not None else (self.samples**2).sum())  # type: ignore[operator]

    @cached_property
    def root(self) -> np.ndarray:
        """``A`` with A A^T = the covariance: samples, else a Cholesky factor, else (singular) roots of eigenvalues."""
        if self.given is None:
            return np.ascontiguousarray(self.samples.T)  # type: ignore[union-attr]
        lower = self.cholesky
        return _root(self.given) if lower is None else lower

    @cached_property
    def cholesky(self) -> np.ndarray | None:
        return None if self.given is None else _cholesky(self.given)

    def distance(self, other: "Gaussian") -> float:
        """The Frechet distance, in float64, never below 0."""
        if self.cholesky is not None and other.given is not None:
            squares = np.linalg.eigvalsh(_congruent(self.cholesky, other.given))
            overlap = float(np.sqrt(squares.clip(0)).sum())
        elif other.given is not None and other.cholesky is not None and self.given is not None:
            return other.distance(self)
        else:
            overlap = float(np.linalg.svd(self.root.T @ other.root, compute_uv=False).sum())
        return max(float(((self.mean - other.mean) ** 2).sum()) + self.trace + other.trace - 2 * overlap, 0.0)


def frechet_distance(mu1: Tensor, s1: Tensor, mu2: Tensor, s2: Tensor) -> float:
    """The distance of two Gaussians, in float64.

    Args:
        mu1, mu2: ``d``.
        s1, s2: ``d d``, symmetric and positive semi-definite, of any rank.

    Returns:
        The distance, never below 0.
    """
    m1, c1, m2, c2 = (x.detach().to("cpu", torch.float64).numpy() for x in (mu1, s1, mu2, s2))
    return Gaussian(m1, c1).distance(Gaussian(m2, c2))


def distance(real: Statistics, generated: Statistics, ddof: int = 1) -> float:
    """The Frechet distance between two sets, from their sums."""
    return real.gaussian(ddof).distance(generated.gaussian(ddof))


def distance_of(real: Tensor, generated: Tensor, ddof: int = 1) -> float:
    """The same from the features ``N d`` and ``M d`` themselves: faster, and exact, where there are few of them.

    Raises:
        ValueError: a side has too few samples for a covariance.
    """
    return Gaussian.fit(real, ddof).distance(Gaussian.fit(generated, ddof))


def _cholesky(s: np.ndarray) -> np.ndarray | None:
    """The lower factor, or None where ``s`` is singular or so close to it that the factor would be noise."""
    try:
        lower = np.linalg.cholesky(s)
    except np.linalg.LinAlgError:
        return None
    pivots = lower.diagonal() ** 2
    return lower if pivots.min() > DEGENERATE * pivots.max() else None


def _congruent(lower: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The lower triangle of L^T s L, in blocks that leave out what is zero in L or symmetric: 0.4 of the work."""
    edges = np.linspace(0, len(s), BLOCKS + 1).astype(int)
    blocks = list(zip(edges, edges[1:], strict=False))
    right = np.empty_like(s)
    for begin, end in blocks:
        right[:, begin:end] = s[:, begin:] @ lower[begin:, begin:end]
    result = np.zeros_like(s)
    for begin, end in blocks:
        result[begin:end, :end] = lower[begin:, begin:end].T @ right[begin:, :end]
    return result


def _root(s: np.ndarray) -> np.ndarray:
    """``A`` with A A^T = s: eigenvectors times the roots of the eigenvalues; what rounding made negative is 0."""
    values, vectors = np.linalg.eigh(s)
    return vectors * np.sqrt(values.clip(0))
