"""Pixels folded into channels: 1 changes nothing, more meets the temporal layers' context, and sizes are checked."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.unet import Fold, UNet, UNetConfig
from drivesim.models.video import VideoUNet, interface
from drivesim.randomness import normal
from drivesim.scene import Condition

PIXELS = UNetConfig(
    channels=(16, 32), blocks=1, attention=(False, True), cross=None, groups=4, in_channels=6, out_channels=3,
    joined=("low",), classes=5, patch=4,
)  # fmt: skip
TEMPORAL = TemporalConfig(frames=2, depth=1, head_channels=8, context_channels=8, context="low")


class Unfolded(UNet):
    """The forward pass as it was before there were patches."""

    def forward(self, x: Tensor, noise: Tensor, *_: object) -> Tensor:  # type: ignore[override]
        emb, skips = self.embed(noise), [self.conv_in(x)]
        x = skips[0]
        for stage in self.down_blocks:
            x = stage.resnets[0](x, emb)  # type: ignore[union-attr,index,operator]
            skips.append(x)
            for down in getattr(stage, "downsamplers", ()):
                x = down(x)
                skips.append(x)
        x = self.mid_block.resnets[1](self.mid_block.resnets[0](x, emb), emb)
        for stage in self.up_blocks:
            for resnet in stage.resnets:  # type: ignore[union-attr]
                x = resnet(torch.cat([x, skips.pop()], dim=1), emb)
            for up in getattr(stage, "upsamplers", ()):
                x = up(x, skips[-1].shape[-2:])
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def test_patch_1_is_the_network_without_bit_for_bit_and_by_name() -> None:
    config = UNetConfig(channels=(16, 32), blocks=1, attention=(False, False), cross=None, groups=4)
    ours, before = UNet(config).eval(), Unfolded(config).eval()
    assert not [name for name in ours.state_dict() if "fold" in name]
    before.load_state_dict(ours.state_dict(), strict=True)
    x, noise = normal(("x",), (2, 4, 7, 10)), torch.tensor([3.0, 700.0])
    with torch.inference_mode():
        assert torch.equal(ours(x, noise), before(x, noise))


def test_patches_change_the_two_outer_convolutions_and_add_a_way_around() -> None:
    plain, folded = UNet(replace(PIXELS, patch=1)).state_dict(), UNet(PIXELS).state_dict()
    assert folded.keys() - plain.keys() == {"around.weight", "around.bias"} and not plain.keys() - folded.keys()
    other = {name for name in plain if plain[name].shape != folded[name].shape}
    assert other == {"conv_in.weight", "conv_out.weight", "conv_out.bias"}
    assert folded["conv_in.weight"].shape[1] == 6 * 16 and folded["conv_out.weight"].shape[0] == 3 * 16


def test_what_is_folded_is_unfolded_in_its_place() -> None:
    net = UNet(PIXELS)
    x = normal(("x",), (2, 6, 12, 20))
    assert torch.equal(net.unfold(net.fold(x)), x)
    assert torch.equal(net.fold(x)[1, 2 * 16 + 4 * 1 + 3, 2, 4], x[1, 2, 4 * 2 + 1, 4 * 4 + 3])


def test_pixels_that_go_around_the_levels_stay_as_they_are() -> None:
    """With the levels silent, the output is a mixture of the pixels beneath, by what the time embedding gives."""
    net = UNet(PIXELS).eval()
    for parameter in net.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    x, noise, low_level = normal(("x",), (2, 6, 12, 20)), torch.tensor([10.0, 900.0]), torch.tensor([0, 4])
    with torch.inference_mode():
        assert not net(x, noise, low_level=low_level).any()  # at the start, nothing does
    net.around.bias.data = torch.arange(18.0)
    net.around.weight.data = 0.1 * normal(("around",), (18, net.config.embedding))
    with torch.inference_mode():
        mixed = net.around(F.silu(net.embed(noise, None, low_level))).reshape(2, 3, 6)
        wanted = torch.stack([torch.tensordot(mixed[n], x[n], dims=1) for n in range(2)])
        torch.testing.assert_close(net(x, noise, low_level=low_level), wanted)


def test_a_size_that_does_not_divide_is_told() -> None:
    told = "must divide by patch = 4, the side of the squares that this network folds: 10x16 does not"
    with pytest.raises(ValueError, match=told):
        Fold(4)(torch.zeros(1, 3, 10, 16))
    x = torch.zeros(1, 2, 3, 10, 16)
    condition = Condition(low=x, low_level=torch.zeros(1, dtype=torch.long))
    spatial = UNet(PIXELS)
    for temporal in (None, TemporalLayers(TEMPORAL, spatial)):
        with pytest.raises(ValueError, match=told):
            VideoUNet(spatial, temporal)(x, torch.zeros(1, 2), condition)
    with pytest.raises(ValueError, match="at least 1"):
        replace(PIXELS, patch=0)


@pytest.mark.parametrize("size", [(16, 24), (12, 20)])  # the second gives odd levels
def test_low_resolution_context_meets_the_folded_levels(size: tuple[int, int]) -> None:
    spatial = UNet(PIXELS)
    layers = TemporalLayers(TEMPORAL, spatial)
    for parameter in layers.parameters():  # away from the zeros that they start at
        parameter.data += 0.1 * normal(("stir", parameter.numel()), tuple(parameter.shape))
    x, low = normal(("x",), (1, 2, 3, *size)), normal(("low",), (1, 2, 3, *size))
    told = Condition(low=low, low_level=torch.tensor([3]))
    features = layers.features(x, torch.zeros(1, 2), None, told)
    assert features is not None
    assert [f.shape[-2:] for f in features] == [(size[0] // 4, size[1] // 4), (-(-size[0] // 8), -(-size[1] // 8))]
    net = VideoUNet(spatial, layers).eval()
    with torch.inference_mode():
        assert net(x, torch.zeros(1, 2), told).shape == x.shape
        # the context reaches the frame beside: low frame 1 changes what comes out of frame 0
        moved = Condition(low=torch.stack([low[:, 0], -low[:, 1]], dim=1), low_level=torch.tensor([3]))
        assert not torch.allclose(net(x, torch.zeros(1, 2), told)[:, 0], net(x, torch.zeros(1, 2), moved)[:, 0])


def test_given_latents_are_folded_too() -> None:
    spatial = UNet(UNetConfig(channels=(16, 32), blocks=1, attention=(False, False), cross=None, groups=4, patch=2))
    layers = TemporalLayers(TemporalConfig(frames=2, depth=1, context_channels=8), spatial)
    x = torch.zeros(1, 2, 4, 8, 12)
    condition = Condition(context=x, context_mask=torch.ones(1, 2), context_level=torch.zeros(1, 2))
    assert VideoUNet(spatial, layers)(x, torch.zeros(1, 2), condition).shape == x.shape


def test_interface_tells_folded_models_apart() -> None:
    hashes = {interface(replace(PIXELS, patch=patch)) for patch in (1, 2, 4)}
    assert len(hashes) == 3
