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

ROWS = 512  # of a feed-forward at once on a CPU: what lies between its two products then stays in the cache
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
        h = self.conv1(F.silu(self.norm1(x)))
        if emb is not None:
            h = h + self.time_emb_proj(F.silu(emb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Attention(nn.Module):
    """Multi-head attention ``n l c``; queries from ``x``, keys and values from ``tokens`` (``x`` itself when None).

    What comes back is ``n 1 c`` where it is the same for all of ``x``.
    """

    def __init__(self, channels: int, heads: int, cross: int | None = None, bias: bool = False):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(cross or channels, channels, bias=bias)
        self.to_v = nn.Linear(cross or channels, channels, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        source = x if tokens is None else tokens.to(x.dtype)
        if tokens is not None and tokens.shape[1] == 1 and mask is None and not torch.is_grad_enabled():
            return self.to_out[0](self.to_v(source))  # the share of a single token is 1, whoever asks
        q, k, v = (
            rearrange(y, "n l (a d) -> n a l d", a=self.heads)
            for y in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        seen = None if mask is None else mask[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.to_out[0](rearrange(out, "n a l d -> n l (a d)"))


class GEGLU(nn.Module):
    def __init__(self, channels: int, out: int):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to ``mult`` times the width and back; index 1 of ``net`` is diffusers' dropout, which we do not have."""

    def __init__(self, channels: int, mult: int = 4):
        super().__init__()
        self.net = nn.ModuleDict({"0": GEGLU(channels, mult * channels), "2": nn.Linear(mult * channels, channels)})

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda or x.numel() <= ROWS * x.shape[-1]:
            return self.net["2"](self.net["0"](x))
        rows = x.reshape(-1, x.shape[-1]).split(ROWS)
        return torch.cat([self.net["2"](self.net["0"](part)) for part in rows]).view(x.shape)


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
        x = x + self.attn1(self.norm1(x), *own)
        if hasattr(self, "attn2"):
            x = x + self.attn2(self.norm2(x), tokens, mask)
        return x + self.ff(self.norm3(x))


class Downsample(nn.Module):
    """conv3x3 of stride 2; ``padding`` 1 in the U-Net, 0 with one row and column added below and right in the
    autoencoder."""

    def __init__(self, channels: int, padding: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest neighbour to ``size`` (twice the input when None: the skip may be odd), then conv3x3."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        size = size or (2 * x.shape[-2], 2 * x.shape[-1])
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


def zero(layer: nn.Module) -> None:
    """Weights and bias to zero: a residual branch that starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
