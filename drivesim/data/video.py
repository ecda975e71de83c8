"""Video and folders of numbered images: what other rooms call, be it from here or from the modules behind.

A file is opened in ``opening``, judged in ``probing``, decoded in ``frames``, written in ``writer``: only they use av.

Time. A frame is shown from its own time stamp until the next one: at time ``t`` it is the last with time stamp <= t::

    source   |0----|1----|2----------|4----|        time stamps need not be even
    asked      ^       ^       ^       ^            -> 0 1 2 4

Time 0 is the first frame's stamp; the last frame is shown for its own duration; stamps have half a millisecond of
grace, since Matroska rounds them to milliseconds.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import cv2
import numpy as np

from drivesim.data.frames import RESIZED, RESIZED_MEND, Shown, image, image_folder, refuse_outside
from drivesim.data.frames import shown as frames_of
from drivesim.data.probing import SYNTHETIC, UNEVEN, VideoInfo, probe
from drivesim.data.writer import Size, Writer, bind, remux
from drivesim.errors import Mistake
from drivesim.scene import Clip

__all__ = [
    "GRACE",
    "SYNTHETIC",
    "UNEVEN",
    "VIDEOS",
    "Recording",
    "Size",
    "VideoInfo",
    "Writer",
    "bind",
    "fit",
    "fit_boxes",
    "frames_in",
    "image",
    "image_folder",
    "probe",
    "read",
    "record",
    "refuse_outside",
    "remux",
    "stream",
]
VIDEOS = (".mp4", ".mov", ".m4v", ".3gp", ".mkv", ".webm", ".avi", ".ts", ".mts", ".h264", ".hevc", ".265")
GRACE = Fraction(1, 2000)
FULL_RATE = Fraction(99, 100)  # a clip at 29.97 serves where 30 is asked for; one at 10 would repeat frames
MAX_CLIP = 4 << 30  # bytes of one clip in memory: 128 frames of 4K fit


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
    end = None if fps is None else start + (frames - 1) / fps + GRACE
    with frames_of(Path(path), start, rate, end) as (shown, own):
        clip = next(_clips(shown, Path(path), own, fps, size, frames, start), None)
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
    with frames_of(path, Fraction(0), rate) as (shown, _):
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
    with frames_of(path, start, rate) as (shown, own):
        yield from _clips(shown, path, own, fps, size, chunk, start)


def fit(picture: np.ndarray, size: Size | None) -> np.ndarray:
    """``H W 3`` centre-cropped to the aspect of ``size`` and resized to it: smaller by areas, larger linearly."""
    height, width = picture.shape[:2]
    if size is None or size == (height, width):
        return picture
    top, left, crop_h, crop_w = _middle((height, width), size)
    crop = picture[top : top + crop_h, left : left + crop_w]
    smaller = size[0] <= crop_h and size[1] <= crop_w
    return cv2.resize(crop, (size[1], size[0]), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def fit_boxes(box: np.ndarray, shape: Size, size: Size) -> np.ndarray:
    """Boxes ``N 4``, fractions of a picture of ``shape``, as fractions of what ``fit`` makes of it; they may reach over
    its edge, or lie outside."""
    top, left, crop_h, crop_w = _middle(shape, size)
    return (box * ((shape[1], shape[0]) * 2) - (left, top) * 2) / ((crop_w, crop_h) * 2)


def _middle(shape: Size, size: Size) -> tuple[int, int, int, int]:
    """The part of a picture of ``shape`` that has the aspect of ``size``: top, left, height, width."""
    height, width = shape
    crop_h, crop_w = min(height, round(width * size[0] / size[1])), min(width, round(height * size[1] / size[0]))
    return (height - crop_h) // 2, (width - crop_w) // 2, max(crop_h, 1), max(crop_w, 1)


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
    while (block := _block(pictures, path, size, chunk)) is not None:
        yield Clip(block, rate, start + done / rate)
        done += len(block)


def _block(pictures: Iterator[np.ndarray], path: Path, size: Size | None, chunk: int) -> np.ndarray | None:
    """Up to ``chunk`` pictures ``T H W 3``, each copied once, out of the decoder's memory; None at the end."""
    block, shape, count = None, None, 0
    for picture in islice(pictures, chunk):
        fitted = fit(picture, size)
        if block is None:
            need = chunk * fitted.nbytes
            if need > MAX_CLIP:
                mend = (
                    f"{chunk} pictures of {fitted.shape[1]}x{fitted.shape[0]} take {need / 1e9:.1f} GB; scale it down"
                )
                raise Mistake("is too large for a clip to be held in memory", where=path, mend=mend)
            block, shape = np.empty((chunk, *fitted.shape), np.uint8), picture.shape
        if picture.shape != shape:  # images of a folder; a video's frames are compared when decoded
            raise Mistake(RESIZED, where=path, mend=RESIZED_MEND)
        block[count] = fitted
        count += 1
    return None if block is None else block[:count]


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
