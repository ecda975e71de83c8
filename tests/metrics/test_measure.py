"""Which clips are taken, which files count as what, and the statistics of long videos."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from drivesim.data.video import VideoInfo
from drivesim.errors import Mistake
from drivesim.metrics import drift, protocols
from drivesim.metrics.measure import count_clips, plan, runs


def info(frames: int, fps: Fraction) -> VideoInfo:
    return VideoInfo(Path("a.mp4"), 128, 64, fps, frames, frames / fps)


def test_every_video_gives_one_clip_before_any_gives_two():
    counts = {"a": 100, "b": 1, "c": 3, "d": 0}
    assert plan(counts, None) == {"a": tuple(range(100)), "b": (0,), "c": (0, 1, 2), "d": ()}
    taken = plan(counts, 5)
    assert [len(taken[name]) for name in "abcd"] == [2, 1, 2, 0]
    assert taken == plan(dict(reversed(counts.items())), 5), "the order of files does not matter"
    assert all(len(set(clips)) == len(clips) for clips in taken.values()), "no clip is drawn twice"
    assert plan({f"{n:03d}": 1 for n in range(50)}, 20) == plan({f"{n:03d}": 1 for n in reversed(range(50))}, 20)
    assert sum(map(len, plan(counts, 1000).values())) == 104


def test_clips_are_counted_at_the_protocols_rate_or_the_videos_own():
    assert count_clips(info(64, Fraction(30)), protocols.PROTOCOLS["paper"]) == 4
    assert count_clips(info(64, Fraction(30)), protocols.PROTOCOLS["paper"].at(Fraction(15))) == 2
    assert count_clips(info(256, Fraction(30)), protocols.PROTOCOLS["styleganv-128-sub8"]) == 2
    assert count_clips(info(127, Fraction(30)), protocols.PROTOCOLS["styleganv-128"]) == 0


def test_runs_of_numbers():
    assert list(runs((0, 1, 2, 5, 7, 8))) == [(0, 2), (5, 5), (7, 8)]
    assert list(runs((3,))) == [(3, 3)] and list(runs(())) == []


def test_presets_are_what_their_sources_say():
    known = protocols.PROTOCOLS
    assert {"paper", "styleganv", "styleganv-128", "tf1", "mcvd", "videogpt", "cdfvd"} <= known.keys()
    assert (known["styleganv"].ddof, known["paper"].ddof, known["tf1"].resize) == (0, 1, "tf1")
    assert (known["videogpt"].epsilon, known["videogpt"].sums, known["mcvd"].epsilon) == (1e-5, "float32", 1e-3)
    assert protocols.named("paper", Fraction(10), 64).fps == 10 and protocols.named("paper", clips=64).clips == 64
    with pytest.raises(Mistake, match="unknown protocol"):
        protocols.named("papper")


# --- statistics -------------------------------------------------------------------------------------------------------


def moving(shift: int, blur: float = 0, count: int = 16) -> np.ndarray:
    """A picture of coloured noise that moves to the side."""
    wide = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (128, 600, 3), np.uint8), (0, 0), 2 + blur)
    return np.stack([wide[:, n * shift : n * shift + 256] for n in range(count)])


def value(frames: np.ndarray, name: str) -> float:
    return float(drift.statistics(frames)[drift.STATISTICS.index(name)])


def test_each_statistic_sees_its_defect():
    true = moving(3)
    assert value(true[:1].repeat(16, 0), "motion") == 0 and value(true[:1].repeat(16, 0), "jump") == 1
    assert value(moving(6), "motion") > value(true, "motion") > 1
    assert value(moving(3, blur=3), "sharpness") < 0.7 * value(true, "sharpness")
    grey = true.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8)
    assert value(grey, "saturation") == 0 and value(true, "saturation") > 5
    assert value(true // 2, "contrast") == pytest.approx(value(true, "contrast") / 2, rel=0.05)
    assert value(true // 2, "brightness") == pytest.approx(value(true, "brightness") / 2, rel=0.05)
    seam = np.concatenate([true[:8], true[8:, ::-1]])
    assert value(seam, "jump") > 1.3 * value(true, "jump")
    assert value(np.full((2, 64, 64, 3), 200, np.uint8), "brightness") == 200


def test_a_video_is_usable_until_a_statistic_leaves_what_real_ones_have():
    real = torch.stack([drift.statistics(moving(shift)) for shift in (2, 3, 4)])
    good, bad = drift.statistics(moving(3)), drift.statistics(moving(3, blur=6))
    starts, span = [Fraction(n) for n in range(5)], Fraction(1)
    held = drift.usable(torch.stack([good] * 5), starts, span, drift.band(real))
    assert held == drift.Usable(5.0, "")
    lost = drift.usable(torch.stack([good, bad, good, bad, bad]), starts, span, drift.band(real))
    assert lost.until == 3.0 and "too low" in lost.because, "one clip alone is forgiven"


def test_the_curve_leaves_the_band_where_the_clips_do():
    g = torch.Generator().manual_seed(0)
    real, generated = torch.randn(200, 4, generator=g), torch.randn(320, 4, generator=g)
    starts = [Fraction(n % 8) for n in range(320)]
    away = torch.tensor([float(start >= 5) * 5 for start in starts])[:, None]
    frozen = real + 4
    held = drift.curve(real, frozen, generated, starts, Fraction(1), Fraction(1))
    assert held.held and held.usable_until == 8 and len(held.windows) == 8
    assert all(w.lo < w.value < w.hi and w.clips == 40 for w in held.windows)
    left = drift.curve(real, frozen, generated + away, starts, Fraction(1), Fraction(1))
    assert not left.held and left.usable_until == 5
    assert left.floor < left.floor_high < left.limit < left.frozen and left.limit == pytest.approx(left.frozen / 2)
    assert drift.curve(real, frozen, generated[:2], starts[:2], Fraction(1), Fraction(1)) is None
    assert drift.width_for([Fraction(120)], Fraction(128, 15)) == Fraction(128, 15)
    assert drift.width_for([Fraction(60)], Fraction(1)) == 5
