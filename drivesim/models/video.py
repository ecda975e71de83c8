"""The video model: an image U-Net on every frame, temporal layers between [§3.1]. Without the layers it is the image
model."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from drivesim.models.blocks import tuples
from drivesim.models.boxes import PLANES, BoxTokens, planes
from drivesim.models.conditions import LabelTokens
from drivesim.models.context import masked
from drivesim.models.temporal import TemporalConfig, TemporalLayers, Told
from drivesim.models.unet import After, UNet, UNetConfig
from drivesim.scene import Condition, FrameBoxes


class VideoUNet(nn.Module):
    """``forward(x B T C h w, noise B T, condition) -> B T C h w``. ``temporal`` None is the image model, bit for
    bit."""

    def __init__(self, spatial: UNet, temporal: TemporalLayers | None = None):
        super().__init__()
        self.spatial = spatial
        self.temporal = temporal

    def forward(self, x: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        t = x.shape[1]
        entering = rearrange(self._joined(x, condition), "b t c h w -> (b t) c h w")
        level = rearrange(noise, "b t -> (b t)")
        pooled, low_level = (
            None if y is None else repeat(y, "b ... -> (b t) ...", t=t) for y in (condition.pooled, condition.low_level)
        )
        tokens, mask = _tokens(condition, t)
        after: After | None = None
        told: Told | None = None
        if (temporal := self.temporal) is not None:
            told = temporal.told(x, self.spatial.embed(level, pooled, low_level), condition)
            after = partial(temporal.at, told)
        out = self.spatial(entering, level, tokens, mask, pooled, after, low_level)
        out = rearrange(out, "(b t) c h w -> b t c h w", t=t)
        return out if temporal is None or told is None else temporal.beside(out, x, told)

    def _joined(self, x: Tensor, condition: Condition) -> Tensor:
        """``x`` with what the network has beside it at its input; no context is zeros, as in training without it."""
        parts = [x]
        context, shown = condition.context, condition.context_mask
        for name in self.spatial.config.joined:
            if name == "low":
                if condition.low is None or condition.low.shape[-2:] != x.shape[-2:]:
                    raise ValueError("this network sees the low-resolution frames, resized to the latents': give low")
                parts.append(condition.low.to(x.dtype))
            elif name == "boxes":
                told = x.new_zeros(*x.shape[:2], PLANES, *x.shape[3:])  # not known
                parts.append(told if condition.planes is None else condition.planes.to(x.dtype))
            elif context is None or shown is None:
                parts.append(torch.zeros_like(x if name == "context" else x[:, :, :1]))
            else:
                planes = masked(context.to(x.dtype), shown)
                parts.append(planes[:, :, :-1] if name == "context" else planes[:, :, -1:])
        return torch.cat(parts, dim=2) if len(parts) > 1 else x


def _tokens(condition: Condition, t: int) -> tuple[Tensor | None, Tensor | None]:
    """What the cross-attention of every frame sees, ``(b t) l d`` and mask: the clip's tokens, then its boxes'."""
    tokens, mask = (
        None if y is None else repeat(y, "b ... -> (b t) ...", t=t) for y in (condition.tokens, condition.mask)
    )
    if condition.box_tokens is None or condition.box_mask is None or tokens is None:
        return tokens, mask
    boxes, told = (rearrange(y, "b t ... -> (b t) ...") for y in (condition.box_tokens, condition.box_mask))
    seen = torch.ones_like(tokens[..., 0], dtype=torch.bool) if mask is None else mask
    return torch.cat([tokens, boxes.to(tokens.dtype)], dim=1), torch.cat([seen, told], dim=1)


class ImageModel(nn.Module):
    """What the stage ``image`` trains: the U-Net, the tokens of the labels and those of boxes, in one file."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.unet = UNet(config)
        self.labels = LabelTokens(config.cross) if config.cross and not config.text else None
        self.boxes = BoxTokens(config.cross, config.box_tokens) if config.cross and config.box_tokens else None

    @property
    def takes_boxes(self) -> bool:
        return self.boxes is not None or "boxes" in self.unet.config.joined

    def told(self, boxes: FrameBoxes | None, cells: tuple[int, int], condition: Condition) -> Condition:
        """``condition`` with ``boxes``, as this model is told them, for ``cells`` = (h, w); None: nothing is known."""
        if boxes is None:
            return condition
        drawn = planes(boxes, *cells) if "boxes" in self.unet.config.joined else None
        tokens, mask = (None, None) if self.boxes is None else self.boxes(boxes)
        return replace(condition, planes=drawn, box_tokens=tokens, box_mask=mask)


class WholeModel(nn.Module):
    """An image model and temporal layers that were trained together: the text model's interpolation [H.2].

    They lie in one file, whose header's configuration is ``{"model": ..., "temporal": ...}``.
    """

    def __init__(self, model: UNetConfig, temporal: TemporalConfig):
        super().__init__()
        self.image = ImageModel(model)
        self.temporal = TemporalLayers(temporal, self.image.unet)

    @property
    def network(self) -> VideoUNet:
        return VideoUNet(self.image.unet, self.temporal)


def unet_config(values: dict[str, Any]) -> UNetConfig:
    """From the plain values of a weight file's header."""
    return UNetConfig(**tuples(values))


def temporal_config(values: dict[str, Any]) -> TemporalConfig:
    return TemporalConfig(**tuples(values))


def interface(config: UNetConfig) -> str:
    """Hash of the shapes at the sites: temporal layers fit every image model that has the same."""
    from drivesim.config import digest

    with torch.device("meta"):
        found = list(UNet(config).sites())
    sites = [{"name": s.name, "channels": s.channels, "level": s.level, "transformer": s.transformer} for s in found]
    folded = {"patch": config.patch} if config.patch > 1 else {}  # without it as before: old files keep their hash
    return digest({"sites": sites, "embedding": config.embedding, "latent": config.out_channels, **folded})
