"""The frames of a video file or of a folder of numbered images, each with the time that it is shown for."""

import math
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter

from drivesim.data.opening import content, opened, own_rate, picture_size, refuse_large, refuse_name, refuse_picture
from drivesim.errors import Mistake

IMAGES = (".png", ".jpg", ".jpeg")
UNTAGGED = 2
RESIZED = "changes its picture size midway"
RESIZED_MEND = "cut it where the size changes, or re-encode it at one size"


@dataclass(frozen=True)
class Shown:
    """A frame shown from ``time`` for ``length`` seconds; ``picture()`` gives it upright, uint8 ``H W 3``, RGB.

    The picture may lie in the decoder's own memory, with padded rows: to be copied where it is kept.
    """

    time: Fraction
    length: Fraction
    picture: Callable[[], np.ndarray]


@contextmanager
def shown(
    path: Path, start: Fraction, rate: Fraction | None, end: Fraction | None = None
) -> Iterator[tuple[Iterator[Shown], Fraction]]:
    """The frames of a file or a folder from one at ``start`` or before it on, and their mean rate.

    Args:
        end: nobody asks for more than one behind the frame that is shown then; None: for all.
        rate: the true rate; one that differs from the header's stretches every time stamp alike.
    """
    if path.is_dir():
        files, own = numbered(path, rate)
        yield _stills(files, own), own
        return
    with opened(path) as container:
        own = own_rate(container.streams.video[0])
        stretch = own / rate if rate else Fraction(1)
        upright = Upright(path)
        frames = decoded(container, path, start / stretch, None if end is None else end / stretch)
        yield (Shown(at * stretch, last * stretch, partial(upright, f)) for at, last, f in frames), rate or own


def decoded(
    container: Any, path: Path, start: Fraction, end: Fraction | None = None
) -> Iterator[tuple[Fraction, Fraction, Any]]:
    """Of a freshly opened container, (time, length, PyAV's frame) in order of showing, from one that is shown at
    ``start`` or before it on, without some that are over before; with ``end`` to one that comes after it.

    Raises:
        Mistake: a frame cannot be decoded, or is of another size than the first.
    """
    video = container.streams.video[0]
    rate, origin, base = own_rate(video), _origin(container, video), video.time_base
    size, time = None, Fraction(0)
    if start > 0 and not _seek(container, video, start + origin):
        yield from _from_the_beginning(path)
        return
    alone = start <= 0  # behind a seek, frames before the first that stands alone may lack what they refer to
    try:
        at = math.floor((start + origin) / base) if start > 0 or end is not None else None
        last = None if end is None else math.floor((end + origin) / base)
        for n, frame in enumerate(container.decode(video, at, last)):
            timed = frame.pts is not None
            time = frame.pts * base - origin if timed else n / rate
            length = (frame.duration or 0) * Fraction(base) if timed else Fraction(0)  # of another rate, in raw streams
            if n == 0 and start > 0 and (not timed or time > start):
                break
            alone = alone or frame.key_frame
            if alone and frame.is_corrupt:
                raise Mistake("is damaged: pictures are not whole", where=path, mend=_at(time))
            if size is None:
                size = (frame.width, frame.height)
                refuse_picture(*size, frame.color_trc, path)
                _refuse_turn(frame, path)
            elif size != (frame.width, frame.height):
                raise Mistake(RESIZED, where=path, mend=RESIZED_MEND)
            yield time, length or 1 / rate, frame
        if size is not None or start <= 0:
            return
    except (av.FFmpegError, ValueError):
        if size is not None or start <= 0:
            raise Mistake("is damaged and cannot be decoded", where=path, mend=_at(time)) from None
    yield from _from_the_beginning(path)


def _from_the_beginning(path: Path) -> Iterator[tuple[Fraction, Fraction, Any]]:
    """Raw streams and mpegts seek badly, or not at all."""
    with opened(path) as container:
        yield from decoded(container, path, Fraction(0))


def _seek(container: Any, video: Any, time: Fraction) -> bool:
    try:
        container.seek(math.floor(time / video.time_base), stream=video)
    except (av.FFmpegError, ValueError):
        return False
    return True


def _at(time: Fraction) -> str:
    return f"at {float(time):.2f} s; copy it again"


class Upright:
    """PyAV's frames as ``H W 3``, RGB, the right way up.

    One for all frames of a file, and on one thread: setting up a conversion takes longer than converting a picture.
    """

    def __init__(self, path: Path):
        self._path, self._reformatter = path, VideoReformatter()

    def __call__(self, frame: Any) -> np.ndarray:
        """Raises:
        Mistake: its kind of colours is not known.
        """
        colours = _usual(frame.height) if frame.colorspace == UNTAGGED else None
        try:
            rgb = self._reformatter.reformat(frame, format="rgb24", src_colorspace=colours, threads=1)
        except (av.FFmpegError, ValueError):
            raise Mistake(
                f"has colours that cannot be converted ({frame.format.name})", where=self._path, mend="re-encode it"
            ) from None
        picture, turns = rgb.to_ndarray(), quarter_turns(frame)
        return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def quarter_turns(frame: Any) -> int:
    """How many times the stored picture is turned counter-clockwise by 90 degrees when shown, 0 to 3."""
    return round(frame.rotation / 90) % 4


def _refuse_turn(frame: Any, path: Path) -> None:
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    if a * d - b * c < 0 or (abs(a) + abs(d)) * (abs(b) + abs(c)):
        raise Mistake(
            "is mirrored, or turned by no quarter turn, by its display matrix",
            where=path,
            mend="re-encode it: ffmpeg applies the matrix",
        )


def _origin(container: Any, video: Any) -> Fraction:
    if video.start_time is not None:
        return video.start_time * Fraction(video.time_base)
    return Fraction(container.start_time or 0, av.time_base)


def _usual(height: int) -> int:
    """Untagged video is BT.709 from 720 lines on, BT.601 below, as players take it."""
    return Colorspace.ITU709 if height >= 720 else Colorspace.ITU601


def image_folder(folder: str | Path) -> list[Path]:
    """The numbered images of ``folder`` by number, or none; all images there must be numbered. Gaps do not count."""
    found = []
    try:
        files = list(Path(folder).iterdir())
    except PermissionError:
        return []
    for file in files:
        if file.suffix.lower() in IMAGES and not file.name.startswith("."):
            digits = re.findall(r"\d+", file.stem)
            if not digits:
                return []
            found.append((int(digits[-1]), file.name, file))
    return [file for _, _, file in sorted(found)]


def refuse_outside(file: Path, root: Path) -> None:
    """Raises:
    Mistake: a video, a folder of images or an image in it is a link that leads out of ``root``.
    """
    real = root.resolve()
    for one in (file, *(image_folder(file) if file.is_dir() else ())):
        if one.exists() and not one.resolve().is_relative_to(real):
            raise Mistake("leads out of the folder", where=one, mend="copy what it links to into the folder")


def numbered(folder: Path, rate: Fraction | None) -> tuple[list[Path], Fraction]:
    """Raises:
    Mistake: the folder is no video, or its rate is not known.
    """
    refuse_name(folder)
    files = image_folder(folder)
    if len(files) < 2:
        raise Mistake(
            "is a folder without two or more numbered images", where=folder, mend="name them frame_0001.png, ..."
        )
    if rate is None:
        raise Mistake("images carry no frame rate", where=folder, mend="say it: fps: 10 in a recipe, or in the opening")
    return files, rate


def _stills(files: list[Path], rate: Fraction) -> Iterator[Shown]:
    for n, file in enumerate(files):
        yield Shown(n / rate, 1 / rate, partial(image, file))


def image(file: Path) -> np.ndarray:
    """uint8 ``H W 3``, RGB. What its header says of its size is judged before it is decoded.

    Raises:
        Mistake: not a PNG or JPEG, one that cannot be read, or of more than 8K.
    """
    data = content(file)
    if (size := picture_size(data)) is None:
        raise Mistake("is not a PNG or JPEG", where=file, mend="copy it again, or write it anew as PNG")
    refuse_large(*size, file)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        picture = None
    if picture is None:
        raise Mistake("is not an image that can be read", where=file)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
