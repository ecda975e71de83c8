"""The latent cache: every clip encoded once. Raw moments (mean, log-variance) as float16, whitened only when they are
used.

A folder holds ``000000.npy`` ... (``N 2C h w``, read at any place), ``sequences.parquet`` (a row a sequence:
consecutive frames of a clip at an exact fps) and ``cache.json``, which says from what it was made. Where the index
knows boxes, ``000000.boxes.npy`` ... hold those of every frame: ``N M`` of ``BOX``, M the same for all.

The folder may lie in a store (``store.py``). A million sequences are 29 bytes each in memory, and no shard stays open.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterator
from collections.abc import Sequence as Listed
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from drivesim.data import store
from drivesim.data.groups import Groups
from drivesim.data.loader import Item
from drivesim.errors import Mistake
from drivesim.scene import BATCHED, EMPTY

FORMAT = "drivesim.latents/2"
ABOUT, SEQUENCES = "cache.json", "sequences.parquet"
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
MAY_LACK = ("night", "cars", "caption")
LACKS = -1  # a label that is unknown
SPLITS = {"train": 0, "val": 1}
NEEDED = pa.schema([field.with_nullable(field.name in MAY_LACK) for field in SCHEMA])
MOMENTS, BOXES = "", ".boxes"  # kinds of shards
UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError, TokenError, RecursionError)
HEADER, LEAST = 4096, 128  # bytes that hold the header of a shard; what numpy makes it at least
LOOKED_AT = 64  # shards whose headers are read on opening; of all, the size is compared


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


class Place(NamedTuple):
    """Where a sequence lies: ``frames`` frames at ``offset`` of ``shard``."""

    shard: int
    offset: int
    frames: int


class Sequences(Listed[Sequence]):
    """The sequences of a cache. What a sample needs lies in arrays; the rest is read when one is asked for."""

    def __init__(self, table: Groups):
        self._table = table
        names = ("shard", "offset", "frames", "night", "cars", "split")
        parts = [_numbers(part) for part in table.scan(*names)]
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)] or [np.empty(0, np.int64)] * 6
        self.shard, self.offset, self.frames, self.night, self.cars, self._split = columns
        self.captioned = any(pc.any(pc.not_equal(part.column("caption"), "")).as_py() for part in table.scan("caption"))

    def __len__(self) -> int:
        return len(self.shard)

    @overload
    def __getitem__(self, which: int) -> Sequence: ...
    @overload
    def __getitem__(self, which: slice) -> list[Sequence]: ...
    def __getitem__(self, which: int | slice) -> Sequence | list[Sequence]:
        if isinstance(which, slice):
            return [self[n] for n in range(len(self))[which]]
        (row,) = self._table.rows(range(len(self))[which])
        return Sequence(**row)

    def __iter__(self) -> Iterator[Sequence]:
        return (Sequence(**row) for part in self._table.scan(*NEEDED.names) for row in part.to_pylist())

    def place(self, row: int) -> Place:
        return Place(int(self.shard[row]), int(self.offset[row]), int(self.frames[row]))

    def split(self, name: str) -> np.ndarray:
        """The rows of ``train`` or ``val``."""
        return np.flatnonzero(self._split == SPLITS.get(name, -1)).astype(np.int32)

    def labels(self, row: int) -> tuple[bool | None, int | None]:
        """``night`` and ``cars``."""
        night, cars = int(self.night[row]), int(self.cars[row])
        return None if night == LACKS else bool(night), None if cars == LACKS else cars


def _numbers(part: pa.Table) -> list[np.ndarray]:
    """Shard, offset, frames, night, cars and split as numbers, where what is unknown is ``LACKS``."""
    night = pc.fill_null(part.column("night").cast(pa.int8()), LACKS)
    cars = pc.fill_null(part.column("cars"), LACKS)
    split = np.array([SPLITS.get(word, LACKS) for word in part.column("split").to_pylist()], np.int8)
    places = [part.column(name).to_numpy() for name in ("shard", "offset", "frames")]
    return [*places, night.to_numpy(), cars.to_numpy(), split]


class LatentCache:
    """An opened cache. ``size`` and ``fps`` are those of the pictures, ``fingerprint`` names its content."""

    def __init__(self, folder: str | Path, files: store.Files, about: About, sequences: Sequences):
        self.folder, self.about, self.sequences = folder, about, sequences
        self.size, self.fps, self.fingerprint = about.size, Fraction(about.fps), about.fingerprint
        self.captioned = sequences.captioned
        self._files = files
        self._starts: dict[str, int] = {}

    @classmethod
    def open(cls, folder: str | Path, autoencoder: str | None = None) -> "LatentCache":
        """Args:
            folder: a folder, or the URL of one in a store.
            autoencoder: SHA-256 of the weights that the latents must be of.

        Raises:
            Mistake: no cache, not whole, of another autoencoder, or altered. Of many shards, the sizes are compared
                and the first headers read; what is damaged elsewhere is noticed where it is read.
        """
        files = store.of(folder)
        try:
            sizes = files.sizes()
            if ABOUT not in sizes:
                mend = "'drivesim encode INDEX --weights DIR' makes one"
                raise Mistake("is not a latent cache", where=folder, mend=mend)
            content: dict[str, Any] = json.loads(files.read(ABOUT).decode())
            values = {field.name: content[field.name] for field in fields(About) if field.name in content}
            about = About(**{**values, "size": tuple(values["size"]), "shape": tuple(values["shape"])})
            if Fraction(about.fps) <= 0:
                raise ValueError("no rate")
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ArithmeticError) as p:
            what = " ".join(str(p).split())[:120]
            raise Mistake(f"cannot be read ({what})", where=f"{folder}/{ABOUT}", mend="encode again") from None
        if content.get("format") != FORMAT or content.get("fingerprint") != about.fingerprint:
            older = content.get("format") != FORMAT
            what = "is of another version of drivesim" if older else "its fingerprint does not fit its content"
            raise Mistake(what, where=f"{folder}/{ABOUT}", mend="encode again")
        if autoencoder is not None and about.autoencoder != autoencoder:
            raise Mistake(
                f"holds latents of another autoencoder ({about.autoencoder[:12]}, not {autoencoder[:12]})",
                where=folder,
                mend="encode the index again with these weights",
            )
        sequences = Sequences(Groups(files, SEQUENCES, NEEDED, folder, "encode again"))
        cache = cls(folder, files, about, sequences)
        cache._check_shards(sizes)
        return cache

    def split(self, name: str) -> list[Sequence]:
        return [sequence for sequence in self.sequences if sequence.split == name]

    def read(self, sequence: Sequence | Place, first: int, frames: int, stride: int = 1) -> np.ndarray:
        """``frames`` frames of ``sequence``, every ``stride``-th from its frame ``first`` on: float32 ``T 2C h w``.

        Raises:
            Mistake: they are not there any more; also of ``boxes``.
        """
        held = self._frames(MOMENTS, sequence, first, frames, stride)
        return torch.from_numpy(held).float().numpy()  # torch converts halves eight times as fast as numpy

    def boxes(self, sequence: Sequence | Place, first: int, frames: int, stride: int = 1) -> Item:
        """Their boxes as the tensors of ``FrameBoxes`` without its B, as batches name them."""
        held = self._frames(BOXES, sequence, first, frames, stride)
        cls = torch.from_numpy(held["cls"].astype(np.int64))
        known = cls[:, 0] != UNKNOWN
        tensors = (held["box"].astype(np.float32), held["track"].astype(np.int64))
        box, track = (torch.from_numpy(array) for array in tensors)
        return dict(zip(BATCHED, (box, cls.where(known[:, None], EMPTY), track, known), strict=True))

    def _frames(self, kind: str, sequence: Sequence | Place, first: int, frames: int, stride: int) -> np.ndarray:
        end = first + span(frames, stride)
        if first < 0 or end > sequence.frames:
            raise ValueError(f"frames {first} to {end} of a sequence of {sequence.frames}")
        dtype, shape = self._what(kind)
        held = np.empty((end - first, *shape), dtype)
        begin = (sequence.offset + first) * held[0].nbytes
        try:
            name = _name(sequence.shard, kind)
            self._files.fill(name, self._start(name, kind) + begin, held)
        except UNREADABLE:
            raise self._not_whole() from None
        return held[::stride]

    def _what(self, kind: str) -> tuple[np.dtype, tuple[int, ...]]:
        """Of an element of a shard."""
        return (np.dtype(np.float16), tuple(self.about.shape)) if kind == MOMENTS else (BOX, (self.about.boxes,))

    def _start(self, name: str, kind: str) -> int:
        """Where the numbers of a shard begin; its header is read once."""
        if name not in self._starts:
            head = np.empty(min(HEADER, self._sizes[name]), np.uint8)
            self._files.fill(name, 0, head)
            file = io.BytesIO(head.tobytes())
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = read(file)
            if (dtype, shape[1:], by_columns) != (*self._what(kind), False):
                raise ValueError("another array")
            self._starts[name] = file.tell()
        return self._starts[name]

    def stride(self, rate: Fraction) -> int:
        """How many of its frames a frame at ``rate`` is.

        Raises:
            ValueError: no whole number.
        """
        steps = self.fps / rate
        if steps.denominator != 1:
            raise ValueError(f"{self.fps} frames a second are no whole multiple of {rate}")
        return int(steps)

    def _check_shards(self, sizes: dict[str, int]) -> None:
        ends = self.sequences.offset + self.sequences.frames
        shards, which = np.unique(self.sequences.shard, return_inverse=True)
        last = np.zeros(len(shards), np.int64)
        np.maximum.at(last, which, ends)
        whole = bool(((self.sequences.offset >= 0) & (self.sequences.frames > 0)).all())
        kinds = (MOMENTS, BOXES) if self.about.boxes else (MOMENTS,)
        self._sizes = {
            _name(shard, kind): sizes.get(_name(shard, kind), 0) for kind in kinds for shard in shards.tolist()
        }
        for kind in kinds:
            dtype, shape = self._what(kind)
            each = dtype.itemsize * math.prod(shape)
            for n, (shard, end) in enumerate(zip(shards.tolist(), last.tolist(), strict=True)):
                try:
                    name = _name(shard, kind)
                    start = self._start(name, kind) if n < LOOKED_AT else LEAST
                    whole = whole and self._sizes[name] >= start + end * each
                except UNREADABLE:
                    whole = False
                if not whole:
                    raise self._not_whole()

    def _not_whole(self) -> Mistake:
        return Mistake("its shards are missing or not whole", where=self.folder, mend="encode again")


def _name(shard: int, kind: str) -> str:
    return f"{shard:06d}{kind}.npy"


def span(frames: int, stride: int) -> int:
    """Frames of a sequence from the first of a window to its last, both counted."""
    return (frames - 1) * stride + 1
