"""The metric's states, the controls and the receipt, with an extractor whose features are known."""

import numpy as np
import pytest
import torch

from drivesim.errors import Mistake
from drivesim.metrics import controls, fvd, receipt, store
from drivesim.metrics.features import Extractor, check_prepared, prepared_clips
from drivesim.metrics.frechet import Statistics, distance


class Means:
    """Mean of each colour, and of its change from frame to frame."""

    name, sha, size, min_frames, dim = "means", "0", (4, 4), 2, 6

    def prepare(self, frames: np.ndarray) -> np.ndarray:
        return frames

    def __call__(self, prepared: torch.Tensor) -> torch.Tensor:
        check_prepared(prepared, self.min_frames, self.size)
        x = prepared.float()
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
        prepared_clips(Means(), clips(1, 2).float())
    with pytest.raises(ValueError, match="at least 2"):
        Means()(clips(1, 2)[:, :1])
    with pytest.raises(ValueError, match="statistics of 3 features, not of 6"):
        fvd.FrechetVideoDistance(Means()).add(Statistics.of(torch.rand(5, 3)), True)


def test_the_real_side_is_measured_once_saved_and_used_again(tmp_path):
    first, again = fvd.FrechetVideoDistance(Means()), fvd.FrechetVideoDistance(Means())
    first.update(clips(1, 12), True)
    first.statistics(True).save(tmp_path / "real.safetensors", {"of": "twelve clips"})
    sums, about = Statistics.load(tmp_path / "real.safetensors")
    assert about["of"] == "twelve clips" and sums.n == 12
    again.add(sums, True)
    for metric in (first, again):
        metric.update(clips(2, 12), False)
    assert torch.equal(first.compute(), again.compute())
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "real.safetensors").read_bytes()[:-4])
    for name, words in (("cut", "not a whole file"), ("none", "no such file")):
        with pytest.raises(Mistake, match=words):
            Statistics.load(tmp_path / f"{name}.safetensors")
    store.write(tmp_path / "else.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(Mistake, match="does not hold feature statistics"):
        Statistics.load(tmp_path / "else.safetensors")


def test_controls_are_made_of_as_many_clips_as_were_generated():
    real, altered = torch.randn(40, 3), torch.randn(40, 3) + 5
    few = controls.controls(real, {"frozen": altered}, 10)["frozen"]
    chosen = torch.linspace(0, 39, 10).round().long()
    assert few == pytest.approx(distance(Statistics.of(real), Statistics.of(altered[chosen])))
    assert controls.controls(real, {"same": real}, 100)["same"] < 1e-9


def test_the_floor_needs_two_halves():
    real = torch.randn(9, 3)
    assert controls.floor(real[:3], ["a", "b", "c"]) is None
    assert controls.floor(real, ["a"] * 9) > 0


def test_the_floor_is_split_by_drive():
    """Clips of one drive are alike here, and drives far apart: a split through the drives would score near nothing."""
    place = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)) * 10
    real = place.repeat_interleave(40, 0) + torch.randn(320, 3, generator=torch.Generator().manual_seed(1)) * 0.1
    by_drive = controls.floor(real, [f"drive {n // 40}" for n in range(320)])
    by_clip = controls.floor(real, [f"drive {n}" for n in range(320)])
    assert by_drive > 20 * by_clip
    first, second = controls.halves(["a", "b", "a", "c", "b", "d"], 0)
    assert sorted(first + second) == list(range(6)) and abs(len(first) - len(second)) <= 2
    assert not {("a", "b", "a", "c", "b", "d")[n] for n in first} & {("a", "b", "a", "c", "b", "d")[n] for n in second}


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
