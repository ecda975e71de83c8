"""Captions from a CSV, from a text beside a clip and of the rendered world, through index and cache to a batch."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from drivesim.data import captions, video
from drivesim.data.index import Index
from drivesim.data.latent_windows import LatentData
from drivesim.data.latent_writer import LatentWriter
from drivesim.data.latents import SEQUENCES, About, LatentCache
from drivesim.data.loader import ClipData
from drivesim.errors import Mistake
from drivesim.jobs import index

CLIPS = ["a.mp4", "north/a.mp4", "north/b.mp4"]
WORLD = "kind: world\nclips: 3\nseconds: 2\nfps: 15/8\nsize: [32, 64]\nval: 0.0\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three clips of different content."""
    for n, name in enumerate(CLIPS):
        (file := tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        with video.Writer(file, (32, 64), Fraction(8)) as writer:
            writer.write(np.full((8, 32, 64, 3), 60 * n, np.uint8))
    return tmp_path / "clips"


def captioned(source: Path, text: str | bytes | None = None) -> dict[str, str | None]:
    """What the index says of each clip."""
    file = None
    if text is not None:
        file = source.parent / "captions.csv"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    out = index.run(source, source.parent / "index", captions=file)
    return {entry.path: entry.caption for entry in Index.open(out).entries}


def test_a_csv_names_clips_with_or_without_suffix(source: Path) -> None:
    text = '\ufeffnote,caption,path\n1,"fog,  a\n red car",a\n2,,north/b.mp4\n\n3,rain,north\\a.mp4\n'
    assert captioned(source, text) == {"a.mp4": "fog, a red car", "north/a.mp4": "rain", "north/b.mp4": None}


def test_a_text_beside_a_clip_is_its_caption(source: Path) -> None:
    (source / "north" / "b.txt").write_text(" snow at\nnight \n")
    (source / "a.txt").write_text("\n")
    wanted = {"a.mp4": None, "north/a.mp4": "fog", "north/b.mp4": "snow at night"}
    assert captioned(source, "path,caption\nnorth/a,fog\n") == wanted


def test_texts_among_the_labels_are_none(source: Path) -> None:
    (source / "a.txt").write_text("1 2 3")
    assert captions.beside(source / "a.mp4", source) == "1 2 3"
    assert captions.beside(source / "a.mp4", source, source) is None
    assert captions.beside(source / "a.mp4", source, source / "a.txt") is None


def test_folders_of_images_have_one_beside_them(tmp_path: Path) -> None:
    (tmp_path / "drive.1").mkdir()
    (tmp_path / "drive.1.txt").write_text("hail")
    assert captions.beside(tmp_path / "drive.1", tmp_path) == "hail"
    assert captions.beside(tmp_path / "drive.1", tmp_path / "drive.1") is None  # outside


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,caption\na,x\nsouth/c,y\nz.mp4,z\n", r"names clips that are not there: south/c and 1 more\n"),
        ("path,caption\na,x\na.mp4,y\n", r"line 3: a second caption for a.mp4\n  the first is in line 2"),
        ("", "is empty"),
        ("path,caption\n", "holds no caption"),
        ("path;caption\na;x\n", "has no columns path and caption"),
        ("path,text\na,x\n", "has no columns path and caption"),
        ("path,caption\na\n", "line 2: has no path and caption"),
        (f"path,caption\na,{'x' * 2001}\n", "line 2: a caption of more than 2000 characters"),
        (b"path,caption\na,\xff\n", "is not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_csv(source: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(Mistake, match=says):
        captioned(source, text)
    assert not (source.parent / "index").exists()


def test_one_name_of_two_clips(source: Path) -> None:
    with video.Writer(source / "a.mkv", (32, 64), Fraction(8)) as writer:
        writer.write(np.full((8, 32, 64, 3), 200, np.uint8))
    with pytest.raises(Mistake, match=r"'a' is the name of 2 clips\n  write the suffix, as in a.mkv"):
        captioned(source, "path,caption\na,x\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [("x" * 2001, "more than 2000 characters"), (b"\xff", "is not UTF-8"), ("fog", "a second caption for a.mp4")],
)
def test_what_is_wrong_with_a_text(source: Path, text: str | bytes, says: str) -> None:
    (source / "a.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(Mistake, match=says):
        captioned(source, "path,caption\na,x\n")


def test_a_text_that_leads_out_of_the_folder(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (source / "a.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(Mistake, match="leads out of the folder"):
        captioned(source)


def test_a_csv_may_name_clips_that_the_recipe_leaves_out(source: Path, tmp_path: Path) -> None:
    (source / "said.csv").write_text("path,caption\na,x\nnorth/b,y\n")
    (tmp_path / "recipe.yaml").write_text("include: ['north/*']\ncaptions: said.csv\n")
    out = index.run(source, tmp_path / "index", tmp_path / "recipe.yaml")
    assert {entry.path: entry.caption for entry in Index.open(out).entries} == {"north/a.mp4": None, "north/b.mp4": "y"}


@pytest.mark.parametrize("place", ["../said.csv", "/said.csv"])
def test_captions_elsewhere_are_for_the_command(source: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "recipe.yaml").write_text(f"captions: {place}\n")
    with pytest.raises(Mistake, match=r"captions: leads out of the folder of the clips\n.*--captions FILE"):
        index.run(source, tmp_path / "index", tmp_path / "recipe.yaml")


def test_the_world_says_what_it_shows(tmp_path: Path) -> None:
    (tmp_path / "world.yaml").write_text(WORLD)
    opened = Index.open(index.run(tmp_path / "world.yaml", tmp_path / "index"))
    for entry in opened.entries:
        assert entry.night is not None and entry.cars is not None
        assert entry.caption == captions.of_world(entry.night, entry.cars)
    data = ClipData(tmp_path / "index", frames=1, fps=Fraction(1), size=(32, 64), batch=2, steps=1)
    batch = next(iter(data.train_dataloader()))
    assert len(batch["caption"]) == 2 and set(batch["caption"]) <= {entry.caption for entry in opened.entries}
    with pytest.raises(Mistake, match="says itself what it shows"):
        index.run(tmp_path / "world.yaml", tmp_path / "other", captions=tmp_path / "c.csv")


def test_the_worlds_words() -> None:
    assert captions.of_world(False, 0) == "driving by day, an empty road"
    assert captions.of_world(True, 1) == captions.of_world(True, 4) == "driving at night, light traffic"
    assert captions.of_world(True, 5) == "driving at night, dense traffic"


ABOUT = About("index", "a" * 64, (16, 32), "2", 1, "32", (2, 2, 4))


def cache(folder: Path, source: Path, of: list[str | None]) -> Path:
    opened = Index.open(source)
    folder.mkdir()
    with LatentWriter(folder, ABOUT) as writer:
        for n, (entry, caption) in enumerate(zip(opened.entries, of, strict=True)):
            assert entry.caption == caption
            writer.add(entry, np.full((1, *ABOUT.shape), n, np.float32), Fraction(2), Fraction(0))
    return folder


def batches(folder: Path) -> list[dict]:
    return list(LatentData(folder, frames=1, batch=3, steps=4).train_dataloader())


def test_through_the_cache_to_a_batch(source: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("val: 0.0\n")
    (source / "a.txt").write_text("fog")
    (source / "north" / "b.txt").write_text("rain, a truck")
    index.run(source, tmp_path / "index", tmp_path / "recipe.yaml")
    words = ["fog", None, "rain, a truck"]
    folder = cache(tmp_path / "cache", tmp_path / "index", words)
    assert LatentCache.open(folder).captioned
    seen = set()
    for batch in batches(folder):
        for caption, moments in zip(batch["caption"], batch["moments"], strict=True):
            assert caption == (words[int(moments[0, 0, 0, 0])] or "")
            seen.add(caption)
    assert seen == {"fog", "", "rain, a truck"}

    table = pq.read_table(folder / SEQUENCES)  # as caches were before
    pq.write_table(table.drop_columns(["caption"]), folder / SEQUENCES)
    assert not LatentCache.open(folder).captioned
    assert all("caption" not in batch for batch in batches(folder))
