"""COCO-VID: the fields of its dialects, a round trip of genuine tracks, files that are broken.

No genuine COCO-VID file may lie here: the files below are typed in its form, and the genuine tracks are BDD100K's.
"""

import json
import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.data import annotations
from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats import bdd100k, coco, counted
from drivesim.data.formats.coco import FORMAT
from drivesim.errors import Mistake
from drivesim.scene import Labels

from . import tracks

Document = dict[str, Any]


def document(**box: object) -> Document:
    """A video of two frames, the second without boxes."""
    image = {"video_id": 7, "width": 1280, "height": 720}
    annotation = {"id": 1, "image_id": 11, "category_id": 3, "instance_id": 5, "bbox": [100, 200, 50.5, 80], **box}
    return {
        "videos": [{"id": 7, "name": "train/drive.v2.mp4", "fps": 30}],
        "categories": [{"id": 3, "name": "car"}, {"id": 4, "name": "pedestrian"}],
        "images": [{**image, "id": 11 + n, "frame_id": n, "file_name": f"{n}.jpg"} for n in range(2)],
        "annotations": [annotation],
    }


def read(folder: Path, content: object, footage: Footage | None = None) -> tuple[list[Labelled], Remarks]:
    file, remarks = folder / "a.json", Remarks()
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return FORMAT.read(file, lambda name: footage or Footage(), remarks), remarks


def test_a_box_is_read_as_it_is_meant(tmp_path: Path) -> None:
    (found,), remarks = read(tmp_path, document())
    boxes = found.boxes
    assert FORMAT.claims(tmp_path) and (found.video, found.size, remarks.count) == ("drive.v2", (720, 1280), {})
    assert (boxes.time, boxes.track.tolist(), boxes.words) == ((0,), [5], ("car",))
    assert boxes.box[0] * (1280, 720, 1280, 720) == pytest.approx((100, 200, 150.5, 280))
    assert found.times == (0, Fraction(1, 30)) and math.isnan(boxes.visibility[0]) and not boxes.ignored[0]


@pytest.mark.parametrize(
    ("box", "name", "ignored", "seen"),
    [
        ({"track_id": 9, "instance_id": None, "ignore": 1}, "9", True, math.nan),  # TAO
        ({"scalabel_id": "a-01", "iscrowd": 1}, "a-01", True, math.nan),  # Scalabel's converter
        ({"instance_id": None, "attributes": {"track_id": 4, "occluded": True}}, "4", False, 0.5),  # CVAT
        ({"visibility": 0.3, "attributes": {"occluded": True}}, "5", False, 0.3),
    ],
)
def test_the_dialects_name_tracks_differently(
    tmp_path: Path, box: Document, name: str, ignored: bool, seen: float
) -> None:
    (found,), _ = read(tmp_path, document(**box))
    assert found.id_of(int(found.boxes.track[0])) == name and found.boxes.ignored.tolist() == [ignored]
    np.testing.assert_equal(found.boxes.visibility, [seen])


def test_a_box_without_a_track_is_a_region_of_its_own(tmp_path: Path) -> None:
    content = document(instance_id=None)
    content["annotations"] *= 2
    (found,), remarks = read(tmp_path, content)
    assert sorted(found.boxes.track.tolist()) == [-2, -1] and not remarks.count


def test_the_rate_is_the_files_the_videos_or_told(tmp_path: Path) -> None:
    ntsc, content = Fraction(30000, 1001), document()
    footage = Footage((720, 1280), ntsc)
    assert read(tmp_path, content, footage)[0][0].times[1] == 1 / ntsc
    content["videos"][0]["fps"] = 5
    assert read(tmp_path, content, footage)[0][0].times[1] == Fraction(1, 5)
    content["videos"][0]["fps"] = 29.97002997002997
    assert read(tmp_path, content)[0][0].times[1] == 1 / ntsc
    content["videos"][0]["fps_exact"] = "30"  # within 1 % of the video's, and no rounded number
    assert read(tmp_path, content, footage)[0][0].times[1] == Fraction(1, 30)
    content["videos"][0] = {"id": 7, "name": "drive"}
    assert read(tmp_path, content, footage)[0][0].times[1] == 1 / ntsc
    (found,), remarks = read(tmp_path, content)
    assert found.times[1] == Fraction(1, 30) and remarks.count == {coco.NO_RATE: 1}


def test_frames_that_count_up_to_the_videos_length_count_from_1(tmp_path: Path) -> None:
    content = document()
    for image in content["images"]:
        image["frame_index"] = image.pop("frame_id") + 1
    for frames, first, told in ((3, Fraction(1, 30), {}), (2, Fraction(0), {coco.FROM_ONE: 1})):
        (found,), remarks = read(tmp_path, content, Footage((720, 1280), Fraction(30), frames))
        assert found.times[0] == first and remarks.count == told


def test_what_belongs_nowhere_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    content = document()
    good = content["annotations"][0]
    bad: list[Document] = [
        {"image_id": 99}, {"category_id": 8, "instance_id": 1}, {"bbox": None}, {"bbox": [1, 2, math.nan, 4]},
        {"bbox": [1, 2, 0, 4]}, {}, {"image_id": 13},
    ]  # fmt: skip
    content["annotations"] += [{**good, **change} for change in bad]
    content["images"] += [{**content["images"][0], "id": 12 + n, "video_id": 7 + n, "frame_id": -n} for n in (1, 2)]
    content["images"][2]["video_id"] = 7
    content["videos"].append({"id": 77, "name": "empty"})
    (found,), remarks = read(tmp_path, content)
    assert found.boxes.words == ("category 8", "car")
    assert remarks.count == {
        coco.NO_VIDEO: 1,
        coco.NO_IMAGE: 1,
        coco.NO_FRAMES: 1,
        coco.NO_BOX: 1,
        counted.FAR_FRAME: 1,
        annotations.NOT_A_NUMBER: 1,
        annotations.FLAT: 1,
        annotations.TWICE: 1,
        f"{annotations.UNKNOWN_CLASS}: category 8": 1,
    }


def without(key: str, *way: str | int) -> Callable[[Document], object]:
    def change(content: Document) -> None:
        holder: Any = content
        for step in way:
            holder = holder[step]
        del holder[key]

    return change


def with_value(key: str, value: object, *way: str | int) -> Callable[[Document], object]:
    def change(content: Document) -> None:
        holder: Any = content
        for step in way:
            holder = holder[step]
        holder[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        *((without(key), f"no '{key}'") for key in ("videos", "categories", "images", "annotations")),
        (without("frame_id", "images", 0), "frame_id"),
        (without("video_id", "images", 0), "video_id"),
        (without("category_id", "annotations", 0), "category_id"),
        (with_value("bbox", [1, 2, 3], "annotations", 0), "3 numbers"),
        (with_value("bbox", [1, 2, "3", 4], "annotations", 0), "not a number"),
        (with_value("instance_id", [1], "annotations", 0), "not an id"),
        (with_value("frame_id", 0.5, "images", 0), "whole"),
        (with_value("width", 64, "images", 0), "several sizes"),
        (with_value("width", -1, "images", 0), "pixels"),
        (with_value("fps", "fast", "videos", 0), "rate"),
        (with_value("fps", 0, "videos", 0), "rate"),
        (with_value("images", [{"id": 1, "file_name": "a.jpg"}]), "single images"),
        (lambda content: [image.pop(side) for image in content["images"] for side in ("width", "height")], "size"),
    ],
)
def test_a_broken_file_is_a_mistake(tmp_path: Path, change: Callable[[Document], object], what: str) -> None:
    content = document()
    change(content)
    with pytest.raises(Mistake, match=what) as caught:
        read(tmp_path, content)
    assert "\n" not in caught.value.what and "a.json" in str(caught.value)


def test_only_coco_is_claimed(shared: Path, tmp_path: Path) -> None:
    for file in sorted((shared / "data/permissive/labels").rglob("*.json")):
        assert not FORMAT.claims(file), file
    for content in (b"", b"{", b"\xff\0", b'[{"image_id": 1}]'):
        (tmp_path / "a.json").write_bytes(content)
        assert not FORMAT.claims(tmp_path)
    assert not FORMAT.claims(tmp_path / "missing")


def test_categories_may_fill_the_beginning(tmp_path: Path) -> None:
    content = document()
    content["categories"] += [{"id": n, "name": f"thing {n}"} for n in range(9, 900)]
    (tmp_path / "a.json").write_text(json.dumps({"categories": content.pop("categories"), **content}))
    assert FORMAT.claims(tmp_path) and not bdd100k.FORMAT.claims(tmp_path)


def test_genuine_tracks_survive_a_round_trip(shared: Path, tmp_path: Path) -> None:
    file = shared / "data/permissive/labels/scalabel/tests/eval/testcases/box_track/track_sample_anns.json"
    (before,) = bdd100k.FORMAT.read(file, tracks.unknown, Remarks())
    before, told = replace(before, labels=Labels(True, 14)), Remarks()
    FORMAT.write([before], tmp_path, Fraction(5), told)
    again = Remarks()
    (after,) = FORMAT.read(tmp_path, tracks.unknown, again)
    assert not told.count and not again.count and len(after.boxes) == 3241
    assert Counter(map(repr, tracks.rows_of(before))) == Counter(map(repr, tracks.rows_of(after)))
    assert (after.times, after.size, after.labels) == (before.times, before.size, before.labels)
    assert tracks.moved(before, after) < 0.01


def test_one_file_holds_all_videos_and_what_it_leaves_out_is_told(tmp_path: Path) -> None:
    car = (100.0, 100.0, 200.0, 200.0)
    rows: list[tracks.Box] = [(0, 1, "Van", car, 1.0, False), (1, 1, "Hovercraft", car, 1.0, False)]
    pair, told = [tracks.video(rows, [0, 1], name=name) for name in ("a", "b")], Remarks()
    FORMAT.write(pair, tmp_path, Fraction(10), told)
    assert told.count == {counted.OFF_GRID: 2, counted.COLLIDED: 2, counted.WORD: 2}
    found = FORMAT.read(tmp_path, tracks.unknown, Remarks())
    assert [(one.video, one.boxes.words) for one in found] == [("a", ("Van",)), ("b", ("Van",))]
    held = json.loads((tmp_path / "annotations.json").read_text())
    assert held["categories"][-1] == {"id": 10, "name": "Van", "supercategory": "car"}
    assert [image["id"] for image in held["images"]] == [1, 2]
    for several, what in (([pair[0], pair[0]], "two videos"), ([replace(pair[0], size=(0, 0))], "size")):
        with pytest.raises(Mistake, match=what):
            FORMAT.write(several, tmp_path / "none", tracks.FPS, Remarks())
    assert not (tmp_path / "none").exists()


@settings(max_examples=40, deadline=None)
@given(video=tracks.videos())
def test_random_tracks_survive(tmp_path_factory: pytest.TempPathFactory, video: Labelled) -> None:
    folder, told, again = tmp_path_factory.mktemp("coco"), Remarks(), Remarks()
    FORMAT.write([video], folder, tracks.FPS, told)
    assert FORMAT.claims(folder) and not bdd100k.FORMAT.claims(folder)
    (found,) = FORMAT.read(folder, tracks.unknown, again)
    assert not told.count and not again.count
    assert Counter(map(repr, tracks.rows_of(video))) == Counter(map(repr, tracks.rows_of(found)))
    assert (found.times, found.size) == (video.times, video.size) and tracks.moved(video, found) < 0.01


@settings(max_examples=80, deadline=None)
@given(noise=st.binary(max_size=20), at=st.integers(0, 560), length=st.integers(0, 20))
def test_whatever_the_bytes_only_mistakes(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, length: int
) -> None:
    folder, good = tmp_path_factory.mktemp("coco"), json.dumps(document()).encode()
    with suppress(Mistake):
        read(folder, good[:at] + noise + good[at + length :])
    FORMAT.claims(folder)
