"""No step of a sampler waits for a device, seen on "meta", whose tensors hold no numbers.

To ask one for a number raises by itself; here a copy from the host does, too.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from drivesim.diffusion.guidance import Guidance
from drivesim.diffusion.known import keeping
from drivesim.diffusion.noise import SamplerName, Schedule, ScheduleConfig
from drivesim.diffusion.precondition import Denoiser
from drivesim.diffusion.samplers import sampler
from drivesim.models.temporal import TemporalConfig
from drivesim.scene import Level
from tests.models.test_video import T, inputs, made

BLENDED = TemporalConfig(
    frames=T, depth=1, context_channels=8, cross=16, told=("rate",), blend=True, alpha="scalar", feed=(0, 2)
)
PLAIN = TemporalConfig(frames=T, depth=1, context_channels=8)


def no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    to, tensor = torch.Tensor.to, torch.tensor

    def moved(x: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        made = to(x, *args, **named)
        assert x.device == made.device, "a copy from the host"
        return made

    def from_numbers(*args: Any, **named: Any) -> torch.Tensor:
        assert torch.device(named.get("device") or "cpu").type == "cpu", "a copy from the host"
        return tensor(*args, **named)

    monkeypatch.setattr(torch.Tensor, "to", moved)
    monkeypatch.setattr(torch, "tensor", from_numbers)


@torch.inference_mode()
@pytest.mark.parametrize("temporal", [PLAIN, BLENDED], ids=["context", "blend"])
@pytest.mark.parametrize("scales", [(1, 1), (2, 3), (0, 2), (2, 2)])
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun"])
def test_a_step_waits_for_no_device(
    monkeypatch: pytest.MonkeyPatch, temporal: TemporalConfig, scales: tuple[float, float], name: SamplerName
) -> None:
    x, _, told = inputs()
    model, x, condition = made(temporal).to("meta"), x.to("meta"), told.map(lambda y: y.to("meta"))
    condition = replace(condition, fps=torch.ones(2, device="meta"))
    schedule = Schedule(ScheduleConfig())
    denoiser, levels = Denoiser(model, schedule), schedule.levels(3, sampler=name)
    guided = Guidance(denoiser, context=scales[0], labels=scales[1], null_tokens=torch.zeros(1, 16, device="meta"))

    def denoise(x: torch.Tensor, level: Level) -> torch.Tensor:
        return guided(x, level, condition)

    kept = keeping(denoise, x[:, :2], schedule.least)
    kept(x, levels.at(0, x))  # the schedule's own levels go there once
    no_copies(monkeypatch)
    assert sampler(name)(kept, x, levels, None).shape == x.shape
