"""The Frechet video distance as a torchmetrics metric: float64 sums that add over batches and processes."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from drivesim.metrics.features import Extractor
from drivesim.metrics.frechet import Statistics, distance


class FrechetVideoDistance(Metric):
    """FVD [Unterthiner 2018] in the features of ``extractor``; called "fvd" only for a verified Kinetics I3D.

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
        self._add(self.extractor(video), "real" if real else "generated")

    def compute(self) -> Tensor:
        """The distance, a float64 scalar.

        Raises:
            ValueError: a side has too few clips for a covariance.
        """
        return torch.tensor(distance(self.statistics(True), self.statistics(False), self.ddof), dtype=torch.float64)

    def statistics(self, real: bool) -> Statistics:
        side = "real" if real else "generated"
        return Statistics(int(getattr(self, f"{side}_n")), getattr(self, f"{side}_sum"), getattr(self, f"{side}_outer"))

    def _add(self, features: Tensor, side: str) -> None:
        new = Statistics.of(features.to(self.device))
        setattr(self, f"{side}_n", getattr(self, f"{side}_n") + new.n)
        setattr(self, f"{side}_sum", getattr(self, f"{side}_sum") + new.sum)
        setattr(self, f"{side}_outer", getattr(self, f"{side}_outer") + new.outer)


def name(extractor: Extractor) -> str:
    """What a score in these features is called."""
    return f"fvd[{extractor.name}]"


def controls(real: Tensor, altered: dict[str, Tensor], generated: int, ddof: int = 1) -> dict[str, float]:
    """The distance of each altered copy of the real clips to the real ones, from as many clips as were generated.

    The plug-in distance grows as clips get fewer, so that a control from more clips than the score would look too good.

    Args:
        real: features ``N d``.
        altered: features ``N d`` by name, in the order of ``real``.
        generated: how many clips the score is made of; all ``N`` are used where there are fewer.
    """
    chosen = torch.linspace(0, len(real) - 1, min(generated, len(real))).round().long()
    whole = Statistics.of(real)
    return {word: distance(whole, Statistics.of(features[chosen]), ddof) for word, features in altered.items()}


def floor(real: Tensor, order: Tensor, ddof: int = 1) -> float | None:
    """The distance between two halves of the real clips, taken in ``order``; None where a half has no covariance."""
    half = len(real) // 2
    if half <= ddof:
        return None
    return distance(Statistics.of(real[order[:half]]), Statistics.of(real[order[half : 2 * half]]), ddof)
