"""KITTI's tracking labels: its own files, a round trip, files that are broken."""

import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.data import annotations
from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats import counted, kitti
from drivesim.data.formats.kitti import FORMAT
from drivesim.errors import Mistake

from . import tracks

LINE = "0 3 Car 0 1 -1.57 100.5 150 300 250.25 1.5 1.6 3.9 1 2 3 -1.6"
VIDEO = Footage((375, 1242), Fraction(10), 5)


def sequence(folder: Path, content: str | bytes, footage: Footage = VIDEO) -> tuple[Labelled, Remarks]:
    file = folder / "0004.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    remarks = Remarks()
    (labelled,) = FORMAT.read(file, lambda name: footage, remarks)
    return labelled, remarks


@pytest.fixture(scope="module")
def genuine(shared: Path) -> tuple[list[Labelled], Remarks]:
    remarks = Remarks()
    return FORMAT.read(shared / "data" / "noncommercial" / "kitti_tracking", tracks.unknown, remarks), remarks


def test_the_genuine_sequences(genuine: tuple[list[Labelled], Remarks]) -> None:
    read, remarks = genuine
    assert [labelled.video for labelled in read] == [f"{n:04d}" for n in range(10)]
    ignored = np.concatenate([labelled.boxes.ignored for labelled in read])
    assert ((~ignored).sum(), ignored.sum()) == (16858, 8178)
    assert sum(len(set(labelled.boxes.track[~labelled.boxes.ignored].tolist())) for labelled in read) == 414
    assert all((labelled.boxes.track[labelled.boxes.ignored] < 0).all() for labelled in read)
    assert remarks.count == {kitti.USUAL_SIZE: 9}  # the images of 0001 are there
    assert {labelled.size for labelled in read} == {(375, 1242)}
    classes = Counter(cls for labelled in read for cls in labelled.boxes.cls)
    assert (classes["truck"], classes["rider"]) == (1019, 428)


def test_the_first_car_of_a_genuine_sequence(genuine: tuple[list[Labelled], Remarks]) -> None:
    """The columns land where they belong: the first line of 0001 that is not a region."""
    boxes = genuine[0][1].boxes
    assert len(genuine[0][1].times) == 447 and genuine[0][1].times[-1] == Fraction(446, 10)
    first = int(np.flatnonzero(~boxes.ignored)[0])
    assert (boxes.time[first], boxes.track[first], boxes.words[first], boxes.cls[first]) == (0, 0, "Car", "car")
    assert boxes.visibility[first] == 1.0
    assert boxes.box[first] * (1242, 375, 1242, 375) == pytest.approx((776.295323, 167.346734, 1241, 374))


def test_genuine_sequences_survive_a_round_trip(genuine: tuple[list[Labelled], Remarks], tmp_path: Path) -> None:
    told, again = Remarks(), Remarks()
    FORMAT.write(genuine[0][:2], tmp_path, Fraction(10), told)
    assert FORMAT.claims(tmp_path)
    read = FORMAT.read(tmp_path, lambda name: Footage((375, 1242)), again)
    assert not told.count and not again.count
    for before, after in zip(genuine[0][:2], read, strict=True):
        assert sorted(map(repr, tracks.rows_of(before))) == sorted(map(repr, tracks.rows_of(after)))
        assert tracks.moved(before, after) < 1e-5 and before.times == after.times


def test_only_kitti_is_claimed(shared: Path, tmp_path: Path) -> None:
    place = shared / "data" / "noncommercial" / "kitti_tracking" / "training"
    assert FORMAT.claims(place) and FORMAT.claims(place / "label_02") and FORMAT.claims(place / "label_02" / "0003.txt")
    assert not FORMAT.claims(place / "calib")
    for content in (b"1,2,3,4,5,6,1,1,1", b"\0" * 100, b"", LINE.encode()[:40]):
        (tmp_path / "x.txt").write_bytes(content)
        assert not FORMAT.claims(tmp_path) and not FORMAT.claims(tmp_path / "x.txt")
    assert not FORMAT.claims(tmp_path / "missing")


def test_occlusion_becomes_visibility(tmp_path: Path) -> None:
    lines = [f"0 {n} Car 0 {occluded} -10 1 1 9 9 -1 -1 -1 -1 -1 -1 -1" for n, occluded in enumerate([0, 1, 2, 3, -1])]
    labelled, _ = sequence(tmp_path, "\n".join(lines))
    np.testing.assert_equal(labelled.boxes.visibility, [1.0, 0.7, 0.3, math.nan, math.nan])


def test_the_video_says_how_fast_and_how_long(tmp_path: Path) -> None:
    labelled, remarks = sequence(tmp_path, f"{LINE}\n4{LINE[1:]}\n7{LINE[1:]}", Footage((375, 1242), Fraction(25), 6))
    assert labelled.boxes.time == (0, Fraction(4, 25))
    assert labelled.times[:6] == tuple(Fraction(n, 25) for n in range(6))
    assert remarks.count == {annotations.TOO_LATE: 1}


def test_labels_follow_images_with_gaps(shared: Path) -> None:
    """Of sequence 0001 images 0, 1, 10, 15 and 20 are there; as a folder they are five consecutive frames."""
    file = shared / "data" / "noncommercial" / "kitti_tracking" / "training" / "label_02" / "0001.txt"
    remarks = Remarks()
    (labelled,) = FORMAT.read(file, lambda name: Footage((375, 1242), Fraction(10), 5), remarks)
    assert labelled.times == tuple(Fraction(n, 10) for n in range(5))
    boxes = labelled.boxes
    assert ((~boxes.ignored).sum(), len(set(boxes.track[~boxes.ignored].tolist()))) == (42, 14)
    assert set(remarks.count) == {kitti.NO_IMAGE}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (LINE[:-20], "columns"),
        (f"{LINE}\n0 1 Car", "columns"),
        (LINE.replace("100.5", "left"), "number"),
        (LINE.replace("0 3", "zero 3", 1), "whole"),
        (LINE.replace("0 3", "0 1.5", 1), "whole"),
        (b"\xff\xfe\x00", "text"),
        ("P0: 7.2 0 1", "columns"),
    ],
)
def test_a_broken_file_is_a_mistake(tmp_path: Path, content: str | bytes, what: str) -> None:
    with pytest.raises(Mistake, match=what) as caught:
        sequence(tmp_path, content)
    assert "0004.txt" in str(caught.value.where) and "\n" not in caught.value.what


def test_a_bad_box_does_not_stop_the_rest(tmp_path: Path) -> None:
    bad = [LINE.replace("100.5", "nan"), LINE.replace("300 ", "90 "), f"99999999999{LINE[1:]}", LINE]
    labelled, remarks = sequence(tmp_path, "\n".join([LINE.replace("0 3", "0 4", 1), *bad]))
    assert labelled.boxes.track.tolist() == [3, 4]
    assert remarks.count == {annotations.NOT_A_NUMBER: 1, annotations.INVERTED: 1, counted.FAR_FRAME: 1}


def test_a_folder_without_labels_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no label files"):
        FORMAT.read(tmp_path, tracks.unknown, Remarks())


def test_what_a_file_cannot_hold_is_told(tmp_path: Path) -> None:
    car = (100.0, 100.0, 200.0, 200.0)
    rows: list[tracks.Box] = [
        (0, 7, "static person", car, 0.95, False),
        (2, 7, "static person", car, 1.0, False),
        (2, 8, "pedestrian", car, math.nan, True),
    ]
    remarks = Remarks()
    video = tracks.video(rows, [0, 2, 3, 4], ids={7: "a1"})
    FORMAT.write([video], tmp_path, tracks.FPS, remarks)
    assert remarks.count == {
        counted.CHANGED: 2,
        counted.UNLABELLED: 1,
        kitti.STEPS: 1,
        kitti.REGION_ALONE: 1,
        kitti.NAME: 1,
        kitti.NO_END: 2,
        kitti.NO_RATE: 1,
        kitti.NO_SIZE: 1,
    }
    (read,) = FORMAT.read(tmp_path, lambda name: Footage(tracks.SIZE, tracks.FPS), Remarks())
    assert read.boxes.cls == ("pedestrian", "other", "pedestrian") and read.boxes.words[0] == "static_person"
    assert read.boxes.track.tolist() == [7, -1, 7]


def test_times_between_frames_go_to_the_nearer(tmp_path: Path) -> None:
    car = (100.0, 100.0, 200.0, 200.0)
    rows: list[tracks.Box] = [(n, 1, "Car", (car[0] + n, *car[1:]), 1.0, False) for n in range(4)]
    remarks = Remarks()
    FORMAT.write([tracks.video(rows, range(4), Fraction(25))], tmp_path, Fraction(10), remarks)
    (read,) = FORMAT.read(tmp_path, lambda name: Footage(tracks.SIZE), Remarks())
    assert read.boxes.time == (0, Fraction(1, 10))  # 0, 0.04, 0.08, 0.12 s
    assert (remarks.count[counted.OFF_GRID], remarks.count[counted.COLLIDED]) == (3, 2)
    assert read.boxes.box[:, 0] * 1280 == pytest.approx([100, 102])


@settings(max_examples=40, deadline=None)
@given(video=tracks.videos())
def test_random_tracks_survive_or_are_told(tmp_path_factory: pytest.TempPathFactory, video: Labelled) -> None:
    folder, told, again = tmp_path_factory.mktemp("kitti"), Remarks(), Remarks()
    FORMAT.write([video], folder, tracks.FPS, told)
    (read,) = FORMAT.read(folder, lambda name: Footage(tracks.SIZE, tracks.FPS, len(video.times)), again)
    assert not again.count and read.times == video.times and len(read.boxes) == len(video.boxes)
    for name in ("ignored", "time"):
        assert Counter(getattr(read.boxes, name)) == Counter(getattr(video.boxes, name))
    before = {row[:2]: row for row in tracks.rows_of(video) if not row[5]}
    after = {row[:2]: row for row in tracks.rows_of(read) if not row[5]}
    assert {key: row[2:4] for key, row in before.items()} == {key: row[2:4] for key, row in after.items()}
    changed = sum(abs(before[key][4] - after[key][4]) > 0 for key in before)
    assert changed == told.count.get(kitti.STEPS, 0)


@settings(max_examples=80, deadline=None)
@given(noise=st.binary(max_size=30), at=st.integers(0, 200), length=st.integers(0, 30))
def test_whatever_the_bytes_only_mistakes(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, length: int
) -> None:
    good = f"{LINE}\n1{LINE[1:]}\n".encode()
    try:
        sequence(tmp_path_factory.mktemp("kitti"), good[:at] + noise + good[at + length :])
    except Mistake:
        pass
