"""The decoder with temporal layers [§3.1.1]: neighbouring frames are decoded together, so that they do not flicker.

The image autoencoder stays as it is; behind every residual block of its decoder stands a 3-D residual block, mixed in
by alpha. Encoding stays per frame. With other numbers it is SVD's temporal decoder, whose files hold the alpha of the
*temporal* output: ``pretrained`` turns their sign.

Thin, it has a decoder of its own in the place of the autoencoder's: with few steps of sampling, decoding is a large
share of the work, and much of it is width that a rollout does not need.

*(open)* in the paper, and the choice: alpha is one number a block, so that any number of frames can be decoded; norms
are per frame, so that chunks agree.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from drivesim.models.autoencoder import Autoencoder, AutoencoderConfig, Decoder
from drivesim.models.temporal import Mixer, ResnetSite, TemporalResnet, graft, over_time, run_over_time


@dataclass(frozen=True)
class DecoderConfig:
    """Args:
    frames: T that it is trained on [Table 8]; it decodes any number.
    kernel: side of the convolutions in space; they span 3 frames: 3, the paper's (3,3,3), or 1, SVD's (3,1,1).
    alpha_start: alpha before training.
    norm: group norms over one ``frame`` or over the ``clip`` (SVD).
    last: a convolution (3,1,1) over the frames that leave, as SVD's has; it starts as the identity.
    channels: width of each level of a decoder of its own, without attention, over the same latents; fewer levels than
        the autoencoder's fold more pixels into channels. None named is the autoencoder's decoder itself.
    blocks: its residual blocks a level, less one, as an autoencoder's.
    """

    frames: int = 6
    kernel: int = 3
    alpha_start: float = 0.5
    norm: Literal["frame", "clip"] = "frame"
    last: bool = False
    channels: tuple[int, ...] = ()
    blocks: int = 1

    def __post_init__(self) -> None:
        if self.kernel not in (1, 3) or self.norm not in ("frame", "clip"):
            raise ValueError("kernel is 1 or 3, norm is 'frame' or 'clip'")
        if not 0.0 < self.alpha_start < 1.0 or self.frames < 1:
            raise ValueError("needs 0 < alpha_start < 1 and frames >= 1")

    def thin(self, own: AutoencoderConfig) -> AutoencoderConfig | None:
        """What its own decoder is like, over the latents of ``own``; None where it has none.

        Raises:
            ValueError: more levels than the latents' f has halvings, or widths that groups do not divide.
        """
        if not self.channels:
            return None
        patch, rest = divmod(own.f, 2 ** (len(self.channels) - 1))
        if rest or not patch or any(width % own.groups for width in self.channels):
            raise ValueError(f"channels are at most {own.f.bit_length()} levels, each a multiple of {own.groups}")
        return replace(
            own, channels=self.channels, blocks=self.blocks, attention=False, level_attention=(), patch=patch,
            regularizer="kl",
        )  # fmt: skip


class DecoderLayers(nn.Module):
    """All temporal layers of one autoencoder's decoder, under the names of the blocks that they stand behind; and the
    decoder itself, where it is another than the autoencoder's."""

    def __init__(self, config: DecoderConfig, autoencoder: Autoencoder):
        super().__init__()
        self.config = config
        decoder, groups = autoencoder.decoder, autoencoder.config.groups
        thin = config.thin(autoencoder.config)
        self.spatial = None if thin is None else Decoder(thin)
        decoder = self.spatial or decoder
        stages: dict[str, Any] = {f"up_blocks.{i}": stage for i, stage in enumerate(decoder.up_blocks)}
        for name, stage in ({"mid_block": decoder.mid_block} | stages).items():
            for i, resnet in enumerate(stage.resnets):
                channels = resnet.conv1.out_channels
                block = TemporalResnet(channels, groups, norm=config.norm, kernel=config.kernel)
                self.last_site = f"{name}.resnets.{i}"
                graft(self, self.last_site, ResnetSite(block, Mixer(1, config.alpha_start)))
        if config.last:
            self.time_conv_out = over_time(3, 3, 1)
            with torch.no_grad():
                nn.init.dirac_(self.time_conv_out.weight)
                nn.init.zeros_(self.time_conv_out.bias)  # type: ignore[arg-type]  # it has one

    def at(self, site: str, x: Tensor, t: int) -> Tensor:
        return self.get_submodule(site)(x, t)

    @property
    def last_weight(self) -> Tensor:
        """Of the convolution that is the last on the way to the pixels: behind it everything is the image decoder's."""
        if self.config.last:
            return self.time_conv_out.weight
        if self.spatial is not None:
            return self.spatial.conv_out.weight
        site = self.get_submodule(self.last_site)
        assert isinstance(site, ResnetSite)
        return site.temporal_res_block.conv2.weight


class VideoDecoder(nn.Module):
    """``decode`` B T C h w -> B T 3 H W. ``temporal`` None is the image decoder on every frame, bit for bit."""

    def __init__(self, autoencoder: Autoencoder, temporal: DecoderLayers | None = None):
        super().__init__()
        self.autoencoder = autoencoder
        self.temporal = temporal

    def decode(self, z: Tensor) -> Tensor:
        t, temporal = z.shape[1], self.temporal
        flat = rearrange(z, "b t c h w -> (b t) c h w")
        if temporal is None:
            out = self.autoencoder.decode(flat)
        else:
            decode = temporal.spatial or self.autoencoder.decode
            out = decode(flat, lambda site, h: temporal.at(site, h, t))
            if temporal.config.last:
                out = run_over_time(temporal.time_conv_out, out, t)
        return rearrange(out, "(b t) c h w -> b t c h w", t=t)
