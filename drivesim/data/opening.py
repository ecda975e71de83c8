"""A video file is opened here and nowhere else, for it may be hostile or broken.

Only known containers and the protocol ``file`` are let through: a playlist that calls itself mp4 opens other files, or
the network. What the header tells is judged before a picture is decoded: a file of 100 kB can hold pictures of 800 MB.
Every refusal is a ``Mistake`` whose sentence is the same for every file, so that refusals can be counted.
"""

import os
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
from av.video.reformatter import ColorTrc

from drivesim.data.patience import Patient
from drivesim.errors import Mistake, beside

T = TypeVar("T")
MAX_PIXELS = 8192 * 4352  # 8K; what is larger is a mistake or an attack
MIN_SIDE = 32
OPEN = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,hevc,h264",
    "protocol_whitelist": "file",
}
BOUND = {"max_pixels": str(MAX_PIXELS)}  # for decoders
# FFmpeg decodes pictures in opening, to guess what a header leaves open. That of mp4 leaves nothing open: its time
# stamps tell the decoder's delay, too. Of 16 frames it is a tenth of the work.
BY_HEADER = {"skip_frame": "all"}
ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
AHEAD = 256 << 20  # bytes of packets that are read before the first is decoded, at most
GUESSED_RATE = Fraction(25)  # ffmpeg's own guess for a raw stream that carries no time
PNG, JPEG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8"
FRAMES_OF_JPEG = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of a frame's header, which has its size
MENDABLE = "mp4, mov, mkv, webm, avi and ts are read"


class Opened:
    """PyAV's container, whose reading is waited for with patience: ``demux``, ``decode``, ``seek`` and ``call``."""

    def __init__(self, container: Any, patient: Patient):
        self._container, self._patient = container, patient

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def demux(self, video: Any) -> Iterator[Any]:
        return self._patient.each(self._container.demux(video))

    def decode(self, video: Any, shown: int | None = None, last: int | None = None) -> Iterator[Any]:
        """Frames. Of those before the one shown at ``shown`` and of those behind ``last``, in the stream's time base,
        only such as others refer to; behind ``last`` one at least, and none once all up to there have come."""
        return self._patient.each(self._frames(video, shown, last))

    def _frames(self, video: Any, shown: int | None, last: int | None) -> Iterator[Any]:
        """With a look at the clock between packets: any number of them may hold no picture."""
        packets, since = self._container.demux(video), time.monotonic()
        if shown is not None and video.codec_context.name == "h264":
            packets = _sparing(packets, video.codec_context, shown, last)
        for packet in packets:
            for frame in packet.decode() if packet is not None else video.codec_context.decode(None):
                yield frame
                since = time.monotonic()
            if time.monotonic() - since > self._patient.seconds:
                raise Mistake("gives no picture for too long", where=self._patient.path, mend="copy it again")

    def seek(self, at: int, **how: Any) -> None:
        self.call(lambda: self._container.seek(at, **how))

    def call(self, ask: Callable[[], T]) -> T:
        return self._patient.call(ask)

    def close(self) -> None:
        """Where a call is stuck, its thread keeps all that it works on: to free that would be a crash."""
        if not self._patient.stuck:
            self.call(self._container.close)
            self._patient.end()

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def opened(path: str | Path) -> Opened:
    """The container, its first video stream looked at and ready to be decoded by one thread.

    Raises:
        Mistake: it cannot be reached, is no video, or one that would be read wrongly; it takes too long.
    """
    path = Path(path)
    real = _reached(path)
    head = _head(real, path)
    _refuse_text(head, path)
    hasty = BY_HEADER if head[4:8] in ATOMS else {}
    patient = Patient(path)
    try:
        wait = patient.seconds
        container = Opened(
            patient.call(lambda: av.open(f"file:{real}", options=OPEN | BOUND | hasty, timeout=(wait, wait))), patient
        )
    except (av.FFmpegError, ValueError, OSError):
        patient.end()
        if b"ftyp" in head[:16]:
            what = "is cut off: its table of contents (moov) is missing or broken"
            raise Mistake(what, where=path, mend="copy it again") from None
        raise Mistake("is not a video that can be opened", where=path, mend=MENDABLE) from None
    try:
        _judge(container, path)
    except BaseException:
        container.close()
        raise
    video = container.streams.video[0]
    # More threads take 6 % to 30 % more processor time; whoever wants both cores reads two files.
    video.codec_context.thread_type = "NONE"
    video.codec_context.options = BOUND
    return container


def _sparing(packets: Iterator[Any], decoder: Any, shown: int, last: int | None) -> Iterator[Any]:
    """``packets``, of which ``decoder`` passes over pictures before ``shown`` and behind ``last`` that no other refers
    to; behind ``last`` comes None, which asks it for what it holds, and nothing more.

    Which picture is shown then is only known once no earlier one can come: time stamps of decoding are never later than
    those of showing, so that is where they lie behind it. What is read up to there is little, beside decoding it. H.264
    says of each picture whether another refers to it; HEVC says so among pictures of one layer alone.
    """
    held, size, until = [], 0, shown if last is None else last
    known = ends = False
    for packet in packets:
        held.append(packet)
        size += packet.size
        ends = not packet.size
        known = ends or (packet.dts is not None and packet.dts > until)
        if known or packet.dts is None or packet.pts is None or size > AHEAD:
            break
    first = max((p.pts for p in held if p.pts is not None and p.pts <= shown), default=None) if known else None
    for packet in held:
        spare = first is not None and packet.pts is not None and packet is not held[-1]
        spare = spare and (packet.pts < first or (last is not None and packet.pts > last))
        decoder.skip_frame = "NONREF" if spare else "DEFAULT"
        yield packet
    decoder.skip_frame = "DEFAULT"
    if known and not ends and last is not None:
        yield None
    else:
        yield from packets


def own_rate(video: Any) -> Fraction:
    return Fraction(video.average_rate or video.guessed_rate or GUESSED_RATE)


def refuse_name(path: Path) -> None:
    """Raises:
    Mistake: the name could not be written into an index, a score or a report.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise Mistake("has a name that is not UTF-8", where=shown, mend="rename it") from None


def refuse_picture(width: int, height: int, transfer: int, path: Path) -> None:
    """What the header says of a picture, or the first picture of itself.

    Raises:
        Mistake: too large, too small, or of high dynamic range.
    """
    if not width or not height:
        what = f"has pictures of more than {MAX_PIXELS} pixels, or of no size"  # FFmpeg forgets a size out of bounds
        raise Mistake(what, where=path, mend="copy it again; 8K is read")
    refuse_large(width, height, path)
    if min(width, height) < MIN_SIDE:
        raise Mistake(
            f"has pictures of less than {MIN_SIDE} pixels a side", where=path, mend=f"they are {width}x{height}"
        )
    if transfer in HDR:
        raise Mistake(
            f"is high dynamic range ({HDR[ColorTrc(transfer)]}), whose colours would come out wrong",
            where=path,
            mend="tone-map it to SDR (BT.709) first, as ffmpeg's filters zscale and tonemap do",
        )


def refuse_large(width: int, height: int, path: Path) -> None:
    """Raises:
    Mistake: more pixels than 8K has.
    """
    if width * height > MAX_PIXELS:
        what, mend = f"has pictures of more than {MAX_PIXELS} pixels", f"they are {width}x{height}; 8K is read"
        raise Mistake(what, where=path, mend=mend)


def content(file: Path) -> bytes:
    """The bytes of a regular file, which a pipe or a device is not.

    Raises:
        Mistake: it cannot be reached or read, or is none.
    """
    try:
        return _reached(file).read_bytes()
    except PermissionError:
        raise Mistake("may not be read", where=file, mend="check its permissions") from None
    except OSError as problem:
        raise Mistake(f"cannot be read: {problem.strerror}", where=file) from None


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as the header of a PNG or JPEG has them; None for anything else."""
    if data[:16] == PNG:
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    at = 2
    while data[:2] == JPEG and at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker in FRAMES_OF_JPEG:
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        at += 1 if marker == 0xFF else 2 + length  # a marker may stand behind any number of 0xFF
    return None


def _reached(path: Path) -> Path:
    refuse_name(path)
    try:
        real = path.resolve(strict=True)
    except FileNotFoundError:
        gone = "is a link to a file that is gone" if path.is_symlink() else "no such file"
        raise Mistake(gone, where=path, mend=beside(path)) from None
    except RuntimeError:
        raise Mistake("is a link that leads back to itself", where=path, mend="remove it") from None
    except OSError as problem:
        raise Mistake(f"cannot be reached: {problem.strerror}", where=path) from None
    if not real.is_file():
        raise Mistake(
            "is not a regular file", where=path, mend="a video file or a folder of numbered images is expected"
        )
    return real


def _head(real: Path, path: Path) -> bytes:
    try:
        with real.open("rb") as file:
            head = file.read(512)
    except PermissionError:
        raise Mistake("may not be read", where=path, mend="check its permissions") from None
    except OSError as problem:
        raise Mistake(f"cannot be read: {problem.strerror}", where=path) from None
    if not head:
        raise Mistake("is empty (0 bytes)", where=path, mend="copy it again")
    return head


def _refuse_text(head: bytes, path: Path) -> None:
    if b"\0" in head or not head.isascii():
        return
    start = head.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise Mistake("is a git-LFS pointer, not the video itself", where=path, mend="git lfs pull")
    if start.startswith((b"#extm3u", b"ffconcat", b"file ", b"[playlist]")):
        raise Mistake("is a playlist, not a video", where=path, mend="playlists are not followed: name the videos")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise Mistake("is a web page, not a video", where=path, mend="download it again")
    raise Mistake("is text, not a video", where=path, mend=MENDABLE)


def _judge(container: Any, path: Path) -> None:
    if not container.streams:
        raise Mistake("is cut off: it holds nothing that is shown", where=path, mend="copy it again")
    if not container.streams.video:
        raise Mistake("has no video stream", where=path)
    video = container.streams.video[0]
    if video.codec_context is None:
        raise Mistake("is coded in a way that cannot be decoded here", where=path, mend="re-encode it as H.264")
    refuse_picture(video.width, video.height, video.codec_context.color_trc, path)
