"""CVAT's XML for video: JAAD's files, key-frames, a round trip, files that are broken or meant to harm."""

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
from drivesim.data.formats import counted, cvat, kitti, mot
from drivesim.data.formats.cvat import FORMAT
from drivesim.errors import Mistake
from drivesim.scene import Labels

from . import tracks

CAR = (100.0, 100.0, 200.0, 200.0)
SIZE = "<original_size><width>1280</width><height>720</height></original_size>"
VIDEO = Footage((720, 1280), Fraction(10))


def box(frame: object, x: float = 100, more: str = "", inside: str = "") -> str:
    return f'<box frame="{frame}" xtl="{x}" ytl="100" xbr="{x + 100}" ybr="200" {more}>{inside}</box>'


def page(tracks: str, task: str = f"<name>drive</name>{SIZE}") -> str:
    return f"<annotations><version>1.1</version><meta><task>{task}</task></meta>{tracks}</annotations>"


def track(boxes: str, label: str = "car", more: str = 'id="4"') -> str:
    return f'<track label="{label}" {more}>{boxes}</track>'


def sequence(folder: Path, content: str | bytes, footage: Footage = VIDEO) -> tuple[Labelled, Remarks]:
    file = folder / "file.xml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    remarks = Remarks()
    (labelled,) = FORMAT.read(file, lambda name: footage, remarks)
    return labelled, remarks


def frames(labelled: Labelled) -> list[int]:
    return [int(time * 10) for time in labelled.boxes.time]


@pytest.fixture(scope="module")
def genuine(shared: Path) -> tuple[list[Labelled], Remarks]:
    remarks = Remarks()
    return FORMAT.read(shared / "data" / "permissive" / "labels" / "jaad", tracks.unknown, remarks), remarks


def test_tracks_that_share_an_id_are_told_apart(tmp_path: Path) -> None:
    found, remarks = sequence(tmp_path, page(track(box(0)) + track(box(0)) + track(box(0), more='id="5"')))
    assert sorted(found.boxes.track.tolist()) == [0, 1, 2] and remarks.count == {cvat.SAME_ID: 1}


def test_the_genuine_files(genuine: tuple[list[Labelled], Remarks]) -> None:
    read, remarks = genuine
    assert [labelled.video for labelled in read] == [f"video_{n:04d}" for n in range(1, 13)]
    assert sum(len(labelled.times) for labelled in read) == 2640
    assert {labelled.size for labelled in read} == {(1080, 1920)}
    assert sum(len(set(labelled.boxes.track.tolist())) for labelled in read) == 61
    assert sum(len(labelled.boxes) for labelled in read) == 9895
    assert {cls for labelled in read for cls in labelled.boxes.cls} == {"pedestrian"}
    seen = Counter(value for labelled in read for value in labelled.boxes.visibility.tolist())
    assert seen == {1.0: 6715, 0.5: 3180}
    assert remarks.count == {cvat.NO_RATE: 12}
    assert [labelled.labels.night for labelled in read].count(False) == 11  # of the second the file says n/a


def test_the_first_person_of_a_genuine_file(genuine: tuple[list[Labelled], Remarks]) -> None:
    first = genuine[0][0]
    n = next(n for n, track in enumerate(first.boxes.track.tolist()) if first.id_of(track) == "0_1_3b")
    assert first.boxes.time[n] == 0 and first.boxes.words[n] == "pedestrian"
    assert first.boxes.box[n] * (1920, 1080, 1920, 1080) == pytest.approx((465, 730, 533, 848))
    assert len(first.times) == 600 and first.times[-1] == Fraction(599, 30)


def test_genuine_files_survive_a_round_trip(genuine: tuple[list[Labelled], Remarks], tmp_path: Path) -> None:
    told, again = Remarks(), Remarks()
    FORMAT.write(genuine[0], tmp_path, Fraction(30), told)
    read = FORMAT.read(tmp_path, tracks.unknown, again)
    assert FORMAT.claims(tmp_path) and not told.count and not again.count
    for before, after in zip(genuine[0], read, strict=True):
        assert Counter(map(repr, tracks.rows_of(before))) == Counter(map(repr, tracks.rows_of(after)))
        assert (before.times, before.size, before.labels) == (after.times, after.size, after.labels)
        assert tracks.moved(before, after) < 0.01


def test_only_cvat_is_claimed(shared: Path, tmp_path: Path) -> None:
    place = shared / "data" / "permissive" / "labels" / "jaad"
    assert FORMAT.claims(place) and FORMAT.claims(place / "annotations" / "video_0003.xml")
    assert not FORMAT.claims(place / "annotations_vehicle") and not FORMAT.claims(place / "annotations_attributes")
    for other in (kitti.FORMAT, mot.FORMAT):
        assert not other.claims(place)
    for content in (b"<annotation><folder/></annotation>", b"\0" * 50, b"", b"{}"):
        (tmp_path / "x.xml").write_bytes(content)
        assert not FORMAT.claims(tmp_path) and not FORMAT.claims(tmp_path / "x.xml")
    assert not FORMAT.claims(tmp_path / "missing")
    (tmp_path / "x.xml").write_text('<?xml version="1.0"?>\n<!-- a -->\n<annotations>')
    assert FORMAT.claims(tmp_path)


def test_missing_frames_lie_on_the_line_between_key_frames(tmp_path: Path) -> None:
    labelled, _ = sequence(tmp_path, page(track(box(2) + box(6, 140) + box(7, 150))))
    assert frames(labelled) == [2, 3, 4, 5, 6, 7]
    assert labelled.boxes.box[:, 0] * 1280 == pytest.approx([100, 110, 120, 130, 140, 150])


def test_a_track_that_is_outside_is_not_there_until_it_returns(tmp_path: Path) -> None:
    boxes = box(0) + box(3, 130, 'outside="1"') + box(6, 300) + box(8, 320) + box(9, 0, 'outside="1"')
    labelled, remarks = sequence(tmp_path, page(track(boxes), f"<size>20</size>{SIZE}"))
    assert frames(labelled) == [0, 1, 2, 6, 7, 8] and not remarks.count
    assert labelled.boxes.box[:3, 0] * 1280 == pytest.approx([100, 110, 120])
    assert labelled.times == tuple(Fraction(n, 10) for n in range(20))


def test_a_task_of_every_third_frame_has_no_boxes_between(tmp_path: Path) -> None:
    task = f"<size>4</size><start_frame>5</start_frame><frame_filter>step=3</frame_filter>{SIZE}"
    labelled, _ = sequence(tmp_path, page(track(box(5) + box(8) + box(14)), task))
    assert frames(labelled) == [5, 8, 11, 14] and labelled.times == labelled.boxes.time


def test_the_video_says_how_fast_and_how_long(tmp_path: Path) -> None:
    labelled, remarks = sequence(
        tmp_path, page(track(box(0) + box(9)), f"<size>10</size>{SIZE}"), Footage((720, 1280), Fraction(25), 6)
    )
    assert labelled.boxes.time == tuple(Fraction(n, 25) for n in range(6))
    assert remarks.count == {annotations.TOO_LATE: 1}
    assert sequence(tmp_path, page(track(box(1)), "<name>x</name>"))[0].size == (720, 1280)


def test_visibility_and_regions(tmp_path: Path) -> None:
    def told(**attributes: str) -> str:
        return "".join(f'<attribute name="{name}">{value}</attribute>' for name, value in attributes.items())

    boxes = [
        track(box(0, more='occluded="0"')),
        track(box(0, more='occluded="1"'), more='id="5"'),
        track(box(0), more='id="6"'),
        track(box(0, more='occluded="1"', inside=told(visibility="0.8")), more='id="7"'),
        track(box(0, more='occluded="1"', inside=told(visibility="good")), more='id="8"'),
        track(box(0, inside=told(ignored="true")), more='id="9"'),
        track(box(0), "DontCare", 'id="-1"'),
        track(box(0, inside=told(ignored="false")), "crowd", 'id="10"'),
    ]
    labelled, remarks = sequence(tmp_path, page("".join(boxes)))
    assert labelled.boxes.track.tolist() == [-1, 4, 5, 6, 7, 8, 9, 10]
    np.testing.assert_equal(labelled.boxes.visibility, [math.nan, 1, 0.5, math.nan, 0.8, 0.5, math.nan, math.nan])
    assert labelled.boxes.ignored.tolist() == [True, False, False, False, False, False, True, False]
    assert not remarks.count


def test_other_shapes_and_turned_boxes_are_told(tmp_path: Path) -> None:
    polygon = '<polygon frame="0" points="1,2;3,4;5,6"/>'
    labelled, remarks = sequence(tmp_path, page(track(polygon + box(0, more='rotation="90"')) + track(polygon)))
    assert remarks.count == {cvat.NOT_A_BOX: 2, cvat.TURNED: 1}
    assert labelled.boxes.box[0] * (1280, 720, 1280, 720) == pytest.approx(CAR)
    labelled, _ = sequence(tmp_path, page(track(box(0, more='rotation="45"'))))
    half = 50 * math.sqrt(2)
    around = (150 - half, 150 - half, 150 + half, 150 + half)
    assert labelled.boxes.box[0] * (1280, 720, 1280, 720) == pytest.approx(around)


def test_a_project_holds_several_videos(tmp_path: Path) -> None:
    task = "<task><id>{0}</id><name>drive{0}</name><size>2</size>{1}</task>"
    meta = f"<meta><project><tasks>{task.format(1, SIZE)}{task.format(2, SIZE)}</tasks></project></meta>"
    own = "".join(track(box(n), more=f'id="0" task_id="{n}"') for n in (1, 2, 3))
    (tmp_path / "a.xml").write_text(f"<annotations>{meta}{own}</annotations>")
    remarks = Remarks()
    read = FORMAT.read(tmp_path, lambda name: VIDEO, remarks)
    assert [(labelled.video, frames(labelled)) for labelled in read] == [("drive1", [1]), ("drive2", [2])]
    assert remarks.count == {cvat.NO_TASK: 1}


BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTWARD = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (BOMB + page(track(box(0, inside="&b;"))), "entities"),
        (OUTWARD + page(track(box(0, inside="&x;"))), "entities"),
        ("<!DOCTYPE annotations>" + page(track(box(0))), "document type"),
        (page(track(box(0)))[:-20], "not XML"),
        ("", "not XML"),
        (b"\xff\xfe\x00\x01", "not XML"),
        ('<?xml version="1.0" encoding="gbk"?><annotations/>', "not XML"),
        ("<a>" * 20_000, "not XML"),
        ("<annotation/>", "another kind"),
        (page('<image id="0" name="a.png" width="2" height="2"/>'), "images"),
        (page(track(box("first"))), "frame"),
        (page(track(box(1.5))), "frame"),
        (page(track(box(0).replace('ybr="200"', ""))), "ybr"),
        (page(track(box(0).replace('xtl="100"', 'xtl="left"'))), "xtl"),
        (page(f"<track>{box(0)}</track>"), "label"),
        (page(track(box(0)), "<size>many</size>"), "size"),
        (page(track(box(0)), f"<size>99999999999</size>{SIZE}"), "size"),
        (page(track(box(0)), f"<frame_rate>0</frame_rate>{SIZE}"), "frame_rate"),
        (page(track(box(0) + box(900_000)) * 4), "key-frames"),
    ],
)
def test_a_broken_or_hostile_file_is_a_mistake(tmp_path: Path, content: str | bytes, what: str) -> None:
    with pytest.raises(Mistake, match=what) as caught:
        sequence(tmp_path, content)
    assert "file.xml" in str(caught.value.where) and "\n" not in caught.value.what


def test_a_size_that_nothing_tells_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="size") as caught:
        sequence(tmp_path, page(track(box(0)), "<name>x</name>"), Footage())
    assert caught.value.mend == counted.INDEX_TOGETHER


def test_a_bad_box_does_not_stop_the_rest(tmp_path: Path) -> None:
    bad = box(1).replace('xtl="100"', 'xtl="nan"') + box(2).replace('xtl="100"', 'xtl="900"') + box(-1) + box(10**9)
    labelled, remarks = sequence(tmp_path, page(track(box(0) + bad)))
    assert frames(labelled) == [0]
    assert remarks.count == {annotations.NOT_A_NUMBER: 1, annotations.INVERTED: 1, counted.FAR_FRAME: 2}


def test_names_words_and_labels_survive_and_the_rest_is_told(tmp_path: Path) -> None:
    rows: list[tracks.Box] = [
        (2, 7, "Car", CAR, 0.25, False),
        (4, 7, "Van", CAR, math.nan, False),
        (4, 8, "crowd", CAR, 1.0, False),
        (8, 9, "Hovercraft", CAR, 1.0, False),
        (8, -1, "DontCare", CAR, math.nan, True),
    ]
    video, told = tracks.video(rows, [2, 4, 8], name="a <b> & c.v2", ids={7: 'x"<\x01>', 8: "7"}), Remarks()
    video = Labelled(video.video, video.boxes, video.size, video.times, video.ids, Labels(True, 3))
    FORMAT.write([video], tmp_path, tracks.FPS, told)
    (read,) = FORMAT.read(tmp_path, tracks.unknown, Remarks())
    assert told.count == {counted.WORD: 1, counted.UNLABELLED: 1, cvat.ILLEGAL_ID: 1}
    assert {row[1:] for row in tracks.rows_of(read)} == {
        ('x"<_>', "car", "Car", 0.25, False),
        ('x"<_>', "car", "Van", -1.0, False),
        ("7", "pedestrian", "crowd", 1.0, False),
        ("9", "other", "other", 1.0, False),
        (None, "other", "DontCare", -1.0, True),
    }
    assert len(read.boxes) == 5
    assert (read.video, read.labels, read.size) == (video.video, video.labels, video.size)
    assert [time * tracks.FPS for time in read.times] == [2, 4, 6, 8]


@settings(max_examples=40, deadline=None)
@given(video=tracks.videos())
def test_random_tracks_survive(tmp_path_factory: pytest.TempPathFactory, video: Labelled) -> None:
    folder, told, again = tmp_path_factory.mktemp("cvat"), Remarks(), Remarks()
    FORMAT.write([video], folder, tracks.FPS, told)
    assert FORMAT.claims(folder)
    (read,) = FORMAT.read(folder, tracks.unknown, again)
    assert not told.count and not again.count
    assert Counter(map(repr, tracks.rows_of(video))) == Counter(map(repr, tracks.rows_of(read)))
    assert (read.times, read.size) == (video.times, video.size) and tracks.moved(video, read) < 0.01


@settings(max_examples=80, deadline=None)
@given(noise=st.binary(max_size=20), at=st.integers(0, 500), length=st.integers(0, 20))
def test_whatever_the_bytes_only_mistakes(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, length: int
) -> None:
    good = page(track(box(0) + box(3, more='occluded="1"')), f"<name>x</name><size>5</size>{SIZE}").encode()
    try:
        sequence(tmp_path_factory.mktemp("cvat"), good[:at] + noise + good[at + length :])
    except Mistake:
        pass
