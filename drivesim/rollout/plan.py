"""All window arithmetic of a rollout. Nothing else in the package adds or subtracts an overlap.

Key-frame 0 is where the output starts: the last given frame. A second given frame is key-frame -1, before the output.
Intervals are half-open, indices absolute. With T = 8 frames a window, S = 2 of overlap and two given frames (``g``)::

    key-frame      -1   0   1   2   3   4   5   6   7   8   9  10  11  12  13
    window 0        g   g   x   x   x   x   x   x                                  start -1, keeps [0, 7)
    window 1                            .   .   x   x   x   x   x   x              start  5, keeps [7, 13)
    output, r = 4      0   4   8  12 ...           frame r k is key-frame k; the r - 1 frames before it come between
    window 0 gives     [0 ................. 6 r]
    window 1 gives                              [6 r + 1 ................. 12 r]

Between key-frames, r = 4^p f: p passes of interpolation put three frames into every gap, f - 1 more are filled in::

    key-frames, 15/8 fps      0                                               1
    first pass, 15/2 fps      0           x           x           x           1
    second pass, 30 fps       0  x  x  x  1  x  x  x  2  x  x  x  3  x  x  x  4      16 (K - 1) + 1 frames from K

Decoder and upsampler go over those frames in pieces of equal length (``Pieces``), on a grid of absolute frames that
knows nothing of windows; what a window leaves incomplete waits for the next, so segments end where pieces do. The last
window and the last piece are computed in full and trimmed: every call has the same shape, and no frame depends on the
length, but for those of the last piece of the decoder or the upsampler, which sees its last frame repeated.

A model that sees no given frames makes all key-frames from noise, in one window with ``given`` 0, which starts at
key-frame 0; there is none before it, and no second window.

Key-frames are at exactly 15/8 fps: key-frame k is frame 16 k at 30 fps, also where fewer frames are shown.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from drivesim.config import digest
from drivesim.errors import Mistake
from drivesim.scene import KEYFRAME_FPS, VIDEO_FPS

FACTORS = (1, 2, 4, 8, 16)
STRIDE = int(VIDEO_FPS / KEYFRAME_FPS)  # 16 frames at 30 fps from one key-frame to the next
BETWEEN = 3  # frames that one pass of interpolation puts into a gap
ROUNDED = Fraction(1, 10**6)  # of a key-frame, by which a length in decimals may be too long
PASS_FPS = tuple(KEYFRAME_FPS * (BETWEEN + 1) ** n for n in (1, 2))


@dataclass(frozen=True)
class Window:
    """One call of the prediction model, which makes key-frames ``[start, start + T)``.

    Args:
        n: its number, from 0.
        start: its first key-frame.
        given: how many frames, from ``start`` on, are known when it is called.
        first, last: the key-frames ``[first, last)`` that it adds to the output.
    """

    n: int
    start: int
    given: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """A rollout's arithmetic.

    Args:
        keyframes: ``K``, key-frames of the output, its first included.
        frames: ``T``, key-frames of a window.
        overlap: ``S``, given frames of every window but the first.
        given: given frames of the first window, 1 or 2; 0 where all are made from noise, in one window.
        factor: ``r``, output frames per key-frame.
        passes: ``p``, of interpolation.
    """

    keyframes: int
    frames: int
    overlap: int = 2
    given: int = 1
    factor: int = 1
    passes: int = 0

    def __post_init__(self) -> None:
        if (
            self.keyframes < 1
            or not 1 <= self.overlap < self.frames
            or not 0 <= self.given < self.frames
            or (not self.given and self.keyframes > self.frames)
            or self.factor not in FACTORS
            or self.factor % (BETWEEN + 1) ** self.passes
        ):
            raise ValueError(f"no plan fits these numbers: {self}")

    @property
    def fps(self) -> Fraction:
        return KEYFRAME_FPS * self.factor

    @property
    def filled(self) -> int:
        """``f``: frames from one that a model makes to the next."""
        return self.factor // (BETWEEN + 1) ** self.passes

    @property
    def total(self) -> int:
        """Output frames: ``(K - 1) r + 1``."""
        return (self.keyframes - 1) * self.factor + 1

    @property
    def count(self) -> int:
        """How many windows it takes."""
        beyond = self.keyframes - self._opening
        return 1 + math.ceil(max(0, beyond) / (self.frames - self.overlap))

    @property
    def _opening(self) -> int:
        """Key-frames that window 0 adds: its given frames but the last, which the output starts with, lie before."""
        return self.frames - max(0, self.given - 1)

    def windows(self, begin: int = 0) -> Iterator[Window]:
        """The windows from number ``begin`` on."""
        for n in range(begin, self.count):
            yield self.window(n)

    def window(self, n: int) -> Window:
        opening, new = self._opening, self.frames - self.overlap
        if n == 0:
            return Window(0, min(0, 1 - self.given), self.given, 0, min(opening, self.keyframes))
        first = opening + (n - 1) * new
        return Window(n, first - self.overlap, self.overlap, first, min(first + new, self.keyframes))

    def known(self, n: int, factor: int | None = None) -> int:
        """How many frames, at ``factor`` a key-frame (the output's), are there once windows ``[0, n)`` are."""
        factor = factor or self.factor
        return (self.window(n - 1).last - 1) * factor + 1 if n else 0

    def kinds(self) -> dict[str, int]:
        """How many output frames are key-frames, interpolated by the model, and filled in."""
        made = (self.keyframes - 1) * (BETWEEN + 1) ** self.passes + 1
        return {
            "key": self.keyframes, "interpolated": made - self.keyframes, "filled": self.total - made,
        }  # fmt: skip

    def kind(self, frame: int) -> str:
        if frame % self.factor == 0:
            return "key"
        return "filled" if frame % self.filled else "interpolated"


@dataclass(frozen=True)
class Pieces:
    """A stream of frames in pieces of equal length, each of which shares ``overlap`` frames with the one before.

    With length 6 and overlap 2::

        frame        0  1  2  3  4  5  6  7  8  9 10 11 12
        piece 0      x  x  x  x  x  x
        piece 1                  o  o  x  x  x  x
        piece 2                              o  o  x  x  x  (x)     beyond the end: the last frame again, trimmed
    """

    length: int
    overlap: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.length:
            raise ValueError(f"pieces of {self.length} frames cannot share {self.overlap}")

    @property
    def stride(self) -> int:
        return self.length - self.overlap

    def count(self, total: int) -> int:
        """How many pieces ``total`` frames take."""
        return 1 + math.ceil(max(0, total - self.length) / self.stride) if total else 0


@dataclass(frozen=True)
class Places:
    """Where the streams of a rollout go on: ``passes``, the frame before the first gap of each pass of interpolation;
    ``output``, the first frame that waits for the upsampler, or else is not yet written."""

    passes: tuple[int, ...]
    output: int


def places(plan: Plan, begin: int, latents: int = 0, low: int = 0) -> Places:
    """The places behind windows ``[0, begin)``.

    Args:
        latents: how many wait for the decoder. low: how many frames wait for the upsampler.
    """
    decoded = plan.known(begin, (BETWEEN + 1) ** plan.passes) - latents
    filled = (decoded - 1) * plan.filled + 1 if decoded else 0
    before = tuple(max(0, plan.known(begin, (BETWEEN + 1) ** n) - 1) for n in range(plan.passes))
    return Places(before, filled - low)


def video_frame(frame: int, factor: int = 1) -> int:
    """The absolute frame at 30 fps of ``frame`` where there are ``factor`` a key-frame: what its noise is keyed by."""
    return frame * STRIDE // factor


def keyframes_for(seconds: float) -> int:
    """Key-frames of an output that lasts ``seconds`` or, where they do not divide, up to 8/15 s more. A second is a
    decimal here: what is written of thirds may be a millionth too long."""
    return math.ceil(Fraction(str(seconds)) * KEYFRAME_FPS - ROUNDED) + 1


def factor_for(fps: Fraction) -> int:
    """Output frames per key-frame at ``fps``.

    Raises:
        Mistake: ``fps`` is not 15/8 times 1, 2, 4, 8 or 16.
    """
    ratio = fps / KEYFRAME_FPS
    if ratio not in FACTORS:
        rates = ", ".join(f"{float(KEYFRAME_FPS * factor):g}" for factor in FACTORS)
        raise Mistake(
            f"{float(fps):g} frames a second do not fit key-frames at 15/8", where="fps", mend=f"one of {rates}"
        )
    return int(ratio)


def passes_for(factor: int, rates: tuple[float, ...]) -> int:
    """Passes of interpolation on the way to ``factor``, by a model that was trained at ``rates`` frames a second."""
    passes = 0
    while passes < len(PASS_FPS) and factor % (BETWEEN + 1) ** (passes + 1) == 0 and PASS_FPS[passes] in rates:
        passes += 1
    return passes


def describe(plan: Plan, fixed: dict[str, Any]) -> dict[str, Any]:
    """The content of plan.json: the numbers, all that is ``fixed`` with them, and the hash of both."""
    body = {"plan": asdict(plan), "fixed": json.loads(json.dumps(fixed, default=str))}
    windows = [asdict(window) for window in plan.windows()]
    return {"hash": digest(body), **body, "fps": str(plan.fps), "total": plan.total, "windows": windows}
