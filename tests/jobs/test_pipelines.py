"""A public pipeline becomes a folder of weights, which says and computes the same."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from drivesim import disk
from drivesim.errors import Mistake
from drivesim.jobs import stack, weights
from drivesim.models.autoencoder import Autoencoder, split_moments
from drivesim.models.text import TextEncoder, identity
from tests.models import public


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("public") / "sd"
    return folder, public.pipeline(folder)


def test_every_part_computes_what_it_did(pipe, tmp_path: Path) -> None:
    folder, theirs = pipe
    lines = weights.run("convert", folder, tmp_path / "w")
    assert [line.split(": ")[0].rsplit("/", 1)[1] for line in lines] == [
        "autoencoder.safetensors",
        "image.safetensors",
        "text",
    ]
    out = tmp_path / "w"
    model, header = stack.load_image(out / "image.safetensors")
    x, tokens = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 16)
    with torch.no_grad():
        wanted = theirs.unet(x, torch.tensor([10, 700]), tokens).sample
        found = model.unet(x, torch.tensor([10, 700]), tokens)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        pixels = torch.rand(1, 3, 64, 64) * 2 - 1
        mean = split_moments(Autoencoder.load(out / "autoencoder.safetensors").encode(pixels))[0]
        torch.testing.assert_close(mean, theirs.vae.encode(pixels).latent_dist.mean, rtol=1e-4, atol=1e-5)
    assert header.parents == {
        "autoencoder": disk.sha256(out / "autoencoder.safetensors"), "text": identity(out / "text"),
    }  # fmt: skip
    assert header.labels == ["text"] and header.schedule["target"] == "eps" and model.labels is None
    assert header.latent["std"] == pytest.approx([1 / 0.18215] * 4)
    assert TextEncoder.load(out / "text").width == 16


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(pipe, tmp_path: Path, part: str) -> None:
    shutil.copytree(pipe[0], tmp_path / "sd")
    shutil.rmtree(tmp_path / "sd" / part)
    with pytest.raises(Mistake, match=f"holds no {part}/"):
        weights.run("convert", tmp_path / "sd", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_schedule_of_another_kind(pipe, tmp_path: Path) -> None:
    shutil.copytree(pipe[0], tmp_path / "sd")
    file = tmp_path / "sd" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "sample"}))
    with pytest.raises(Mistake, match="no schedule of scaled_linear betas that predicts sample is read"):
        weights.run("convert", tmp_path / "sd", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_it_is_not_written_over_anything(pipe, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    with pytest.raises(Mistake, match="is there already"):
        weights.run("convert", pipe[0], tmp_path / "w")
