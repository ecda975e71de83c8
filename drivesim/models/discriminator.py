"""The patch discriminators of the first stage, of frames and of video [§3.1.1], and their losses."""

from itertools import pairwise

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """``n 3 H W -> n 1 h w`` logits, one a patch: strided 4x4 convolutions (pix2pix).

    Group norm instead of batch norm: batches are small here, and a batch norm would tie real and generated together.
    """

    def __init__(self, width: int = 64, layers: int = 3):
        super().__init__()
        widths = [min(2**i, 8) * width for i in range(layers + 1)]
        steps: list[nn.Module] = [self._patches(3, width, 2), nn.LeakyReLU(0.2)]
        for i, (a, b) in enumerate(pairwise(widths)):
            stride = 2 if i < layers - 1 else 1
            steps += [self._patches(a, b, stride, bias=False), nn.GroupNorm(8, b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*steps, self._patches(widths[-1], 1, 1))

    def _patches(self, channels: int, out: int, stride: int, bias: bool = True) -> nn.Module:
        return nn.Conv2d(channels, out, 4, stride, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class VideoPatchDiscriminator(PatchDiscriminator):
    """``B T 3 H W -> B T 1 h w`` logits, one a patch of space and time: the same layers, each over three frames too.

    *(open in the paper)*: how it is built beyond "patch-wise, 3-D". Strided in space alone, since T = 6 is short: five
    layers see five frames to either side, the whole clip. A Conv3d may be, since nothing that is generated runs it.
    """

    def _patches(self, channels: int, out: int, stride: int, bias: bool = True) -> nn.Module:
        return nn.Conv3d(channels, out, (3, 4, 4), (1, stride, stride), 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.layers(rearrange(x, "b t c h w -> b c t h w")), "b c t h w -> b t c h w")


def hinge(real: Tensor, generated: Tensor) -> Tensor:
    """The discriminator's hinge loss."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + generated).mean())


def adversarial_weight(of_nll: Tensor, of_g: Tensor) -> Tensor:
    """``|grad of nll| / |grad of g|``, both at the last layer, in [0, 1e4] (latent diffusion's adaptive weight)."""
    return (of_nll.norm() / (of_g.norm() + 1e-4)).clamp(0.0, 1e4).detach()
