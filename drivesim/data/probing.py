"""What a video is, judged before it is used: refused with a reason, or described, with remarks on what is unusual."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.video.reformatter import ColorPrimaries, ColorRange

from drivesim.data.frames import RESIZED, RESIZED_MEND, decoded, image, numbered, quarter_turns
from drivesim.data.opening import opened, own_rate
from drivesim.data.writer import Size
from drivesim.errors import Mistake

SYNTHETIC = "synthetic:"  # begins the comment of a video that was generated, not filmed
UNEVEN = "has a variable frame rate, taken by time stamp"
TS_PACKET = 188
TWINS = Fraction(1, 500)  # seconds; Matroska cannot tell less than one thousandth
ODD = "has an odd height or width"
WIDE = (ColorPrimaries.BT2020, ColorPrimaries.SMPTE431, ColorPrimaries.SMPTE432)


@dataclass(frozen=True)
class VideoInfo:
    """What a video is, as it is shown (rotation applied).

    Args:
        frames: number of frames shown; ``fps`` their mean rate, ``seconds`` how long they are shown.
        rotation: degrees counter-clockwise that the stored picture is turned by when shown.
        comment: of the file's metadata; generated video says there that it is (``SYNTHETIC``).
        remarks: what is unusual about it and how it is handled, in sentences that can be counted over files.
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
    remarks: tuple[str, ...] = ()

    @property
    def synthetic(self) -> str | None:
        """By what the video was generated, where it says so; None otherwise."""
        return self.comment.partition(" {")[0] if self.comment.startswith(SYNTHETIC) else None

    def plain(self) -> dict[str, Any]:
        """As JSON holds it; exact times as ``"a/b"``."""
        values = asdict(self) | {"path": str(self.path), "remarks": list(self.remarks)}
        return values | {name: "/".join(map(str, values[name].as_integer_ratio())) for name in ("fps", "seconds")}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "VideoInfo":
        """What ``plain`` gave.

        Raises:
            ValueError, TypeError: something else.
        """
        if values.keys() != {f.name for f in fields(cls)}:
            raise ValueError(f"not the fields of a video: {sorted(values)}")
        times = {name: Fraction(values[name]) for name in ("fps", "seconds")}
        return cls(**values | times | {"path": Path(values["path"]), "remarks": tuple(values["remarks"])})


def probe(path: str | Path, *, rate: Fraction | None = None) -> VideoInfo:
    """Reads the time stamps of the whole file and decodes its first frame, and the last that stands alone.

    Args:
        rate: the true frame rate where the file's own is wrong; needed for a folder of images.

    Raises:
        Mistake: what ``path`` is instead of a video with two frames or more that is read rightly. A file can pass that
            has damage, or another picture size, in its midst: these are found where they are decoded.
    """
    path = Path(path)
    if path.is_dir():
        return _probe_images(path, rate)
    with opened(path) as container:
        video = container.streams.video[0]
        own = own_rate(video)
        stamps = _stamps(container, video)
        if len(stamps.ticks) < 2:
            raise Mistake("holds less than two frames, not a video", where=path, mend="two frames or more are needed")
        seconds = (stamps.ticks[-1] - stamps.ticks[0]) * stamps.base + (stamps.last or 1 / own)
        promised = (video.duration or 0) * Fraction(video.time_base or 0) or _length(container)
        ends = f"it ends after {float(seconds):.2f} s; copy it again, or repair it"
        if stamps.broken:
            raise Mistake("is cut off or damaged", where=path, mend=ends)
        if _torn(container, path) or seconds < promised - max(Fraction(1, 2), promised / 20):
            raise Mistake("is cut off", where=path, mend=ends)
        codec, comment = video.codec_context.name, container.metadata.get("comment", "")
        square = (video.sample_aspect_ratio or 1) == 1
        later = container.call(lambda: _last_size(video, stamps.key))
    with opened(path) as container:
        _, _, first = next(decoded(container, path, Fraction(0)), (None, None, None))
    if first is None:
        raise Mistake("has no frame that can be decoded", where=path, mend="copy it again")
    if later not in (None, (first.height, first.width)):
        raise Mistake(RESIZED, where=path, mend=RESIZED_MEND)
    turned = quarter_turns(first) % 2
    height, width = (first.width, first.height) if turned else (first.height, first.width)
    fps = rate or _tidy(len(stamps.ticks) / seconds, own)
    seconds = seconds * own / rate if rate else seconds
    remarks = (*_looks(first, square), *_pace([tick * stamps.base for tick in stamps.ticks]))
    return VideoInfo(path, width, height, fps, len(stamps.ticks), seconds, first.rotation, codec, comment, remarks)


@dataclass(frozen=True)
class Stamps:
    """When the frames of a file are shown.

    Args:
        ticks: one a frame, ascending, in units of ``base`` seconds.
        last: seconds that the last one is shown for, 0 = unknown.
        broken: reading failed.
        key: the last packet that decodes alone, where it is not the first.
    """

    ticks: list[int | Fraction]
    base: Fraction
    last: Fraction
    broken: bool
    key: Any


def _stamps(container: Any, video: Any) -> Stamps:
    rate = own_rate(video)
    base = Fraction(video.time_base or 1 / rate)
    ticks: list[int | Fraction] = []
    last: tuple[int | Fraction, int] = (-(1 << 63), 0)
    key, broken = None, False
    try:
        for packet in container.demux(video):
            if not packet.size or packet.is_discard:  # an edit list's lead-in is decoded, not shown
                continue
            if packet.is_corrupt:
                broken = True
                break
            timed = packet.pts is not None
            ticks.append(packet.pts if timed else len(ticks) / rate / base)
            last = max(last, (ticks[-1], packet.duration or 0 if timed else 0))
            if packet.is_keyframe and len(ticks) > 1:
                key = packet
    except (av.FFmpegError, ValueError):
        broken = True
    return Stamps(sorted(ticks), base, last[1] * base, broken, key)


def _torn(container: Any, path: Path) -> bool:
    """Whether an MPEG transport stream, which promises no length, ends within a packet."""
    if container.format.name != "mpegts":
        return False
    with path.open("rb") as file:
        head = file.read(TS_PACKET + 5)
    unit = TS_PACKET if head[:1] == head[TS_PACKET : TS_PACKET + 1] == b"G" else TS_PACKET + 4  # m2ts adds a time stamp
    return path.stat().st_size % unit != 0


def _length(container: Any) -> Fraction:
    """What the container promises, where sound cannot have made it longer."""
    return (
        Fraction(0) if container.streams.audio or not container.duration else Fraction(container.duration, av.time_base)
    )


def _last_size(video: Any, key: Any) -> Size | None:
    """The picture size at the packet ``key``, None where it does not decode alone after all."""
    if key is None:
        return None
    try:
        frames = [*video.codec_context.decode(key), *video.codec_context.decode(None)]
    except (av.FFmpegError, ValueError):
        return None
    return (frames[-1].height, frames[-1].width) if frames else None


def _looks(frame: Any, square: bool) -> Iterator[str]:
    """Remarks on the first frame."""
    kind = frame.format
    bits = max(component.bits for component in kind.components)
    if quarter_turns(frame):
        yield "is turned by its rotation tag"
    if bits > 8:
        yield f"has {bits} bits a colour, read as 8"
    if not kind.is_rgb and (frame.color_range == ColorRange.JPEG or kind.name.startswith("yuvj")):
        yield "has full-range colours, converted"
    if frame.color_primaries in WIDE:
        yield "has wide-gamut colours, taken as BT.709"
    if frame.interlaced_frame:
        yield "is interlaced, taken as it is"
    if not square:
        yield "has pixels that are not square, taken as they are"
    if frame.height % 2 or frame.width % 2:
        yield ODD


def _pace(times: list[Fraction]) -> Iterator[str]:
    """Remarks on time stamps: twins, and gaps half as long again as the usual one or shorter than half of it."""
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    apart = gaps[bisect_right(gaps, TWINS) :]
    if len(apart) < len(gaps):
        yield "has near-duplicate time stamps"
    if apart and (apart[-1] * 2 > (usual := apart[len(apart) // 2]) * 3 or apart[0] * 2 < usual):
        yield UNEVEN


def _tidy(measured: Fraction, own: Fraction) -> Fraction:
    """The header's rate where the time stamps agree with it within 1 %, else what they say."""
    return own if abs(measured - own) <= own / 100 else measured.limit_denominator(1001)


def _probe_images(folder: Path, rate: Fraction | None) -> VideoInfo:
    files, rate = numbered(folder, rate)
    height, width = image(files[0]).shape[:2]
    odd = (ODD,) if height % 2 or width % 2 else ()
    return VideoInfo(folder, width, height, rate, len(files), len(files) / rate, codec="images", remarks=odd)
