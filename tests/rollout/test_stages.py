"""The stages one by one, against known answers."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from drivesim.data import video
from drivesim.rollout import stages
from drivesim.rollout.plan import Pieces, Plan, Window
from drivesim.rollout.stages import Chunk, State
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
    assert [c.frames.flatten().tolist() for c in chunks] == [[0, 1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    states = [c.state or {} for c in chunks]
    assert [state["latents"].flatten().tolist() for state in states] == [[3, 4], [7, 8], [11, 12]]
    assert [c.last for c in chunks] == [False, False, True]
    later = list(stages.keyframes(plan, counting, states[1]["latents"], begin=2))
    assert torch.equal(later[0].frames, chunks[2].frames)


def test_one_given_frame_and_more_context_than_the_first_window_keeps() -> None:
    plan = Plan(keyframes=9, frames=6, overlap=5, given=1)
    chunks = list(stages.keyframes(plan, counting, numbered(0)))
    assert torch.cat([c.frames for c in chunks]).flatten().tolist() == list(range(9))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8])
def test_the_decoder_sees_one_shape(count: int) -> None:
    seen = []

    def decoder(latents: Tensor) -> Tensor:
        seen.append(len(latents))
        return latents.expand(-1, 3, -1, -1) * 2

    made = list(stages.decode(stream(list(range(count))), decoder, batch=4))
    assert set(seen) == {4} and numbers(made) == [2 * k for k in range(count)]
    assert [c.state is None for c in made] == [True] * (len(made) - 1) + [False]


def stream(*windows: list[int], channels: int = 3) -> Iterator[Chunk]:
    """Frames that are a number each, as many windows as lists; the last one ends the stream."""
    for n, content in enumerate(windows):
        frames = numbered(*content).expand(-1, channels, 2, 2)
        yield Chunk(Window(n, 0, 1, 0, 1), frames, {"latents": torch.zeros(1)}, n == len(windows) - 1)


def numbers(chunks: Iterable[Chunk]) -> list[float]:
    return [float(frame.mean()) for chunk in chunks for frame in chunk.frames]


def state_behind(chunks: Iterable[Chunk], window: int) -> State:
    return next(c.state for c in chunks if c.state is not None and c.window.n == window)


def parted(chunks: Iterable[Chunk], window: int) -> Iterator[Chunk]:
    return (chunk for chunk in chunks if chunk.window.n > window)


def test_blending_is_linear_and_crosses_windows() -> None:
    made = list(stages.fill(stream([0, 4], [8]), 4))
    assert numbers(made) == list(range(9))
    assert (
        set(state_behind(made, 1)) == {"latents", "fill.pixels"}
        and float(state_behind(made, 1)["fill.pixels"].mean()) == 8
    )


def test_repeating_holds_the_former() -> None:
    assert numbers(stages.fill(stream([0, 4], [8]), 2, mode="repeat")) == [0, 0, 4, 4, 8]


def test_factor_one_changes_nothing() -> None:
    assert numbers(stages.fill(stream([0, 4], [8]), 1)) == [0, 4, 8]


def test_filling_goes_on_from_a_saved_keyframe() -> None:
    rest = stages.fill(parted(stream([0, 4], [8]), 0), 4, last=torch.full((3, 2, 2), 4.0))
    assert numbers(rest) == [5, 6, 7, 8]


def between(place: int, ends: Tensor) -> Tensor:
    """On the way from one end to the other; the place goes into a channel of its own."""
    made = torch.stack([torch.lerp(ends[:, 0], ends[:, 1], share) for share in (0.25, 0.5, 0.75)], dim=1)
    made[:, :, 1] = (place + torch.arange(len(ends)))[:, None, None, None]
    return made


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_interpolation_twice_gives_sixteen_times_as_many(batch: int) -> None:
    once = stages.interpolate(stream([0, 16, 32], [48], [64, 80]), between, batch=batch)
    twice = list(stages.interpolate(once, between, batch=batch))
    frames = torch.cat([chunk.frames for chunk in twice])
    assert frames[:, 0].mean(dim=(1, 2)).tolist() == list(range(81))
    places = frames[:, 1, 0, 0].tolist()
    assert [places[n] for n in range(1, 80, 4)] == list(range(20)), "every gap is told its place"
    assert [c.window.n for c in twice if c.state is not None] == [0, 1, 2] and twice[-1].last


def test_interpolation_leaves_what_it_is_given() -> None:
    content = torch.randn(5, 4, 3, 3)
    chunk = Chunk(Window(0, 0, 1, 0, 5), content, {}, True)
    made = torch.cat([c.frames for c in stages.interpolate([chunk], between)])
    assert torch.equal(made[::4], content)


def test_interpolation_goes_on_behind_a_window() -> None:
    rest = stages.interpolate(parted(stream([0, 16], [32]), 0), between, place=1, last=torch.full((3, 2, 2), 16.0))
    frames = torch.cat([c.frames for c in rest])
    assert frames[:, 0, 0, 0].tolist() == [20, 24, 28, 32] and frames[:3, 1, 0, 0].tolist() == [1, 1, 1]


class Piecewise:
    """A decoder whose pixels are the latents' plus, at both ends of a piece, an error; it notes what it is given."""

    def __init__(self, error: float = 0.0):
        self.error, self.seen = error, list[list[float]]()

    def __call__(self, z: Tensor) -> Tensor:
        self.seen.append(z[0, :, 0, 0, 0].tolist())
        pixels = z.clone()
        pixels[:, [0, -1]] += self.error
        return pixels


CUTS = ([list(range(30))], [list(range(7)), [7], list(range(8, 30))], [[n] for n in range(30)])


@pytest.mark.parametrize("windows", CUTS)
@pytest.mark.parametrize(("length", "overlap"), [(6, 2), (6, 0), (10, 5), (40, 4), (3, 1)])
def test_pieces_are_decoded_once_whatever_the_windows(windows: list[list[int]], length: int, overlap: int) -> None:
    decoder, pieces = Piecewise(), Pieces(length, overlap)
    made = list(stages.decode_pieces(stream(*windows), decoder, pieces))
    assert numbers(made) == pytest.approx(list(range(30)), abs=1e-4)
    firsts = [n * pieces.stride for n in range(pieces.count(30))]
    assert decoder.seen == [[min(first + k, 29) for k in range(length)] for first in firsts]


def test_a_piece_fades_into_the_next() -> None:
    made = numbers(stages.decode_pieces(stream([0] * 9), Piecewise(1.0), Pieces(6, 3)))
    assert made == pytest.approx([1, 0, 0, 0.25, 0, 0.25, 0, 0, 1])


@pytest.mark.parametrize("window", range(8))
def test_decoding_goes_on_behind_any_window(window: int) -> None:
    windows, pieces = [[4 * n + k for k in range(4)] for n in range(9)], Pieces(6, 2)
    whole = list(stages.decode_pieces(stream(*windows), Piecewise(1.0), pieces))
    rest = stages.decode_pieces(parted(stream(*windows), window), Piecewise(1.0), pieces, state_behind(whole, window))
    before = numbers(c for c in whole if c.window.n <= window)
    assert numbers(rest) == numbers(whole)[len(before) :]


class Enlarging:
    """An upsampler whose frames count on from the first: known ones stay, the others are the low ones plus 0.5."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[float], int]] = []

    def __call__(self, place: int, low: Tensor, known: Tensor) -> Tensor:
        self.calls.append((place, low[:, 0, 0, 0].tolist(), len(known)))
        high = low.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2) + 0.5
        high[: len(known)] = known
        return high


@pytest.mark.parametrize("windows", CUTS)
@pytest.mark.parametrize(("length", "overlap"), [(8, 1), (8, 2), (8, 0), (1, 0), (40, 1)])
@pytest.mark.parametrize("opening", [False, True])
def test_upsampling_windows_lie_on_a_grid_and_the_first_knows_the_real_frame(
    windows: list[list[int]], length: int, overlap: int, opening: bool
) -> None:
    upsampler, pieces = Enlarging(), Pieces(length, overlap)
    real = torch.full((1, 3, 4, 4), -7.0) if opening else None
    made = list(stages.upsample(stream(*windows), upsampler, pieces, known=real))
    expected = [n + 0.5 for n in range(30)]
    assert numbers(made) == pytest.approx([-7.0, *expected[1:]] if opening else expected, abs=1e-4)
    firsts = [n * pieces.stride for n in range(pieces.count(30))]
    assert [call[0] for call in upsampler.calls] == firsts
    assert [call[2] for call in upsampler.calls] == [int(opening)] + [0] * (len(firsts) - 1)


def test_a_window_of_the_upsampler_fades_into_the_next() -> None:
    """Each window is as far from the truth as its number."""

    def upsampler(place: int, low: Tensor, known: Tensor) -> Tensor:
        return low + place / 6

    assert numbers(stages.upsample(stream([0] * 14), upsampler, Pieces(8, 2))) == pytest.approx(
        [0] * 6 + [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1]
    )


@pytest.mark.parametrize("window", range(8))
def test_upsampling_goes_on_behind_any_window(window: int) -> None:
    windows, pieces = [[3 * n + k for k in range(3)] for n in range(10)], Pieces(8, 2)
    whole = list(stages.upsample(stream(*windows), Enlarging(), pieces))
    state, again = state_behind(whole, window), Enlarging()
    before = numbers(c for c in whole if c.window.n <= window)
    place = 3 * (window + 1) - len(state["upsample.low"])
    assert len(before) == place
    rest = stages.upsample(parted(stream(*windows), window), again, pieces, place, state)
    assert numbers(rest) == numbers(whole)[len(before) :]


def test_the_real_frame_stands_first() -> None:
    assert numbers(stages.opened(stream([], [3, 4], [5]), torch.full((1, 3, 2, 2), 9.0))) == [9, 4, 5]
    assert numbers(stages.opened(stream([3, 4], [5]), None)) == [3, 4, 5]


def test_a_window_that_completes_no_frame_has_no_file(tmp_path: Path) -> None:
    chunks = [Chunk(c.window, c.frames[:, :, :1, :1].expand(-1, -1, 32, 64), c.state) for c in stream([0], [], [0, 0])]
    made = list(stages.write(chunks, lambda n: tmp_path / f"{n}.mp4", (32, 64), Plan(3, 6).fps))
    assert [(s.first, s.last, s.file is None) for s in made] == [(0, 1, False), (1, 1, True), (1, 3, False)]


def test_writing_gives_segments_that_play_alone(tmp_path: Path) -> None:
    plan = Plan(keyframes=3, frames=6, factor=4)
    ramp = torch.linspace(-0.9, 0.9, 5)[:, None, None, None].expand(-1, 3, 32, 64)
    chunk = Chunk(plan.window(0), ramp, {}, True)
    (segment,) = stages.write([chunk], lambda n: tmp_path / f"{n}.mp4", (32, 64), plan.fps)
    assert segment.file is not None and (segment.first, segment.last) == (0, 5)
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
