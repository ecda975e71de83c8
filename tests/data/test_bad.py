"""The thirty bad inputs get one line each, colours come out right, and nothing hangs or leaks."""

import json
import os
import threading
import time
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from drivesim.data import index, video
from drivesim.data.index import Index
from drivesim.data.sources import build
from drivesim.errors import Mistake

from .bad import BAD, FPS, FRAMES, Bad, as_user, change, encode
from .numbered import SIZE, numbers, write

BY_NUMBER = {bad.number: bad for bad in BAD}
RED, HLG = (220, 40, 10), 18
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}  # of red and blue in luma: BT.709, BT.601 (H.273 table 4)


def test_thirty() -> None:
    assert [bad.number for bad in BAD] == list(range(1, 31))


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad.number}-{bad.name}")
def test_each_gets_one_line_or_a_remark(tmp_path: Path, bad: Bad) -> None:
    path = bad.make(tmp_path)
    with as_user():
        if not bad.refused:
            info = video.probe(path)
            assert info.remarks == ((bad.remark,) if bad.remark else ())
            return
        with pytest.raises(Mistake) as caught:
            video.probe(path)
        assert bad.refused in caught.value.what and "\n" not in caught.value.what
        assert Path(str(caught.value.where)).parent == tmp_path
        str(caught.value).encode()
        if bad.number not in (5, 6, 7, 8, 11, 22):  # a reader that does not look ahead gives what is there
            with pytest.raises(Mistake):
                next(video.stream(path, chunk=1))


def test_what_a_probe_cannot_see_is_found_where_it_matters(tmp_path: Path) -> None:
    flipped = BY_NUMBER[9].make(tmp_path)
    with pytest.raises(Mistake, match="is damaged"):
        list(video.stream(flipped))
    short = BY_NUMBER[28].make(tmp_path)
    with pytest.raises(Mistake, match="has 5 frames"):
        video.read(short, frames=16)
    slow = BY_NUMBER[29].make(tmp_path)
    assert video.probe(slow).fps == FPS / 5


def test_a_size_that_changes_and_changes_back_is_found_when_decoded(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.ts", sizes=(SIZE, (96, 192), SIZE), count=10)
    assert video.probe(path).frames == 30
    for size in (None, (32, 64)):
        with pytest.raises(Mistake, match="changes its picture size"):
            list(video.stream(path, size=size))


def test_the_frames_of_usable_ones_are_the_right_ones(tmp_path: Path) -> None:
    for number in (13, 17, 19):
        frames = video.read(BY_NUMBER[number].make(tmp_path), frames=FRAMES).frames
        assert numbers(frames) == list(range(FRAMES))
    uneven = video.read(BY_NUMBER[14].make(tmp_path), fps=Fraction(30), frames=100).frames
    assert numbers(uneven)[:16] == [0, 1, 2, *[3] * 12, 4]
    twins = video.read(BY_NUMBER[15].make(tmp_path), fps=FPS, frames=FRAMES).frames
    assert numbers(twins) == [n + (n + 4) // 5 for n in range(FRAMES)]


def test_more_that_is_refused(tmp_path: Path) -> None:
    hlg = encode(tmp_path / "hlg.mkv", pixels="yuv420p10le", color_trc=HLG)
    with pytest.raises(Mistake, match="HLG"):
        video.probe(hlg)
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(b"\0\xff" * 3000)
    with pytest.raises(Mistake, match="not a video that can be opened"):
        video.probe(noise)
    unknown = write(tmp_path / "unknown.mp4", 4, FPS)
    unknown.write_bytes(unknown.read_bytes().replace(b"avc1", b"zzz1"))
    with pytest.raises(Mistake, match="cannot be decoded here"):
        video.probe(unknown)
    gone = tmp_path / "gone.mp4"
    gone.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Mistake, match="a file that is gone"):
        video.probe(gone)
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)  # who opens it waits for ever
    with pytest.raises(Mistake, match="not a regular file"):
        video.probe(pipe)
    torn = encode(tmp_path / "torn.ts")
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(Mistake, match="cut off"):
        video.probe(torn)


@pytest.mark.parametrize("name", ["a.h264", "a.hevc", "a.ts", "a.mkv", "a.mp4"])
def test_reading_may_start_anywhere(tmp_path: Path, name: str) -> None:
    """Raw streams cannot be sought, and after a seek an open group of pictures begins with frames that lack others."""
    if name.endswith("hevc"):
        path = encode(tmp_path / name, "libx265", options={"x265-params": "log-level=none:keyint=10"})
    else:
        path = encode(tmp_path / name, options={"x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"})
    for start in range(1, FRAMES - 4, 3):
        frames = video.read(path, start=start / FPS, frames=4).frames
        assert numbers(frames) == [start, start + 1, start + 2, start + 3]


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p10le"])
def test_known_colours_come_out(tmp_path: Path, matrix: int, full: bool, pixels: str) -> None:
    """One colour, coded by the equations of ITU-R H.273 (8.3), lossless."""
    red, blue = WEIGHTS[matrix]
    colour = np.array(RED) / 255
    luma = colour @ (red, 1 - red - blue, blue)
    chroma = np.array([(colour[2] - luma) / (2 - 2 * blue), (colour[0] - luma) / (2 - 2 * red)])
    deep = pixels.endswith("10le")
    values = (
        np.array([255 * luma, *(255 * chroma + 128)]) if full else np.array([16 + 219 * luma, *(224 * chroma + 128)])
    )
    values, kind = (values * 4 if deep else values).round(), np.uint16 if deep else np.uint8
    tags = {"colorspace": matrix, "color_range": 2 if full else 1}
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, pixels
        frame = av.VideoFrame(SIZE[1], SIZE[0], pixels)
        for plane, value in zip(frame.planes, values, strict=True):
            plane.update(np.full(plane.buffer_size // kind().itemsize, value, kind))
        for tag, value in tags.items():
            setattr(stream.codec_context, tag, value)
            setattr(frame, tag, value)
        for n in range(3):
            frame.pts, frame.time_base = n, 1 / FPS
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    shown = video.read(tmp_path / "a.mp4", frames=2).frames
    assert np.abs(shown.astype(int) - RED).max() <= 2
    remarks = ("has 10 bits a colour, read as 8",) * deep + ("has full-range colours, converted",) * full
    assert video.probe(tmp_path / "a.mp4").remarks == remarks


def test_an_index_goes_on_past_all_of_them(tmp_path: Path) -> None:
    source = tmp_path / "clips"
    for bad in BAD:
        (folder := source / f"{bad.number:02d}").mkdir(parents=True)
        bad.make(folder)
    with as_user():
        made = build(source, tmp_path / "index")
    lines = [json.loads(line) for line in (tmp_path / "index" / index.QUARANTINE).read_text().splitlines()]
    reasons = {int(line["path"][:2]): line["reason"] for line in lines if "pool" not in line["path"]}
    kept = {int(entry.path[:2]) for entry in made.entries}
    for bad in BAD:
        if bad.refused and bad.name != "missing":
            assert bad.refused in reasons[bad.number]
    assert reasons[27].startswith("has the same bytes as") and reasons[30].startswith("has the same bytes as")
    assert "is damaged" in reasons[9]
    assert {13, 14, 15, 16, 17, 19, 28, 29} <= kept


def test_only_the_hash_sees_a_changed_file(tmp_path: Path) -> None:
    path = BY_NUMBER[30].make(tmp_path / "clips")
    build(tmp_path / "clips", tmp_path / "index")
    (entry,) = Index.open(tmp_path / "index").entries
    entry.verify()
    before = video.read(path, frames=FRAMES).frames
    change(path)
    np.testing.assert_array_equal(video.read(path, frames=FRAMES).frames, before)
    entry.check()
    with pytest.raises(Mistake, match="has changed since it was indexed"):
        entry.verify()
    path.unlink()
    with pytest.raises(Mistake, match="is gone"):
        entry.verify()


def _threads() -> int:
    """The system's; one that has been joined may take a moment more to be gone from its list."""
    counts = []
    for _ in range(20):
        counts.append(len(os.listdir("/proc/self/task")))
        time.sleep(0.005)
    return min(counts)


def test_nothing_leaks_over_two_hundred_files(tmp_path: Path) -> None:
    """Descriptors and threads stay as they are, also where a reader stops in the middle or a file changes underway."""
    files = []
    for bad in BAD:
        (folder := tmp_path / str(bad.number)).mkdir()
        files.append(bad.make(folder))
    held = []
    for _ in range(7):
        for file in files:
            for look in (video.probe, lambda path: list(islice(video.stream(path, fps=Fraction(10), chunk=2), 2))):
                try:
                    look(file)
                except Mistake:
                    pass
        for thread in threading.enumerate():  # a reader that was left in the middle ends a moment later
            if thread.name.startswith("reads "):
                thread.join(10)
        held.append((len(os.listdir("/proc/self/fd")), _threads()))
    assert len(files) * len(held) > 200 and held[0] == held[-1]
