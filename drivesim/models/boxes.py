"""How a network is told where the boxes of every frame are: as planes at its input, as tokens, or both.

Planes say it where it holds, cell by cell, and cost nothing; their offsets keep what a cell of 8 pixels would round
away. Tokens are the paper's way [§4.1.2]: a transformer over the boxes of a frame, whose output the cross-attention
sees. "Not known" is a plane of zeros and no token at all; "none here" is a plane of ones and the one token that says
that all boxes have been told.
"""

import math

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from drivesim.models.blocks import Attention, FeedForward
from drivesim.scene import CLASSES, IGNORED, FrameBoxes

EDGES, OFFSETS, IDENTITY, KNOWN = 2, 4, 4, 1
PLANES = len(CLASSES) + EDGES + OFFSETS + IDENTITY + KNOWN
REACH = 2.0  # cells: offsets are finest near their edge, and fade into "far" beyond
TURNS = (0.6180339887498949, 0.7548776662466927)  # multiples of these spread evenly over [0, 1), whatever their number
FREQUENCIES = 8  # of the Fourier features of a box's sides: periods of 2 frames down to 1/64 of one


def planes(boxes: FrameBoxes, height: int, width: int) -> Tensor:
    """``B T P h w``, P = ``PLANES``, at ``height`` x ``width`` cells:

    - a plane a class: the share of the cell that its boxes cover,
    - upright and level edges, 1 where the edge goes through the cell's centre, 0 a cell away,
    - of the nearest box, that whose lower side is lowest: the distance from its left, upper, right and lower side to
      the cell's centre, positive inside, as tanh of cells / 2,
    - its identity: two turns of its track's number, as cosine and sine,
    - what is known: 1, less what a region covers that was not labelled; 0 where nothing is known.
    """
    x0, y0, x1, y1 = ((side * n)[..., None] for side, n in zip(boxes.box.unbind(-1), (width, height) * 2, strict=True))
    columns, rows = (torch.arange(n, device=boxes.box.device, dtype=boxes.box.dtype) for n in (width, height))
    across, down = _share(x0, x1, columns), _share(y0, y1, rows)
    covered = _product(down, across)  # b t n h w
    there = (boxes.known[..., None] & (boxes.cls >= 0))[..., None, None]
    own = covered * there
    classes = [(own * (boxes.cls == n)[..., None, None]).amax(2) for n in range(len(CLASSES))]
    upright = _product(down, torch.maximum(_tent(x0, columns), _tent(x1, columns))) * there
    level = _product(torch.maximum(_tent(y0, rows), _tent(y1, rows)), across) * there

    lowest, nearest = torch.where(own > 0, y1[..., None], -1.0).max(dim=2)  # over the boxes of a cell
    sides = (columns + 0.5 - x0, rows + 0.5 - y0, x1 - columns - 0.5, y1 - rows - 0.5)
    offsets = [torch.tanh(_of(side, nearest, upright=n % 2 == 0) / REACH) for n, side in enumerate(sides)]
    identity = [_of(number[..., None], nearest) for number in turns(boxes.track).to(own).unbind(-1)]
    of_nearest = torch.stack([*offsets, *identity], dim=2) * (lowest >= 0)[:, :, None]

    ignored = (covered * (boxes.cls == IGNORED)[..., None, None]).amax(2)
    known = boxes.known.to(own)[..., None, None] * (1 - ignored)
    return torch.cat([torch.stack([*classes, upright.amax(2), level.amax(2)], 2), of_nearest, known[:, :, None]], 2)


def coverage(boxes: FrameBoxes, height: int, width: int, small: float = 0.0) -> Tensor:
    """``B T 1 h w``: the largest share of each cell that one agent's box covers; 0 where nothing is known.

    Args:
        small: an agent of ``n`` cells counts ``(16 / n) ** small`` times, one of less than a cell as one of a cell:
            0 has all cells alike, 1 all agents, whatever their size.
    """
    x0, y0, x1, y1 = ((side * n)[..., None] for side, n in zip(boxes.box.unbind(-1), (width, height) * 2, strict=True))
    columns, rows = (torch.arange(n, device=boxes.box.device, dtype=boxes.box.dtype) for n in (width, height))
    there = boxes.known[..., None] & (boxes.cls >= 0)
    counted = there * (16 / ((x1 - x0) * (y1 - y0)).clamp(min=1)[..., 0]) ** small
    return (_product(_share(y0, y1, rows), _share(x0, x1, columns)) * counted[..., None, None]).amax(2, keepdim=True)


def _share(low: Tensor, high: Tensor, cells: Tensor) -> Tensor:
    """``... n``: how much of each cell lies between ``low`` and ``high``, ``... 1`` in cells."""
    return (torch.minimum(high, cells + 1) - torch.maximum(low, cells)).clamp(0, 1)


def _tent(edge: Tensor, cells: Tensor) -> Tensor:
    return (1 - (cells + 0.5 - edge).abs()).clamp(min=0)


def _product(down: Tensor, across: Tensor) -> Tensor:
    return down[..., :, None] * across[..., None, :]


def _of(numbers: Tensor, which: Tensor, upright: bool = True) -> Tensor:
    """``B T h w``: what ``numbers`` (``B T N w``, or ``B T N h`` unless ``upright``; 1 for all cells alike) say of the
    box ``which`` of each cell."""
    lined = numbers[..., None, :] if upright else numbers[..., :, None]
    return lined.expand(*numbers.shape[:3], *which.shape[-2:]).gather(2, which[:, :, None]).squeeze(2)


class BoxTokens(nn.Module):
    """Boxes of a frame to tokens ``B T (1 + N) D`` and their mask: Fourier features of the sides, class and track, then
    ``depth`` transformer layers among the tokens of the frame. The first token says that these are all."""

    def __init__(self, width: int, depth: int, head_channels: int = 32):
        super().__init__()
        self.sides = nn.Linear(4 * 2 * FREQUENCIES + 2 * len(TURNS), width)
        self.cls = nn.Embedding(len(CLASSES), width)
        self.all = nn.Parameter(torch.randn(width))
        heads = max(1, width // head_channels)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, boxes: FrameBoxes) -> tuple[Tensor, Tensor]:
        b, t, _ = boxes.cls.shape
        own = self.sides(torch.cat([fourier(boxes.box), turns(boxes.track)], -1).to(self.all.dtype))
        tokens = own + self.cls(boxes.cls.clamp(min=0))
        tokens = torch.cat([repeat(self.all, "d -> b t 1 d", b=b, t=t), tokens], dim=2)
        there = boxes.known[..., None] & (boxes.cls >= 0)
        mask = torch.cat([boxes.known[..., None], there], dim=2)
        x = rearrange(tokens, "b t l d -> (b t) l d")
        seen = rearrange(mask, "b t l -> (b t) l")
        for layer in self.layers:
            x = layer(x, seen | ~seen.any(1, keepdim=True))  # attention to nothing at all would be NaN
        return rearrange(self.norm(x), "(b t) l d -> b t l d", t=t), mask


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.ff = nn.LayerNorm(width), FeedForward(width)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn(normed, normed, seen)
        return x + self.ff(self.norm2(x))


def fourier(box: Tensor) -> Tensor:
    """``... 4`` to ``... 4 * 2 * FREQUENCIES``: sine and cosine of pi 2^k of every side."""
    scales = math.pi * 2.0 ** torch.arange(FREQUENCIES, device=box.device)
    angles = rearrange(box[..., None] * scales, "... s f -> ... (s f)")
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def turns(track: Tensor) -> Tensor:
    """``...`` to ``... 2 len(TURNS)``: what the planes of the identity say."""
    angles = 2 * math.pi * torch.frac(track[..., None].double() * torch.tensor(TURNS, device=track.device).double())
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float()
