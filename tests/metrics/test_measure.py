"""Which clips are taken, which files count as what, and the statistics of long videos."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from drivesim.data.gather import Source, gather
from drivesim.data.video import VideoInfo, probe
from drivesim.errors import Mistake
from drivesim.metrics import controls, drift, jackknife, protocols, survey
from drivesim.metrics.measure import Wanted, clips, count_clips, plan, runs
from tests.data.numbered import numbers, write_uneven


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
    assert drift.usable(torch.stack([good] * 4 + [bad]), starts, span, drift.band(real)) == drift.Usable(5.0, "")
    lost = drift.usable(torch.stack([good, bad, good, bad, bad]), starts, span, drift.band(real))
    assert lost.until == 3.0 and "too low" in lost.because, "one clip alone is forgiven"


def spread(n: int, seed: int, shape: tuple[int, ...] = ()) -> torch.Tensor:
    return torch.randn(n, *shape, 4, generator=torch.Generator().manual_seed(seed))


def test_the_curve_leaves_the_band_where_the_clips_do():
    real, generated = spread(200, 0), spread(320, 1)
    starts = [Fraction(n % 8) for n in range(320)]
    away = torch.tensor([float(start >= 5) * 5 for start in starts])[:, None]
    footage, frozen = drift.Clips(real, [Fraction(n % 2) for n in range(200)]), real + 4
    held = drift.curve(footage, frozen, drift.Clips(generated, starts), Fraction(1))
    assert held.usable_until == 8 and len(held.windows) == 8
    assert all(w.lo < w.value < w.hi < w.limit and w.clips == 40 for w in held.windows)
    assert [w.real is not None for w in held.windows] == [True] * 2 + [False] * 6, "where real clips are that long"
    left = drift.curve(footage, frozen, drift.Clips(generated + away, starts), Fraction(1))
    assert left.usable_until == 5
    usual = left.usual
    assert usual.floor < usual.floor_high < usual.limit < usual.frozen and usual.limit == usual.frozen / 2
    assert drift.curve(footage, frozen, drift.Clips(generated[:2], starts[:2]), Fraction(1)) is None
    assert drift.width_for([Fraction(120)], Fraction(128, 15)) == Fraction(128, 15)
    assert drift.width_for([Fraction(60)], Fraction(1)) == 5


def test_a_stretch_is_judged_by_as_many_clips_as_it_has():
    """Three clips score far more than forty of the same kind: that is bias, and no drift."""
    starts = [Fraction(n % 8) for n in range(320)] + [Fraction(8)] * 3 + [Fraction(9)]
    generated = drift.Clips(spread(324, 1), starts)
    found = drift.curve(drift.Clips(spread(200, 0), [Fraction(0)] * 200), None, generated, Fraction(1))
    assert found.windows[8].value > 2 * found.usual.limit, "by the limit of forty it would be lost"
    assert found.windows[9].value is None and found.usable_until == 9, "what was not judged is not called good"


def test_frames_of_a_clip_stay_together_in_the_band_the_floor_and_the_groups():
    """Four near-copies a clip: drawn as frames on their own they would look like four times the clips."""
    g = torch.Generator().manual_seed(2)
    real, made = (spread(40, n)[:, None] + 0.01 * torch.randn(40, 4, 4, generator=g) for n in (3, 4))
    starts = [Fraction(n % 4) for n in range(40)]
    found = drift.curve(drift.Clips(real, starts), None, drift.Clips(made, starts), Fraction(1))
    assert found.usable_until == 4 and found.usual.frozen is None
    whole, alone = (controls.floor(x, ["one drive"] * len(x)) for x in (real, real.flatten(0, 1)))
    assert whole > 2 * alone
    assert jackknife.frechet(real[:31], made) is None and jackknife.frechet(real, made).se > 0


def test_statistics_over_time():
    rows = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    found = drift.over_time(rows, [Fraction(n) for n in range(4)], Fraction(2))
    assert [window["t1"] for window in found] == [2, 4] and found[1]["brightness"] == 15


def test_shivering_time_stamps_give_the_same_frames_alone_and_in_a_row(tmp_path):
    """Stamps off by up to 6 ms at 30 fps: a clip is the same frames, whichever were read before it."""
    shiver = np.random.default_rng(0).integers(0, 13, 100) - 6
    file = write_uneven(tmp_path / "a.mkv", [max(0, round(n * 1000 / 30) + int(d)) for n, d in enumerate(shiver)])
    found = probe(file)
    wanted = Wanted(Source(file), "a", found, tuple(range(count_clips(found, protocols.PROTOCOLS["paper"]))))
    assert len(wanted.clips) == 6
    together = dict(clips(wanted, protocols.PROTOCOLS["paper"]))
    for clip in wanted.clips:
        ((_, alone),) = clips(replace(wanted, clips=(clip,)), protocols.PROTOCOLS["paper"])
        assert numbers(alone) == numbers(together[clip]) == list(range(16 * clip, 16 * clip + 16))


def test_the_usual_rate_is_the_one_that_most_are_like():
    rates = [Fraction(249, 10), Fraction(30), Fraction(3001, 100), Fraction(2999, 100)]
    assert abs(survey._usual(rates) - 30) < 0.1 and survey._usual([]) == 0


def test_a_pattern_names_drives_by_what_it_leaves_open(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "video.mp4").touch()
    for pattern in ("*/video.mp4", "*"):
        assert [source.drive for source in gather(tmp_path / pattern)] == ["a", "b"]
