"""The Frechet video distance as a torchmetrics metric: float64 sums that add over batches and processes."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from drivesim.metrics.features import Extractor, prepared_clips
from drivesim.metrics.frechet import Statistics, distance


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
