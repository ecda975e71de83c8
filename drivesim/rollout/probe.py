"""One call of every stage of a rollout, at the shapes that it will have, to learn what it will take."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import torch

from drivesim.data import video
from drivesim.data.opening import MIN_SIDE
from drivesim.rollout.engine import Rollout
from drivesim.rollout.interpolator import Interpolator
from drivesim.rollout.plan import BETWEEN, Plan
from drivesim.rollout.predictor import Predictor, start_frame
from drivesim.rollout.settings import RolloutConfig, SamplerConfig
from drivesim.rollout.upscaler import Upscaler
from drivesim.scene import to_pixels

WRITTEN = 16  # frames that are written at once


@dataclass(frozen=True)
class Probe:
    """A stage of a rollout.

    Args:
        name: as in run.json's ``seconds``.
        calls: how often the whole rollout calls it.
        steps: of the sampler in each; 1 where there is none.
        run: one call with so many steps. Its time is a line over them, its memory does not depend on them.
    """

    name: str
    calls: int
    steps: int
    run: Callable[[int], object]


def probes(rollout: Rollout, shrink: int = 1) -> list[Probe]:
    """The stages in their order.

    Args:
        shrink: calls are made with frames whose sides are so many times smaller; what they take beside the weights
            shrinks with the area.
    """
    channels, height, width = rollout.stack.latent_shape
    cells = (channels, max(1, height // shrink), max(1, width // shrink))
    f = rollout.stack.size[0] // height
    stack = replace(rollout.stack, latent_shape=cells, size=(cells[1] * f, cells[2] * f))
    return [*_sampled(replace(rollout, stack=stack), cells), *_pixels(replace(rollout, stack=stack), cells)]


def gaps(plan: Plan, batch: int) -> list[list[int]]:
    """For each pass of interpolation, how many gaps each of its calls is given: those of one are a chunk for the
    next."""
    chunks = [plan.window(n).last - plan.window(n).first - (n == 0) for n in range(plan.count)]
    calls = []
    for _ in range(plan.passes):
        calls.append([min(batch, chunk - first) for chunk in chunks for first in range(0, chunk, batch)])
        chunks = [(BETWEEN + 1) * part for part in calls[-1]]
    return calls


def _sampled(rollout: Rollout, cells: tuple[int, int, int]) -> list[Probe]:
    stack, settings, plan, noise = rollout.stack, rollout.config, rollout.plan, rollout.noise
    told, device = rollout.told, stack.device
    found = []

    def start(steps: int) -> object:
        return start_frame(stack, replace(settings, start=_with(settings.start, steps)), noise, told)

    def keyframes(steps: int) -> object:
        own = replace(settings, sampler=_with(settings.sampler, steps))
        predict = Predictor(stack, own, noise, told, plan.frames)
        window = plan.window(min(1, plan.count - 1))
        return predict(window, torch.zeros(window.given, *cells, device=device))

    if rollout.given is None:
        found.append(Probe("start", 1, _steps(settings.start), start))
    found.append(Probe("keyframes", plan.count, _steps(settings.sampler), keyframes))
    own = settings.interpolation
    for number, calls in enumerate(gaps(plan, own.batch), start=1):

        def interpolate(steps: int, number: int = number) -> object:
            sampler = replace(own, sampler=_with(own.sampler, steps))
            between = Interpolator(stack, sampler, noise, told, number)
            return between(0, torch.zeros(own.batch, 2, *cells, device=device))

        found.append(Probe(f"interpolation-{number}", len(calls), _steps(own.sampler), interpolate))
    return found


def _pixels(rollout: Rollout, cells: tuple[int, int, int]) -> list[Probe]:
    stack, settings, plan, chosen = rollout.stack, rollout.config, rollout.plan, rollout.course
    (height, width), device = stack.size, stack.device
    made = (plan.keyframes - 1) * (BETWEEN + 1) ** plan.passes + 1
    found = []
    if (pieces := chosen.decoder) and (temporal := stack.temporal_decoder):

        def decode(_: int) -> object:
            with torch.inference_mode():
                return temporal.decode(torch.zeros(1, pieces.length, *cells, device=device))

        found.append(Probe("decode", pieces.count(made), 1, decode))
    else:
        batch = settings.decode.batch

        def decode_frames(_: int) -> object:
            with torch.inference_mode():
                return stack.decode(torch.zeros(batch, *cells, device=device))

        found.append(Probe("decode", _batches(plan, settings), 1, decode_frames))
    size = stack.size
    if windows := chosen.upsampler:
        size = stack.upsampled or size

        def upsample(steps: int) -> object:
            sampler = replace(settings.upsample, sampler=_with(settings.upsample.sampler, steps))
            upscale = Upscaler(stack, sampler, rollout.noise, rollout.told, plan.factor)
            low = torch.zeros(windows.length, 3, height, width, device=device)
            return upscale(0, low, low.new_zeros(0, 3, 1, 1))

        found.append(Probe("upsample", windows.count(plan.total), _steps(settings.upsample.sampler), upsample))
    even = (max(MIN_SIDE, size[0] // 2 * 2), max(MIN_SIDE, size[1] // 2 * 2))  # smaller ones are no video

    def write(_: int) -> object:
        ramp = torch.linspace(-1, 1, even[1]).expand(WRITTEN, 3, *even)
        with tempfile.TemporaryDirectory() as folder, video.Writer(Path(folder) / "a.mp4", even, plan.fps) as writer:
            writer.write(to_pixels(ramp))
        return None

    found.append(Probe("write", ceil(plan.total / WRITTEN), 1, write))
    return found


def _batches(plan: Plan, settings: RolloutConfig) -> int:
    """Calls of the image decoder, which is given a chunk of the stage before in batches."""
    chunks = [plan.window(n).last - plan.window(n).first for n in range(plan.count)]
    if plan.passes:
        chunks = [1, *((BETWEEN + 1) * part for part in gaps(plan, settings.interpolation.batch)[-1])]
    return sum(ceil(chunk / settings.decode.batch) for chunk in chunks)


def _with(sampler: SamplerConfig, steps: int) -> SamplerConfig:
    return replace(sampler, steps=steps)


def _steps(sampler: SamplerConfig) -> int:
    assert sampler.steps is not None  # ``prepare`` has settled it
    return sampler.steps
