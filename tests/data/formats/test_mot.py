"""MOTChallenge's ground truth: the layouts it comes in, a round trip, files that are broken.

None of the benchmark's own sequences may lie here: the lines below are typed in its form, and the genuine tracks are
those of KITTI, written and read again.
"""

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
from drivesim.data.formats import counted, kitti, mot
from drivesim.data.formats.mot import FORMAT
from drivesim.errors import Mistake

from . import tracks

INFO = "[Sequence]\nname=MOT17-99\nimDir=img1\nframeRate=30\nseqLength=4\nimWidth=1280\nimHeight=720\nimExt=.jpg\n"
LINE = "2,5,100,200,50.5,80,1,3,0.75"
CAR = (100.0, 100.0, 200.0, 200.0)


def sequence(
    folder: Path, content: str | bytes, info: str = INFO, footage: Footage | None = None, labels: str | None = None
) -> tuple[Labelled, Remarks]:
    gt = folder / "gt"
    gt.mkdir(exist_ok=True)
    (gt / "gt.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    if info:
        (folder / "seqinfo.ini").write_text(info)
    if labels is not None:
        (gt / "labels.txt").write_text(labels)
    remarks = Remarks()
    (labelled,) = FORMAT.read(folder, lambda name: footage or Footage(), remarks)
    return labelled, remarks


def test_a_line_is_read_as_it_is_meant(tmp_path: Path) -> None:
    labelled, remarks = sequence(tmp_path, f"{LINE}\n3,6,10,20,30,40,0,12,-1\n")
    boxes = labelled.boxes
    assert (labelled.video, labelled.size, boxes.time) == ("MOT17-99", (720, 1280), (Fraction(1, 30), Fraction(2, 30)))
    assert (boxes.words, boxes.cls, boxes.track.tolist()) == (("car", "reflection"), ("car", "other"), [5, 6])
    assert boxes.box[0] * (1280, 720, 1280, 720) == pytest.approx((100, 200, 150.5, 280))
    np.testing.assert_equal(boxes.visibility, [0.75, math.nan])
    assert boxes.ignored.tolist() == [False, True] and not remarks.count
    assert labelled.times == tuple(Fraction(n, 30) for n in range(4))


def test_names_of_labels_txt_go_before_the_benchmarks(tmp_path: Path) -> None:
    labelled, _ = sequence(tmp_path, LINE.replace("1,3,", "1,2,"), labels="cat\ntruck\n")
    assert (labelled.boxes.words, labelled.boxes.cls) == (("truck",), ("truck",))


def test_every_class_of_the_benchmark_is_known(tmp_path: Path) -> None:
    lines = [f"1,{n},100,200,50,80,1,{n},1" for n in range(1, len(mot.CLASSES) + 1)]
    labelled, remarks = sequence(tmp_path, "\n".join(lines))
    assert labelled.boxes.words == mot.CLASSES and not remarks.count
    _, remarks = sequence(tmp_path, "1,1,100,200,50,80,1,44,1")
    assert list(remarks.count) == [f"{annotations.UNKNOWN_CLASS}: class 44"]


@pytest.mark.parametrize("line", ["1,4,9,9,50,80,1", "1,4,9,9,50,80,-1,-1,-1,-1", "1,4,9,9,50,80,1,-9.5,3.2,0.1"])
def test_files_without_classes_hold_pedestrians(tmp_path: Path, line: str) -> None:
    labelled, remarks = sequence(tmp_path, line)
    assert labelled.boxes.cls == ("pedestrian",) and not labelled.boxes.ignored.any()
    assert remarks.count == {mot.NO_CLASS: 1}


def test_a_tenth_column_may_follow_the_visibility(tmp_path: Path) -> None:
    labelled, remarks = sequence(tmp_path, f"{LINE},-1")
    assert labelled.boxes.cls == ("car",) and labelled.boxes.visibility[0] == 0.75 and not remarks.count


def test_frames_may_count_from_0_as_a_genuine_file_does(shared: Path) -> None:
    file = shared / "data/permissive/labels/scalabel/tests/label/testcases/motchallenge_labels.txt"
    assert FORMAT.claims(file)
    remarks = Remarks()
    (labelled,) = FORMAT.read(file, lambda name: Footage((1080, 1920), Fraction(25)), remarks)
    assert labelled.video == "motchallenge_labels" and labelled.boxes.time[0] == 0
    lines = file.read_text().split()
    assert len(labelled.boxes) + remarks.count.get(annotations.TWICE, 0) == len(lines)
    assert remarks.count[mot.FROM_ZERO] == 1


def test_the_rate_is_the_videos_where_the_files_is_a_rounded_one(tmp_path: Path) -> None:
    ntsc = Fraction(30000, 1001)
    assert sequence(tmp_path, LINE, footage=Footage((720, 1280), ntsc, 4))[0].boxes.time == (1 / ntsc,)
    assert sequence(tmp_path, LINE, footage=Footage((720, 1280), Fraction(15)))[0].boxes.time == (Fraction(1, 30),)
    bare = tmp_path / "bare"
    bare.mkdir()
    labelled, remarks = sequence(bare, LINE, "", Footage((720, 1280)))
    assert labelled.video == "bare" and labelled.boxes.time == (Fraction(1, 30),) and mot.NO_RATE in remarks.count


def test_the_layouts_of_the_downloads(tmp_path: Path) -> None:
    for name in ("MOT17-02", "MOT17-04"):
        folder = tmp_path / "MOT17" / "train" / name
        folder.mkdir(parents=True)
        sequence(folder, LINE, INFO.replace("MOT17-99", name))
    for place in (tmp_path / "MOT17", tmp_path / "MOT17" / "train"):
        assert FORMAT.claims(place)
        read = FORMAT.read(place, tracks.unknown, Remarks())
        assert [labelled.video for labelled in read] == ["MOT17-02", "MOT17-04"]
    one = tmp_path / "MOT17" / "train" / "MOT17-04" / "gt"
    assert FORMAT.read(one, tracks.unknown, Remarks())[0].video == "MOT17-04"
    assert FORMAT.read(one / "gt.txt", tracks.unknown, Remarks())[0].video == "MOT17-04"


def test_only_mot_is_claimed(shared: Path, tmp_path: Path) -> None:
    assert not FORMAT.claims(shared / "data" / "noncommercial" / "kitti_tracking")
    assert not FORMAT.claims(shared / "data" / "noncommercial" / "kitti_tracking" / "training" / "label_02")
    for content in (b"a,b,c,d,e,f,g", b"1 2 3 4 5 6 7", b"\xff\0" * 40, b"", b"1,2,3"):
        (tmp_path / "x.txt").write_bytes(content)
        assert not FORMAT.claims(tmp_path) and not FORMAT.claims(tmp_path / "x.txt")
    assert not FORMAT.claims(tmp_path / "missing")


@pytest.mark.parametrize(
    ("content", "info", "what"),
    [
        ("1,2,3", INFO, "columns"),
        (f"{LINE}\n{LINE[:12]}", INFO, "columns"),
        (LINE.replace("100", "left"), INFO, "number"),
        (LINE.replace("2,5", "2,5.5", 1), INFO, "number"),
        (b"\xff\xfe", INFO, "text"),
        (LINE, "frameRate=30", "ini"),
        (LINE, "[Other]\nframeRate=30", "Sequence"),
        (LINE, INFO.replace("frameRate=30", "frameRate=fast"), "frameRate"),
        (LINE, INFO.replace("frameRate=30", "frameRate=1e999999999"), "frameRate"),
        (LINE, INFO.replace("frameRate=30", "frameRate=0"), "frameRate"),
        (LINE, INFO.replace("=4", "=99999999999"), "seqLength"),
        (LINE, INFO.replace("=1280", "=wide"), "imWidth"),
        (LINE, INFO + "[tracks]\na=1", "tracks"),
        (LINE, "", "size"),
    ],
)
def test_a_broken_file_is_a_mistake(tmp_path: Path, content: str | bytes, info: str, what: str) -> None:
    with pytest.raises(Mistake, match=what) as caught:
        sequence(tmp_path, content, info)
    assert "\n" not in caught.value.what and caught.value.where is not None


def test_a_bad_box_does_not_stop_the_rest(tmp_path: Path) -> None:
    bad = [LINE.replace("50.5", "nan"), LINE.replace("50.5", "0"), f"9999999{LINE[1:]}", LINE]
    labelled, remarks = sequence(tmp_path, "\n".join([LINE.replace("2,5", "2,6", 1), *bad]))
    assert labelled.boxes.track.tolist() == [5, 6]
    assert remarks.count == {annotations.NOT_A_NUMBER: 1, annotations.FLAT: 1, counted.FAR_FRAME: 1}


def test_genuine_tracks_survive_a_round_trip(shared: Path, tmp_path: Path) -> None:
    place = shared / "data/noncommercial/kitti_tracking/training/label_02/0001.txt"
    (before,) = kitti.FORMAT.read(place, tracks.unknown, Remarks())
    told, again = Remarks(), Remarks()
    FORMAT.write([before], tmp_path, Fraction(10), told)
    (after,) = FORMAT.read(tmp_path, tracks.unknown, again)
    assert not told.count and not again.count and (after.video, after.size) == ("0001", (375, 1242))
    assert Counter(map(repr, tracks.rows_of(before))) == Counter(map(repr, tracks.rows_of(after)))
    assert before.times == after.times and tracks.moved(before, after) < 0.01


def test_names_and_words_survive_and_the_rest_is_told(tmp_path: Path) -> None:
    rows: list[tracks.Box] = [(1, 7, "static person", CAR, 0.25, False), (3, 8, "Hovercraft", CAR, 1.0, False)]
    video, told = tracks.video(rows, [1, 3], ids={7: '0_1, "b"', 8: "7"}), Remarks()
    FORMAT.write([video], tmp_path, tracks.FPS, told)
    (read,) = FORMAT.read(tmp_path, tracks.unknown, Remarks())
    assert told.count == {counted.WORD: 1, counted.UNLABELLED: 2}
    assert [row[1:4] for row in tracks.rows_of(read)] == [
        ('0_1, "b"', "pedestrian", "static person"),
        ("7", "other", "other"),
    ]
    assert read.boxes.time == video.boxes.time
    assert "frameRate=29.97\n" in (tmp_path / "drive" / "seqinfo.ini").read_text()
    assert (tmp_path / "drive" / "gt" / "labels.txt").read_text().split("\n")[:3] == list(mot.CLASSES[:3])


def test_a_video_of_unknown_size_and_two_of_one_name_are_mistakes(tmp_path: Path) -> None:
    video = tracks.video([(0, 1, "car", CAR, 1.0, False)], [0])
    blind = Labelled(video.video, video.boxes, (0, 0), video.times)
    with pytest.raises(Mistake, match="size"):
        FORMAT.write([blind], tmp_path, tracks.FPS, Remarks())
    assert not list(tmp_path.iterdir())
    with pytest.raises(Mistake, match="two videos"):
        FORMAT.write([video, video], tmp_path, tracks.FPS, Remarks())


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    told = Remarks()
    for name in ("../../x", "..", ""):
        FORMAT.write(
            [tracks.video([(0, 1, "car", CAR, 1.0, False)], [0], name=name)], tmp_path / "in", tracks.FPS, told
        )
    assert [path.name for path in tmp_path.iterdir()] == ["in"] and told.count == {counted.RENAMED: 3}


@settings(max_examples=40, deadline=None)
@given(video=tracks.videos())
def test_random_tracks_survive(tmp_path_factory: pytest.TempPathFactory, video: Labelled) -> None:
    folder, told, again = tmp_path_factory.mktemp("mot"), Remarks(), Remarks()
    FORMAT.write([video], folder, tracks.FPS, told)
    assert FORMAT.claims(folder) and not kitti.FORMAT.claims(folder)
    (read,) = FORMAT.read(folder, tracks.unknown, again)
    assert not told.count and not again.count
    assert Counter(map(repr, tracks.rows_of(video))) == Counter(map(repr, tracks.rows_of(read)))
    assert (read.times, read.size) == (video.times, video.size) and tracks.moved(video, read) < 0.01


@settings(max_examples=80, deadline=None)
@given(noise=st.binary(max_size=20), at=st.integers(0, 120), length=st.integers(0, 20), ini=st.booleans())
def test_whatever_the_bytes_only_mistakes(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, length: int, ini: bool
) -> None:
    folder = tmp_path_factory.mktemp("mot")
    (folder / "gt").mkdir()
    good = {"gt/gt.txt": f"{LINE}\n3{LINE[1:]}\n".encode(), "seqinfo.ini": f'{INFO}[tracks]\n5="a"\n'.encode()}
    for name, content in good.items():
        spoilt = (name == "seqinfo.ini") == ini
        (folder / name).write_bytes(content[:at] + noise + content[at + length :] if spoilt else content)
    try:
        FORMAT.read(folder, tracks.unknown, Remarks())
    except Mistake:
        pass
