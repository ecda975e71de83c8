"""Public weights: folders in the diffusers layout become our own classes, by name, from safetensors alone.

``config.json`` decides which of our configurations a folder is; every field that would change the network and that we
have no counterpart for is an error that names it. The model is built on the meta device, its tensors are compared with
the headers of the files, and only then is anything read.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivesim import weights
from drivesim.errors import Mistake
from drivesim.models.autoencoder import Autoencoder, AutoencoderConfig
from drivesim.models.decoder import DecoderConfig, DecoderLayers, VideoDecoder
from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.unet import ADDED_WIDTH, UNet, UNetConfig
from drivesim.models.video import VideoUNet

Values = Mapping[str, Any]
# Fields that change nothing about the network in evaluation.
FREE = {"sample_size", "dropout", "upcast_attention", "addition_embed_type_num_heads", "force_upcast", "scaling_factor"}
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # files of before diffusers 0.17


@dataclass(frozen=True, eq=False)
class Public:
    """What a folder holds.

    Args:
        architecture: the name of diffusers' class.
        model: ours, on the meta device.
        names: the file's name of each of our tensors.
    """

    architecture: str
    model: nn.Module
    names: dict[str, str]

    @property
    def shapes(self) -> dict[str, weights.Shape]:
        """What the files must hold: convolutions over time have a second axis of space there."""
        return {
            self.names[name]: (*tensor.shape, 1) if _is_over_time(name, tensor) else tuple(tensor.shape)
            for name, tensor in self.model.state_dict().items()
        }


def describe(folder: str | Path) -> Public:
    """The model that ``folder`` describes, without its tensors.

    Raises:
        Mistake: no ``config.json``, another architecture, or fields that do not fit ours, by name.
    """
    values = weights.settings(folder)
    kind = architecture(values)
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise Mistake(f"the architecture '{kind}' is not read", where=folder, mend=f"known: {known}")
    file = Path(folder) / "config.json"
    try:
        with torch.device("meta"):
            return ARCHITECTURES[kind](_Fields(values, file))
    except (ValueError, TypeError) as problem:  # torch's own word on widths and groups that do not fit
        raise Mistake(str(problem), where=file) from None


def architecture(values: Values) -> str:
    """The class that a ``config.json`` names, in diffusers' way or in transformers'."""
    others = values.get("architectures")
    return str(values.get("_class_name") or (others[0] if isinstance(others, list) and others else "unnamed"))


def check(folder: str | Path, files: list[Path] | None = None) -> Public:
    """``describe``, and every tensor in ``files`` (those that ``load`` would read) compared; only headers are read.

    Raises:
        Mistake: also tensors that are missing, unknown or of another shape, by the names in the files.
    """
    public = describe(folder)
    files = files or weights.public(folder)
    found = {_modern(name): shape for name, shape in weights.shapes(files).items()}
    weights.compare(public.shapes, found, files[0] if len(files) == 1 else folder)
    return public


def load(folder: str | Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A ``UNet``, ``Autoencoder``, ``VideoUNet`` (SVD) or ``VideoDecoder`` (SVD) with the folder's weights, frozen.

    Raises:
        Mistake: see ``check``.
    """
    public = check(folder)
    ours = {theirs: name for name, theirs in public.names.items()}
    state, wanted = {}, public.model.state_dict()
    for theirs, tensor in weights.read(weights.public(folder)):
        name = ours[_modern(theirs)]
        tensor = tensor.to(dtype).reshape(wanted[name].shape)
        state[name] = -tensor if _is_turned(public.model, name) else tensor
    public.model.load_state_dict(state, strict=True, assign=True)
    return public.model.eval().requires_grad_(False)


def unet_config(values: Values, where: object = "config.json") -> UNetConfig:
    """diffusers' ``UNet2DConditionModel`` as our configuration: SD 1.x, 2.x and the x4 upscaler."""
    return _unet_config(_Fields(values, where))


def autoencoder_config(values: Values, where: object = "config.json") -> AutoencoderConfig:
    return _autoencoder_config(_Fields(values, where))


def video_config(values: Values, where: object = "config.json") -> tuple[UNetConfig, TemporalConfig]:
    """diffusers' ``UNetSpatioTemporalConditionModel`` (SVD) as our two configurations."""
    return _video_config(_Fields(values, where))


def decoder_config(values: Values, where: object = "config.json") -> tuple[AutoencoderConfig, DecoderConfig]:
    """diffusers' ``AutoencoderKLTemporalDecoder`` (SVD's) as our two configurations."""
    return _decoder_config(_Fields(values, where))


class _Fields:
    """The fields of a ``config.json``, taken one by one; what is left, or does not fit, is an error that names it."""

    def __init__(self, values: Values, where: object):
        self.left = {k: v for k, v in values.items() if not k.startswith("_") and k not in FREE}
        self.values, self.where = values, where
        self.misfits: list[str] = []

    def take(self, name: str, default: Any) -> Any:
        value = self.left.pop(name, default)
        return tuple(value) if isinstance(value, list) else value

    def only(self, **wanted: Any) -> None:
        """Fields that have one value in all that we read."""
        for name, value in wanted.items():
            if self.take(name, value) != value:
                self.misfit(name)

    def misfit(self, name: str) -> None:
        self.misfits.append(f"{name} {self.values.get(name)!r}")

    def a_number(self, name: str, default: int) -> int:
        value = self.take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self.misfit(name)
            return default
        return value

    def widths(self, default: tuple[int, ...] = (320, 640, 1280, 1280)) -> tuple[int, ...]:
        value = self.take("block_out_channels", default)
        if not isinstance(value, tuple) or not value or not all(isinstance(width, int) for width in value):
            self.misfit("block_out_channels")
            return default
        return value

    def attention(self, levels: int, plain: str, with_attention: str, default: tuple[bool, ...]) -> tuple[bool, ...]:
        """Which levels have attention, from the block types; the way up must mirror the way down."""
        names = {with_attention: True, plain: False}
        down = self.take("down_block_types", None)
        found = default if down is None else tuple(names.get(name, None) for name in down)
        if len(found) != levels or None in found:
            self.misfit("down_block_types")
            return (False,) * levels
        up = self.take("up_block_types", None)
        names = {name.replace("Down", "Up").replace("Encoder", "Decoder"): has for name, has in names.items()}
        if up is not None and tuple(names.get(name) for name in up[::-1]) != found:
            self.misfit("up_block_types")
        return tuple(bool(has) for has in found)

    def heads(self, name: str, widths: tuple[int, ...], default: int | tuple[int, ...]) -> dict[str, Any]:
        """Number of heads, or channels of a head, whichever is the same at every level."""
        heads = self.take(name, default)
        heads = heads if isinstance(heads, tuple) else (heads,) * len(widths)
        if len(heads) == len(widths) and all(isinstance(count, int) and count > 0 for count in heads):
            if len(set(heads)) == 1:
                return {"heads": heads[0]}
            each = {width / count for width, count in zip(widths, heads, strict=True)}
            if len(each) == 1 and next(iter(each)).is_integer():
                return {"head_channels": int(next(iter(each)))}
        self.misfit(name)
        return {}

    def done(self) -> None:
        """Raises:
        Mistake: a field that did not fit, or one that we do not know and that is switched on.
        """
        unknown = [f"{name} {value!r}" for name, value in self.left.items() if value not in (None, False)]
        if wrong := self.misfits + unknown:
            more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
            kind = self.values.get("_class_name", "this")
            mend = f"this {kind} is built otherwise than those that drivesim has"
            raise Mistake(f"fields that do not fit: {', '.join(wrong[:6])}{more}"[:400], where=self.where, mend=mend)


def _unet_config(fields: _Fields) -> UNetConfig:
    widths = fields.widths()
    stable = (True,) * (len(widths) - 1) + (False,)
    attention = fields.attention(len(widths), "DownBlock2D", "CrossAttnDownBlock2D", stable)
    if not any(attention):  # diffusers' middle has attention all the same
        fields.misfit("down_block_types")
    only = fields.take("only_cross_attention", False)
    only = only if isinstance(only, tuple) else (only,) * len(widths)
    classes = fields.take("num_class_embeds", None) or 0
    entering, leaving = fields.a_number("in_channels", 4), fields.a_number("out_channels", 4)
    if entering != leaving and not (classes and entering > leaving):
        fields.misfit("in_channels")
        entering = leaving
    fields.only(
        act_fn="silu", center_input_sample=False, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0,
        mid_block_scale_factor=1, norm_eps=1e-5, resnet_time_scale_shift="default", time_embedding_type="positional",
        conv_in_kernel=3, conv_out_kernel=3, mid_block_type="UNetMidBlock2DCrossAttn", attention_type="default",
        resnet_out_scale_factor=1,
    )  # fmt: skip
    given: dict[str, Any] = {
        "blocks": fields.a_number("layers_per_block", 2),
        "cross": fields.a_number("cross_attention_dim", 1280),
        "depth": fields.a_number("transformer_layers_per_block", 1),
        "groups": fields.a_number("norm_num_groups", 32),
        "linear": bool(fields.take("use_linear_projection", False)),
        **fields.heads("attention_head_dim", widths, 8),
    }
    fields.done()
    return UNetConfig(
        channels=widths, attention=attention, in_channels=entering, out_channels=leaving, classes=classes,
        joined=("low",) if entering != leaving else (), only_cross=only if any(only) else (), **given,
    )  # fmt: skip


def _autoencoder_config(fields: _Fields) -> AutoencoderConfig:
    widths = fields.widths((64,))
    attention = fields.attention(len(widths), "DownEncoderBlock2D", "AttnDownEncoderBlock2D", (False,) * len(widths))
    fields.only(in_channels=3, out_channels=3, act_fn="silu", use_quant_conv=True)
    given: dict[str, Any] = {
        "blocks": fields.a_number("layers_per_block", 1),
        "latent": fields.a_number("latent_channels", 4),
        "groups": fields.a_number("norm_num_groups", 32),
        "attention": bool(fields.take("mid_block_add_attention", True)),
        "post_quant": bool(fields.take("use_post_quant_conv", True)),
    }
    fields.done()
    return AutoencoderConfig(channels=widths, level_attention=attention if any(attention) else (), **given)


def _video_config(fields: _Fields) -> tuple[UNetConfig, TemporalConfig]:
    widths = fields.widths()
    stable = (True,) * (len(widths) - 1) + (False,)
    names = ("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal")
    attention = fields.attention(len(widths), *names, stable)
    if not any(attention):
        fields.misfit("down_block_types")
    entering, leaving = fields.a_number("in_channels", 8), fields.a_number("out_channels", 4)
    if entering != 2 * leaving:
        fields.misfit("in_channels")
        entering = 2 * leaving
    added = fields.a_number("projection_class_embeddings_input_dim", 3 * ADDED_WIDTH)
    if added % ADDED_WIDTH:
        fields.misfit("projection_class_embeddings_input_dim")
    fields.only(addition_time_embed_dim=ADDED_WIDTH, transformer_layers_per_block=1)
    blocks, cross = fields.a_number("layers_per_block", 2), fields.a_number("cross_attention_dim", 1024)
    frames = fields.a_number("num_frames", 25)
    heads = fields.heads("num_attention_heads", widths, (5, 10, 20, 20))
    fields.done()
    spatial = UNetConfig(
        channels=widths, blocks=blocks, attention=attention, cross=cross, linear=True, in_channels=entering,
        out_channels=leaving, joined=("context",), added=added // ADDED_WIDTH, eps=1e-6, **heads,
    )  # fmt: skip
    temporal = TemporalConfig(
        frames=frames, alpha="scalar", depth=1, cross=cross, context_channels=0, norm="clip", **heads
    )
    return spatial, temporal


def _decoder_config(fields: _Fields) -> tuple[AutoencoderConfig, DecoderConfig]:
    widths = fields.widths((64,))
    fields.attention(len(widths), "DownEncoderBlock2D", "DownEncoderBlock2D", (True,) * len(widths))
    fields.only(in_channels=3, out_channels=3)
    blocks, latent = fields.a_number("layers_per_block", 1), fields.a_number("latent_channels", 4)
    if blocks != 2:  # theirs has as many residual blocks in the middle, ours two
        fields.misfit("layers_per_block")
    fields.done()
    autoencoder = AutoencoderConfig(channels=widths, blocks=blocks, latent=latent, post_quant=False)
    return autoencoder, DecoderConfig(kernel=1, norm="clip", last=True)


def _unet(fields: _Fields) -> Public:
    model = UNet(_unet_config(fields))
    return Public("UNet2DConditionModel", model, {name: name for name in model.state_dict()})


def _autoencoder(fields: _Fields) -> Public:
    model = Autoencoder(_autoencoder_config(fields))
    return Public("AutoencoderKL", model, {name: name for name in model.state_dict()})


def _video(fields: _Fields) -> Public:
    spatial, temporal = _video_config(fields)
    unet = UNet(spatial)
    model = VideoUNet(unet, TemporalLayers(temporal, unet))
    return Public("UNetSpatioTemporalConditionModel", model, dict(_named(model, "spatial", "")))


def _decoder(fields: _Fields) -> Public:
    spatial, temporal = _decoder_config(fields)
    autoencoder = Autoencoder(spatial)
    model = VideoDecoder(autoencoder, DecoderLayers(temporal, autoencoder))
    return Public("AutoencoderKLTemporalDecoder", model, dict(_named(model, "autoencoder", "decoder.")))


def _named(model: nn.Module, spatial: str, inside: str) -> Iterator[tuple[str, str]]:
    """Our names and SVD's, whose spatial and temporal layers lie in one tree; the temporal ones ``inside`` a branch."""
    for name in model.state_dict():
        part, _, own = name.partition(".")
        if part == spatial and own.startswith(inside):
            yield name, re.sub(r"(resnets\.\d+)\.", r"\1.spatial_res_block.", own)
        elif part == spatial:
            yield name, own
        else:
            yield name, inside + re.sub(r"(attentions\.\d+)\.0\.", r"\1.", own)


def _is_over_time(name: str, tensor: Tensor) -> bool:
    return name.startswith("temporal.") and tensor.ndim == 4


def _is_turned(model: nn.Module, name: str) -> bool:
    """SVD's decoder weighs the temporal output with its sigmoid, all others the spatial one: 1 - s(x) = s(-x)."""
    return isinstance(model, VideoDecoder) and name.endswith("mix_factor")


def _modern(name: str) -> str:
    """Attention of autoencoders has other names in the oldest files, and in Stable Diffusion 1.x's to this day."""
    return re.sub(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.", lambda m: f"{m[1]}.{OLD_NAMES[m[2]]}.", name)


ARCHITECTURES: dict[str, Callable[[_Fields], Public]] = {
    "UNet2DConditionModel": _unet,
    "AutoencoderKL": _autoencoder,
    "UNetSpatioTemporalConditionModel": _video,
    "AutoencoderKLTemporalDecoder": _decoder,
}
