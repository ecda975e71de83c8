"""The upsampler's two stages: what they are shown and told, that they learn, that the temporal one keeps the first."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from drivesim.diffusion.loss import LossConfig
from drivesim.diffusion.lowres import augmented, reduced
from drivesim.diffusion.noise import ScheduleConfig
from drivesim.errors import Mistake
from drivesim.models.temporal import TemporalConfig
from drivesim.models.unet import UNetConfig
from drivesim.models.video import ImageModel, VideoUNet
from drivesim.randomness import normal
from drivesim.scene import Condition, to_pixels
from drivesim.training.loop import LoopConfig, train
from drivesim.training.upsampler import LowConfig, UpsamplerStage, UpsamplerTemporalStage, bicubic

from .tiny import LOOP

UNET = UNetConfig(
    channels=(16, 16), blocks=1, attention=(False, True), head_channels=8, cross=8, groups=4, in_channels=6,
    out_channels=3, joined=("low",), classes=40, patch=4,
)  # fmt: skip
TEMPORAL = TemporalConfig(frames=3, depth=1, head_channels=8, cross=8, context_channels=4, context="low")
SCHEDULE = ScheduleConfig(betas="linear", beta_start=1e-4, beta_end=2e-2)
LOW = LowConfig(factor=4, levels=30)
KNOWN = (0.25, 0.5, 0.25)
NAMES = ["upsampler", "upsampler-temporal"]


def stage(name: str, loop: LoopConfig = LOOP) -> UpsamplerStage:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        image = ImageModel(UNET)
        if name == "upsampler":
            return UpsamplerStage(image, LOW, SCHEDULE, LossConfig(), loop)
        return UpsamplerTemporalStage(image, TEMPORAL, KNOWN, LOW, SCHEDULE, LossConfig(), loop)


def batch(name: str, samples: list[int]) -> dict[str, Tensor]:
    frames = 1 if name == "upsampler" else 3
    return {
        "video": torch.stack([normal(("video", n), (frames, 3, 16, 24)).tanh() for n in samples]),
        "night": torch.tensor([n % 2 for n in samples]),
        "cars": torch.tensor([n % 5 for n in samples]),
        "sample": torch.tensor(samples),
    }


class Repeated(pl.LightningDataModule):
    def __init__(self, only: dict[str, Tensor], steps: int):
        super().__init__()
        self.only, self.steps = only, steps

    def train_dataloader(self) -> DataLoader[Any]:
        own = torch.Generator().manual_seed(0)
        return DataLoader([self.only] * self.steps, batch_size=None, generator=own)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_one_repeated_batch_makes_the_loss_fall(name: str, tmp_path: Path) -> None:
    made = stage(name, replace(LOOP, steps=40))
    before = {key: value.clone() for key, value in made.state_dict().items()}
    train(made, Repeated(batch(name, [0, 1]), 40), name, tmp_path, "cpu")
    with open(tmp_path / "metrics.csv", newline="") as opened:
        losses = [float(row["loss"]) for row in csv.DictReader(opened)]
    assert losses[-1] < 0.9 * losses[0]
    assert (tmp_path / "samples" / "step-00000040.png").is_file()
    changed = {key.split(".")[0] for key, value in made.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == ({"image"} if name == "upsampler" else {"temporal"})
    held = [p for group in made.trainer.optimizers[0].param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in made.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_is_a_function_of_seed_and_sample(name: str) -> None:
    made = stage(name)
    many, alone = batch(name, [4, 7, 9]), batch(name, [7])
    (told, predicted), (own, its) = (made._condition(b, b["video"], b["sample"].tolist()) for b in (many, alone))
    if name == "upsampler":
        assert predicted is None
    else:
        assert predicted is not None and its is not None and torch.equal(predicted[1:2], its)
    assert told.low is not None and told.low_level is not None and told.tokens is not None
    for one, other in ((told.low, own.low), (told.low_level, own.low_level), (told.tokens, own.tokens)):
        assert other is not None
        torch.testing.assert_close(one[1:2], other, rtol=1e-5, atol=1e-6)  # tokens: products of another batch
    noise = normal((LOOP.seed, "low", 7), (*many["video"].shape[1:3], 4, 6))[None]
    low = reduced(alone["video"], 4)
    assert torch.equal(own.low, augmented(low, own.low_level, noise, made.schedule, 4))  # type: ignore[arg-type]
    other = stage(name, replace(LOOP, seed=LOOP.seed + 1))
    assert not torch.equal(other._condition(alone, alone["video"], [7])[0].low, own.low)  # type: ignore[arg-type]


def test_levels_are_uniform_from_none_to_the_highest() -> None:
    made, samples = stage("upsampler"), list(range(600))
    condition, _ = made._condition(batch("upsampler", samples), torch.zeros(600, 1, 3, 4, 4), samples)
    assert condition.low_level is not None
    counts = torch.bincount(condition.low_level, minlength=31)
    assert len(counts) == 31 and counts.min() > 5 and counts.max() < 40


def test_first_frames_are_known_as_often_as_asked_for() -> None:
    made, samples = stage("upsampler-temporal"), list(range(400))
    _, predicted = made._condition(batch("upsampler-temporal", samples), torch.zeros(400, 3, 3, 4, 4), samples)
    assert predicted is not None
    assert set(map(tuple, predicted.tolist())) == {(True,) * 3, (False, True, True), (False, False, True)}
    shares = torch.bincount(3 - predicted.sum(1), minlength=3) / 400
    torch.testing.assert_close(shares, torch.tensor(KNOWN), atol=0.08, rtol=0)


def test_labels_are_dropped_for_a_share_and_never_for_pictures() -> None:
    made, samples = stage("upsampler"), list(range(200))
    many = batch("upsampler", samples)
    with torch.no_grad():
        kept = made._told(many, torch.zeros(200, 1, 3, 2, 2), torch.zeros(200, dtype=torch.long)).tokens
        told = made._told(many, torch.zeros(200, 1, 3, 2, 2), torch.zeros(200, dtype=torch.long), samples).tokens
    assert kept is not None and told is not None
    dropped = (kept != told).flatten(1).any(dim=1).float().mean()
    assert 0.04 < dropped < 0.18


def test_without_temporal_layers_it_is_the_image_upsampler() -> None:
    made = stage("upsampler-temporal")
    assert isinstance(made, UpsamplerTemporalStage)
    for parameter in made.temporal.parameters():
        parameter.data += 0.1 * normal(("stir", parameter.numel()), tuple(parameter.shape))
    x, low = normal(("x",), (1, 3, 3, 16, 24)), normal(("low",), (1, 3, 3, 16, 24))
    told = Condition(tokens=torch.zeros(1, 1, 8), low=low, low_level=torch.tensor([12]))
    network = made.eval().network
    with torch.inference_mode():
        video = network(x, torch.full((1, 3), 500.0), told)
        network.temporal = None
        off = network(x, torch.full((1, 3), 500.0), told)
        alone = [
            VideoUNet(made.image.unet)(x[:, t : t + 1], torch.full((1, 1), 500.0), replace(told, low=low[:, t : t + 1]))
            for t in range(3)
        ]
    torch.testing.assert_close(off, torch.cat(alone, dim=1), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(video, off, atol=1e-3)


def test_pictures_are_low_above_sampled_in_the_middle_real_below() -> None:
    made = stage("upsampler-temporal")
    made.shown = batch("upsampler-temporal", [3, 4])
    rows = made.eval().pictures()
    assert rows.shape == (3, 6, 16, 24, 3)
    high = made.shown["video"]
    assert (rows[2] == to_pixels(high).reshape(6, 16, 24, 3)).all()
    assert (rows[0] == bicubic(to_pixels(reduced(high, 4)), 4).reshape(6, 16, 24, 3)).all()
    assert (rows[1] == made.pictures()[1]).all() and not (rows[1] == rows[2]).all()


def test_nonsense_is_a_mistake() -> None:
    for factor, levels in ((1, 10), (4, -1)):
        with pytest.raises(Mistake, match="factor >= 2 and low_levels >= 0"):
            LowConfig(factor, levels)
