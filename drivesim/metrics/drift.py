"""What becomes of a long video: the distance and cheap statistics of each stretch of time, and how long it is usable.

The cheap statistics need no network: a picture that fades, freezes, blurs or jumps shows in them at once, also in a
single video, where a distance of distributions has too few clips to mean anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
import torch
from torch import Tensor

from drivesim import randomness
from drivesim.data.video import fit
from drivesim.metrics.frechet import Gaussian, distance_of
from drivesim.metrics.jackknife import frechet_to

STATISTICS = ("brightness", "contrast", "saturation", "sharpness", "motion", "jump")
LOOK = (128, 256)
DRAWS = 24
WINDOWS = 12  # stretches that a curve has, where no width is asked for
LEAST = 3  # clips of a stretch below which no distance is formed


def statistics(frames: np.ndarray) -> Tensor:
    """Of a clip, uint8 ``T H W 3``, each frame at 128x256: float64 ``6``, in the order of ``STATISTICS``.

    brightness: mean luma (BT.601), 0 to 255. contrast: deviation of luma within a frame. saturation: mean of max - min
    over the colours. sharpness: mean absolute Laplacian of luma. motion: mean absolute change of luma from frame to
    frame (0 when frozen). jump: the largest such change over the median one (seams and cuts show here; 1 when nothing
    moves).
    """
    rows: list[tuple[float, ...]] = []
    change: list[float] = []
    before: np.ndarray | None = None
    for frame in frames:
        small = fit(frame, LOOK)
        luma, (red, green, blue) = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), cv2.split(small)
        mean, deviation = (float(value.item()) for value in cv2.meanStdDev(luma))
        colours = cv2.max(red, cv2.max(green, blue)), cv2.min(red, cv2.min(green, blue))
        rows.append((mean, deviation, _apart(*colours), _apart(cv2.Laplacian(luma, cv2.CV_16S), None)))
        change += [] if before is None else [_apart(luma, before)]
        before = luma
    usual = float(np.median(change)) if change else 0.0
    jump = max(change) / usual if usual > 0 else 1.0
    return torch.tensor([*np.mean(rows, 0), np.mean(change) if change else 0.0, jump], dtype=torch.float64)


def _apart(one: np.ndarray, other: np.ndarray | None) -> float:
    """Mean absolute difference."""
    return float(cv2.norm(one, cv2.NORM_L1) if other is None else cv2.norm(one, other, cv2.NORM_L1)) / one.size


@dataclass(frozen=True)
class Window:
    """A stretch of time: its distance to all real clips, with an interval where there are clips enough for one."""

    t0: float
    t1: float
    clips: int
    value: float | None
    lo: float | None
    hi: float | None


@dataclass(frozen=True)
class Curve:
    """A distance over time.

    Args:
        windows: in order of time.
        floor: what as many real clips score against the others: mean, and the 95th percentile of the draws.
        frozen: what as many real clips with their first frame held score.
        limit: top of the band: the 95th percentile of the floor, or half of ``frozen`` where that is more.
        usable_until: the second at which the curve leaves the band, its whole interval above the limit; the end of the
            video where it never does.
        held: it never left.
    """

    windows: list[Window]
    floor: float
    floor_high: float
    frozen: float
    limit: float
    usable_until: float
    held: bool


def width_for(ends: Sequence[Fraction], span: Fraction) -> Fraction:
    """Seconds of a stretch: a twelfth of the longest video, in whole clips of ``span`` seconds."""
    return max(1, round(max(ends) / WINDOWS / span)) * span


def curve(
    real: Tensor,
    frozen: Tensor,
    generated: Tensor,
    starts: Sequence[Fraction],
    width: Fraction,
    span: Fraction,
    ddof: int = 1,
    rows: int = 1,
) -> Curve | None:
    """The distance of the generated clips of each stretch to all real clips.

    Args:
        real, frozen: features ``N d`` of the real clips, and of them with their first frame held.
        generated: features ``M d``, ``starts`` their seconds from the beginning of their videos.
        width: seconds of a stretch. ``span``: seconds of a clip. ``rows``: features of one clip (its single frames).

    Returns:
        None where fewer than two stretches have ``LEAST`` clips, or the real clips are too few.
    """
    places: dict[int, list[int]] = {}
    for place, start in enumerate(starts):
        places.setdefault(int(start // width), []).append(place)
    least, usual = LEAST * rows, int(np.median([len(chosen) for chosen in places.values()]))
    if sum(len(chosen) >= least for chosen in places.values()) < 2 or len(real) < 2 * least:
        return None
    everything = Gaussian.fit(real, ddof)
    windows = [_window(everything, generated[places[n]], n, width, rows, ddof) for n in sorted(places)]
    low, high, still = _controls(everything, real, frozen, min(max(usual, least), len(real) // 2), ddof)
    limit = max(high, still / 2)
    left = next((w for w in windows if w.value is not None and (w.value if w.lo is None else w.lo) > limit), None)
    return Curve(windows, low, high, still, limit, left.t0 if left else windows[-1].t1, left is None)


def _window(real: Gaussian, vectors: Tensor, n: int, width: Fraction, rows: int, ddof: int) -> Window:
    t0, t1, count = float(n * width), float((n + 1) * width), len(vectors) // rows
    if count < LEAST:
        return Window(t0, t1, count, None, None, None)
    value, spread = real.distance(Gaussian.fit(vectors, ddof)), frechet_to(real, vectors, ddof)
    if spread is None:
        return Window(t0, t1, count, value, None, None)
    return Window(t0, t1, count, value, value - 1.96 * spread.se, value + 1.96 * spread.se)


def _controls(everything: Gaussian, real: Tensor, frozen: Tensor, count: int, ddof: int) -> tuple[float, float, float]:
    """Mean and 95th percentile of ``count`` real clips against the others, and the mean of as many frozen ones."""
    floors, stills = [], []
    for draw in range(DRAWS):
        order = torch.from_numpy(randomness.generator("evaluate", "drift", draw).permutation(len(real)))
        floors.append(distance_of(real[order[count:]], real[order[:count]], ddof))
        stills.append(everything.distance(Gaussian.fit(frozen[order[:count]], ddof)))
    return float(np.mean(floors)), float(np.quantile(floors, 0.95)), float(np.mean(stills))


@dataclass(frozen=True)
class Usable:
    """How long one video stays like real ones in the cheap statistics.

    Args:
        until: second at which one of them leaves what real clips have, for two clips on end; the end otherwise.
        because: which, and whether it is too high or too low; empty where none does.
    """

    until: float
    because: str


def band(real: Tensor) -> Tensor:
    """Lowest and highest of each statistic, ``2 6``, that passes for real: all real clips, and half as much again."""
    low, high = real.min(0).values, real.max(0).values
    margin = (high - low) / 4
    return torch.stack([(low - margin).clamp_min(0), high + margin])


def usable(clips: Tensor, starts: Sequence[Fraction], span: Fraction, band: Tensor) -> Usable:
    """Of one video: its clips' statistics ``n 6`` in order of time against ``band``."""
    under, over = clips < band[0], clips > band[1]
    for n in range(len(clips)):
        for which, name in enumerate(STATISTICS):
            for side, word in ((under, "low"), (over, "high")):
                if side[n, which] and side[min(n + 1, len(clips) - 1), which]:
                    return Usable(float(starts[n]), f"{name} too {word}")
    return Usable(float(starts[-1] + span), "")
