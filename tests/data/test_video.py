"""Frames come out by their time stamps; what is written is exact; what is broken gets one line."""

import hashlib
import json
import signal
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from drivesim.data import frames, opening, video
from drivesim.errors import Mistake

from .bad import encode, turn
from .numbered import SIZE, numbers, picture, write, write_uneven

RATES = [Fraction(15, 8), Fraction(15, 2), Fraction(25), Fraction(30), Fraction(30000, 1001)]


@pytest.mark.parametrize("fps", RATES)
def test_what_is_written_is_read_frame_for_frame(tmp_path: Path, fps: Fraction) -> None:
    path = write(tmp_path / "a.mp4", 60, fps)
    info = video.probe(path)
    assert (info.fps, info.frames, info.seconds) == (fps, 60, 60 / fps)
    assert (info.height, info.width, info.rotation) == (*SIZE, 0)
    assert numbers(video.read(path, frames=60).frames) == list(range(60))


@pytest.mark.parametrize("source", RATES)
@pytest.mark.parametrize("fps", [Fraction(15, 8), Fraction(15, 2), Fraction(30)])
def test_resampled_by_time_stamp(tmp_path: Path, source: Fraction, fps: Fraction) -> None:
    path = write(tmp_path / "a.mp4", 60, source)
    count = video.frames_in(60 / source, fps)
    clip = video.read(path, fps=fps, frames=count)
    assert clip.fps == fps
    assert numbers(clip.frames) == [int((n / fps + video.GRACE) * source) for n in range(count)]
    with pytest.raises(Mistake, match=f"{count + 1} are asked for"):
        video.read(path, fps=fps, frames=count + 1)


def test_starting_late_seeks_to_the_same_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 250, Fraction(25))
    for start in (Fraction(1, 25), Fraction(3), Fraction(719, 100), Fraction(9)):
        got = numbers(video.read(path, fps=Fraction(15, 2), start=start, frames=4).frames)
        assert got == [int((start + n / Fraction(15, 2)) * 25) for n in range(4)]


@pytest.mark.parametrize("name", ["uneven.mkv", "uneven.ts", "uneven.mp4"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_uneven_time_stamps(tmp_path: Path, name: str, b_frames: int) -> None:
    stamps = list(np.cumsum([0] + [33, 34, 400, 33, 100, 20] * 6).tolist())
    path = write_uneven(tmp_path / name, stamps, bf=b_frames)
    fps, start = Fraction(10), Fraction(1, 2)
    count = int((Fraction(stamps[-1], 1000) - start) * fps)
    wanted = [bisect_right(stamps, float(start + n / fps) * 1000 + 0.5) - 1 for n in range(count)]
    assert numbers(video.read(path, fps=fps, start=start, frames=count).frames) == wanted
    assert numbers(video.read(path, frames=len(stamps)).frames) == list(range(len(stamps)))
    assert video.probe(path).frames == len(stamps)


def test_recording_gives_what_read_gives(tmp_path: Path) -> None:
    stamps = list(np.cumsum([0] + [33, 34, 400, 33, 100, 20] * 6).tolist())
    path = write_uneven(tmp_path / "uneven.mkv", stamps)
    whole = video.record(path, size=(32, 64))
    for start in (Fraction(0), Fraction(1, 3), Fraction(7, 5)):
        direct = video.read(path, fps=Fraction(15, 2), start=start, frames=8, size=(32, 64)).frames
        np.testing.assert_array_equal(whole.read(Fraction(15, 2), start, 8), direct)


def test_a_stated_rate_stretches_time(tmp_path: Path) -> None:
    path = write(tmp_path / "says-20.mp4", 40, Fraction(20))
    info = video.probe(path, rate=Fraction(2))
    assert (info.fps, info.seconds, info.frames) == (2, 20, 40)
    clip = video.read(path, fps=Fraction(1), start=Fraction(4), frames=8, rate=Fraction(2))
    assert numbers(clip.frames) == list(range(8, 24, 2))


def test_chunks_join_to_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 50, Fraction(25))
    clips = list(video.stream(path, fps=Fraction(15), chunk=7))
    assert [len(clip.frames) for clip in clips] == [7, 7, 7, 7, 2]
    assert [clip.start for clip in clips] == [Fraction(7 * n, 15) for n in range(5)]
    np.testing.assert_array_equal(
        np.concatenate([clip.frames for clip in clips]), video.read(path, fps=Fraction(15), frames=30).frames
    )


def test_two_writes_give_the_same_bytes(tmp_path: Path) -> None:
    hashes = {
        hashlib.sha256(write(tmp_path / f"{n}.mp4", 40, Fraction(15, 2)).read_bytes()).hexdigest() for n in range(2)
    }
    assert len(hashes) == 1


@pytest.mark.parametrize("fps", RATES)
def test_joined_segments_have_exact_time_stamps(tmp_path: Path, fps: Fraction) -> None:
    lengths = [16, 7, 16, 1]
    firsts = [sum(lengths[:n]) for n in range(len(lengths))]
    segments = [
        write(tmp_path / f"{n}.mp4", length, fps, first=first)
        for n, (length, first) in enumerate(zip(lengths, firsts, strict=True))
    ]
    out = tmp_path / "whole.mp4"
    video.remux(segments, out)
    assert numbers(video.read(out, frames=40).frames) == list(range(40))
    with av.open(str(out)) as container:
        stamps = [p.pts * p.time_base for p in container.demux(video=0) if p.pts is not None]
    assert stamps == [n / fps for n in range(40)]
    assert video.probe(out).seconds == 40 / fps
    assert not list(tmp_path.glob(".*"))


def test_a_comment_is_read_back(tmp_path: Path) -> None:
    segments = [tmp_path / "0.mp4", tmp_path / "1.mp4"]
    for segment in segments:
        with video.Writer(segment, SIZE, Fraction(10), comment="synthetic: é") as writer:
            writer.write(np.stack([picture(n) for n in range(3)]))
    assert video.probe(segments[0]).comment == "synthetic: é"
    video.remux(segments, tmp_path / "plain.mp4")
    video.remux(segments, tmp_path / "whole.mp4", comment="synthetic: whole")
    assert [video.probe(tmp_path / name).comment for name in ("plain.mp4", "whole.mp4")] == ["", "synthetic: whole"]


def test_segments_that_differ_are_refused(tmp_path: Path) -> None:
    one, other = write(tmp_path / "1.mp4", 4, Fraction(30)), write(tmp_path / "2.mp4", 4, Fraction(25))
    with pytest.raises(Mistake, match="cannot be joined"):
        video.remux([one, other], tmp_path / "out.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.mp4", "2.mp4"]


def test_a_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), video.Writer(tmp_path / "a.mp4", SIZE, Fraction(30)) as writer:
        writer.write(picture(1)[None])
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with pytest.raises(Mistake, match="odd"):
        video.Writer(tmp_path / "a.mp4", (63, 128), Fraction(30))


def test_colours_survive(tmp_path: Path) -> None:
    colours = np.array([[220, 40, 10], [20, 60, 200], [128, 128, 128], [250, 240, 20]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (4, 64, 64, 3)).copy()
    with video.Writer(tmp_path / "a.mp4", (64, 64), Fraction(10), crf=4) as writer:
        writer.write(frames)
    back = video.read(tmp_path / "a.mp4", frames=4).frames
    assert np.abs(back.astype(int) - frames).max() <= 4


def test_crop_is_centred_and_keeps_the_aspect() -> None:
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 20:100] = 200
    fitted = video.fit(wide, (20, 40))
    assert fitted.shape == (20, 40, 3) and fitted.min() == 200
    tall = np.zeros((120, 40, 3), np.uint8)
    tall[50:70] = 200
    assert video.fit(tall, (20, 40)).min() == 200
    assert video.fit(tall, (120, 40)) is tall


@pytest.mark.parametrize("shape", [(80, 64), (40, 96), (41, 33)])
def test_boxes_follow_the_crop(shape: tuple[int, int]) -> None:
    size, (height, width) = (64, 128), shape
    picture = np.zeros((height, width, 3), np.uint8)
    picture[height // 2 - 5 : height // 2 + 8, width // 4 : width // 2] = 255
    box = np.array([[width // 4 / width, (height // 2 - 5) / height, width // 2 / width, (height // 2 + 8) / height]])
    rows, columns = np.nonzero(video.fit(picture, size)[:, :, 0] > 127)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert video.fit_boxes(box, shape, size)[0] * (128, 64, 128, 64) == pytest.approx(found, abs=1.0)


@pytest.mark.parametrize(
    ("matrix", "rotation", "turns"), [((0, 1, -1, 0), -90, -1), ((0, -1, 1, 0), 90, 1), ((-1, 0, 0, -1), 180, 2)]
)
def test_rotation_is_applied(tmp_path: Path, matrix: tuple[int, ...], rotation: int, turns: int) -> None:
    path = write(tmp_path / "a.mp4", 4, Fraction(10))
    stored = video.read(path, frames=4).frames
    info = video.probe(turn(path, matrix))
    assert abs(info.rotation) == abs(rotation) and (rotation == 180 or info.rotation == rotation)
    shown = video.read(path, frames=4).frames
    assert shown.shape[1:3] == (info.height, info.width)
    np.testing.assert_array_equal(shown, np.rot90(stored, turns, axes=(1, 2)))


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (0, 1, 1, 0), (1, 1, -1, 1)])
def test_mirrored_and_oblique_pictures_are_refused(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = turn(write(tmp_path / "a.mp4", 4, Fraction(10)), matrix)
    for look in (video.probe, lambda file: video.read(file, frames=4)):
        with pytest.raises(Mistake, match="display matrix"):
            look(path)


def test_numbered_images_read_like_video(tmp_path: Path) -> None:
    for n in range(12):  # gaps and missing zeros do not matter, the number does
        cv2.imwrite(str(tmp_path / f"frame_{n * 3}.png"), picture(n))
    info = video.probe(tmp_path, rate=Fraction(10))
    assert (info.frames, info.fps, info.seconds) == (12, 10, Fraction(12, 10))
    assert numbers(video.read(tmp_path, frames=12, rate=Fraction(10)).frames) == list(range(12))
    half = video.read(tmp_path, fps=Fraction(5), start=Fraction(1, 5), frames=4, rate=Fraction(10))
    assert numbers(half.frames) == [2, 4, 6, 8]
    with pytest.raises(Mistake, match="no frame rate"):
        video.read(tmp_path, frames=2)


def test_picture_size_is_bounded_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", 4, Fraction(30))
    monkeypatch.setattr(opening, "MAX_PIXELS", 64 * 128 - 1)
    with pytest.raises(Mistake, match="128x64"):
        video.probe(path)


def test_a_clip_that_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", 8, Fraction(30))
    monkeypatch.setattr(video, "MAX_CLIP", 4 * 64 * 128 * 3)
    assert len(next(video.stream(path, chunk=4)).frames) == 4
    with pytest.raises(Mistake, match="too large"):
        next(video.stream(path, chunk=5))


@pytest.mark.parametrize(
    ("codec", "name", "pixels", "size"),
    [
        ("libx264", "a.mp4", "yuv420p", (72, 136)),
        ("libx264", "a.mkv", "yuv420p10le", (64, 128)),
        ("libx264", "a.mp4", "yuvj420p", (64, 136)),
        ("libx264", "a.ts", "yuv444p", (66, 136)),
        ("libvpx-vp9", "a.webm", "yuv420p", (63, 127)),
        ("mjpeg", "a.avi", "yuvj422p", (720, 128)),
        ("png", "a.mov", "rgb24", (64, 128)),
    ],
)
def test_pictures_are_those_of_the_plain_conversion(
    tmp_path: Path, codec: str, name: str, pixels: str, size: tuple[int, int]
) -> None:
    """One conversion for all frames, on one thread, copied once: bit for bit what one for each frame gives."""
    path = encode(tmp_path / name, codec, pixels, sizes=(size,), count=20)
    with av.open(str(path)) as container:
        plain = [
            frame.to_ndarray(format="rgb24", **({"src_colorspace": usual(size[0])} if frame.colorspace == 2 else {}))
            for frame in container.decode(video=0)
        ]
    clips = list(video.stream(path, chunk=8))
    assert [len(clip.frames) for clip in clips] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate([clip.frames for clip in clips]), plain)


def usual(height: int) -> int:
    return 1 if height >= 720 else 5  # ITU-R BT.709 and BT.601, as swscale numbers them


def test_frames_that_are_not_shown_are_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", 60, Fraction(30))
    convert, calls = frames.Upright.__call__, []
    monkeypatch.setattr(frames.Upright, "__call__", lambda *given: calls.append(1) or convert(*given))
    assert numbers(video.read(path, fps=Fraction(5), frames=10).frames) == list(range(0, 60, 6))
    assert len(calls) == 10


def test_a_probe_is_kept_as_plain_values(tmp_path: Path) -> None:
    info = video.probe(write(tmp_path / "a.mp4", 20, Fraction(30000, 1001)))
    plain = info.plain()
    assert (plain["fps"], plain["seconds"]) == ("30000/1001", "1001/1500")
    assert video.VideoInfo.from_plain(json.loads(json.dumps(plain))) == info
    with pytest.raises(ValueError, match="not the fields"):
        video.VideoInfo.from_plain({"path": "a"})


KILLED = """
import os, signal, sys
from fractions import Fraction
import numpy as np
from drivesim.data import video
frames = np.random.default_rng(0).integers(0, 255, (70, 64, 96, 3), np.uint8)
with video.Writer(sys.argv[1], (64, 96), Fraction(15)) as writer:
    writer.write(frames)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_all_but_the_last_second(tmp_path: Path) -> None:
    """Of 70 frames whole GOPs of 15: the file that was begun plays up to there, and none stands at its name."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a.mp4")])
    assert done.returncode == -signal.SIGKILL
    (part,) = tmp_path.iterdir()
    assert part.name.startswith(".a.mp4.") and part.name.endswith(".part")
    with av.open(str(part)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 60


@pytest.mark.parametrize("count", [1, 2, 3, 31])
@pytest.mark.parametrize("fps", RATES)
def test_what_is_written_tells_its_rate_however_short(tmp_path: Path, fps: Fraction, count: int) -> None:
    with video.Writer(tmp_path / "a.mp4", (64, 96), fps, comment="told") as writer:
        writer.write(np.zeros((count, 64, 96, 3), np.uint8))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert container.metadata["comment"] == "told" and stream.start_time == 0
        stamps = [frame.pts * stream.time_base for frame in container.decode(stream)]
        assert stamps == [n / fps for n in range(count)]
        assert stream.duration * stream.time_base == count / fps
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat") and b"moof" not in data
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("b_frames", [0, 2, 3])
@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_clips_from_anywhere_are_those_of_the_whole(tmp_path: Path, b_frames: int, even: bool, name: str) -> None:
    """Pictures that no other refers to are passed over before a clip, and behind it: none of its own is missing."""
    stamps = list(range(0, 3600, 40)) if even else list(np.cumsum([0] + [33, 34, 400, 33, 100, 20] * 15).tolist())
    path, fps, draw = write_uneven(tmp_path / name, stamps, bf=b_frames, g=24), Fraction(25), np.random.default_rng(2)
    for start in (Fraction(int(ms), 1000) for ms in draw.integers(0, stamps[-1] - 400, 24)):
        wanted = [bisect_right(stamps, float(start + n / fps) * 1000 + 0.5) - 1 for n in range(9)]
        assert numbers(video.read(path, fps=fps, start=start, frames=9).frames) == wanted, start
    chunks = list(video.stream(path, fps=fps, start=Fraction(1, 2), chunk=7))
    wanted = [bisect_right(stamps, 500.5 + n * 40) - 1 for n in range(sum(len(chunk.frames) for chunk in chunks))]
    assert numbers(np.concatenate([chunk.frames for chunk in chunks])) == wanted
    assert wanted[-1] == len(stamps) - 1


def test_fewer_pictures_are_decoded_than_lie_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, decoded = write_uneven(tmp_path / "a.mp4", list(range(0, 3600, 40)), bf=3, g=80), [0]
    given = opening.Opened._frames

    def counted(self: opening.Opened, *asked: int | None) -> Iterator[object]:
        for frame in given(self, *asked):
            decoded[0] += 1
            yield frame

    monkeypatch.setattr(opening.Opened, "_frames", counted)
    video.read(path, fps=Fraction(25), start=Fraction(60, 25), frames=4)
    assert 4 < decoded[0] <= 45  # of 65 from the key-frame on
