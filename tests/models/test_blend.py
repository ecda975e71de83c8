"""The blend of the given frames that interpolation starts from: its weights, and its way to the output."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from drivesim.models.context import blended
from drivesim.models.temporal import SHARE, TemporalConfig, TemporalLayers
from drivesim.models.unet import UNet, UNetConfig
from drivesim.models.video import VideoUNet
from drivesim.randomness import normal
from drivesim.scene import Condition

IMAGE = UNetConfig(channels=(16, 32), blocks=1, attention=(False, True), cross=None, groups=4)
TEMPORAL = TemporalConfig(frames=5, depth=1, head_channels=8, context_channels=8, blend=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([1, 0, 0, 0, 1], [10.0, 12.5, 15.0, 17.5, 20.0]),
        ([1, 0, 0, 0, 0], [10.0] * 5),
        ([0, 0, 0, 0, 1], [20.0] * 5),
        ([1, 1, 0, 0, 1], [10.0, 99.0, 99.0 - 79.0 / 3, 99.0 - 158.0 / 3, 20.0]),
        ([0, 0, 0, 0, 0], [0.0] * 5),
    ],
)
def test_every_frame_is_a_blend_of_the_nearest_given_ones(given: list[int], expected: list[float]) -> None:
    frames = torch.tensor([10.0, 99.0, 99.0, 99.0, 20.0])[None, :, None, None, None]
    found = blended(frames, torch.tensor([given]).float()).flatten()
    assert torch.allclose(found, torch.tensor(expected))


def model() -> VideoUNet:
    image = UNet(IMAGE)
    return VideoUNet(image, TemporalLayers(TEMPORAL, image)).eval()


def ends(z: Tensor) -> Condition:
    mask = torch.tensor([[1.0, 0.0, 0.0, 0.0, 1.0]]).expand(len(z), -1)
    return Condition(context=z, context_mask=mask)


def test_training_begins_near_the_blend_for_v() -> None:
    net = model()
    image = VideoUNet(net.spatial).eval()
    x, z, noise = normal(("x",), (2, 5, 4, 6, 8)), normal(("z",), (2, 5, 4, 6, 8)), torch.full((2, 5), 999.0)
    mask = ends(z).context_mask
    assert mask is not None
    with torch.inference_mode():
        assert torch.allclose(net(x, noise, ends(z)), SHARE * image(x, noise, ends(z)) - blended(z, mask), atol=1e-5)


def test_the_rate_is_told_to_what_goes_around() -> None:
    config = replace(TEMPORAL, cross=8, told=("rate",))
    image = UNet(IMAGE)
    net = VideoUNet(image, TemporalLayers(config, image)).eval()
    assert net.temporal is not None
    torch.nn.init.normal_(net.temporal.share.weight)
    torch.nn.init.normal_(net.temporal.pace.weight)
    x, z, noise = normal(("x",), (1, 5, 4, 6, 8)), normal(("z",), (1, 5, 4, 6, 8)), torch.full((1, 5), 999.0)
    with torch.inference_mode():
        slow, fast = (net(x, noise, replace(ends(z), fps=torch.tensor([fps]))) for fps in (7.5, 30.0))
    assert (slow - fast).abs().max() > 1e-2


def test_what_is_not_given_does_not_reach_the_output() -> None:
    net = model()
    x, z, noise = normal(("x",), (1, 5, 4, 6, 8)), normal(("z",), (1, 5, 4, 6, 8)), torch.full((1, 5), 300.0)
    assert net.temporal is not None
    torch.nn.init.normal_(net.temporal.around.weight, std=0.1)
    other = z.clone()
    other[:, 1:4] = 7.0
    with torch.inference_mode():
        assert torch.equal(net(x, noise, ends(z)), net(x, noise, ends(other)))


def test_an_upsampler_has_no_blend() -> None:
    with pytest.raises(ValueError, match="has none"):
        replace(TEMPORAL, context="low")
