"""The decoder with temporal layers [§3.1.1]: neighbouring frames are decoded together, so that they do not flicker.

The image autoencoder stays as it is; behind every residual block of its decoder stands a 3-D residual block, mixed in
by alpha. Encoding stays per frame. With other numbers it is SVD's temporal decoder, whose files hold the alpha of the
*temporal* output: ``pretrained`` turns their sign.

*(open)* in the paper, and the choice: alpha is one number a block, so that any number of frames can be decoded; norms
are per frame, so that chunks agree.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from drivesim.models.autoencoder import Autoencoder
from drivesim.models.temporal import Mixer, ResnetSite, TemporalResnet, graft, over_time, run_over_time


@dataclass(frozen=True)
class DecoderConfig:
    """Args:
    frames: T that it is trained on [Table 8]; it decodes any number.
    kernel: side of the convolutions in space; they span 3 frames: 3, the paper's (3,3,3), or 1, SVD's (3,1,1).
    alpha_start: alpha before training.
    norm: group norms over one ``frame`` or over the ``clip`` (SVD).
    last: a convolution (3,1,1) over the frames that leave, as SVD's has; it starts as the identity.
    """

    frames: int = 6
    kernel: int = 3
    alpha_start: float = 0.5
    norm: Literal["frame", "clip"] = "frame"
    last: bool = False

    def __post_init__(self) -> None:
        if self.kernel not in (1, 3) or self.norm not in ("frame", "clip"):
            raise ValueError("kernel is 1 or 3, norm is 'frame' or 'clip'")
        if not 0.0 < self.alpha_start < 1.0 or self.frames < 1:
            raise ValueError("needs 0 < alpha_start < 1 and frames >= 1")


class DecoderLayers(nn.Module):
    """All temporal layers of one autoencoder's decoder, under the names of the blocks that they stand behind."""

    def __init__(self, config: DecoderConfig, autoencoder: Autoencoder):
        super().__init__()
        self.config = config
        decoder, groups = autoencoder.decoder, autoencoder.config.groups
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
            out = self.autoencoder.decode(flat, lambda site, h: temporal.at(site, h, t))
            if temporal.config.last:
                out = run_over_time(temporal.time_conv_out, out, t)
        return rearrange(out, "(b t) c h w -> b t c h w", t=t)
