"""What ``tools/fuzz.py`` has found, each as small as it can be: mistakes now, defects then."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drivesim import config
from drivesim.data.annotations import Footage, Remarks
from drivesim.data.formats import csv
from drivesim.data.index import BOXES, FILES, Index
from drivesim.data.latent_writer import LatentWriter
from drivesim.data.latents import ABOUT, SEQUENCES, About, LatentCache
from drivesim.data.sources import Recipe, build
from drivesim.errors import Mistake

from .numbered import write

RATE = Fraction(10)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    write(tmp_path / "clips" / "a.mp4", 20, RATE)
    build(tmp_path / "clips", tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def cache(index: Path, tmp_path: Path) -> Path:
    (folder := tmp_path / "latents").mkdir()
    with LatentWriter(folder, About("0" * 64, "1" * 64, (64, 128), "10", 1, "32", (6, 8, 16))) as writer:
        writer.add(Index.open(index).entries[0], np.zeros((20, 6, 8, 16), np.float32), RATE, Fraction(0))
    return folder


def column(file: Path, name: str, values: pa.Array) -> None:
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, values), file)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / BOXES).write_bytes(b""),
        lambda folder: (folder / BOXES).write_bytes((folder / BOXES).read_bytes()[:-20] + b"\xff" * 20),
        lambda folder: (folder / BOXES).write_bytes((folder / BOXES).read_bytes().replace(b"track", b"tr\xffck")),
        lambda folder: column(folder / FILES, "path", pa.nulls(1)),
        lambda folder: column(folder / FILES, "fps_den", pa.array([0])),
        lambda folder: column(folder / FILES, "seconds", pa.array([float("nan")])),
        lambda folder: column(folder / FILES, "bytes", pa.array(["many"])),
        lambda folder: pq.write_table(pq.read_table(folder / FILES).drop_columns(["drive"]), folder / FILES),
    ],
)
def test_tables_of_an_index(index: Path, change: Callable[[Path], object]) -> None:
    change(index)
    with pytest.raises(Mistake) as caught:
        opened = Index.open(index)
        opened.boxes(opened.entries[0].clip_id)
    assert Path(str(caught.value.where)).parent == index and len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "000000.npy").write_bytes(b""),
        lambda folder: (folder / "000000.npy").write_bytes((folder / "000000.npy").read_bytes().replace(b"}", b"(", 1)),
        lambda folder: column(folder / SEQUENCES, "shard", pa.array(["a"])),
        lambda folder: column(folder / SEQUENCES, "offset", pa.nulls(1)),
        lambda folder: column(folder / SEQUENCES, "shard", pa.array([2_000_000_000])),
        lambda folder: column(folder / SEQUENCES, "split", pa.nulls(1)),
        lambda folder: (folder / ABOUT).write_text((folder / ABOUT).read_text().replace('"10"', "Infinity")),
    ],
)
def test_a_cache(cache: Path, change: Callable[[Path], object]) -> None:
    change(cache)
    with pytest.raises(Mistake):
        LatentCache.open(cache)


@pytest.mark.parametrize("content", [b"\x93NUMPY\x01\x00\x02\x00,\n", b"\x93NUMPY\x01\x00\x02\x00((", b"\x93NUMPY"])
def test_a_shard_whose_header_is_no_python(cache: Path, content: bytes) -> None:
    (cache / "000000.npy").write_bytes(content)
    with pytest.raises(Mistake, match="shards are missing or not whole"):
        LatentCache.open(cache)


def test_shards_of_another_shape(cache: Path) -> None:
    np.save(cache / "000000.npy", np.zeros((20, 6, 8, 8), np.float16))
    with pytest.raises(Mistake, match="shards are missing or not whole"):
        LatentCache.open(cache)


def test_a_name_that_no_file_can_have(index: Path) -> None:
    column(index / FILES, "path", pa.array(["a" * 5000]))
    opened = Index.open(index)
    with pytest.raises(Mistake, match="is gone since it was indexed"):
        opened.check(opened.entries[0])


def test_a_header_of_millions_of_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("frame,track,class,x0,y0,x1,y1" + ",a" * 1_000_000)
    with pytest.raises(Mistake, match="which is no header"):
        csv.read(tmp_path / "a.csv", lambda _: Footage(), Remarks())


def test_half_a_character_on_the_command_line() -> None:
    with pytest.raises(Mistake, match="holds what is no value"):
        config.load(Recipe, None, ["\udce9name=a"])
