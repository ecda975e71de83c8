"""Every stage at 512x1024, on real clips, through the jobs that a user calls: narrow networks, a few steps."""

import csv
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from drivesim import config, weights
from drivesim.jobs import encode, index, train
from drivesim.training import loop

pytestmark = pytest.mark.slow
SIZE, STEPS, AGAIN = (512, 1024), 20, 8
FPS = Fraction(15, 8)
WIDTHS: dict[str, list[str]] = {
    "autoencoder": [
        *("size=[512,1024]", "fps=15/8", "statistics=4", "model.channels=[8,8,16,16]", "model.blocks=1"),
        *("model.attention=false", "model.groups=4", "loss.width=8", f"loss.adversarial_from={STEPS - 4}"),
    ],
    "image": [
        *("model.channels=[16,32]", "model.blocks=1", "model.attention=[false,true]", "model.head_channels=8"),
        *("model.cross=16", "model.groups=4", "schedule.target=v", "schedule.betas=cosine"),
    ],
    "keyframes": ["temporal.frames=3", "temporal.depth=1", "temporal.head_channels=8", "temporal.context_channels=8"],
    "interpolation": [
        *("temporal.depth=1", "temporal.head_channels=8", "temporal.context_channels=8", "temporal.cross=8"),
        *("temporal.frames=5", "temporal.told=[rate]"),
    ],
    "decoder": ["decoder.frames=3", "loss.width=8", f"loss.adversarial_from={STEPS - 4}"],
}
FRAMES = ("autoencoder", "decoder")  # these stages see pixels, the others latents
LOOP = ["loop.batch=1", "loop.ema=0.9", "loop.warmup=2", "loop.precision=32-true", "loop.lr=0.002"]


class Repeated(pl.LightningDataModule):
    """One batch, over and over."""

    def __init__(self, batch: dict[str, Tensor]):
        super().__init__()
        self.batch = batch

    def train_dataloader(self) -> DataLoader[Any]:
        own = torch.Generator().manual_seed(0)
        return DataLoader([self.batch] * AGAIN, batch_size=None, generator=own)  # type: ignore[arg-type]


def losses(out: Path) -> list[float]:
    with open(out / "metrics.csv", newline="") as opened:
        return [float(row["loss"]) for row in csv.DictReader(opened)]


def check(stage: str, parents: list[str], out: Path) -> Path:
    """Trains ``stage`` for 20 steps; then, from new weights, on its first batch alone. The weight file of the first."""
    settings = [*WIDTHS[stage], *LOOP, *parents]
    file = train.run(stage, None, [*settings, f"loop.steps={STEPS}"], out / stage)
    header = weights.header(file, stage)
    assert header.size == SIZE and header.train["steps"] == STEPS
    assert all(torch.isfinite(tensor).all() for tensor in weights.load(file)[0].values())
    assert len(losses(out / stage)) == 3 and all(map(math.isfinite, losses(out / stage)))
    more = [*settings, f"loop.steps={AGAIN}", *(["loss.adversarial=0"] if stage in FRAMES else [])]
    kind, build = train.STAGES[stage]
    built = build(config.load(kind, None, more), 0)
    batch = next(iter(built.data.train_dataloader()))
    assert batch["video" if stage in FRAMES else "moments"].shape[-2:] == (SIZE if stage in FRAMES else (64, 128))
    loop.train(built.stage, Repeated(batch), stage, out / f"{stage}-again", "cpu")
    first, last = losses(out / f"{stage}-again")
    assert last < first
    return file


def test_every_stage_trains_at_512x1024(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "kind: videos\nval: 0.0\ninclude: ['nvidia_clips/input3.mp4', 'nvidia_clips/av_0.mp4']\n"
    )
    index.run(shared / "data" / "permissive", tmp_path / "index", tmp_path / "recipe.yaml")
    autoencoder = check("autoencoder", [f"index={tmp_path / 'index'}"], tmp_path)
    encode.run(tmp_path / "index", autoencoder, tmp_path / "cache", FPS, SIZE)
    cache = f"cache={tmp_path / 'cache'}"
    image = check("image", [cache, f"autoencoder={autoencoder}"], tmp_path)
    check("keyframes", [cache, f"image={image}"], tmp_path)
    encode.run(tmp_path / "index", autoencoder, tmp_path / "cache-30", Fraction(30), SIZE)
    check("interpolation", [f"cache={tmp_path / 'cache-30'}", f"image={image}"], tmp_path)
    check("decoder", [f"index={tmp_path / 'index'}", f"autoencoder={autoencoder}"], tmp_path)
