"""BDD100K and Scalabel: genuine files by their counts, there and back, and what is no such file."""

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest

from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats.bdd100k import FORMAT, NO_BOX, OWN_RATE
from drivesim.errors import Mistake

UNKNOWN = Footage()


@pytest.fixture
def labels(shared: Path) -> Path:
    return shared / "data" / "permissive" / "labels"


def read(place: Path, footage: Footage = UNKNOWN) -> tuple[list[Labelled], Remarks]:
    remarks = Remarks()
    return FORMAT.read(place, lambda _: footage, remarks), remarks


@pytest.mark.parametrize(("name", "boxes", "tracks"), [("sample_anns", 3241, 144), ("predictions", 2301, 121)])
def test_genuine_tracks(labels: Path, name: str, boxes: int, tracks: int) -> None:
    file = labels / "scalabel/tests/eval/testcases/box_track" / f"track_{name}.json"
    (found,), remarks = read(file)
    assert FORMAT.claims(file) and not remarks.lines()
    assert (len(found.boxes), len(set(found.boxes.track.tolist())), len(found.times)) == (boxes, tracks, 202)
    assert found.times[1] - found.times[0] == Fraction(1, 5) and found.size == (720, 1280)


def test_polygons_are_counted(labels: Path) -> None:
    found, remarks = read(labels / "bdd100k/tests/label/testcases/example_annotation.json")
    assert len(found) == 1 and len(found[0].boxes) == 0 and remarks.count == {NO_BOX: 4}


def test_there_and_back(labels: Path, tmp_path: Path) -> None:
    (before,), _ = read(labels / "scalabel/tests/eval/testcases/box_track/track_sample_anns.json")
    remarks = Remarks()
    assert FORMAT.write is not None
    FORMAT.write([before], tmp_path, Fraction(5), remarks)
    (after,), said = read(tmp_path)
    assert not remarks.lines() and not said.lines()
    assert after.times == before.times and after.boxes.time == before.boxes.time
    assert [after.id_of(t) for t in after.boxes.track] == [before.id_of(t) for t in before.boxes.track]
    assert (after.boxes.cls, after.boxes.words) == (before.boxes.cls, before.boxes.words)
    assert (after.boxes.ignored == before.boxes.ignored).all()
    assert abs(after.boxes.box - before.boxes.box).max() * 1280 < 0.01
    assert [*map(str, after.boxes.visibility)] == [*map(str, before.boxes.visibility)]


def frames(count: int, **more: object) -> list[dict[str, object]]:
    box = {"x1": 10, "y1": 20, "x2": 49, "y2": 59}
    label = {"id": "a", "category": "car", "box2d": box, **more}
    return [{"name": f"{n}.jpg", "videoName": "v", "frameIndex": n, "labels": [label]} for n in range(count)]


def written(tmp_path: Path, content: object) -> Path:
    (tmp_path / "v.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return tmp_path / "v.json"


def test_numbers_that_only_fit_the_videos_own_rate_are_at_it(tmp_path: Path) -> None:
    footage = Footage((720, 1280), Fraction(30), 30)
    (found,), remarks = read(written(tmp_path, frames(30)), footage)
    assert found.times[-1] == Fraction(29, 30) and remarks.count == {OWN_RATE: 1}
    (found,), remarks = read(written(tmp_path, frames(5)), footage)
    assert found.times[-1] == Fraction(4, 5) and not remarks.lines()


def test_corners_are_inclusive_and_flags_are_taken(tmp_path: Path) -> None:
    flags = {"occluded": True, "crowd": True}
    (found,), _ = read(written(tmp_path, frames(1, attributes=flags)))
    assert (found.boxes.box[0] * (1280, 720, 1280, 720)).tolist() == pytest.approx([10, 20, 50, 60])
    assert found.boxes.visibility.tolist() == [0.5] and found.boxes.ignored.tolist() == [True]
    (found,), _ = read(written(tmp_path, frames(1)))
    assert math.isnan(found.boxes.visibility[0])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("3", "is not a list"),
        ([{"labels": [{"box2d": {"x1": 0, "y1": 0, "x2": 1, "y2": 1}}], "videoName": "v"}], "no 'category'"),
        (frames(1, box2d={"x1": 0}), "no 'y1'"),
        (frames(1, box2d={"x1": "left", "y1": 0, "x2": 1, "y2": 1}), "not a number"),
        ([{"videoName": 7}], "not a text"),
        ([{"videoName": "v", "frameIndex": "one"}], "not a whole number"),
        ({"config": {"fps": "fast"}, "frames": []}, "not a rate"),
    ],
)
def test_what_is_no_such_file_is_said_with_its_place(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(Mistake, match=words) as caught:
        read(written(tmp_path, content))
    assert "v.json" in str(caught.value)
