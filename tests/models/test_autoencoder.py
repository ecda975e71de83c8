"""The autoencoder: diffusers' layout, its f, its posterior; the discriminator's losses; label tokens."""

import pytest
import torch

from drivesim.models.autoencoder import Autoencoder, AutoencoderConfig, kl, split_moments
from drivesim.models.conditions import LabelTokens, label_tensors
from drivesim.models.discriminator import PatchDiscriminator, adversarial_weight, hinge
from drivesim.scene import Labels


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("channels", "f"), [((8, 16, 16), 4), ((8, 8, 16, 16), 8)])
def test_f_and_shapes(channels: tuple[int, ...], f: int) -> None:
    config = AutoencoderConfig(channels, 1, 4, True, 8)
    with torch.random.fork_rng():
        model = Autoencoder(config)
    x = seeded(2, 3, 32, 64)
    moments = model.encode(x)
    assert config.f == f and moments.shape == (2, 8, 32 // f, 64 // f)
    assert model.decode(split_moments(moments)[0]).shape == x.shape
    with pytest.raises(ValueError, match=f"does not divide by f = {f}"):
        model.encode(x[..., :30, :])


def test_it_is_diffusers_autoencoder_by_name_and_value() -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = diffusers.AutoencoderKL(
            block_out_channels=(16, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=2,
            norm_num_groups=8,
        ).eval()
        ours = Autoencoder(AutoencoderConfig((16, 32, 32), 2, 4, True, 8)).eval()
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = seeded(2, 3, 24, 40)
    with torch.inference_mode():
        moments = ours.encode(x)
        torch.testing.assert_close(moments, theirs.encode(x).latent_dist.parameters, rtol=1e-5, atol=1e-5)
        z = split_moments(moments)[0]
        torch.testing.assert_close(ours.decode(z), theirs.decode(z).sample, rtol=1e-5, atol=1e-5)


def test_kl_of_known_gaussians() -> None:
    standard = torch.zeros(2, 8, 3, 5)
    assert kl(standard) == 0
    shifted = torch.cat([torch.full((2, 4, 3, 5), 2.0), torch.zeros(2, 4, 3, 5)], dim=1)
    assert kl(shifted) == pytest.approx(2.0)  # mean^2 / 2
    mean, deviation = split_moments(torch.cat([shifted[:, :4], torch.full((2, 4, 3, 5), 2.0)], dim=1))
    assert (mean == 2.0).all() and torch.allclose(deviation, torch.tensor(1.0).exp())


def test_discriminator_and_adaptive_weight() -> None:
    with torch.random.fork_rng():
        judge = PatchDiscriminator(width=8)
    logits = judge(seeded(2, 3, 64, 128))
    assert logits.shape == (2, 1, 6, 14)
    assert hinge(torch.full((4,), 2.0), torch.full((4,), -2.0)) == 0
    assert hinge(torch.zeros(4), torch.zeros(4)) == 1
    assert adversarial_weight(torch.full((3,), 6.0), torch.full((3,), 2.0)) == pytest.approx(3.0, rel=1e-3)


def test_unknown_labels_differ_from_none_here() -> None:
    with torch.random.fork_rng():
        labels = LabelTokens(16)
    tokens = labels(*label_tensors([Labels(), Labels(False, 0), Labels(True, 0), Labels(False, 7), Labels(None, 0)]))
    assert tokens.shape == (5, 1, 16)
    for i in range(5):
        for j in range(i):
            assert not torch.allclose(tokens[i], tokens[j])
