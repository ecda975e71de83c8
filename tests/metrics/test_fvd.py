"""The metric's states, the controls and the receipt, with an extractor whose features are known."""

import pytest
import torch

from drivesim.metrics import fvd, receipt
from drivesim.metrics.features import Extractor, check_video, extract
from drivesim.metrics.frechet import Statistics, distance


class Means:
    """Mean of each colour, and of its change from frame to frame."""

    name, sha, size, min_frames, dim = "means", "0", (4, 4), 2, 6

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        check_video(video, self.min_frames)
        x = video.float()
        return torch.cat([x.mean((1, 2, 3)), x.diff(dim=1).abs().mean((1, 2, 3))], 1)


def clips(seed: int, n: int) -> torch.Tensor:
    return torch.randint(0, 255, (n, 5, 4, 4, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_the_protocol_is_met():
    assert isinstance(Means(), Extractor)


def test_batches_add_up_to_the_whole():
    real, generated = clips(1, 12), clips(2, 15)
    whole, parts = fvd.FrechetVideoDistance(Means()), fvd.FrechetVideoDistance(Means())
    whole.update(real, True)
    whole.update(generated, False)
    for start in range(0, 15, 4):
        parts.update(generated[start : start + 4], False)
    parts.update(real[:1], True)
    parts.update(real[1:], True)
    assert float(parts.compute()) == pytest.approx(float(whole.compute()), rel=1e-9)
    assert whole.compute().dtype == torch.float64
    expected = distance(Statistics.of(Means()(real)), Statistics.of(Means()(generated)))
    assert float(whole.compute()) == pytest.approx(expected, rel=1e-12)


def test_two_processes_add_up_to_one():
    one, other, both = (fvd.FrechetVideoDistance(Means()) for _ in range(3))
    for metric, seed in ((one, 1), (other, 2)):
        for m in (metric, both):
            m.update(clips(seed, 6), True)
            m.update(clips(seed + 10, 6), False)
    for name, reduce in one._reductions.items():  # what torchmetrics does with the states of several processes
        setattr(one, name, reduce(torch.stack([getattr(one, name), getattr(other, name)])))
    assert int(one.real_n) == 12
    assert float(one.compute()) == pytest.approx(float(both.compute()), rel=1e-9)


def test_reset_forgets():
    metric = fvd.FrechetVideoDistance(Means())
    metric.update(clips(1, 4), True)
    metric.reset()
    assert int(metric.real_n) == 0 and float(metric.real_outer.abs().sum()) == 0


def test_the_same_clips_score_nothing():
    metric = fvd.FrechetVideoDistance(Means())
    for real in (True, False):
        metric.update(clips(1, 9), real)
    assert 0 <= float(metric.compute()) < 1e-8


def test_bad_video_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        Means()(clips(1, 2).float())
    with pytest.raises(ValueError, match="at least 2"):
        Means()(clips(1, 2)[:, :1])


def test_extract_keeps_the_order():
    video = clips(1, 7)
    torch.testing.assert_close(extract(Means(), (clip.numpy() for clip in video), batch=3), Means()(video))


def test_controls_are_made_of_as_many_clips_as_were_generated():
    real, altered = torch.randn(40, 3), torch.randn(40, 3) + 5
    few = fvd.controls(real, {"frozen": altered}, 10)["frozen"]
    chosen = torch.linspace(0, 39, 10).round().long()
    assert few == pytest.approx(distance(Statistics.of(real), Statistics.of(altered[chosen])))
    assert fvd.controls(real, {"same": real}, 100)["same"] < 1e-9


def test_the_floor_needs_two_halves():
    real = torch.randn(9, 3)
    assert fvd.floor(real[:3], torch.arange(3)) is None
    assert fvd.floor(real, torch.arange(9)) == pytest.approx(
        distance(Statistics.of(real[:4]), Statistics.of(real[4:8]))
    )


def test_receipts_say_what_differs():
    one = {"receipt": {"fps": "15/8", "frames": 16, "version": "1", "clips_generated": "a"}}
    other = {"receipt": {"fps": "30/1", "frames": 16, "version": "2", "clips_generated": "b"}}
    assert receipt.comparable(one, other) == ["fps"]


def test_few_clips_are_warned_of():
    assert any("only 20 generated" in line for line in receipt.warnings_for(500, 20, 64))
    assert receipt.warnings_for(500, 500, 64) == []


def test_the_hash_of_clips_ignores_their_order():
    assert receipt.clips_hash([("a", 0), ("b", 1)]) == receipt.clips_hash([("b", 1), ("a", 0)])
    assert receipt.clips_hash([("a", 0)]) != receipt.clips_hash([("a", 1)])
