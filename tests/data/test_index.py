"""What a folder becomes: rows, drives, splits, quarantine; nothing half-written."""

import json
import re
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from drivesim import disk
from drivesim.data import index, video
from drivesim.data.index import Entry, Index, Rows, val_drives, whole_folder
from drivesim.data.sources import Recipe, build, load_recipe
from drivesim.errors import Mistake
from drivesim.jobs import index as job
from drivesim.scene import Boxes

from .numbered import SIZE, picture, write

RECIPES = Path(__file__).resolve().parents[2] / "datasets"


def test_a_plain_folder(tmp_path: Path) -> None:
    source = tmp_path / "clips"
    one = write(source / "a" / "one.mp4", 30, Fraction(15, 2))
    write(source / "a" / "two.mp4", 20, Fraction(25), first=3)
    write(source / "b" / "three.mp4", 20, Fraction(25), first=9)
    write(source / "four.mp4", 20, Fraction(25), first=20)
    made = build(source, tmp_path / "index")
    assert [e.path for e in made.entries] == ["a/one.mp4", "a/two.mp4", "b/three.mp4", "four.mp4"]
    assert [e.drive for e in made.entries] == ["folder/a", "folder/a", "folder/b", "folder/four.mp4"]
    first = made.entries[0]
    assert (first.clip_id, first.bytes) == (disk.sha256(one), one.stat().st_size)
    assert (first.fps, first.frames, first.seconds, first.rate) == (Fraction(15, 2), 30, 4.0, None)
    assert (first.height, first.width) == SIZE
    assert first.cars is None and made.boxes(first.clip_id) is None
    assert first.file == one.resolve()
    table = pq.read_table(tmp_path / "index" / index.FILES)
    assert table.schema.equals(index.FILES_SCHEMA)
    assert set(table["schema_version"].to_pylist()) == {index.SCHEMA_VERSION}


def test_bad_files_are_quarantined_and_the_rest_goes_on(tmp_path: Path) -> None:
    source = tmp_path / "clips"
    good = write(source / "good.mp4", 20, Fraction(25))
    (source / "copy.mp4").write_bytes(good.read_bytes())
    (source / "empty.mp4").touch()
    (source / "text.mp4").write_text("not a video " * 9)
    write(source / "single.mp4", 1, Fraction(25))
    outside = write(tmp_path / "outside.mp4", 20, Fraction(25), first=50)
    (source / "link.mp4").symlink_to(outside)
    made = build(source, tmp_path / "index")
    assert len(made.entries) == 1
    lines = [json.loads(line) for line in (tmp_path / "index" / index.QUARANTINE).read_text().splitlines()]
    reasons = {line["path"]: line["reason"] for line in lines}
    assert reasons["good.mp4"] == "has the same bytes as copy.mp4"
    assert "empty" in reasons["empty.mp4"] and "text" in reasons["text.mp4"] and "two frames" in reasons["single.mp4"]
    assert reasons["link.mp4"] == "leads out of the folder"


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda f: f.mkdir(), "empty folder"),
        (lambda f: (f.mkdir(), (f / "notes.txt").write_text("x")), "holds no video"),
        (lambda f: (f.mkdir(), (f / "a.mp4").write_text("not a video")), "no readable video .*a.mp4 is text"),
        (lambda f: f.write_text("x"), "not a folder"),
        (lambda f: None, "no such folder"),
        (lambda f: (f.mkdir(), [cv2.imwrite(str(f / f"{n}.png"), picture(n)) for n in range(3)]), "kind: images"),
    ],
)
def test_nothing_to_index_leaves_nothing(tmp_path: Path, make, line: str) -> None:  # type: ignore[no-untyped-def]
    source = tmp_path / "clips"
    make(source)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Mistake) as caught:
        build(source, tmp_path / "runs" / "index")
    assert re.search(line, str(caught.value))
    assert [p for p in sorted(tmp_path.rglob("*")) if p.name != "runs"] == before


def test_a_taken_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(Mistake, match="not empty"), whole_folder(tmp_path / "out"):
        pass
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine"]


def test_images_by_recipe(tmp_path: Path) -> None:
    for drive in ("x", "y"):
        (tmp_path / "frames" / drive).mkdir(parents=True)
        for n in range(10):
            cv2.imwrite(str(tmp_path / "frames" / drive / f"{drive}_{n:03d}.png"), picture(n + (drive == "y")))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("kind: images\nfps: 12.5\nname: stills\n")
    job.run(tmp_path / "frames", tmp_path / "index", recipe)
    entries = Index.open(tmp_path / "index").entries
    assert [(e.path, e.drive, e.frames, e.fps, e.rate) for e in entries] == [
        (d, f"stills/{d}", 10, Fraction(25, 2), Fraction(25, 2)) for d in ("x", "y")
    ]
    clip = video.read(entries[1].file, fps=Fraction(25, 4), frames=5, rate=entries[1].rate)
    assert len(clip.frames) == 5


def test_recipe_chooses_files_rate_and_drive(tmp_path: Path) -> None:
    source = tmp_path / "clips"
    for n, name in enumerate(["cam/d1_0.mp4", "cam/d1_1.mp4", "cam/d2_0.mp4", "render/d1_0.mp4", "notes/d9.mp4"]):
        write(source / name, 10, Fraction(20), first=n)
    recipe = Recipe(include=("cam/*", "render/*"), exclude=("render/*",), drive=r"(d\d)_\d", fps="2", name="r")
    made = build(source, tmp_path / "index", recipe)
    assert [(e.path, e.drive) for e in made.entries] == [
        ("cam/d1_0.mp4", "r/d1"), ("cam/d1_1.mp4", "r/d1"), ("cam/d2_0.mp4", "r/d2")
    ]  # fmt: skip
    assert {(e.fps, e.rate, e.seconds) for e in made.entries} == {(Fraction(2), Fraction(2), 5.0)}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("incldue: ['*']", "did you mean 'include'"),
        ("fps: quick", "not a rate"),
        ("drive: '('", "not a regular expression"),
        ("kind: images", "no frame rate"),
        ("kind: world", "needs clips"),
        ("kind: photos", "kind"),
    ],
)
def test_wrong_recipes_are_named(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(Mistake) as caught:
        load_recipe(tmp_path / "recipe.yaml")
    assert line in str(caught.value) and "recipe.yaml line 1: " in str(caught.value)


@pytest.mark.parametrize("name", ["world", "folder", "clips"])
def test_recipes_that_come_along_load(name: str) -> None:
    recipe = load_recipe(RECIPES / name / "recipe.yaml")
    assert recipe.name == name and (RECIPES / name / "README.md").is_file()
    if name == "folder":
        assert recipe == Recipe()


def test_split_is_by_drive_and_stays() -> None:
    drives = {f"drive-{n}" for n in range(2000)}
    held_back = val_drives(drives, 0.1)
    assert 150 < len(held_back) < 250
    assert val_drives(drives | {f"more-{n}" for n in range(500)}, 0.1) & drives == held_back
    for few in range(2, 9):
        some = {f"drive-{n}" for n in range(few)}
        assert 0 < len(val_drives(some, 0.1)) < few
    assert val_drives({"only"}, 0.0) == set() and val_drives(drives, 0.0) == set()


def _entry(clip_id: str, drive: str, **more: object) -> Entry:
    values = dict(path=clip_id, root="/", bytes=1, frames=2, width=4, height=4, rotation=0, fps_num=1, fps_den=1)
    return Entry(clip_id=clip_id, drive=drive, fps_stated=False, seconds=2.0, **values | more)  # type: ignore[arg-type]


def test_rows_keep_drives_together_and_boxes_exact(tmp_path: Path) -> None:
    rows = Rows()
    boxes = Boxes(
        time=(Fraction(0), Fraction(8, 15)),
        track=np.array([3, 4]),
        cls=("car", "pedestrian"),
        box=np.array([[0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 1.0, 1.0]]),
        visibility=np.array([0.5, np.nan]),
    )
    none = Boxes((), np.zeros(0, np.int64), (), np.zeros((0, 4)), np.zeros(0))
    for n in range(60):
        rows.add(_entry(f"clip-{n}", f"drive-{n // 4}", night=None if n else True, cars=n))
    rows.add(_entry("seen", "drive-0", labels="test"), boxes)
    rows.add(_entry("bare", "drive-0", labels="test"), none)
    rows.write(tmp_path, 0.2)
    made = Index.open(tmp_path)
    assert len(made.split("train")) + len(made.split("val")) == 62 and made.split("val")
    assert not {e.drive for e in made.split("train")} & {e.drive for e in made.split("val")}
    back = made.boxes("seen")
    assert back is not None and back.time == boxes.time and back.cls == boxes.cls
    np.testing.assert_array_equal(back.box, boxes.box)
    np.testing.assert_array_equal(back.track, boxes.track)
    np.testing.assert_array_equal(back.visibility, boxes.visibility)
    bare = made.boxes("bare")
    assert bare is not None and len(bare) == 0  # none in the clip: known
    assert made.boxes("clip-1") is None  # unknown
    assert pq.read_table(tmp_path / index.BOXES).schema.equals(index.BOXES_SCHEMA)


def test_what_is_not_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="not an index"):
        Index.open(tmp_path)
    Rows([_entry("a", "d")]).write(tmp_path, 0.0)
    (tmp_path / index.FILES).write_bytes(b"PAR1 and then nothing")
    with pytest.raises(Mistake, match="cannot be read"):
        Index.open(tmp_path)


def test_the_world_is_indexed_with_its_truth_and_moves(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: world\nkind: world\nclips: 5\nseconds: 1.2\nfps: 7.5\nsize: [64, 128]\nval: 0.2\n")
    job.run(recipe, tmp_path / "one")
    job.run(recipe, tmp_path / "again")
    job.run(recipe, tmp_path / "other", seed=1)
    (tmp_path / "one").rename(tmp_path / "moved")
    made, again, other = (Index.open(tmp_path / name) for name in ("moved", "again", "other"))
    assert made.digest == again.digest
    assert not {e.clip_id for e in made.entries} & {e.clip_id for e in other.entries}
    assert not {e.drive for e in made.entries} & {e.drive for e in other.entries}
    for entry in made.entries:
        entry.check()
        assert (entry.frames, entry.fps, entry.height, entry.width) == (9, Fraction(15, 2), 64, 128)
        assert entry.night is not None and entry.cars is not None and made.boxes(entry.clip_id) is not None
    assert len(made.split("val")) >= 1


def test_real_clips(shared: Path, tmp_path: Path) -> None:
    job.run(shared / "data" / "permissive", tmp_path / "index", RECIPES / "clips" / "recipe.yaml")
    made = Index.open(tmp_path / "index")
    assert len(made.entries) == 21 and not (tmp_path / "index" / index.QUARANTINE).read_text()
    assert not any(e.night for e in made.entries)  # all by day
    drives = {e.drive for e in made.entries}
    assert len(drives) == 8 and sum("av_0aef6f94" in e.drive for e in made.entries) == 6
    assert not any("control_input" in e.path or "yolop" in e.path for e in made.entries)
    assert {e.fps for e in made.entries} == {Fraction(10), Fraction(25), Fraction(30000, 1001), Fraction(30)}
    assert 0 < len(made.split("val")) < 21
