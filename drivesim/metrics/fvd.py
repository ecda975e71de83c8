"""The Frechet video distance as a torchmetrics metric: float64 sums that add over batches and processes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from drivesim import randomness
from drivesim.metrics.features import Extractor, prepared_clips
from drivesim.metrics.frechet import Gaussian, Statistics, distance, distance_of

SPLITS = 8  # of the real drives into halves, for the floor


class FrechetVideoDistance(Metric):
    """FVD [Unterthiner 2018] in the features of ``extractor``; called "fvd" only for a verified Kinetics I3D.

    With an extractor of single frames (``B 1 H W 3``) it is FID. Sums can be taken out (``statistics``), saved, and put
    in again (``add``), so that the real side is measured once.

    Args:
        extractor: see ``features.Extractor``.
        ddof: covariance over N - ``ddof``: 1 in the reference, 0 in StyleGAN-V's custom.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    real_n: Tensor
    real_sum: Tensor
    real_outer: Tensor
    generated_n: Tensor
    generated_sum: Tensor
    generated_outer: Tensor

    def __init__(self, extractor: Extractor, ddof: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.extractor, self.ddof = extractor, ddof
        d = extractor.dim
        for side in ("real", "generated"):
            self.add_state(f"{side}_n", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
            self.add_state(f"{side}_sum", torch.zeros(d, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{side}_outer", torch.zeros(d, d, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, video: Tensor, real: bool) -> None:
        """Adds clips, uint8 ``B T H W 3``, to the real or to the generated side."""
        self.add(Statistics.of(self.extractor(prepared_clips(self.extractor, video))), real)

    def compute(self) -> Tensor:
        """The distance, a float64 scalar.

        Raises:
            ValueError: a side has too few clips for a covariance.
        """
        return torch.tensor(distance(self.statistics(True), self.statistics(False), self.ddof), dtype=torch.float64)

    def statistics(self, real: bool) -> Statistics:
        """The sums of a side, as they stand."""
        side = "real" if real else "generated"
        return Statistics(int(getattr(self, f"{side}_n")), getattr(self, f"{side}_sum"), getattr(self, f"{side}_outer"))

    def add(self, sums: Statistics, real: bool) -> None:
        """Adds what was summed elsewhere: in another process, or yesterday.

        Raises:
            ValueError: they are of features of another length.
        """
        if len(sums.sum) != self.extractor.dim:
            raise ValueError(f"statistics of {len(sums.sum)} features, not of {self.extractor.dim}")
        side = "real" if real else "generated"
        for name, value in (("n", sums.n), ("sum", sums.sum), ("outer", sums.outer)):
            state = getattr(self, f"{side}_{name}")
            setattr(self, f"{side}_{name}", state + torch.as_tensor(value).to(state))


def controls(real: Tensor, altered: dict[str, Tensor], generated: int, ddof: int = 1) -> dict[str, float]:
    """The distance of each altered copy of the real clips to the real ones, from as many clips as were generated.

    The plug-in distance grows as clips get fewer, so that a control from more clips than the score would look too good.

    Args:
        real: features ``N d``; ``altered``: of the same clips made worthless, ``N d`` each.
        generated: how many clips the score has.
    """
    chosen = torch.linspace(0, len(real) - 1, min(generated, len(real))).round().long()
    everything = Gaussian.fit(real, ddof)
    return {word: everything.distance(Gaussian.fit(features[chosen], ddof)) for word, features in altered.items()}


def floor(real: Tensor, drives: Sequence[str], ddof: int = 1) -> float | None:
    """The mean distance between two halves of the real clips, split by drive so that no drive is in both.

    Args:
        real: features ``N d``, or ``N r d`` with r rows a clip, which stay together.
        drives: ``N`` names. Where all clips are of one drive, its clips are split.

    Returns:
        None where a half has no covariance.
    """
    names = list(drives) if len(set(drives)) > 1 else [f"{n:09d}" for n in range(len(drives))]
    distances = []
    for split in range(SPLITS):
        first, second = halves(names, split)
        if min(len(first), len(second)) > ddof:
            distances.append(distance_of(real[first], real[second], ddof))
    return sum(distances) / len(distances) if distances else None


def halves(names: Sequence[str], split: int) -> tuple[list[int], list[int]]:
    """Places of ``names`` in two parts of about equal length, equal names together; the ``split``-th such way."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    words = sorted(places)
    sides: tuple[list[int], list[int]] = ([], [])
    for n in randomness.generator("evaluate", "halves", split).permutation(len(words)):
        min(sides, key=len).extend(places[words[n]])
    return sides
