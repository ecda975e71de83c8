"""All formats at once: from one to another and back, what each says that it carries, which claims what."""

import math
import re
from dataclasses import replace
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats import CARRIES, Format, argoverse, dgp, nuscenes
from drivesim.data.formats.known import FORMATS, of
from drivesim.errors import Mistake
from drivesim.scene import CLASSES
from tests.data.formats import test_argoverse, test_nuscenes
from tests.data.formats.tracks import FPS, SIZE, Box, moved, rows_of, unknown, video

DOCS = Path(__file__).resolve().parents[3] / "docs" / "labels.md"
WRITTEN = [form for form in FORMATS.values() if form.write]
FOOTAGE = Footage(SIZE, FPS, 100)


def drive() -> Labelled:
    """Ten frames: a car that passes, a person who hides for a while."""
    rows = [(n, 3, "car", (100.25 + 20 * n, 300.0, 200.5 + 22 * n, 380.75), 1.0, False) for n in range(10)]
    rows += [(n, 8, "pedestrian", (900.0, 310.5, 930.0, 400.0), 1.0, False) for n in (0, 1, 2, 6, 7)]
    return video(rows, range(10))


def through(name: str, labelled: Labelled, folder: Path) -> Labelled:
    form = FORMATS[name]
    assert form.write is not None
    form.write([labelled], folder, FPS, Remarks())
    (found,) = form.read(folder, lambda _: FOOTAGE, Remarks())
    return found


@pytest.mark.parametrize(("first", "second"), list(permutations([form.name for form in WRITTEN], 2)))
def test_from_one_to_another_no_corner_moves_by_half_a_pixel(tmp_path: Path, first: str, second: str) -> None:
    before = drive()
    after = through(second, through(first, before, tmp_path / "first"), tmp_path / "second")
    assert after.boxes.time == before.boxes.time and after.boxes.cls == before.boxes.cls
    assert np.abs((after.boxes.box - before.boxes.box) * (1280, 720, 1280, 720)).max() < 0.5
    names = [[one.id_of(int(track)) for track in one.boxes.track] for one in (before, after)]
    assert names[0] == names[1]
    assert after.boxes.visibility.tolist() == before.boxes.visibility.tolist()


@pytest.mark.parametrize("form", WRITTEN, ids=lambda form: form.name)
def test_what_a_format_writes_it_alone_claims(tmp_path: Path, form: Format) -> None:
    assert form.write is not None
    form.write([drive()], tmp_path / "labels", FPS, Remarks())
    assert of(tmp_path / "labels") is form


def test_what_is_of_no_format_lists_all(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a car, I think\n")
    with pytest.raises(Mistake, match="no format that is known\n.*bdd100k"):
        of(tmp_path)


@pytest.mark.parametrize("form", WRITTEN, ids=lambda form: form.name)
def test_times_off_the_grid_are_told(tmp_path: Path, form: Format) -> None:
    assert form.write is not None
    remarks = Remarks()
    form.write([drive()], tmp_path, Fraction(7), remarks)
    assert bool(remarks.lines()) == ("times" not in form.carries)


CORNERS = (100.0, 300.0, 200.5, 380.75)
TEN = Fraction(10)  # frames a second


def plain(word: str = "car", seen: float = 1.0, frames: range = range(4), fps: Fraction = TEN) -> Labelled:
    """Nothing in it that a format could lose: KITTI's rate and size, a number as id, a box in every frame."""
    rows: list[Box] = [(n, 3, word, CORNERS, seen, False) for n in range(4)]
    return replace(video(rows, frames, fps), size=(375, 1242))


def every_class() -> Labelled:
    rows: list[Box] = [(0, n, word, CORNERS, 1.0, False) for n, word in enumerate(CLASSES)]
    return replace(video(rows, range(1), TEN), size=(375, 1242))


def with_a_region() -> Labelled:
    rows: list[Box] = [(0, 3, "car", CORNERS, 1.0, False), (0, -1, "DontCare", CORNERS, math.nan, True)]
    return replace(video(rows, range(1), TEN), size=(375, 1242))


SPECIAL = {
    "ids": replace(plain(), ids={3: "a-00122062"}),
    "classes": every_class(),
    "words": plain("static person"),
    "visibility": plain(seen=0.85),
    "ignore": with_a_region(),
    "times": plain(fps=Fraction(7)),
    "empty frames": plain(frames=range(6)),
    "size": replace(plain(), size=(1208, 1920)),
}


def test_a_plain_video_survives_every_format(tmp_path: Path) -> None:
    assert set(SPECIAL) == set(CARRIES)
    for form in WRITTEN:
        assert survives(form, plain(), tmp_path / form.name) == (True, True)


@pytest.mark.parametrize("what", CARRIES)
@pytest.mark.parametrize("form", WRITTEN, ids=lambda form: form.name)
def test_what_a_format_carries_survives_and_the_rest_is_told(tmp_path: Path, form: Format, what: str) -> None:
    assert survives(form, SPECIAL[what], tmp_path) == (what in form.carries, what in form.carries)


def survives(form: Format, before: Labelled, folder: Path) -> tuple[bool, bool]:
    """Whether all of it comes back, of a video that nothing else is known of; and whether nothing is told as lost."""
    assert form.write is not None
    told = Remarks()
    form.write([before], folder, TEN, told)
    (after,) = form.read(folder, unknown, Remarks())
    same = (rows_of(after), after.times, after.size) == (rows_of(before), before.times, before.size)
    return same and moved(before, after) < 0.01, not told.count


@pytest.fixture
def only_read(shared: Path, tmp_path: Path) -> dict[str, Labelled]:
    """A video in each format that is only read."""
    tables = test_nuscenes.written(
        tmp_path / "v1.0-mini", test_nuscenes.drive(test_nuscenes.HALF_A_SECOND, test_nuscenes.CAR)
    )
    log = test_argoverse.labelled_log(test_argoverse.calibrated(tmp_path / "log"), test_argoverse.CARS)
    return {
        "nuscenes": nuscenes.read(tables, unknown, Remarks())[0],
        "argoverse": argoverse.read(log, unknown, Remarks())[0],
        "dgp": dgp.read(shared / "data/permissive/dgp/test_scene", unknown, Remarks())[0],
    }


def test_what_is_only_read_brings_what_it_carries(only_read: dict[str, Labelled]) -> None:
    assert set(only_read) == {form.name for form in FORMATS.values() if not form.write}
    for name, labelled in only_read.items():
        boxes, carries = labelled.boxes, FORMATS[name].carries
        assert ("visibility" in carries) == bool(np.isfinite(boxes.visibility).all())
        assert ("ignore" in carries) or not boxes.ignored.any()
        assert carries >= {"ids", "classes", "words", "times", "empty frames", "size"}
        assert len(boxes) and min(labelled.size) > 0 and set(boxes.words) != set(boxes.cls)
        assert any((time * 10).denominator > 1 for time in labelled.times)


def test_the_documents_say_what_each_format_carries() -> None:
    row = re.compile(r"^\| `(\w+)` \| ([^|]+) \| (yes|no) \| ([^|]+) \|$", re.MULTILINE)
    assert row.findall(DOCS.read_text(encoding="utf-8")) == [
        (form.name, form.title, "yes" if form.write else "no", ", ".join(sorted(form.carries - {"classes"})))
        for form in FORMATS.values()
    ]
    assert all("classes" in form.carries for form in FORMATS.values())
