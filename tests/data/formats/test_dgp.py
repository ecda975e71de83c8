"""DGP scenes: the genuine one, whose boxes in the plane are also what we project of its boxes in space; broken ones."""

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivesim.data.annotations import Footage, Remarks
from drivesim.data.cuboids import cuboids, seen
from drivesim.data.formats import dgp
from drivesim.errors import Mistake

COUNTS = {"CAMERA_01": (3, 71, 24), "CAMERA_05": (3, 67, 23), "CAMERA_06": (3, 21, 7)}


def nothing_known(name: str) -> Footage:
    return Footage()


@pytest.fixture
def genuine(shared: Path) -> Path:
    return shared / "data/permissive/dgp/test_scene"


@pytest.mark.parametrize("place", ["", "scene_01", "scene_dataset_v1.0.json", "scene_01/scene_*.json"])
def test_the_genuine_scene(genuine: Path, place: str) -> None:
    remarks = Remarks()
    (found,) = genuine.glob(place) if place else (genuine,)
    assert dgp.claims(found)
    read = dgp.read(found, nothing_known, remarks)
    counts = {
        labelled.video: (len(labelled.times), len(labelled.boxes), len(set(labelled.boxes.track))) for labelled in read
    }
    assert counts == COUNTS and sum(len(labelled.boxes) for labelled in read) == 159
    for labelled in read:
        assert labelled.size == (1216, 1936)
        assert labelled.times == (0, 1, Fraction(2_000_012, 10**6))
        assert set(zip(labelled.boxes.words, labelled.boxes.cls, strict=True)) <= {
            ("Car", "car"),
            ("Person", "pedestrian"),
            ("Bus/RV/Caravan", "bus"),
        }
        assert not labelled.ids  # a track keeps the number of its instance
    # of the boxes nothing is wrong; the data set names a second scene, which the bundle leaves out
    assert remarks.count == ({dgp.NO_SCENE: 1} if "dataset" in place else {})


def test_times_close_to_a_frame_are_that_frames(genuine: Path) -> None:
    """The images of a camera are 12 us late by the third; as a video they are one a second."""
    for labelled in dgp.read(genuine, lambda _: Footage((1216, 1936), Fraction(1), 3), Remarks()):
        assert labelled.times == (0, 1, 2) and set(labelled.boxes.time) == {0, 1, 2}


def test_what_is_not_a_scene_is_not_claimed(genuine: Path) -> None:
    scene = genuine / "scene_01"
    others = [genuine / "agents_pcc_mini_v1.json", genuine.parent / "LICENSE", scene / "rgb", scene / "none"]
    assert not any(map(dgp.claims, [*others, *scene.glob("*/*/*.json"), *scene.glob("ontology/*")]))


def test_the_provider_projects_boxes_in_space_as_we_do(genuine: Path) -> None:
    """Its boxes in the plane are its boxes in space through its cameras, in whole pixels and cut to the frame."""
    scene = genuine / "scene_01"
    calibration = json.loads(next((scene / "calibration").glob("*.json")).read_text())
    compared = cut = 0
    for datum in json.loads(next(scene.glob("scene_*.json")).read_text())["data"]:
        if "image" not in datum["datum"]:
            continue
        image = datum["datum"]["image"]
        lens = calibration["intrinsics"][calibration["names"].index(datum["id"]["name"])]
        matrix = np.array([[lens["fx"], lens["skew"], lens["cx"]], [0, lens["fy"], lens["cy"]], [0, 0, 1]])
        plane, space = (json.loads((scene / image["annotations"][key]).read_text())["annotations"] for key in "01")
        drawn = {row["instance_id"]: [row["box"][key] for key in "xywh"] for row in plane}
        assert set(drawn) == {row["instance_id"] for row in space}
        rows = [
            (
                *(row["box"]["pose"]["translation"][key] for key in "xyz"),
                *(row["box"][key] for key in ("length", "width", "height")),
                *(row["box"]["pose"]["rotation"][key] for key in ("qw", "qx", "qy", "qz")),
            )
            for row in space
        ]
        found = seen(cuboids(rows).corners(), matrix, (image["height"], image["width"]))
        for row, (x0, y0, x1, y1) in zip(space, found, strict=True):
            x, y, w, h = drawn[row["instance_id"]]
            compared += 1
            left, right = x0 < 1e-6, x1 > 1936 - 1e-6
            assert x == 0 if left else abs(x0 - x - 0.5) < 0.6  # numbers are rounded down, those of boxes earlier
            assert x + w in (1935, 1936) if right else abs(x1 - x - w - 0.5) < 0.6
            if left or right:  # the provider cuts after projecting, so that its box may be higher than ours
                cut += 1
                assert y - 0.1 < y0 and y1 < y + h + 1.1
            else:
                assert abs(y0 - y - 0.5) < 0.6 and abs(y1 - y - h - 0.5) < 0.6
    assert (compared, cut) == (159, 13)


@pytest.fixture
def scene(genuine: Path, tmp_path: Path) -> Path:
    """The genuine one without its images, to be spoiled."""
    folder = tmp_path / "scene_01"
    shutil.copytree(genuine / "scene_01", folder, ignore=shutil.ignore_patterns("rgb", "bounding_box_3d"))
    return folder


def change(file: Path, edit: Callable[[Any], object]) -> Path:
    value = json.loads(file.read_text())
    edit(value)
    file.write_text(json.dumps(value))
    return file


def top(scene: Path) -> Path:
    return next(scene.glob("scene_*.json"))


def test_videos_of_several_scenes_have_the_scenes_names(scene: Path) -> None:
    shutil.copytree(scene, scene.parent / "scene_02")
    read = dgp.read(scene.parent, nothing_known, Remarks())
    assert [labelled.video for labelled in read] == [f"scene_0{n}_{camera}" for n in (1, 2) for camera in COUNTS]


def test_one_bad_box_is_a_remark(scene: Path) -> None:
    def spoil(value: Any) -> None:
        rows = value["annotations"]
        rows[0]["box"]["w"] = "185"
        del rows[1]["instance_id"]
        rows[2]["class_id"] = 99
        rows[3]["iscrowd"] = True
        rows[4]["box"]["w"] = -5
        rows[5] = None

    change(scene / "bounding_box_2d/CAMERA_01/15569195938203752.json", spoil)
    remarks = Remarks()
    boxes = dgp.read(scene, nothing_known, remarks)[0].boxes
    assert len(boxes) == 71 - 4 and boxes.ignored.sum() == 1
    assert ("other", "class 99") in zip(boxes.cls, boxes.words, strict=True)
    assert remarks.count[dgp.BROKEN] == 3 and sum(remarks.count.values()) == 5
    assert "annotations[0].box.w is not a number" in remarks.examples[dgp.BROKEN][0]


def test_an_image_without_boxes_in_the_plane_is_not_labelled(scene: Path) -> None:
    def spoil(value: Any) -> None:
        for datum in value["data"]:
            if datum["id"]["name"] == "CAMERA_05":
                del datum["datum"]["image"]["annotations"]["0"]
        del value["data"][1]["datum"]["image"]["annotations"]

    change(top(scene), spoil)
    remarks = Remarks()
    read = dgp.read(scene, nothing_known, remarks)
    assert [(labelled.video, len(labelled.times)) for labelled in read] == [("CAMERA_01", 2), ("CAMERA_06", 3)]
    assert read[0].times[0] == 1  # counted from the camera's first image all the same
    assert remarks.count == {dgp.NO_BOXES: 4}


def test_size_comes_from_the_video_where_the_scene_has_none(scene: Path) -> None:
    def spoil(value: Any) -> None:
        for datum in value["data"]:
            if "image" in datum["datum"]:
                datum["datum"]["image"]["height"] = 0

    change(top(scene), spoil)
    with pytest.raises(Mistake, match="how large") as found:
        dgp.read(scene, nothing_known, Remarks())
    assert found.value.mend == "index it together with its video"
    assert len(dgp.read(scene, lambda name: Footage((1216, 1936)), Remarks())) == 3


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda value: value.pop("data"), "has no 'data'"),
        (lambda value: value["ontologies"].update({"0": "../calibration"}), "cannot be read"),
        (lambda value: value["ontologies"].update({"0": "../../../elsewhere"}), "leads out"),
        (lambda value: value["data"][1]["id"].update(timestamp="yesterday"), "not a time"),
        (lambda value: value["data"][1]["id"].update(timestamp="2463-13-15T00:38:58Z"), "not a time"),
        (lambda value: value["data"][1]["datum"]["image"].update(width=640), "several sizes"),
        (lambda value: value["data"][1]["datum"]["image"].update(width="wide"), "not a whole number"),
        (lambda value: value["data"][1]["datum"]["image"]["annotations"].update({"0": "/etc/passwd"}), "leads out"),
        (lambda value: value["data"][1]["datum"]["image"]["annotations"].update({"0": "none.json"}), "cannot be read"),
        (lambda value: value["data"].append(None), "not an object"),
    ],
)
def test_broken_scenes_are_mistakes(scene: Path, edit: Callable[[Any], object], what: str) -> None:
    change(top(scene), edit)
    with pytest.raises(Mistake, match=what):
        dgp.read(scene, nothing_known, Remarks())


@pytest.mark.parametrize("data", [b"", b"null", b"[", b"\xff\xfe", b"[" * 100_000, b'{"items": 1, "annotations": 1}'])
@pytest.mark.parametrize("name", ["scene_*.json", "ontology/*.json", "bounding_box_2d/CAMERA_06/*938203752.json"])
def test_any_bytes_are_a_mistake(scene: Path, name: str, data: bytes) -> None:
    file = next(scene.glob(name))
    file.write_bytes(data)
    with pytest.raises(Mistake) as found:
        dgp.read(scene, nothing_known, Remarks())
    assert found.value.where == file


def test_no_scene(tmp_path: Path) -> None:
    assert not dgp.claims(tmp_path)
    with pytest.raises(Mistake, match="no DGP scene"):
        dgp.read(tmp_path, nothing_known, Remarks())


def test_times_are_exact_to_the_nanosecond(scene: Path) -> None:
    change(top(scene), lambda value: value["data"][5]["id"].update(timestamp="2463-05-15T00:38:59.000000001Z"))
    change(top(scene), lambda value: value["data"][1]["id"].update(timestamp="2463-05-15T00:38:58Z"))
    assert dgp.read(scene, nothing_known, Remarks())[0].times[1] == 1 + Fraction(1, 10**9)


NUMBERS = st.tuples(st.integers(0, 1900), st.integers(0, 1200), st.integers(1, 36), st.integers(1, 16))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(0, 2**32 - 1), NUMBERS, max_size=8))
def test_every_box_arrives_with_its_corners(scene: Path, drawn: dict[int, tuple[int, int, int, int]]) -> None:
    rows = [
        {"box": dict(zip("xywh", box, strict=True)), "class_id": 2, "instance_id": track}
        for track, box in drawn.items()
    ]
    change(scene / "bounding_box_2d/CAMERA_06/15569195938203752.json", lambda value: value.update(annotations=rows))
    remarks = Remarks()
    labelled = dgp.read(scene, nothing_known, remarks)[2]
    first = [n for n, time in enumerate(labelled.boxes.time) if time == 0]
    pixels = labelled.boxes.box[first] * (1936, 1216, 1936, 1216)
    assert dict(zip(labelled.boxes.track[first].tolist(), pixels.tolist(), strict=True)) == {
        track: pytest.approx([x, y, x + w, y + h]) for track, (x, y, w, h) in drawn.items()
    }
    assert not remarks.count
