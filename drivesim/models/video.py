"""The video model: an image U-Net on every frame, temporal layers between [§3.1]. Without the layers it is the image
model."""

from dataclasses import asdict
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from drivesim.models.conditions import LabelTokens
from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.unet import UNet, UNetConfig
from drivesim.scene import Condition


class VideoUNet(nn.Module):
    """``forward(x B T C h w, noise B T, condition) -> B T C h w``. ``temporal`` None is the image model, bit for
    bit."""

    def __init__(self, spatial: UNet, temporal: TemporalLayers | None = None):
        super().__init__()
        self.spatial = spatial
        self.temporal = temporal

    def forward(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        t = x.shape[1]
        flat, level = rearrange(x, "b t c h w -> (b t) c h w"), rearrange(noise, "b t -> (b t)")
        tokens, mask = (
            None if y is None else repeat(y, "b l ... -> (b t) l ...", t=t) for y in (condition.tokens, condition.mask)
        )
        pooled = None if condition.pooled is None else repeat(condition.pooled, "b e -> (b t) e", t=t)
        temporal = self.temporal
        if temporal is None:
            out = self.spatial(flat, level, tokens, mask, pooled)
        else:
            temporal.check(t)
            features = temporal.features(x, condition)
            emb = temporal.embedding(self.spatial.embed(level), condition, t)
            out = self.spatial(
                flat, level, tokens, mask, pooled, after=lambda site, h: temporal.at(site, h, t, emb, features)
            )
        return rearrange(out, "(b t) c h w -> b t c h w", t=t)


class ImageModel(nn.Module):
    """What the stage ``image`` trains: the U-Net and the tokens of the labels, in one file."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.unet = UNet(config)
        self.labels = LabelTokens(config.cross) if config.cross else None


def unet_config(values: dict[str, Any]) -> UNetConfig:
    """From the plain values of a weight file's header."""
    known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return UNetConfig(**known)


def temporal_config(values: dict[str, Any]) -> TemporalConfig:
    return TemporalConfig(**values)


def interface(config: UNetConfig) -> str:
    """Hash of the shapes at the sites: temporal layers fit every image model that has the same."""
    from drivesim.config import digest

    with torch.device("meta"):
        sites = [asdict(site) for site in UNet(config).sites()]
    return digest({"sites": sites, "embedding": config.embedding, "latent": config.out_channels})
