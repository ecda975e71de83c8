"""The stages one by one, against known answers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from drivesim.data import video
from drivesim.rollout import stages
from drivesim.rollout.plan import Plan, Window
from drivesim.rollout.stages import FrameChunk, LatentChunk
from drivesim.scene import to_pixels


def counting(window: Window, context: Tensor) -> Tensor:
    """Key-frame k holds the number k, given ones as they come."""
    frames = torch.arange(window.start, window.start + 6).float()[:, None, None, None]
    return torch.cat([context, frames[window.given :]])


def numbered(*numbers: int) -> Tensor:
    return torch.tensor(numbers).float()[:, None, None, None]


def test_keyframes_chain_their_last_latents() -> None:
    plan = Plan(keyframes=13, frames=6, overlap=2, given=2)
    chunks = list(stages.keyframes(plan, counting, numbered(-1, 0)))
    assert [c.latents.flatten().tolist() for c in chunks] == [[0, 1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    assert [c.state["latents"].flatten().tolist() for c in chunks] == [[3, 4], [7, 8], [11, 12]]
    later = list(stages.keyframes(plan, counting, chunks[1].state["latents"], begin=2))
    assert torch.equal(later[0].latents, chunks[2].latents)


def test_one_given_frame_and_more_context_than_the_first_window_keeps() -> None:
    plan = Plan(keyframes=9, frames=6, overlap=5, given=1)
    chunks = list(stages.keyframes(plan, counting, numbered(0)))
    assert torch.cat([c.latents for c in chunks]).flatten().tolist() == list(range(9))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_the_decoder_sees_one_shape(count: int) -> None:
    seen = []

    def decoder(latents: Tensor) -> Tensor:
        seen.append(len(latents))
        return latents.expand(-1, 3, -1, -1) * 2

    chunk = LatentChunk(Window(0, 0, 1, 0, count), numbered(*range(count)), {})
    (made,) = stages.decode([chunk], decoder, batch=4)
    assert set(seen) == {4} and made.frames[:, 0].flatten().tolist() == [2 * k for k in range(count)]
    assert made.kinds == ("key",) * count


def chunks_of(*windows: list[int]) -> Iterator[FrameChunk]:
    for n, numbers in enumerate(windows):
        frames = numbered(*numbers).expand(-1, 3, 2, 2)
        yield FrameChunk(Window(n, 0, 1, 0, 1), frames, ("key",) * len(numbers), {"latents": torch.zeros(1)})


def test_blending_is_linear_and_crosses_windows() -> None:
    first, second = stages.fill(chunks_of([0, 4], [8]), 4)
    assert first.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert second.frames[:, 0, 0, 0].tolist() == [5, 6, 7, 8]
    assert first.kinds == ("key", "blended", "blended", "blended", "key")
    assert second.kinds == ("blended",) * 3 + ("key",)
    assert set(second.state) == {"latents", "pixels"} and float(second.state["pixels"].mean()) == 8


def test_repeating_holds_the_former() -> None:
    first, second = stages.fill(chunks_of([0, 4], [8]), 2, mode="repeat")
    assert first.frames[:, 0, 0, 0].tolist() == [0, 0, 4] and second.frames[:, 0, 0, 0].tolist() == [4, 8]
    assert first.kinds == ("key", "repeated", "key")


def test_factor_one_changes_nothing() -> None:
    first, second = stages.fill(chunks_of([0, 4], [8]), 1)
    assert first.frames[:, 0, 0, 0].tolist() == [0, 4] and second.kinds == ("key",)


def test_filling_goes_on_from_a_saved_keyframe() -> None:
    whole = list(stages.fill(chunks_of([0, 4], [8]), 4))
    (rest,) = stages.fill(chunks_of([8]), 4, last=whole[0].state["pixels"])
    assert torch.equal(rest.frames, whole[1].frames)


def test_writing_gives_segments_that_play_alone(tmp_path: Path) -> None:
    plan = Plan(keyframes=3, frames=6, factor=4)
    ramp = torch.linspace(-0.9, 0.9, 5)[:, None, None, None].expand(-1, 3, 32, 64)
    chunk = FrameChunk(plan.window(0), ramp, ("key",) * 5, {})
    (segment,) = stages.write([chunk], lambda n: tmp_path / f"{n}.mp4", (32, 64), plan.fps)
    shown = video.read(segment.file, frames=5)
    assert shown.fps == plan.fps and np.abs(shown.frames.astype(int) - to_pixels(ramp)).mean() < 3


def test_stages_pull_one_window_at_a_time() -> None:
    plan, made = Plan(keyframes=40, frames=6), []

    def predict(window: Window, context: Tensor) -> Tensor:
        made.append(window.n)
        return counting(window, context)

    chain = stages.fill(
        stages.decode(stages.keyframes(plan, predict, numbered(0)), lambda x: x.expand(-1, 3, -1, -1)), 4
    )
    next(chain)
    assert made == [0]
