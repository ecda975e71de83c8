"""Thirty inputs that are broken, hostile or unusual, as real files: numbers, names, and what ``video.probe`` says.

    for bad in BAD:
        file = bad.make(folder)  # in a folder of its own

``as_user()`` is for the file that may not be read: root reads everything.
"""

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np

from .numbered import SIZE, picture, write, write_uneven

FRAMES, FPS = 60, Fraction(25)  # of a clip that has its one fault and no other
FULL_RANGE, BT601, PQ = 2, 5, 16


@dataclass(frozen=True)
class Bad:
    """An input and what comes of it.

    Args:
        make: writes it into an empty folder and gives its path.
        refused: words of ``probe``'s one line; empty = it can be read.
        remark: what ``probe`` remarks; empty = nothing.
        elsewhere: who must notice what no probe of one file can: ``stream`` (decoding), ``index`` and others that see
            several files, ``window`` and ``fps`` (whoever asks for so much), ``verify`` (the index's hash).
    """

    number: int
    name: str
    make: Callable[[Path], Path]
    refused: str = ""
    remark: str = ""
    elsewhere: Literal["", "stream", "index", "window", "fps", "verify"] = ""


def encode(
    path: Path,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    sizes: tuple[tuple[int, int], ...] = (SIZE,),
    count: int = FRAMES,
    options: dict[str, str] | None = None,
    **tags: int,
) -> Path:
    """Numbered pictures by any codec, ``count`` of each size; ``tags`` are those of colours."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options or {})
        for part, size in enumerate(sizes):
            encoder = stream.codec_context if part == 0 else av.CodecContext.create(codec, "w")
            encoder.height, encoder.width, encoder.pix_fmt, encoder.framerate = *size, pixels, FPS
            encoder.time_base = 1 / FPS
            for tag, value in tags.items():
                setattr(encoder, tag, value)
            for n in range(part * count, part * count + count):
                for packet in encoder.encode(_frame(n, size, pixels, tags)):
                    packet.stream = stream
                    container.mux(packet)
            for packet in encoder.encode(None):
                packet.stream = stream
                container.mux(packet)
    return path


def _frame(n: int, size: tuple[int, int], pixels: str, tags: dict[str, int]) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture(n % 256, size), format="rgb24")
    frame = frame.reformat(
        format=pixels, dst_colorspace=tags.get("colorspace"), dst_color_range=tags.get("color_range")
    )
    frame.pts, frame.time_base = n, 1 / FPS
    for tag, value in tags.items():
        setattr(frame, tag, value)
    return frame


def change(path: Path) -> None:
    """One bit of the file turns, where it decodes all the same: of the encoder's own remark in the stream."""
    data = bytearray(path.read_bytes())
    data[data.index(b"x264 - core")] ^= 1
    path.write_bytes(data)


@contextmanager
def as_user() -> Iterator[None]:
    """Root lays down its power to read every file (a Linux capability), so that permissions count; others have none."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3, this thread
    held = ctypes.create_string_buffer(24)  # effective, permitted, inheritable; low words, then high words
    if libc.capget(header, held):
        raise OSError(ctypes.get_errno(), "capget")
    words = list(struct.unpack("=6I", held.raw))
    words[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if libc.capset(header, struct.pack("=6I", *words)):
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        libc.capset(header, held.raw)


def _good(folder: Path, name: str = "clip.mp4", first: int = 0) -> Path:
    return write(folder / name, FRAMES, FPS, first=first)


def _cut(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    return path


def _empty(folder: Path) -> Path:
    path = folder / "empty.mp4"
    path.touch()
    return path


def _page(folder: Path) -> Path:
    path = folder / "page.mp4"
    path.write_text("<!DOCTYPE html>\n<html><title>404 Not Found</title></html>\n" * 9)
    return path


def _pointer(folder: Path) -> Path:
    path = folder / "pointer.mp4"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")
    return path


def _directory(folder: Path) -> Path:
    path = folder / "directory.mp4"
    path.mkdir()
    return path


def _no_moov(folder: Path) -> Path:
    path = encode(folder / "no-moov.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"moov") - 4])  # the camera lost power before it wrote the table
    return path


def _flipped(folder: Path) -> Path:
    """A turned bit that the decoder hides: no error, and the picture is patched from its neighbours."""
    path = _good(folder, "flipped.mp4")
    data = path.read_bytes()
    start = data.index(b"mdat")
    for place in range(start + (len(data) - start) // 2, len(data)):
        turned = bytearray(data)
        turned[place] ^= 0x10
        path.write_bytes(turned)
        with suppress(av.FFmpegError), av.open(str(path)) as container:
            if any(frame.is_corrupt for frame in container.decode(video=0)):
                return path
    raise AssertionError("no bit was found")


def _sound(folder: Path) -> Path:
    path = folder / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _uneven(folder: Path) -> Path:
    gaps = [33, 34, 33, 400] * 12  # says 30 frames a second
    return write_uneven(folder / "uneven.mkv", np.cumsum([0, *gaps]).tolist())


def _twins(folder: Path) -> Path:
    """Every fifth frame comes again, a millisecond later."""
    stamps = sorted([40 * n for n in range(FRAMES)] + [40 * n + 1 for n in range(0, FRAMES, 5)])
    return write_uneven(folder / "twins.mkv", stamps)


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Writes the display matrix ``a b c d`` into an mp4."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def _bomb(folder: Path) -> Path:
    """90 kB; its five pictures take 2.2 GB."""
    path, side = folder / "bomb.mov", 12_000
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=FPS)
        stream.width = stream.height = side
        stream.pix_fmt = "monob"
        black = av.VideoFrame(side, side, "monob")
        black.planes[0].update(bytes(black.planes[0].buffer_size))
        black.pts, black.time_base = 0, 1 / FPS
        (packet,) = stream.encode(black)
        for n in range(5):
            again = av.Packet(bytes(packet))
            again.stream, again.pts, again.dts, again.time_base = stream, n, n, 1 / FPS
            again.is_keyframe = True
            container.mux(again)
    return path


def _playlist(folder: Path) -> Path:
    _good(folder, "other.mp4")
    path = folder / "playlist.mp4"
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    return path


def _unreadable(folder: Path) -> Path:
    path = _good(folder, "unreadable.mp4")
    path.chmod(0)
    return path


def _loop(folder: Path) -> Path:
    path = folder / "loop.mp4"
    (folder / "pool.mp4").symlink_to(path)
    path.symlink_to(folder / "pool.mp4")
    return path


def _no_utf8(folder: Path) -> Path:
    return _good(folder).rename(folder / os.fsdecode(b"caf\xe9.mp4"))


BAD = (
    Bad(1, "empty file", _empty, refused="is empty"),
    Bad(2, "web page", _page, refused="is a web page, not a video"),
    Bad(3, "git-LFS pointer", _pointer, refused="is a git-LFS pointer"),
    Bad(4, "directory", _directory, refused="is a folder without two or more numbered images"),
    Bad(5, "moov missing", _no_moov, refused="is cut off: its table of contents"),
    Bad(6, "mp4 cut at 60 %", lambda f: _cut(_good(f)), refused="is cut off"),
    Bad(7, "mkv cut at 60 %", lambda f: _cut(encode(f / "cut.mkv")), refused="is cut off"),
    Bad(8, "ts cut at 60 %", lambda f: _cut(encode(f / "cut.ts")), refused="is cut off"),
    Bad(9, "bit flip", _flipped, elsewhere="stream"),
    Bad(10, "audio only", _sound, refused="has no video stream"),
    Bad(11, "single frame", lambda f: write(f / "single.mp4", 1, FPS), refused="holds less than two frames"),
    Bad(12, "16x16", lambda f: encode(f / "small.mp4", sizes=((16, 16),)), refused="less than 32 pixels a side"),
    Bad(
        13,
        "odd height and width",
        lambda f: encode(
            f / "odd.webm", "libvpx-vp9", sizes=((63, 127),), options={"deadline": "realtime", "cpu-used": "8"}
        ),
        remark="has an odd height or width",
    ),
    Bad(14, "variable frame rate", _uneven, remark="has a variable frame rate, taken by time stamp"),
    Bad(15, "near-duplicate time stamps", _twins, remark="has near-duplicate time stamps"),
    Bad(16, "rotated", lambda f: turn(_good(f), (0, 1, -1, 0)), remark="is turned by its rotation tag"),
    Bad(
        17,
        "10 bits",
        lambda f: encode(f / "deep.mp4", pixels="yuv420p10le"),
        remark="has 10 bits a colour, read as 8",
    ),
    Bad(
        18,
        "HDR (PQ)",
        lambda f: encode(f / "hdr.mp4", pixels="yuv420p10le", color_trc=PQ, color_primaries=9),
        refused="is high dynamic range",
    ),
    Bad(
        19,
        "full-range BT.601",
        lambda f: encode(f / "full.mp4", colorspace=BT601, color_range=FULL_RANGE),
        remark="has full-range colours, converted",
    ),
    Bad(20, "decompression bomb", _bomb, refused="has pictures of more than"),
    Bad(21, "playlist named mp4", _playlist, refused="is a playlist, not a video"),
    Bad(
        22,
        "size changes midway",
        lambda f: encode(f / "two-sizes.ts", sizes=(SIZE, (96, 192)), count=FRAMES // 2),
        refused="changes its picture size midway",
    ),
    Bad(23, "missing", lambda f: f / "missing.mp4", refused="no such file"),
    Bad(24, "unreadable", _unreadable, refused="may not be read"),
    Bad(25, "symlink loop", _loop, refused="is a link that leads back to itself"),
    Bad(26, "name that is not UTF-8", _no_utf8, refused="has a name that is not UTF-8"),
    Bad(27, "in both sides", _good, elsewhere="index"),
    Bad(28, "shorter than a window", lambda f: write(f / "short.mp4", 5, FPS), elsewhere="window"),
    Bad(29, "fewer frames a second", lambda f: write(f / "slow.mp4", FRAMES // 4, FPS / 5), elsewhere="fps"),
    Bad(30, "changed since it was indexed", _good, elsewhere="verify"),
)
