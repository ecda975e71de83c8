"""The first stage [§3.1, Table 8]: frames to latents and back, regularised by KL. diffusers' ``AutoencoderKL`` by name.

Moments are ``n 2C h w``: mean and log-variance. Latents that leave are unscaled; the diffusion models whiten.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivesim import weights
from drivesim.models.blocks import Attention, Downsample, Resnet, Upsample


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
    groups: of the group norms.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent: int = 4
    attention: bool = True
    groups: int = 32
    patch: int = 1

    @property
    def f(self) -> int:
        return self.patch * 2 ** (len(self.channels) - 1)


class Level(nn.Module):
    """The residual blocks of one resolution, then down or up."""

    def __init__(self, channels: int, out: int, blocks: int, config: AutoencoderConfig, down: bool, up: bool):
        super().__init__()
        widths = [channels] + [out] * blocks
        self.resnets = nn.ModuleList(Resnet(a, b, 0, config.groups, 1e-6) for a, b in pairwise(widths))
        if down:
            self.downsamplers = nn.ModuleList([Downsample(out, padding=0)])
        if up:
            self.upsamplers = nn.ModuleList([Upsample(out)])

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        for change in (*getattr(self, "downsamplers", ()), *getattr(self, "upsamplers", ())):
            x = change(x)
        return x


class SpatialAttention(Attention):
    """Single-head self-attention over all cells with its own norm and residual."""

    def __init__(self, channels: int, groups: int):
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # the name in the files is diffusers'
        tokens = rearrange(self.group_norm(x), "n c h w -> n (h w) c")
        return x + rearrange(super().forward(tokens), "n (h w) c -> n c h w", h=x.shape[-2])


class Middle(nn.Module):
    def __init__(self, channels: int, config: AutoencoderConfig):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(channels, channels, 0, config.groups, 1e-6) for _ in range(2))
        if config.attention:
            self.attentions = nn.ModuleList([SpatialAttention(channels, config.groups)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in getattr(self, "attentions", ()):
            x = attention(x)
        return self.resnets[1](x)


class Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = config.channels
        self.fold = nn.PixelUnshuffle(config.patch)
        self.conv_in = nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(a, b, config.blocks, config, down=i < len(widths) - 1, up=False)
            for i, (a, b) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.mid_block = Middle(widths[-1], config)
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(self.fold(x))
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths = config.channels[::-1]
        self.conv_in = nn.Conv2d(config.latent, widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], config)
        self.up_blocks = nn.ModuleList(
            Level(a, b, config.blocks + 1, config, down=False, up=i < len(widths) - 1)
            for i, (a, b) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 3 * config.patch**2, 3, padding=1)
        self.unfold = nn.PixelShuffle(config.patch)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            x = level(x)
        return self.unfold(self.conv_out(F.silu(self.conv_norm_out(x))))


class Autoencoder(nn.Module):
    """``encode`` n 3 H W -> moments n 2C h w; ``decode`` n C h w -> n 3 H W, both in [-1, 1]."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent, 2 * config.latent, 1)
        self.post_quant_conv = nn.Conv2d(config.latent, config.latent, 1)

    def encode(self, x: Tensor) -> Tensor:
        if x.shape[-2] % self.config.f or x.shape[-1] % self.config.f:
            raise ValueError(f"{x.shape[-2]}x{x.shape[-1]} does not divide by f = {self.config.f}")
        return self.quant_conv(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))

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
    values = dict(header.config)
    return AutoencoderConfig(**{**values, "channels": tuple(values["channels"])})


def split_moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    """``... 2C h w`` to mean and standard deviation ``... C h w``; the log-variance kept in [-30, 20]."""
    mean, log_variance = moments.chunk(2, dim=-3)
    return mean, torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))


def kl(moments: Tensor) -> Tensor:
    """KL divergence from N(0, 1) in nats, mean over all elements of the latents."""
    mean, log_variance = moments.float().chunk(2, dim=-3)
    log_variance = log_variance.clamp(-30.0, 20.0)
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
