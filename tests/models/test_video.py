"""The image model's layout, and what the temporal layers promise."""

import pytest
import torch

from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.unet import UNet, UNetConfig
from drivesim.models.video import VideoUNet, interface, temporal_config, unet_config
from drivesim.scene import Condition

SMALL = UNetConfig(channels=(32, 64), blocks=1, attention=(False, True), cross=16, groups=8)
T = 4


def made(temporal: TemporalConfig | None = None, seed: int = 0) -> VideoUNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        spatial = UNet(SMALL)
        layers = TemporalLayers(temporal or TemporalConfig(frames=T, depth=2, context_channels=8), spatial)
    return VideoUNet(spatial, layers).eval()


def stirred(model: VideoUNet) -> VideoUNet:
    """Every temporal parameter away from its start, as after training."""
    generator = torch.Generator().manual_seed(1)
    assert model.temporal is not None
    for parameter in model.temporal.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def inputs(b: int = 2, t: int = T, size: tuple[int, int] = (8, 12)) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(b, t, 4, *size, generator=generator)
    mask = (torch.arange(t) < 2).float().expand(b, t)
    condition = Condition(
        tokens=torch.randn(b, 1, 16, generator=generator),
        context=x * mask[..., None, None, None],
        context_mask=mask,
        context_level=0.1 * mask,
        given=torch.full((b,), 2),
    )
    return x, torch.full((b, t), 300.0), condition


def test_temporal_layers_off_is_the_image_model_bit_for_bit() -> None:
    model, (x, noise, condition) = stirred(made()), inputs()
    frames = model.spatial(
        x.flatten(0, 1), noise.flatten(), condition.tokens.repeat_interleave(T, 0)  # type: ignore[union-attr]
    )  # fmt: skip
    with_layers = model(x, noise, condition)
    model.temporal = None
    assert torch.equal(model(x, noise, condition).flatten(0, 1), frames)
    assert not torch.allclose(with_layers.flatten(0, 1), frames)


def test_alpha_one_is_the_image_model() -> None:
    model, (x, noise, condition) = stirred(made()), inputs()
    assert model.temporal is not None
    image = VideoUNet(model.spatial)(x, noise, condition)
    for name, parameter in model.temporal.named_parameters():
        if name.endswith("mix_factor"):
            parameter.data.fill_(40.0)  # a sigmoid never reaches 1, but float32 does
    torch.testing.assert_close(model(x, noise, condition), image)


def test_training_begins_at_the_image_model() -> None:
    model, (x, noise, condition) = made(), inputs()
    torch.testing.assert_close(model(x, noise, condition), VideoUNet(model.spatial)(x, noise, condition))


@pytest.mark.parametrize("feed", [(4, 4), (4, 0), (0, 2), (0, 0)])
def test_feed_forwards_are_as_wide_as_told_or_none(feed: tuple[int, int]) -> None:
    model, (x, noise, condition) = made(TemporalConfig(frames=T, depth=2, context_channels=8, feed=feed)), inputs()
    torch.testing.assert_close(model(x, noise, condition), VideoUNet(model.spatial)(x, noise, condition))
    block = model.get_submodule("temporal.mid_block.attentions.0.0.temporal_transformer_blocks.0")
    widths = {name: part.net["2"].in_features for name, part in block.named_children() if name in ("ff_in", "ff")}
    assert widths == {name: 64 * width for name, width in zip(("ff_in", "ff"), feed, strict=True) if width}
    assert not torch.allclose(stirred(model)(x, noise, condition), VideoUNet(model.spatial)(x, noise, condition))


def test_only_temporal_parameters_get_gradients() -> None:
    model, (x, noise, condition) = stirred(made()), inputs()
    model.spatial.requires_grad_(False)
    model(x, noise, condition).square().mean().backward()
    assert model.temporal is not None
    assert all(p.grad is None for p in model.spatial.parameters())
    missing = [n for n, p in model.temporal.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # softmax forgets what all keys share, and the embeddings of counts that were not given are not touched
    assert [n for n in missing if "to_k" not in n] == []


def test_frames_see_each_other_only_through_temporal_layers() -> None:
    model, (x, noise, condition) = stirred(made()), inputs(b=1)
    bare = Condition(tokens=condition.tokens)
    changed = x.clone()
    changed[:, 3] += 1.0
    image = VideoUNet(model.spatial)
    assert torch.equal(image(x, noise, bare)[:, :3], image(changed, noise, bare)[:, :3])
    assert not torch.allclose(model(x, noise, bare)[:, 0], model(changed, noise, bare)[:, 0])


def test_clips_of_a_batch_do_not_mix() -> None:
    model, (x, noise, condition) = stirred(made()), inputs(b=2)
    both = model(x, noise, condition)
    first = model(x[:1], noise[:1], condition.map(lambda y: y[:1]))
    torch.testing.assert_close(both[:1], first)


@pytest.mark.parametrize("spread", [(), (0, 1)])
def test_what_is_given_how_many_and_how_noisy_is_told(spread: tuple[int, ...]) -> None:
    model = stirred(made(TemporalConfig(frames=T, depth=1, context_channels=8, spread=spread)))
    x, noise, condition = inputs(b=1)
    full = model(x, noise, condition)
    for other in (
        condition.without_context(),
        Condition(**{**vars(condition), "given": torch.tensor([1])}),
        Condition(**{**vars(condition), "context_level": 0.5 * condition.context_mask}),  # type: ignore[operator]
    ):
        assert not torch.allclose(full, model(x, noise, other), atol=1e-5)


def test_masked_context_is_not_seen() -> None:
    """c_S = (mask z, mask): what lies behind the mask changes nothing."""
    model, (x, noise, condition) = stirred(made()), inputs(b=1)
    behind = condition.context + 5.0 * (1 - condition.context_mask)[..., None, None, None]  # type: ignore[operator]
    other = Condition(**{**vars(condition), "context": behind})
    assert torch.equal(model(x, noise, condition), model(x, noise, other))


def test_zero_context_is_no_context() -> None:
    """Guidance drops context as zeros; training without a given frame shows None: the same to the network."""
    model, (x, noise, condition) = stirred(made()), inputs(b=1)
    zeros = Condition(
        tokens=condition.tokens,
        context=torch.zeros_like(x),
        context_mask=torch.zeros(1, T),
        context_level=torch.zeros(1, T),
        given=torch.zeros(1, dtype=torch.long),
    )
    torch.testing.assert_close(model(x, noise, zeros), model(x, noise, condition.without_context()))


def test_alpha_per_frame_refuses_another_length_and_a_scalar_takes_it() -> None:
    x, noise, condition = inputs(b=1, t=6)
    with pytest.raises(ValueError, match="T = 4; 6 frames need alpha: scalar"):
        made()(x, noise, condition)
    model = made(TemporalConfig(frames=T, alpha="scalar", depth=1, context_channels=8))
    assert model(x, noise, condition).shape == x.shape


@pytest.mark.parametrize("size", [(8, 12), (7, 13), (5, 5)])
def test_odd_latents_come_back_at_their_size(size: tuple[int, int]) -> None:
    x, noise, condition = inputs(b=1, size=size)
    assert made()(x, noise, condition).shape == x.shape


def test_alpha_follows_the_papers_formula() -> None:
    model = made(TemporalConfig(frames=T, alpha_start=0.3))
    assert model.temporal is not None
    mixer = model.temporal.get_submodule("mid_block.resnets.0").time_mixer
    z, temporal = torch.randn(2, T, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(2, T, 3)
    torch.testing.assert_close(mixer(z, temporal), 0.3 * z)
    assert mixer.mix_factor.shape == (T,)


def test_temporal_layers_are_named_by_their_sites() -> None:
    model = made()
    assert model.temporal is not None
    names = set(model.temporal.state_dict())
    assert "down_blocks.0.resnets.0.temporal_res_block.conv1.weight" in names
    assert "up_blocks.0.attentions.1.0.temporal_transformer_blocks.1.attn1.to_q.weight" in names
    assert "mid_block.resnets.1.time_mixer.mix_factor" in names
    assert sum(n.endswith("mix_factor") for n in names) == len(list(model.spatial.sites()))


def test_interface_is_of_shapes_alone() -> None:
    assert interface(SMALL) == interface(unet_config({**vars(SMALL), "cross": 99, "heads": 2}))
    assert interface(SMALL) != interface(unet_config({**vars(SMALL), "channels": [32, 96]}))
    config = TemporalConfig(frames=3, spread=(0, 1))
    assert temporal_config(vars(config)) == config


@pytest.mark.parametrize("linear", [False, True])
def test_image_unet_is_diffusers_by_name_and_value(linear: bool) -> None:
    """The layout is Stable Diffusion's: diffusers' own network loads into ours and gives the same numbers."""
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=(1, 2) if linear else 2,
            use_linear_projection=linear,
            norm_num_groups=8,
        ).eval()
    heads = None if linear else 2
    config = UNetConfig((32, 64), 1, (False, True), heads=heads, cross=16, linear=linear, groups=8)
    ours = UNet(config).eval()
    names = {n.replace(".net.0.", ".net.0.") for n in theirs.state_dict()}
    assert names == set(ours.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    generator = torch.Generator().manual_seed(3)
    x, tokens = torch.randn(2, 4, 10, 14, generator=generator), torch.randn(2, 5, 16, generator=generator)
    level = torch.tensor([10.0, 700.0])
    with torch.inference_mode():
        torch.testing.assert_close(ours(x, level, tokens), theirs(x, level, tokens).sample, rtol=1e-5, atol=1e-5)
