"""The first stage [§3.1, Table 8]: frames to latents and back. By name diffusers' ``AutoencoderKL`` or ``VQModel``.

Moments are ``n 2C h w``: mean and log-variance. Latents that leave are unscaled; the diffusion models whiten. With a
codebook, as in latent diffusion, latents leave unquantised and are quantised on their way into the decoder: a posterior
without variance, so that nothing behind the autoencoder asks which of the two it is.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivesim import weights
from drivesim.models.blocks import Attention, Downsample, Resnet, Upsample, tuples

CERTAIN = -30.0  # the log-variance of a latent without any; also the least that is read
After = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class AutoencoderConfig:
    """Args:
    channels: width of each level; ``f = patch * 2 ** (levels - 1)``: four levels are the paper's f = 8.
    patch: side of the squares of pixels that are folded into channels before the first convolution and unfolded behind
        the last; 1, the paper's, for none. Full-resolution layers cost most: on two cores ``patch`` 4 with one level
        learns about ten times as fast as three levels.
    blocks: residual blocks a level (the decoder has one more, as in Stable Diffusion).
    latent: channels of the latent.
    attention: self-attention in the middle, as in Stable Diffusion; small models do without.
    level_attention: levels with self-attention behind every residual block; none named is none, as in Stable Diffusion.
    groups: of the group norms.
    regularizer: ``kl``, a Gaussian posterior, or ``vq``, a codebook of ``codebook`` entries (the driving model's); or
        ``none``, no network at all: pixels are their own latents, for models of pixels.
    commitment: weight of the pull on the encoder towards the codebook; that on the codebook has 1 (VQ-VAE's 0.25).
    post_quant: the 1x1 convolution before the decoder; SVD's autoencoder has none.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent: int = 4
    attention: bool = True
    groups: int = 32
    patch: int = 1
    level_attention: tuple[bool, ...] = ()
    regularizer: Literal["kl", "vq", "none"] = "kl"
    codebook: int = 16384
    commitment: float = 0.25
    post_quant: bool = True

    def __post_init__(self) -> None:
        if self.level_attention and len(self.level_attention) != len(self.channels):
            raise ValueError(f"level_attention has {len(self.level_attention)} levels, channels {len(self.channels)}")
        if self.regularizer not in ("kl", "vq", "none") or self.codebook < 1:
            raise ValueError("regularizer is 'kl', 'vq' or 'none', and a codebook has entries")
        if self.regularizer == "none" and self.latent != 3:
            raise ValueError(f"pixels have 3 channels, not {self.latent}")

    def attention_at(self, level: int) -> bool:
        return bool(self.level_attention) and self.level_attention[level]

    @property
    def f(self) -> int:
        return 1 if self.regularizer == "none" else self.patch * 2 ** (len(self.channels) - 1)


class SpatialAttention(Attention):
    """Single-head self-attention over all cells with its own norm and residual."""

    def __init__(self, channels: int, groups: int):
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # the name in the files is diffusers'
        tokens = rearrange(self.group_norm(x), "n c h w -> n (h w) c")
        return x + rearrange(super().forward(tokens), "n (h w) c -> n c h w", h=x.shape[-2])


class Level(nn.Module):
    """The residual blocks of one resolution, self-attention behind each where there is any, then down or up."""

    def __init__(self, channels: int, out: int, blocks: int, config: AutoencoderConfig, attention: bool):
        super().__init__()
        widths = [channels] + [out] * blocks
        self.resnets = nn.ModuleList(Resnet(a, b, 0, config.groups, 1e-6) for a, b in pairwise(widths))
        if attention:
            self.attentions = nn.ModuleList(SpatialAttention(out, config.groups) for _ in range(blocks))

    def forward(self, x: Tensor, site: str = "", after: After | None = None) -> Tensor:
        for i, resnet in enumerate(self.resnets):
            x = resnet(x)
            x = x if after is None else after(f"{site}.resnets.{i}", x)
            if hasattr(self, "attentions"):
                x = self.attentions[i](x)
        for change in (*getattr(self, "downsamplers", ()), *getattr(self, "upsamplers", ())):
            x = change(x)
        return x


class Middle(nn.Module):
    def __init__(self, channels: int, config: AutoencoderConfig):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(channels, channels, 0, config.groups, 1e-6) for _ in range(2))
        if config.attention:
            self.attentions = nn.ModuleList([SpatialAttention(channels, config.groups)])

    def forward(self, x: Tensor, after: After | None = None) -> Tensor:
        x = self.resnets[0](x)
        x = x if after is None else after("mid_block.resnets.0", x)
        for attention in getattr(self, "attentions", ()):
            x = attention(x)
        x = self.resnets[1](x)
        return x if after is None else after("mid_block.resnets.1", x)


class Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = config.channels
        self.fold = nn.PixelUnshuffle(config.patch)
        self.conv_in = nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for i, (a, b) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            level = Level(a, b, config.blocks, config, config.attention_at(i))
            if i < len(widths) - 1:
                level.downsamplers = nn.ModuleList([Downsample(b, padding=0)])
            self.down_blocks.append(level)
        self.mid_block = Middle(widths[-1], config)
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[-1], eps=1e-6)
        out = 2 * config.latent if config.regularizer == "kl" else config.latent
        self.conv_out = nn.Conv2d(widths[-1], out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(self.fold(x))
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """``after`` is called behind every residual block, with its name: that is where temporal layers stand [§3.1.1]."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = config.channels[::-1]
        self.conv_in = nn.Conv2d(config.latent, widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], config)
        self.up_blocks = nn.ModuleList()
        for i, (a, b) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            level = Level(a, b, config.blocks + 1, config, config.attention_at(len(widths) - 1 - i))
            if i < len(widths) - 1:
                level.upsamplers = nn.ModuleList([Upsample(b)])
            self.up_blocks.append(level)
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 3 * config.patch**2, 3, padding=1)
        self.unfold = nn.PixelShuffle(config.patch)

    def forward(self, z: Tensor, after: After | None = None) -> Tensor:
        x = self.mid_block(self.conv_in(z), after)
        for i, level in enumerate(self.up_blocks):
            x = level(x, f"up_blocks.{i}", after)
        return self.unfold(self.conv_out(F.silu(self.conv_norm_out(x))))


class Codebook(nn.Module):
    """Vector quantisation: every cell becomes the nearest of ``entries`` vectors."""

    def __init__(self, entries: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(entries, width)
        nn.init.uniform_(self.embedding.weight, -1.0 / entries, 1.0 / entries)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """``n C h w`` to the index of each cell's entry, ``n h w``; in float32, some thousand cells at a time."""
        entries = self.embedding.weight.float()
        kind = z.device.type
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            cells = rearrange(z.float(), "n c h w -> (n h w) c")
            lengths = entries.square().sum(dim=1)
            found = [(lengths - 2 * part @ entries.T).argmin(dim=1) for part in cells.split(4096)]
        return rearrange(torch.cat(found), "(n h w) -> n h w", n=z.shape[0], h=z.shape[-2])

    def entries(self, z: Tensor) -> Tensor:
        """The nearest entries, ``n C h w``, with a gradient to the codebook."""
        return rearrange(self.embedding(self.nearest(z)), "n h w c -> n c h w").to(z.dtype)

    def forward(self, z: Tensor) -> Tensor:
        """Quantised; the gradient passes straight through to ``z``."""
        return z + (self.entries(z) - z).detach()


class Autoencoder(nn.Module):
    """``encode`` n 3 H W -> moments n 2C h w; ``decode`` n C h w -> n 3 H W, both in [-1, 1]."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        if config.regularizer == "none":
            return
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        width = self.encoder.conv_out.out_channels
        self.quant_conv = nn.Conv2d(width, width, 1)
        if config.regularizer == "vq":
            self.quantize = Codebook(config.codebook, config.latent)
        if config.post_quant:
            self.post_quant_conv = nn.Conv2d(config.latent, config.latent, 1)

    def encode(self, x: Tensor) -> Tensor:
        if x.shape[-2] % self.config.f or x.shape[-1] % self.config.f:
            raise ValueError(f"{x.shape[-2]}x{x.shape[-1]} does not divide by f = {self.config.f}")
        z = x if self.config.regularizer == "none" else self.quant_conv(self.encoder(x))
        return z if self.config.regularizer == "kl" else torch.cat([z, torch.full_like(z, CERTAIN)], dim=1)

    def decode(self, z: Tensor, after: After | None = None) -> Tensor:
        if self.config.regularizer == "none":
            return z
        if self.config.regularizer == "vq":
            z = self.quantize(z)
        return self.decoder(self.post_quant_conv(z) if self.config.post_quant else z, after)

    def codebook_loss(self, z: Tensor) -> Tensor:
        """VQ-VAE's [arXiv 1711.00937, eq. 3], mean over all elements: the entries to the latents, and back."""
        z = z.float()
        entries = self.quantize.entries(z)
        return F.mse_loss(entries, z.detach()) + self.config.commitment * F.mse_loss(z, entries.detach())

    @classmethod
    def load(cls, file: str | Path) -> "Autoencoder":
        """From a weight file of stage ``autoencoder``, in evaluation mode.

        Raises:
            errors.Mistake: a missing file, another stage, other tensors.
        """
        tensors, header = weights.load(file, "autoencoder")
        model = cls(config_of(header))
        weights.fill(model, tensors, file)
        return model.eval().requires_grad_(False)


def config_of(header: weights.Header) -> AutoencoderConfig:
    return AutoencoderConfig(**tuples(header.config))


def split_moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    """``... 2C h w`` to mean and standard deviation ``... C h w``; the log-variance kept in [-30, 20]."""
    mean, log_variance = moments.chunk(2, dim=-3)
    return mean, torch.exp(0.5 * log_variance.clamp(CERTAIN, 20.0))


def kl(moments: Tensor) -> Tensor:
    """KL divergence from N(0, 1) in nats, mean over all elements of the latents."""
    mean, log_variance = moments.float().chunk(2, dim=-3)
    log_variance = log_variance.clamp(CERTAIN, 20.0)
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
