"""The kernel video distance: squared maximum mean discrepancy under the kernel (x.y / d + 1)^3 [Binkowski 2018].

The U-statistic is unbiased at any number of clips, unlike the Frechet distance, and may come out below 0.
"""

import numpy as np
from torch import Tensor

from drivesim.metrics.jackknife import GROUPS, LEAST, Estimate, jackknife

DEGREE = 3


def kernel_distance(real: Tensor, generated: Tensor) -> tuple[float, Estimate | None]:
    """MMD^2 of features ``N d`` and ``M d``, and its jackknife over groups of both sides (None for few samples).

    Raises:
        ValueError: a side has fewer than two samples.
    """
    x, y = (side.detach().to("cpu").double().numpy() for side in (real, generated))
    if min(len(x), len(y)) < 2:
        raise ValueError("two samples a side are the least")
    groups = GROUPS if min(len(x), len(y)) >= LEAST else 1
    edges = [np.linspace(0, len(side), groups + 1).astype(int) for side in (x, y)]
    within = [_blocks(side, side, edge, edge) for side, edge in zip((x, y), edges, strict=True)]
    selves = [_blocks_of_diagonal(side, edge) for side, edge in zip((x, y), edges, strict=True)]
    across = _blocks(x, y, *edges)
    counts = [np.diff(edge) for edge in edges]

    def value(kept: np.ndarray) -> float:
        parts = []
        for block, diagonal, count in zip(within, selves, counts, strict=True):
            n = count[kept].sum()
            parts.append((block[np.ix_(kept, kept)].sum() - diagonal[kept].sum()) / (n * (n - 1)))
        cross = across[np.ix_(kept, kept)].sum() / (counts[0][kept].sum() * counts[1][kept].sum())
        return float(parts[0] + parts[1] - 2 * cross)

    everyone = np.ones(groups, bool)
    whole = value(everyone)
    if groups == 1:
        return whole, None
    return whole, jackknife(whole, lambda group: value(np.arange(groups) != group))


def _blocks(x: np.ndarray, y: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sums of the kernel over every pair of groups."""
    sums = np.empty((len(rows) - 1, len(columns) - 1))
    for i, (begin, end) in enumerate(zip(rows, rows[1:], strict=False)):
        kernel = (x[begin:end] @ y.T / x.shape[1] + 1) ** DEGREE
        sums[i] = np.add.reduceat(kernel.sum(0), columns[:-1])
    return sums


def _blocks_of_diagonal(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.add.reduceat(((x**2).sum(1) / x.shape[1] + 1) ** DEGREE, edges[:-1])
