"""Filling a latent cache: shards, a row for every sequence, and what it was made from at the end."""

import json
import os
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drivesim.data.index import GROUP, Entry
from drivesim.data.latents import ABOUT, BOX, FORMAT, SCHEMA, SEQUENCES, UNKNOWN, About, Sequence
from drivesim.disk import replacing, write_atomic, writing
from drivesim.errors import Mistake
from drivesim.scene import FrameBoxes

SHARD_BYTES = 256 << 20


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
