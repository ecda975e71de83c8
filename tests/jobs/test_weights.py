"""``drivesim weights``: what it says of public and of our own files, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from drivesim import config, disk, weights
from drivesim.errors import Mistake
from drivesim.jobs import weights as job
from drivesim.models.autoencoder import Autoencoder, AutoencoderConfig
from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.unet import UNetConfig
from drivesim.models.video import ImageModel, interface

UNET = UNetConfig(channels=(32, 64), blocks=1, attention=(False, True), cross=16, groups=8)
TEMPORAL = TemporalConfig(frames=4, depth=1, context_channels=8)
PUBLIC: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [16, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    """A public autoencoder in a pipeline with a text encoder beside it."""
    folder = tmp_path / "pipeline" / "vae"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(PUBLIC))
    with torch.random.fork_rng():
        model = Autoencoder(AutoencoderConfig((16, 32), 1, groups=8))
    weights.save_public(folder / "diffusion_pytorch_model.safetensors", model.state_dict())
    other = folder.parent / "text_encoder"
    other.mkdir()
    (other / "config.json").write_text('{"architectures": ["CLIPTextModel"]}')
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """RUN/weights of a trained image model and its temporal layers."""
    with torch.random.fork_rng():
        image = ImageModel(UNET)
        temporal = TemporalLayers(TEMPORAL, image.unet)
    folder = tmp_path / "weights"
    seam = interface(UNET)
    weights.save(
        folder / "image.safetensors", image.state_dict(), weights.Header("image", config.plain(UNET), interface=seam)
    )
    header = weights.Header("keyframes", config.plain(TEMPORAL), interface=seam)
    weights.save(folder / "keyframes.safetensors", temporal.state_dict(), header)
    return folder


def test_a_public_folder_file_and_pipeline(vae: Path, capsys: pytest.CaptureFixture) -> None:
    count = sum(p.numel() for p in Autoencoder(AutoencoderConfig((16, 32), 1, groups=8)).parameters())
    (line,) = job.run("check", vae)
    assert line.startswith(f"{vae}: AutoencoderKL, {count:,} parameters in ") and line.endswith("every one fits")
    assert line in capsys.readouterr().out
    assert "AutoencoderKL" in job.run("check", vae / "diffusion_pytorch_model.safetensors")[0]
    text, autoencoder = job.run("check", vae.parent)
    assert "CLIPTextModel, which drivesim does not read" in text and autoencoder == line


def test_our_own_files(own: Path) -> None:
    image, temporal = job.run("check", own)
    assert "stage image" in image and "stage keyframes" in temporal
    assert image.endswith("every one fits") and temporal.endswith("every one fits")
    (own / "image.safetensors").unlink()
    assert job.run("check", own / "keyframes.safetensors")[0].endswith("image.safetensors is not beside it")


def test_our_own_file_that_lost_a_tensor(own: Path) -> None:
    file = own / "image.safetensors"
    tensors, header = weights.load(file)
    del tensors["unet.conv_in.bias"]
    weights.save(file, tensors, header)
    with pytest.raises(Mistake, match="tensors missing: unet.conv_in.bias"):
        job.run("check", file)


def test_temporal_layers_of_another_image_model(own: Path) -> None:
    other = UNetConfig(channels=(32, 96), blocks=1, attention=(False, True), cross=16, groups=8)
    with torch.random.fork_rng():
        image = ImageModel(other)
    weights.save(own / "image.safetensors", image.state_dict(), weights.Header("image", config.plain(other)))
    with pytest.raises(Mistake, match="of other shapes than image.safetensors"):
        job.run("check", own / "keyframes.safetensors")


def test_convert_keeps_names_and_values(vae: Path, tmp_path: Path) -> None:
    tensors = dict(weights.read(weights.public(vae)))
    tied = torch.ones(4, 4)
    for name, content in (
        ("plain.bin", tensors),
        ("lightning.ckpt", {"state_dict": tensors, "epoch": 3}),
        ("tied.pt", {"a": tied, "b": tied, "c": tied[1]}),
    ):
        torch.save(content, tmp_path / name)
        out = tmp_path / f"{name}.safetensors"
        (line,) = job.run("convert", tmp_path / name, out)
        found = dict(weights.read([out]))
        wanted = {"a": tied, "b": tied, "c": tied[1]} if name == "tied.pt" else tensors
        assert found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)
        assert disk.sha256(out) in line
    (vae / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(tensors, vae / "diffusion_pytorch_model.bin")
    with pytest.raises(Mistake, match="a pickle") as caught:
        job.run("check", vae)
    action, file, _, out_name = str(caught.value).partition("drivesim weights ")[2].split()
    job.run(action, Path(file), Path(out_name))  # what it says is what helps
    assert job.run("check", vae)[0].endswith("every one fits")


class Attack:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_convert_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(1), "b": Attack()}, "w.ckpt")
    with pytest.raises(Mistake, match="holds more than tensors"):
        job.run("convert", Path("w.ckpt"), Path("w.safetensors"))
    assert not Path("ran").exists() and not Path("w.safetensors").exists()


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt"])
def test_check_refuses_pickles_with_the_way_to_convert_them(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_bytes(b"not looked at")
    for path in (file, tmp_path):
        with pytest.raises(Mistake, match="a pickle") as caught:
            job.run("check", path)
        assert f"drivesim weights convert {file} --out {tmp_path / 'w.safetensors'}" in str(caught.value)


def test_what_convert_refuses(vae: Path, tmp_path: Path) -> None:
    torch.save({"step": 3}, tmp_path / "empty.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04")
    out = tmp_path / "o.safetensors"
    for file, says in (
        (tmp_path / "empty.pt", "holds no tensors"),
        (tmp_path / "cut.pt", "damaged or not a weight file"),
        (vae, "holds no unet/"),
        (vae / "diffusion_pytorch_model.safetensors", "a pickle is expected"),
    ):
        with pytest.raises(Mistake, match=says):
            job.run("convert", file, out)
        assert not out.exists()
    out.write_bytes(b"mine")
    with pytest.raises(Mistake, match="is there already"):
        job.run("convert", tmp_path / "empty.pt", out)


def test_a_truncated_file_is_named(vae: Path) -> None:
    file = vae / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    for path in (file, vae, vae.parent):
        with pytest.raises(Mistake, match="not a whole safetensors file") as caught:
            job.run("check", path)
        assert str(file) in str(caught.value)
