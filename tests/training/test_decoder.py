"""The decoder's temporal layers: they begin as the image decoder, an error that stands still is no flicker, and what
the discriminator over space and time sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from drivesim.models.autoencoder import Autoencoder
from drivesim.models.decoder import DecoderConfig, DecoderLayers, VideoDecoder
from drivesim.models.discriminator import VideoPatchDiscriminator, adversarial_weight
from drivesim.training.autoencoder import ReconstructionLoss
from drivesim.training.decoder import DecoderStage, flicker

from .tiny import AUTOENCODER, LOOP, Memory, stage


def clips() -> Tensor:
    memory = Memory("decoder", LOOP)
    return torch.stack([memory[n]["video"] for n in range(2)])


def test_training_begins_at_the_image_decoder() -> None:
    made = stage("decoder", LOOP)
    assert isinstance(made, DecoderStage)
    made.shown = clips()
    grid = made.pictures()
    assert grid.shape == (6, 6, 32, 32, 3)
    assert np.abs(grid[2:4].astype(int) - grid[4:]).max() <= 1 and not np.array_equal(grid[:2], grid[2:4])
    for parameter in made.temporal.parameters():
        parameter.data += 0.1
    assert np.abs(made.pictures()[2:4].astype(int) - made.pictures()[4:]).max() > 1


def test_flicker_is_error_that_changes() -> None:
    x = clips()
    assert float(flicker(x, x + 0.25)) == pytest.approx(0.0, abs=1e-6)
    turns = torch.tensor([1.0, -1.0] * 3)[:, None, None, None]
    assert float(flicker(x, x + 0.25 * turns)) == pytest.approx(0.5)


@pytest.mark.parametrize("config", [DecoderConfig(), DecoderConfig(last=True)])
def test_the_adaptive_weight_has_a_gradient_to_compare(config: DecoderConfig) -> None:
    """At the first step too, where the weight that it is measured at is zero."""
    with torch.random.fork_rng(devices=[]):
        autoencoder = Autoencoder(AUTOENCODER).requires_grad_(False)
        layers = DecoderLayers(config, autoencoder)
    x = clips()
    y = VideoDecoder(autoencoder, layers).decode(torch.randn(2, 6, 4, 8, 8))
    nll, g = F.l1_loss(y, x), -VideoPatchDiscriminator(8)(y).mean()
    of_nll, of_g = (torch.autograd.grad(z, layers.last_weight, retain_graph=True)[0] for z in (nll, g))
    weight = float(adversarial_weight(of_nll, of_g))
    assert of_nll.norm() > 0 and weight == pytest.approx(float(of_nll.norm() / (of_g.norm() + 1e-4)))


def test_the_discriminator_strides_in_space_and_sees_neighbouring_frames() -> None:
    critic, x = VideoPatchDiscriminator(8).eval(), torch.randn(1, 12, 3, 64, 128)
    logits = critic(x)
    assert logits.shape == (1, 12, 1, 6, 14)
    other = x.clone()
    other[:, 2] += 1
    no_norms = [layer for layer in critic.layers if not isinstance(layer, torch.nn.GroupNorm)]
    critic.layers = torch.nn.Sequential(*no_norms)  # those see the whole clip
    moved = (critic(other) - critic(x)).abs().amax(dim=(0, 2, 3, 4))
    assert torch.equal(moved > 1e-6, torch.arange(12) <= 2 + 5)


def thin(teacher: DecoderLayers | None = None) -> DecoderStage:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder = Autoencoder(AUTOENCODER)
        config, loss = DecoderConfig(kernel=1, channels=(8, 8)), ReconstructionLoss(perceptual=0, adversarial=0)
        return DecoderStage(autoencoder, config, loss, LOOP, teacher=teacher)


def test_a_thin_decoder_has_spatial_layers_of_its_own_which_learn() -> None:
    made = thin()
    whole = DecoderLayers(DecoderConfig(kernel=1), made.autoencoder)
    count = sum(p.numel() for p in made.autoencoder.decoder.parameters())
    assert sum(p.numel() for p in made.trained.parameters()) < count + sum(p.numel() for p in whole.parameters())
    before, frozen = made({"video": clips()}), [p.clone() for p in made.autoencoder.parameters()]
    assert before.y.shape == before.x.shape
    optimiser = torch.optim.Adam(made.trained.parameters(), 1e-2)
    for _ in range(20):
        optimiser.zero_grad()
        after = made({"video": clips()})
        F.l1_loss(after.y, after.x).backward()
        optimiser.step()
    assert F.l1_loss(after.y, after.x) < 0.9 * F.l1_loss(before.y, before.x)
    assert all(torch.equal(*pair) for pair in zip(frozen, made.autoencoder.parameters(), strict=True))
    assert VideoDecoder(made.autoencoder, made.temporal).decode(torch.randn(1, 3, 4, 4, 8)).shape == (1, 3, 3, 16, 32)


def test_its_teachers_pictures_stand_in_the_place_of_real_ones() -> None:
    teacher = DecoderLayers(DecoderConfig(last=True), thin().autoencoder)
    torch.nn.init.constant_(teacher.time_conv_out.bias, 0.5)
    made = thin(teacher)
    wanted = VideoDecoder(made.autoencoder, teacher).decode(made._encoded(clips()))
    assert torch.equal(made({"video": clips()}).x, wanted) and not torch.equal(wanted, clips())
    assert not any("teacher" in name for name in made.state_dict())


@pytest.mark.parametrize("channels", [(8, 8, 8, 8), (6, 8)])
def test_a_thin_decoder_that_does_not_fit(channels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at most 3 levels, each a multiple of 4"):
        DecoderLayers(DecoderConfig(channels=channels), Autoencoder(AUTOENCODER))


def test_an_autoencoder_with_a_codebook_gets_its_layers_too() -> None:
    with torch.random.fork_rng(devices=[]):
        autoencoder = Autoencoder(replace(AUTOENCODER, regularizer="vq", codebook=64))
        made = DecoderStage(autoencoder, DecoderConfig(), ReconstructionLoss(perceptual=0, adversarial=0), LOOP)
    x = clips()
    z = made._encoded(x)
    y = VideoDecoder(made.autoencoder, made.temporal).decode(z)
    (y - x).abs().mean().backward()
    assert made.temporal.last_weight.grad is not None and made.temporal.last_weight.grad.abs().sum() > 0
    assert made.autoencoder.quantize.embedding.weight.grad is None
    torch.testing.assert_close(y, VideoDecoder(autoencoder).decode(z))
