"""Boxes over a frame: where their lines are, what lies over what, and which names are written."""

import numpy as np

from drivesim.report.boxes import COLOURS, draw
from drivesim.scene import Boxes


def boxes(*rows: tuple[str, tuple[int, int, int, int]], ignore: bool = False) -> Boxes:
    """In pixels of a frame of 400x800, where lines are 2 wide."""
    return Boxes(
        time=(0,) * len(rows),
        track=np.arange(len(rows)),
        cls=tuple(cls for cls, _ in rows),
        box=np.array([box for _, box in rows]) / (800, 400, 800, 400),
        visibility=np.ones(len(rows)),
        ignore=np.full(len(rows), ignore),
    )


def drawn(found: Boxes, ids: dict[int, str] | None = None) -> np.ndarray:
    frame = np.zeros((400, 800, 3), np.uint8)
    shown = draw(frame, found, ids or {})
    assert not frame.any()
    return shown


def test_lines_are_at_the_edges_and_the_inside_is_free() -> None:
    shown = drawn(boxes(("car", (100, 100, 300, 200))))
    for y, x in ((100, 200), (199, 200), (150, 100), (150, 299)):
        assert tuple(shown[y, x]) == COLOURS["car"]
    assert not shown[104:196, 104:296].any() and not shown[205:].any() and not shown[:, 305:].any()


def test_a_small_box_lies_over_a_large_one_whatever_their_order() -> None:
    rows = ("car", (100, 100, 300, 200)), ("pedestrian", (290, 140, 310, 180))
    assert (drawn(boxes(*rows)) == drawn(boxes(*rows[::-1]), {0: "1", 1: "0"})).all()
    assert tuple(drawn(boxes(*rows))[140, 299]) == COLOURS["pedestrian"]


def test_a_name_that_would_hide_the_neighbours_is_not_written() -> None:
    small = boxes(("car", (100, 100, 120, 120)))
    assert drawn(small, {0: "1"})[80:98].any()
    assert not drawn(small, {0: "3145108322"})[80:98].any()


def test_a_region_to_ignore_is_crossed_out_without_a_name() -> None:
    shown = drawn(boxes(("other", (100, 100, 300, 200)), ignore=True))
    assert tuple(shown[150, 200]) == (128, 128, 128) and not shown[:98].any()
