"""The ten defects of boxes: each is told with its place, and the rest of the file goes on."""

import math
from fractions import Fraction

import pytest

from drivesim.data import annotations
from drivesim.data.annotations import Footage, Labelled, Remarks, Sheet
from drivesim.data.classes import TABLE, class_of
from drivesim.scene import CLASSES

Box = tuple[float, float, float, float]
GOOD: Box = (10.0, 20.0, 50.0, 60.0)
VIDEO = Footage((100, 200), Fraction(10), 30)


def sheet(size: tuple[int, int] = (100, 200), footage: Footage = VIDEO) -> tuple[Sheet, Remarks]:
    remarks = Remarks()
    return Sheet("drive", size, footage, remarks), remarks


def done(taken: Sheet) -> Labelled:
    found = taken.done()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((math.nan, 20, 50, 60), annotations.NOT_A_NUMBER),
        ((10, math.inf, 50, 60), annotations.NOT_A_NUMBER),
        ((50, 20, 10, 60), annotations.INVERTED),
        ((10, 20, 10, 60), annotations.FLAT),
        ((210, 20, 250, 60), annotations.OUTSIDE),
        ((-50, 20, -1, 60), annotations.OUTSIDE),
    ],
)
def test_a_bad_box_is_left_out_and_told(box: Box, reason: str) -> None:
    taken, remarks = sheet()
    taken.add(Fraction(0), 1, "car", GOOD)
    taken.add(Fraction(0), 2, "car", box, where="line 2")
    assert len(done(taken).boxes) == 1
    assert remarks.lines() == [f"1 x {reason}, first drive: line 2"]


def test_a_box_over_the_edge_is_cut_and_told() -> None:
    taken, remarks = sheet()
    taken.add(Fraction(0), 1, "car", (-20.0, 20.0, 50.0, 60.0))
    taken.add(Fraction(0), 2, "car", (-0.5, 20.0, 50.0, 60.0))  # formats differ by as much
    assert done(taken).boxes.box.tolist() == [[0, 0.2, 0.25, 0.6]] * 2
    assert remarks.count == {annotations.CUT: 1}


def test_an_unknown_class_becomes_other_and_keeps_its_word() -> None:
    taken, remarks = sheet()
    taken.add(Fraction(0), 1, "Hovercraft", GOOD)
    boxes = done(taken).boxes
    assert (boxes.cls, boxes.words) == (("other",), ("Hovercraft",))
    assert "Hovercraft" in remarks.lines()[0]


def test_a_second_box_of_a_track_and_a_frame_behind_the_end_are_left_out() -> None:
    taken, remarks = sheet()
    taken.add(Fraction(0), 1, "car", GOOD)
    taken.add(Fraction(0), 1, "car", (11, 21, 51, 61))
    taken.add(Fraction(29, 10), 1, "car", GOOD)
    taken.add(Fraction(3), 1, "car", GOOD)
    assert done(taken).boxes.time == (Fraction(0), Fraction(29, 10))
    assert remarks.count == {annotations.TWICE: 1, annotations.TOO_LATE: 1}


def test_labels_of_frames_of_another_shape_are_refused_and_of_another_scale_are_not() -> None:
    taken, remarks = sheet(size=(100, 100))
    taken.add(Fraction(0), 1, "car", GOOD)
    assert taken.done() is None and annotations.OTHER_SIZE in remarks.lines()[0]
    taken, remarks = sheet(size=(200, 400))
    taken.add(Fraction(0), 1, "car", GOOD)
    assert done(taken).boxes.box.tolist() == [[0.025, 0.1, 0.125, 0.3]] and not remarks.lines()


def test_sizes_taken_for_corners_are_seen() -> None:
    taken, remarks = sheet()
    for n in range(8):  # x, y, width, height of things all over the frame
        taken.add(Fraction(n, 10), 1, "car", (20.0 * n, 60.0, 30.0, 20.0))
    assert taken.done() is None and annotations.LIKE_SIZES in remarks.lines()[-1]


def test_fractions_taken_for_pixels_are_seen() -> None:
    taken, remarks = sheet()
    for n in range(8):
        taken.add(Fraction(n, 10), 1, "car", (0.1, 0.2, 0.5, 0.6))
    assert taken.done() is None and annotations.LIKE_FRACTIONS in remarks.lines()[-1]
    taken, remarks = sheet(size=(1, 1))
    taken.add(Fraction(0), 1, "car", (0.1, 0.2, 0.5, 0.6))
    assert done(taken).size == (100, 200) and not remarks.lines()


def test_ids_that_are_numbers_stay_and_words_get_numbers_of_their_own() -> None:
    taken, _ = sheet()
    for name in ("7", "0007", "a-car", 3, None, None):
        taken.add(Fraction(0), name, "car", GOOD)
    found = done(taken)
    numbers = {found.id_of(int(n)) for n in found.boxes.track if n >= 0}
    assert numbers == {"7", "0007", "a-car", "3"} and len(set(found.boxes.track.tolist())) == 6
    assert (found.boxes.track < 0).sum() == 2  # regions without a track


def test_moments_without_boxes_count_as_labelled() -> None:
    taken, _ = sheet()
    taken.look(Fraction(1, 10))
    taken.add(Fraction(0), 1, "car", GOOD)
    assert done(taken).times == (Fraction(0), Fraction(1, 10))


@pytest.mark.parametrize(
    ("word", "cls"),
    [
        ("Car", "car"), ("Van", "car"), ("REGULAR_VEHICLE", "car"), ("vehicle.car", "car"),
        ("vehicle.bus.bendy", "bus"), ("human.pedestrian.adult", "pedestrian"), ("Person_sitting", "pedestrian"),
        ("Cyclist", "rider"), ("hovercraft", None),
    ],
)  # fmt: skip
def test_words_of_datasets(word: str, cls: str | None) -> None:
    assert class_of(word) == cls


def test_every_class_means_itself() -> None:
    assert {class_of(cls) for cls in CLASSES} == set(TABLE.values()) == set(CLASSES)
