"""A large frame in tiles: less memory, and a seam at no place that stays.

Every step's prediction is made tile by tile and blended before the next step is taken [MultiDiffusion, arXiv
2302.08113], from noise that belongs to the whole frame. So neighbouring tiles never drift apart.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from drivesim.scene import Condition, Level

Denoise = Callable[[Tensor, Level, Condition], Tensor]
Size = tuple[int, int]


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin that cover ``length``, each sharing ``overlap`` or more with the next; the last one ends at it.

    ::

        |0------------|                         length 30, tile 14, overlap 4
                  |10-----------|
                            |16-----------|
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"tiles of {tile} cannot share {overlap}")
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def ramp(length: int, begin: bool, end: bool, overlap: int) -> Tensor:
    """Weights of a tile along one side: they fall linearly over ``overlap`` at the sides that meet another tile."""
    places = torch.arange(1, length + 1, dtype=torch.float32)
    weight = torch.ones(length)
    if begin:
        weight = weight.minimum(places / (overlap + 1))
    if end:
        weight = weight.minimum(places.flip(0) / (overlap + 1))
    return weight


def blended(
    call: Callable[[Tensor, Any], Tensor],
    x: Tensor,
    tile: Size,
    overlap: int,
    channels: int | None = None,
    scale: int = 1,
) -> Tensor:
    """What ``call`` makes of the tiles of ``x`` ``... c h w``, each fading into the next where they overlap.

    Args:
        call: is given a tile and its place in ``x``, and makes ``channels`` (None: as many as come in) on ``scale``
            times as many cells a side.
        tile: height and width in cells of ``x``; ``overlap`` likewise.
    """
    (height, width), (h, w) = x.shape[-2:], tile
    size = (height * scale, width * scale)
    total = x.new_zeros(*x.shape[:-3], channels or x.shape[-3], *size)
    weights = x.new_zeros(size)
    rows, columns = min(h, height), min(w, width)
    for top in starts(height, h, overlap):
        for left in starts(width, w, overlap):
            part = (..., slice(top, top + rows), slice(left, left + columns))
            weight = torch.outer(
                ramp(rows * scale, top > 0, top + rows < height, overlap * scale),
                ramp(columns * scale, left > 0, left + columns < width, overlap * scale),
            ).to(x)
            vertical, horizontal = (slice(n * scale, (n + side) * scale) for n, side in ((top, rows), (left, columns)))
            total[..., vertical, horizontal] += weight * call(x[part], part)
            weights[vertical, horizontal] += weight
    return total / weights


@dataclass(frozen=True)
class Tiled:
    """A denoiser that is called with tiles of at most ``tile`` (h, w) which share ``overlap`` cells or more.

    What has the frame's size in the condition (low, planes, context) is cut with it.
    """

    denoiser: Denoise
    tile: Size
    overlap: int

    def __call__(self, x: Tensor, level: Level, condition: Condition) -> Tensor:
        (height, width), (h, w) = x.shape[-2:], self.tile
        if height <= h and width <= w:
            return self.denoiser(x, level, condition)

        def predicted(cut: Tensor, place: Any) -> Tensor:
            return self.denoiser(cut, level, _cut(condition, place, (height, width)))

        return blended(predicted, x, self.tile, self.overlap)


def _cut(condition: Condition, part: Any, size: Size) -> Condition:
    cut = {}
    for field in fields(condition):
        value = getattr(condition, field.name)
        if isinstance(value, Tensor) and value.ndim == 5 and tuple(value.shape[-2:]) == size:
            cut[field.name] = value[part]
    return replace(condition, **cut)
