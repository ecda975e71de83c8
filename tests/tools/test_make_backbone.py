"""A pipeline from nothing: converts, knows each word by one token and any other text by its letters."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from drivesim import config, disk, weights
from drivesim.data.sources import load_recipe
from drivesim.errors import Mistake
from drivesim.jobs import train
from drivesim.jobs import weights as conversion
from drivesim.models.autoencoder import Autoencoder, AutoencoderConfig
from drivesim.models.text import TextEncoder

from . import loaded

CAPTIONS = ["driving by day, light traffic", "Tree red in trees: dried retreat", "a photo of sks car"]
STAGES = ("autoencoder", "image", "keyframes", "interpolation")
OWN = AutoencoderConfig(channels=(8, 16), blocks=1, attention=False, groups=4)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return loaded("make_backbone")


def autoencoder(file: Path, own: AutoencoderConfig = OWN) -> Path:
    latent = {"f": own.f, "channels": 4, "regularizer": "kl", "mean": [0.0, 0.0, 3.0, 0.0], "std": [1.0, 2.0, 4.0, 3.0]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Autoencoder(own)
    weights.save(file, model.state_dict(), weights.Header("autoencoder", config.plain(own), latent=latent))
    return file


@pytest.fixture(scope="module")
def made(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made")
    words = tool.make(CAPTIONS, autoencoder(out / "own.safetensors"), out / "pipeline")
    assert words == sorted(set(words)) and {"driving", "tree", "trees", "sks"} <= set(words)
    conversion.run("convert", out / "pipeline", out / "w")
    return out


def test_every_word_is_a_token(made: Path, tool: ModuleType) -> None:
    encoder = TextEncoder.load(made / "w" / "text")
    for caption in CAPTIONS:
        words = re.findall("[a-z]+|[,:]", caption.lower())
        ids = encoder.tokenizer(caption, add_special_tokens=False)["input_ids"]
        assert encoder.tokenizer.convert_ids_to_tokens(ids) == [f"{word}</w>" for word in words]
    assert len(encoder.tokenizer("tee", add_special_tokens=False)["input_ids"]) > 1
    assert encoder.fits("ein großes Auto 🚗") and encoder.length == tool.LENGTH


def test_words_differ_and_a_seed_is_a_model(made: Path, tool: ModuleType, tmp_path: Path) -> None:
    encoder = TextEncoder.load(made / "w" / "text")
    day, night, again = encoder.tokens(["driving by day", "driving by night", "driving by day"])
    assert torch.equal(day, again) and float((day - night)[3].abs().mean()) > 0.5  # the word that differs
    for seed, same in ((0, True), (1, False)):
        tool.make(CAPTIONS, made / "own.safetensors", tmp_path / str(seed), seed)
        conversion.run("convert", tmp_path / str(seed), tmp_path / f"w{seed}")
        files = [folder / "image.safetensors" for folder in (made / "w", tmp_path / f"w{seed}")]
        assert (disk.sha256(files[0]) == disk.sha256(files[1])) == same


def test_the_autoencoder_is_the_one_that_was_trained(made: Path) -> None:
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    ours, theirs = (Autoencoder.load(made / name) for name in ("own.safetensors", "w/autoencoder.safetensors"))
    torch.testing.assert_close(theirs.encode(pixels), ours.encode(pixels))
    latent = weights.header(made / "w" / "autoencoder.safetensors").latent
    assert latent["std"] == pytest.approx([(1 + 2 + 5 + 3) / 4] * 4)
    assert weights.header(made / "w" / "image.safetensors").schedule["target"] == "v"


def test_the_small_configurations_fit_what_is_made(tool: ModuleType, tmp_path: Path) -> None:
    """Tokens as wide as the text encoder's, an autoencoder that the layout has."""
    configs = Path(__file__).resolve().parents[2] / "configs" / "text-tiny"
    runs = {stage: config.load(train.STAGES[stage][0], configs / f"{stage}.yaml") for stage in STAGES}
    assert runs["keyframes"].temporal.cross == runs["interpolation"].temporal.cross == tool.WIDTH
    assert runs["interpolation"].whole and runs["keyframes"].context.given == (1.0, 0.0, 0.0)
    tool._vae(autoencoder(tmp_path / "own.safetensors", runs["autoencoder"].model))
    subject = config.load(train.STAGES["image"][0], configs / "subject.yaml")
    assert subject.loop.batch % 2 == 0 and not subject.subject.asked
    assert load_recipe(configs / "world.yaml").kind == "world"


def test_what_has_no_counterpart(tool: ModuleType, tmp_path: Path) -> None:
    folded = autoencoder(
        tmp_path / "folded.safetensors", AutoencoderConfig((8,), 1, attention=False, groups=4, patch=2)
    )
    with pytest.raises(Mistake, match="has no autoencoder that folds pixels"):
        tool.make(CAPTIONS, folded, tmp_path / "out")
    (tmp_path / "taken").mkdir()
    with pytest.raises(Mistake, match="is there already"):
        tool.make(CAPTIONS, folded, tmp_path / "taken")
