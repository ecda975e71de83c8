"""All window arithmetic of a rollout. Nothing else in the package adds or subtracts an overlap.

Key-frame 0 is where the output starts: the last given frame. A second given frame is key-frame -1, before the output.
Intervals are half-open, indices absolute. With T = 8 frames a window, S = 2 of overlap and two given frames (``g``)::

    key-frame      -1   0   1   2   3   4   5   6   7   8   9  10  11  12  13
    window 0        g   g   x   x   x   x   x   x                                  start -1, keeps [0, 7)
    window 1                            .   .   x   x   x   x   x   x              start  5, keeps [7, 13)
    output, r = 4      0   4   8  12 ...           frame r k is key-frame k; the r - 1 frames before it are filled in
    segment 0          [0 ................. 6 r]
    segment 1                                   [6 r + 1 ................. 12 r]

The last window is computed in full and trimmed: every window has the same shape, and no frame depends on the length.
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
        frames: ``T`` of the prediction model.
        overlap: ``S``, given frames of every window but the first.
        given: given frames of the first window, 1 or 2.
        factor: ``r``, output frames per key-frame.
    """

    keyframes: int
    frames: int
    overlap: int = 2
    given: int = 1
    factor: int = 1

    def __post_init__(self) -> None:
        if (
            self.keyframes < 1
            or not 1 <= self.overlap < self.frames
            or not 1 <= self.given < self.frames
            or self.factor not in FACTORS
        ):
            raise ValueError(f"no plan fits these numbers: {self}")

    @property
    def fps(self) -> Fraction:
        return KEYFRAME_FPS * self.factor

    @property
    def total(self) -> int:
        """Output frames: ``(K - 1) r + 1``."""
        return (self.keyframes - 1) * self.factor + 1

    @property
    def count(self) -> int:
        """How many windows it takes."""
        beyond = self.keyframes - (self.frames - self.given + 1)
        return 1 + math.ceil(max(0, beyond) / (self.frames - self.overlap))

    def windows(self, begin: int = 0) -> Iterator[Window]:
        """The windows from number ``begin`` on."""
        for n in range(begin, self.count):
            yield self.window(n)

    def window(self, n: int) -> Window:
        opening = self.frames - self.given + 1  # key-frames that window 0 adds
        new = self.frames - self.overlap
        if n == 0:
            return Window(0, 1 - self.given, self.given, 0, min(opening, self.keyframes))
        first = opening + (n - 1) * new
        return Window(n, first - self.overlap, self.overlap, first, min(first + new, self.keyframes))

    def segment(self, window: Window) -> tuple[int, int]:
        """The output frames ``[first, last)`` that are complete once ``window`` is.

        With its key-frames ``[a, b)``: ``(a - 1) r < frame <= (b - 1) r``.
        """
        first = 0 if window.first == 0 else (window.first - 1) * self.factor + 1
        return first, (window.last - 1) * self.factor + 1


def video_frame(keyframe: int) -> int:
    """The absolute frame at 30 fps of a key-frame: what its noise is keyed by."""
    return STRIDE * keyframe


def keyframes_for(seconds: float) -> int:
    """Key-frames of an output that lasts ``seconds`` or, where they do not divide, up to 8/15 s more."""
    return math.ceil(Fraction(str(seconds)) * KEYFRAME_FPS) + 1


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


def describe(plan: Plan, fixed: dict[str, Any]) -> dict[str, Any]:
    """The content of plan.json: the numbers, all that is ``fixed`` with them, and the hash of both."""
    body = {"plan": asdict(plan), "fixed": json.loads(json.dumps(fixed, default=str))}
    windows = [asdict(window) for window in plan.windows()]
    return {"hash": digest(body), **body, "fps": str(plan.fps), "total": plan.total, "windows": windows}
