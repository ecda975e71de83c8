"""Tiles cover a frame and leave no seam; known frames stay."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from drivesim.diffusion.known import keeping
from drivesim.diffusion.noise import Schedule, ScheduleConfig
from drivesim.diffusion.samplers import SAMPLERS, sampler
from drivesim.diffusion.tiles import Tiled, ramp, starts
from drivesim.scene import Condition, Level

SCHEDULE = Schedule(ScheduleConfig())


def level(x: Tensor, index: int = 500) -> Level:
    return SCHEDULE.level(torch.full(x.shape[:2], index))


@given(st.integers(1, 200), st.integers(1, 60), st.data())
@settings(max_examples=200, deadline=None)
def test_tiles_cover_and_share(length: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    found = starts(length, tile, overlap)
    covered = torch.zeros(length)
    for first in found:
        covered[first : first + tile] += ramp(min(tile, length), first > 0, first + tile < length, overlap)
    assert bool((covered > 0).all()) and found[0] == 0
    assert all(b - a <= tile - overlap for a, b in pairwise(found))
    assert found[-1] == max(0, length - tile)


def test_a_pointwise_denoiser_is_the_same_in_tiles() -> None:
    x, low = torch.randn(1, 2, 3, 24, 40), torch.randn(1, 2, 3, 24, 40)
    tokens = torch.randn(1, 1, 4)

    def denoise(x: Tensor, level: Level, condition: Condition) -> Tensor:
        assert condition.low is not None and condition.low.shape == x.shape and condition.tokens is tokens
        return 0.3 * x + condition.low

    condition = Condition(tokens=tokens, low=low)
    tiled = Tiled(denoise, (16, 16), 4)(x, level(x), condition)
    torch.testing.assert_close(tiled, denoise(x, level(x), condition))


def test_frames_that_fit_are_not_cut() -> None:
    x = torch.randn(1, 1, 3, 8, 8)
    made = Tiled(lambda x, level, condition: x * 2, (8, 16), 2)(x, level(x), Condition())
    assert torch.equal(made, x * 2)


def test_a_seam_is_as_smooth_as_the_rest() -> None:
    """A network that errs at the rims of what it is given, as zeros beyond them make it do: blending hides the rims."""
    x = F.interpolate(
        torch.randn(1, 3, 8, 16, generator=torch.Generator().manual_seed(1)), scale_factor=8, mode="bicubic"
    )
    kernel = torch.ones(3, 1, 5, 5) / 25

    def blur(x: Tensor, level: Level, condition: Condition) -> Tensor:
        return F.conv2d(x[0], kernel, padding=2, groups=3)[None]

    made = Tiled(blur, (64, 64), 16)(x[None], level(x[None]), Condition())[0, 0]
    whole = blur(x[None], level(x[None]), Condition())[0, 0]
    across = (made[:, :, 1:] - made[:, :, :-1]).abs().mean(dim=(0, 1))
    truth = (whole[:, :, 1:] - whole[:, :, :-1]).abs().mean(dim=(0, 1))
    inner = slice(8, -8)
    assert float((across[inner] / truth[inner]).max()) < 1.6 and float((made - whole)[..., inner].abs().mean()) < 0.02


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_frames_come_out_unchanged(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(1, 2, 3, 4, 4, generator=generator)
    seen: list[Tensor] = []

    def denoise(x: Tensor, level: Level) -> Tensor:
        seen.append(x)
        return x[:, :, :] * 0.1

    levels = SCHEDULE.levels(6)
    x = torch.randn(1, 5, 3, 4, 4, generator=generator) * SCHEDULE.start_scale(levels.sigmas[0]).float()
    made = sampler(name)(keeping(denoise, known), x, levels, None)
    torch.testing.assert_close(made[:, :2], known, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(made[:, 2:4], known)
    last = float(levels.sigmas[-2])
    assert float((seen[-1][:, :2] - known).abs().mean()) < 3 * last, "what the others see of them has the level's noise"


def test_known_frames_are_shown_without_noise_to_a_model_that_learned_it() -> None:
    known = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[Tensor, Level]] = []

    def denoise(x: Tensor, level: Level) -> Tensor:
        seen.append((x, level))
        return x * 0.1

    levels = SCHEDULE.levels(1)  # a single step, at pure noise: otherwise nothing could be seen of them
    x = torch.randn(1, 5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    made = sampler("ddim")(keeping(denoise, known, SCHEDULE.least), x, levels, None)
    ((shown, level),) = seen
    assert torch.equal(made[:, :2], known) and torch.equal(shown[:, :2], known) and torch.equal(shown[:, 2:], x[:, 2:])
    assert level.index is not None and level.index.tolist() == [[0, 0, 999, 999, 999]]
    assert level.sigma[0, 0] == SCHEDULE.sigmas[0] and level.sigma[0, 2] == SCHEDULE.sigmas[999]
