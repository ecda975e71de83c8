"""Guidance: the formula by hand, scale 1 is the conditional prediction, and how often the network is called."""

from dataclasses import replace

import pytest
import torch

from drivesim.diffusion.guidance import Guidance, Scale
from drivesim.errors import Mistake
from drivesim.scene import Condition, Level


class Counting:
    """A denoiser to which each part of the condition adds a known amount; it counts its calls and the clips in them."""

    def __init__(self):
        self.calls, self.clips = 0, 0

    def __call__(self, x, level, condition):
        self.calls, self.clips = self.calls + 1, self.clips + len(x)
        out = torch.sin(x) * level.of(x)
        if condition.context is not None:
            given = condition.context_mask.to(x)[..., None, None, None] * condition.context
            out = out + given.sum(dim=(1, 2, 3, 4), keepdim=True) + condition.given.to(x)[:, None, None, None, None]
        if condition.tokens is not None:
            out = out + torch.cos(condition.tokens.sum(dim=(1, 2)))[:, None, None, None, None]
        if condition.planes is not None:
            out = out * (1 + condition.planes.mean(dim=(2, 3, 4), keepdim=True))
        return out


NULL = torch.full((1, 6), 0.1)


@pytest.fixture
def case():
    draw = torch.Generator().manual_seed(4)
    x, context = torch.randn(2, 3, 4, 5, 6, generator=draw), torch.randn(2, 3, 4, 5, 6, generator=draw)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    condition = Condition(
        tokens=torch.randn(2, 1, 6, generator=draw),
        mask=torch.ones(2, 1, dtype=torch.bool),
        planes=torch.rand(2, 3, 2, 5, 6, generator=draw),
        context=context,
        context_mask=mask,
        context_level=torch.zeros(2, 3),
        given=mask.sum(1),
    )
    return x, Level(torch.full((2, 3), 1.5)), condition


def by_hand(x, level, condition, context, labels, boxes):
    d = Counting()
    null = replace(condition, tokens=NULL.expand(2, 1, 6))
    only_context, nothing = replace(null, planes=None), replace(null.without_context(), planes=None)
    d0, dc = d(x, level, nothing), d(x, level, only_context)
    dcl, dclb = d(x, level, replace(condition, planes=None)), d(x, level, condition)
    return d0 + context * (dc - d0) + labels * (dcl - dc) + boxes * (dclb - dcl)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("scales", [(2, 3, 4), (1.5, 1, 1), (1, 5, 1), (1, 1, 2), (0, 2, 2), (3, 3, 3)])
def test_formula(case, scales, batched):
    context, labels, boxes = scales
    guided = Guidance(Counting(), context=context, labels=labels, boxes=boxes, null_tokens=NULL, batched=batched)
    torch.testing.assert_close(guided(*case), by_hand(*case, *scales), rtol=1e-4, atol=1e-4)


def test_the_papers_context_guidance(case):
    """f' = f(z) + s (f(z; c) - f(z))."""
    x, level, condition = case
    condition = replace(condition.without_labels(), planes=None)
    bare, told = Counting()(x, level, Condition()), Counting()(x, level, condition)
    torch.testing.assert_close(Guidance(Counting(), context=2.5)(x, level, condition), bare + 2.5 * (told - bare))


@pytest.mark.parametrize("batched", [False, True])
def test_scale_one_is_the_conditional_prediction_bit_for_bit(case, batched):
    denoiser = Counting()
    found = Guidance(denoiser, null_tokens=NULL, batched=batched)(*case)
    assert denoiser.calls == 1 and torch.equal(found, Counting()(*case))


@pytest.mark.parametrize(
    ("scales", "branches"),
    [
        ({}, 1),
        ({"context": 2}, 3),  # the labels' step keeps its scale of 1: d = -d0 + 1 d_c + 0 d_cl + 1 d_clb
        ({"labels": 2}, 3),
        ({"boxes": 2}, 2),
        ({"context": 2, "labels": 2, "boxes": 2}, 2),
        ({"context": 2, "labels": 3, "boxes": 4}, 4),
        ({"context": 0, "labels": 0, "boxes": 0}, 1),
    ],
)
def test_branches_that_do_nothing_are_not_run(case, scales, branches):
    denoiser = Counting()
    Guidance(denoiser, null_tokens=NULL, **scales)(*case)
    assert (denoiser.calls, denoiser.clips) == (branches, branches * 2)


@pytest.mark.parametrize(("scale", "drop"), [("labels", "without_labels"), ("context", "without_context")])
def test_what_the_condition_lacks_costs_no_branch(case, scale, drop):
    x, level, condition = case
    denoiser = Counting()
    Guidance(denoiser, **{scale: 7})(x, level, replace(getattr(condition, drop)(), planes=None))
    assert denoiser.calls == 1


def test_batched_calls(case):
    """Context and labels in one call; boxes have no zeros that mean "dropped" and make a call of their own."""
    x, level, condition = case
    denoiser = Counting()
    guided = Guidance(denoiser, context=2, labels=3, null_tokens=NULL, batched=True)
    guided(x, level, replace(condition, planes=None))
    assert (denoiser.calls, denoiser.clips) == (1, 6)
    Guidance(denoiser, context=2, labels=3, boxes=4, null_tokens=NULL, batched=True)(x, level, condition)
    assert (denoiser.calls, denoiser.clips) == (3, 14)


def test_without_null_tokens_dropped_labels_are_a_call_of_their_own(case):
    x, level, condition = case
    condition, denoiser = replace(condition, planes=None), Counting()
    together = Guidance(denoiser, context=2, labels=3, batched=True)(x, level, condition)
    assert denoiser.calls == 2
    torch.testing.assert_close(together, Guidance(Counting(), context=2, labels=3)(x, level, condition))


@pytest.mark.parametrize(("low", "high", "calls"), [(0.0, 1.0, 1), (1.0, 2.0, 2), (1.5, 9.0, 1), (0.0, 1.5, 2)])
def test_interval(case, low, high, calls):
    """(low, high]; outside of it the scale is 1 and its branch is not run."""
    denoiser = Counting()
    Guidance(denoiser, boxes=Scale(4.0, low, high), null_tokens=NULL)(*case)
    assert denoiser.calls == calls


def test_interval_by_frame(case):
    x, _, condition = case
    level = Level(torch.tensor([[0.5, 5.0, 0.5]]).expand(2, 3))
    found = Guidance(Counting(), boxes=Scale(4.0, 1.0, 9.0))(x, level, condition)
    everywhere, nowhere = Guidance(Counting(), boxes=4)(x, level, condition), Counting()(x, level, condition)
    torch.testing.assert_close(found[:, 1], everywhere[:, 1])
    torch.testing.assert_close(found[:, ::2], nowhere[:, ::2])


def test_an_empty_interval_is_a_mistake():
    with pytest.raises(Mistake):
        Scale(2.0, 3.0, 1.0)
