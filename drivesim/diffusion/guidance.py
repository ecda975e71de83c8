"""Guidance by context, labels and boxes, each with a scale and an interval of levels.

What the condition holds is put on one by one (nothing, then context, labels, boxes), and every step is stretched by
its scale:

    d = d0 + s_ctx (d_c - d0) + s_lab (d_cl - d_c) + s_box (d_clb - d_cl)

Context alone is the paper's context guidance, ``f' = f(z) + s (f(z; c) - f(z))`` (arXiv 2304.08818, section 3.2).
Sorted by branch, the weights are ``1 - s_ctx``, ``s_ctx - s_lab``, ``s_lab - s_box``, ``s_box``: a branch of weight 0
is not run. So scales of 1 cost one branch and give the conditional prediction bit for bit, and equal scales cost two.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import inf
from weakref import WeakKeyDictionary

import torch
from einops import rearrange, repeat
from torch import Tensor

from drivesim.errors import Mistake
from drivesim.scene import Condition, Level

Denoise = Callable[[Tensor, Level, Condition], Tensor]


@dataclass(frozen=True)
class Scale:
    """How much one part of the condition is stretched: ``value`` for ``low < sigma <= high``, 1 elsewhere."""

    value: float = 1.0
    low: float = 0.0
    high: float = inf

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise Mistake(f"an interval of sigma is 0 <= low < high, not {self.low} to {self.high}", where="guidance")

    @property
    def everywhere(self) -> bool:
        """Whether it is the same at every level."""
        return self.value == 1.0 or (self.low == 0 and self.high == inf)

    def at(self, sigma: Tensor) -> Tensor:
        """The scale of every frame, ``B T`` float64."""
        inside = (sigma > self.low) & (sigma <= self.high)
        return torch.full_like(sigma, self.value, dtype=torch.float64).where(inside, 1.0)


Parts = list[tuple[Scale, Callable[[Condition], Condition]]]  # of the condition, each with what drops it


class Guidance:
    """A denoiser whose prediction is guided; called as the denoiser itself is.

    Args:
        denoiser: ``(x, level, condition) -> x0``.
        context, labels, boxes: a ``Scale``, or a number for every level. What the condition lacks is left out.
        null_tokens: ``L D``, the tokens that mean "labels dropped"; None: dropped labels are ``tokens = None``.
        null_temporal: the same of ``temporal_tokens``, where these are another encoder's.
        batched: branches of one form run in one call, along B; otherwise one after another, which takes less memory.
    """

    def __init__(
        self,
        denoiser: Denoise,
        *,
        context: Scale | float = 1.0,
        labels: Scale | float = 1.0,
        boxes: Scale | float = 1.0,
        null_tokens: Tensor | None = None,
        null_temporal: Tensor | None = None,
        batched: bool = False,
    ):
        self.denoiser, self.batched = denoiser, batched
        self.bare: WeakKeyDictionary[Condition, dict[int, Condition]] = WeakKeyDictionary()
        self.null_tokens, self.null_temporal = null_tokens, null_tokens if null_temporal is None else null_temporal
        self.context, self.labels, self.boxes = (
            scale if isinstance(scale, Scale) else Scale(scale) for scale in (context, labels, boxes)
        )

    def __call__(self, x: Tensor, level: Level, condition: Condition) -> Tensor:
        branches = self._branches(level, condition)
        predictions = self._run(x, level, [branch for _, branch in branches])
        terms = [weight.to(x) * each for (weight, _), each in zip(branches, predictions, strict=True)]
        return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]

    def _branches(self, level: Level, condition: Condition) -> list[tuple[Tensor, Condition]]:
        """The branches that count, each with its weight (``B T 1 1 1``), from the barest to the full condition."""
        parts: Parts = []
        if condition.context is not None:
            parts.append((self.context, _drop_context))
        if condition.tokens is not None:
            parts.append((self.labels, self._drop_labels))
        if condition.planes is not None or condition.box_tokens is not None:
            parts.append((self.boxes, Condition.without_boxes))
        scales = [Scale(), *(scale for scale, _ in parts), Scale(0.0)]
        at = [scale.at(level.sigma) for scale in scales[:-1]]
        at.append(torch.zeros_like(at[0]))
        branches = []
        for held in range(len(parts) + 1):
            weight = at[held] - at[held + 1]
            if not _counts(scales[held], scales[held + 1], weight):
                continue
            branches.append((rearrange(weight, "b t -> b t 1 1 1"), self._bare(condition, held, parts[held:])))
        return branches

    def _bare(self, condition: Condition, held: int, parts: Parts) -> Condition:
        """``condition`` without ``parts``: in every step the same object, by which networks know what they have made of
        it."""
        if not parts:
            return condition
        known = self.bare.setdefault(condition, {})
        if held not in known:
            branch = condition
            for _, drop in parts:
                branch = drop(branch)
            known[held] = branch
        return known[held]

    def _drop_labels(self, condition: Condition) -> Condition:
        if self.null_tokens is None or condition.tokens is None:
            return condition.without_labels()
        tokens = repeat(self.null_tokens.to(condition.tokens), "l d -> b l d", b=len(condition.tokens))
        mask = None if condition.mask is None else torch.ones_like(tokens[..., 0], dtype=torch.bool)
        temporal = condition.temporal_tokens
        if temporal is not None and self.null_temporal is not None:
            temporal = repeat(self.null_temporal.to(temporal), "l d -> b l d", b=len(temporal))
        return replace(condition, tokens=tokens, mask=mask, temporal_tokens=temporal)

    def _run(self, x: Tensor, level: Level, conditions: list[Condition]) -> list[Tensor]:
        if not self.batched:
            return [self.denoiser(x, level, condition) for condition in conditions]
        results: dict[int, Tensor] = {}
        for group in _alike(conditions):
            size = len(group)
            index = None if level.index is None else level.index.repeat(size, 1)
            many = Level(level.sigma.repeat(size, 1), index)
            joined = _join([conditions[n] for n in group])
            predictions = self.denoiser(x.repeat(size, 1, 1, 1, 1), many, joined)
            results |= dict(zip(group, predictions.chunk(size), strict=True))
        return [results[n] for n in range(len(conditions))]


def _counts(bare: Scale, full: Scale, weight: Tensor) -> bool:
    """Whether any of ``weight`` is not 0. Only intervals need a look at it, for which a GPU would be waited for."""
    if bare.everywhere and full.everywhere:
        return bare.value != full.value
    return bool(weight.any())


def _drop_context(condition: Condition) -> Condition:
    """Context dropped as in training, where a batch holds samples with and without: zeros, none marked, none given."""
    names = ("context", "context_mask", "context_level", "given")
    known = {name: getattr(condition, name) for name in names}
    return replace(
        condition, **{name: value if value is None else torch.zeros_like(value) for name, value in known.items()}
    )


def _alike(conditions: list[Condition]) -> list[list[int]]:
    """Positions of the conditions that can be joined: the same fields known, of the same shapes."""
    groups: dict[tuple, list[int]] = {}
    for n, condition in enumerate(conditions):
        values = (getattr(condition, field.name) for field in fields(condition))
        groups.setdefault(tuple(None if value is None else value.shape for value in values), []).append(n)
    return list(groups.values())


def _join(conditions: list[Condition]) -> Condition:
    """Conditions of one form, one after another along B."""
    joined = {}
    for field in fields(Condition):
        values = [getattr(condition, field.name) for condition in conditions]
        joined[field.name] = None if values[0] is None else torch.cat(values)
    return Condition(**joined)
