"""An estimate with a standard error from few clips: the group jackknife [Quenouille 1956, Tukey 1958].

The plug-in Frechet distance of N clips is biased upward by about c / N; leaving out a group at a time measures that
bias and removes it. A bootstrap does not: copies of a clip make the covariance poorer, and its interval misses its
estimate.

Groups are blocks of neighbours in the order given. With clips sorted by the drive that they come from, clips that
depend on each other mostly fall into one group, and the error is that of drives, not of frames.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drivesim.metrics.frechet import Gaussian, Statistics

GROUPS = 16
LEAST = 2 * GROUPS  # clips a side; with fewer, a group is a clip


@dataclass(frozen=True)
class Estimate:
    """A value with its bias removed, and its standard error."""

    value: float
    se: float


def jackknife(whole: float, without: Callable[[int], float], groups: int = GROUPS) -> Estimate:
    """From the value of all samples and those ``without`` one group each."""
    left = np.array([without(group) for group in range(groups)])
    return Estimate(
        float(groups * whole - (groups - 1) * left.mean()),
        float(np.sqrt((groups - 1) / groups * ((left - left.mean()) ** 2).sum())),
    )


def frechet(real: Tensor, generated: Tensor, ddof: int = 1) -> Estimate | None:
    """The Frechet distance of features ``N d`` and ``M d`` (or ``N r d``, r rows a clip, which stay together); a group
    of both sides is left out at once.

    Returns:
        None where a side has fewer than ``LEAST`` clips.
    """
    if min(len(real), len(generated)) < LEAST:
        return None
    one, other = Groups(real, ddof), Groups(generated, ddof)
    return jackknife(one.all.distance(other.all), lambda group: one.without(group).distance(other.without(group)))


def frechet_to(real: Gaussian, generated: Tensor, ddof: int = 1) -> Estimate | None:
    """The same with a real side that stands still: the error of few generated clips against many real ones."""
    if len(generated) < LEAST:
        return None
    groups = Groups(generated, ddof)
    return jackknife(real.distance(groups.all), lambda group: real.distance(groups.without(group)))


class Groups:
    """A set of features in ``GROUPS`` blocks, as a Gaussian of all and of all but one."""

    def __init__(self, features: Tensor, ddof: int):
        self.parts, self.ddof = torch.tensor_split(features, GROUPS), ddof
        self.all = Gaussian.fit(features, ddof)
        # sums, where a block less leaves more samples than dimensions; a block's own are formed when it is left out
        many = (features.numel() - self.parts[0].numel()) // features.shape[-1] > features.shape[-1]
        self.total = Statistics.of(features) if many else None

    def without(self, group: int) -> Gaussian:
        if self.total is not None:
            return (self.total - Statistics.of(self.parts[group])).gaussian(self.ddof)
        return Gaussian.fit(torch.cat([part for n, part in enumerate(self.parts) if n != group]), self.ddof)
