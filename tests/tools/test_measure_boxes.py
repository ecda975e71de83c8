"""What the tool that measures obedience counts: places, moves and what is shuffled."""

from fractions import Fraction
from types import ModuleType

import numpy as np
import pytest

from drivesim.rollout.tracks import Key, Track, Tracks
from drivesim.scene import Boxes

from . import loaded

TIMES = [Fraction(0), Fraction(8, 15)]
SIZE = (100, 200)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return loaded("measure_boxes")


def still(id: str, box: tuple[float, float, float, float], visibility: float = 1.0) -> Track:
    return Track(id, "car", tuple(Key(t, box, visibility) for t in (0.0, 10.0)))


def test_places_are_widened_by_a_tenth_of_each_side_of_either_box(tool: ModuleType) -> None:
    before, after = Tracks((still("a", (0.1, 0.2, 0.2, 0.4)),)), Tracks((still("a", (0.5, 0.2, 0.6, 0.4)),))
    inside = tool.places(before, after, "a", TIMES, SIZE)
    expected = np.zeros((2, *SIZE), bool)
    for x0, x1 in ((20, 40), (100, 120)):  # 20 wide and 20 high: two pixels on each side
        expected[:, 18:42, x0 - 2 : x1 + 2] = True
    assert (inside == expected).all()


def test_a_move_meets_nobody_and_stays_inside(tool: ModuleType) -> None:
    mover = still("mover", (0.4, 0.4, 0.5, 0.6))
    assert tool.a_move(Tracks((mover,)), TIMES, SIZE).by == pytest.approx((-0.15, 0.0))
    left = still("left", (0.2, 0.4, 0.3, 0.6), 0.5)  # hidden by half, so it is not moved itself
    assert tool.a_move(Tracks((mover, left)), TIMES, SIZE).by == pytest.approx((0.15, 0.0))
    right = still("right", (0.6, 0.4, 0.7, 0.6), 0.5)
    assert tool.a_move(Tracks((mover, left, right)), TIMES, SIZE) is None
    short = Track("short", "car", (Key(0.0, (0.4, 0.4, 0.5, 0.6), 1.0),))
    assert tool.a_move(Tracks((short,)), TIMES, SIZE) is None, "not there in all of the window"


def test_the_largest_change_over_the_colours_counts(tool: ModuleType) -> None:
    one = np.zeros((1, 1, 2, 3), np.uint8)
    other = one.copy()
    other[0, 0, 1] = (0, 40, 250)
    assert tool.difference(one, other).tolist() == [[[0, 250]]] and tool.difference(other, one)[0, 0, 1] == 250


def test_other_boxes_are_those_of_half_the_set_away(tool: ModuleType) -> None:
    boxes = [
        Boxes((Fraction(0),), np.array([n]), ("car",), np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([1.0]))
        for n in range(6)
    ]
    assert [int(each.track[0]) for each in tool.shuffled(boxes)] == [3, 4, 5, 0, 1, 2]


def test_boxes_of_single_frames_become_a_batch(tool: ModuleType) -> None:
    time = Fraction(3)
    one = Boxes((time,), np.array([7]), ("car",), np.array([[0.0, 0.0, 0.5, 1.0]]), np.array([1.0]))
    batch = tool.together([one, one.rows([])])
    assert batch.box.shape[:2] == (2, 1) and batch.known.all()
    assert (batch.cls[:, 0] >= 0).sum(1).tolist() == [1, 0] and int(batch.track[0, 0, 0]) == 7
