"""The temporal layers [§3.1, App. D, F.1]: 3-D convolution residual blocks and temporal attention, mixed in by alpha.

``alpha z + (1 - alpha) z'`` with z the spatial and z' the temporal output. They live in a module and a file of their
own, named as SVD's are, so that they move to another image backbone; switched off they are skipped, not multiplied by
zero.

What the paper leaves open, and the choice:
- alpha starts at ``alpha_start`` and is kept in [0, 1] by a sigmoid (the authors' later code).
- the last layer of every residual branch starts at zero, so that at the start z' = z: training begins at the image
  model.
- context features join at the input of both convolutions' first, behind its norm and SiLU: they have a network of their
  own.
- how many frames are given, and how noisy they are, is added to the time embedding of the temporal layers alone: the
  spatial layers stay the image model's.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from drivesim.models.blocks import Attention, FeedForward, TimeEmbedding, sinusoid, zero
from drivesim.models.unet import UNet
from drivesim.scene import Condition

MAX_GIVEN = 2


@dataclass(frozen=True)
class TemporalConfig:
    """Args:
    frames: T, the length of a window and of a per-frame alpha.
    alpha: ``frame`` (a vector over time, the paper's) or ``scalar`` (needed to run longer than trained).
    alpha_start: alpha before training.
    depth: temporal transformer layers at each site with attention (the paper's driving model: 4).
    head_channels: channels of a temporal attention head.
    context_channels: width of the context features that feed the temporal convolutions [§3.2]; 0 for none.
    spread: every frame is also shown the given frames, not only its own place: a short path for information that the
        (3,1,1) convolutions would carry one frame a layer. Off in the paper.
    """

    frames: int = 10
    alpha: str = "frame"
    alpha_start: float = 0.5
    depth: int = 4
    head_channels: int = 32
    context_channels: int = 128
    spread: bool = False

    def __post_init__(self) -> None:
        if self.alpha not in ("frame", "scalar"):
            raise ValueError(f"alpha is 'frame' or 'scalar', not '{self.alpha}'")
        if not 0.0 < self.alpha_start < 1.0 or min(self.frames, self.head_channels) < 1:
            raise ValueError("needs 0 < alpha_start < 1, frames >= 1 and head_channels >= 1")


class Mixer(nn.Module):
    """alpha, a sigmoid of ``mix_factor``; applied to ``b t ...``."""

    def __init__(self, config: TemporalConfig):
        super().__init__()
        count = config.frames if config.alpha == "frame" else 1
        start = math.log(config.alpha_start / (1.0 - config.alpha_start))
        self.mix_factor = nn.Parameter(torch.full((count,), start))

    def forward(self, z: Tensor, temporal: Tensor) -> Tensor:
        alpha = torch.sigmoid(self.mix_factor).to(z.dtype)
        return torch.lerp(temporal, z, alpha.view(1, -1, *(1,) * (z.ndim - 2)))


class TemporalResnet(nn.Module):
    """GroupNorm, SiLU, conv (3,1,1), + time projection, GroupNorm, SiLU, conv (3,1,1), residual; on ``b t c h w``.

    The (3,1,1) convolution runs as a (3,1) conv2d on a ``b c t (h w)`` view: faster on CPU than Conv3d, and bit-equal
    between batch sizes. Norms are per frame, so that windows and chunks agree.
    """

    def __init__(self, channels: int, context: int, emb: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=1e-5)
        self.conv1 = nn.Conv2d(channels + context, channels, (3, 1), padding=(1, 0))
        self.time_emb_proj = nn.Linear(emb, channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps=1e-5)
        self.conv2 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        zero(self.conv2)

    def forward(self, x: Tensor, t: int, emb: Tensor, context: Tensor | None) -> Tensor:
        h = F.silu(self.norm1(x))
        if context is not None:
            h = torch.cat([h, context.to(h.dtype)], dim=1)
        h = self._over_time(self.conv1, h, t) + self.time_emb_proj(F.silu(emb))[:, :, None, None]
        return x + self._over_time(self.conv2, F.silu(self.norm2(h)), t)

    @staticmethod
    def _over_time(conv: nn.Conv2d, x: Tensor, t: int) -> Tensor:
        height = x.shape[-2]
        out = conv(rearrange(x, "(b t) c h w -> b c t (h w)", t=t))
        return rearrange(out, "b c t (h w) -> (b t) c h w", h=height)


class TemporalBlock(nn.Module):
    """GEGLU feed-forward in, self-attention over the frames of a cell, GEGLU feed-forward; all residual; on ``n t
    c``."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.norm_in, self.ff_in = nn.LayerNorm(channels), FeedForward(channels)
        self.norm1, self.attn1 = nn.LayerNorm(channels), Attention(channels, heads)
        self.norm3, self.ff = nn.LayerNorm(channels), FeedForward(channels)
        for last in (self.ff_in.net["2"], self.attn1.to_out[0], self.ff.net["2"]):
            zero(last)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ff_in(self.norm_in(x))
        x = x + self.attn1(self.norm1(x))
        return x + self.ff(self.norm3(x))


class ResnetSite(nn.Module):
    """The temporal layer behind a spatial residual block."""

    def __init__(self, channels: int, emb: int, groups: int, config: TemporalConfig):
        super().__init__()
        self.temporal_res_block = TemporalResnet(channels, config.context_channels, emb, groups)
        self.time_mixer = Mixer(config)

    def forward(self, x: Tensor, t: int, emb: Tensor, context: Tensor | None) -> Tensor:
        z = rearrange(self.temporal_res_block(x, t, emb, context), "(b t) ... -> b t ...", t=t)
        return rearrange(self.time_mixer(rearrange(x, "(b t) ... -> b t ...", t=t), z), "b t ... -> (b t) ...")


class TransformerSite(nn.Module):
    """The temporal layer inside a spatial transformer, on its tokens ``(b t) l c``."""

    def __init__(self, channels: int, config: TemporalConfig):
        super().__init__()
        heads = max(1, channels // config.head_channels)
        self.temporal_transformer_blocks = nn.ModuleList(TemporalBlock(channels, heads) for _ in range(config.depth))
        self.time_pos_embed = TimeEmbedding(channels, channels, 4 * channels)
        zero(self.time_pos_embed.linear_2)
        self.time_mixer = Mixer(config)

    def forward(self, x: Tensor, t: int) -> Tensor:
        length = x.shape[1]
        place = self.time_pos_embed(sinusoid(torch.arange(t, device=x.device), x.shape[-1]).to(x.dtype))
        z = rearrange(x, "(b t) l c -> (b l) t c", t=t) + place
        for block in self.temporal_transformer_blocks:
            z = block(z)
        z = rearrange(z, "(b l) t c -> b t l c", l=length)
        return rearrange(self.time_mixer(rearrange(x, "(b t) l c -> b t l c", t=t), z), "b t l c -> (b t) l c")


class ContextNetwork(nn.Module):
    """c_S = (mask z, mask) -> features at every level's resolution by a learned downsampling network [§3.2]."""

    def __init__(self, latent: int, config: TemporalConfig, levels: int):
        super().__init__()
        self.spread = config.spread
        planes = (latent + 1) * (1 + (MAX_GIVEN if config.spread else 0))
        width = config.context_channels
        self.conv_in = nn.Conv2d(planes, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(levels - 1))

    def forward(self, context: Tensor, mask: Tensor) -> list[Tensor]:
        t = context.shape[1]
        plane = repeat(mask.to(context.dtype), "b t -> b t 1 h w", h=context.shape[-2], w=context.shape[-1])
        stacked = torch.cat([context * plane, plane], dim=2)
        if self.spread:
            first = F.pad(stacked, (0, 0) * 3 + (0, max(0, MAX_GIVEN - t)))[:, :MAX_GIVEN]
            stacked = torch.cat([stacked, repeat(first, "b s c h w -> b t (s c) h w", t=t)], dim=2)
        x = self.conv_in(rearrange(stacked, "b t c h w -> (b t) c h w"))
        features = [F.silu(x)]
        for down in self.down:
            features.append(F.silu(down(features[-1])))
        return features


class TemporalLayers(nn.Module):
    """All temporal layers of one image U-Net, under the names of the sites that they stand at."""

    def __init__(self, config: TemporalConfig, unet: UNet):
        super().__init__()
        self.config = config
        emb, groups, latent = unet.config.embedding, unet.config.groups, unet.config.out_channels
        self._levels = {}
        for site in unet.sites():
            layer = (
                TransformerSite(site.channels, config)
                if site.transformer
                else ResnetSite(site.channels, emb, groups, config)
            )
            _graft(self, site.name, layer)
            self._levels[site.name] = site.level
        if config.context_channels:
            self.context = ContextNetwork(latent, config, len(unet.config.channels))
            self.given = nn.Embedding(MAX_GIVEN + 1, emb)
            self.level = TimeEmbedding(unet.config.channels[0], emb)
            zero(self.given)
            zero(self.level.linear_2)

    def embedding(self, emb: Tensor, condition: Condition, t: int) -> Tensor:
        """``(b t) e``: the spatial time embedding plus how many frames are given and how noisy each is."""
        if not self.config.context_channels:
            return emb
        b = emb.shape[0] // t
        given = condition.given if condition.given is not None else torch.zeros(b, dtype=torch.long, device=emb.device)
        told = repeat(self.given(given.clamp(0, MAX_GIVEN)), "b e -> b t e", t=t)
        if condition.context_level is not None and condition.context_mask is not None:
            # sinusoids resolve integers; levels are fractions of the latents' unit
            scaled = 1000.0 * condition.context_level
            level = self.level(sinusoid(scaled, self.level.linear_1.in_features).to(emb.dtype))
            told = told + level * condition.context_mask[..., None].to(emb.dtype)
        return emb + rearrange(told, "b t e -> (b t) e")

    def features(self, x: Tensor, condition: Condition) -> list[Tensor] | None:
        """Context features by level; nothing given is a mask of zeros, which the network is shown."""
        if not self.config.context_channels:
            return None
        if condition.context is None or condition.context_mask is None:
            return self.context(torch.zeros_like(x), x.new_zeros(x.shape[:2]))
        return self.context(condition.context.to(x.dtype), condition.context_mask)

    def check(self, t: int) -> None:
        if self.config.alpha == "frame" and t != self.config.frames:
            raise ValueError(f"alpha is per frame for T = {self.config.frames}; {t} frames need alpha: scalar")

    def at(self, site: str, x: Tensor, t: int, emb: Tensor, features: list[Tensor] | None) -> Tensor:
        layer = self.get_submodule(site)
        if isinstance(layer, TransformerSite):
            return layer(x, t)
        return layer(x, t, emb, None if features is None else features[self._levels[site]])


def _graft(root: nn.Module, path: str, layer: nn.Module) -> None:
    """Hangs ``layer`` at the dotted ``path`` below ``root``, so that its tensors are named as the spatial ones are."""
    *parents, name = path.split(".")
    for part in parents:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    root.add_module(name, layer)
