"""The upscaler of latents is trained: from public weights to temporal layers that a rollout runs; what is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from drivesim import cli, config, disk, weights
from drivesim.data import video
from drivesim.diffusion.lowres import reduced
from drivesim.diffusion.noise import Schedule
from drivesim.errors import Mistake
from drivesim.jobs import index, stack, train
from drivesim.jobs import weights as converting
from drivesim.jobs.builders.upsampler import UpsamplerRun, UpsamplerTemporalRun, build_upsampler
from drivesim.jobs.builders.upsampler import build_upsampler_temporal as build_temporal
from drivesim.jobs.calling import Calling
from drivesim.models.text import TextEncoder
from drivesim.models.video import unet_config
from drivesim.randomness import normal
from drivesim.rollout.sample import NoiseSource, Told
from drivesim.rollout.settings import SamplerConfig, UpsampleConfig
from drivesim.rollout.upscaler import Upscaler
from drivesim.scene import Labels
from tests.jobs.test_text_to_video import keyframes
from tests.models import public
from tests.rollout import mock

from . import test_upsampler

LOOP = [*test_upsampler.LOOP, "loop.steps=2"]
SIZES = ["size=[64,128]", "crop=[32,48]"]
TEMPORAL = [
    *("temporal.frames=4", "temporal.depth=1", "temporal.heads=2", "temporal.cross=16", "temporal.alpha=scalar"),
    *("temporal.context_channels=8", "temporal.context=low", "known=[1.0]", "fps=30"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """A folder with the index ``world`` and the converted upscaler ``w``, and diffusers' pipeline."""
    out = tmp_path_factory.mktemp("latent")
    (out / "world.yaml").write_text(test_upsampler.RECIPE)
    index.run(out / "world.yaml", out / "world", seed=7)
    pipe = public.upscaler(out / "x4")
    converting.run("convert", out / "x4", out / "w")
    return out, pipe


def model_of(folder: Path) -> list[str]:
    """The overrides that say what the converted upscaler is."""
    header = weights.header(folder / "upsampler.safetensors")
    own = config.plain(unet_config(header.config))
    lines = [f"model.{name}={'null' if value is None else value}".replace(" ", "") for name, value in own.items()]
    noising = [f"low_schedule.{k}={v}" for k, v in header.latent["low_schedule"].items()]
    return [*lines, *noising, "low_levels=350", f"autoencoder={folder / 'upsampler-autoencoder.safetensors'}"]


@pytest.fixture(scope="module")
def image(made) -> Path:
    out = made[0]
    settings = [*model_of(out / "w"), f"init={out / 'w' / 'upsampler.safetensors'}", f"index={out / 'world'}"]
    return train.run("upsampler", None, [*settings, *LOOP, *SIZES], out / "image")


@pytest.fixture(scope="module")
def temporal(made, image: Path) -> Path:
    settings = [*TEMPORAL, *LOOP, *SIZES, f"index={made[0] / 'world'}", f"upsampler={image}"]
    return train.run("upsampler-temporal", None, settings, made[0] / "temporal")


def test_the_folder_is_complete_and_runs(made, image: Path, temporal: Path) -> None:
    old, own = weights.header(made[0] / "w" / "upsampler.safetensors"), weights.header(image)
    assert own.parents == old.parents and own.latent == old.latent and own.labels == ["text"]
    assert own.interface == old.interface and own.size == (64, 128)
    said = weights.header(temporal)
    assert said.parents == {"upsampler": disk.sha256(image)} and said.latent == own.latent
    assert sorted(entry.name for entry in temporal.parent.iterdir()) == [
        "upsampler-autoencoder.safetensors", "upsampler-temporal.safetensors", "upsampler-text",
        "upsampler.safetensors",
    ]  # fmt: skip
    files = {name: temporal.parent / f"{name}.safetensors" for name in ("upsampler", "upsampler-temporal")}
    upsampler = stack._upsampler(files, (16, 32), Calling(torch.device("cpu"), "32"))
    assert upsampler is not None and upsampler.frames == 4 and upsampler.latent is not None
    upscale = Upscaler(
        mock.stack(size=(16, 32), upsampler=upsampler), UpsampleConfig(sampler=SamplerConfig(steps=2)),
        NoiseSource(0, "s"), Told(Labels(prompt="a road")), 16,
    )  # fmt: skip
    video = upscale(0, torch.rand(4, 3, 16, 32) * 2 - 1, torch.empty(0, 3, 1, 1))
    assert video.shape == (4, 3, 64, 128) and bool(video.isfinite().all())


def test_only_the_temporal_layers_change(made, image: Path, temporal: Path) -> None:
    before, _ = weights.load(made[0] / "w" / "upsampler.safetensors")
    after, _ = weights.load(image)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert disk.sha256(temporal.parent / "upsampler.safetensors") == disk.sha256(image)


def test_what_is_diffused_and_shown(made) -> None:
    out, pipe = made
    settings = config.load(UpsamplerRun, None, [*model_of(out / "w"), f"index={out / 'world'}", *LOOP, *SIZES])
    stage = build_upsampler(settings, 0).stage
    video = normal(("video",), (2, 1, 3, 32, 48)).tanh()
    batch = {"video": video, "sample": torch.tensor([3, 8]), "caption": ["a road", "rain"]}
    z = stage._clean(batch)
    with torch.no_grad():
        wanted = pipe.vae.encode(video[:, 0]).latent_dist.mean * 0.08333
    torch.testing.assert_close(z[:, 0], wanted, rtol=1e-4, atol=1e-5)
    told, predicted = stage._condition(batch, z, [3, 8])
    assert predicted is None and told.low.shape == (2, 1, 3, 8, 12) == (2, 1, 3, *z.shape[-2:])
    low, noise = reduced(video, 4)[:, 0], torch.stack([normal((0, "low", n), (1, 3, 8, 12))[0] for n in (3, 8)])
    theirs = pipe.low_res_scheduler.add_noise(low, noise, told.low_level)
    torch.testing.assert_close(told.low[:, 0], theirs, rtol=1e-4, atol=1e-5)
    assert Schedule(stage.low.schedule).sigmas[-1] != stage.schedule.sigmas[-1], "the schedules are two"
    encoder = TextEncoder.load(out / "w" / "upsampler-text")
    assert torch.equal(stage._tokens(batch, None), encoder.tokens(["a road", "rain"]))
    silent = {key: value for key, value in batch.items() if key != "caption"}
    assert torch.equal(stage._tokens(silent, None), encoder.tokens(["", ""]))
    assert not any(name.startswith(("latents", "text")) for name in stage.state_dict()), "what is frozen stays out"
    stage.shown = batch
    rows = stage.eval().pictures()
    assert rows.shape == (3, 2, 32, 48, 3)


def test_settings_that_cannot_be_are_mistakes(made, image: Path, tmp_path: Path) -> None:
    out = made[0]
    own = [*model_of(out / "w"), f"index={out / 'world'}", *LOOP, *SIZES]
    for override, told in (
        ("model.in_channels=6", "model: enlarges latents beside the low-resolution frames"),
        ("autoencoder=''", "model: enlarges pixels beside"),
        ("crop=[30,48]", r"crop: 30x48 does not divide by 4 .*\n.*28x48 and 32x48"),
        ("low_levels=500", "low_levels: low_levels 500 is an index"),
    ):
        with pytest.raises(Mistake) as caught:
            config.load(UpsamplerRun, None, [*own, override])
        assert re.search(told, str(caught.value)), str(caught.value)
    for override, told in (
        ("autoencoder=x/autoencoder.safetensors", "is not called upsampler-autoencoder.safetensors"),
        (f"autoencoder={tmp_path / 'upsampler-autoencoder.safetensors'}", "no such weight file"),
        ("factor=2", "its latents are 4 times smaller, of 4 channels"),
        ("model.cross=8", "makes tokens 16 wide, the model takes 8"),
    ):
        with pytest.raises(Mistake, match=told):
            build_upsampler(config.load(UpsamplerRun, None, [*own, override]), 0)
    shutil.copytree(image.parent, tmp_path / "w")
    shutil.rmtree(tmp_path / "w" / "upsampler-text")
    settings = [*TEMPORAL, *LOOP, *SIZES, f"index={out / 'world'}", f"upsampler={tmp_path / 'w' / image.name}"]
    with pytest.raises(Mistake, match="upsampler-text is not beside it"):
        build_temporal(config.load(UpsamplerTemporalRun, None, settings), 0)


@pytest.mark.slow
def test_words_become_large_frames(made, tmp_path: Path) -> None:
    """The upscaler copied beside text weights, from the command on: 64x64 frames of key-frames alone become 256x256."""
    public.pipeline(tmp_path / "sd")
    folder = tmp_path / "w"
    converting.run("convert", tmp_path / "sd", folder)
    keyframes(folder, folder / "keyframes.safetensors")
    shutil.copytree(made[0] / "w", folder, dirs_exist_ok=True)
    command = ["generate", "--prompt", "a cat", "--weights", str(folder), "--fps", "1.875", "--device", "cpu"]
    few = ["sampler.steps=2", "upsample.sampler.steps=2", "upsample.guidance.labels=2"]
    assert cli.main([*command, "--out", str(tmp_path / "run"), *few]) == 0
    shown = video.probe(tmp_path / "run" / "video.mp4")
    assert (shown.height, shown.width, shown.frames) == (256, 256, 8)
    used = json.loads((tmp_path / "run" / "run.json").read_text())["weights"]
    assert {"upsampler", "upsampler-autoencoder", "upsampler-text", "text", "image"} <= used.keys()
    (folder / "upsampler-autoencoder.safetensors").unlink()
    assert cli.main([*command, "--out", str(tmp_path / "other"), *few]) == 2
