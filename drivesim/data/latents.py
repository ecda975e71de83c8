"""The latent cache: every clip encoded once. Raw moments (mean, log-variance) as float16, whitened only when they are
used.

A folder holds ``000000.npy`` ... (``N 2C h w``, opened as memory maps), ``sequences.parquet`` (a row a sequence:
consecutive frames of a clip at an exact fps) and ``cache.json``, which says from what it was made. Where the index
knows boxes, ``000000.boxes.npy`` ... hold those of every frame: ``N M`` of ``BOX``, M the same for all.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset

from drivesim.data.index import Entry
from drivesim.data.loader import Item, Ordered, labels
from drivesim.data.order import Order
from drivesim.errors import Mistake
from drivesim.randomness import generator
from drivesim.scene import BATCHED, EMPTY, FrameBoxes
from drivesim.weights import write_atomic, writing

FORMAT = "drivesim.latents/2"
ABOUT, SEQUENCES = "cache.json", "sequences.parquet"
SHARD_BYTES = 256 << 20
BOX = np.dtype([("box", "<f4", 4), ("cls", "i1"), ("track", "<i4")])
UNKNOWN = -3  # the class of all places of a frame of which no boxes are known
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()), ("night", pa.bool_()), ("cars", pa.int32()), ("split", pa.string()),
        ("shard", pa.int32()), ("offset", pa.int64()), ("frames", pa.int64()),
        ("fps_num", pa.int64()), ("fps_den", pa.int64()), ("start_num", pa.int64()), ("start_den", pa.int64()),
        ("caption", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Sequence:
    """``frames`` consecutive frames of a clip from second ``start``, at ``offset`` of ``shard``; ``night``, ``cars``,
    ``caption`` None: unknown."""

    clip_id: str
    night: bool | None
    cars: int | None
    split: str
    shard: int
    offset: int
    frames: int
    fps_num: int
    fps_den: int
    start_num: int
    start_den: int
    caption: str | None = None


@dataclass(frozen=True)
class About:
    """What a cache was made from; ``fingerprint`` is its hash.

    Args:
        index: digest of the index; ``autoencoder``: SHA-256 of the weights.
        size: ``(H, W)`` of the pictures; ``fps``, ``phases``, ``precision``: how they were taken and encoded.
        shape: ``(2C, h, w)`` of the moments.
        boxes: places for boxes that every frame has; 0 where the index knows none.
    """

    index: str
    autoencoder: str
    size: tuple[int, int]
    fps: str
    phases: int
    precision: str
    shape: tuple[int, int, int]
    boxes: int = 0

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([FORMAT, asdict(self)], sort_keys=True).encode()).hexdigest()


class LatentWriter:
    """Fills a folder with shards; ``cache.json`` comes last, so that a cache without it is not one."""

    def __init__(self, folder: Path, about: About):
        self.folder, self.about = folder, about
        self._rows: list[Sequence] = []
        self._pending: list[np.ndarray] = []
        self._boxes: list[np.ndarray] = []
        self._shard = self._offset = 0

    def add(
        self, entry: Entry, moments: np.ndarray, fps: Fraction, start: Fraction, boxes: FrameBoxes | None = None
    ) -> None:
        """Appends a sequence ``T 2C h w`` and its boxes, ``1 T N`` with N = ``about.boxes``; None: none are known."""
        if moments.shape[1:] != self.about.shape:
            raise ValueError(f"moments are T {self.about.shape}, not {moments.shape}")
        if not np.isfinite(moments).all():
            raise Mistake("the autoencoder gives values that are not finite", where=entry.file)
        self._rows.append(
            Sequence(
                entry.clip_id, entry.night, entry.cars, entry.split, self._shard, self._offset, len(moments),
                fps.numerator, fps.denominator, start.numerator, start.denominator, entry.caption,
            )
        )  # fmt: skip
        self._pending.append(np.clip(moments, -65504, 65504).astype(np.float16))
        if self.about.boxes:
            self._boxes.append(_packed(boxes, len(moments), self.about.boxes))
        self._offset += len(moments)
        if sum(part.nbytes for part in self._pending) >= SHARD_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._save(f"{self._shard:06d}.npy", self._pending)
            if self._boxes:
                self._save(f"{self._shard:06d}.boxes.npy", self._boxes)
            self._pending, self._boxes, self._offset, self._shard = [], [], 0, self._shard + 1

    def _save(self, name: str, parts: list[np.ndarray]) -> None:
        with writing(self.folder / name):
            np.save(self.folder / name, np.concatenate(parts))

    def __enter__(self) -> "LatentWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        self._flush()
        with writing(self.folder / SEQUENCES):
            pq.write_table(pa.Table.from_pylist([asdict(row) for row in self._rows], SCHEMA), self.folder / SEQUENCES)
        content = {"format": FORMAT, "fingerprint": self.about.fingerprint, **asdict(self.about)}
        write_atomic(self.folder / ABOUT, (json.dumps(content, indent=1) + "\n").encode())


def _packed(boxes: FrameBoxes | None, frames: int, most: int) -> np.ndarray:
    """``T N`` of ``BOX``."""
    packed = np.zeros((frames, most), BOX)
    packed["cls"] = UNKNOWN
    if boxes is not None:
        packed["box"], packed["track"] = boxes.box[0].numpy(), boxes.track[0].numpy()
        packed["cls"] = boxes.cls[0].where(boxes.known[0][:, None], UNKNOWN).numpy()
    return packed


class LatentCache:
    """An opened cache. ``size`` and ``fps`` are those of the pictures, ``fingerprint`` names its content."""

    def __init__(self, folder: Path, about: About, sequences: list[Sequence]):
        self.folder, self.about, self.sequences = folder, about, sequences
        self.size, self.fps, self.fingerprint = about.size, Fraction(about.fps), about.fingerprint
        self.captioned = any(sequence.caption for sequence in sequences)

    @classmethod
    def open(cls, folder: str | Path, autoencoder: str | None = None) -> "LatentCache":
        """Args:
            autoencoder: SHA-256 of the weights that the latents must be of.

        Raises:
            Mistake: no cache, not whole, of another autoencoder, or altered.
        """
        folder = Path(folder)
        if not (folder / ABOUT).is_file():
            raise Mistake("is not a latent cache", where=folder, mend="'drivesim encode INDEX --weights DIR' makes one")
        try:
            content: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            table = _with_captions(pq.read_table(folder / SEQUENCES)).select(SCHEMA.names).cast(SCHEMA)
            values = {field.name: content[field.name] for field in fields(About) if field.name in content}
            about = About(**{**values, "size": tuple(values["size"]), "shape": tuple(values["shape"])})
            sequences = [Sequence(**row) for row in table.to_pylist()]
            places = [(s.clip_id, s.split, s.fps_num, s.fps_den, s.start_num, s.start_den) for s in sequences]
            if any(None in place for place in places) or Fraction(about.fps) <= 0:
                raise ValueError("sequences without a clip, a split or a time")
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ArithmeticError, pa.ArrowException) as p:
            what = " ".join(str(p).split())[:120]
            raise Mistake(f"cannot be read ({what})", where=folder / ABOUT, mend="encode again") from None
        if content.get("format") != FORMAT or content.get("fingerprint") != about.fingerprint:
            older = content.get("format") != FORMAT
            what = "is of another version of drivesim" if older else "its fingerprint does not fit its content"
            raise Mistake(what, where=folder / ABOUT, mend="encode again")
        if autoencoder is not None and about.autoencoder != autoencoder:
            raise Mistake(
                f"holds latents of another autoencoder ({about.autoencoder[:12]}, not {autoencoder[:12]})",
                where=folder,
                mend="encode the index again with these weights",
            )
        cache = cls(folder, about, sequences)
        cache._check_shards()
        return cache

    def split(self, name: str) -> list[Sequence]:
        return [sequence for sequence in self.sequences if sequence.split == name]

    def read(self, sequence: Sequence, first: int, frames: int, stride: int = 1) -> np.ndarray:
        """``frames`` frames of ``sequence``, every ``stride``-th from its frame ``first`` on: float32 ``T 2C h w``."""
        place = self._place(sequence, first, frames, stride)
        return np.asarray(self._shards[sequence.shard][place], dtype=np.float32)

    def boxes(self, sequence: Sequence, first: int, frames: int, stride: int = 1) -> Item:
        """Their boxes as the tensors of ``FrameBoxes`` without its B, as batches name them."""
        held = self._boxes[sequence.shard][self._place(sequence, first, frames, stride)]
        cls = torch.from_numpy(held["cls"].astype(np.int64))
        known = cls[:, 0] != UNKNOWN
        tensors = (held["box"].astype(np.float32), held["track"].astype(np.int64))
        box, track = (torch.from_numpy(array) for array in tensors)
        return dict(zip(BATCHED, (box, cls.where(known[:, None], EMPTY), track, known), strict=True))

    def _place(self, sequence: Sequence, first: int, frames: int, stride: int) -> slice:
        end = first + span(frames, stride)
        if first < 0 or end > sequence.frames:
            raise ValueError(f"frames {first} to {end} of a sequence of {sequence.frames}")
        return slice(sequence.offset + first, sequence.offset + end, stride)

    def stride(self, rate: Fraction) -> int:
        """How many of its frames a frame at ``rate`` is.

        Raises:
            ValueError: no whole number.
        """
        steps = self.fps / rate
        if steps.denominator != 1:
            raise ValueError(f"{self.fps} frames a second are no whole multiple of {rate}")
        return int(steps)

    @cached_property
    def _shards(self) -> list[np.ndarray]:
        return self._maps("")

    @cached_property
    def _boxes(self) -> list[np.ndarray]:
        return self._maps(".boxes")

    def _maps(self, kind: str) -> list[np.ndarray]:
        shards = {sequence.shard for sequence in self.sequences}
        count = 1 + max(shards, default=-1)
        if len(shards) != count or min(shards, default=0) < 0:
            raise ValueError(f"shards {sorted(shards)[:5]} are not counted from 0")
        return [np.load(self.folder / f"{n:06d}{kind}.npy", mmap_mode="r", allow_pickle=False) for n in range(count)]

    def _check_shards(self) -> None:
        try:
            lengths = [len(shard) for shard in self._shards if shard.shape[1:] == self.about.shape]
            whole = len(lengths) == len(self._shards)
            if self.about.boxes:
                whole &= [len(shard) for shard in self._boxes if shard.dtype == BOX] == lengths
            ends = [(s.offset + s.frames, s.shard) for s in self.sequences if s.offset >= 0 < s.frames]
            whole = whole and len(ends) == len(self.sequences) and all(end <= lengths[n] for end, n in ends)
        except (OSError, EOFError, ValueError, TypeError, SyntaxError, TokenError, RecursionError):
            whole = False  # the header of a shard is Python's, which numpy parses
        if not whole:
            raise Mistake("its shards are missing or not whole", where=self.folder, mend="encode again")

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps: a worker opens its own."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_shards", "_boxes")}


def _with_captions(table: pa.Table) -> pa.Table:
    """Caches of before have no such column: nothing is known."""
    if "caption" in table.column_names:
        return table
    return table.append_column("caption", pa.nulls(len(table), pa.string()))


@dataclass(frozen=True)
class Stretch:
    """A window of a sequence that starts at frame ``first`` or up to ``slack`` frames later."""

    sequence: Sequence
    first: int
    slack: int


def stretches(sequence: Sequence, frames: int) -> list[Stretch]:
    """Side by side; each may start later by less than its own length, as long as the sequence lasts."""
    starts = range(0, sequence.frames - frames + 1, frames)
    return [Stretch(sequence, n, min(frames - 1, sequence.frames - frames - n)) for n in starts]


def span(frames: int, stride: int) -> int:
    """Frames of a sequence from the first of a window to its last, both counted."""
    return (frames - 1) * stride + 1


class Latents(Dataset[Item]):
    """Map from global sample number to item; the rate of a sample, where there are several, is drawn for its number."""

    def __init__(self, cache: LatentCache, held: dict[int, list[Stretch]], frames: int, seed: int):
        self.cache, self.held, self.frames, self.seed = cache, held, frames, seed
        self._strides = list(held)
        self._orders = {stride: Order(seed, len(windows)) for stride, windows in held.items()}

    def __len__(self) -> int:
        return sum(map(len, self.held.values()))

    def __getitem__(self, sample: int) -> Item:
        window, stride = self.window(sample)
        first = window.first + int(self._orders[stride].uniform(sample) * (window.slack + 1))
        place = window.sequence, first, self.frames, stride
        return {
            "moments": torch.from_numpy(self.cache.read(*place)),
            "fps": torch.tensor(float(self.cache.fps / stride)),
            **(self.cache.boxes(*place) if self.cache.about.boxes else {}),
            **({"caption": window.sequence.caption or ""} if self.cache.captioned else {}),
            **labels(window.sequence.night, window.sequence.cars, sample),
        }

    def window(self, sample: int) -> tuple[Stretch, int]:
        """The stretch that a sample is of, and its stride."""
        stride = self._stride(sample)
        return self.held[stride][self._orders[stride].window(sample)], stride

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
        self.left_out = {"shorter than a window": sum(s.frames < least for s in self.cache.sequences)}

    def _strides(self, rates: tuple[Fraction, ...]) -> list[int]:
        try:
            return [self.cache.stride(rate) for rate in rates or (self.cache.fps,)]
        except ValueError as problem:
            common = Fraction(
                math.lcm(*(rate.numerator for rate in rates)), math.gcd(*(rate.denominator for rate in rates))
            )
            raise Mistake(str(problem), where=self.cache.folder, mend=f"encode with --fps {common}") from None

    def _windows(self, stride: int) -> list[Stretch]:
        need, sequences = span(self.frames, stride), self.cache.split("train")
        found = [window for sequence in sequences for window in stretches(sequence, need)]
        if not found:
            longest = max((sequence.frames for sequence in sequences), default=0)
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
        return self.training().window(sample)[0].sequence.clip_id
