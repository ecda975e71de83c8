"""The image model's U-Net in Stable Diffusion's layout: the same class with other numbers is the driving LDM [Table 6],
SD 1.x and 2.x, the x4 upscaler, or the spatial half of SVD.

It knows nothing of time. ``after`` is called behind every residual block and inside every transformer, with the site's
name and its features: that is where temporal layers stand [§3.1]. Without it this is the image model, bit for bit.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivesim.models.blocks import (
    Downsample,
    Resnet,
    TimeEmbedding,
    TransformerBlock,
    Upsample,
    around,
    linear,
    sinusoid,
    zero,
)
from drivesim.models.boxes import PLANES

After = Callable[[str, Tensor], Tensor]
Joined = Literal["low", "context", "mask", "boxes"]
ADDED_WIDTH = 256  # of the sinusoid of each number in ``added`` (SVD's)


@dataclass(frozen=True)
class UNetConfig:
    """Args:
    channels: width of each level.
    blocks: residual blocks a level (one more on the way up).
    attention: which levels have spatial transformers; the middle has one if any level has.
    head_channels: channels of an attention head; ``heads``, where given, fixes their number instead (SD 1.x: 8).
    cross: width of the tokens in cross-attention, None for a model without.
    text: those tokens are a text encoder's, which lies beside the model; else they are of labels, and the model's own.
    depth: transformer blocks at each place.
    linear: the transformer's projections are linear (SD 2.x) instead of 1x1 convolutions.
    groups: of the group norms.
    in_channels: of what enters, ``joined`` included.
    joined: what is concatenated behind the noisy latents at the input: low-resolution frames (upsamplers), context
        latents (SVD), context latents and their mask (the text model's interpolation), planes of the boxes
        (``models.boxes``, 20 channels).
    box_tokens: transformer layers over the boxes of a frame, which the cross-attention then sees behind the labels; 0:
        boxes are not told so.
    only_cross: levels whose transformers have no self-attention: both attentions look at the tokens (SD's x4 upscaler).
    classes: size of a table whose entry is added to the time embedding: the noise level of an upsampler's input.
    added: how many numbers for the whole clip are added to the time embedding (SVD: fps, motion, noise of the context).
    eps: of the group norms in residual blocks on the way up, and beside transformers on the way down. It is 1e-5 as
        everywhere, but diffusers runs SVD, which was trained so, with 1e-6 in these.
    patch: side of the squares of pixels that are folded into channels before the first convolution and unfolded behind
        the last, as in the autoencoder; 1, the paper's, for none. It makes pixel-space models cheap: level 0 then has
        the resolution of the squares. ``in_channels`` and ``out_channels`` are those of a pixel. A square holds more
        numbers than a narrow first level has channels, and noise cannot be squeezed; so each pixel also goes around all
        levels, to the output, by a matrix that the time embedding gives.
    """

    channels: tuple[int, ...] = (224, 448, 448, 672, 896)
    blocks: int = 4
    attention: tuple[bool, ...] = (True, True, True, False, False)
    head_channels: int = 32
    heads: int | None = None
    cross: int | None = 256
    text: bool = False
    depth: int = 1
    linear: bool = False
    groups: int = 32
    in_channels: int = 4
    out_channels: int = 4
    joined: tuple[Joined, ...] = ()
    only_cross: tuple[bool, ...] = ()
    classes: int = 0
    added: int = 0
    box_tokens: int = 0
    eps: float = 1e-5
    patch: int = 1

    def __post_init__(self) -> None:
        for name in ("attention", "only_cross"):
            if getattr(self, name) and len(getattr(self, name)) != len(self.channels):
                raise ValueError(f"{name} has {len(getattr(self, name))} levels, channels {len(self.channels)}")
        if self.text and self.cross is None:
            raise ValueError("text needs cross-attention that sees it: cross is its width")
        if any(self.only_cross) and self.cross is None:
            raise ValueError("only_cross needs tokens to look at: cross is their width")
        if self.patch < 1:
            raise ValueError(f"patch is a number of pixels, at least 1, not {self.patch}")
        if self.box_tokens and self.cross is None:
            raise ValueError("box_tokens need cross-attention that sees them: cross is their width")
        if self.joined == ("boxes",) and self.in_channels != self.out_channels + PLANES:
            raise ValueError(f"joined [boxes] makes in_channels {self.out_channels + PLANES}, not {self.in_channels}")
        unknown = set(self.joined) - set(get_args(Joined))
        if unknown or (self.in_channels == self.out_channels) == bool(self.joined):
            raise ValueError(
                f"joined {list(self.joined)} does not explain {self.in_channels} channels in, {self.out_channels} out"
            )

    @property
    def embedding(self) -> int:
        return 4 * self.channels[0]

    def heads_at(self, channels: int) -> int:
        return self.heads or max(1, channels // self.head_channels)


@dataclass(frozen=True)
class Site:
    """Where a temporal layer stands: behind the residual block or inside the transformer called ``name``."""

    name: str
    channels: int
    level: int
    transformer: bool
    only_cross: bool = False


class Fold(nn.PixelUnshuffle):
    """Squares of ``patch x patch`` pixels into channels, ``n c h w -> n (c patch patch) (h / patch) (w / patch)``."""

    def forward(self, x: Tensor) -> Tensor:
        patch = self.downscale_factor
        if x.shape[-2] % patch or x.shape[-1] % patch:
            raise ValueError(
                f"height and width must divide by patch = {patch}, the side of the squares that this network folds: "
                f"{x.shape[-2]}x{x.shape[-1]} does not"
            )
        return super().forward(x)


class Transformer(nn.Module):
    """Norm, projection, transformer blocks over the cells of a frame, projection, residual."""

    def __init__(self, channels: int, config: UNetConfig, only_cross: bool = False):
        super().__init__()
        self.linear = config.linear
        self.norm = nn.GroupNorm(config.groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if config.linear else nn.Conv2d(channels, channels, 1)
        heads = config.heads_at(channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, config.cross, only_cross) for _ in range(config.depth)
        )
        self.proj_out = nn.Linear(channels, channels) if config.linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, tokens: Tensor | None, mask: Tensor | None, site: str, after: After | None) -> Tensor:
        h = x.shape[-2]
        y = self.norm(x)
        y = (
            linear(self.proj_in, rearrange(y, "n c h w -> n (h w) c"))
            if self.linear
            else rearrange(self.proj_in(y), "n c h w -> n (h w) c")
        )
        for i, block in enumerate(self.transformer_blocks):
            y = block(y, tokens, mask)
            if after is not None:
                y = after(f"{site}.{i}", y)
        y = rearrange(linear(self.proj_out, y) if self.linear else y, "n (h w) c -> n c h w", h=h)
        return x + (y if self.linear else self.proj_out(y))


class Stage(nn.Module):
    """One resolution: residual blocks, transformers beside them where there is attention, then down or up."""

    def __init__(self, widths: list[tuple[int, int]], config: UNetConfig, level: int, down: bool):
        super().__init__()
        emb, attention = config.embedding, config.attention[level]
        eps = config.eps if attention or not down else 1e-5
        self.resnets = nn.ModuleList(Resnet(a, b, emb, config.groups, eps) for a, b in widths)
        if attention:
            only_cross = bool(config.only_cross) and config.only_cross[level]
            self.attentions = nn.ModuleList(Transformer(b, config, only_cross) for _, b in widths)

    def step(self, i: int, x: Tensor, c: "Call", site: str) -> Tensor:
        x = c.after_at(f"{site}.resnets.{i}", self.resnets[i](x, c.emb))
        if hasattr(self, "attentions"):
            x = self.attentions[i](x, c.tokens, c.mask, f"{site}.attentions.{i}", c.after)
        return x


class Middle(nn.Module):
    def __init__(self, channels: int, config: UNetConfig):
        super().__init__()
        emb = config.embedding
        self.resnets = nn.ModuleList(Resnet(channels, channels, emb, config.groups, 1e-5) for _ in range(2))
        if any(config.attention):
            self.attentions = nn.ModuleList([Transformer(channels, config)])

    def forward(self, x: Tensor, c: "Call") -> Tensor:
        x = c.after_at("mid_block.resnets.0", self.resnets[0](x, c.emb))
        for attention in getattr(self, "attentions", ()):
            x = attention(x, c.tokens, c.mask, "mid_block.attentions.0", c.after)
        return c.after_at("mid_block.resnets.1", self.resnets[1](x, c.emb))


@dataclass(frozen=True, eq=False)
class Call:
    """What every block of one forward call is given."""

    emb: Tensor
    tokens: Tensor | None
    mask: Tensor | None
    after: After | None

    def after_at(self, site: str, x: Tensor) -> Tensor:
        return x if self.after is None else self.after(site, x)


class UNet(nn.Module):
    """``forward(x n C h w, noise n, tokens n L D) -> n C h w``.

    ``noise`` is what the preconditioning says of the level. ``pooled`` (n e) is added to the time embedding; where the
    network embeds numbers itself (``added``), ``pooled`` is those numbers, n ``added``. ``low_level`` (n) is the index
    of the noise of the low-resolution input, where the network has a table for it (``classes``).

    Raises:
        ValueError: ``h`` or ``w`` does not divide by ``patch``; tokens or numbers that the network needs are missing.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths, emb = config.channels, config.embedding
        self.fold, self.unfold = Fold(config.patch), nn.PixelShuffle(config.patch)
        self.conv_in = nn.Conv2d(config.in_channels * config.patch**2, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], emb)
        if config.classes:
            self.class_embedding = nn.Embedding(config.classes, emb)
        if config.added:
            self.add_embedding = TimeEmbedding(config.added * ADDED_WIDTH, emb)
        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]
        for i, (a, b) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            stage = Stage([(a, b)] + [(b, b)] * (config.blocks - 1), config, i, down=True)
            skips += [b] * config.blocks
            if i < len(widths) - 1:
                stage.downsamplers = nn.ModuleList([Downsample(b, padding=1)])
                skips.append(b)
            self.down_blocks.append(stage)
        self.mid_block = Middle(widths[-1], config)
        self.up_blocks = nn.ModuleList()
        a = widths[-1]
        for i, b in enumerate(reversed(widths)):
            pairs = [((a if j == 0 else b) + skips.pop(), b) for j in range(config.blocks + 1)]
            stage = Stage(pairs, config, len(widths) - 1 - i, down=False)
            if i < len(widths) - 1:
                stage.upsamplers = nn.ModuleList([Upsample(b)])
            self.up_blocks.append(stage)
            a = b
        if config.patch > 1:
            self.around = nn.Linear(emb, config.out_channels * config.in_channels)
            zero(self.around)
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[0], eps=1e-5)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels * config.patch**2, 3, padding=1)

    def embed(self, noise: Tensor, pooled: Tensor | None = None, low_level: Tensor | None = None) -> Tensor:
        """The time embedding ``n e``, with all that is added to it."""
        config, dtype = self.config, self.conv_in.weight.dtype
        emb = self.time_embedding(sinusoid(noise, config.channels[0]).to(dtype))
        if config.classes:
            if low_level is None:
                raise ValueError("this network is told the noise level of its low-resolution input: give low_level")
            emb = emb + self.class_embedding(low_level.long())
        if config.added:
            if pooled is None or pooled.shape[-1] != config.added:
                raise ValueError(f"this network is told {config.added} numbers of the clip: give them as pooled")
            pooled = self.add_embedding(rearrange(sinusoid(pooled, ADDED_WIDTH), "n k e -> n (k e)").to(dtype))
        return emb if pooled is None else emb + pooled

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
        after: After | None = None,
        low_level: Tensor | None = None,
    ) -> Tensor:
        c = Call(self.embed(noise, pooled, low_level), tokens, mask, after)
        entered = x
        x = self.conv_in(self.fold(x))
        if self.config.patch > 1 and not torch.is_grad_enabled():
            # Faster on CPU for large maps of few channels. Not for training: torch 2.13's backward pass of the temporal
            # convolutions crashes on small maps that are laid out so.
            x = x.contiguous(memory_format=torch.channels_last)
        skips = [x]
        for i, stage in enumerate(cast(Iterable[Stage], self.down_blocks)):
            for j in range(len(stage.resnets)):
                x = stage.step(j, x, c, f"down_blocks.{i}")
                skips.append(x)
            for down in getattr(stage, "downsamplers", ()):
                x = down(x)
                skips.append(x)
        x = self.mid_block(x, c)
        for i, stage in enumerate(cast(Iterable[Stage], self.up_blocks)):
            for j in range(len(stage.resnets)):
                x = stage.step(j, torch.cat([x, skips.pop()], dim=1), c, f"up_blocks.{i}")
            for up in getattr(stage, "upsamplers", ()):
                x = up(x, skips[-1].shape[-2:])
        x = self.unfold(self.conv_out(F.silu(self.conv_norm_out(x))))
        return x if self.config.patch == 1 else x + around(self.around, entered, c.emb)

    def sites(self) -> Iterator[Site]:
        """Every place for a temporal layer, in the order of the forward pass. Level 0 is that of the first
        convolution: the full resolution, or that of the folded squares."""
        last = len(self.config.channels) - 1
        stages: list[tuple[str, Any, int]] = [
            *((f"down_blocks.{i}", s, i) for i, s in enumerate(self.down_blocks)),
            ("mid_block", self.mid_block, last),
            *((f"up_blocks.{i}", s, last - i) for i, s in enumerate(self.up_blocks)),
        ]
        for name, stage, level in stages:
            for j, resnet in enumerate(stage.resnets):
                channels = resnet.conv1.out_channels
                yield Site(f"{name}.resnets.{j}", channels, level, transformer=False)
                if hasattr(stage, "attentions") and j < len(stage.attentions):
                    for k, block in enumerate(stage.attentions[j].transformer_blocks):
                        yield Site(f"{name}.attentions.{j}.{k}", channels, level, True, block.only_cross)
