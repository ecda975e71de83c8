"""Window arithmetic: for any numbers, every key-frame and every output frame is made exactly once."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.errors import Mistake
from drivesim.rollout.plan import (
    FACTORS,
    Pieces,
    Plan,
    Window,
    describe,
    factor_for,
    keyframes_for,
    passes_for,
    places,
    video_frame,
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    frames, factor = draw(st.integers(2, 12)), draw(st.sampled_from(FACTORS))
    given = draw(st.integers(0, min(2, frames - 1)))
    return Plan(
        keyframes=draw(st.integers(1, 200 if given else frames)),
        frames=frames,
        overlap=draw(st.integers(1, frames - 1)),
        given=given,
        factor=factor,
        passes=draw(st.integers(0, passes_for(factor, (7.5, 30.0)))),
    )


@given(plans())
@settings(max_examples=200, deadline=None)
def test_every_keyframe_is_made_once_and_windows_are_contiguous(plan: Plan) -> None:
    windows = list(plan.windows())
    assert [k for w in windows for k in range(w.first, w.last)] == list(range(plan.keyframes))
    assert len(windows) == plan.count and [w.n for w in windows] == list(range(plan.count))
    for before, window in pairwise(windows):
        assert window.given == plan.overlap and window.start == window.first - plan.overlap
        assert window.start >= before.start, "its context was made by the window before"
        assert before.last == before.start + plan.frames, "only the last window is trimmed"
    assert all(w.first < w.last <= w.start + plan.frames for w in windows)


@given(plans())
@settings(max_examples=200, deadline=None)
def test_what_windows_make_known_tiles_the_output(plan: Plan) -> None:
    ends = [plan.known(n) for n in range(plan.count + 1)]
    assert ends[0] == 0 and ends[-1] == plan.total
    for window, (a, b) in zip(plan.windows(), pairwise(ends), strict=True):
        keys = [i for i in range(a, b) if i % plan.factor == 0]
        assert keys == [k * plan.factor for k in range(window.first, window.last)]
    kinds = [plan.kind(n) for n in range(plan.total)]
    assert plan.kinds() == {kind: kinds.count(kind) for kind in ("key", "interpolated", "filled")}


@given(plans(), st.integers(1, 12), st.data())
@settings(max_examples=200, deadline=None)
def test_places_are_where_streams_go_on(plan: Plan, length: int, data: st.DataObject) -> None:
    """Behind every window, what waits and what was written make up what is known."""
    begin = data.draw(st.integers(0, plan.count))
    latents = data.draw(st.integers(0, min(length, plan.known(begin, 4**plan.passes))))
    at = places(plan, begin, latents)
    assert len(at.passes) == plan.passes
    if not begin:
        assert at.output == 0 and not any(at.passes)
    elif not latents:
        assert at.output == plan.known(begin)
    low = data.draw(st.integers(0, at.output))
    assert places(plan, begin, latents, low).output == at.output - low


@given(st.integers(1, 60), st.integers(1, 10), st.data())
@settings(max_examples=200, deadline=None)
def test_pieces_cover_every_frame_once_beside_their_overlap(total: int, length: int, data: st.DataObject) -> None:
    pieces = Pieces(length, data.draw(st.integers(0, length - 1)))
    firsts = [n * pieces.stride for n in range(pieces.count(total))]
    covered = [min(first + length, total) for first in firsts]
    assert covered[-1] == total and all(end < total for end in covered[:-1])


def test_the_drawing_in_plan() -> None:
    plan = Plan(keyframes=13, frames=8, overlap=2, given=2, factor=4)
    assert list(plan.windows()) == [Window(0, -1, 2, 0, 7), Window(1, 5, 2, 7, 13)]
    assert [plan.known(n) for n in range(3)] == [0, 25, 49]


def test_without_given_frames_one_window_makes_all() -> None:
    for count in (1, 5, 8):
        plan = Plan(keyframes=count, frames=8, given=0, factor=16, passes=2)
        assert list(plan.windows()) == [Window(0, 0, 0, 0, count)] and plan.count == 1
    assert plan.total == 113 and plan.kinds() == {"key": 8, "interpolated": 105, "filled": 0}


def test_seconds_in_decimals_are_those_of_keyframes() -> None:
    """3.7333333333333334 is 7 times 8/15 in the nearest float, a little more than that."""
    assert [keyframes_for(float(n * Fraction(8, 15))) for n in range(1, 400)] == list(range(2, 401))
    assert keyframes_for(3.74) == 9


def test_a_longer_plan_begins_with_the_shorter() -> None:
    short, long = Plan(20, 8), Plan(50, 8)
    assert [(w.start, w.first) for w in short.windows()] == [(w.start, w.first) for w in long.windows()][: short.count]


def test_two_minutes() -> None:
    assert keyframes_for(120) == 226 and Plan(226, 8, factor=4).total == 901
    assert keyframes_for(0.1) == 2 and keyframes_for(8 / 15) in (2, 3)
    assert Plan(226, 8, factor=16).total == 16 * 225 + 1 and video_frame(225) == 3600
    assert Plan(5, 8, factor=4).fps == Fraction(15, 2)


def test_k_keyframes_become_sixteen_times_as_many_less_one_and_one() -> None:
    for count in (1, 2, 9, 226):
        plan = Plan(count, 8, factor=16, passes=2)
        assert plan.total == 16 * (count - 1) + 1 and plan.fps == 30 and plan.kinds()["filled"] == 0


def test_passes_stop_where_the_model_knows_no_rate() -> None:
    assert [passes_for(factor, (7.5, 30.0)) for factor in FACTORS] == [0, 0, 1, 1, 2]
    assert [passes_for(factor, (7.5,)) for factor in FACTORS] == [0, 0, 1, 1, 1]
    assert not any(passes_for(factor, rates) for factor in FACTORS for rates in ((), (30.0,)))


def test_rates() -> None:
    assert [factor_for(Fraction(15, 8) * r) for r in FACTORS] == list(FACTORS)
    with pytest.raises(Mistake, match=r"7\.5"):
        factor_for(Fraction(24))


def test_hash_changes_with_every_number() -> None:
    base = describe(Plan(20, 8), {"seed": 1})
    assert base["hash"] == describe(Plan(20, 8), {"seed": 1})["hash"]
    others = [(Plan(21, 8), 1), (Plan(20, 9), 1), (Plan(20, 8, 3), 1), (Plan(20, 8, 2, 2), 1), (Plan(20, 8), 2)]
    assert len({base["hash"], *(describe(plan, {"seed": seed})["hash"] for plan, seed in others)}) == 6


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 8, 2, 1, 1),
        (9, 8, 8, 1, 1),
        (9, 8, 2, 8, 1),
        (9, 8, 2, 1, 3),
        (9, 8, 0, 1, 1),
        (9, 8, 2, 1, 8, 2),
        (9, 8, 2, 0, 1),
    ],
)
def test_impossible_plans(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        Plan(*numbers)
