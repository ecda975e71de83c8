"""The temporal layers [§3.1, App. D, F.1]: 3-D convolution residual blocks and temporal attention, mixed in by alpha.

``alpha z + (1 - alpha) z'`` with z the spatial and z' the temporal output. They live in a module and a file of their
own, named as SVD's are, so that they move to another image backbone; switched off they are skipped, not multiplied by
zero. With other numbers they are the driving models', the text-to-video models' or SVD's.

What the paper leaves open, and the choice:
- alpha starts at ``alpha_start`` and is kept in [0, 1] by a sigmoid (the authors' later code).
- the last layer of every residual branch starts at zero, so that at the start z' = z: training begins at the image
  model.
- context features join at the input of both convolutions' first, behind its norm and SiLU: they have a network of their
  own.
- how many frames are given, and how noisy they are, is added to the time embedding of the temporal layers alone: the
  spatial layers stay the image model's.
- relative positions: the same sinusoids and MLP as for absolute ones, of the distance between two frames, added to what
  the keys are made of. The attention then depends on distances alone, with not one parameter more.
- the label of the rate is a learned token per rate, the noise of the context a sinusoid as wide as a token.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from drivesim.models.blocks import (
    TOKENS,
    Attention,
    FeedForward,
    TimeEmbedding,
    around,
    linear,
    sinusoid,
    zero,
)
from drivesim.models.context import ContextNetwork, blended, shown
from drivesim.models.once import Kept, Once
from drivesim.models.unet import Site, UNet
from drivesim.scene import Condition

SHARE = 0.1  # of the U-Net beside the blend, before training
FINEST = 1000.0  # sinusoids resolve integers; noise of the context is a fraction of the latents' unit


@dataclass(frozen=True)
class TemporalConfig:
    """Args:
    frames: T, the length of a window and of a per-frame alpha.
    alpha: ``frame`` (a vector over time, the paper's) or ``scalar`` (needed to run longer than trained).
    alpha_start: alpha before training.
    convolutions: residual blocks behind the spatial ones; off in the ablation "attention only".
    depth: temporal transformer layers at each site with attention (the paper's driving model: 4).
    feed: how many times as wide as the channels the two feed-forwards of a transformer layer are, the one before its
        attention and the one behind; 0 for none. With both, which SVD has, they are half of what temporal layers cost.
    head_channels: channels of a temporal attention head; ``heads``, where given, fixes their number instead.
    cross: width of the tokens in temporal cross-attention, None for layers without.
    told: what those tokens are: none named, the spatial layers' own; ``rate``, one for the frame rate; ``level``, one
        for the noise of the context.
    rates: frames a second that have a token; a condition takes the nearest.
    only_cross: sites whose spatial self-attention is replaced by cross-attention replace theirs too (SD's x4 upscaler).
    context_channels: width of the context features that feed the temporal convolutions [§3.2]; 0 for none.
    context: what they are made of: the ``given`` latents and their mask, or the ``low``-resolution frames (upsamplers).
    spread: places whose given frames every frame is also shown, not only its own, -1 the last: a short path for
        information that the (3,1,1) convolutions would carry one frame a layer. None in the paper.
    given: the most frames that a window is given and told the number of; the paper's 2.
    blend: every frame is also shown the linear blend of the nearest given frames on either side, of one alone where
        there is no other, and it goes to the output around all layers: what is left to learn is how the truth departs
        from it. Not in the paper.
    norm: group norms over one ``frame``, so that windows and chunks agree, or over the ``clip`` (SVD).
    positions: ``absolute``, a frame's place in the window, or ``relative``, its distance to another: needed to run
        longer than trained [App. D].
    reach: attention sees frames at most so far apart; None for all. The paper's 8 changes nothing at T = 8.
    """

    frames: int = 10
    alpha: Literal["frame", "scalar"] = "frame"
    alpha_start: float = 0.5
    convolutions: bool = True
    depth: int = 4
    feed: tuple[int, int] = (4, 4)
    head_channels: int = 32
    heads: int | None = None
    cross: int | None = None
    told: tuple[Literal["rate", "level"], ...] = ()
    rates: tuple[float, ...] = (7.5, 30.0)
    only_cross: bool = False
    context_channels: int = 128
    context: Literal["given", "low"] = "given"
    spread: tuple[int, ...] = ()
    given: int = 2
    blend: bool = False
    norm: Literal["frame", "clip"] = "frame"
    positions: Literal["absolute", "relative"] = "absolute"
    reach: int | None = None

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {' or '.join(map(repr, known))}, not '{getattr(self, name)}'")
        if not 0.0 < self.alpha_start < 1.0 or min(self.frames, self.head_channels) < 1:
            raise ValueError("needs 0 < alpha_start < 1, frames >= 1 and head_channels >= 1")
        if any(not -self.frames <= n < self.frames for n in self.spread):
            raise ValueError(f"spread names places of {self.frames} frames, not {list(self.spread)}")
        if len(self.feed) != 2 or min(self.feed) < 0:
            raise ValueError(f"feed is two widths, each 0 or more, not {list(self.feed)}")
        if self.reach is not None and self.reach < 1:
            raise ValueError("needs reach >= 1, or none")
        if set(self.told) - {"rate", "level"} or (self.told and self.cross is None):
            raise ValueError("told names 'rate' and 'level'; its tokens need cross, their width")
        if self.blend and self.context == "low":
            raise ValueError("blend is of given frames: an upsampler has none")
        if self.context_channels and not self.convolutions:
            raise ValueError("context features feed the convolutions: without those, context_channels is 0")

    def heads_at(self, channels: int) -> int:
        return self.heads or max(1, channels // self.head_channels)


CHOICES = {
    "alpha": ("frame", "scalar"),
    "context": ("given", "low"),
    "norm": ("frame", "clip"),
    "positions": ("absolute", "relative"),
}


class Mixer(nn.Module):
    """alpha, a sigmoid of ``mix_factor`` (one, or one a frame); applied to ``b t ...``."""

    def __init__(self, count: int, start: float):
        super().__init__()
        self.mix_factor = nn.Parameter(torch.full((count,), math.log(start / (1.0 - start))))

    def forward(self, z: Tensor, temporal: Tensor) -> Tensor:
        alpha = torch.sigmoid(self.mix_factor).to(z.dtype)
        return torch.lerp(temporal, z, alpha.view(1, -1, *(1,) * (z.ndim - 2)))

    def share(self) -> Tensor:
        """1 - alpha, ``1`` or ``t``: of what the temporal layer adds to z."""
        return torch.sigmoid(-self.mix_factor)


def mixer(config: TemporalConfig) -> Mixer:
    return Mixer(config.frames if config.alpha == "frame" else 1, config.alpha_start)


class TemporalResnet(nn.Module):
    """GroupNorm, SiLU, convolution, + time projection, GroupNorm, SiLU, convolution, residual; on ``(b t) c h w``.

    No convolution is a Conv3d, which differs between batch sizes and is slower on CPU. (3,1,1) runs as a (3,1) conv2d
    on a ``b c t (h w)`` view, (3,3,3) as a conv2d over the channels of a frame and its two neighbours.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        emb: int = 0,
        context: int = 0,
        norm: str = "frame",
        eps: float = 1e-5,
        kernel: int = 1,
    ):
        super().__init__()
        self.norm = norm
        self.norm1 = nn.GroupNorm(groups, channels, eps=eps)
        self.conv1 = over_time(channels + context, channels, kernel)
        if emb:
            self.time_emb_proj = nn.Linear(emb, channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps=eps)
        self.conv2 = over_time(channels, channels, kernel)
        zero(self.conv2)

    def forward(self, x: Tensor, t: int, emb: Tensor | None, context: Tensor | None, share: Tensor) -> Tensor:
        """``share`` of what the block adds to ``x``, ``1`` or ``t``: mixed in, that is
        alpha x + (1 - alpha) (x + branch). One number goes into the weights, where it costs nothing."""
        h = F.silu(self._normed(self.norm1, x, t))
        if context is not None:
            h = torch.cat([h, context.to(h.dtype)], dim=1)
        h = run_over_time(self.conv1, h, t)
        if emb is not None:
            h = h + self.time_emb_proj(F.silu(emb))[:, :, None, None]
        h = F.silu(self._normed(self.norm2, h, t))
        if share.numel() == 1:
            return x + run_over_time(self.conv2, h, t, share)
        return x + rearrange(share.to(h.dtype).repeat(len(h) // t), "n -> n 1 1 1") * run_over_time(self.conv2, h, t)

    def _normed(self, norm: nn.Module, x: Tensor, t: int) -> Tensor:
        if self.norm == "frame":
            return norm(x)
        return rearrange(norm(rearrange(x, "(b t) c h w -> b c t h w", t=t)), "b c t h w -> (b t) c h w")


def over_time(channels: int, out: int, kernel: int) -> nn.Conv2d:
    """A convolution over three frames and ``kernel x kernel`` cells, for ``run_over_time``."""
    if kernel == 1:
        return nn.Conv2d(channels, out, (3, 1), padding=(1, 0))
    return nn.Conv2d(3 * channels, out, kernel, padding=kernel // 2)


def run_over_time(conv: nn.Conv2d, x: Tensor, t: int, share: Tensor | None = None) -> Tensor:
    """``(b t) c h w -> (b t) d h w``, times the one number ``share``; beyond the ends are zeros."""
    weight, bias = conv.weight, conv.bias
    if share is not None:
        weight, bias = weight * share, None if bias is None else bias * share
    if conv.kernel_size == (3, 1):
        height = x.shape[-2]
        out = F.conv2d(rearrange(x, "(b t) c h w -> b c t (h w)", t=t), weight, bias, padding=(1, 0))
        return rearrange(out, "b c t (h w) -> (b t) c h w", h=height)
    padded = F.pad(rearrange(x, "(b t) c h w -> b t c h w", t=t), (0, 0, 0, 0, 0, 0, 1, 1))
    neighbours = torch.cat([padded[:, k : k + t] for k in range(3)], dim=2)
    return F.conv2d(rearrange(neighbours, "b t c h w -> (b t) c h w"), weight, bias, padding=conv.padding)


class TemporalAttention(Attention):
    """Self-attention over the frames of a cell, ``n t c``."""

    def forward(self, x: Tensor, seen: Tensor | None = None, distances: Tensor | None = None) -> Tensor:
        """Args:
        seen: ``t t``, True where frame i (row) sees frame j.
        distances: ``2 r + 1  c``, the embedded distances -r .. r; farther ones are as r.
        """
        q, k, v = (
            rearrange(y, "n t (a d) -> n a t d", a=self.heads) for y in (self.to_q(x), self.to_k(x), self.to_v(x))
        )
        bias = seen
        if distances is not None:
            t, r = x.shape[1], distances.shape[0] // 2
            places = torch.arange(t, device=x.device)
            which = (places[None, :] - places[:, None]).clamp(-r, r) + r
            keys = rearrange(self.to_k(distances), "l (a d) -> a d l", a=self.heads)
            bias = (q @ keys).gather(-1, which.expand(*q.shape[:2], t, t)) * q.shape[-1] ** -0.5
            if seen is not None:
                bias = bias.masked_fill(~seen, -math.inf)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return linear(self.to_out[0], rearrange(out, "n a t d -> n t (a d)"))


class TemporalBlock(nn.Module):
    """GEGLU feed-forward in, self-attention over the frames of a cell, cross-attention (where the model has it), GEGLU
    feed-forward; all residual; on ``(b l) t c``. ``feed``: as the configuration's."""

    def __init__(self, channels: int, heads: int, cross: int | None, only_cross: bool, feed: tuple[int, int]):
        super().__init__()
        before, behind = feed
        if before:
            self.norm_in, self.ff_in = nn.LayerNorm(channels), FeedForward(channels, before)
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads, cross) if only_cross else TemporalAttention(channels, heads)
        if cross is not None:
            self.norm2, self.attn2 = nn.LayerNorm(channels), Attention(channels, heads, cross)
        if behind:
            self.norm3, self.ff = nn.LayerNorm(channels), FeedForward(channels, behind)
        zero(self.attn1.to_out[0])
        for name in ("ff_in", "ff"):
            if hasattr(self, name):
                zero(getattr(self, name).net["2"])
        if cross is not None:
            zero(self.attn2.to_out[0])

    def forward(
        self, x: Tensor, seen: Tensor | None, distances: Tensor | None, tokens: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        if hasattr(self, "ff_in"):
            x = x + self.ff_in(self.norm_in(x))
        if isinstance(self.attn1, TemporalAttention):
            x = x + self.attn1(self.norm1(x), seen, distances)
        else:
            x = x + _crossed(self.attn1, self.norm1, x, tokens, mask)
        if hasattr(self, "attn2"):
            x = x + _crossed(self.attn2, self.norm2, x, tokens, mask)
        return x + self.ff(self.norm3(x)) if hasattr(self, "ff") else x


def _crossed(attention: Attention, norm: nn.Module, x: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
    """Every cell and frame of a clip looks at its ``tokens`` b L D: as queries of one sequence, without copies."""
    if tokens is None:
        raise ValueError(TOKENS)
    b, t = tokens.shape[0], x.shape[1]
    if (same := attention.of_one_token(tokens, mask, x.dtype)) is not None:
        return repeat(same, "b 1 c -> (b l) 1 c", l=x.shape[0] // b)
    out = attention(rearrange(norm(x), "(b l) t c -> b (l t) c", b=b), tokens, mask)
    return rearrange(out, "b (l t) c -> (b l) t c", t=t)


class ResnetSite(nn.Module):
    """The temporal layer behind a spatial residual block."""

    def __init__(self, block: TemporalResnet, mixer: Mixer):
        super().__init__()
        self.temporal_res_block = block
        self.time_mixer = mixer

    def forward(self, x: Tensor, t: int, emb: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        return self.temporal_res_block(x, t, emb, context, self.time_mixer.share())


class TransformerSite(nn.Module):
    """The temporal layer inside a spatial transformer, on its tokens ``(b t) l c``."""

    def __init__(self, channels: int, config: TemporalConfig, only_cross: bool = False):
        super().__init__()
        self.relative, self.reach = config.positions == "relative", config.reach
        heads = config.heads_at(channels)
        self.temporal_transformer_blocks = nn.ModuleList(
            TemporalBlock(channels, heads, config.cross, only_cross, config.feed) for _ in range(config.depth)
        )
        self.time_pos_embed = TimeEmbedding(channels, channels, 4 * channels)
        zero(self.time_pos_embed.linear_2)
        self.time_mixer = mixer(config)

    def forward(
        self, x: Tensor, t: int, tokens: Tensor | None = None, mask: Tensor | None = None, once: Once | None = None
    ) -> Tensor:
        """Args:
        once: of this site and window; None: nothing is kept.
        """
        length, once = x.shape[1], once or Once()
        places = torch.arange(t, device=x.device)
        z = rearrange(x, "(b t) l c -> (b l) t c", t=t)
        seen = distances = None
        if self.reach is not None and t > self.reach + 1:
            seen = (places[None, :] - places[:, None]).abs() <= self.reach
        if self.relative:
            farthest = t - 1 if self.reach is None else min(t - 1, self.reach)
            apart = torch.arange(-farthest, farthest + 1, device=x.device)
            distances = once("distances", lambda: self._embedded(apart, x))
        else:
            z = z + once("places", lambda: self._embedded(places, x))
        for block in self.temporal_transformer_blocks:
            z = block(z, seen, distances, tokens, mask)
        z = rearrange(z, "(b l) t c -> b t l c", l=length)
        return rearrange(self.time_mixer(rearrange(x, "(b t) l c -> b t l c", t=t), z), "b t l c -> (b t) l c")

    def _embedded(self, places: Tensor, x: Tensor) -> Tensor:
        return self.time_pos_embed(sinusoid(places, x.shape[-1]).to(x.dtype))


@dataclass(frozen=True, eq=False)
class Told:
    """What every temporal layer of one forward call is given; ``once``: what is the same in all steps."""

    t: int
    emb: Tensor
    features: list[Tensor] | None
    tokens: Tensor | None
    mask: Tensor | None
    once: Once
    blend: Tensor | None = None
    pace: Tensor | None = None


class TemporalLayers(nn.Module):
    """All temporal layers of one image U-Net, under the names of the sites that they stand at."""

    known_rates: Tensor

    def __init__(self, config: TemporalConfig, unet: UNet):
        super().__init__()
        self.config, self._kept = config, Kept()
        spatial, emb = unet.config, unet.config.embedding
        self._sites = {site.name: site for site in unet.sites() if site.transformer or config.convolutions}
        for site in self._sites.values():
            graft(self, site.name, self._layer(site, unet))
        if config.context_channels:
            planes = (spatial.out_channels + 1) * (1 + len(config.spread)) + spatial.out_channels * config.blend
            if config.context == "low":
                planes = spatial.in_channels - spatial.out_channels
            self.context = ContextNetwork(planes, config.context_channels, len(spatial.channels), spatial.patch)
            if config.context == "given":
                self.given = nn.Embedding(config.given + 1, emb)
                self.level = TimeEmbedding(spatial.channels[0], emb)
                zero(self.given)
                zero(self.level.linear_2)
        if config.blend:
            self.around = nn.Linear(emb, 2 * spatial.out_channels**2)
            self.share = nn.Linear(emb, spatial.out_channels)
            for layer in (self.around, self.share):
                zero(layer)
            nn.init.constant_(self.share.bias, SHARE)
            self.around.bias.data.view(spatial.out_channels, -1)[:, spatial.out_channels :].fill_diagonal_(-1.0)
        if "rate" in config.told:
            self.register_buffer("known_rates", torch.tensor(config.rates), persistent=False)
            self.rate = nn.Embedding(len(config.rates), config.cross or 0)
            if config.blend:
                self.pace = nn.Embedding(len(config.rates), emb)
                zero(self.pace)

    def _layer(self, site: Site, unet: UNet) -> nn.Module:
        config = self.config
        if site.transformer:
            return TransformerSite(site.channels, config, config.only_cross and site.only_cross)
        norm = unet.get_submodule(site.name).norm1
        assert isinstance(norm, nn.GroupNorm)
        block = TemporalResnet(
            site.channels, unet.config.groups, unet.config.embedding, config.context_channels, config.norm, norm.eps
        )
        return ResnetSite(block, mixer(config))

    def told(self, x: Tensor, emb: Tensor, condition: Condition) -> Told:
        """What the layers need to know, from ``x`` b t c h w, the spatial time embedding ``(b t) e`` and the condition.

        Raises:
            ValueError: a per-frame alpha and another T; tokens, rate or low-resolution frames that are missing.
        """
        t = x.shape[1]
        self.check(t)
        once = self._kept(condition, x)
        tokens, mask = once("tokens", lambda: self._tokens(condition))
        blend, features = once("context", lambda: self._context(x, condition))
        told = Told(t, self.embedding(emb, condition, t), features, tokens, mask, once, blend)
        return replace(told, pace=self._pace(told.emb, condition, t)) if self.config.blend else told

    def _context(self, x: Tensor, condition: Condition) -> tuple[Tensor | None, list[Tensor] | None]:
        """The blend of the given frames and the context features, where the layers have them; of ``x`` the shape."""
        context, shown = condition.context, condition.context_mask
        if context is None or shown is None:
            context, shown = torch.zeros_like(x), x.new_zeros(x.shape[:2])  # which the network is shown as such
        context = context.to(x.dtype)
        blend = blended(context, shown) if self.config.blend else None
        return blend, self.features(context, shown, blend, condition)

    def embedding(self, emb: Tensor, condition: Condition, t: int) -> Tensor:
        """``(b t) e``: the spatial time embedding plus how many frames are given and how noisy each is."""
        if not hasattr(self, "given"):
            return emb
        b = emb.shape[0] // t
        given = condition.given if condition.given is not None else torch.zeros(b, dtype=torch.long, device=emb.device)
        told = repeat(self.given(given.clamp(0, self.config.given)), "b e -> b t e", t=t)
        if condition.context_level is not None and condition.context_mask is not None:
            scaled = FINEST * condition.context_level
            level = self.level(sinusoid(scaled, self.level.linear_1.in_features).to(emb.dtype))
            told = told + level * condition.context_mask[..., None].to(emb.dtype)
        return emb + rearrange(told, "b t e -> (b t) e")

    def features(
        self, context: Tensor, mask: Tensor, blend: Tensor | None, condition: Condition
    ) -> list[Tensor] | None:
        """Context features by level, from the given latents or the low-resolution frames."""
        if not self.config.context_channels:
            return None
        if self.config.context == "low":
            if condition.low is None:
                raise ValueError("these layers look at the low-resolution frames: give low")
            return self.context(condition.low.to(context.dtype))
        planes = shown(context, mask, self.config.spread)
        return self.context(planes if blend is None else torch.cat([planes, blend], dim=2))

    def beside(self, out: Tensor, x: Tensor, told: Told) -> Tensor:
        """The U-Net's output ``b t c h w`` with what goes around all layers, of the noisy ``x`` and the blend.

        Where the blend is nearly the truth, as between neighbouring frames, the U-Net's own part has to be small: its
        share is a number a channel. Both begin where much noise leaves nothing else to go by: v is nearly -x0, and x0
        nearly the blend.
        """
        if told.blend is None or told.pace is None:
            return out
        pixels = rearrange(torch.cat([x, told.blend], dim=2), "b t c h w -> (b t) c h w")
        share = rearrange(self.share(F.silu(told.pace)), "(b t) c -> b t c 1 1", t=told.t)
        return share * out + rearrange(around(self.around, pixels, told.pace), "(b t) c h w -> b t c h w", t=told.t)

    def _pace(self, emb: Tensor, condition: Condition, t: int) -> Tensor:
        """The time embedding ``(b t) e`` with the frame rate, where that is told: a blend is the better the shorter
        the gap."""
        if condition.fps is None or not hasattr(self, "pace"):
            return emb
        return emb + repeat(self.pace(self._nearest(condition.fps)), "b e -> (b t) e", t=t)

    def _nearest(self, fps: Tensor) -> Tensor:
        """``b``: the place of the nearest of ``config.rates``."""
        return (fps[:, None].float() - self.known_rates).abs().argmin(dim=1)

    def _tokens(self, condition: Condition) -> tuple[Tensor | None, Tensor | None]:
        """``b L D`` and mask for the temporal cross-attention."""
        config = self.config
        if config.cross is None or not config.told:
            own = condition.temporal_tokens
            return (condition.tokens, condition.mask) if own is None else (own, None)
        parts = []
        if "rate" in config.told:
            if condition.fps is None:
                raise ValueError(f"these layers are told the frame rate, one of {list(config.rates)}: give fps")
            parts.append(self.rate(self._nearest(condition.fps)))
        if "level" in config.told:
            noise = condition.context_level
            if noise is None:
                raise ValueError("these layers are told the noise of the context: give context_level, 0 for none")
            parts.append(sinusoid(FINEST * noise.amax(dim=1), config.cross))
        return torch.stack(parts, dim=1), None

    def check(self, t: int) -> None:
        if self.config.alpha == "frame" and t != self.config.frames:
            raise ValueError(f"alpha is per frame for T = {self.config.frames}; {t} frames need alpha: scalar")

    def at(self, told: Told, site: str, x: Tensor) -> Tensor:
        """The temporal layer at ``site`` on its features ``x``; a site without one leaves them as they are."""
        if site not in self._sites:
            return x
        layer = self.get_submodule(site)
        if isinstance(layer, TransformerSite):
            return layer(x, told.t, told.tokens, told.mask, told.once(site, lambda: Once(told.once.keeps)))
        features = None if told.features is None else told.features[self._sites[site].level]
        return layer(x, told.t, told.emb, features)


def graft(root: nn.Module, path: str, layer: nn.Module) -> None:
    """Hangs ``layer`` at the dotted ``path`` below ``root``, so that its tensors are named as the spatial ones are."""
    *parents, name = path.split(".")
    for part in parents:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    root.add_module(name, layer)
