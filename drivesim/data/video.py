"""Video and folders of numbered images, in and out. The only module that opens them.

A file that arrives may be hostile (a playlist that calls itself mp4 opens other files, or the network): only known
containers and the protocol ``file`` are let through, and the picture's size is bounded before anything is decoded.

Time. A frame is shown from its own time stamp until the next one: at time ``t`` it is the last with time stamp <= t::

    source   |0----|1----|2----------|4----|        time stamps need not be even
    asked      ^       ^       ^       ^            -> 0 1 2 4

Time 0 is the first frame's stamp; the last frame is shown for its own duration; stamps have half a millisecond of
grace, since Matroska rounds them to milliseconds.
"""

import math
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Colorspace

from drivesim.errors import Mistake
from drivesim.scene import Clip

OPEN = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,hevc,h264",
    "protocol_whitelist": "file",
}
VIDEOS = (".mp4", ".mov", ".m4v", ".3gp", ".mkv", ".webm", ".avi", ".ts", ".mts", ".h264", ".hevc", ".265")
IMAGES = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 8192 * 4352  # 8K; what is larger is a mistake or an attack
GRACE = Fraction(1, 2000)
GUESSED_RATE = Fraction(25)  # ffmpeg's own guess for a raw stream that carries no time
BT709, UNTAGGED = 1, 2
# Without the macroblock tree: in a process with a second thread its results differ from run to run, in 1 file in 100
# with the x264 of PyAV 18.1.
ALIKE = "threads=1:sliced-threads=0:mbtree=0:rc-lookahead=0"
Size = tuple[int, int]


@dataclass(frozen=True)
class VideoInfo:
    """What a video is, as it is shown (rotation applied).

    Args:
        frames: number of frames shown; ``fps`` their mean rate, ``seconds`` how long they are shown.
        rotation: degrees counter-clockwise that the stored picture is turned by when shown.
        comment: of the file's metadata; generated video says there that it is synthetic.
    """

    path: Path
    width: int
    height: int
    fps: Fraction
    frames: int
    seconds: Fraction
    rotation: int = 0
    codec: str = ""
    comment: str = ""


def probe(path: str | Path, *, rate: Fraction | None = None) -> VideoInfo:
    """Reads the time stamps of the whole file and decodes its first frame.

    Args:
        rate: the true frame rate where the file's own is wrong; needed for a folder of images.

    Raises:
        Mistake: what ``path`` is instead of a video with two frames or more.
    """
    path = Path(path)
    if path.is_dir():
        return _probe_images(path, rate)
    with _opened(path) as container:
        video = container.streams.video[0]
        own = _own_rate(video)
        stamps, last, broken = _stamps(container, video)
        promised = (video.duration or 0) * Fraction(video.time_base or 0) or _length(container)
        if len(stamps) < 2:
            raise Mistake(f"holds {len(stamps)} frame, not a video", where=path, mend="two frames or more are needed")
        seconds = max(stamps) - min(stamps) + (last or 1 / own)
        if broken or seconds < promised - max(Fraction(1, 2), promised / 20):
            raise Mistake(
                f"is cut off after {float(seconds):.2f} s", where=path, mend="copy it again, or repair it with ffmpeg"
            )
        codec, comment = video.codec_context.name, container.metadata.get("comment", "")
    with _source(path, Fraction(0), None) as (shown, _):
        first = next(shown, None)
        if first is None:
            raise Mistake("has no frame that can be decoded", where=path)
        height, width = first.picture().shape[:2]
    fps = rate or _tidy(len(stamps) / seconds, own)
    seconds = seconds * own / rate if rate else seconds
    return VideoInfo(path, width, height, fps, len(stamps), seconds, first.rotation, codec, comment)


def frames_in(seconds: Fraction, fps: Fraction) -> int:
    """How many frames at ``fps`` a video of ``seconds`` gives, the first at time 0."""
    return max(0, math.ceil((seconds - GRACE) * fps))


def read(
    path: str | Path,
    *,
    fps: Fraction | None = None,
    start: Fraction = Fraction(0),
    frames: int,
    size: Size | None = None,
    rate: Fraction | None = None,
) -> Clip:
    """``frames`` frames at exactly ``fps``, the first at second ``start``.

    Args:
        fps: None = the source's own frames as they come, however uneven.
        size: ``(H, W)`` to resize to after a centre crop to its aspect; None = as stored.
        rate: the source's true frame rate, see ``probe``.

    Raises:
        Mistake: not a video, or it ends too early.
    """
    clip = next(stream(path, fps=fps, size=size, chunk=frames, start=start, rate=rate), None)
    found = 0 if clip is None else len(clip.frames)
    if clip is None or found < frames:
        at = f" at {fps} fps" if fps else ""
        raise Mistake(f"has {found} frames{at} from {float(start):.2f} s on, {frames} are asked for", where=path)
    return clip


@dataclass(frozen=True, eq=False)
class Recording:
    """A whole short video in memory: ``frames`` uint8 ``T H W 3``, when each is shown, and when the last one ends."""

    frames: np.ndarray
    times: tuple[Fraction, ...]
    end: Fraction

    def read(self, fps: Fraction, start: Fraction, frames: int) -> np.ndarray:
        """The same frames as ``read``, without decoding."""
        wanted = [start + n / fps for n in range(frames)]
        if wanted[-1] + GRACE >= self.end:
            raise ValueError(f"{frames} frames at {fps} fps from {start} s end after {self.end} s")
        return self.frames[[max(0, bisect_right(self.times, t + GRACE) - 1) for t in wanted]]


def record(path: str | Path, *, size: Size | None = None, rate: Fraction | None = None) -> Recording:
    """Decodes the whole video at ``size``; for short ones that are read many times. See ``read``."""
    path = Path(path)
    with _source(path, Fraction(0), rate) as (shown, _):
        rows = [(fit(frame.picture(), size), frame.time, frame.time + frame.length) for frame in shown]
    return Recording(np.stack([row[0] for row in rows]), tuple(row[1] for row in rows), rows[-1][2])


def stream(
    path: str | Path,
    *,
    fps: Fraction | None = None,
    size: Size | None = None,
    chunk: int = 64,
    start: Fraction = Fraction(0),
    rate: Fraction | None = None,
) -> Iterator[Clip]:
    """The whole video from ``start`` on as clips of ``chunk`` frames (the last may be shorter); see ``read``."""
    path = Path(path)
    with _source(path, start, rate) as (shown, own):
        yield from _clips(shown, path, own, fps, size, chunk, start)


@contextmanager
def _source(path: Path, start: Fraction, rate: Fraction | None) -> Iterator[tuple[Iterator["Shown"], Fraction]]:
    """The frames of a file or a folder from one at ``start`` or before it on, and their mean rate."""
    if path.is_dir():
        files, own = _numbered(path, rate)
        yield _image_frames(files, own), own
        return
    with _opened(path) as container:
        own = _own_rate(container.streams.video[0])
        stretch = own / rate if rate else Fraction(1)  # a wrong rate in the header stretches every time stamp alike
        frames = _frames(container, path, start / stretch)
        yield (replace(f, time=f.time * stretch, length=f.length * stretch) for f in frames), rate or own


def fit(picture: np.ndarray, size: Size | None) -> np.ndarray:
    """``H W 3`` centre-cropped to the aspect of ``size`` and resized to it: smaller by areas, larger linearly."""
    height, width = picture.shape[:2]
    if size is None or size == (height, width):
        return picture
    crop_h, crop_w = min(height, round(width * size[0] / size[1])), min(width, round(height * size[1] / size[0]))
    top, left = (height - crop_h) // 2, (width - crop_w) // 2
    crop = picture[top : top + max(crop_h, 1), left : left + max(crop_w, 1)]
    smaller = size[0] <= crop_h and size[1] <= crop_w
    return cv2.resize(crop, (size[1], size[0]), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


class Writer:
    """Writes H.264 that plays everywhere; the same frames give the same bytes on one build.

    One thread, no B-frames (a segment's first time stamp is 0 without an edit list), a closed GOP a second, no creation
    time. The file appears whole when the context ends without an error, else not at all.

    Args:
        size: ``(H, W)``, both even. ``fps``: exact.
        crf: x264's quality, 0 lossless to 51.
        comment: goes into the file's metadata.
    """

    def __init__(
        self,
        path: str | Path,
        size: Size,
        fps: Fraction,
        *,
        crf: int = 18,
        preset: str = "veryfast",
        comment: str = "",
    ):
        if size[0] % 2 or size[1] % 2:
            raise Mistake(f"{size[0]}x{size[1]} is odd", where=path, mend="H.264 in 4:2:0 needs even height and width")
        self.path, self.size, self.fps = Path(path), size, Fraction(fps)
        self.part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self.count = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = _new_mp4(self.part, self.fps, comment)
        gop = max(1, round(self.fps))
        codec = self._container.add_stream(
            "libx264",
            rate=self.fps,
            options={
                "crf": str(crf),
                "preset": preset,
                "x264-params": f"{ALIKE}:bframes=0:open-gop=0:keyint={gop}:scenecut=0",
            },
        )
        codec.height, codec.width = size
        codec.pix_fmt = "yuv420p"
        context = codec.codec_context
        context.time_base = 1 / self.fps
        context.thread_count = 1
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1
        self._stream = codec

    def write(self, frames: np.ndarray) -> None:
        """Appends uint8 ``T H W 3``."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (*self.size, 3):
            raise ValueError(f"frames are uint8 T {self.size[0]} {self.size[1]} 3, not {frames.dtype} {frames.shape}")
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, threads=1)
            frame.pts, frame.time_base = self.count, 1 / self.fps
            frame.colorspace = BT709
            self._mux(self._stream.encode(frame))
            self.count += 1

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = 1  # in the encoder's time base, a frame
            self._container.mux(packet)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.count:
                self._mux(self._stream.encode(None))
            self._container.close()
            if kind is None:
                if not self.count:
                    raise ValueError(f"{self.path}: no frame was written")
                _publish(self.part, self.path)
        finally:
            self.part.unlink(missing_ok=True)


def remux(segments: list[Path], out: str | Path, comment: str = "") -> None:
    """Joins ``Writer``'s segments by copying their packets; frame ``n`` of the whole is shown at exactly n / fps.

    Args:
        comment: goes into the metadata of the whole; those of the segments do not.

    Raises:
        Mistake: no segments, or they differ in size, rate or encoder settings.
    """
    if not segments:
        raise Mistake("no segments to join", where=out)
    out = Path(out)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with _opened(segments[0]) as first:
            like = first.streams.video[0]
            fps, extradata = _own_rate(like), like.codec_context.extradata
            whole = _new_mp4(part, fps, comment)
            copy = whole.add_stream_from_template(like)
        with whole:
            _copy(segments, whole, copy, fps, extradata)
        _publish(part, out)
    finally:
        part.unlink(missing_ok=True)


def _copy(segments: list[Path], whole: Any, copy: Any, fps: Fraction, extradata: bytes | None) -> None:
    count = 0
    for segment in segments:
        with _opened(segment) as container:
            video = container.streams.video[0]
            if _own_rate(video) != fps or video.codec_context.extradata != extradata:
                raise Mistake("cannot be joined: its size, rate or encoder settings differ", where=segment)
            for packet in container.demux(video):
                if packet.size:
                    packet.stream, packet.time_base = copy, 1 / fps
                    packet.pts = packet.dts = count
                    packet.duration = 1
                    whole.mux(packet)
                    count += 1


def image_folder(folder: str | Path) -> list[Path]:
    """The numbered images of ``folder`` by number, or none; all images there must be numbered. Gaps do not count."""
    numbered = []
    for file in Path(folder).iterdir():
        if file.suffix.lower() in IMAGES and not file.name.startswith("."):
            digits = re.findall(r"\d+", file.stem)
            if not digits:
                return []
            numbered.append((int(digits[-1]), file.name, file))
    return [file for _, _, file in sorted(numbered)]


def _new_mp4(part: Path, fps: Fraction, comment: str) -> Any:
    ticks = math.lcm(90000, fps.numerator)  # whole ticks a frame: 15/8, 15/2, 30 and 30000/1001 fit 90000
    options = {"video_track_timescale": str(ticks), "movflags": "+faststart", "fflags": "+bitexact"}
    container = av.open(str(part), mode="w", format="mp4", options=options)
    if comment:
        container.metadata["comment"] = comment
    return container


def _publish(part: Path, path: Path) -> None:
    with open(part, "rb+") as written:
        os.fsync(written.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _opened(path: str | Path) -> Any:
    """The container, its first video stream checked; every refusal is one line."""
    path = Path(path)
    try:
        real = path.resolve(strict=True)
    except FileNotFoundError:
        raise Mistake("no such file", where=path) from None
    except (OSError, RuntimeError) as problem:
        raise Mistake(f"cannot be reached: {problem}", where=path) from None
    if not real.is_file():
        raise Mistake(
            "is not a regular file", where=path, mend="a video file or a folder of numbered images is expected"
        )
    if real.stat().st_size == 0:
        raise Mistake("is empty (0 bytes)", where=path, mend="copy it again")
    try:
        container = av.open(f"file:{real}", options=OPEN)
    except PermissionError:
        raise Mistake("may not be read", where=path, mend="check its permissions") from None
    except (av.FFmpegError, ValueError, OSError):
        raise Mistake(_instead(real), where=path, mend="mp4, mov, mkv, webm, avi and ts are read") from None
    trouble = _trouble(container)
    if trouble:
        container.close()
        raise Mistake(trouble, where=path)
    container.streams.video[0].thread_type = "AUTO"
    return container


def _instead(path: Path) -> str:
    head = path.read_bytes()[:512] if path.stat().st_size < 1 << 20 else path.open("rb").read(512)
    if head.startswith(b"version https://git-lfs"):
        return "is a git-LFS pointer, not the video itself"
    if b"\0" not in head and head.isascii():
        return "is text, not a video"
    if b"ftyp" in head[:16]:
        return "is cut off: its table of contents (moov) is missing or broken"
    return "is not a video that can be opened"


def _trouble(container: Any) -> str | None:
    if not container.streams:
        return "is cut off: it holds nothing that is shown"
    if not container.streams.video:
        return "has no video stream"
    video = container.streams.video[0]
    if not video.width or not video.height:
        return "has no picture size: it is damaged or cut off"
    if video.width * video.height > MAX_PIXELS:
        return f"has pictures of {video.width}x{video.height}, more than {MAX_PIXELS} pixels"
    return None


def _own_rate(video: Any) -> Fraction:
    return Fraction(video.average_rate or video.guessed_rate or GUESSED_RATE)


def _tidy(measured: Fraction, own: Fraction) -> Fraction:
    """The header's rate where the time stamps agree with it within 1 %, else what they say."""
    return own if abs(measured - own) <= own / 100 else measured.limit_denominator(1001)


def _stamps(container: Any, video: Any) -> tuple[list[Fraction], Fraction, bool]:
    """Seconds of every frame that is shown, how long the last one lasts (0 unknown), and whether reading failed."""
    stamps: list[Fraction] = []
    last = (Fraction(-1), Fraction(0))
    base = Fraction(video.time_base or 0)
    try:
        for packet in container.demux(video):
            if not packet.size or packet.is_discard:  # an edit list's lead-in is decoded, not shown
                continue
            if packet.is_corrupt:
                return stamps, last[1], True
            stamps.append(len(stamps) / _own_rate(video) if packet.pts is None else packet.pts * base)
            last = max(last, (stamps[-1], (packet.duration or 0) * base))
    except (av.FFmpegError, ValueError):
        return stamps, last[1], True
    return stamps, last[1], False


def _length(container: Any) -> Fraction:
    """What the container promises, where sound cannot have made it longer."""
    return (
        Fraction(0) if container.streams.audio or not container.duration else Fraction(container.duration, av.time_base)
    )


@dataclass(frozen=True)
class Shown:
    """A frame shown from ``time`` for ``length`` seconds; ``picture()`` gives it upright, uint8 ``H W 3``, RGB."""

    time: Fraction
    length: Fraction
    picture: Callable[[], np.ndarray]
    rotation: int = 0


def _frames(container: Any, path: Path, start: Fraction) -> Iterator[Shown]:
    """Frames in order of showing of a freshly opened container, from one that is shown at ``start`` or before it on.

    Raises:
        Mistake: a frame cannot be decoded.
    """
    video = container.streams.video[0]
    rate = _own_rate(video)
    origin = _origin(container, video)
    try:
        if start > 0:
            container.seek(math.floor((start + origin) / video.time_base), stream=video)
        for n, frame in enumerate(container.decode(video)):
            late = frame.pts is None or frame.pts * video.time_base - origin > start
            if n == 0 and start > 0 and late:  # raw streams and mpegts seek badly: then from the beginning
                with _opened(path) as again:
                    yield from _frames(again, path, Fraction(0))
                return
            if frame.width * frame.height > MAX_PIXELS:
                raise Mistake(f"has pictures of {frame.width}x{frame.height}", where=path)
            time = n / rate if frame.pts is None else frame.pts * video.time_base - origin
            length = (frame.duration or 0) * Fraction(video.time_base) or 1 / rate
            yield Shown(time, length, partial(_upright, frame), frame.rotation)
    except (av.FFmpegError, ValueError) as problem:
        raise Mistake(f"is damaged and cannot be decoded ({problem})", where=path, mend="copy it again") from None


def _origin(container: Any, video: Any) -> Fraction:
    if video.start_time is not None:
        return video.start_time * Fraction(video.time_base)
    return Fraction(container.start_time or 0, av.time_base)


def _upright(frame: Any) -> np.ndarray:
    colours = {} if frame.colorspace != UNTAGGED else {"src_colorspace": _usual(frame.height)}
    picture = frame.to_ndarray(format="rgb24", **colours)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _usual(height: int) -> int:
    """Untagged video is BT.709 from 720 lines on, BT.601 below, as players take it."""
    return Colorspace.ITU709 if height >= 720 else Colorspace.ITU601


def _clips(
    shown: Iterator[Shown],
    path: Path,
    own: Fraction,
    fps: Fraction | None,
    size: Size | None,
    chunk: int,
    start: Fraction,
) -> Iterator[Clip]:
    pictures = _each(shown, start) if fps is None else _resampled(shown, fps, start)
    rate, done = fps or own, 0
    while block := [fit(picture, size) for picture in islice(pictures, chunk)]:
        if len({picture.shape for picture in block}) > 1:
            raise Mistake("changes its picture size midway", where=path, mend="give a size, or re-encode it")
        yield Clip(np.stack(block), rate, start + done / rate)
        done += len(block)


def _resampled(shown: Iterator[Shown], fps: Fraction, start: Fraction) -> Iterator[np.ndarray]:
    """At start, start + 1 / fps, ... the last frame whose time is not later; pictures are converted when needed."""
    due, held, end, picture = start, None, start, None
    for frame in chain(shown, [None]):
        until = frame.time if frame is not None else end
        while held is not None and due + GRACE < until:
            picture = held.picture() if picture is None else picture
            yield picture
            due += 1 / fps
        if frame is not None:
            held, end, picture = frame, frame.time + frame.length, None


def _each(shown: Iterator[Shown], start: Fraction) -> Iterator[np.ndarray]:
    """Every frame, from the one that is shown at ``start`` on."""
    held = None
    for frame in shown:
        if held is not None and frame.time > start + GRACE:
            yield held.picture()
        held = frame
    if held is not None and held.time + held.length > start + GRACE:
        yield held.picture()


def _numbered(folder: Path, rate: Fraction | None) -> tuple[list[Path], Fraction]:
    files = image_folder(folder)
    if len(files) < 2:
        raise Mistake(
            "is a folder without two or more numbered images", where=folder, mend="name them frame_0001.png, ..."
        )
    if rate is None:
        raise Mistake("images carry no frame rate", where=folder, mend="say it in a recipe: fps: 10")
    return files, rate


def _image_frames(files: list[Path], rate: Fraction) -> Iterator[Shown]:
    for n, file in enumerate(files):
        yield Shown(n / rate, 1 / rate, partial(_image, file))


def _image(file: Path) -> np.ndarray:
    picture = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) if file.stat().st_size else None
    if picture is None:
        raise Mistake("is not an image that can be read", where=file)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _probe_images(folder: Path, rate: Fraction | None) -> VideoInfo:
    files, rate = _numbered(folder, rate)
    height, width = _image(files[0]).shape[:2]
    return VideoInfo(folder, width, height, rate, len(files), len(files) / rate, codec="images")
