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
    """A stretch of time. All distances are to real clips, and of as many clips as were generated in it.

    Args:
        value: of the generated clips; ``lo``, ``hi`` its interval, where there are clips enough for one.
        real: of real clips of the same stretch, where so many are that long.
        frozen: of real clips with their first frame held; None where that is no control (single frames).
        limit: top of the band: the 95th percentile of what real clips score, or half of ``frozen`` where that is more.
    """

    t0: float
    t1: float
    clips: int
    value: float | None = None
    lo: float | None = None
    hi: float | None = None
    real: float | None = None
    frozen: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Controls:
    """What as many real clips score against the others (mean and 95th percentile of the draws), and frozen ones."""

    floor: float
    floor_high: float
    frozen: float | None

    @property
    def limit(self) -> float:
        return max(self.floor_high, (self.frozen or 0.0) / 2)


@dataclass(frozen=True)
class Curve:
    """A distance over time.

    Args:
        windows: in order of time; ``usual``: the controls of as many clips as most stretches have.
        usable_until: the second at which the curve leaves the band, its whole interval above the limit; where it never
            does, the end of the last stretch that has clips enough.
    """

    windows: list[Window]
    usual: Controls
    usable_until: float


def width_for(ends: Sequence[Fraction], span: Fraction) -> Fraction:
    """Seconds of a stretch: a twelfth of the longest video, in whole clips of ``span`` seconds."""
    return max(1, round(max(ends) / WINDOWS / span)) * span


@dataclass(frozen=True, eq=False)
class Clips:
    """Features ``N d``, or ``N r d`` with r rows a clip, and the second at which each clip begins in its video."""

    features: Tensor
    starts: Sequence[Fraction]

    def by_stretch(self, width: Fraction) -> dict[int, Tensor]:
        places: dict[int, list[int]] = {}
        for place, start in enumerate(self.starts):
            places.setdefault(int(start // width), []).append(place)
        return {n: self.features[chosen] for n, chosen in sorted(places.items())}


def curve(real: Clips, frozen: Tensor | None, generated: Clips, width: Fraction, ddof: int = 1) -> Curve | None:
    """The distance of the generated clips of each stretch of ``width`` seconds to all real clips.

    Args:
        frozen: of the real clips with their first frame held; None where that is no control.

    Returns:
        None where fewer than two stretches have ``LEAST`` clips, or the real clips are too few.
    """
    stretches, others = generated.by_stretch(width), real.by_stretch(width)
    counts = [len(clips) for clips in stretches.values() if len(clips) >= LEAST]
    if len(counts) < 2 or len(real.features) < 2 * LEAST:
        return None
    everything = Gaussian.fit(real.features, ddof)
    known = {count: _controls(real.features, frozen, count, ddof) for count in {*counts, _usual(counts)}}
    windows = []
    for n, clips in stretches.items():
        bounds = float(n * width), float((n + 1) * width)
        if len(clips) < LEAST:
            windows.append(Window(*bounds, len(clips)))
            continue
        control = known[len(clips)]
        same = _real(real.features, real.starts, n, width, len(clips), ddof) if n in others else None
        value, lo, hi = _interval(everything, clips, ddof)
        windows.append(Window(*bounds, len(clips), value, lo, hi, same, control.frozen, control.limit))
    return Curve(windows, known[_usual(counts)], _until(windows))


def _usual(counts: list[int]) -> int:
    return sorted(counts)[len(counts) // 2]


def _until(windows: list[Window]) -> float:
    measured = [window for window in windows if window.value is not None]
    for window in measured:
        assert window.value is not None and window.limit is not None
        if (window.value if window.lo is None else window.lo) > window.limit:
            return window.t0
    return measured[-1].t1


def _interval(real: Gaussian, clips: Tensor, ddof: int) -> tuple[float, float | None, float | None]:
    value, spread = real.distance(Gaussian.fit(clips, ddof)), frechet_to(real, clips, ddof)
    return (value, None, None) if spread is None else (value, value - 1.96 * spread.se, value + 1.96 * spread.se)


def _real(features: Tensor, starts: Sequence[Fraction], n: int, width: Fraction, count: int, ddof: int) -> float | None:
    """``count`` real clips of stretch ``n`` against all the other real ones, where there are as many."""
    inside = [place for place, start in enumerate(starts) if start // width == n][:count]
    others = sorted(set(range(len(starts))) - set(inside))
    if len(inside) < count or len(others) < count:
        return None
    return distance_of(features[others], features[inside], ddof)


def _controls(real: Tensor, frozen: Tensor | None, count: int, ddof: int) -> Controls:
    """``count`` clips, drawn anew each time, against the others."""
    count = min(count, len(real) // 2)
    floors, stills = [], []
    for draw in range(DRAWS):
        order = torch.from_numpy(randomness.generator("evaluate", "drift", draw).permutation(len(real)))
        others = Gaussian.fit(real[order[count:]], ddof)
        floors.append(others.distance(Gaussian.fit(real[order[:count]], ddof)))
        if frozen is not None:
            stills.append(others.distance(Gaussian.fit(frozen[order[:count]], ddof)))
    still = float(np.mean(stills)) if stills else None
    return Controls(float(np.mean(floors)), float(np.quantile(floors, 0.95)), still)


def over_time(clips: Tensor, starts: Sequence[Fraction], width: Fraction) -> list[dict[str, float]]:
    """The mean of each of ``STATISTICS`` (``n 6``) in every stretch."""
    found = []
    for n, rows in Clips(clips, starts).by_stretch(width).items():
        stretch = {"t0": float(n * width), "t1": float((n + 1) * width), "clips": float(len(rows))}
        found.append(stretch | dict(zip(STATISTICS, rows.mean(0).tolist(), strict=True)))
    return found


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
    for n in range(len(clips) - 1):
        for which, name in enumerate(STATISTICS):
            for side, word in ((under, "low"), (over, "high")):
                if side[n, which] and side[n + 1, which]:
                    return Usable(float(starts[n]), f"{name} too {word}")
    return Usable(float(starts[-1] + span), "")
