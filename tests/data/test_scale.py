"""Indexes and caches of many clips: a table in groups says what it says in one, and only what is asked for is read."""

import hashlib
import json
import os
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drivesim import disk
from drivesim.data import groups, index, latent_writer, latents, loader, sources
from drivesim.data.index import BOXES, BOXES_SCHEMA, FILES, FILES_SCHEMA, Entry, Index, Rows, Writer
from drivesim.data.latent_windows import LatentData
from drivesim.data.latent_writer import LatentWriter
from drivesim.data.latents import About, LatentCache
from drivesim.data.loader import ClipData, Numbered
from drivesim.errors import Mistake
from drivesim.scene import Boxes

from .numbered import write

CLIPS = 300


def entry(n: int) -> Entry:
    labels = None if n % 5 == 0 else "made"
    return Entry(
        f"clip-{n}", f"{n // 9}/{n}.mp4", "clips" if n % 2 else "/far", n + 1, f"drive-{n // 9}", 40 + n, 64, 32, 0, 30,
        1, False, (40 + n) / 30, None if n % 3 else n % 2 == 0, None if n % 4 else n, None, labels, "s", "l",
        "val" if n // 9 % 7 == 0 else "train",
    )  # fmt: skip


def boxes(n: int) -> Boxes | None:
    """Of every fifth clip unknown, of the one before it none."""
    if n % 5 == 0:
        return None
    count = 0 if n % 5 == 4 else n % 13 + 1
    draw = np.random.default_rng(n)
    ignore = np.arange(count) % 4 == 3
    times = tuple(Fraction(k, 3) for k in range(count))
    return Boxes(times, np.arange(count) % 3, ("car",) * count, draw.random((count, 4)), draw.random(count), (), ignore)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of a few rows, of which few are kept."""
    monkeypatch.setattr(index, "GROUP", 16)
    monkeypatch.setattr(index, "BOX_GROUP", 32)
    monkeypatch.setattr(groups, "KEPT", 64)


@pytest.fixture
def folder(tmp_path: Path, small: None) -> Path:
    with Writer(tmp_path) as writer:
        for n in range(CLIPS):
            writer.add(entry(n), boxes(n))
    return tmp_path


def rooted(made: Entry, folder: Path) -> Entry:
    return replace(made, root=str(folder / made.root))


def same(one: Boxes | None, other: Boxes | None) -> bool:
    if one is None or other is None:
        return one is other
    arrays = (one.box, other.box), (one.track, other.track), (one.ignored, other.ignored)
    alike = all(np.array_equal(a, b) for a, b in arrays) and np.array_equal(one.visibility, other.visibility)
    return alike and (one.time, one.cls, one.words) == (other.time, other.cls, other.words)


def test_rows_are_those_that_were_written(folder: Path) -> None:
    opened, wanted = Index.open(folder), [rooted(entry(n), folder) for n in range(CLIPS)]
    assert pq.ParquetFile(folder / FILES).num_row_groups == 19
    assert len(opened.entries) == CLIPS and list(opened.entries) == wanted
    draw = np.random.default_rng(0)
    for n in draw.integers(0, CLIPS, 50).tolist():
        assert opened.entries[n] == wanted[n] and opened.entries[n - CLIPS] == wanted[n]
    for part in (slice(5, 40), slice(None, None, -7), slice(250, 999)):
        assert list(opened.entries[part]) == wanted[part]
    for name in ("train", "val"):
        assert list(opened.split(name)) == [each for each in wanted if each.split == name]
    assert opened.entries.column("frames").tolist() == [each.frames for each in wanted]
    assert list(opened.entries.where(np.array([7, 3, 290]))) == [wanted[7], wanted[3], wanted[290]]
    assert opened.entries.know("labels") and not opened.entries.know("caption")
    with pytest.raises(IndexError):
        opened.entries[CLIPS]


def test_digest_is_of_the_bytes_as_before(folder: Path) -> None:
    both = "".join(disk.sha256(folder / name) for name in (FILES, BOXES))
    assert Index.open(folder).digest == hashlib.sha256(both.encode()).hexdigest()


def interleaved(ids: list[str]) -> list[int]:
    """All first rows of the clips, then all second ones, and so on."""
    seen, rank = Counter[str](), list[int]()
    for clip_id in ids:
        rank.append(seen[clip_id])
        seen[clip_id] += 1
    return np.argsort(rank, kind="stable").tolist()


def rewritten(folder: Path, change: Callable[[pa.Table], pa.Table], size: int) -> None:
    pq.write_table(change(pq.read_table(folder / BOXES)), folder / BOXES, row_group_size=size)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table,
        lambda table: table.take(interleaved(table["clip_id"].to_pylist())),  # no clip in one piece
        lambda table: table.cast(pa.schema([f.with_nullable(True) for f in BOXES_SCHEMA])),
        lambda table: table.set_column(0, "clip_id", table["clip_id"].dictionary_encode()),
    ],
)
@pytest.mark.parametrize("size", [50, 100_000])
def test_boxes_of_a_clip_wherever_its_rows_lie(folder: Path, change, size: int) -> None:
    rewritten(folder, change, size)
    opened = Index.open(folder)
    for n in np.random.default_rng(0).permutation(CLIPS)[:100].tolist():
        assert same(opened.boxes(f"clip-{n}"), boxes(n)), n
    assert opened.boxes("of none") is None
    every = [made for n in range(CLIPS) if (made := boxes(n)) is not None]
    assert Index.open(folder).count_boxes()[0] == sum(map(len, every))


def test_tracks_are_counted_over_the_borders_of_groups(folder: Path) -> None:
    every = [made for n in range(CLIPS) if (made := boxes(n)) is not None]
    tracks = sum(len(set(made.track[~made.ignored].tolist())) for made in every)
    for size in (30, 100_000):
        rewritten(folder, lambda table: table, size)
        assert Index.open(folder).count_boxes() == (sum(map(len, every)), tracks)


def test_only_the_groups_that_are_asked_for_are_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, read = Index.open(folder), []
    real = groups.Groups._read

    def counted(self: groups.Groups, n: int, names: list[str]) -> pa.Table:
        read.append((Path(self.file).name, n, len(names)))
        return real(self, n, names)

    monkeypatch.setattr(groups.Groups, "_read", counted)
    opened.entries[100], opened.entries[111], opened.entries[17]
    assert read == [(FILES, 6, len(FILES_SCHEMA)), (FILES, 1, len(FILES_SCHEMA))]  # 100 and 111 lie in one
    read.clear()
    opened.boxes("clip-106")
    assert {name for name, _, _ in read} == {BOXES} and len(read) <= 2
    for n in range(CLIPS):
        opened.entries[n]
    assert sum(map(len, opened.entries._files._kept.values())) <= 64


def test_an_index_goes_to_another_process(folder: Path) -> None:
    opened = Index.open(folder)
    opened.boxes("clip-1")
    there = pickle.loads(pickle.dumps(opened))
    assert not {"_runs", "_labelled"} & there.__dict__.keys()  # they rest on hashes, which are another process's own
    assert same(there.boxes("clip-1"), boxes(1)) and list(there.entries) == list(opened.entries)


def test_columns_that_may_be_unknown_may_be_missing(folder: Path) -> None:
    table = pq.read_table(folder / FILES)
    pq.write_table(table.drop_columns(["caption", "cars"]), folder / FILES)
    assert [each.cars for each in Index.open(folder).entries] == [None] * CLIPS
    pq.write_table(table.drop_columns(["split"]), folder / FILES)
    with pytest.raises(Mistake, match="cannot be read"):
        Index.open(folder)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("path", "/etc/passwd", "names a clip outside of its folder: /etc/passwd"),
        ("path", "a/../../b.mp4", r"names a clip outside of its folder: a/\.\./\.\./b.mp4"),
        ("path", "..", "names a clip outside"),
        ("path", "a..b/..c/d...mp4", None),
        ("fps_num", 0, "has a clip of no rate or length: 30/270.mp4"),
        ("fps_den", -1, "has a clip of no rate or length: 30/270.mp4"),
        ("seconds", float("nan"), "has a clip of no rate or length: 30/270.mp4"),
        ("seconds", 1e9, "has a clip of no rate or length: 30/270.mp4"),
        ("schema_version", 2, "is not of schema version 1"),
    ],
)
def test_every_row_is_checked_at_the_door(folder: Path, name: str, value: object, says: str | None) -> None:
    table = pq.read_table(folder / FILES)
    field, values = table.schema.field(name), table[name].to_pylist()
    values[270] = value
    table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    pq.write_table(table, folder / FILES, row_group_size=16)
    if says is None:
        assert Index.open(folder).entries[270].path == value
        return
    with pytest.raises(Mistake, match=says):
        Index.open(folder)


def test_a_damaged_group_is_a_mistake_where_it_is_read(folder: Path) -> None:
    place = pq.ParquetFile(folder / FILES).metadata.row_group(9).column(FILES_SCHEMA.names.index("clip_id"))
    data = bytearray((folder / FILES).read_bytes())
    start = place.dictionary_page_offset or place.data_page_offset
    data[start : start + place.total_compressed_size] = b"\xff" * place.total_compressed_size
    (folder / FILES).write_bytes(data)
    opened = Index.open(folder)
    assert opened.entries[0].clip_id == "clip-0"
    with pytest.raises(Mistake, match="cannot be read") as told:
        opened.entries[9 * 16]
    assert told.value.where == f"{folder}/{FILES}"


def test_windows_are_numbered_clip_by_clip() -> None:
    counts = np.array([0, 3, 0, 1, 2, 0])
    numbered = Numbered(counts)
    listed = [(clip, n) for clip, count in enumerate(counts.tolist()) for n in range(count)]
    found = [numbered.find(number) for number in range(len(numbered))]
    assert [(int(numbered.clips[place]), n) for place, n in found] == listed and len(numbered) == 6
    for number in (-1, 6):
        with pytest.raises(IndexError):
            numbered.find(number)
    assert len(Numbered(np.zeros(3, np.int64))) == 0


def clips_of(tmp_path: Path, count: int) -> Path:
    """An index of files that hold nothing but their number."""
    rows = Rows()
    (tmp_path / "clips").mkdir()
    for n in range(count):
        content = str(n).encode()
        (tmp_path / "clips" / f"{n}.mp4").write_bytes(content)
        name = hashlib.sha256(content).hexdigest()
        rows.add(replace(entry(n), clip_id=name, path=f"{n}.mp4", root=str(tmp_path / "clips"), bytes=len(content)))
    (tmp_path / "index").mkdir()
    rows.write(tmp_path / "index", 0)
    return tmp_path / "index"


def test_of_very_many_files_some_are_looked_at_and_the_others_in_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "LOOKED_AT", 20)
    folder, looked_at = clips_of(tmp_path, 100), list[str]()
    real = Index.check
    monkeypatch.setattr(Index, "check", lambda self, entry: (looked_at.append(entry.path), real(self, entry)))
    monkeypatch.setattr(loader.video, "read", lambda file, **more: pytest.fail(f"{file} was not looked at"))
    settings = {"frames": 4, "fps": Fraction(10), "size": (32, 64), "batch": 1, "steps": 1, "keep": 0}
    given = ClipData(folder, **settings)
    assert len(looked_at) == 20 and {"0.mp4", "99.mp4"} <= set(looked_at)
    place = next(
        n for n in range(len(given.training())) if given.training().held[given._order.window(n)].entry.path == "50.mp4"
    )
    (tmp_path / "clips" / "50.mp4").unlink()
    given.quarantine = tmp_path / "quarantine.jsonl"
    monkeypatch.setattr(loader.video, "read", lambda file, frames, size, **more: _black(file, frames, size))
    clips = given.training()
    clips[place]
    assert [json.loads(line)["path"] for line in given.quarantine.read_text().splitlines()] == ["50.mp4"]
    for file in (tmp_path / "clips").iterdir():
        file.unlink()
    with pytest.raises(Mistake, match="is gone"):
        ClipData(folder, **settings)


def _black(file: Path, frames: int, size: tuple[int, int]):
    assert file.exists()
    from drivesim.scene import Clip

    return Clip(np.zeros((frames, *size, 3), np.uint8), Fraction(10), Fraction(0))


def test_no_shard_of_a_cache_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_writer, "SHARD_BYTES", 1)
    monkeypatch.setattr(latents, "LOOKED_AT", 3)
    about = About("index", "a" * 64, (16, 32), "15/8", 1, "32", (2, 2, 4))
    (tmp_path / "cache").mkdir()
    with LatentWriter(tmp_path / "cache", about) as writer:
        for n in range(60):
            writer.add(entry(n), np.full((5, *about.shape), n), Fraction(15, 8), Fraction(0))
    before = len(os.listdir("/proc/self/fd"))
    cache = LatentCache.open(tmp_path / "cache")
    assert len(cache._starts) == 3 and len(os.listdir("/proc/self/fd")) <= before + 1  # the table
    windows = LatentData(tmp_path / "cache", frames=2, batch=1, steps=1).training()
    marks = [int(windows[sample]["moments"][0, 0, 0, 0]) for sample in range(len(windows))]
    train = [n for n in range(60) if entry(n).split == "train"]
    assert sorted(marks) == sorted(2 * train) and len(os.listdir("/proc/self/fd")) <= before + 2
    shard = tmp_path / "cache" / "000050.npy"
    np.save(shard, np.zeros((5, 2, 4, 2), np.float16))  # of another shape and the same size: seen when it is read
    late = LatentCache.open(tmp_path / "cache")
    with pytest.raises(Mistake, match="missing or not whole"):
        late.read(late.sequences[50], 0, 2)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(Mistake, match="missing or not whole"):
        LatentCache.open(tmp_path / "cache")


@pytest.mark.slow  # processes start
def test_several_processes_make_the_index_that_one_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(12):
        write(tmp_path / "clips" / f"{n % 3}" / f"{n:02d}.mp4", 10 + n, Fraction(10), first=n)
    (tmp_path / "clips" / "0" / "text.mp4").write_text("not a video " * 9)
    (tmp_path / "clips" / "1" / "twin.mp4").write_bytes((tmp_path / "clips" / "1" / "01.mp4").read_bytes())
    sources.build(tmp_path / "clips", tmp_path / "one")
    monkeypatch.setattr(sources, "MANY", 4)
    sources.build(tmp_path / "clips", tmp_path / "several")
    for name in (FILES, BOXES, index.QUARANTINE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "several" / name).read_bytes()
    assert len((tmp_path / "one" / index.QUARANTINE).read_text().splitlines()) == 2
