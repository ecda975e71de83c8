"""Windows of a latent cache, as a training reads them."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from drivesim.data.latents import LatentCache, Sequences, span
from drivesim.data.loader import Item, Numbered, Ordered, labels
from drivesim.data.order import Order
from drivesim.errors import Mistake
from drivesim.randomness import generator


class Stretches:
    """Windows of ``frames`` frames of the sequences ``rows``, side by side and numbered through.

    Each may start later by less than its own length, as long as the sequence lasts: ``slack`` frames.
    """

    def __init__(self, sequences: Sequences, rows: np.ndarray, frames: int):
        self._numbered, self.frames = Numbered(sequences.frames[rows] // frames), frames
        self._rows = rows[self._numbered.clips]
        self._lengths = sequences.frames[self._rows]

    def __len__(self) -> int:
        return len(self._numbered)

    def __getitem__(self, number: int) -> tuple[int, int, int]:
        """The row of the sequence, the first frame, the slack."""
        place, n = self._numbered.find(number)
        first = n * self.frames
        return int(self._rows[place]), first, min(self.frames - 1, int(self._lengths[place]) - self.frames - first)


class Latents(Dataset[Item]):
    """Map from global sample number to item; the rate of a sample, where there are several, is drawn for its number."""

    def __init__(self, cache: LatentCache, held: dict[int, Stretches], frames: int, seed: int):
        self.cache, self.held, self.frames, self.seed = cache, held, frames, seed
        self._strides = list(held)
        self._orders = {stride: Order(seed, len(windows)) for stride, windows in held.items()}

    def __len__(self) -> int:
        return sum(map(len, self.held.values()))

    def __getitem__(self, sample: int) -> Item:
        row, first, slack, stride = self.window(sample)
        first += int(self._orders[stride].uniform(sample) * (slack + 1))
        place = self.cache.sequences.place(row), first, self.frames, stride
        return {
            "moments": torch.from_numpy(self.cache.read(*place)),
            "fps": torch.tensor(float(self.cache.fps / stride)),
            **(self.cache.boxes(*place) if self.cache.about.boxes else {}),
            **({"caption": self.cache.sequences[row].caption or ""} if self.cache.captioned else {}),
            **labels(*self.cache.sequences.labels(row), sample),
        }

    def window(self, sample: int) -> tuple[int, int, int, int]:
        """The row of a sample's sequence, the first frame and the slack of its window, and its stride."""
        stride = self._stride(sample)
        return *self.held[stride][self._orders[stride].window(sample)], stride

    def _stride(self, sample: int) -> int:
        if len(self._strides) == 1:
            return self._strides[0]
        return self._strides[generator(self.seed, "rate", sample).integers(len(self._strides))]


class LatentData(Ordered):
    """Windows of a cache as batches ``{"moments": B T 2C h w, "fps", "night", "cars", "sample": B}``, with the
    fields of ``FrameBoxes`` where the cache holds boxes, and ``"caption"`` where it holds any; see ``ClipData``.

    Args:
        rates: frames a second of the windows, which all are trained on alike; none named is the cache's own. A clip
            that is too short for the lowest still gives windows at the others.

    Raises:
        Mistake: no cache, of another autoencoder or of frames that do not fall on those of a rate, or no sequence of
            ``frames`` frames at one of the rates.
    """

    def __init__(
        self,
        cache: str | Path,
        *,
        frames: int,
        batch: int,
        steps: int,
        start_step: int = 0,
        seed: int = 0,
        workers: int = 0,
        autoencoder: str | None = None,
        rates: tuple[Fraction, ...] = (),
    ):
        super().__init__(batch, steps, start_step, workers)
        self.cache, self.frames, self.seed = LatentCache.open(cache, autoencoder), frames, seed
        self.digest = self.cache.fingerprint
        self._train = {stride: self._windows(stride) for stride in self._strides(rates)}
        least = min(span(frames, stride) for stride in self._train)
        self.left_out = {"shorter than a window": int((self.cache.sequences.frames < least).sum())}

    def _strides(self, rates: tuple[Fraction, ...]) -> list[int]:
        try:
            return [self.cache.stride(rate) for rate in rates or (self.cache.fps,)]
        except ValueError as problem:
            common = Fraction(
                math.lcm(*(rate.numerator for rate in rates)), math.gcd(*(rate.denominator for rate in rates))
            )
            raise Mistake(str(problem), where=self.cache.folder, mend=f"encode with --fps {common}") from None

    def _windows(self, stride: int) -> Stretches:
        need, rows = span(self.frames, stride), self.cache.sequences.split("train")
        found = Stretches(self.cache.sequences, rows, need)
        if not len(found):
            longest = self.cache.sequences.frames[rows].max(initial=0)
            fps = f"{self.cache.fps} fps" + (f", for windows at {self.cache.fps / stride}" if stride > 1 else "")
            raise Mistake(
                f"no sequence has {need} frames at {fps}, the longest has {longest}",
                where=self.cache.folder,
                mend="ask for fewer frames, or encode longer clips",
            )
        return found

    def training(self) -> Latents:
        return Latents(self.cache, self._train, self.frames, self.seed)

    def clip(self, sample: int) -> str:
        return self.cache.sequences[self.training().window(sample)[0]].clip_id
