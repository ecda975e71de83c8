"""What is told in words: the labels night and number of cars as one token for the cross-attention [E.1]."""

import torch
from einops import rearrange
from torch import Tensor, nn

from drivesim.models.blocks import TimeEmbedding, sinusoid
from drivesim.scene import Labels

UNKNOWN = -1


class LabelTokens(nn.Module):
    """``night B, cars B -> B 1 D``; -1 is unknown (or dropped) and has a learned place of its own, apart from 0.

    The paper says 256 wide and one token, not how the two are embedded *(open)*: here a learned vector for day, night
    and unknown, plus an MLP on the sinusoid of the count, so that counts never seen lie between those that were.
    """

    def __init__(self, width: int):
        super().__init__()
        self.night = nn.Embedding(3, width)
        self.cars = TimeEmbedding(64, width)
        self.cars_unknown = nn.Parameter(torch.randn(width))

    def forward(self, night: Tensor, cars: Tensor) -> Tensor:
        counted = self.cars(sinusoid(cars.clamp(min=0), 64, max_period=100.0).to(self.cars_unknown.dtype))
        cars_part = torch.where((cars == UNKNOWN)[:, None], self.cars_unknown, counted)
        return rearrange(self.night(night + 1) + cars_part, "b d -> b 1 d")


def label_tensors(labels: list[Labels]) -> tuple[Tensor, Tensor]:
    """``night B, cars B`` as ``LabelTokens`` reads them."""
    night = [UNKNOWN if x.night is None else int(x.night) for x in labels]
    cars = [UNKNOWN if x.cars is None else x.cars for x in labels]
    return torch.tensor(night), torch.tensor(cars)
