"""The decoder with temporal layers, its convolutions over time, and the codebook."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from drivesim.models.autoencoder import CERTAIN, Autoencoder, AutoencoderConfig, Codebook, split_moments
from drivesim.models.decoder import DecoderConfig, DecoderLayers, VideoDecoder
from drivesim.models.temporal import over_time, run_over_time

SMALL = AutoencoderConfig(channels=(8, 16), blocks=1, groups=4)
VQ = replace(SMALL, regularizer="vq", codebook=32, level_attention=(False, True))


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(config: DecoderConfig, autoencoder: AutoencoderConfig = SMALL, stir: bool = True) -> VideoDecoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = Autoencoder(autoencoder)
        layers = DecoderLayers(config, image)
        for parameter in layers.parameters():
            parameter.data += 0.2 * stir * torch.randn(parameter.shape)
    return VideoDecoder(image, layers).eval().requires_grad_(False)


@pytest.mark.parametrize("config", [DecoderConfig(), DecoderConfig(kernel=1, norm="clip", last=True)])
def test_it_starts_as_the_image_decoder_and_switched_off_is_it(config: DecoderConfig) -> None:
    z = seeded(2, 3, 4, 5, 6)
    start, trained = made(config, stir=False), made(config)
    frames = start.autoencoder.decode(z.flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(start.decode(z), frames)
    assert not torch.allclose(trained.decode(z), frames, atol=1e-3)
    trained.temporal = None
    assert torch.equal(trained.decode(z), frames)


def test_any_number_of_frames_and_chunks_agree_inside() -> None:
    """Five blocks of two convolutions see ten frames to either side; norms are per frame."""
    model = made(DecoderConfig())
    z = seeded(1, 26, 4, 3, 4)
    whole, chunk = model.decode(z), model.decode(z[:, :16])
    blocks = sum(name.endswith("mix_factor") for name, _ in model.temporal.named_parameters())  # type: ignore[union-attr]
    inside = 16 - 2 * blocks
    assert inside > 0
    torch.testing.assert_close(whole[:, :inside], chunk[:, :inside], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole[:, 15], chunk[:, 15], atol=1e-3)


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_over_time_are_conv3d(kernel: int) -> None:
    with torch.random.fork_rng():
        conv = over_time(5, 7, kernel).requires_grad_(False)
    x = seeded(6, 5, 4, 6)
    weight = conv.weight[..., None]
    if kernel == 3:
        weight = rearrange(conv.weight, "o (t c) h w -> o c t h w", t=3)
    clips, side = rearrange(x, "(b t) c h w -> b c t h w", t=3), kernel // 2
    wanted = F.conv3d(clips, weight, conv.bias, padding=(1, side, side))
    torch.testing.assert_close(run_over_time(conv, x, 3), rearrange(wanted, "b c t h w -> (b t) c h w"))


def test_the_codebook_finds_the_nearest_entry() -> None:
    with torch.random.fork_rng():
        book = Codebook(3, 2)
    book.embedding.weight.data = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    z = rearrange(torch.tensor([[0.2, 0.1], [0.9, -3.0], [0.1, 1.5], [0.4, 0.0]]), "(h w) c -> 1 c h w", h=2)
    assert book.nearest(z).flatten().tolist() == [0, 1, 2, 0]
    z.requires_grad_(True)
    out = book(z)
    assert torch.equal(out[0, :, 1, 0], torch.tensor([0.0, 2.0]))
    out.square().sum().backward()
    assert z.grad is not None and torch.equal(z.grad, 2 * out.detach())  # straight through


def test_a_codebook_is_a_posterior_without_variance() -> None:
    with torch.random.fork_rng():
        model = Autoencoder(VQ).requires_grad_(False)
    model.quantize.embedding.weight.data = 3 * seeded(32, 4)
    moments = model.encode(seeded(2, 3, 8, 12))
    z, deviation = split_moments(moments)
    assert moments.shape == (2, 8, 4, 6) and (moments[:, 4:] == CERTAIN).all() and float(deviation.max()) < 1e-6
    entries = model.quantize.entries(z)
    torch.testing.assert_close(model.decode(z), model.decode(entries))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.quantize.nearest(z), model.quantize.nearest(entries))


def test_the_codebooks_loss_pulls_both_ways() -> None:
    with torch.random.fork_rng():
        model = Autoencoder(VQ)
    z = seeded(2, 4, 3, 5).requires_grad_(True)
    loss = model.codebook_loss(z)
    wanted = (1 + VQ.commitment) * (model.quantize.entries(z) - z).square().mean()
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    assert z.grad is not None and z.grad.abs().sum() > 0
    assert model.quantize.embedding.weight.grad is not None and model.quantize.embedding.weight.grad.abs().sum() > 0


def test_it_is_diffusers_vqmodel_by_name_and_value() -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = diffusers.VQModel(
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
            layers_per_block=2,
            latent_channels=4,
            num_vq_embeddings=64,
            norm_num_groups=8,
        ).eval()
        config = AutoencoderConfig(
            (16, 32), 2, 4, True, 8, level_attention=(False, True), regularizer="vq", codebook=64
        )
        ours = Autoencoder(config).eval()
    theirs.quantize.embedding.weight.data = seeded(64, 4)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.inference_mode():
        for size in ((8, 12), (14, 26)):
            x = seeded(2, 3, *size)
            z = split_moments(ours.encode(x))[0]
            torch.testing.assert_close(z, theirs.encode(x).latents, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(ours.decode(z), theirs.decode(z).sample, rtol=1e-5, atol=1e-5)
