"""What a distance is held against: worthless copies of the real clips, and real clips against real ones."""

from collections.abc import Sequence

import torch
from torch import Tensor

from drivesim import randomness
from drivesim.metrics.frechet import Gaussian, distance_of

SPLITS = 8  # of the real drives into halves, for the floor


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
