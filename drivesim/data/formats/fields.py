"""Fields that the formats share which name videos in words and hold flags in JSON."""

import math
import re
from fractions import Fraction

from drivesim.data.formats import counted
from drivesim.data.formats.document import Part

SUFFIX = re.compile(r"\.(mp4|m4v|mov|avi|mkv|webm|mpe?g|ts|gif|jpe?g|png|bmp|webp)$", re.IGNORECASE)
ROUNDED = 10_000  # the largest denominator that a rate written as a decimal is taken to mean: 29.97002997 is 30000/1001
FASTEST = 10_000_000
LARGEST = 1 << 20  # pixels


def video(name: str) -> str:
    """Without folders and the suffix of a video or picture; other dots stay."""
    return SUFFIX.sub("", re.split(r"[/\\]", name.rstrip("/\\"))[-1])


def told(holder: Part | None, *keys: str) -> Part | None:
    """What is there under the first of ``keys`` that has a value."""
    found = (holder[key] for key in keys if holder is not None and key in holder)
    return next((part for part in found if part.value is not None), None)


def rate(part: Part) -> Fraction:
    """Frames a second, exact: a number, or a text such as ``30000/1001``.

    Raises:
        Mistake: it is none.
    """
    if isinstance(part.value, str):
        found = counted.rate(part.value)
    else:
        found = Fraction(part.number()).limit_denominator(ROUNDED)
    if found is None or not 0 < found <= FASTEST:
        part.wrong("is not a rate")
    return found


def size(holder: Part | None) -> tuple[int, int] | None:
    """``height`` and ``width`` in pixels; None where there is neither.

    Raises:
        Mistake: it has one of the two, or no such numbers.
    """
    if told(holder, "height") is None and told(holder, "width") is None:
        return None
    assert holder is not None
    for side in (holder["height"], holder["width"]):
        if not 0 < side.whole() <= LARGEST:
            side.wrong("is not a number of pixels")
    return holder["height"].whole(), holder["width"].whole()


def coordinate(part: Part) -> float:
    """Also what JSON has no word for, NaN and infinity: the sheet refuses it with its place."""
    value = part.value
    return value if isinstance(value, float) and not math.isfinite(value) else part.number()


def identity(part: Part) -> str:
    """Raises:
    Mistake: neither a text nor a whole number.
    """
    if isinstance(part.value, bool) or not isinstance(part.value, (int, str)):
        part.wrong("is not an id")
    return str(part.value)


def flag(holder: Part | None, *keys: str) -> bool | None:
    """True, false, 1 or 0; None is anything else, or nothing."""
    part = told(holder, *keys)
    return bool(part.value) if part is not None and part.value in (0, 1) else None


def visibility(holder: Part | None) -> float:
    """``visibility`` where it is a number in [0, 1], else 0.5 for what is ``occluded`` and 1.0 for what is not."""
    part, occluded = told(holder, "visibility"), flag(holder, "occluded", "Occluded")
    if part is not None and isinstance(part.value, (int, float)) and not isinstance(part.value, bool):
        if 0 <= part.value <= 1:
            return float(part.value)
    return math.nan if occluded is None else 0.5 if occluded else 1.0
