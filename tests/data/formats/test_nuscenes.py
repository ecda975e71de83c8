"""nuScenes' tables: a genuine T4 folder, one of known geometry, and broken ones."""

import json
import math
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats import nuscenes
from drivesim.errors import Mistake

LOOKING_AHEAD = [0.5, -0.5, 0.5, -0.5]
UPRIGHT = [1.0, 0, 0, 0]
START = 1_532_402_927_612_460  # microseconds, as nuScenes counts
SIZE = (900, 1600)


def nothing_known(name: str) -> Footage:
    return Footage()


@pytest.fixture
def genuine(shared: Path) -> Path:
    return shared / "data/permissive/labels/t4_devkit/tests/sample"


def pixels(labelled: Labelled) -> np.ndarray:
    height, width = labelled.size
    return labelled.boxes.box * (width, height, width, height)


Rows = dict[str, list[dict[str, Any]]]


def drive(frames: list[tuple[int, float, bool]], boxes: list[tuple[int, str, list[float], list[float], str]]) -> Rows:
    """Tables of a drive along x with a camera of 1000 pixels focal length, 1 m ahead of the vehicle and 2 m above it.

    Args:
        frames: microseconds, x of the vehicle, whether a key-frame.
        boxes: number of the key-frame, instance, centre and size (width, length, height), visibility token.
    """
    keys = [n for n, frame in enumerate(frames) if frame[2]]
    following = [next((k for k, key in enumerate(keys) if key >= n), len(keys) - 1) for n in range(len(frames))]
    return {
        "scene": [{"token": "s", "name": "scene-0001", "description": "Night, rain", "log_token": ""}],
        "sensor": [{"token": "cam", "channel": "CAM_FRONT"}, {"token": "lid", "channel": "LIDAR_TOP"}],
        "calibrated_sensor": [
            {
                "token": "cal",
                "sensor_token": "cam",
                "translation": [1, 0, 2],
                "rotation": LOOKING_AHEAD,
                "camera_intrinsic": [[1000, 0, 800], [0, 1000, 450], [0, 0, 1]],
            }
        ],
        "sample": [
            {"token": f"k{k}", "scene_token": "s", "timestamp": START + frames[n][0] + 40_000}
            for k, n in enumerate(keys)
        ],
        "sample_data": [
            {
                "token": f"f{n}",
                "sample_token": f"k{following[n]}",
                "ego_pose_token": f"e{n}",
                "calibrated_sensor_token": "cal",
                "timestamp": START + time,
                "is_key_frame": key,
                "height": SIZE[0],
                "width": SIZE[1],
            }
            for n, (time, _, key) in enumerate(frames)
        ],
        "ego_pose": [
            {"token": f"e{n}", "translation": [x, 0, 0], "rotation": UPRIGHT} for n, (_, x, _) in enumerate(frames)
        ],
        "category": [{"token": "c", "name": "vehicle.car"}],
        "instance": [{"token": name, "category_token": "c"} for name in sorted({box[1] for box in boxes})],
        "sample_annotation": [
            {
                "token": f"a{n}",
                "sample_token": f"k{key}",
                "instance_token": name,
                "translation": centre,
                "size": size,
                "rotation": UPRIGHT,
                "visibility_token": seen,
            }
            for n, (key, name, centre, size, seen) in enumerate(boxes)
        ],
    }


def written(folder: Path, tables: Rows) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


# ahead by 10 m at key 0, 20 m at key 1, while the vehicle drives 5 m; two metres wide, long and high
HALF_A_SECOND = [(0, 0.0, True), (83_334, 1.0, False), (250_001, 2.5, False), (500_002, 5.0, True)]
CAR = [
    (0, "car", [12.0, 0, 2], [2.0, 2, 2], "4"),
    (1, "car", [27.0, 0, 2], [2.0, 2, 2], "2"),
]


def test_the_genuine_tables_with_their_camera_to_the_sky(genuine: Path) -> None:
    """The fixture's camera looks along the vehicle's z and sees none of its four boxes: counted, not lost."""
    for place in (genuine, genuine / "t4dataset", genuine / "t4dataset" / "annotation"):
        remarks = Remarks()
        assert nuscenes.claims(place)
        (labelled,) = nuscenes.read(place, nothing_known, remarks)
        assert (labelled.video, labelled.size, len(labelled.boxes)) == ("minimal_test_scene", (600, 800), 0)
        assert labelled.times == (0, 1, 2)
        assert remarks.count == {nuscenes.NOT_SEEN: 4}
    assert not nuscenes.claims(genuine / "t4dataset" / "data")


def test_the_genuine_tables_with_their_camera_ahead(genuine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "annotation"
    shutil.copytree(genuine / "t4dataset" / "annotation", folder)
    cameras = json.loads((folder / "calibrated_sensor.json").read_text())
    cameras[1]["rotation"] = LOOKING_AHEAD
    (folder / "calibrated_sensor.json").write_text(json.dumps(cameras))
    remarks = Remarks()
    (labelled,) = nuscenes.read(tmp_path, nothing_known, remarks)
    assert labelled.boxes.cls == ("car", "pedestrian") and labelled.boxes.time == (0, 0)
    assert labelled.boxes.visibility.tolist() == [1.0, 0.75]  # T4's "full" and "most"
    # The car is 4.5 m wide, 2 m long, 1.8 m high (the order of the tables), 7.5 m ahead, 2.75 m to the left.
    # The pedestrian is cut by the right edge, x = z / 2, and by the bottom.
    car = [0, 300 - 800 * 0.1 / 7.5, 400 - 800 * 2.75 / 9.5, 300 + 800 * 1.7 / 7.5]
    pedestrian = [400 + 800 * 1.6 / 3.9, 300 + 800 * 0.05 / 3.9, 800, 600]
    assert pixels(labelled) == pytest.approx(np.array([car, pedestrian]))
    assert remarks.count == {nuscenes.NOT_SEEN: 2}
    assert labelled.id_of(labelled.boxes.track[0]) == "90f0c98d1a040d5360847f576c5528f8"


def test_another_camera(genuine: Path) -> None:
    (labelled,) = nuscenes.read(genuine, nothing_known, Remarks(), camera="CAM_BACK")
    assert labelled.size == (600, 800)
    with pytest.raises(Mistake, match="no camera 'CAM_SIDE'") as found:
        nuscenes.read(genuine, nothing_known, Remarks(), camera="CAM_SIDE")
    assert found.value.mend == "it has CAM_BACK, CAM_FRONT, LIDAR_TOP"


def test_between_keys_boxes_move_to_the_frames_own_time_and_pose(tmp_path: Path) -> None:
    remarks = Remarks()
    place = written(tmp_path / "v1.0-mini", drive(HALF_A_SECOND, CAR))
    (labelled,) = nuscenes.read(tmp_path, nothing_known, remarks)
    assert place.is_dir() and not remarks.count
    assert labelled.labels.night is True
    assert labelled.times == labelled.boxes.time == tuple(Fraction(frame[0], 10**6) for frame in HALF_A_SECOND)
    # near side at 12 - 1 - 1 = 10 m at first; 27 - 5 - 1 - 1 = 20 m at last; a quarter of 2 m each way, at 1000 pixels
    shares = [0, 83_334 / 500_002, 0.5, 1]
    near = [12 + 15 * share - x - 2 for share, (_, x, _) in zip(shares, HALF_A_SECOND, strict=True)]
    assert near[0] == 10 and near[2] == pytest.approx(15) and near[3] == 20
    expected = [[800 - 1000 / z, 450 - 1000 / z, 800 + 1000 / z, 450 + 1000 / z] for z in near]
    assert pixels(labelled) == pytest.approx(np.array(expected))
    # ranges 80-100 % and 40-60 %, by nuScenes' tokens
    assert labelled.boxes.visibility == pytest.approx([0.9, 0.9 - 0.4 * shares[1], 0.7, 0.5])
    assert labelled.boxes.words == ("vehicle.car",) * 4


def test_what_is_labelled_at_one_key_alone_stands_there_alone(tmp_path: Path) -> None:
    tables = drive(HALF_A_SECOND, [*CAR, (1, "new", [40.0, 5, 2], [2.0, 2, 2], "1")])
    (labelled,) = nuscenes.read(written(tmp_path, tables), nothing_known, Remarks())
    new = [time for time, track in zip(labelled.boxes.time, labelled.boxes.track, strict=True) if track == 1]
    assert new == [Fraction(500_002, 10**6)] and len(labelled.boxes) == 5


def test_frames_outside_of_the_keys_are_not_labelled(tmp_path: Path) -> None:
    frames = [(0, 0.0, False), (100_000, 1.0, True), (200_000, 2.0, True), (300_000, 3.0, False)]
    (labelled,) = nuscenes.read(written(tmp_path, drive(frames, CAR)), nothing_known, Remarks())
    assert labelled.times == (Fraction(1, 10), Fraction(1, 5))  # counted from the first frame all the same


def test_levels_are_told_by_the_table_where_there_is_one(tmp_path: Path) -> None:
    tables = drive(HALF_A_SECOND, CAR)
    tables["visibility"] = [{"token": "4", "level": "v0-40"}, {"token": "2", "level": "unavailable"}]
    (labelled,) = nuscenes.read(written(tmp_path, tables), nothing_known, Remarks())
    assert labelled.boxes.visibility[0] == 0.2 and math.isnan(labelled.boxes.visibility[3])


def test_size_comes_from_the_video_where_the_tables_have_none(tmp_path: Path) -> None:
    tables = drive(HALF_A_SECOND, CAR)
    for row in tables["sample_data"]:
        del row["height"]
        row["width"] = 0
    place = written(tmp_path, tables)
    with pytest.raises(Mistake, match="how large") as found:
        nuscenes.read(place, nothing_known, Remarks())
    assert found.value.mend == "index it together with its video"
    (labelled,) = nuscenes.read(place, lambda name: Footage(SIZE), Remarks())
    assert labelled.size == SIZE


def test_one_bad_box_is_a_remark(tmp_path: Path) -> None:
    tables = drive(HALF_A_SECOND, [*CAR, *CAR, *CAR])
    rows = tables["sample_annotation"]
    rows[2]["size"] = [2, "2", 2]
    rows[3]["translation"] = [math.nan, 0, 0]
    rows[4]["size"] = [2, 0, 2]
    del rows[5]["instance_token"]
    rows.append({**rows[0], "sample_token": "elsewhere"})
    rows.append({**rows[0], "rotation": [0, 0, 0, 0]})
    remarks = Remarks()
    (labelled,) = nuscenes.read(written(tmp_path, tables), nothing_known, remarks)
    assert len(labelled.boxes) == 4
    assert remarks.count == {nuscenes.BROKEN: 5, nuscenes.NOWHEN: 1}
    assert "[2].size[1] is not a number" in remarks.examples[nuscenes.BROKEN][0]


def test_scenes_without_labels_or_frames_are_told(tmp_path: Path) -> None:
    tables = drive(HALF_A_SECOND, CAR)
    tables["scene"].append({"token": "t", "name": "scene-0002"})
    remarks = Remarks()
    assert len(nuscenes.read(written(tmp_path, tables), nothing_known, remarks)) == 1
    assert remarks.examples == {f"{nuscenes.NO_FRAMES} CAM_FRONT": ["scene-0002"]}
    tables["sample_annotation"] = []
    remarks = Remarks()
    assert nuscenes.read(written(tmp_path, tables), nothing_known, remarks) == []
    assert remarks.count[nuscenes.NO_BOXES] == 1


def test_a_distorting_lens_and_a_frame_called_invalid_are_told(tmp_path: Path) -> None:
    tables = drive(HALF_A_SECOND, CAR)
    tables["calibrated_sensor"][0]["camera_distortion"] = [-0.3, 0.1, 0, 0, 0]
    tables["sample_data"][1]["is_valid"] = False
    remarks = Remarks()
    (labelled,) = nuscenes.read(written(tmp_path, tables), nothing_known, remarks)
    assert len(labelled.boxes) == 3 and remarks.count == {nuscenes.DISTORTED: 1, nuscenes.INVALID: 1}


def set_in(table: str, key: str, value: Any) -> Callable[[Rows], None]:
    def change(tables: Rows) -> None:
        tables[table][0][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda tables: tables.pop("ego_pose"), "cannot be read"),
        (lambda tables: tables["ego_pose"].pop(), "has no 'e3'"),
        (lambda tables: tables["sample"][0].pop("timestamp"), r"\[0\] has no 'timestamp'"),
        (lambda tables: tables["scene"].append(dict(tables["scene"][0])), "two scenes 'scene-0001'"),
        (set_in("ego_pose", "rotation", [0, 0, 0, 0]), "no pose"),
        (set_in("ego_pose", "translation", [0, 1e300, 0]), "no pose"),
        (set_in("calibrated_sensor", "camera_intrinsic", []), "matrix of a camera"),
        (set_in("calibrated_sensor", "camera_intrinsic", [[1, 0], [0, 1]]), "has 2 numbers, not 3"),
        (set_in("sample_data", "timestamp", "now"), "not a whole number"),
        (set_in("sample_data", "timestamp", 1.5), "not a whole number"),
        (set_in("sample_data", "sample_token", "nowhere"), "no row of sample.json"),
        (set_in("sample_data", "width", 800), "several sizes"),
        (set_in("sensor", "channel", None), "not a text"),
    ],
)
def test_broken_tables_are_mistakes(tmp_path: Path, change: Callable[[Rows], object], what: str) -> None:
    tables = drive(HALF_A_SECOND, CAR)
    change(tables)
    with pytest.raises(Mistake, match=what) as found:
        nuscenes.read(written(tmp_path, tables), nothing_known, Remarks())
    assert str(tmp_path) in str(found.value.where)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b"[", b"\xff\xfe", b"[" * 100_000, b'[{"token": 1e999}]', b"null"]
)
@pytest.mark.parametrize("table", ["scene", "sample_annotation", "sample_data"])
def test_any_bytes_are_a_mistake(tmp_path: Path, table: str, data: bytes) -> None:
    place = written(tmp_path, drive(HALF_A_SECOND, CAR))
    (place / f"{table}.json").write_bytes(data)
    assert nuscenes.claims(place)
    with pytest.raises(Mistake) as found:
        nuscenes.read(place, nothing_known, Remarks())
    assert found.value.where == place / f"{table}.json"


def test_no_tables(tmp_path: Path) -> None:
    assert not nuscenes.claims(tmp_path) and not nuscenes.claims(tmp_path / "none")
    with pytest.raises(Mistake, match="no nuScenes tables"):
        nuscenes.read(tmp_path, nothing_known, Remarks())


BOXES = st.lists(
    st.tuples(
        st.lists(st.floats(-60, 60), min_size=3, max_size=3), st.lists(st.floats(0.1, 12), min_size=3, max_size=3)
    ),
    max_size=6,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BOXES)
def test_what_stands_still_keeps_its_box(tmp_path: Path, boxes: list[tuple[list[float], list[float]]]) -> None:
    still = [(time, 0.0, key) for time, _, key in HALF_A_SECOND]
    both = [(key, f"t{n}", *box, "4") for n, box in enumerate(boxes) for key in (0, 1)]
    remarks = Remarks()
    read = nuscenes.read(written(tmp_path, drive(still, both)), nothing_known, remarks)
    if not boxes:
        assert read == [] and remarks.count == {nuscenes.NO_BOXES: 1}
        return
    found = read[0].boxes
    assert len(found) + sum(remarks.count.values()) == 4 * len(boxes)
    for track in set(found.track):
        mine = found.box[found.track == track]
        assert len(mine) == 4 and np.ptp(mine, axis=0).max() < 1e-6
