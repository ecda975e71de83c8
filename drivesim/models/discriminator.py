"""The patch discriminator of latent diffusion's first stage [§3.1.1] and its losses."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """``n 3 H W -> n 1 h w`` logits, one a patch: strided 4x4 convolutions (pix2pix).

    Group norm instead of batch norm: batches are small here, and a batch norm would tie real and generated together.
    """

    def __init__(self, width: int = 64, layers: int = 3):
        super().__init__()
        widths = [min(2**i, 8) * width for i in range(layers + 1)]
        steps: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i, (a, b) in enumerate(pairwise(widths)):
            stride = 2 if i < layers - 1 else 1
            steps += [nn.Conv2d(a, b, 4, stride, 1, bias=False), nn.GroupNorm(8, b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*steps, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def hinge(real: Tensor, generated: Tensor) -> Tensor:
    """The discriminator's hinge loss."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + generated).mean())


def adversarial_weight(nll: Tensor, g: Tensor, last: Tensor) -> Tensor:
    """``|grad of nll| / |grad of g|`` at the last layer, in [0, 1e4] (latent diffusion's adaptive weight)."""
    of_nll = torch.autograd.grad(nll, last, retain_graph=True)[0].norm()
    of_g = torch.autograd.grad(g, last, retain_graph=True)[0].norm()
    return (of_nll / (of_g + 1e-4)).clamp(0.0, 1e4).detach()
