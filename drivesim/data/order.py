"""Which sample comes when: the item of global sample number ``n`` is a function of (seed, n), not of workers or
restarts."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

from drivesim import randomness


@dataclass(frozen=True)
class Order:
    """Epoch by epoch a permutation of ``count`` windows: sample ``n`` is window ``order(n // count)[n % count]``."""

    seed: int
    count: int

    def window(self, sample: int) -> int:
        epoch, place = divmod(sample, self.count)
        return int(_permutation(self.seed, epoch, self.count)[place])

    def uniform(self, sample: int) -> float:
        """In [0, 1): where within its window sample ``n`` starts."""
        return float(randomness.generator(self.seed, "start", sample).random())

    def place(self, sample: int, *free: int) -> tuple[int, ...]:
        """A whole number in [0, n] for each n of ``free``: where in a frame the sample's part of it lies."""
        drawn = randomness.generator(self.seed, "place", sample)
        return tuple(int(drawn.integers(0, n, endpoint=True)) for n in free)


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return randomness.generator(seed, "order", epoch).permutation(count).astype(np.uint32)  # every worker holds its own


class Batches(Sampler[list[int]]):
    """Batches of global sample numbers for the steps ``[start, stop)``.

    Step ``s`` of ``world`` processes holds the samples from ``s * world * batch`` on, of which process ``rank`` takes
    its ``batch``; so a training on more processes sees the samples of one with a larger batch. ``len`` counts the steps
    before ``start`` as well: Lightning counts those of a run that it resumes.
    """

    def __init__(self, batch: int, start: int, stop: int, rank: int = 0, world: int = 1):
        self.batch, self.start, self.stop, self.rank, self.world = batch, start, stop, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            first = (step * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))

    def __len__(self) -> int:
        return self.stop
