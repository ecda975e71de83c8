"""Which frames of which clip a sample is, as it was first written down: a training that goes on must meet the same."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from drivesim.data import latent_writer, loader
from drivesim.data.index import Entry, Rows
from drivesim.data.latent_windows import LatentData
from drivesim.data.latent_writer import LatentWriter
from drivesim.data.latents import About
from drivesim.data.loader import ClipData
from drivesim.scene import Clip

SIZE = (32, 64)
RATES = [(30, 1), (30000, 1001), (25, 1), (10, 1), (2, 1)]


def entries(root: Path) -> list[Entry]:
    """Forty clips of several lengths, sizes and rates, whose files hold nothing but their name."""
    made = []
    for n in range(40):
        path, (num, den) = f"{n:02d}.mp4", RATES[n % len(RATES)]
        content = path.encode()
        root.mkdir(exist_ok=True)
        (root / path).write_bytes(content)
        frames = 3 + 37 * n % 211
        made.append(
            Entry(
                hashlib.sha256(content).hexdigest(), path, str(root), len(content), f"drive-{n // 3}", frames,
                (64, 96)[n % 7 == 0], (32, 24)[n % 11 == 0], 0, num, den, n % 2 == 0, frames * den / num + n % 3 / 7,
                None if n % 4 == 0 else n % 4 == 1, None if n % 5 == 0 else n,
            )
        )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("orders")
    rows = Rows()
    for entry in entries(folder / "clips"):
        rows.add(entry)
    (folder / "index").mkdir()
    rows.write(folder / "index", 0.2)
    return folder / "index"


@pytest.fixture(scope="module")
def cache(index: Path) -> Path:
    """A cache with small shards, the clips at 30 fps: an element of a frame is (clip * 300 + frame) / 8."""
    about = About("index", "a" * 64, (16, 32), "30", 1, "32", (2, 2, 4))
    (folder := index.parent / "cache").mkdir()
    with pytest.MonkeyPatch.context() as patch, LatentWriter(folder, about) as writer:
        patch.setattr(latent_writer, "SHARD_BYTES", 4000)
        for n, entry in enumerate(entries(index.parent / "clips")):
            marks = (300 * n + np.arange(entry.frames, dtype=np.float32)) / 8
            row = replace(entry, split="val" if n % 6 == 5 else "train")
            writer.add(row, np.tile(marks[:, None, None, None], (1, *about.shape)), Fraction(30), Fraction(n, 30))
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str | None]]:
    """What is asked of the reader of video: file, start, rate."""
    found: list[tuple[str, str, str | None]] = []

    def read(file, *, fps, start, frames, size, rate=None):
        found.append((file.name, str(start), rate and str(rate)))
        return Clip(np.zeros((frames, *size, 3), np.uint8), fps, start)

    monkeypatch.setattr(loader.video, "read", read)
    return found


def named(found: object) -> str:
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("more", "count", "first", "name", "kept"),
    [
        (
            dict(frames=4, fps=Fraction(15, 2), seed=5),
            234,
            [("28.mp4", "1478569/163840", "10"), ("33.mp4", "13086961/983040", None)],
            "d441f70c5df43657",
            (8, 2433024),
        ),
        (
            dict(frames=1, fps=Fraction(1), seed=0),
            506,
            [("39.mp4", "63646079/1048576", None), ("13.mp4", "22295008101/3670016000", None)],
            "ca1941a0e7897452",
            (6, 2426880),
        ),
        (
            dict(frames=16, fps=Fraction(25), seed=1),
            78,
            [("02.mp4", "2848697/1638400", "25"), ("21.mp4", "145823/204800", None)],
            "4fe218afdddfcf09",
            (5, 2383872),
        ),
        (
            dict(frames=5, fps=Fraction(30), seed=2, enlarge=False),
            153,
            [("36.mp4", "6149371/6291456", "30000/1001"), ("35.mp4", "89549/786432", None)],
            "9731770f0e8fa889",
            (4, 2433024),
        ),
    ],
)
def test_windows_of_clips(index: Path, asked, more, count: int, first: list, name: str, kept) -> None:
    data = ClipData(index, size=SIZE, batch=1, steps=1, keep=0, **more)
    clips = data.training()
    items = [clips[sample] for sample in range(300)]
    labels = [(int(item["night"]), int(item["cars"])) for item in items]
    assert [Path(data.clip(sample)).name for sample in range(300)] == [file for file, _, _ in asked]
    assert (len(clips), asked[:2]) == (count, first)
    assert named([asked, labels, sorted((+Counter(data.left_out)).items())]) == name
    keep = 400 * SIZE[0] * SIZE[1] * 3
    assert ClipData(index, size=SIZE, batch=1, steps=1, keep=keep, **more).training().kept() == kept


@pytest.mark.parametrize(
    ("more", "count", "first", "name"),
    [
        (dict(frames=4, seed=1), 895, [391.75, 392.0, 392.0, 392.0], "f989c2d9090b451c"),
        (
            dict(frames=8, seed=3, rates=(Fraction(15, 2), Fraction(30))),
            548,
            [1130.0] * 5 + [1131.0] * 3,
            "21ded33aba8a8f6f",
        ),
        (
            dict(frames=3, seed=4, rates=(Fraction(30), Fraction(15), Fraction(10))),
            2417,
            [752.5] * 3,
            "eeec5f86fb54f38c",
        ),
    ],
)
def test_windows_of_latents(cache: Path, more, count: int, first: list[float], name: str) -> None:
    data = LatentData(cache, batch=1, steps=1, **more)
    windows = data.training()
    found = []
    for sample in range(300):
        item = windows[sample]
        marks = item["moments"][:, 0, 0, 0].tolist()
        found.append(
            (data.clip(sample)[:8], float(item["fps"]), marks, *(int(item[n]) for n in ("night", "cars", "sample")))
        )
    assert (len(windows), found[0][2]) == (count, first)
    assert named([found, sorted((+Counter(data.left_out)).items())]) == name
