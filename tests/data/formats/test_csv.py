"""Plain CSV: its columns, a round trip that loses nothing, files that are broken."""

import math
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.data import annotations
from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats import Format, bdd100k, counted, csv, cvat
from drivesim.data.formats.csv import FORMAT
from drivesim.errors import Mistake
from drivesim.scene import Labels

from . import tracks

HEADER = "time,track,class,x0,y0,x1,y1"
LINE = "0.5,7,car,100,200,150.5,280"
VIDEO = Footage((720, 1280), Fraction(30), 100)
CAR = (100.0, 100.0, 200.0, 200.0)


def read(folder: Path, text: str | bytes, footage: Footage = VIDEO) -> tuple[list[Labelled], Remarks]:
    file, remarks = folder / "drive.csv", Remarks()
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return FORMAT.read(file, lambda name: footage, remarks), remarks


def pixels(found: Labelled) -> list[float]:
    return (found.boxes.box[0] * (1280, 720, 1280, 720)).tolist()


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n{LINE}\n",
        f"\ufeff{HEADER}\r\n\r\n{LINE}\r\n",
        f"{HEADER};unit\n{LINE};px".replace(",", ";"),
        f"{HEADER}\n{LINE}".replace(",", "\t"),
        " Time , TRACK, class, x, y, w, h\n 1/2 , 7, car, 100, 200, 50.5, 80",
        "frame,track,class,x0_px,y0_px,x1_px,y1_px\n15,7,car,100,200,150.5,280",
        'y1,x1,y0,x0,"class",track,time_den,time_num\n280,150.5,200,100,"car",7,4,2',
        f"{HEADER},unit\n0.5,7,car,{100 / 1280},{200 / 720},{150.5 / 1280},{280 / 720},fractions",
        "time,track,class,x_fraction,y_fraction,w_fraction,h_fraction,frame_width,frame_height\n"
        f"0.5,7,car,{100 / 1280},{200 / 720},{50.5 / 1280},{80 / 720},1280,720",
    ],
)
def test_columns_come_in_many_ways_and_mean_one_box(tmp_path: Path, text: str) -> None:
    (found,), remarks = read(tmp_path, text)
    assert FORMAT.claims(tmp_path) and not remarks.count and (found.video, found.size) == ("drive", (720, 1280))
    assert (found.boxes.time, found.boxes.track.tolist(), found.boxes.words) == ((Fraction(1, 2),), [7], ("car",))
    assert pixels(found) == pytest.approx([100, 200, 150.5, 280])


def test_what_may_be_missing_is_taken_where_it_is_there(tmp_path: Path) -> None:
    more = "video,visibility,ignore,night,cars,weather"
    lines = ["clips/a.mp4,0.25,0,1,3,rain", "b.1,,TRUE,,,", "b.1,1.5,,0,,", "b.1,nan,,,,"]
    cells = LINE.partition(",")[2]
    text = "\n".join([f"{HEADER},{more}", *(f"{n},{cells},{line}" for n, line in enumerate(lines))])
    (a, b), remarks = read(tmp_path, text)
    assert (a.video, a.labels, b.video, b.labels) == ("a", Labels(True, 3), "b.1", Labels(False, None))
    np.testing.assert_equal(a.boxes.visibility, [0.25])
    np.testing.assert_equal(b.boxes.visibility, [math.nan] * 3)
    assert b.boxes.ignored.tolist() == [True, False, False]
    assert remarks.count == {csv.NOT_READ: 1, csv.NOT_SEEN: 1}


def test_a_line_without_corners_says_that_its_moment_was_labelled(tmp_path: Path) -> None:
    (found,), remarks = read(tmp_path, f"{HEADER}\n1,,,,,,\n2,,car,,,,\n{LINE}\n3,,tram,1,2,3,4\n3,,tram,1,2,3,4\n")
    assert found.times == (Fraction(1, 2), 1, 2, 3) and remarks.count == {csv.NO_CORNERS: 1}
    assert sorted(found.boxes.track.tolist()) == [-2, -1, 7]


def test_decimal_times_are_those_of_the_frames_that_they_mean(tmp_path: Path) -> None:
    ntsc = Fraction(30000, 1001)
    times = [n / ntsc for n in range(90)]
    for digits in (".4f", ".17g", ".3e"):
        rows = [f"{float(time):{digits}},7,car,100,200,150,280" for time in times]
        (found,), remarks = read(tmp_path, "\n".join([HEADER, *rows]), Footage((720, 1280), ntsc, 90))
        assert found.boxes.time == tuple(times) and not remarks.count
    (found,), _ = read(tmp_path, f"{HEADER}\n{LINE.replace('0.5', '0.51')}")
    assert found.times == (Fraction(51, 100),)  # 10 ms from any frame
    (found,), _ = read(tmp_path, f"{HEADER}\n{LINE.replace('0.5', '0.1234567890123456789')}", Footage((720, 1280)))
    assert found.times == (Fraction(123456789012, 10**12),)


def test_frames_without_a_rate_are_told(tmp_path: Path) -> None:
    (found,), remarks = read(
        tmp_path, f"{HEADER}\n{LINE}".replace("time", "frame").replace("0.5", "3"), Footage((9, 16))
    )
    assert not found.boxes and remarks.count == {csv.NO_RATE: 1, annotations.OUTSIDE: 1}
    assert found.times == (Fraction(1, 10),)


def test_a_bad_box_does_not_stop_the_rest(tmp_path: Path) -> None:
    bad = [("100", "nan"), ("150.5", "100"), ("0.5", "-1"), ("0.5", "99")]
    text = "\n".join([HEADER, LINE, *(LINE.replace(*change, 1).replace(",7,", ",8,") for change in bad)])
    (found,), remarks = read(tmp_path, text)
    assert found.boxes.track.tolist() == [7]
    assert remarks.count == {
        annotations.NOT_A_NUMBER: 1,
        annotations.FLAT: 1,
        csv.BEFORE: 1,
        annotations.TOO_LATE: 1,
    }
    _, remarks = read(
        tmp_path, f"{HEADER}\n{LINE}\n{LINE}".replace("time", "frame").replace("0.5", "-1", 1).replace("0.5", "1")
    )
    assert remarks.count == {counted.FAR_FRAME: 1}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "columns of boxes"),
        ("a,b,c\n1,2,3", "columns of boxes"),
        (HEADER.replace("track,", ""), "columns of boxes"),
        (f"{HEADER},class\n{LINE},car", "two columns"),
        (f"{HEADER}\n{LINE},1", "8 cells"),
        (f"{HEADER}\n{LINE[:12]}", "cells"),
        (f"{HEADER}\n{LINE.replace('100', 'left')}", "x0 is not a number"),
        (f"{HEADER}\n{LINE.replace('100', '')}", "x0 is not a number"),
        (f"{HEADER}\n{LINE.replace('0.5', 'noon')}", "time is not a time"),
        (f"{HEADER}\n{LINE.replace('0.5', '1e99')}", "time is not a time"),
        (f"{HEADER}\n{LINE.replace('0.5', '1/0')}", "time is not a time"),
        (f"{HEADER}\n{LINE.replace('0.5', '1' * 5000)}", "time is not a time"),
        (f"time_num,time_den{HEADER[4:]}\n1,0{LINE[3:]}", "time_den is not a whole"),
        (f"time_num,time_den{HEADER[4:]}\n{10**20},1{LINE[3:]}", "time_num is not a whole"),
        (f"frame{HEADER[4:]}\n{LINE}", "frame is not a whole"),
        (f"{HEADER},unit\n{LINE},metres", "unit is not pixels"),
        (f"{HEADER},ignore\n{LINE},perhaps", "ignore is not 1 or 0"),
        (f"{HEADER},visibility\n{LINE},half", "visibility is not a number"),
        (f"{HEADER},frame_width,frame_height\n{LINE},1280,", "frame_height"),
        (f"{HEADER},frame_width,frame_height\n{LINE},1280,720\n{LINE},640,360", "another size"),
        (f'{HEADER}\n{LINE}\n"', "is not CSV"),
        (f"{HEADER}\n{LINE},{'9' * 200_000}", "is not CSV"),
        (b"\xff\xfe\0", "not text"),
    ],
)
def test_a_broken_file_is_a_mistake(tmp_path: Path, text: str | bytes, what: str) -> None:
    with pytest.raises(Mistake, match=what) as caught:
        read(tmp_path, text)
    assert "\n" not in caught.value.what and "drive.csv" in str(caught.value) and len(str(caught.value)) < 500


def test_pixels_without_a_size_are_a_mistake_and_fractions_are_none(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="size of its frames"):
        read(tmp_path, f"{HEADER}\n{LINE}", Footage())
    (found,), remarks = read(tmp_path, f"{HEADER},unit\n0,7,car,0.1,0.2,0.3,0.4,fractions", Footage())
    assert found.size == (0, 0) and found.boxes.box.tolist() == [[0.1, 0.2, 0.3, 0.4]] and not remarks.count
    FORMAT.write([found], tmp_path / "out", Fraction(30), remarks)
    (again,) = FORMAT.read(tmp_path / "out", tracks.unknown, remarks)
    assert again.size == (0, 0) and again.boxes.box.tolist() == found.boxes.box.tolist() and not remarks.count


def test_fractions_that_are_not_called_so_are_refused(tmp_path: Path) -> None:
    found, remarks = read(tmp_path, f"{HEADER}\n0,7,car,0.1,0.2,0.3,0.4")
    assert not found and remarks.count == {annotations.LIKE_FRACTIONS: 1}


def test_only_csv_is_claimed(shared: Path, tmp_path: Path) -> None:
    for content in (b"", b"\xff\0", b"1,2,3,4,5,6,7,8,9", b"frame,track\n1,2"):
        (tmp_path / "a.csv").write_bytes(content)
        assert not FORMAT.claims(tmp_path)
    (tmp_path / "a.txt").write_text(f"{HEADER}\n{LINE}")
    assert not FORMAT.claims(tmp_path / "a.txt") and not FORMAT.claims(tmp_path / "missing")
    assert not FORMAT.claims(shared / "data/permissive/labels")


@pytest.mark.parametrize(
    ("form", "place", "boxes"),
    [
        (bdd100k.FORMAT, "scalabel/tests/eval/testcases/box_track/track_sample_anns.json", 3241),
        (cvat.FORMAT, "jaad/annotations/video_0001.xml", 1077),
    ],
)
def test_genuine_tracks_survive_a_round_trip(
    shared: Path, tmp_path: Path, form: Format, place: str, boxes: int
) -> None:
    footage = Footage(None, Fraction(30000, 1001))
    (before,) = form.read(shared / "data/permissive/labels" / place, lambda name: footage, Remarks())
    told, again = Remarks(), Remarks()
    FORMAT.write([before], tmp_path, Fraction(7), told)  # no rate of frames
    (after,) = FORMAT.read(tmp_path, tracks.unknown, again)
    assert not told.count and not again.count and len(after.boxes) == boxes
    assert list(map(repr, tracks.rows_of(before))) == list(map(repr, tracks.rows_of(after)))
    assert (after.video, after.times, after.size, after.labels) == (
        before.video,
        before.times,
        before.size,
        before.labels,
    )
    assert tracks.moved(before, after) < 1e-5


def test_names_survive_and_what_a_line_cannot_hold_is_told(tmp_path: Path) -> None:
    rows: list[tracks.Box] = [(0, n, "car", CAR, 1.0, False) for n in range(5)]
    ids = {0: 'a,"b"; c', 1: "=1+1", 2: "x\ny", 3: "x_y", 4: " "}
    one, told = tracks.video(rows, [0], ids=ids), Remarks()
    other = replace(one, video="night drive", labels=Labels(True, 0))
    FORMAT.write([one, other], tmp_path, tracks.FPS, told)
    found = FORMAT.read(tmp_path, tracks.unknown, Remarks())
    assert told.count == {csv.RENAMED: 4}
    assert [(each.video, each.labels) for each in found] == [("drive", Labels()), ("night drive", Labels(True, 0))]
    names = ['a,"b"; c', "=1+1", "x_y_", "x_y", "_"]
    assert all([row[1] for row in tracks.rows_of(each)] == names for each in found)
    with pytest.raises(Mistake, match="two videos"):
        FORMAT.write([one, one], tmp_path, tracks.FPS, told)


@settings(max_examples=40, deadline=None)
@given(video=tracks.videos(), fps=st.fractions(Fraction(1, 3), 240, max_denominator=1001))
def test_random_tracks_survive_at_any_rate(
    tmp_path_factory: pytest.TempPathFactory, video: Labelled, fps: Fraction
) -> None:
    folder, told, again = tmp_path_factory.mktemp("csv"), Remarks(), Remarks()
    FORMAT.write([video], folder, fps, told)
    assert FORMAT.claims(folder)
    (found,) = FORMAT.read(folder, tracks.unknown, again)
    assert not told.count and not again.count
    assert sorted(map(repr, tracks.rows_of(video))) == sorted(map(repr, tracks.rows_of(found)))
    assert (found.times, found.size) == (video.times, video.size) and tracks.moved(video, found) < 1e-5


@settings(max_examples=80, deadline=None)
@given(noise=st.binary(max_size=20), at=st.integers(0, 150), length=st.integers(0, 20))
def test_whatever_the_bytes_only_mistakes(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, length: int
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    good = f"{HEADER},visibility,ignore,unit\n{LINE},0.5,1,px\n1/2,8,bus,1,2,3,4,,,\n".encode()
    with suppress(Mistake):
        read(folder, good[:at] + noise + good[at + length :])
    FORMAT.claims(folder)
