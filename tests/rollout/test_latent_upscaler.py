"""The upscaler of latents: diffusers' own pipeline is its peer; then what a rollout makes of it."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from drivesim import config, disk
from drivesim import weights as files
from drivesim.diffusion.tiles import blended
from drivesim.errors import Mistake
from drivesim.jobs import stack as loading
from drivesim.jobs import weights
from drivesim.jobs.calling import Calling
from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.rollout.course import course
from drivesim.rollout.sample import NoiseSource, Told
from drivesim.rollout.scenario import Scenario
from drivesim.rollout.settings import GuidanceConfig, RolloutConfig, SamplerConfig, UpsampleConfig
from drivesim.rollout.stack import Stack
from drivesim.rollout.upscaler import Upscaler
from drivesim.scene import Labels
from tests.models import public
from tests.rollout import mock

LEVEL, SMALL = 45, (16, 24)
TOLD = Told(Labels(prompt="a cat"))


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("upscaler")
    pipe = public.upscaler(folder / "x4")
    pipe.set_progress_bar_config(disable=True)
    weights.run("convert", folder / "x4", folder / "w")
    return folder / "w", pipe


def temporal(folder: Path, seed: int = 3) -> Path:
    """Layers that do something, for the upscaler in ``folder``."""
    file = folder / "upsampler.safetensors"
    image, header = loading.load_image(file, "upsampler")
    own = TemporalConfig(frames=4, alpha="scalar", depth=1, heads=2, cross=16, context_channels=8, context="low")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = TemporalLayers(own, image.unet)
        for parameter in layers.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    said = files.Header(
        "upsampler-temporal", config.plain(own), parents={"upsampler": disk.sha256(file)}, interface=header.interface,
        frames=4, fps="2", latent=header.latent, schedule=header.schedule, labels=["text"], alpha="scalar",
    )  # fmt: skip
    files.save(folder / "upsampler-temporal.safetensors", layers.state_dict(), said)
    return folder / "upsampler-temporal.safetensors"


def models(folder: Path, **changes: object) -> Stack:
    names = ("upsampler", "upsampler-temporal")
    found = {name: folder / f"{name}.safetensors" for name in names if (folder / f"{name}.safetensors").is_file()}
    made = loading._upsampler(found, SMALL, Calling(torch.device("cpu"), "32"))
    return mock.stack(size=SMALL, upsampler=made, **changes)


@dataclass(frozen=True)
class Given(NoiseSource):
    """Noise from outside."""

    low: Tensor | None = None
    start: Tensor | None = None

    def __call__(self, stage, frames, step, shape, shared=0.0):
        given = self.low if stage == "low" else self.start
        assert given is not None and tuple(given.shape[1:]) == shape
        return given[None]


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_it_is_diffusers_pipeline(pipe, scale: float) -> None:
    folder, theirs = pipe
    low, start = torch.rand(1, 3, *SMALL), torch.randn(1, 4, *SMALL)
    wanted = theirs(
        "a cat", image=low, num_inference_steps=5, guidance_scale=scale, noise_level=LEVEL, negative_prompt="",
        latents=start, generator=torch.Generator().manual_seed(8), output_type="latent",
    ).images  # fmt: skip
    added = torch.randn(1, 3, *SMALL, generator=torch.Generator().manual_seed(8))
    settings = UpsampleConfig(
        sampler=SamplerConfig(steps=5, spacing="leading", offset=1), noise=LEVEL, guidance=GuidanceConfig(labels=scale)
    )
    upscale = Upscaler(models(folder), settings, Given(0, "s", low=added, start=start), TOLD, 16)
    found = upscale.sampled(0, low * 2 - 1, torch.empty(0))
    error = float((found - wanted).norm() / wanted.norm())
    print("ERR", error)
    assert error < 1e-4
    pixels = theirs.vae.decode(wanted / theirs.vae.config.scaling_factor).sample.detach()
    whole = upscale(0, low * 2 - 1, torch.empty(0, 3, 1, 1))
    torch.testing.assert_close(whole, pixels.clamp(-1, 1), rtol=1e-3, atol=1e-4)
    assert whole.shape == (1, 3, 64, 96)


def test_the_default_noise_is_the_papers_and_words_are_told(pipe) -> None:
    low, noise = torch.rand(1, 3, *SMALL) * 2 - 1, NoiseSource(0, "s")
    few = UpsampleConfig(sampler=SamplerConfig(steps=2))
    own = models(pipe[0])
    upscale = Upscaler(own, few, noise, TOLD, 16)
    assert upscale.level == 30
    found = upscale.sampled(0, low, torch.empty(0))
    same = Upscaler(own, replace(few, noise=30), noise, TOLD, 16).sampled(0, low, torch.empty(0))
    other = Upscaler(own, few, noise, Told(Labels(prompt="a dog")), 16).sampled(0, low, torch.empty(0))
    silent = Upscaler(own, few, noise, Told(), 16).sampled(0, low, torch.empty(0))
    empty = Upscaler(own, few, noise, Told(Labels(prompt="")), 16).sampled(0, low, torch.empty(0))
    assert torch.equal(found, same) and torch.equal(silent, empty) and not torch.equal(found, silent)
    assert not torch.equal(found, other)


def test_windows_of_frames_that_know_of_each_other(pipe, tmp_path: Path) -> None:
    shutil.copytree(pipe[0], tmp_path / "w")
    temporal(tmp_path / "w")
    own, noise = models(tmp_path / "w"), NoiseSource(0, "s")
    assert own.upsampler is not None and own.upsampler.frames == 4
    settings = UpsampleConfig(sampler=SamplerConfig(steps=2))
    low = torch.rand(4, 3, *SMALL) * 2 - 1
    nothing = torch.empty(0, 3, 1, 1)
    together = Upscaler(own, settings, noise, TOLD, 16)(0, low, nothing)
    alone = Upscaler(models(pipe[0]), settings, noise, TOLD, 16)
    # without the layers every frame is what it is by itself
    each = torch.cat([alone(n, low[n : n + 1], nothing) for n in range(4)])
    torch.testing.assert_close(alone(0, low, nothing), each, rtol=1e-4, atol=1e-4)
    assert together.shape == (4, 3, 64, 96) and not torch.allclose(together, each, atol=1e-3)
    changed = low.clone()
    changed[3] = -changed[3]
    assert not torch.equal(Upscaler(own, settings, noise, TOLD, 16)(0, changed, nothing)[0], together[0])
    known = torch.rand(1, 3, 64, 96)
    first = Upscaler(own, settings, noise, TOLD, 16)(0, low, known)
    assert torch.equal(first[:1], known) and not torch.equal(first[1:], together[1:])


def test_decoding_in_tiles_is_exact_where_a_decoder_sees_no_further() -> None:
    """A decoder that repeats every cell: whatever the tiles, it is the same frame."""
    seen: list[tuple[int, ...]] = []

    def decode(z: Tensor) -> Tensor:
        seen.append(tuple(z.shape))
        return z[:, :3].repeat_interleave(4, 2).repeat_interleave(4, 3)

    z = torch.randn(1, 4, 18, 31)
    made = blended(lambda cut, _: decode(cut), z, (8, 12), 3, channels=3, scale=4)
    torch.testing.assert_close(made, decode(z))
    assert max(shape[-2] for shape in seen[:-1]) == 8 and max(shape[-1] for shape in seen[:-1]) == 12


def test_tiles_are_cut_in_latents(pipe) -> None:
    low, noise, nothing = torch.rand(1, 3, *SMALL) * 2 - 1, NoiseSource(0, "s"), torch.empty(0, 3, 1, 1)
    settings = UpsampleConfig(sampler=SamplerConfig(steps=2), tile=(64, 96), tile_overlap=16)
    own = models(pipe[0])
    whole = Upscaler(own, replace(settings, tile=None), noise, TOLD, 16)(0, low, nothing)
    assert torch.equal(Upscaler(own, settings, noise, TOLD, 16)(0, low, nothing), whole), "one tile is the frame"
    cut = Upscaler(own, replace(settings, tile=(48, 64)), noise, TOLD, 16)(0, low, nothing)
    assert cut.shape == whole.shape and not torch.equal(cut, whole)


def test_mistakes_by_name(pipe, tmp_path: Path) -> None:
    own = models(pipe[0])
    scenario = Scenario(seconds=2)
    assert course(own, scenario, RolloutConfig()).size == (64, 96)
    with pytest.raises(Mistake, match=r"(?s)multiple of 4 pixels, not 62x64.*upsample\.tile=\[64,64\]"):
        course(own, scenario, RolloutConfig(upsample=UpsampleConfig(tile=(62, 64), tile_overlap=16)))
    with pytest.raises(Mistake, match="learned from at most 350"):
        course(own, scenario, RolloutConfig(upsample=UpsampleConfig(noise=351)))
    shutil.copytree(pipe[0], tmp_path / "w")
    file = tmp_path / "w" / "upsampler.safetensors"
    layers = temporal(tmp_path / "w")
    tensors, header = files.load(layers)
    files.save(layers, tensors, replace(header, interface="0" * 16))
    with pytest.raises(Mistake, match="temporal layers of an image model of other shapes"):
        models(tmp_path / "w")
    layers.unlink()
    tensors, header = files.load(file)
    files.save(file, tensors, replace(header, latent={**header.latent, "factor": 2}))
    with pytest.raises(Mistake, match="enlarges 2 times on latents 4 times smaller"):
        models(tmp_path / "w")
    shutil.rmtree(tmp_path / "w" / "upsampler-text")
    with pytest.raises(Mistake, match="upsampler-text is not beside it"):
        models(tmp_path / "w")
