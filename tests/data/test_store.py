"""A latent cache behind a URL gives what the same cache gives in a folder: in any order, by any process, in part."""

import importlib.util
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from drivesim.data import latent_writer, store
from drivesim.data.index import Entry
from drivesim.data.latent_windows import LatentData
from drivesim.data.latent_writer import LatentWriter
from drivesim.data.latents import About, LatentCache
from drivesim.errors import Mistake
from drivesim.jobs.builders.common import cached
from drivesim.scene import Boxes, frame_boxes
from drivesim.training.loop import LoopConfig
from drivesim.weights import Header, save

KINDS = ("file://", "memory://", "filecache::memory://", "simplecache::file://")
RATE = Fraction(15, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of several shards with boxes and captions; its autoencoder lies beside it."""
    place = tmp_path_factory.mktemp("store")
    sha = save(place / "autoencoder.safetensors", {}, Header("autoencoder", {}))
    about = About("index", sha, (16, 32), str(RATE), 1, "32", (4, 2, 4), boxes=2)
    (place / "cache").mkdir()
    draw = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch, LatentWriter(place / "cache", about) as writer:
        patch.setattr(latent_writer, "SHARD_BYTES", 1000)
        for n, frames in enumerate((20, 33, 7, 50)):
            entry = Entry(
                f"{n}", "p", "/", 1, f"{n}", 2, 4, 4, 0, 30, 1, False, 9.0, n % 2 == 0, n, f"clip {n}", "made"
            )
            times = [k / RATE for k in range(frames)]
            car = Boxes(tuple(times), np.arange(frames), ("car",) * frames, draw.random((frames, 4)), np.ones(frames))
            boxes = frame_boxes(car, times, 2)
            writer.add(entry, draw.normal(size=(frames, *about.shape)), RATE, Fraction(0), boxes)
    return place / "cache"


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of copies that a store keeps
    if request.param.endswith("file://"):
        return f"{request.param}{folder}"
    memory = fsspec.filesystem("memory")
    for file in folder.iterdir():
        memory.pipe(f"/caches/one/{file.name}", file.read_bytes())
    return f"{request.param}caches/one"


def test_every_range_is_the_folders(folder: Path, url: str) -> None:
    here, there = LatentCache.open(folder), LatentCache.open(url)
    assert asdict(here.about) == asdict(there.about) and list(here.sequences) == list(there.sequences)
    assert len({sequence.shard for sequence in here.sequences}) > 2
    draw = np.random.default_rng(1)
    for n in draw.integers(0, 4, 40).tolist():
        sequence = here.sequences[n]
        assert there.sequences[n] == sequence
        stride = int(draw.integers(1, 3))
        first = int(draw.integers(0, sequence.frames - 2 * stride))
        np.testing.assert_array_equal(there.read(sequence, first, 3, stride), here.read(sequence, first, 3, stride))
        for name, value in there.boxes(sequence, first, 3, stride).items():
            assert torch.equal(value, here.boxes(sequence, first, 3, stride)[name])


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_the_folders(folder: Path, url: str, workers: int) -> None:
    """Also in a process that was forked, which asks for a connection of its own."""
    given = [
        list(LatentData(place, frames=4, batch=3, steps=4, seed=2, workers=n).train_dataloader())
        for place, n in ((folder, 0), (url, workers))
    ]
    for one, other in zip(*given, strict=True):
        assert one.keys() == other.keys() and one.pop("caption") == other.pop("caption")
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_takes_a_url(folder: Path) -> None:
    autoencoder = folder.parent / "autoencoder.safetensors"
    cache, data = cached(f"file://{folder}", autoencoder, 4, LoopConfig(steps=2, batch=2), 0)
    assert cache.fingerprint == data.digest == LatentCache.open(folder).fingerprint
    assert len(list(data.train_dataloader())) == 2


def test_what_is_damaged_behind_a_url_is_a_mistake() -> None:
    memory = fsspec.filesystem("memory")
    with pytest.raises(Mistake, match="is not a latent cache"):
        LatentCache.open("memory://caches/nothing")
    memory.pipe("/caches/broken/cache.json", b"{")
    with pytest.raises(Mistake, match="cannot be read"):
        LatentCache.open("memory://caches/broken")


def test_a_shard_that_is_cut_off_later_is_a_mistake_where_it_is_read(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    for file in folder.iterdir():
        memory.pipe(f"/caches/cut/{file.name}", file.read_bytes())
    cache = LatentCache.open("memory://caches/cut")
    memory.pipe("/caches/cut/000000.npy", memory.cat("/caches/cut/000000.npy")[:-10])
    last = [sequence for sequence in cache.sequences if sequence.shard == 0][-1]
    cache.read(last, 0, 3)
    with pytest.raises(Mistake, match="missing or not whole"):
        cache.read(last, last.frames - 3, 3)
    with pytest.raises(Mistake, match="missing or not whole"):
        LatentCache.open("memory://caches/cut")


@pytest.mark.parametrize("url", ["s3://bucket/cache", "gs://bucket/cache", "nowhere://bucket/cache"])
def test_a_store_that_cannot_be_spoken_to_is_one_line(url: str) -> None:
    library = {"s3": "s3fs", "gs": "gcsfs"}.get(url.partition(":")[0])
    if library and importlib.util.find_spec(library):
        pytest.skip(f"{library} is here")
    with pytest.raises(Mistake, match="is a store that cannot be spoken to here") as told:
        store.of(url)
    assert str(told.value).startswith(url) and len(str(told.value).splitlines()) == 1
    assert library is None or library in str(told.value)
