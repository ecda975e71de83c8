"""The quick ways of the blocks are the plain ones in other words."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivesim.models.blocks import ROWS, Attention, FeedForward, Upsample, attend
from drivesim.models.winograd import convolved

LIMIT = 1e-5


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def differ(ours: Tensor, other: Tensor) -> float:
    assert ours.shape == other.shape
    return float((ours - other).detach().abs().max() / other.detach().abs().max())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(5, 6), (1, 3)])
def test_four_small_kernels_are_the_convolution_of_the_enlarged_map(
    layout: torch.memory_format, size: tuple[int, int]
) -> None:
    up, x = Upsample(8), seeded(2, 8, *size).contiguous(memory_format=layout)
    wanted = up.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    assert differ(up(x), wanted) <= LIMIT
    assert differ(up(x, (2 * size[0], 2 * size[1])), wanted) <= LIMIT
    with torch.no_grad():
        got = up(x)
    assert differ(got, wanted) <= LIMIT and got.is_contiguous(memory_format=layout)
    grads = [torch.autograd.grad(y.square().sum(), list(up.parameters())) for y in (up(x), wanted)]
    assert all(differ(ours, other) <= 10 * LIMIT for ours, other in zip(*grads, strict=True))


def test_to_an_odd_size_the_map_itself_is_enlarged() -> None:
    up, x = Upsample(8), seeded(1, 8, 3, 4)
    assert torch.equal(up(x, (5, 7)), up.conv(F.interpolate(x, size=(5, 7), mode="nearest")))


@pytest.mark.parametrize("rows", [7, ROWS, 2 * ROWS + 3])
def test_feed_forward_in_blocks_with_its_gradients(rows: int) -> None:
    ff, x = FeedForward(16), seeded(1, rows, 16).requires_grad_()
    plain = ff.net["2"](ff.net["0"](x))
    with torch.no_grad():
        assert differ(ff(x), plain) <= LIMIT
    weights = seeded(1, rows, 16, seed=1)
    inputs = [x, *ff.parameters()]
    got, wanted = (torch.autograd.grad((y * weights).sum(), inputs) for y in (ff(x), plain))
    assert all(differ(ours, other) <= 10 * LIMIT for ours, other in zip(got, wanted, strict=True))
    ff.requires_grad_(False)
    assert torch.equal(torch.autograd.grad((ff(x) * weights).sum(), x)[0], got[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_feed_forward_in_other_precisions(dtype: torch.dtype) -> None:
    ff, x = FeedForward(16).to(dtype), seeded(1, ROWS + 9, 16).to(dtype)
    with torch.no_grad():
        assert differ(ff(x).double(), ff.net["2"](ff.net["0"](x)).double()) <= (
            0.02 if dtype == torch.bfloat16 else 1e-12
        )
        with torch.autocast("cpu", torch.bfloat16):
            assert ff.float()(x.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("bias", [True, False])
def test_winograds_sums_are_the_convolution_and_know_nothing_of_the_batch(bias: bool) -> None:
    conv, x = torch.nn.Conv2d(64, 80, 3, padding=1, bias=bias), seeded(5, 64, 64, 80)
    with torch.no_grad():
        got, wanted = convolved(conv, x), conv(x)
        assert not torch.equal(got, wanted) and differ(got, wanted) <= LIMIT
        for i in range(len(x)):
            assert torch.equal(convolved(conv, x[i : i + 1]), got[i : i + 1])
        for other in (x[:, :, :63], x[:, :, :8, :8], x.contiguous(memory_format=torch.channels_last)):
            assert torch.equal(convolved(conv, other), conv(other))
    assert torch.equal(convolved(conv, x[:1]), conv(x[:1]))  # gradients: the plain one


@pytest.mark.parametrize("cross", [None, 6])
def test_a_single_token_needs_no_queries(cross: int | None) -> None:
    """With a mask that hides nothing they are made: all is the same, and their own gradients are zero."""
    block = nn.ModuleDict({"attention": Attention(8, 2, cross), "norm": nn.LayerNorm(8)})
    x, tokens = seeded(2, 5, 8).requires_grad_(), seeded(2, 1, cross or 8, seed=1).requires_grad_()
    found = []
    for mask in (None, torch.ones(2, 1, dtype=torch.bool)):
        block.zero_grad(set_to_none=True)
        out = x + attend(block["attention"], block["norm"], x, tokens, mask)
        into = torch.autograd.grad((out * torch.linspace(-1, 1, 8)).square().sum(), (x, tokens), retain_graph=True)
        (out * torch.linspace(-1, 1, 8)).square().sum().backward()
        found.append((out, into, {name: p.grad for name, p in block.named_parameters()}))
    (quick, quick_into, quick_grads), (plain, plain_into, plain_grads) = found
    assert differ(quick, plain) < LIMIT and all(
        differ(*pair) < LIMIT for pair in zip(quick_into, plain_into, strict=True)
    )
    for name, grad in quick_grads.items():
        assert (
            grad is None
            if "norm" in name or "to_q" in name or "to_k" in name
            else differ(grad, plain_grads[name]) < LIMIT
        )
        assert grad is not None or float(plain_grads[name].abs().max()) < LIMIT
