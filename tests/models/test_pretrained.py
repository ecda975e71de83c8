"""Public weights: diffusers' own models, saved by diffusers, give the same numbers in our classes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drivesim import weights
from drivesim.errors import Mistake
from drivesim.models import pretrained
from drivesim.models.autoencoder import Autoencoder, split_moments
from drivesim.models.decoder import VideoDecoder
from drivesim.models.unet import UNet
from drivesim.models.video import VideoUNet
from drivesim.scene import Condition

from .public import FULL, SMALL, theirs

pytest.importorskip("diffusers")
SIZES = [(8, 12), (7, 13), (5, 9)]
LIMIT = 1e-5


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def differ(ours: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert ours.shape == other.shape
    return float((ours - other).abs().max() / other.abs().max())


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """Every small model and the folder that diffusers saved it in."""
    found = {}
    for name, values in SMALL.items():
        model, folder = theirs(values), tmp_path_factory.mktemp("peers") / name
        model.save_pretrained(folder)
        found[name] = model, folder
    return found


@pytest.mark.parametrize("name", ["sd1", "sd2", "x4"])
def test_image_unets(peers: dict[str, tuple[Any, Path]], name: str) -> None:
    model, folder = peers[name]
    ours = pretrained.load(folder)
    assert isinstance(ours, UNet)
    tokens, level, low = seeded(2, 5, ours.config.cross or 0), torch.tensor([10.0, 700.0]), torch.tensor([20, 900])
    for size in SIZES:
        x = seeded(2, ours.config.in_channels, *size)
        with torch.inference_mode():
            if name == "x4":
                got = ours(x, level, tokens, low_level=low)
                wanted = model(x, level, tokens, class_labels=low).sample
                assert differ(ours(x, level, tokens, low_level=low.flip(0)), wanted) > 1e-3  # the noise level is told
            else:
                got, wanted = ours(x, level, tokens), model(x, level, tokens).sample
        assert differ(got, wanted) <= LIMIT


def test_svd_unet(peers: dict[str, tuple[Any, Path]]) -> None:
    model, folder = peers["svd"]
    ours = pretrained.load(folder)
    assert isinstance(ours, VideoUNet)
    b, t = 2, 3
    told = torch.tensor([[6.0, 127.0, 0.02], [24.0, 30.0, 0.5]])
    for size in SIZES:
        x, context = seeded(b, t, 4, *size), seeded(b, t, 4, *size, seed=1)
        tokens, level = seeded(b, 1, 24, seed=2), torch.tensor([0.4, -1.2])
        condition = Condition(tokens=tokens, context=context, context_mask=torch.ones(b, t), pooled=told)
        with torch.inference_mode():
            got = ours(x, level[:, None].expand(b, t), condition)
            wanted = model(torch.cat([x, context], dim=2), level, tokens, told).sample
            frames = VideoUNet(ours.spatial)(x, level[:, None].expand(b, t), condition)
        assert differ(got, wanted) <= LIMIT
        assert differ(frames, wanted) > 1e-2  # the temporal layers do something


def test_autoencoder(peers: dict[str, tuple[Any, Path]]) -> None:
    model, folder = peers["vae"]
    ours = pretrained.load(folder)
    assert isinstance(ours, Autoencoder)
    for h, w in SIZES:
        x = seeded(2, 3, 4 * h, 4 * w)
        with torch.inference_mode():
            moments = ours.encode(x)
            assert differ(moments, model.encode(x).latent_dist.parameters) <= LIMIT
            z = split_moments(moments)[0]
            assert z.shape[-2:] == (h, w) and differ(ours.decode(z), model.decode(z).sample) <= LIMIT


def test_temporal_decoder(peers: dict[str, tuple[Any, Path]]) -> None:
    """Its files weigh the temporal output, ours the spatial one: loaded without turning the sign they differ."""
    model, folder = peers["svd_vae"]
    ours = pretrained.load(folder)
    assert isinstance(ours, VideoDecoder) and ours.temporal is not None
    for size in SIZES:
        z = seeded(2, 3, 4, *size)
        with torch.inference_mode():
            wanted = model.decode(z.flatten(0, 1), num_frames=3).sample.unflatten(0, (2, 3))
            assert differ(ours.decode(z), wanted) <= LIMIT
            x = seeded(2, 3, 2 * size[0], 2 * size[1])
            assert differ(ours.autoencoder.encode(x), model.encode(x).latent_dist.parameters) <= LIMIT
    turned = {n: -p if n.endswith("mix_factor") else p for n, p in ours.temporal.state_dict().items()}
    ours.temporal.load_state_dict(turned)
    with torch.inference_mode():
        assert differ(ours.decode(z), wanted) > 1e-2


@pytest.mark.parametrize("name", FULL)
def test_full_size_on_the_meta_device_has_not_a_key_left_over(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        found = {n: tuple(p.shape) for n, p in theirs(FULL[name]).state_dict().items()}
    (tmp_path / "config.json").write_text(json.dumps(FULL[name]))
    public = pretrained.describe(tmp_path)
    weights.compare(public.shapes, found, name)
    assert all(p.is_meta for p in public.model.parameters())


def test_shards_and_half_precision(peers: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    model, whole = peers["sd1"]
    model.save_pretrained(tmp_path / "shards", max_shard_size="500KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for name, tensor in pretrained.load(tmp_path / "shards").state_dict().items():
        assert torch.equal(tensor, pretrained.load(whole).state_dict()[name])
    theirs(SMALL["sd1"]).half().save_pretrained(tmp_path / "half", variant="fp16")
    half = pretrained.load(tmp_path / "half").state_dict()
    assert half["conv_in.weight"].dtype == torch.float32
    assert torch.equal(half["conv_in.weight"], model.conv_in.weight.half().float())
    (victim, *_) = sorted((tmp_path / "shards").glob("*.safetensors"))
    victim.unlink()
    with pytest.raises(Mistake, match=f"the shard {victim.name} is missing"):
        pretrained.load(tmp_path / "shards")


def test_the_oldest_names_of_the_autoencoders_attention(peers: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    model, folder = peers["vae"]
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = dict(weights.read(weights.public(folder)))
    for new, name in old.items():
        tensors = {n.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): t for n, t in tensors.items()}
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in tensors
    weights.save_public(tmp_path / "diffusion_pytorch_model.safetensors", tensors)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    z = seeded(1, 4, 5, 7)
    with torch.inference_mode():
        assert differ(pretrained.load(tmp_path).decode(z), model.decode(z).sample) <= LIMIT  # type: ignore[operator]


def copied(folder: Path, out: Path, **changed: Any) -> Path:
    """``folder`` again, with other fields in its ``config.json``."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    values = json.loads((folder / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**values, **changed}))
    return out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("conv_in.bias"), "tensors missing: conv_in.bias$"),
        (lambda t: t.update({"label_emb.weight": torch.ones(1)}), "tensors unknown: label_emb.weight$"),
        (
            lambda t: t.update({"conv_in.bias": torch.ones(3)}),
            r"tensors of another shape: conv_in.bias \(3,\), not \(32,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit(peers: dict[str, tuple[Any, Path]], tmp_path: Path, change: Any, says: str) -> None:
    folder = copied(peers["sd1"][1], tmp_path / "bent")
    tensors = {n: t.clone() for n, t in weights.read(weights.public(folder))}
    change(tensors)
    weights.save_public(folder / "diffusion_pytorch_model.safetensors", tensors)
    for read in (pretrained.check, pretrained.load):
        with pytest.raises(Mistake, match=says):
            read(folder)


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("sd1", {"_class_name": "FluxTransformer2DModel"}, "architecture 'FluxTransformer2DModel' is not read"),
        (
            "sd2",
            {"addition_embed_type": "text_time", "transformer_layers_per_block": [1, 2]},
            r"do not fit: transformer_layers_per_block \[1, 2\], addition_embed_type 'text_time'",
        ),
        ("sd1", {"in_channels": 9}, "do not fit: in_channels 9"),
        ("sd1", {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "do not fit: down_block_types"),
        ("sd1", {"up_block_types": ["UpBlock2D", "UpBlock2D"]}, "do not fit: up_block_types"),
        ("sd1", {"attention_head_dim": [3, 4]}, "do not fit: attention_head_dim"),
        ("sd1", {"a_field_of_tomorrow": 7}, "do not fit: a_field_of_tomorrow 7"),
        ("sd1", {"block_out_channels": "wide"}, "do not fit: block_out_channels 'wide'"),
        ("sd1", {"cross_attention_dim": None}, "do not fit: cross_attention_dim None"),
        ("vae", {"use_quant_conv": False, "act_fn": "gelu"}, "do not fit: act_fn 'gelu', use_quant_conv False"),
        ("svd", {"addition_time_embed_dim": 128}, "do not fit: addition_time_embed_dim 128"),
        ("svd_vae", {"layers_per_block": 3}, "do not fit: layers_per_block 3"),
    ],
)
def test_another_architecture_names_the_fields(
    peers: dict[str, tuple[Any, Path]], tmp_path: Path, name: str, fields: dict[str, Any], says: str
) -> None:
    folder = copied(peers[name][1], tmp_path / "other", **fields)
    with pytest.raises(Mistake, match=says) as caught:
        pretrained.load(folder)
    assert 1 <= len(str(caught.value).splitlines()) <= 3


def test_numbers_that_do_not_build_are_a_mistake(peers: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="groups"):
        pretrained.load(copied(peers["sd1"][1], tmp_path / "other", norm_num_groups=7))


def test_pickles_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL["sd1"]))
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"anything: it is not opened")
    with pytest.raises(Mistake, match="a pickle, which can run code") as caught:
        pretrained.load(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.bin"
    assert f"drivesim weights convert {file} --out {file.with_suffix('.safetensors')}" in str(caught.value)


def test_a_truncated_file_is_named(peers: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    folder = copied(peers["sd1"][1], tmp_path / "cut")
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Mistake, match="not a whole safetensors file") as caught:
        pretrained.load(folder)
    assert str(file) in str(caught.value)


def test_an_index_may_not_point_elsewhere(peers: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL["sd1"]))
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../else.safetensors"}}))
    with pytest.raises(Mistake, match="weight_map names files beside it"):
        pretrained.load(tmp_path)
    index.write_text("[")
    with pytest.raises(Mistake, match="cannot be read as JSON"):
        pretrained.load(tmp_path)
