"""Video out: segments that play alone, and the joining of segments, or of pictures, without encoding anew."""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace

from drivesim.data.frames import image
from drivesim.data.opening import opened, own_rate
from drivesim.disk import writing
from drivesim.errors import Mistake

Size = tuple[int, int]
BT709 = 1
MICRO = 1_000_000
JPEG = b"\xff\xd8"
WHOLE = {"movflags": "+faststart"}
FRAGMENTS = {"movflags": "+frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
# Without the macroblock tree: in a process with a second thread its results differ from run to run, in 1 file in 100
# with the x264 of PyAV 18.1.
ALIKE = "threads=1:sliced-threads=0:mbtree=0:rc-lookahead=0"


class Writer:
    """Writes H.264 that plays everywhere; the same frames give the same bytes on one build.

    One thread, no B-frames (a segment's first time stamp is 0 without an edit list), a closed GOP a second, no creation
    time. The file appears whole when the context ends without an error, else not at all. What a process that is killed
    leaves of it, ``.NAME.PID.part``, is a video of all but its last second (fragments, joined at the end), until the
    next start in that folder sweeps it.

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
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = _new_mp4(self.part, self.fps, "", FRAGMENTS)
        self.comment = comment
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
        with writing(self.path):
            for packet in packets:
                packet.duration = 1  # in the encoder's time base, a frame
                self._container.mux(packet)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                with suppress(OSError):  # of what is thrown away
                    self._container.close()
                return
            if not self.count:
                self._container.close()
                raise ValueError(f"{self.path}: no frame was written")
            self._mux(self._stream.encode(None))
            with writing(self.path):
                self._container.close()
            _join([self.part], self.path, self.comment, self.fps)
        finally:
            with suppress(OSError):
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
    _join(segments, Path(out), comment)


def _join(segments: list[Path], out: Path, comment: str, rate: Fraction | None = None) -> None:
    """``rate``: of the segments; None: the one that all of them tell."""
    part = out.with_name(f".{out.name}.whole.{os.getpid()}.part")
    try:
        with opened(segments[0]) as first:
            like = first.streams.video[0]
            fps, extradata = rate or own_rate(like), like.codec_context.extradata
            with writing(out):
                whole = _new_mp4(part, fps, comment)
            copy = whole.add_stream_from_template(like)
        with writing(out):
            with whole:
                _copy(segments, whole, copy, fps, extradata, told=rate is None)
            _publish(part, out)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def bind(pictures: Sequence[Path], times: Sequence[Fraction], out: str | Path) -> None:
    """JPEG files become a video, byte for byte, each shown at its own time, to the microsecond.

    Args:
        times: seconds, the first 0, ascending; the last picture is shown for as long as the others on average.

    Raises:
        Mistake: less than two pictures, one that is no JPEG, or two at one time.
    """
    if len(pictures) < 2:
        raise Mistake("has less than two pictures", where=out)
    ticks = [round(time * MICRO) for time in times]
    lengths = [later - tick for tick, later in pairwise(ticks)]
    if min(lengths) < 1:
        raise Mistake("has two pictures of one time", where=pictures[lengths.index(min(lengths)) + 1])
    lengths.append(ticks[-1] // len(lengths))
    out = Path(out)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with writing(out):
            part.parent.mkdir(parents=True, exist_ok=True)
        with _new_mp4(part, Fraction(MICRO), "") as whole:
            stream = whole.add_stream("mjpeg", rate=Fraction(MICRO))
            stream.height, stream.width = image(pictures[0]).shape[:2]
            stream.pix_fmt = "yuvj420p"  # of the header; every picture says its own
            for picture, tick, length in zip(pictures, ticks, lengths, strict=True):
                whole.mux(_packet(picture, stream, tick, length))
        _publish(part, out)
    finally:
        part.unlink(missing_ok=True)


def _packet(picture: Path, stream: Any, tick: int, length: int) -> Any:
    content = picture.read_bytes()
    if not content.startswith(JPEG):
        raise Mistake("is not a JPEG", where=picture, mend="copy it again; other pictures are not joined to videos")
    packet = av.Packet(content)
    packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, MICRO), True
    packet.pts = packet.dts = tick
    packet.duration = length
    return packet


def _copy(segments: list[Path], whole: Any, copy: Any, fps: Fraction, extradata: bytes | None, told: bool) -> None:
    """``told``: whether the segments tell their rate; a few fragments do not."""
    count = 0
    for segment in segments:
        with opened(segment) as container:
            video = container.streams.video[0]
            if (told and own_rate(video) != fps) or video.codec_context.extradata != extradata:
                raise Mistake("cannot be joined: its size, rate or encoder settings differ", where=segment)
            for packet in container.demux(video):
                if packet.size:
                    packet.stream, packet.time_base = copy, 1 / fps
                    packet.pts = packet.dts = count
                    packet.duration = 1
                    whole.mux(packet)
                    count += 1


def _new_mp4(part: Path, fps: Fraction, comment: str, how: dict[str, str] = WHOLE) -> Any:
    ticks = math.lcm(90000, fps.numerator)  # whole ticks a frame: 15/8, 15/2, 30 and 30000/1001 fit 90000
    options = {"video_track_timescale": str(ticks), "fflags": "+bitexact", **how}
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
