"""The index of a data set: what clips there are and what is known of them, as two Parquet files of fixed schema.

A folder holds ``files.parquet`` (a row a clip), ``boxes.parquet`` (a row a box) and ``quarantine.jsonl`` (a line a file
that was left out, with the reason). It is written whole: first into a folder beside it, which then takes its name.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drivesim import weights
from drivesim.data.frames import image_folder, refuse_outside
from drivesim.data.probing import SYNTHETIC
from drivesim.errors import Mistake
from drivesim.scene import Boxes

SCHEMA_VERSION = 1
FILES, BOXES, QUARANTINE = "files.parquet", "boxes.parquet", "quarantine.jsonl"
CHANGED = "has changed since it was indexed"
AGAIN = "index the folder again"
LONGEST = 1e9  # seconds
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


@dataclass(frozen=True)
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
        return hashlib.sha256("".join(map(weights.sha256, image_folder(file))).encode()).hexdigest()
    return weights.sha256(file)


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
        entries = [replace(e, split="val" if e.drive in held_back else "train") for e in self.entries]
        with weights.writing(folder / FILES):
            pq.write_table(pa.Table.from_pylist([asdict(e) for e in entries], FILES_SCHEMA), folder / FILES)
        sources = {entry.clip_id: entry.labels or "" for entry in self.entries}
        boxes = [row for clip_id, found in self.boxes.items() for row in box_rows(clip_id, found, sources[clip_id])]
        with weights.writing(folder / BOXES):
            pq.write_table(pa.Table.from_pylist(boxes, BOXES_SCHEMA), folder / BOXES)
        lines = "".join(json.dumps(line) + "\n" for line in self.quarantined)
        weights.write_atomic(folder / QUARANTINE, lines.encode())


def box_rows(clip_id: str, boxes: Boxes, source: str) -> Iterator[dict[str, object]]:
    """The rows of ``boxes.parquet`` for one clip."""
    for time, track, cls, box, seen, word, ignore in zip(
        boxes.time, boxes.track, boxes.cls, boxes.box.tolist(), boxes.visibility, boxes.words, boxes.ignored,
        strict=True,
    ):  # fmt: skip
        yield {
            "clip_id": clip_id, "time_num": time.numerator, "time_den": time.denominator, "track": int(track),
            "class": cls, "class_source": word, "x0": box[0], "y0": box[1], "x1": box[2], "y1": box[3],
            "visibility": None if np.isnan(seen) else float(seen), "ignore": bool(ignore), "source": source,
        }  # fmt: skip


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
        weights.sweep(part.parent, of=out.name)
        part.mkdir()
    except OSError as problem:
        raise Mistake(f"cannot be made: {problem.strerror}", where=out) from None
    try:
        yield part
        with weights.writing(out):
            if out.is_dir():
                out.rmdir()
            os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for parent in anew:
            if not any(parent.iterdir()):
                parent.rmdir()


class Index:
    """A finished index. ``entries`` are sorted as written; ``digest`` changes when anything in it does."""

    def __init__(self, folder: Path, entries: list[Entry]):
        self.folder, self.entries = folder, entries
        self.digest = hashlib.sha256(
            "".join(weights.sha256(folder / name) for name in (FILES, BOXES)).encode()
        ).hexdigest()
        self._boxes: dict[str, Boxes] | None = None

    @classmethod
    def open(cls, folder: str | Path) -> "Index":
        """Raises:
        Mistake: no index there, of another schema, or not whole.
        """
        folder = Path(folder)
        if not (folder / FILES).is_file() or not (folder / BOXES).is_file():
            raise Mistake("is not an index", where=folder, mend="'drivesim index FOLDER --out INDEX' makes one")
        rows = _rows(folder / FILES, FILES_SCHEMA)
        if any(row["schema_version"] != SCHEMA_VERSION for row in rows):
            raise Mistake(f"is not of schema version {SCHEMA_VERSION}", where=folder / FILES, mend="index again")
        entries = [Entry(**row) for row in rows]
        for entry in entries:
            if Path(entry.path).is_absolute() or ".." in Path(entry.path).parts:
                raise Mistake(f"names a clip outside of its folder: {entry.path}", where=folder / FILES, mend=AGAIN)
            if entry.fps_num < 1 or entry.fps_den < 1 or not 0 < entry.seconds < LONGEST:
                raise Mistake(f"has a clip of no rate or length: {entry.path}", where=folder / FILES, mend=AGAIN)
        return cls(folder, [replace(e, root=str((folder / e.root).absolute())) for e in entries])

    def check(self, entry: Entry) -> None:
        """Reads every byte of a file that was written to after the index was; of others, the length tells enough.

        Raises:
            Mistake: the file is gone, or not what it was when it was indexed.
        """
        entry.check()
        parts = image_folder(entry.file) if entry.file.is_dir() else [entry.file]
        if max(part.stat().st_ctime_ns for part in parts) >= (self.folder / FILES).stat().st_ctime_ns:
            entry.verify()

    def split(self, name: str) -> list[Entry]:
        """The clips of ``train`` or ``val``."""
        return [entry for entry in self.entries if entry.split == name]

    def boxes(self, clip_id: str) -> Boxes | None:
        """The boxes of a clip; None = unknown, which differs from a clip with none in it."""
        if self._boxes is None:
            self._boxes = self._read_boxes()
        return self._boxes.get(clip_id)

    def _read_boxes(self) -> dict[str, Boxes]:
        rows: dict[str, list[dict[str, object]]] = {e.clip_id: [] for e in self.entries if e.labels is not None}
        for row in _rows(self.folder / BOXES, BOXES_SCHEMA):
            rows.setdefault(row["clip_id"], []).append(row)
        try:
            return {clip_id: as_boxes(of_clip) for clip_id, of_clip in rows.items()}
        except (ValueError, ZeroDivisionError) as problem:
            raise Mistake(f"holds what is no box ({problem})", where=self.folder / BOXES, mend=AGAIN) from None


def _rows(file: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """The rows of a table whose columns are those of ``schema``, nothing missing where nothing may be.

    Raises:
        Mistake: not whole, or another table.
    """
    try:
        table = pq.read_table(file).select(schema.names).cast(schema)
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError, KeyError) as problem:
        what = " ".join(str(problem).split())[:120]
        raise Mistake(f"cannot be read ({what})", where=file, mend=AGAIN) from None
    needed = [field.name for field in schema if not field.nullable]
    if gone := next((name for name in needed if table.column(name).null_count), None):
        raise Mistake(f"has no '{gone}' in some of its rows", where=file, mend=AGAIN)
    return rows


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
