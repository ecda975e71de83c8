"""Probes tell how often a rollout calls each stage, and call it at the shapes that it will have."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from drivesim.rollout.engine import prepare, roll
from drivesim.rollout.probe import probes
from drivesim.rollout.scenario import Scenario
from drivesim.rollout.stack import Stack

from .mock import SIZE, Mock, cascade, decode, decode_video, stack
from .test_cascade import FAST


class Counted:
    """A decoder that counts its calls and notes their shape."""

    def __init__(self, call: Callable[[Tensor], Tensor]):
        self.call, self.calls, self.shape = call, 0, torch.Size()

    def __call__(self, z: Tensor) -> Tensor:
        self.calls, self.shape = self.calls + 1, z.shape
        return self.call(z)


def counted(all_stages: bool) -> tuple[Stack, dict[str, Mock | Counted]]:
    plain, video = Counted(decode), Counted(decode_video)
    mocks = {name: Mock(remember=True) for name in ("image", "keyframes", "between", "above")}
    if not all_stages:
        return stack(mocks["keyframes"], mocks["image"], decode=plain), {**mocks, "decode": plain}
    models = cascade(mocks["keyframes"], mocks["between"], mocks["above"], image=mocks["image"], decode=plain)
    assert models.temporal_decoder is not None
    models = replace(models, temporal_decoder=replace(models.temporal_decoder, decode=video))
    return models, {**mocks, "decode": plain, "video": video}


@pytest.mark.parametrize("fps", [1.875, 7.5, 30])
@pytest.mark.parametrize("all_stages", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_calls_are_those_of_the_rollout(tmp_path: Path, fps: float, all_stages: bool, batch: int) -> None:
    models, mocks = counted(all_stages)
    settings = replace(FAST, interpolation=replace(FAST.interpolation, batch=batch))
    rollout = prepare(models, Scenario(seconds=6, fps=fps, size=None if fps == 30 else SIZE), 1, settings)
    asked = {probe.name: probe for probe in probes(rollout)}
    roll(rollout, tmp_path / "run")
    made = {name: mock.calls for name, mock in mocks.items()}
    steps = {name: probe.calls * probe.steps for name, probe in asked.items()}
    assert made["image"] == steps["start"] and made["keyframes"] == steps["keyframes"]
    assert made["between"] == sum(count for name, count in steps.items() if name.startswith("interpolation"))
    assert made["above"] == steps.get("upsample", 0)
    assert made["decode"] + made.get("video", 0) == steps["decode"]


def test_a_probe_calls_at_the_shapes_of_the_rollout() -> None:
    models, mocks = counted(True)
    rollout = prepare(models, Scenario(seconds=6), 1, FAST)
    for shrink, area in ((1, 1), (2, 4)):
        for probe in probes(rollout, shrink):
            probe.run(1)
        above, video = mocks["above"], mocks["video"]
        assert isinstance(above, Mock) and isinstance(video, Counted)
        assert above.seen[-1][0].numel() * area == 8 * 3 * 64 * 128
        assert video.shape.numel() * area == 10 * 3 * 4 * 8
