"""3x3 convolutions with half the products, on a CPU and without gradients: Winograd's F(4, 3) [arXiv 1509.09308] along
the height.

Four rows of the output are made of six rows of the input: sums of rows, six convolutions (1,3) as groups of one, sums
again, 18 products where 36 were. The sums go along whole rows, which lie in one piece; along the width they would not,
and cost more than they spare. The error is some 1e-6 of the largest value, three times the plain convolution's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELLS, CHANNELS = 512, 64  # of a map at least: below, the sums and the six kernels cost what the products spare
HELD = 2**21  # numbers of the six sums that are made at once, of whole images
KERNELS = torch.tensor(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
    + [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
)  # ``f r``: G of the paper


def convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(x)``, ``n c h w``. Nothing that decides how depends on n."""
    return _quick(conv, x) if _worthwhile(conv, x) else conv(x)


def _worthwhile(conv: nn.Conv2d, x: Tensor) -> bool:
    h, w = x.shape[-2:]
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == conv.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and x.is_contiguous()
        and h % 4 == 0
        and h * w >= CELLS
        and min(conv.in_channels, conv.out_channels) >= CHANNELS
    )


def _quick(conv: nn.Conv2d, x: Tensor) -> Tensor:
    (n, c, h, w), out = x.shape, conv.out_channels
    kernels = torch.einsum("f r, o i r k -> f o i k", KERNELS, conv.weight).reshape(6 * out, c, 1, 3)
    made = x.new_empty(n, out, h, w)
    images = max(1, HELD // (6 * c * (h // 4) * w))
    for part, into in zip(x.split(images), made.split(images), strict=True):
        sums = _entering(part).view(-1, 6 * c, h // 4, w)
        products = F.conv2d(sums, kernels, padding=(0, 1), groups=6)
        _leaving(products.view(-1, 6, out, h // 4, w), conv.bias, into.view(-1, out, h // 4, 4, w))
    return made


def _entering(x: Tensor) -> Tensor:
    """``n 6 c h/4 w``: B' of the paper times six rows, every fourth of which begins a new six."""
    n, c, h, w = x.shape
    padded = F.pad(x, (0, 0, 1, 1))
    d0, d1, d2, d3, d4, d5 = (padded[:, :, r : r + h - 3 : 4] for r in range(6))
    sums = x.new_empty(n, 6, c, h // 4, w)
    even, odd = torch.sub(d4, d2, alpha=4), torch.sub(d3, d1, alpha=4)
    torch.add(even, odd, out=sums[:, 1])
    torch.sub(even, odd, out=sums[:, 2])
    torch.sub(d4, d2, out=even)
    torch.sub(d3, d1, out=odd)
    torch.add(even, odd, alpha=2, out=sums[:, 3])
    torch.sub(even, odd, alpha=2, out=sums[:, 4])
    torch.sub(d0, d2, out=sums[:, 0])
    torch.add(even, sums[:, 0], alpha=4, out=sums[:, 0])
    torch.sub(d5, d3, out=sums[:, 5])
    sums[:, 5].sub_(odd, alpha=4)
    return sums


def _leaving(m: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """A' of the paper times the six products ``n 6 c h/4 w``, plus the bias, to the rows of ``out`` n c h/4 4 w; ``m``
    is used up."""
    m0, m1, m2, m3, m4, m5 = m.unbind(1)
    y0, y1, y2, y3 = out.unbind(3)
    near, far = m1 + m2, m3 + m4
    m1.sub_(m2)
    m3.sub_(m4)
    if bias is not None:
        m1.add_(bias[:, None, None])
        near.add_(bias[:, None, None])
    torch.add(near, far, out=y0)
    y0.add_(m0)
    torch.add(m1, m3, alpha=2, out=y1)
    torch.add(near, far, alpha=4, out=y2)
    torch.add(m1, m3, alpha=8, out=y3)
    y3.add_(m5)
