"""The paper's models: every configuration builds, and has as many parameters as the paper says."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from drivesim import config, yamlfile
from drivesim.diffusion.noise import Schedule, ScheduleConfig
from drivesim.jobs import train
from drivesim.models import pretrained
from drivesim.models.autoencoder import Autoencoder, AutoencoderConfig
from drivesim.models.decoder import DecoderConfig, DecoderLayers, VideoDecoder
from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.unet import UNet, UNetConfig
from drivesim.models.video import ImageModel, VideoUNet
from drivesim.scene import Condition

from .public import SD1, SD2, SVD, SVD_VAE, VAE, X4, X4_VAE

CONFIGS = Path(__file__).parents[2] / "configs"
PAPER = ("driving", "text", "bike", "ablation")
FILES = [file for folder in PAPER for file in sorted((CONFIGS / folder).glob("*.yaml"))]
# Which image model a file's temporal layers stand in, where it does not say so itself.
IMAGE = {
    "driving/keyframes": "driving/image",
    "driving/interpolation": "driving/image",
    "driving/upsampler-temporal": "driving/upsampler",
    "bike/keyframes": "bike/image",
    "bike/interpolation": "bike/image",
    "text/keyframes-sd1": "text/image-sd1",
    "text/keyframes-sd2": "text/image-sd2",
    "text/interpolation": "text/image-sd1",
    "text/upsampler-temporal": "text/upsampler",
    "ablation/keyframes": "ablation/image",
    "ablation/attention-only": "ablation/image",
    "ablation/pixel-keyframes": "ablation/pixel-image",
}
AUTOENCODER = {"driving/decoder": "driving/autoencoder"}  # likewise, the autoencoder that a decoder's layers stand in
SUBJECT = "subject"  # how a file is called that trains an image model on a few pictures
NETWORKS_ALONE = "# Networks alone"  # how a file begins that no stage trains
KINDS = {
    "model": UNetConfig,
    "temporal": TemporalConfig,
    "autoencoder": AutoencoderConfig,
    "decoder": DecoderConfig,
    "schedule": ScheduleConfig,
}


def name_of(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


def stage_of(file: Path) -> str | None:
    """The stage that trains a file; None where it holds networks alone, for public weights or for stages to come."""
    if file.read_text("utf-8").startswith(NETWORKS_ALONE):
        return None
    if file.stem == SUBJECT:
        return "image"
    words = [file.stem, *file.stem.split("-")]
    return next((word for word in words if word in train.STAGES), "keyframes")  # attention-only is an ablation of those


@dataclass
class Built:
    """The networks of one file, on the meta device."""

    model: UNet | None = None
    temporal: TemporalLayers | None = None
    autoencoder: Autoencoder | None = None
    decoder: DecoderLayers | None = None


def parts(name: str) -> dict[str, Any]:
    """The configurations in a file, as the stage or ``config.build`` makes them."""
    file = CONFIGS / f"{name}.yaml"
    stage = stage_of(file)
    if stage is None:
        values = yamlfile.read(file)
        assert set(values) <= set(KINDS)
        return {key: config.build(KINDS[key], value, file) for key, value in values.items()}
    run: Any = config.load(train.STAGES[stage][0], file)
    return {"autoencoder": run.model} if stage == "autoencoder" else dict(vars(run))


def built(name: str) -> Built:
    found = parts(name)
    model = found.get("model") or (parts(IMAGE[name])["model"] if name in IMAGE else None)
    if found.get("whole"):
        model = replace(model, in_channels=2 * model.out_channels + 1, joined=("context", "mask"))
    made = Built()
    with torch.device("meta"):
        if model is not None:
            made.model = UNet(model)
        if "temporal" in found:
            assert made.model is not None
            made.temporal = TemporalLayers(found["temporal"], made.model)
        autoencoder = parts(AUTOENCODER[name])["autoencoder"] if name in AUTOENCODER else found.get("autoencoder")
        if isinstance(autoencoder, AutoencoderConfig):
            made.autoencoder = Autoencoder(autoencoder)
        if "decoder" in found:
            assert made.autoencoder is not None
            made.decoder = DecoderLayers(found["decoder"], made.autoencoder)
    return made


def count(module: nn.Module | None) -> float:
    """Parameters in millions."""
    assert module is not None
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_there_is_a_file_for_every_model() -> None:
    assert len(FILES) == 28


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_configuration_builds_and_runs_on_the_meta_device(file: Path) -> None:
    """Shapes go all the way through: what the file says is a network that can be called."""
    made = built(name_of(file))
    with torch.device("meta"), torch.no_grad():
        if made.model is not None:
            run_unet(made.model, made.temporal)
        if made.autoencoder is not None:
            z = made.autoencoder.encode(torch.zeros(1, 3, 64, 128))[:, : made.autoencoder.config.latent]
            side = made.autoencoder.config.f
            assert z.shape[-2:] == (64 // side, 128 // side)
            decoded = VideoDecoder(made.autoencoder, made.decoder).decode(z[:, None].expand(1, 6, -1, -1, -1))
            assert decoded.shape == (1, 6, 3, 64, 128)
    schedule = parts(name_of(file)).get("schedule")
    assert schedule is None or len(Schedule(schedule).sigmas) in (2, schedule.steps)


def run_unet(model: UNet, temporal: TemporalLayers | None) -> None:
    own, t = model.config, temporal.config.frames if temporal else 1
    x = torch.zeros(1, t, own.out_channels, 16, 32)
    low = torch.zeros(1, t, own.in_channels - own.out_channels, 16, 32)
    condition = Condition(
        tokens=torch.zeros(1, 2, own.cross) if own.cross else None,
        context=x,
        context_mask=torch.zeros(1, t),
        context_level=torch.zeros(1, t),
        given=torch.zeros(1, dtype=torch.long),
        low=low if "low" in own.joined else None,
        low_level=torch.zeros(1, dtype=torch.long) if own.classes else None,
        pooled=torch.zeros(1, own.added) if own.added else None,
        fps=torch.zeros(1),
    )
    assert VideoUNet(model, temporal)(x, torch.zeros(1, t), condition).shape == x.shape


@pytest.mark.parametrize("file", [f for f in FILES if stage_of(f)], ids=name_of)
def test_train_takes_the_files_of_stages_that_exist(file: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    stage = stage_of(file)
    assert stage is not None
    train.run(stage, file, [], tmp_path / "o", print_config=True)
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert config.load(train.STAGES[stage][0], tmp_path / "printed.yaml") == config.load(train.STAGES[stage][0], file)


@pytest.mark.parametrize(
    ("name", "part", "paper", "ours"),
    [  # the paper rounds some of its numbers and cuts others
        ("text/autoencoder", "autoencoder", 84, 83.653863),
        ("text/image-sd1", "model", 860, 859.520964),
        ("text/keyframes-sd1", "temporal", 649, 649.687078),
        ("text/image-sd2", "model", 865, 865.910724),
        ("text/keyframes-sd2", "temporal", 656, 656.076838),
        ("text/autoencoder-x4", "autoencoder", 55, 55.325927),
        ("text/upsampler", "model", 473, 473.398020),
        ("text/upsampler-temporal", "temporal", 449, 448.753318),
    ],
)
def test_parameters_are_the_papers(name: str, part: str, paper: int, ours: float) -> None:
    millions = count(getattr(built(name), part))
    assert millions == pytest.approx(ours, abs=1e-9) and abs(millions - paper) < 1


def test_text_interpolation_has_all_1509_million() -> None:
    made = built("text/interpolation")
    assert round(count(made.model) + count(made.temporal)) == 1509


def test_attention_only_has_about_equal_parameters() -> None:
    ours, other = count(built("ablation/keyframes").temporal), count(built("ablation/attention-only").temporal)
    assert 0.75 < ours / other < 1.34


@pytest.mark.parametrize(
    ("name", "part", "public"),
    [
        ("text/image-sd1", "model", SD1),
        ("text/image-sd2", "model", SD2),
        ("text/upsampler", "model", X4),
        ("text/autoencoder", "autoencoder", VAE),
        ("text/autoencoder-x4", "autoencoder", X4_VAE),
    ],
)
def test_the_public_models_are_our_configurations(name: str, part: str, public: dict[str, Any]) -> None:
    read = pretrained.autoencoder_config if part == "autoencoder" else pretrained.unet_config
    own, theirs = parts(name)[part], read(public)
    if getattr(own, "heads", None):  # then the channels of a head are not read
        theirs = replace(theirs, head_channels=own.head_channels)
    if part == "model":  # a public U-Net does not say whose tokens it is told
        theirs = replace(theirs, text=own.text)
    assert theirs == own


def test_svd_is_our_configuration() -> None:
    own = parts("text/svd")
    assert pretrained.video_config(SVD) == (own["model"], own["temporal"])
    autoencoder, decoder = pretrained.decoder_config(SVD_VAE)
    assert autoencoder == own["autoencoder"] and decoder == own["decoder"]


def test_the_driving_stack_is_one_family() -> None:
    """Interpolation and prediction differ in length and in what they are told alone; the label tokens fit the image
    model's cross-attention; the decoder is trained on frames of the autoencoder's size."""
    keyframes, interpolation = (parts(f"driving/{stage}")["temporal"] for stage in ("keyframes", "interpolation"))
    assert replace(keyframes, frames=5, cross=512, told=("rate",)) == interpolation
    sizes = {
        stage: yamlfile.read(CONFIGS / "driving" / f"{stage}.yaml")["size"] for stage in ("autoencoder", "decoder")
    }
    assert sizes["autoencoder"] == sizes["decoder"]
    with torch.device("meta"):
        image = ImageModel(parts("driving/image")["model"])
    assert image.labels is not None
    assert image.labels.night.embedding_dim == parts("driving/image")["model"].cross
