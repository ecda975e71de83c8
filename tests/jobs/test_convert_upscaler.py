"""The public x4 upscaler becomes three files that compute the same, beside whatever weights they are put."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from drivesim import disk
from drivesim import weights as files
from drivesim.errors import Mistake
from drivesim.jobs import stack, upscaler, weights
from drivesim.models.autoencoder import Autoencoder, split_moments
from drivesim.models.text import TextEncoder, identity
from drivesim.models.video import VideoUNet
from drivesim.scene import Condition
from tests.models import public


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("public") / "x4"
    return folder, public.upscaler(folder)


def test_every_part_computes_what_it_did(pipe, tmp_path: Path) -> None:
    folder, theirs = pipe
    out = tmp_path / "w"
    lines = weights.run("convert", folder, out)
    names = ["upsampler-autoencoder.safetensors", "upsampler.safetensors", "upsampler-text"]
    assert [line.split(": ")[0].rsplit("/", 1)[1] for line in lines] == names
    model, header = stack.load_image(out / "upsampler.safetensors", "upsampler")
    x, low, tokens = torch.randn(2, 4, 16, 24), torch.randn(2, 3, 16, 24), torch.randn(2, 77, 16)
    with torch.no_grad():
        noise = torch.tensor([30, 7])
        wanted = theirs.unet(torch.cat([x, low], 1), torch.tensor([10, 700]), tokens, class_labels=noise).sample
        told = Condition(tokens=tokens, low=low[:, None], low_level=noise)
        found = VideoUNet(model.unet)(x[:, None], torch.tensor([[10], [700]]), told)
        torch.testing.assert_close(found[:, 0], wanted, rtol=1e-4, atol=1e-5)
        pixels = torch.rand(1, 3, 64, 64) * 2 - 1
        own = Autoencoder.load(out / names[0])
        mean = split_moments(own.encode(pixels))[0]
        torch.testing.assert_close(mean, theirs.vae.encode(pixels).latent_dist.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own.decode(mean), theirs.vae.decode(mean).sample, rtol=1e-4, atol=1e-5)
    assert header.parents == {
        "upsampler-autoencoder": disk.sha256(out / names[0]), "upsampler-text": identity(out / names[2]),
    }  # fmt: skip
    assert header.labels == ["text"] and header.schedule["target"] == "v" and header.size == (64, 64)
    latent = header.latent
    assert latent["std"] == pytest.approx([1 / 0.08333] * 4) and latent["mean"] == [0.0] * 4
    assert (latent["f"], latent["factor"], latent["low_levels"]) == (4, 4, 350)
    assert latent["low_schedule"]["beta_end"] == 0.03 and header.schedule["beta_end"] == 0.02
    assert TextEncoder.load(out / names[2]).width == 16
    upscaler.check(out / "upsampler.safetensors", header)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler", "low_res_scheduler"])
def test_a_missing_part_is_named(pipe, tmp_path: Path, part: str) -> None:
    shutil.copytree(pipe[0], tmp_path / "x4")
    shutil.rmtree(tmp_path / "x4" / part)
    with pytest.raises(Mistake, match=f"holds no {part}/"):
        weights.run("convert", tmp_path / "x4", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_an_image_model_in_its_place(pipe, tmp_path: Path) -> None:
    shutil.copytree(pipe[0], tmp_path / "x4")
    other = tmp_path / "sd"
    public.pipeline(other)
    shutil.rmtree(tmp_path / "x4" / "unet")
    shutil.copytree(other / "unet", tmp_path / "x4" / "unet")
    with pytest.raises(Mistake, match="is no upscaler"):
        weights.run("convert", tmp_path / "x4", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_noise_goes_no_further_than_its_table_and_schedule(pipe, tmp_path: Path) -> None:
    shutil.copytree(pipe[0], tmp_path / "x4")
    file = tmp_path / "x4" / "low_res_scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_train_timesteps": 200}))
    weights.run("convert", tmp_path / "x4", tmp_path / "w")
    assert files.header(tmp_path / "w" / "upsampler.safetensors").latent["low_levels"] == 199


def test_what_is_missing_or_another_beside_it(pipe, tmp_path: Path) -> None:
    weights.run("convert", pipe[0], tmp_path / "w")
    file = tmp_path / "w" / "upsampler.safetensors"
    header = files.header(file)
    (tmp_path / "w" / "upsampler-text").rename(tmp_path / "text")
    with pytest.raises(Mistake, match="upsampler-text is not beside it"):
        upscaler.check(file, header)
    (tmp_path / "text").rename(tmp_path / "w" / "upsampler-text")
    header.latent["factor"] = 2
    with pytest.raises(Mistake, match="enlarges 2 times on latents 4 times smaller"):
        upscaler.check(file, header)
    public.upscaler(tmp_path / "other", seed=1)
    weights.run("convert", tmp_path / "other", tmp_path / "v")
    shutil.copy(tmp_path / "v" / "upsampler-autoencoder.safetensors", tmp_path / "w")
    with pytest.raises(Mistake, match="made with another upsampler-autoencoder"):
        upscaler.check(file, header)
