"""Window arithmetic: for any numbers, every key-frame and every output frame is made exactly once."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.errors import Mistake
from drivesim.rollout.plan import FACTORS, Plan, Window, describe, factor_for, keyframes_for, video_frame


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    frames = draw(st.integers(2, 12))
    return Plan(
        keyframes=draw(st.integers(1, 200)),
        frames=frames,
        overlap=draw(st.integers(1, frames - 1)),
        given=draw(st.integers(1, min(2, frames - 1))),
        factor=draw(st.sampled_from(FACTORS)),
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
def test_segments_tile_the_output(plan: Plan) -> None:
    segments = [plan.segment(w) for w in plan.windows()]
    assert [i for a, b in segments for i in range(a, b)] == list(range(plan.total))
    for window, (a, b) in zip(plan.windows(), segments, strict=True):
        keys = [i for i in range(a, b) if i % plan.factor == 0]
        assert keys == [k * plan.factor for k in range(window.first, window.last)]


def test_the_drawing_in_plan() -> None:
    plan = Plan(keyframes=13, frames=8, overlap=2, given=2, factor=4)
    assert list(plan.windows()) == [Window(0, -1, 2, 0, 7), Window(1, 5, 2, 7, 13)]
    assert [plan.segment(w) for w in plan.windows()] == [(0, 25), (25, 49)]


def test_a_longer_plan_begins_with_the_shorter() -> None:
    short, long = Plan(20, 8), Plan(50, 8)
    assert [(w.start, w.first) for w in short.windows()] == [(w.start, w.first) for w in long.windows()][: short.count]


def test_two_minutes() -> None:
    assert keyframes_for(120) == 226 and Plan(226, 8, factor=4).total == 901
    assert keyframes_for(0.1) == 2 and keyframes_for(8 / 15) in (2, 3)
    assert Plan(226, 8, factor=16).total == 16 * 225 + 1 and video_frame(225) == 3600
    assert Plan(5, 8, factor=4).fps == Fraction(15, 2)


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
    "numbers", [(0, 8, 2, 1, 1), (9, 8, 8, 1, 1), (9, 8, 2, 8, 1), (9, 8, 2, 1, 3), (9, 8, 0, 1, 1)]
)
def test_impossible_plans(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        Plan(*numbers)
