"""The paper's ablations [Table 7] through the same jobs: models of pixels, models trained whole, and temporal attention
alone, which sees what is given in the window itself."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim import weights
from drivesim.data import video
from drivesim.data.index import Index
from drivesim.data.latents import LatentCache
from drivesim.diffusion.loss import LossConfig
from drivesim.errors import Mistake
from drivesim.jobs import encode, generate, index, stack
from drivesim.jobs.builders.latents import KeyframesRun
from drivesim.jobs.weights import check
from drivesim.models.autoencoder import Autoencoder, AutoencoderConfig
from drivesim.models.video import ImageModel
from drivesim.rollout.course import settled
from drivesim.rollout.settings import RolloutConfig
from drivesim.scene import Condition, to_model
from drivesim.training.diffusion import ContextConfig, KeyframeStage, Latents
from tests.jobs.test_chain import FPS, RECIPE, SIZE, trained
from tests.tools import loaded
from tests.training.tiny import AUTOENCODER, LOOP, SCHEDULE, TEMPORAL, UNET, Memory

SECONDS, KEYFRAMES = 4.8, 10
ATTENTION = ["temporal.convolutions=false", "temporal.context_channels=0", "context.clean=true", "context.noise=0"]


@dataclass(frozen=True)
class Made:
    world: Path
    cache: Path
    image: Path
    whole: Path
    attention: Path
    pixels: Path
    pixel: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("ablation")
    (out / "world.yaml").write_text(RECIPE)
    world = index.run(out / "world.yaml", out / "world", seed=7)
    autoencoder = trained("autoencoder", out, f"index={world}")
    cache = encode.run(world, autoencoder, out / "cache", FPS, SIZE)
    image = trained("image", out, f"cache={cache}", f"autoencoder={autoencoder}")
    told = [f"cache={cache}", f"image={image}"]
    whole = trained("keyframes", out / "whole", *told, "whole=true")
    attention = trained("keyframes", out / "attention", *told, *ATTENTION)
    own = out / "identity" / "autoencoder.safetensors"
    loaded("make_pixels").make(own, SIZE)
    pixels = encode.run(world, own, out / "pixels", FPS, SIZE)
    shape = ["model.in_channels=3", "model.out_channels=3", "model.patch=4"]
    pixel_image = trained("image", out / "pixel", f"cache={pixels}", f"autoencoder={own}", *shape)
    pixel = trained("keyframes", out / "pixel", f"cache={pixels}", f"image={pixel_image}")
    return Made(world, cache, image, whole, attention, pixels, pixel)


def opening(made: Made) -> Path:
    return Index.open(made.world).entries[0].file


def rolled(made: Made, file: Path, out: Path, *settings: str) -> Path:
    """Several windows from a real opening."""
    told = ["sampler.steps=2", *settings]
    generate.run(None, file.parent, out, opening=f"{opening(made)}@1", minutes=SECONDS / 60, fps=FPS, settings=told)
    return out / "video.mp4"


def test_pixels_are_their_own_latents(made: Made) -> None:
    cache, entry = LatentCache.open(made.pixels), Index.open(made.world).entries[0]
    assert cache.about.shape == (6, *SIZE)
    (frames,) = [clip.frames for clip in video.stream(entry.file, fps=FPS, chunk=99)]
    model = Autoencoder.load(made.pixel.with_name("autoencoder.safetensors"))
    x = to_model(frames)
    assert not list(model.parameters()) and model.config.f == 1
    assert torch.equal(model.decode(model.encode(x)[:, :3]), x) and bool((model.encode(x)[:, 3:] == -30).all())
    with pytest.raises(ValueError, match="pixels have 3 channels"):
        AutoencoderConfig(regularizer="none")


def test_pixels_have_no_decoder_to_train(made: Made, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="nothing to train"):
        trained("autoencoder", tmp_path, f"index={made.world}", "model.regularizer=none", "model.latent=3")
    own = made.pixel.with_name("autoencoder.safetensors")
    with pytest.raises(Mistake, match="nothing is decoded"):
        trained("decoder", tmp_path, f"index={made.world}", f"autoencoder={own}")


def test_context_of_pixels_has_four_channels(made: Made) -> None:
    tensors, _ = weights.load(made.pixel, "keyframes")
    assert tensors["context.conv_in.weight"].shape[1] == (3 + 1) * 4**2  # squares of 4x4 are folded


@pytest.mark.parametrize("kind", ["pixel", "whole", "attention"])
def test_they_make_videos_from_an_opening(made: Made, kind: str, tmp_path: Path) -> None:
    file = getattr(made, kind)
    film = rolled(made, file, tmp_path / "run")
    (frames,) = [clip.frames for clip in video.stream(film, fps=FPS, chunk=99)]
    assert len(frames) == KEYFRAMES and not (frames[0] == frames[-1]).all()
    assert all("every one fits" in line for line in check(file.parent))


def test_of_a_whole_model_the_unet_is_trained_and_what_it_is_told_stays(made: Made) -> None:
    (before, _), (after, header) = weights.load(made.image, "image"), weights.load(made.whole, "keyframes")
    assert "image" not in header.parents and set(header.config) == {"model", "temporal"}
    moved = {name for name, value in before.items() if not torch.equal(value, after[f"image.{name}"])}
    assert "unet.conv_in.weight" in moved and not any(name.startswith("labels") for name in moved)
    models = stack.load(made.whole.parent, precision="32")
    assert models.keyframes.network.spatial.conv_in.weight.equal(after["image.unet.conv_in.weight"])
    assert models.image is not None and models.image.network.spatial.conv_in.weight.equal(before["unet.conv_in.weight"])


def test_attention_alone_sees_given_frames_in_the_window(made: Made) -> None:
    models = stack.load(made.attention.parent, precision="32")
    assert models.known and models.contextual and models.most_given == 2
    header = weights.header(made.attention)
    assert stack._most_given(replace(header, schedule={"known": 1}), None) == 1
    assert header.schedule["known"] == 2 and header.config["context_channels"] == 0
    assert RolloutConfig().context_noise > settled(models, RolloutConfig()).context_noise == 0, "there is none to tell"


def test_guidance_cannot_take_away_what_stands_in_the_window(made: Made, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="in the window itself"):
        rolled(made, made.attention, tmp_path / "run", "guidance.context=2")


def stage_of(context: ContextConfig, **more: bool) -> KeyframeStage:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        latents = Latents(torch.zeros(4), torch.ones(4), Autoencoder(AUTOENCODER))
        layers = replace(TEMPORAL, convolutions=False, context_channels=0) if context.clean else TEMPORAL
        return KeyframeStage(ImageModel(UNET), latents, layers, context, SCHEDULE, LossConfig(), LOOP, **more)


def test_given_frames_are_shown_as_they_are_at_the_lowest_level(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_of(ContextConfig(given=(0.0, 0.0, 1.0), noise=0.0, clean=True))
    items = [Memory("keyframes", LOOP)[n] for n in range(2)]
    batch, seen = {name: torch.stack([item[name] for item in items]) for name in items[0]}, []
    network = stage.network
    monkeypatch.setattr(type(stage), "network", property(lambda self: spy))

    def spy(x: torch.Tensor, noise: torch.Tensor, condition: Condition) -> torch.Tensor:
        seen.append((x, noise))
        return network(x, noise, condition)

    stage(batch)
    (x, noise), z = seen[0], stage._clean(batch)
    torch.testing.assert_close(x[:, :2], z[:, :2], atol=2e-3, rtol=2e-3)
    assert bool((noise[:, :2] == noise[:, :2].min()).all()) and bool((noise[:, 2:] > noise[:, :2].max()).all())


def test_pictures_keep_what_is_given() -> None:
    stage = stage_of(ContextConfig(noise=0.0, clean=True))
    items = [Memory("keyframes", LOOP)[n] for n in range(2)]
    stage({name: torch.stack([item[name] for item in items]) for name in items[0]})
    real, sampled = np.split(stage.pictures(), 2)
    assert (real[:, :2] == sampled[:, :2]).all() and (real[:, 2:] != sampled[:, 2:]).any()


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_trained(whole: bool) -> None:
    stage = stage_of(ContextConfig(), whole=whole)
    moving = {name.split(".")[0] for name, p in stage.named_parameters() if p.requires_grad}
    assert moving == ({"image", "temporal"} if whole else {"temporal"})
    assert not any(p.requires_grad for p in stage.image.labels.parameters())


def test_what_does_not_go_together() -> None:
    with pytest.raises(Mistake, match="shown to no layers beside it"):
        KeyframesRun(context=ContextConfig(noise=0.0, clean=True))
    with pytest.raises(Mistake, match="without noise"):
        ContextConfig(noise=0.2, clean=True)
