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
import os
from collections.abc import Iterator
from collections.abc import Sequence as Listed
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from tokenize import TokenError
from types import TracebackType
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset

from drivesim.data import store
from drivesim.data.groups import Groups
from drivesim.data.index import GROUP, Entry
from drivesim.data.loader import Item, Numbered, Ordered, labels
from drivesim.data.order import Order
from drivesim.errors import Mistake
from drivesim.randomness import generator
from drivesim.scene import BATCHED, EMPTY, FrameBoxes
from drivesim.weights import replacing, write_atomic, writing

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


class LatentWriter:
    """Fills a folder with shards; ``cache.json`` comes last, so that a cache without it is not one.

    Every shard has its rows in ``000000.parquet`` beside it until ``seal`` puts those of all together.

    Args:
        shard: number of the one shard that is written, where several writers fill a folder, each its own; ``seal``
            follows. None: all, a new one after each ``SHARD_BYTES``; the end of the context seals them.
    """

    def __init__(self, folder: Path, about: About, shard: int | None = None):
        self.folder, self.about, self.alone = folder, about, shard is None
        self._rows: list[Sequence] = []
        self._pending: list[np.ndarray] = []
        self._boxes: list[np.ndarray] = []
        self._shard, self._offset = shard or 0, 0

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
        if self.alone and sum(part.nbytes for part in self._pending) >= SHARD_BYTES:
            self._flush()

    def _flush(self) -> None:
        """The rows come last: where they are, the shard is whole."""
        if self.alone and not self._pending:
            return
        for kind, parts in (("", self._pending), (".boxes", self._boxes)):
            if parts:
                self._save(f"{self._shard:06d}{kind}.npy", parts)
        rows = pa.Table.from_pylist([asdict(row) for row in self._rows], SCHEMA)
        _write_rows(_rows_of(self.folder, self._shard), rows)
        self._pending, self._boxes, self._rows, self._offset, self._shard = [], [], [], 0, self._shard + 1

    def _save(self, name: str, parts: list[np.ndarray]) -> None:
        with replacing(self.folder / name) as part, open(part, "wb") as file:
            np.save(file, np.concatenate(parts))

    def __enter__(self) -> "LatentWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        self._flush()
        if self.alone:
            seal(self.folder, self.about, self._shard)


def _rows_of(folder: Path, shard: int) -> Path:
    return folder / f"{shard:06d}.parquet"


def _write_rows(file: Path, rows: pa.Table) -> None:
    with replacing(file) as part:
        pq.write_table(rows, part, row_group_size=GROUP)


def is_whole(folder: Path, shard: int) -> bool:
    """Whether a shard and its rows are on the disk, as one writer left them."""
    try:
        frames = sum(pq.read_table(_rows_of(folder, shard)).column("frames").to_pylist())
        return not frames or len(np.load(folder / f"{shard:06d}.npy", mmap_mode="r", allow_pickle=False)) == frames
    except (OSError, ValueError, EOFError, KeyError, pa.ArrowException):
        return False


def seal(folder: Path, about: About, shards: int) -> None:
    """Makes a cache of ``shards`` shards that are whole. One of no frame goes, and those behind it move up."""
    tables, number = [SCHEMA.empty_table()], 0
    for shard in range(shards):
        own = pq.read_table(_rows_of(folder, shard))
        if len(own) and number < shard:
            with writing(folder):
                _rows_of(folder, shard).unlink()  # first: where this ends halfway, the shard is made again
                for kind in ("", ".boxes") if about.boxes else ("",):
                    os.replace(folder / f"{shard:06d}{kind}.npy", folder / f"{number:06d}{kind}.npy")
        column = pa.array([number] * len(own), pa.int32())
        tables.append(own.set_column(SCHEMA.get_field_index("shard"), SCHEMA.field("shard"), column))
        number += bool(len(own))
    _write_rows(folder / SEQUENCES, pa.concat_tables(tables).combine_chunks())
    content = {"format": FORMAT, "fingerprint": about.fingerprint, **asdict(about)}
    write_atomic(folder / ABOUT, (json.dumps(content, indent=1) + "\n").encode())
    for shard in range(shards):
        with writing(folder):
            _rows_of(folder, shard).unlink(missing_ok=True)


def _packed(boxes: FrameBoxes | None, frames: int, most: int) -> np.ndarray:
    """``T N`` of ``BOX``."""
    packed = np.zeros((frames, most), BOX)
    packed["cls"] = UNKNOWN
    if boxes is not None:
        packed["box"], packed["track"] = boxes.box[0].numpy(), boxes.track[0].numpy()
        packed["cls"] = boxes.cls[0].where(boxes.known[0][:, None], UNKNOWN).numpy()
    return packed


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


def span(frames: int, stride: int) -> int:
    """Frames of a sequence from the first of a window to its last, both counted."""
    return (frames - 1) * stride + 1


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
