"""What is given of a window [§3.2]: masked latents, their blend, and the network that makes features of them."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from drivesim.models.unet import Fold


class ContextNetwork(nn.Module):
    """c_S -> features at every level's resolution by a learned downsampling network [§3.2].

    c_S is (mask z, mask), of the given latents, or the low-resolution frames of an upsampler. It is folded as the image
    model folds its own input, so that the resolutions of their levels meet.
    """

    def __init__(self, planes: int, width: int, levels: int, patch: int = 1):
        super().__init__()
        self.fold = Fold(patch)
        self.conv_in = nn.Conv2d(planes * patch**2, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(levels - 1))

    def forward(self, planes: Tensor) -> list[Tensor]:
        """``b t p h w`` to features ``(b t) c h w`` of each level."""
        features = [F.silu(self.conv_in(self.fold(rearrange(planes, "b t p h w -> (b t) p h w"))))]
        for down in self.down:
            features.append(F.silu(down(features[-1])))
        return features


def masked(context: Tensor, mask: Tensor) -> Tensor:
    """(mask z, mask) as ``b t p h w`` [§3.2]."""
    plane = repeat(mask.to(context.dtype), "b t -> b t 1 h w", h=context.shape[-2], w=context.shape[-1])
    return torch.cat([context * plane, plane], dim=2)


def shown(context: Tensor, mask: Tensor, spread: tuple[int, ...]) -> Tensor:
    """``masked``, behind it the planes of the frames at the places ``spread``, which every frame is shown besides."""
    t, own = context.shape[1], masked(context, mask)
    empty = torch.zeros_like(own[:, 0])
    others = (own[:, n] if -t <= n < t else empty for n in spread)
    return torch.cat([own, *(repeat(planes, "b p h w -> b t p h w", t=t) for planes in others)], dim=2)


def blended(context: Tensor, mask: Tensor) -> Tensor:
    """Every frame of ``b t c h w`` as the linear blend of the nearest frames that ``mask`` (b t) gives before and
    behind it; as the nearest, where one side has none; zeros where nothing is given."""
    t = mask.shape[1]
    places = torch.arange(t, device=mask.device)
    apart = places[:, None] - places
    none = 2 * t  # further than any frame is
    left, first = torch.where((mask[:, None] > 0) & (apart >= 0), apart, none).min(dim=2)
    right, last = torch.where((mask[:, None] > 0) & (apart <= 0), -apart, none).min(dim=2)
    share = torch.where(right == none, 0.0, torch.where(left == none, 1.0, left / (left + right).clamp(min=1)))
    weights = torch.lerp(F.one_hot(first, t).float(), F.one_hot(last, t).float(), share[..., None])
    return torch.einsum("b t s, b s c h w -> b t c h w", (weights * mask[:, None]).to(context.dtype), context)
