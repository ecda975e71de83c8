"""Convolutional in time and space [App. D]: longer and wider than trained, and what the attention's reach implies."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from drivesim.models.temporal import TemporalAttention, TemporalConfig, TemporalLayers, TransformerSite
from drivesim.models.unet import UNet, UNetConfig
from drivesim.models.video import VideoUNet
from drivesim.scene import Condition

SMALL = UNetConfig(channels=(16, 32), blocks=1, attention=(False, True), cross=8, groups=4, head_channels=8)
LONG = TemporalConfig(
    frames=4, alpha="scalar", depth=1, head_channels=8, context_channels=0, positions="relative", reach=2
)
ATTENTIONS, CONVOLUTIONS = 4, 16  # of SMALL, one behind the other: one frame a convolution, ``reach`` an attention


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stirred(module: torch.nn.Module) -> torch.nn.Module:
    """Away from its start, where residual branches are zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module.eval().requires_grad_(False)


def video(config: TemporalConfig, spatial: UNetConfig = SMALL) -> VideoUNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet(spatial)
        layers = TemporalLayers(config, unet)
    stirred(layers)
    return VideoUNet(unet, layers).eval().requires_grad_(False)


def run(model: VideoUNet, x: Tensor) -> Tensor:
    b, t = x.shape[:2]
    return model(x, torch.full((b, t), 300.0), Condition(tokens=seeded(1, 1, 8, seed=5).expand(b, -1, -1)))


def site(config: TemporalConfig) -> TransformerSite:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = TransformerSite(16, config)
    return stirred(made)  # type: ignore[return-value]


@pytest.mark.parametrize("positions", ["relative", "absolute"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_frame_beyond_the_reach_changes_nothing(positions: str, depth: int) -> None:
    layer = site(replace(LONG, depth=depth, positions=positions))  # type: ignore[arg-type]
    x = seeded(12, 5, 16)
    changed = x.clone()
    changed[0] = seeded(5, 16, seed=3)
    before, after = layer(x, 12), layer(changed, 12)
    reach = 2 * depth
    assert torch.equal(before[reach + 1 :], after[reach + 1 :])
    assert all(not torch.allclose(before[i], after[i]) for i in range(reach + 1))
    everywhere = site(replace(LONG, depth=depth, positions=positions, reach=None))  # type: ignore[arg-type]
    assert not torch.allclose(everywhere(x, 12)[-1], everywhere(changed, 12)[-1])


def test_relative_positions_do_not_know_where_the_window_begins() -> None:
    x = seeded(20, 3, 16)
    relative, absolute = site(LONG), site(replace(LONG, positions="absolute"))
    torch.testing.assert_close(relative(x, 20)[7:18], relative(x[5:], 15)[2:13])
    assert not torch.allclose(absolute(x, 20)[7:18], absolute(x[5:], 15)[2:13], atol=1e-3)


def test_order_matters_with_relative_positions() -> None:
    x, layer = seeded(3, 2, 16), site(LONG)
    assert not torch.allclose(layer(x, 3)[1], layer(x.flip(0), 3)[1], atol=1e-3)


def test_relative_attention_is_what_it_says() -> None:
    """logit(i, j) = q_i . K (x_j + r_(j - i)), frames farther than the reach left out; computed one by one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = stirred(TemporalAttention(4, 1))
    x, distances, t = seeded(1, 5, 4), seeded(5, 4, seed=2), 5
    places = torch.arange(t)
    seen = (places[None] - places[:, None]).abs() <= 2
    got = attention(x, seen, distances)[0]
    for i in range(t):
        near = [j for j in range(t) if abs(i - j) <= 2]
        keys = torch.stack([attention.to_k(x[0, j] + distances[j - i + 2]) for j in near])  # type: ignore[operator]
        weights = (keys @ attention.to_q(x[0, i]) / 2).softmax(0)  # type: ignore[operator]
        values = attention.to_v(x[0, near])  # type: ignore[operator]
        torch.testing.assert_close(got[i], attention.to_out[0](weights @ values))  # type: ignore[index]


def test_a_reach_as_long_as_the_window_is_none() -> None:
    x = seeded(2, 8, 4, 8, 8)
    with_reach, without = (video(replace(LONG, frames=8, reach=reach)) for reach in (8, None))
    assert torch.equal(run(with_reach, x), run(without, x))


@pytest.mark.parametrize(("convolutions", "window"), [(False, 14), (True, 30)])
def test_the_first_windows_interior_agrees_with_a_longer_run(convolutions: bool, window: int) -> None:
    model = video(replace(LONG, convolutions=convolutions))
    x = seeded(1, window + 8, 4, 6, 6)
    whole, first = run(model, x), run(model, x[:, :window])
    sees = ATTENTIONS * 2 + (CONVOLUTIONS if convolutions else 0)  # frames to either side
    inside = window - sees
    torch.testing.assert_close(whole[:, :inside], first[:, :inside], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole[:, window - 1], first[:, window - 1], atol=1e-3)
    changed = x.clone()
    changed[:, -1] = seeded(4, 6, 6, seed=3)
    far = x.shape[1] - 1 - sees
    assert torch.equal(run(model, changed)[:, :far], whole[:, :far])


@pytest.mark.parametrize("size", [(8, 24), (7, 13), (12, 40)])
def test_longer_and_wider_than_trained(size: tuple[int, int]) -> None:
    x = seeded(1, 11, 4, *size)
    out = run(video(LONG), x)
    assert out.shape == x.shape and out.isfinite().all()


def test_per_frame_alpha_says_why_it_does_not_run_longer() -> None:
    model = video(replace(LONG, alpha="frame"))
    assert run(model, seeded(1, 4, 4, 8, 8)).isfinite().all()
    with pytest.raises(ValueError, match="alpha is per frame for T = 4; 11 frames need alpha: scalar"):
        run(model, seeded(1, 11, 4, 8, 8))


def test_relative_positions_have_the_parameters_of_absolute_ones() -> None:
    relative, absolute = (video(replace(LONG, positions=kind)).temporal for kind in ("relative", "absolute"))  # type: ignore[arg-type]
    assert relative is not None and absolute is not None
    shapes = [{n: p.shape for n, p in layers.state_dict().items()} for layers in (relative, absolute)]
    assert shapes[0] == shapes[1]


def test_tokens_of_the_temporal_attention() -> None:
    """The spatial layers' own, or those that tell rate and noise; each is seen, none is asked for twice."""
    x, noise = seeded(2, 4, 4, 8, 8), torch.full((2, 4), 300.0)
    words = seeded(2, 3, 8)
    shared = video(replace(LONG, cross=8))
    image = VideoUNet(shared.spatial)
    moved, other = (
        shared(x, noise, Condition(tokens=y)) - image(x, noise, Condition(tokens=y)) for y in (words, words.flip(2))
    )
    assert not torch.allclose(moved, other, atol=1e-3)
    told = video(replace(LONG, cross=12, told=("rate", "level")))
    level = torch.zeros(2, 4)

    def at(fps: list[float], noisy: float = 0.0) -> Tensor:
        return told(x, noise, Condition(tokens=words, fps=torch.tensor(fps), context_level=level + noisy))

    slow, fast = at([7.5, 7.5]), at([7.5, 30.0])
    torch.testing.assert_close(slow[0], fast[0])
    assert not torch.allclose(slow[1], fast[1], atol=1e-3)
    assert not torch.allclose(slow, at([7.5, 7.5], 0.2), atol=1e-3)
    with pytest.raises(ValueError, match="give fps"):
        told(x, noise, Condition(tokens=words, context_level=level))
    with pytest.raises(ValueError, match="give context_level"):
        told(x, noise, Condition(tokens=words, fps=torch.tensor([30.0, 30.0])))


def test_what_is_joined_at_the_input() -> None:
    x, noise = seeded(1, 4, 4, 8, 8), torch.full((1, 4), 300.0)
    interpolation = video(LONG, replace(SMALL, in_channels=9, joined=("context", "mask")))
    ends = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    bare = Condition(tokens=seeded(1, 1, 8))
    given = replace(bare, context=x, context_mask=ends)
    behind = replace(given, context=x + 5.0 * (1 - ends)[..., None, None, None])
    assert torch.equal(interpolation(x, noise, given), interpolation(x, noise, behind))
    assert not torch.allclose(interpolation(x, noise, given), interpolation(x, noise, bare), atol=1e-3)
    zeros = replace(bare, context=torch.zeros_like(x), context_mask=torch.zeros(1, 4))
    assert torch.equal(interpolation(x, noise, zeros), interpolation(x, noise, bare))

    spatial = replace(SMALL, in_channels=7, joined=("low",), classes=10)
    upsampler = video(replace(LONG, context_channels=8, context="low"), spatial)
    low = replace(bare, low=seeded(1, 4, 3, 8, 8), low_level=torch.tensor([3]))
    assert not torch.allclose(
        upsampler(x, noise, low), upsampler(x, noise, replace(low, low_level=torch.tensor([4]))), atol=1e-3
    )
    with pytest.raises(ValueError, match="give low"):
        upsampler(x, noise, bare)
    with pytest.raises(ValueError, match="give low_level"):
        upsampler(x, noise, replace(low, low_level=None))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"positions": "circular"}, "positions is 'absolute' or 'relative'"),
        ({"reach": 0}, "reach >= 1"),
        ({"told": ("rate",)}, "its tokens need cross"),
        ({"convolutions": False, "context_channels": 8}, "context_channels is 0"),
    ],
)
def test_settings_that_contradict_each_other(fields: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(LONG, **fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"in_channels": 9}, "does not explain 9 channels in"),
        ({"joined": ("low",)}, "does not explain 4 channels in"),
        ({"only_cross": (True,)}, "only_cross has 1 levels"),
        ({"only_cross": (False, True), "cross": None}, "only_cross needs tokens"),
    ],
)
def test_image_settings_that_contradict_each_other(fields: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(SMALL, **fields)
