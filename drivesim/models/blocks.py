"""The blocks that all our networks are made of, in Stable Diffusion's layout and with diffusers' names of tensors.

``n`` images (frames are folded into it), ``c h w`` features, ``l`` tokens, ``e`` the width of the time embedding.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivesim.models.winograd import convolved

ROWS = 512  # of a feed-forward at once on a CPU
ONE_DNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
TOKENS = "this network has cross-attention: give tokens, those of the dropped condition included"


def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON and YAML have lists where the configurations have tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def sinusoid(values: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding ``... -> ... width``, cosines first, as in Stable Diffusion's time embedding."""
    half = width // 2
    frequencies = torch.exp(
        -math.log(max_period) * torch.arange(half, device=values.device, dtype=torch.float32) / half
    )
    angles = values.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Linear, SiLU, Linear."""

    def __init__(self, width: int, out: int, hidden: int | None = None):
        super().__init__()
        self.linear_1 = nn.Linear(width, hidden or out)
        self.linear_2 = nn.Linear(hidden or out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


def around(matrix: nn.Linear, entered: Tensor, emb: Tensor) -> Tensor:
    """What every pixel of ``entered`` n i h w adds to the output ``n o h w`` by itself, around all layers: times the
    o x i numbers that ``matrix`` gives for ``emb`` n e.

    The target v is a sum of the noisy pixel and of the clean one, each times a number that depends on the level alone:
    whatever comes near the clean pixel needs no layer in between.
    """
    mixed = rearrange(matrix(F.silu(emb)), "n (o i) -> n o i", i=entered.shape[1])
    pixels = mixed @ rearrange(entered, "n i h w -> n i (h w)").to(mixed.dtype)
    return rearrange(pixels, "n o (h w) -> n o h w", h=entered.shape[-2])


class Resnet(nn.Module):
    """GroupNorm, SiLU, conv3x3, + time projection, GroupNorm, SiLU, conv3x3, residual. ``emb`` 0: no time
    projection."""

    def __init__(self, channels: int, out: int, emb: int, groups: int, eps: float):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=eps)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        if emb:
            self.time_emb_proj = nn.Linear(emb, out)
        self.norm2 = nn.GroupNorm(groups, out, eps=eps)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.conv_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = convolved(self.conv1, F.silu(self.norm1(x)))
        if emb is not None:
            h = h + self.time_emb_proj(F.silu(emb))[:, :, None, None]
        h = convolved(self.conv2, F.silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


def plain(x: Tensor, weight: Tensor) -> bool:
    """Whether products run on a CPU in float32."""
    return x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def product(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """``F.linear`` on a CPU without gradients. torch's own writes the bias in a pass before the
    product and GELU in one behind it; oneDNN, by the operator that compiled models call, has both in the product."""
    if ONE_DNN is None or torch.compiler.is_compiling():
        out = F.linear(x, weight, bias)
        return F.gelu(out) if gelu else out
    return ONE_DNN(x, weight, bias, "gelu" if gelu else "none", [], "none")


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)`` of an ``nn.Linear``, by ``product`` where that may be."""
    assert isinstance(layer, nn.Linear)
    if torch.is_grad_enabled() or not plain(x, layer.weight):
        return layer(x)
    return product(x, layer.weight, layer.bias)


class Attention(nn.Module):
    """Multi-head attention ``n l c``; queries from ``x``, keys and values from ``tokens`` (``x`` itself when None)."""

    def __init__(self, channels: int, heads: int, cross: int | None = None, bias: bool = False):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(cross or channels, channels, bias=bias)
        self.to_v = nn.Linear(cross or channels, channels, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        source = x if tokens is None else tokens.to(x.dtype)
        q, k, v = (
            rearrange(y, "n l (a d) -> n a l d", a=self.heads)
            for y in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        seen = None if mask is None else mask[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return linear(self.to_out[0], rearrange(out, "n a l d -> n l (a d)"))

    def of_one_token(self, tokens: Tensor | None, mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """What comes back for a single token, ``n 1 c``, whoever asks: its share is 1. Queries and keys then have no
        gradient, where it would be zero. None: there are more, or some that are masked."""
        if tokens is None or mask is not None or tokens.shape[1] != 1:
            return None
        return linear(self.to_out[0], self.to_v(tokens.to(dtype)))


def attend(attention: Attention, norm: nn.Module, x: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
    """``attention`` behind its ``norm``, neither of which a single token needs."""
    same = attention.of_one_token(tokens, mask, x.dtype)
    return attention(norm(x), tokens, mask) if same is None else same


class GEGLU(nn.Module):
    def __init__(self, channels: int, out: int):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


def gated(x: Tensor, first: Tensor, first_bias: Tensor, last: Tensor, last_bias: Tensor) -> Tensor:
    """A GEGLU feed-forward ``m c -> m c`` without gradients. Value and gate are products of their own, so that each is
    one piece of memory."""
    (to_value, to_gate), (value_bias, gate_bias) = first.chunk(2), first_bias.chunk(2)
    gate = product(x, to_gate, gate_bias, gelu=True)
    return product(gate.mul_(product(x, to_value, value_bias)), last, last_bias)


class Gated(torch.autograd.Function):
    """``gated`` with gradients, a block of rows after the other: what lies between the two products stays in the cache,
    on the way back as well. Value and gate alone are kept for the way back: their product is made again there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, first_bias: Tensor, last: Tensor, last_bias: Tensor) -> Tensor:
        (to_value, to_gate), (value_bias, gate_bias) = first.chunk(2), first_bias.chunk(2)
        out, kept = x.new_empty(len(x), len(last)), []
        for rows, into in zip(x.split(ROWS), out.split(ROWS), strict=True):
            value, gate = F.linear(rows, to_value, value_bias), F.linear(rows, to_gate, gate_bias)
            torch.addmm(last_bias, F.gelu(gate).mul_(value), last.t(), out=into)
            kept += [value, gate]
        ctx.save_for_backward(x, first, last, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, first, last, *kept = ctx.saved_tensors
        into_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        trained = any(ctx.needs_input_grad[1:])
        into_first, into_bias, into_last = torch.zeros_like(first), first.new_zeros(len(first)), torch.zeros_like(last)
        blocks = zip(*(y.split(ROWS) for y in (x, grad)), kept[::2], kept[1::2], strict=True)
        for i, (rows, above, value, gate) in enumerate(blocks):
            active, inner = F.gelu(gate), above @ last
            if trained:
                into_last.addmm_(above.t(), active * value)
            halves = active.mul_(inner), torch.ops.aten.gelu_backward(inner.mul_(value), gate)
            for half, into, bias in zip(halves, into_first.chunk(2), into_bias.chunk(2), strict=True):
                if trained:
                    into.addmm_(half.t(), rows)
                    bias.add_(half.sum(dim=0))
            if into_x is not None:
                (to_value, to_gate), part = first.chunk(2), into_x[i * ROWS : i * ROWS + len(rows)]
                torch.mm(halves[0], to_value, out=part).addmm_(halves[1], to_gate)
        if not trained:
            return into_x, None, None, None, None
        return into_x, into_first, into_bias, into_last, grad.sum(dim=0)


class FeedForward(nn.Module):
    """GEGLU to ``mult`` times the width and back; index 1 of ``net`` is diffusers' dropout, which we do not have."""

    def __init__(self, channels: int, mult: int = 4):
        super().__init__()
        self.net = nn.ModuleDict({"0": GEGLU(channels, mult * channels), "2": nn.Linear(mult * channels, channels)})

    def forward(self, x: Tensor) -> Tensor:
        inward, outward = self.net["0"].proj, self.net["2"]
        assert isinstance(inward, nn.Linear) and isinstance(outward, nn.Linear)
        if x.device.type != "cpu":
            return outward(self.net["0"](x))
        rows = x.reshape(-1, x.shape[-1])
        if not plain(x, inward.weight):
            return torch.cat([outward(self.net["0"](part)) for part in rows.split(ROWS)]).view(x.shape)
        parameters = inward.weight, inward.bias, outward.weight, outward.bias
        if torch.is_grad_enabled():
            return Gated.apply(rows, *parameters).view(x.shape)
        return torch.cat([gated(part, *parameters) for part in rows.split(ROWS)]).view(x.shape)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention (where the model has it), feed-forward, each with LayerNorm and residual.

    ``only_cross``: the first attention looks at the tokens as well, instead of at its own cells (SD's x4 upscaler).
    """

    def __init__(self, channels: int, heads: int, cross: int | None, only_cross: bool = False):
        super().__init__()
        self.only_cross = only_cross
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads, cross if only_cross else None)
        if cross is not None:
            self.norm2 = nn.LayerNorm(channels)
            self.attn2 = Attention(channels, heads, cross)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        if hasattr(self, "attn2") and tokens is None:
            raise ValueError(TOKENS)
        own = (tokens, mask) if self.only_cross else (None, None)
        x = x + attend(self.attn1, self.norm1, x, *own)
        if hasattr(self, "attn2"):
            x = x + attend(self.attn2, self.norm2, x, tokens, mask)
        return x + self.ff(self.norm3(x))


class Downsample(nn.Module):
    """conv3x3 of stride 2; ``padding`` 1 in the U-Net, 0 with one row and column added below and right in the
    autoencoder."""

    def __init__(self, channels: int, padding: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


# Row 2 i + a of a map of twice the height sees two rows of the map itself, i - 1 + a and i + a, so the rows of a 3-row
# kernel that see the same one can be summed. ``a r k``: which rows k of the kernel see row r of the two; below for both
# axes, from the nine numbers of a kernel to four kernels of four.
SEEN = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
DOUBLED = rearrange(torch.einsum("a r k, b s l -> k l a b r s", SEEN, SEEN), "k l a b r s -> (k l) (a b r s)")


class Upsample(nn.Module):
    """Nearest neighbour to ``size`` (twice the input when None: the skip may be odd), then conv3x3."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        twice = (2 * x.shape[-2], 2 * x.shape[-1])
        if size not in (None, twice) or x.device.type != "cpu":  # measured on CPUs alone
            return self.conv(F.interpolate(x, size=size or twice, mode="nearest"))
        return self._doubled(x)

    def _doubled(self, x: Tensor) -> Tensor:
        """The same as on the larger map with 16 products in the place of 36: each of the four cells that a cell becomes
        has a 2x2 kernel of its own on the small map."""
        (h, w), out, weight = x.shape[-2:], self.conv.out_channels, self.conv.weight
        kernels = rearrange(weight.flatten(2) @ DOUBLED.to(weight), "o i (p r s) -> (p o) i r s", p=4, r=2)
        bias = None if self.conv.bias is None else self.conv.bias.repeat(4)
        seen = F.conv2d(x, kernels, bias, padding=1).unflatten(1, (2, 2, out))
        parts = [seen[:, a, b, :, a : a + h, b : b + w] for a in (0, 1) for b in (0, 1)]
        if torch.is_grad_enabled():
            return F.pixel_shuffle(torch.stack(parts, dim=2).flatten(1, 2), 2)
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        layout = torch.channels_last if last else torch.contiguous_format
        large = torch.empty(len(x), out, 2 * h, 2 * w, dtype=seen.dtype, device=x.device, memory_format=layout)
        for n, part in enumerate(parts):
            large[:, :, n // 2 :: 2, n % 2 :: 2] = part
        return large


def zero(layer: nn.Module) -> None:
    """Weights and bias to zero: a residual branch that starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
