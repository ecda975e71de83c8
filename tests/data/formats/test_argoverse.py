"""Argoverse logs of both generations: the genuine boxes in space, a camera of known geometry, and broken files."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather

from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats import argoverse
from drivesim.errors import Mistake

LOG = "adcf7d18-0510-35b0-a2fa-b4cea13a6d76"
SWEEP = 315_973_157_959_879_000  # nanoseconds of its first sweep
LOOKING_AHEAD = (0.5, -0.5, 0.5, -0.5)
SIZE = (2048, 1550)


def nothing_known(name: str) -> Footage:
    return Footage()


def pixels(labelled: Labelled) -> np.ndarray:
    height, width = labelled.size
    return labelled.boxes.box * (width, height, width, height)


def calibrated(folder: Path) -> Path:
    """A camera of 1000 pixels focal length, 1 m ahead of the vehicle's origin and 1 m above it."""
    (folder / "calibration").mkdir(parents=True)
    sensors = ["ring_front_center", "ring_front_left"]
    lens = {"fx_px": 1000.0, "fy_px": 1000.0, "cx_px": 775.0, "cy_px": 1024.0, "height_px": 2048, "width_px": 1550}
    place = dict(zip(("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m"), (*LOOKING_AHEAD, 1.0, 0.0, 1.0), strict=True))
    for name, row in (("intrinsics", lens), ("egovehicle_SE3_sensor", place)):
        table = pa.table({"sensor_name": sensors, **{key: [value, value] for key, value in row.items()}})
        feather.write_feather(table, str(folder / "calibration" / f"{name}.feather"))
    return folder


Box = tuple[int, str, str, tuple[float, float, float], tuple[float, float, float]]


def labelled_log(folder: Path, boxes: list[Box], **changed: pa.Array) -> Path:
    """A log whose boxes stand straight: time, track, class, centre, length and width and height."""
    columns: dict[str, Any] = {
        "timestamp_ns": pa.array([box[0] for box in boxes], pa.int64()),
        "track_uuid": pa.array([box[1] for box in boxes], pa.string()),
        "category": pa.array([box[2] for box in boxes], pa.string()),
        **{name: [box[4][i] for box in boxes] for i, name in enumerate(("length_m", "width_m", "height_m"))},
        **{name: [value] * len(boxes) for name, value in zip(("qw", "qx", "qy", "qz"), (1.0, 0, 0, 0), strict=True)},
        **{name: [box[3][i] for box in boxes] for i, name in enumerate(("tx_m", "ty_m", "tz_m"))},
    }
    floats = {name: pa.array(values, pa.float64()) for name, values in columns.items() if isinstance(values, list)}
    feather.write_feather(pa.table({**columns, **floats, **changed}), str(folder / "annotations.feather"))
    return folder


# 2 m wide and high; near side 10 m before the camera, and 5 m at the second sweep
CARS: list[Box] = [
    (SWEEP, "a", "REGULAR_VEHICLE", (13.0, 0.0, 1.0), (4.0, 2.0, 2.0)),
    (SWEEP, "b", "BOLLARD", (-13.0, 0.0, 1.0), (1.0, 1.0, 1.0)),
    (SWEEP + 100_194_000, "a", "REGULAR_VEHICLE", (8.0, 0.0, 1.0), (4.0, 2.0, 2.0)),
]


@pytest.fixture
def second(shared: Path) -> Path:
    return shared / "data/noncommercial/av2_labels" / LOG


@pytest.fixture
def first(shared: Path) -> Path:
    return shared / "data/permissive/labels/argoverse_api/tests/test_data/detection/1"


def test_the_genuine_second_log_in_space(second: Path) -> None:
    remarks = Remarks()
    log = argoverse.parse(second, remarks)
    assert (len(log.times), len(set(log.tracks)), len(log.sweeps)) == (12078, 146, 156)
    assert not remarks.count and log.sweeps[0] == SWEEP
    words = Counter(log.words)
    assert (words["REGULAR_VEHICLE"], words["PEDESTRIAN"], words["BICYCLE"]) == (4471, 3929, 70) and len(words) == 10
    assert log.cuboids.size[log.words.index("BUS")].argmax() == 0  # a bus is longer than wide or high


def test_the_genuine_second_log_lacks_its_calibration(second: Path) -> None:
    assert argoverse.claims(second) and argoverse.claims(second.parent) and argoverse.claims(second / argoverse.SECOND)
    with pytest.raises(Mistake, match="calibration/intrinsics.feather, which is missing") as found:
        argoverse.read(second.parent, nothing_known, Remarks())
    assert found.value.where == second
    assert "12078 boxes in space of 146 tracks at 156 moments were read" in str(found.value)


def test_the_genuine_second_log_through_a_camera(second: Path, tmp_path: Path) -> None:
    folder = calibrated(tmp_path / LOG)
    shutil.copy(second / argoverse.SECOND, folder)
    remarks = Remarks()
    (labelled,) = argoverse.read(tmp_path, nothing_known, remarks)
    assert (labelled.video, labelled.size, len(labelled.times)) == (LOG, SIZE, 156)
    assert labelled.times[:2] == (0, Fraction(100_194_000, 10**9))
    # each box is seen or counted; about half of a street lies ahead, of which a lens of 75 degrees takes most
    assert len(labelled.boxes) + remarks.count[argoverse.NOT_SEEN] == 12078
    assert set(remarks.count) == {argoverse.NOT_SEEN} and 2000 < len(labelled.boxes) < 6000
    kinds = dict(zip(labelled.boxes.words, labelled.boxes.cls, strict=True))
    assert kinds["REGULAR_VEHICLE"] == kinds["LARGE_VEHICLE"] == "car" and kinds["PEDESTRIAN"] == "pedestrian"
    assert kinds["SIGN"] == kinds["CONSTRUCTION_CONE"] == "other"
    # what is seen far ahead is as high as its metres over its distance
    log = argoverse.parse(folder, Remarks())
    checked = 0
    for row, (x, y, _) in enumerate(log.cuboids.centre.tolist()):
        if x > 40 and abs(y) < 10:
            number = next(n for n, name in labelled.ids.items() if name == log.tracks[row])
            time = Fraction(log.times[row] - SWEEP, 10**9)
            (at,) = [n for n, t in enumerate(labelled.boxes.time) if t == time and labelled.boxes.track[n] == number]
            box = pixels(labelled)[at]
            assert box[3] - box[1] == pytest.approx(1000 * log.cuboids.size[row, 2] / (x - 1), rel=0.25)
            checked += 1
            if checked == 50:
                break
    assert checked == 50


def test_the_genuine_first_log(first: Path) -> None:
    remarks = Remarks()
    log = argoverse.parse(first, remarks)
    assert (len(log.times), len(set(log.tracks)), log.sweeps) == (6, 2, (0, 1, 2)) and not remarks.count
    for place in (first, first.parent):
        remarks = Remarks()
        assert argoverse.claims(place)
        (labelled,) = argoverse.read(place, nothing_known, remarks)
        assert (labelled.video, labelled.size, len(labelled.boxes)) == ("1", (1200, 1920), 0)
        assert labelled.times == (0, Fraction(1, 10**9), Fraction(2, 10**9))
        assert remarks.count == {argoverse.NOT_SEEN: 6}  # one stands around the vehicle, one beside it
    # the stereo pair looks the same way through longer lenses, the left ring camera sees the box ahead on the left
    (labelled,) = argoverse.read(first, nothing_known, Remarks(), camera="stereo_front_left")
    assert labelled.size == (2056, 2464)
    (labelled,) = argoverse.read(first, nothing_known, Remarks(), camera="ring_front_left")
    assert set(labelled.boxes.words) == {"VEHICLE"} and len(labelled.boxes) == 3
    assert labelled.id_of(labelled.boxes.track[0]) == "00000000-0000-0000-0000-000000000001"


def first_copy(first: Path, folder: Path) -> Path:
    shutil.copytree(first, folder, ignore=shutil.ignore_patterns("lidar"))
    return folder


def change(file: Path, edit: Callable[[Any], object]) -> None:
    value = json.loads(file.read_text())
    edit(value)
    file.write_text(json.dumps(value))


def test_the_first_log_with_a_box_ahead(first: Path, tmp_path: Path) -> None:
    folder = first_copy(first, tmp_path / "log")
    sweep = folder / argoverse.FIRST / "tracked_object_labels_1.json"
    change(sweep, lambda rows: rows[0]["center"].update(x=20, z=1))
    change(sweep, lambda rows: rows[0].update(label_class={"name": "PEDESTRIAN"}))
    (folder / argoverse.FIRST / "tracked_object_labels_0.json").write_text("[]")
    (folder / argoverse.FIRST / "tracked_object_labels_10.json").write_text("[]")
    (labelled,) = argoverse.read(folder, nothing_known, Remarks())
    assert [time * 10**9 for time in labelled.times] == [0, 1, 2, 10]
    assert labelled.boxes.words == ("PEDESTRIAN",)
    cameras = json.loads((folder / argoverse.CALIBRATION).read_text())["camera_data_"]
    lens = next(row["value"] for row in cameras if row["key"] == "image_raw_ring_front_center")
    across = pixels(labelled)[0, 2] - pixels(labelled)[0, 0]
    near = 19 - lens["vehicle_SE3_camera_"]["translation"][0]
    assert across == pytest.approx(2 * lens["focal_length_x_px_"] / near, rel=0.02)  # the camera is a bit askew


def test_boxes_through_a_known_camera(tmp_path: Path) -> None:
    folder = labelled_log(calibrated(tmp_path / "train" / "log"), CARS)
    remarks = Remarks()
    (labelled,) = argoverse.read(tmp_path, nothing_known, remarks)
    assert labelled.video == folder.name and labelled.boxes.cls == ("car", "car")
    assert labelled.boxes.time == labelled.times == (0, Fraction(100_194_000, 10**9))
    assert pixels(labelled) == pytest.approx(np.array([[675, 924, 875, 1124], [575, 824, 975, 1224]]))
    assert remarks.count == {argoverse.NOT_SEEN: 1} and np.isnan(labelled.boxes.visibility).all()
    with pytest.raises(Mistake, match="no camera 'ring_rear_left'") as found:
        argoverse.read(folder, nothing_known, Remarks(), camera="ring_rear_left")
    assert found.value.mend == "it has ring_front_center, ring_front_left"


def test_time_counts_from_the_cameras_first_image_where_there_are_images(tmp_path: Path) -> None:
    folder = labelled_log(calibrated(tmp_path / "log"), CARS)
    images = folder / "sensors" / "cameras" / "ring_front_center"
    images.mkdir(parents=True)
    for time in (SWEEP + 50_000_000, SWEEP + 100_000_000):
        (images / f"{time}.jpg").touch()
    (images / "thumbs.jpg").touch()
    remarks = Remarks()
    (labelled,) = argoverse.read(folder, nothing_known, remarks)
    assert labelled.times == (Fraction(50_194_000, 10**9),) and len(labelled.boxes) == 1
    assert remarks.count == {argoverse.EARLY: 1}


def test_one_bad_box_is_a_remark(first: Path, tmp_path: Path) -> None:
    boxes = [*CARS, *((SWEEP, name, "BUS", (20.0, 0.0, 1.0), (9.0, 2.0, 3.0)) for name in "cdef")]
    place = pa.array([*(box[3][0] for box in CARS), None, float("nan"), 1e300, 20.0], pa.float64())
    width = pa.array([2.0, 1, 2, 2, 2, 2, 0], pa.float64())
    words = pa.array([None, *(box[2] for box in boxes[1:])], pa.string())
    folder = labelled_log(calibrated(tmp_path / "second"), boxes, tx_m=place, width_m=width, category=words)
    remarks = Remarks()
    (labelled,) = argoverse.read(folder, nothing_known, remarks)
    assert len(labelled.boxes) == 1 and remarks.count == {argoverse.BROKEN: 5, argoverse.NOT_SEEN: 1}

    folder = first_copy(first, tmp_path / "first")
    sweep = folder / argoverse.FIRST / "tracked_object_labels_1.json"
    change(sweep, lambda rows: rows[0].update(length="2"))
    change(sweep, lambda rows: rows[1]["rotation"].update(y=0))
    change(sweep, lambda rows: rows[1]["rotation"].update(z=0))
    remarks = Remarks()
    assert len(argoverse.parse(folder, remarks).times) == 4 and remarks.count == {argoverse.BROKEN: 2}


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"tx_m": pa.array(["13", "1", "2"])}, "tx_m is not a column of numbers"),
        ({"timestamp_ns": pa.array([1.0, 2.0, 3.0])}, "whole numbers"),
        ({"timestamp_ns": pa.array([1, None, 3])}, "whole numbers"),
    ],
)
def test_columns_of_another_kind_are_mistakes(tmp_path: Path, changed: dict[str, pa.Array], what: str) -> None:
    folder = labelled_log(calibrated(tmp_path / "log"), CARS, **changed)
    with pytest.raises(Mistake, match=what) as found:
        argoverse.read(folder, nothing_known, Remarks())
    assert found.value.where == folder / argoverse.SECOND


@pytest.mark.parametrize("name", ["annotations", "calibration/intrinsics", "calibration/egovehicle_SE3_sensor"])
def test_any_bytes_of_a_table_are_a_mistake(tmp_path: Path, name: str) -> None:
    folder = labelled_log(calibrated(tmp_path / "log"), CARS)
    file = folder / f"{name}.feather"
    whole = file.read_bytes()
    other = tmp_path / "other.feather"
    feather.write_feather(pa.table({"x": [1]}), str(other))
    for data in (b"", b"ARROW1\0\0", whole[:-20], whole[20:], whole[: len(whole) // 2], other.read_bytes()):
        file.write_bytes(data)
        assert argoverse.claims(folder)
        with pytest.raises(Mistake) as found:
            argoverse.read(folder, nothing_known, Remarks())
        assert found.value.where == file


def test_a_camera_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    for n, (column, value) in enumerate((("fx_px", 0.0), ("fy_px", float("nan")), ("height_px", 0.5), ("fx_px", None))):
        folder = labelled_log(calibrated(tmp_path / str(n)), CARS)
        file = folder / argoverse.INTRINSICS
        table = feather.read_table(str(file))
        at = table.column_names.index(column)
        feather.write_feather(table.set_column(at, column, pa.array([value, value], pa.float64())), str(file))
        with pytest.raises(Mistake, match="ring_front_center"):
            argoverse.read(folder, nothing_known, Remarks())


@pytest.mark.parametrize(
    ("file", "data", "what"),
    [
        ("vehicle_calibration_info.json", b"", "not JSON"),
        ("vehicle_calibration_info.json", b"{}", "no 'camera_data_'"),
        ("vehicle_calibration_info.json", b'{"camera_data_": []}', "no camera"),
        ("vehicle_calibration_info.json", None, "vehicle_calibration_info.json, which is missing"),
        ("per_sweep_annotations_amodal/tracked_object_labels_1.json", b"{}", "not a list"),
        ("per_sweep_annotations_amodal/tracked_object_labels_1.json", b"[" * 100_000, "not JSON"),
        ("per_sweep_annotations_amodal/tracked_object_labels_x.json", b"[]", "time in nanoseconds"),
    ],
)
def test_broken_files_of_the_first_are_mistakes(
    first: Path, tmp_path: Path, file: str, data: bytes | None, what: str
) -> None:
    folder = first_copy(first, tmp_path / "log")
    if data is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(data)
    with pytest.raises(Mistake, match=what):
        argoverse.read(folder, nothing_known, Remarks())


def test_no_log(tmp_path: Path) -> None:
    assert not argoverse.claims(tmp_path) and not argoverse.claims(tmp_path / "none")
    with pytest.raises(Mistake, match="no Argoverse log"):
        argoverse.read(tmp_path, nothing_known, Remarks())


PLACES = st.tuples(st.floats(-80, 80), st.floats(-40, 40), st.floats(-5, 5))
SIZES = st.tuples(*[st.floats(0.05, 15)] * 3)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 9), PLACES, SIZES), min_size=1, max_size=8))
def test_every_box_is_seen_or_counted(tmp_path: Path, drawn: list[tuple[int, Any, Any]]) -> None:
    folder = tmp_path / "log"
    if not folder.exists():
        calibrated(folder)
    rows: list[Box] = [(SWEEP + time, f"t{n}", "BUS", place, size) for n, (time, place, size) in enumerate(drawn)]
    remarks = Remarks()
    (labelled,) = argoverse.read(labelled_log(folder, rows), nothing_known, remarks)
    assert len(labelled.boxes) + sum(remarks.count.values()) == len(drawn)
    assert len(labelled.times) == len({time for time, _, _ in drawn})
    for number, name in labelled.ids.items():
        _, (x, y, _), (length, width, _) = drawn[int(name[1:])]
        assert x + length / 2 > 1  # nothing behind the camera is seen
        if abs(y) > width / 2 and x - length / 2 > 1.2:  # what is to one side is seen on that side
            box = pixels(labelled)[labelled.boxes.track == number][0]
            assert (box[2] <= 775 + 1e-6) if y > 0 else (box[0] >= 775 - 1e-6)
