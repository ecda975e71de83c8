"""The index of a data set: what clips there are and what is known of them, as two Parquet files of fixed schema.

A folder holds ``files.parquet`` (a row a clip), ``boxes.parquet`` (a row a box) and ``quarantine.jsonl`` (a line a file
that was left out, with the reason). It is written whole: first into a folder beside it, which then takes its name.
Both tables are written and read by groups of rows, so that an index of a million clips is opened, sampled and asked for
boxes without being held in memory.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from drivesim import disk
from drivesim.data import store
from drivesim.data.frames import image_folder, refuse_outside
from drivesim.data.groups import Groups
from drivesim.data.probing import SYNTHETIC
from drivesim.errors import Mistake
from drivesim.scene import Boxes, joined

SCHEMA_VERSION = 1
FILES, BOXES, QUARANTINE = "files.parquet", "boxes.parquet", "quarantine.jsonl"
CHANGED = "has changed since it was indexed"
AGAIN = "index the folder again"
LONGEST = 1e9  # seconds
GROUP, BOX_GROUP = 1 << 10, 1 << 12  # rows: decoding a group takes half a millisecond, and one is decoded for a sample
OUTSIDE = r"^/|(^|/)\.\.(/|$)"  # paths that are absolute or lead upwards
FILES_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("root", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("drive", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("rotation", pa.int32(), nullable=False),
        pa.field("fps_num", pa.int64(), nullable=False),
        pa.field("fps_den", pa.int64(), nullable=False),
        pa.field("fps_stated", pa.bool_(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("night", pa.bool_()),
        pa.field("cars", pa.int32()),
        pa.field("caption", pa.string()),
        pa.field("labels", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("schema_version", pa.int32(), nullable=False),
    ]
)
BOXES_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("time_num", pa.int64(), nullable=False),
        pa.field("time_den", pa.int64(), nullable=False),
        pa.field("track", pa.int64(), nullable=False),
        pa.field("class", pa.string(), nullable=False),
        pa.field("class_source", pa.string(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in ("x0", "y0", "x1", "y1")),
        pa.field("visibility", pa.float64()),
        pa.field("ignore", pa.bool_(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)


NONE = Boxes((), np.empty(0, np.int64), (), np.empty((0, 4)), np.empty(0))


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of ``files.parquet``: one clip.

    Args:
        clip_id: SHA-256 of the file's bytes.
        path: below ``root``; a root in the file that is relative is so to the index's folder (opened: absolute).
        drive: clips of one drive are never on both sides of the split.
        rotation: degrees counter-clockwise that the reader turns the stored picture by; ``width``, ``height`` are as
            shown.
        fps_stated: the rate is a recipe's, not the file's own.
        night, cars, caption: None = unknown.
        labels: where the boxes are from, None = boxes are unknown.
    """

    clip_id: str
    path: str
    root: str
    bytes: int
    drive: str
    frames: int
    width: int
    height: int
    rotation: int
    fps_num: int
    fps_den: int
    fps_stated: bool
    seconds: float
    night: bool | None = None
    cars: int | None = None
    caption: str | None = None
    labels: str | None = None
    source: str = ""
    licence: str = ""
    split: str = "train"
    schema_version: int = SCHEMA_VERSION

    @property
    def fps(self) -> Fraction:
        return Fraction(self.fps_num, self.fps_den)

    @property
    def rate(self) -> Fraction | None:
        """The rate that ``video.read`` must be told, None where the file's own is true."""
        return self.fps if self.fps_stated else None

    @property
    def synthetic(self) -> bool:
        """Whether the file says that it was generated, not filmed: its source is then what made it."""
        return self.source.startswith(SYNTHETIC)

    @property
    def file(self) -> Path:
        return Path(self.root) / self.path

    def check(self) -> None:
        """Raises:
        Mistake: the file is gone, of another length than when it was indexed, or now a link that leads elsewhere.
        """
        try:
            there = self.file.exists()
        except OSError:  # a name that no file can have
            there = False
        if not there:
            raise Mistake("is gone since it was indexed", where=self.file, mend=AGAIN)
        refuse_outside(self.file, Path(self.root))
        if size_of(self.file) != self.bytes:
            raise Mistake(CHANGED, where=self.file, mend=AGAIN)

    def verify(self) -> None:
        """``check``, and reads every byte: of bit rot, a decoder shows wrong pictures and may say nothing.

        Raises:
            Mistake: the file is gone, or not what it was when it was indexed.
        """
        self.check()
        if identity(self.file) != self.clip_id:
            raise Mistake(CHANGED, where=self.file, mend="restore it, or index the folder again")


def identity(file: Path) -> str:
    """SHA-256 of the bytes; of a folder of images, of its images' hashes in order."""
    if file.is_dir():
        return hashlib.sha256("".join(map(disk.sha256, image_folder(file))).encode()).hexdigest()
    return disk.sha256(file)


def size_of(file: Path) -> int:
    """Bytes of a file, or of the files of a folder of images."""
    return sum(f.stat().st_size for f in file.iterdir() if f.is_file()) if file.is_dir() else file.stat().st_size


@dataclass
class Rows:
    """An index in the making: entries, boxes by clip, and what was left out."""

    entries: list[Entry] = field(default_factory=list)
    boxes: dict[str, Boxes] = field(default_factory=dict)
    quarantined: list[dict[str, str]] = field(default_factory=list)

    def add(self, entry: Entry, boxes: Boxes | None = None) -> None:
        self.entries.append(entry)
        if boxes is not None:
            self.boxes[entry.clip_id] = boxes

    def quarantine(self, path: str, reason: str) -> None:
        self.quarantined.append({"path": path.encode(errors="replace").decode(), "reason": reason})

    def write(self, folder: Path, val: float) -> None:
        """The three files into ``folder``, clips split by drive: about ``val`` of the drives become ``val``."""
        held_back = val_drives({entry.drive for entry in self.entries}, val)
        with Writer(folder) as writer:
            for entry in self.entries:
                split = "val" if entry.drive in held_back else "train"
                writer.add(replace(entry, split=split), self.boxes.get(entry.clip_id))
        lines = "".join(json.dumps(line) + "\n" for line in self.quarantined)
        disk.write_atomic(folder / QUARANTINE, lines.encode())


class Writer:
    """Writes the two tables into ``folder`` a group of rows at a time, as clips are added.

    Raises:
        Mistake: they cannot be written.
    """

    def __init__(self, folder: Path):
        self._files, self._boxes = _Table(folder / FILES, FILES_SCHEMA), _Table(folder / BOXES, BOXES_SCHEMA)
        self._entries: list[Entry] = []
        self._boxed: list[tuple[str, Boxes, str]] = []
        self._count = 0  # of boxes

    def add(self, entry: Entry, boxes: Boxes | None = None) -> None:
        """Appends a clip and its boxes; None: they are unknown, or there are none (``Entry.labels`` tells which)."""
        self._entries.append(entry)
        if boxes is not None and len(boxes):
            self._boxed.append((entry.clip_id, boxes, entry.labels or ""))
            self._count += len(boxes)
        if len(self._entries) >= GROUP:
            self._flush_files()
        if self._count >= BOX_GROUP:
            self._flush_boxes()

    def _flush_files(self) -> None:
        columns = [[getattr(entry, name) for entry in self._entries] for name in FILES_SCHEMA.names]
        self._files.write(pa.table(columns, FILES_SCHEMA), GROUP)
        self._entries = []

    def _flush_boxes(self) -> None:
        self._boxes.write(box_table(*self._boxed), 2 * BOX_GROUP)  # one group, where the last clip is not huge
        self._boxed, self._count = [], 0

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._entries:
            self._flush_files()
        if kind is None and self._boxed:
            self._flush_boxes()
        self._files.close()
        self._boxes.close()


class _Table:
    """A Parquet file in the making."""

    def __init__(self, file: Path, schema: pa.Schema):
        self.file = file
        with disk.writing(file):
            self._writer = pq.ParquetWriter(file, schema)

    def write(self, rows: pa.Table, group: int) -> None:
        with disk.writing(self.file):
            self._writer.write_table(rows, row_group_size=group)

    def close(self) -> None:
        with disk.writing(self.file):
            self._writer.close()


def box_table(*clips: tuple[str, Boxes, str]) -> pa.Table:
    """The rows of ``boxes.parquet`` for clips, each its id, its boxes, and where these are from."""
    boxes = joined(*(own for _, own, _ in clips))
    ids, sources = ([clip[n] for clip in clips for _ in clip[1].time] for n in (0, 2))
    columns = [
        ids, [time.numerator for time in boxes.time], [time.denominator for time in boxes.time], boxes.track,
        boxes.cls, boxes.words, *np.ascontiguousarray(boxes.box.T),
        pa.array(boxes.visibility, pa.float64(), mask=np.isnan(boxes.visibility)), boxes.ignored, sources,
    ]  # fmt: skip
    return pa.table(columns, BOXES_SCHEMA)


def val_drives(drives: set[str], share: float) -> set[str]:
    """The drives that are held back: those whose hash falls below ``share``, so that a drive stays where it is when
    others join. Where that leaves a side empty and there are two drives or more, one drive moves over."""
    place = {d: int.from_bytes(hashlib.sha256(d.encode()).digest()[:8], "big") / 2**64 for d in drives}
    held_back = {d for d in drives if place[d] < share}
    if share > 0 and len(drives) > 1:
        if not held_back:
            return {min(drives, key=place.__getitem__)}
        if held_back == drives:
            return held_back - {max(drives, key=place.__getitem__)}
    return held_back


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``out`` when the context ends without an error and vanishes otherwise.

    Raises:
        Mistake: ``out`` already holds something, or cannot be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Mistake("exists already and is not empty", where=out, mend="remove it, or choose another --out")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    anew = [parent for parent in part.parents if not parent.exists()]
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        disk.sweep(part.parent, of=out.name)
        part.mkdir()
    except OSError as problem:
        raise Mistake(f"cannot be made: {problem.strerror}", where=out) from None
    try:
        yield part
        with disk.writing(out):
            if out.is_dir():
                out.rmdir()
            os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for parent in anew:
            if not any(parent.iterdir()):
                parent.rmdir()


class Entries(Sequence[Entry]):
    """Clips of an index, each made when it is asked for.

    Args:
        rows: their rows in ``files.parquet``; None: all.
    """

    def __init__(self, files: Groups, folder: Path, rows: Sequence[int] | np.ndarray | None = None):
        self._files, self._folder = files, folder
        self._rows: Any = range(len(files)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, which: int) -> Entry: ...
    @overload
    def __getitem__(self, which: slice) -> "Entries": ...
    def __getitem__(self, which: int | slice) -> "Entry | Entries":
        if isinstance(which, slice):
            return Entries(self._files, self._folder, self._rows[which])
        (row,) = self._files.rows(int(self._rows[which]))
        return self._made(row)

    def __iter__(self) -> Iterator[Entry]:
        for begin in range(0, len(self), GROUP):
            wanted = np.asarray(self._rows[begin : begin + GROUP], np.int64)
            first, last = int(wanted.min()), int(wanted.max())
            if last - first < 16 * len(wanted):  # near each other: many at a time
                rows = self._files.rows(first, last - first + 1)
                yield from (self._made(rows[row - first]) for row in wanted.tolist())
            else:
                yield from (self._made(self._files.rows(row)[0]) for row in wanted.tolist())

    def _made(self, row: dict[str, Any]) -> Entry:
        return Entry(**row | {"root": str((self._folder / row["root"]).absolute())})

    def where(self, which: np.ndarray) -> "Entries":
        """Those that the mask or the places ``which`` name."""
        return Entries(self._files, self._folder, np.asarray(self._rows, np.int64)[which])

    def column(self, name: str) -> np.ndarray:
        """What all of them have for ``name``, without making them; not of columns that may be unknown."""
        parts = [part.column(name).to_numpy() for part in self._files.scan(name)]
        return np.concatenate(parts)[np.asarray(self._rows, np.int64)] if parts else np.empty(0)

    def know(self, name: str) -> bool:
        """Whether any clip of the index, not only of these, has a text for ``name``."""
        return any(pc.any(pc.not_equal(part.column(name), "")).as_py() for part in self._files.scan(name))


class Index:
    """A finished index. ``entries`` are sorted as written. The tables must not change while it is open."""

    def __init__(self, folder: Path, files: Groups):
        self.folder, self._files, self.entries = folder, files, Entries(files, folder)

    @classmethod
    def open(cls, folder: str | Path) -> "Index":
        """Raises:
        Mistake: no index there, of another schema, or not whole. What of it is not read now may fail later likewise.
        """
        folder = Path(folder)
        if not (folder / FILES).is_file() or not (folder / BOXES).is_file():
            raise Mistake("is not an index", where=folder, mend="'drivesim index FOLDER --out INDEX' makes one")
        files = Groups(store.of(folder), FILES, FILES_SCHEMA, folder, AGAIN)
        for part in files.scan("schema_version", "path", "fps_num", "fps_den", "seconds"):
            _check(part, folder / FILES)
        return cls(folder, files)

    @cached_property
    def digest(self) -> str:
        """Changes when anything in the index does; taken when it is first asked for, as every byte is read."""
        whole = "".join(disk.sha256(self.folder / name) for name in (FILES, BOXES))
        return hashlib.sha256(whole.encode()).hexdigest()

    def check(self, entry: Entry) -> None:
        """Reads every byte of a file that was written to after the index was; of others, the length tells enough.

        Raises:
            Mistake: the file is gone, or not what it was when it was indexed.
        """
        entry.check()
        parts = image_folder(entry.file) if entry.file.is_dir() else [entry.file]
        if max(part.stat().st_ctime_ns for part in parts) >= (self.folder / FILES).stat().st_ctime_ns:
            entry.verify()

    def split(self, name: str) -> Entries:
        """The clips of ``train`` or ``val``."""
        return self.entries.where(self.entries.column("split") == name)

    def boxes(self, clip_id: str) -> Boxes | None:
        """The boxes of a clip; None = unknown, which differs from a clip with none in it."""
        key, (keys, firsts, counts) = hash(clip_id), self._runs
        begin, end = np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")
        runs = sorted(zip(firsts[begin:end].tolist(), counts[begin:end].tolist(), strict=True))
        rows = [row for run in runs for row in self._boxes.rows(*run) if row["clip_id"] == clip_id]
        if not rows:
            place = np.searchsorted(self._labelled, key)
            return NONE if place < len(self._labelled) and self._labelled[place] == key else None
        try:
            return as_boxes(rows)
        except (ValueError, ZeroDivisionError) as problem:
            raise Mistake(f"holds what is no box ({problem})", where=self._boxes.file, mend=AGAIN) from None

    def count_boxes(self) -> tuple[int, int]:
        """All boxes, and their tracks without ignored regions, counted a group at a time."""
        boxes, tracks, last = 0, 0, set[tuple[str, int]]()
        for part in self._boxes.scan("clip_id", "track", "ignore"):
            boxes += len(part)
            seen = part.filter(pc.invert(part.column("ignore"))).select(["clip_id", "track"])
            found = seen.group_by(["clip_id", "track"]).aggregate([])
            pairs = set(zip(*(found.column(name).to_pylist() for name in ("clip_id", "track")), strict=True))
            tracks += len(pairs - last)
            end = part.column("clip_id")[-1].as_py()
            last = {pair for pair in pairs | last if pair[0] == end}  # a clip may go on in the next group
        return boxes, tracks

    @cached_property
    def _boxes(self) -> Groups:
        return Groups(store.of(self.folder), BOXES, BOXES_SCHEMA, self.folder, AGAIN)

    @cached_property
    def _runs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the boxes of the clips lie, by Python's hash of their ids: hash, first row, how many.

        The rows of a clip usually follow each other, in no order of the clips: one column is read once, and no order
        or statistics are asked of who wrote the table.
        """
        runs = self._boxes.runs("clip_id")
        numbers = (number for word, first, count in runs for number in (hash(word), first, count))
        found = np.fromiter(numbers, np.int64).reshape(-1, 3)
        keys, firsts, counts = found[np.argsort(found[:, 0], kind="stable")].T.copy()
        return keys, firsts, counts

    @cached_property
    def _labelled(self) -> np.ndarray:
        """Hashes of the clips whose boxes are known, also of those that have none, ascending."""
        parts = self._files.scan("clip_id", "labels")
        names = (part.filter(pc.is_valid(part.column("labels"))).column("clip_id").to_pylist() for part in parts)
        return np.sort(np.fromiter((hash(name) for part in names for name in part), np.int64))

    def __getstate__(self) -> dict[str, Any]:
        """Without what rests on hashes: another process may have others."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_runs", "_labelled")}


def _check(rows: pa.Table, file: Path) -> None:
    """Raises:
    Mistake: one of ``rows`` is of another schema, leads outside or has no rate or length.
    """
    if pc.any(pc.not_equal(rows.column("schema_version"), SCHEMA_VERSION)).as_py():
        raise Mistake(f"is not of schema version {SCHEMA_VERSION}", where=file, mend="index again")
    num, den, seconds = (rows.column(name).to_numpy() for name in ("fps_num", "fps_den", "seconds"))
    outside = pc.match_substring_regex(rows.column("path"), OUTSIDE).to_numpy()
    endless = ~((num >= 1) & (den >= 1) & (seconds > 0) & (seconds < LONGEST))
    wrong = np.flatnonzero(outside | endless)
    if len(wrong):
        row = int(wrong[0])
        what = "names a clip outside of its folder" if outside[row] else "has a clip of no rate or length"
        raise Mistake(f"{what}: {rows.column('path')[row].as_py()}", where=file, mend=AGAIN)


def as_boxes(rows: list[dict]) -> Boxes:
    """What ``box_rows`` made into rows.

    Raises:
        ValueError, ZeroDivisionError: they are others.
    """
    return Boxes(
        time=tuple(Fraction(row["time_num"], row["time_den"]) for row in rows),
        track=np.array([row["track"] for row in rows], np.int64),
        cls=tuple(row["class"] for row in rows),
        box=np.array([[row[name] for name in ("x0", "y0", "x1", "y1")] for row in rows], np.float64).reshape(-1, 4),
        visibility=np.array([np.nan if (v := row["visibility"]) is None else v for row in rows], np.float64),
        word=tuple(row["class_source"] for row in rows),
        ignore=np.array([row["ignore"] for row in rows], bool),
    )
