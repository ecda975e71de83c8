"""BDD100K and Scalabel: genuine files by their counts, there and back, and what is no such file."""

import json
import math
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats import counted
from drivesim.data.formats.bdd100k import CAMERAS, FORMAT, NO_BOX, NO_INDEX, OWN_RATE
from drivesim.errors import Mistake
from drivesim.scene import Labels

from . import tracks

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
        ({"config": {"fps": 0}, "frames": []}, "not a rate"),
        ({"config": {"fps": "1e999999999"}, "frames": []}, "not a rate"),
        ([{"videoName": "v", "size": {"width": 0, "height": 720}}], "not a number of pixels"),
        ([{"videoName": "v", "size": {"width": n, "height": 720}} for n in (9, 10)], "several sizes"),
        (frames(1, id=[1]), "not an id"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_what_is_no_such_file_is_said_with_its_place(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(Mistake, match=words) as caught:
        read(written(tmp_path, content))
    assert "v.json" in str(caught.value)


@pytest.mark.parametrize(("drive", "boxes", "ids"), [("av_002b815b", 550, 15), ("av_0aef6f94", 108, 4)])
def test_drives_over_their_three_segments(shared: Path, drive: str, boxes: int, ids: int) -> None:
    folder = shared / "data/permissive/cosmos_multiview/box_tracks_derived/ftheta_camera_front_wide_120fov"
    footage = Footage((1080, 1920), Fraction(30), 30)
    read_all, remarks = read(folder, footage)
    assert FORMAT.claims(folder) and len(read_all) == 6
    own = [one for one in read_all if one.video.startswith(drive)]
    assert sum(len(one.boxes) for one in own) == boxes
    assert len({one.id_of(int(track)) for one in own for track in one.boxes.track}) == ids
    assert remarks.count == {OWN_RATE: 6} and {one.size for one in own} == {(1080, 1920)}


def test_every_camera_of_a_drive_is_a_video(labels: Path) -> None:
    folder = labels / "scalabel/tests/label/testcases"
    found, remarks = read(folder / "waymo_cam_anns.json")
    assert len(found) == 5 and sum(len(one.boxes) for one in found) == 21 and remarks.count == {CAMERAS: 1}
    assert {one.size for one in found} == {(1280, 1920), (886, 1920)} and found[0].video.endswith("_front")
    found, _ = read(folder / "kitti_tracking.json")
    assert [(one.video, len(one.boxes)) for one in found] == [("image_02_0001", 14), ("image_03_0001", 14)]


def test_pictures_without_a_video_are_videos_of_their_own(labels: Path) -> None:
    found, remarks = read(labels / "scalabel/tests/label/testcases/image_list_with_auto_labels.json")
    assert len(found) == 10 and found[0].video == "c1ba5ee6-b2cb1e51" and not remarks.count
    assert sum(len(one.boxes) for one in found) == 25


def test_flags_of_older_files_and_the_light_are_taken(labels: Path) -> None:
    found, _ = read(labels / "bdd100k/tests/label/testcases/example_ignore_annotation.json")
    assert [float(seen) for one in found for seen in one.boxes.visibility] == [0.5, 0.5]
    found, _ = read(labels / "scalabel/tests/label/testcases/scalabel_box_track.json")
    assert [one.labels.night for one in found] == [False] and len(found[0].times) == 2


def test_numbers_that_no_frame_has_and_missing_ones_are_told(tmp_path: Path) -> None:
    rows = frames(3)
    rows[1]["frameIndex"], rows[2]["frameIndex"] = -1, 10**40
    (found,), remarks = read(written(tmp_path, rows))
    assert len(found.boxes) == 1 and remarks.count == {counted.FAR_FRAME: 2}
    for row in rows:
        row["frameIndex"] = None
    (found,), remarks = read(written(tmp_path, rows))
    assert found.times == (0, Fraction(1, 5), Fraction(2, 5)) and remarks.count == {NO_INDEX: 1}


def test_what_is_written_says_what_it_leaves_out(tmp_path: Path) -> None:
    car = (100.0, 100.0, 200.0, 200.0)
    rows: list[tracks.Box] = [(0, 1, "car", car, 1.0, False), (1, 1, "Hovercraft", car, 1.0, False)]
    video, told = replace(tracks.video(rows, [0, 1], name="x/2020.05.01"), labels=Labels(True, 4)), Remarks()
    assert FORMAT.write is not None
    FORMAT.write([video], tmp_path / "in", Fraction(10), told)
    assert told.count == {counted.RENAMED: 1, counted.OFF_GRID: 1, counted.COLLIDED: 1, counted.WORD: 1}
    (found,), _ = read(tmp_path / "in")
    assert found.video == "x_2020.05.01" and found.labels == Labels(True, 4) and len(found.boxes) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    with pytest.raises(Mistake, match="size"):
        FORMAT.write([replace(video, size=(0, 0))], tmp_path / "in", Fraction(10), told)


@settings(max_examples=40, deadline=None)
@given(video=tracks.videos())
def test_random_tracks_survive(tmp_path_factory: pytest.TempPathFactory, video: Labelled) -> None:
    folder, told = tmp_path_factory.mktemp("bdd"), Remarks()
    assert FORMAT.write is not None
    FORMAT.write([video], folder, tracks.FPS, told)
    (found,), again = read(folder)
    assert FORMAT.claims(folder) and not told.count and not again.count
    assert Counter(map(repr, tracks.rows_of(video))) == Counter(map(repr, tracks.rows_of(found)))
    assert (found.times, found.size) == (video.times, video.size) and tracks.moved(video, found) < 0.01


@settings(max_examples=80, deadline=None)
@given(noise=st.binary(max_size=20), at=st.integers(0, 260), length=st.integers(0, 20))
def test_whatever_the_bytes_only_mistakes(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, length: int
) -> None:
    file = tmp_path_factory.mktemp("bdd") / "v.json"
    good = json.dumps({"config": {"fps": "30"}, "frames": frames(1, attributes={"occluded": True})}).encode()
    file.write_bytes(good[:at] + noise + good[at + length :])
    FORMAT.claims(file)
    with suppress(Mistake):
        read(file)
