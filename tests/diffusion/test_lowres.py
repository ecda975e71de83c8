"""What an upsampler is shown: the noise is as strong as it is told, and no picture moves by half a pixel."""

import pytest
import torch
from einops import repeat

from drivesim.diffusion.lowres import augmented, reduced, resized
from drivesim.diffusion.noise import Schedule, ScheduleConfig
from drivesim.randomness import normal

SCHEDULE = Schedule(ScheduleConfig(betas="linear", beta_start=1e-4, beta_end=2e-2))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_ramp_stays_a_ramp(factor: int) -> None:
    """Pixel centres: what is reduced and resized lies where it lay, exactly, up to half a low pixel from the edge."""
    height, width = 8 * factor, 12 * factor
    x = torch.linspace(-1, 1, width).expand(1, 1, 3, height, width)
    y = torch.linspace(-0.5, 1, height)[:, None].expand(1, 1, 3, height, width)
    for ramp in (x, y, 0.5 * x + 0.5 * y):
        back = resized(reduced(ramp, factor), factor)
        inside = (slice(factor // 2, height - factor // 2), slice(factor // 2, width - factor // 2))
        torch.testing.assert_close(back[..., *inside], ramp[..., *inside], atol=1e-6, rtol=0)


def test_resizing_is_symmetric_frame_by_frame_and_keeps_the_range() -> None:
    low = normal(("low",), (2, 3, 3, 5, 7)).clamp(-1, 1)
    high = resized(low, 4)
    assert high.shape == (2, 3, 3, 20, 28) and high.abs().max() <= 1
    torch.testing.assert_close(high.flip(-1), resized(low.flip(-1), 4))
    assert torch.equal(high[1, 2], resized(low[1:, 2:], 4)[0, 0])


def test_noise_has_the_schedules_variance_on_the_low_grid() -> None:
    low, noise = torch.zeros(3, 2, 3, 64, 64), normal(("noise",), (3, 2, 3, 64, 64))
    index = torch.tensor([0, 100, 250])
    shown = augmented(low, index, noise, SCHEDULE, 4)
    sigma = SCHEDULE.sigmas[index]
    wanted = (sigma**2 / (1 + sigma**2)).sqrt()
    # between two centres bilinear weights are 7/8 and 1/8, or 5/8 and 3/8; each pixel is a sum of independent numbers
    shares = (7 / 8) ** 2 + (1 / 8) ** 2, (5 / 8) ** 2 + (3 / 8) ** 2
    mean = (sum(shares) / 2) ** 2  # over the 4x4 pixels of a low one, rows times columns
    inside = shown[..., 4:-4, 4:-4]  # beyond the outermost centres a pixel is one number alone
    torch.testing.assert_close(inside.var(dim=(1, 2, 3, 4)).double(), wanted**2 * mean, rtol=0.03, atol=0)


def test_mixture_is_variance_preserving_and_linear() -> None:
    low, noise = normal(("a",), (2, 1, 3, 6, 6)), normal(("b",), (2, 1, 3, 6, 6))
    index = torch.tensor([0, 250])
    kept = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64).neg().add(1).cumprod(0)[index]
    alpha, sigma = (repeat(y.sqrt().float(), "b -> b 1 1 1 1") for y in (kept, 1 - kept))
    torch.testing.assert_close(augmented(low, index, noise, SCHEDULE, 2), resized(alpha * low + sigma * noise, 2))


def test_one_index_for_all_frames_of_a_clip() -> None:
    low, noise = normal(("a",), (1, 1, 3, 6, 6)), normal(("b",), (1, 1, 3, 6, 6))
    clip = augmented(low.expand(1, 5, -1, -1, -1), torch.tensor([40]), noise.expand(1, 5, -1, -1, -1), SCHEDULE, 4)
    assert torch.equal(clip, augmented(low, torch.tensor([40]), noise, SCHEDULE, 4).expand_as(clip))


def test_continuous_schedules_have_no_index() -> None:
    edm = Schedule(ScheduleConfig(kind="edm", target="edm"))
    with pytest.raises(ValueError, match="no indices"):
        augmented(torch.zeros(1, 1, 3, 2, 2), torch.tensor([1]), torch.zeros(1, 1, 3, 2, 2), edm, 4)
