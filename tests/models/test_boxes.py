"""Boxes as planes and tokens: known answers on a grid, and what "not known" and "none here" mean."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from drivesim.models.boxes import PLANES, BoxTokens, planes, turns
from drivesim.models.unet import UNetConfig
from drivesim.models.video import ImageModel, VideoUNet
from drivesim.scene import CLASSES, EMPTY, IGNORED, Boxes, Condition, FrameBoxes, frame_boxes

CAR, PEDESTRIAN = CLASSES.index("car"), CLASSES.index("pedestrian")
UPRIGHT, LEVEL, LEFT, UPPER, RIGHT, LOWER, TURN, KNOWN = (len(CLASSES) + n for n in (0, 1, 2, 3, 4, 5, 6, 10))
CELLS = (4, 8)


def told(*boxes: tuple[int, int, tuple[float, float, float, float]], known: bool = True) -> FrameBoxes:
    """One frame of (class, track, box)."""
    rows = boxes or ((EMPTY, 0, (0.0, 0.0, 0.0, 0.0)),)
    return FrameBoxes(
        torch.tensor([[[row[2] for row in rows]]]),
        torch.tensor([[[row[0] for row in rows]]]),
        torch.tensor([[[row[1] for row in rows]]]),
        torch.tensor([[known]]),
    )


def test_a_box_on_the_grid():
    """Columns 2 and 3 and half of 4, rows 1 and 2, of 8 x 4 cells."""
    drawn = planes(told((CAR, 5, (2 / 8, 1 / 4, 4.5 / 8, 3 / 4))), *CELLS)
    assert drawn.shape == (1, 1, PLANES, *CELLS)
    frame = drawn[0, 0]
    expected = torch.zeros(CELLS)
    expected[1:3, 2:4], expected[1:3, 4] = 1.0, 0.5
    torch.testing.assert_close(frame[CAR], expected)
    assert float(frame[PEDESTRIAN].abs().sum()) == 0 and bool((frame[KNOWN] == 1).all())
    assert frame[UPRIGHT, 1].tolist() == pytest.approx([0, 0.5, 0.5, 0, 1, 0, 0, 0])  # x = 2 and x = 4.5
    assert frame[LEVEL, :, 2].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5])  # y = 1 and y = 3
    for plane, cells in ((LEFT, 0.5), (RIGHT, 2.0), (UPPER, 0.5), (LOWER, 1.5)):
        assert float(frame[plane, 1, 2]) == pytest.approx(np.tanh(cells / 2), abs=1e-6)
    torch.testing.assert_close(frame[TURN : TURN + 4, 1, 2], turns(torch.tensor(5)))


def test_the_nearest_box_of_a_cell_is_that_whose_lower_side_is_lowest():
    far, near = (CAR, 1, (0.0, 0.0, 1.0, 0.5)), (PEDESTRIAN, 2, (0.0, 0.25, 0.25, 1.0))
    for order in ((far, near), (near, far)):
        frame = planes(told(*order), *CELLS)[0, 0]
        torch.testing.assert_close(frame[TURN : TURN + 4, 1, 1], turns(torch.tensor(2)))
        torch.testing.assert_close(frame[TURN : TURN + 4, 1, 7], turns(torch.tensor(1)))
        assert float(frame[CAR, 1, 1]) == 1 and float(frame[PEDESTRIAN, 1, 1]) == 1


def test_not_known_differs_from_none_here_and_from_not_labelled():
    unknown, none = planes(told(known=False), *CELLS), planes(told(), *CELLS)
    assert float(unknown.abs().sum()) == 0
    assert float(none[:, :, :KNOWN].abs().sum()) == 0 and bool((none[:, :, KNOWN] == 1).all())
    half = planes(told((IGNORED, 0, (0.0, 0.0, 0.5, 1.0))), *CELLS)
    assert half[0, 0, KNOWN, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1] and float(half[:, :, :KNOWN].abs().sum()) == 0
    assert float(planes(told((CAR, 1, (0.1, 0.1, 0.9, 0.9)), known=False), *CELLS).abs().sum()) == 0


def test_tokens_of_boxes_do_not_depend_on_order_or_empty_places():
    model = BoxTokens(16, 2, head_channels=8).eval()
    a, b = (CAR, 1, (0.1, 0.2, 0.3, 0.4)), (PEDESTRIAN, 7, (0.5, 0.5, 0.6, 0.9))
    empty = (EMPTY, 0, (0.0, 0.0, 0.0, 0.0))
    tokens, mask = model(told(a, b))
    turned, _ = model(told(b, a))
    torch.testing.assert_close(turned[:, :, [0, 2, 1]], tokens)
    padded, more = model(told(a, b, empty))
    torch.testing.assert_close(padded[:, :, :3], tokens)
    assert mask.tolist() == [[[True] * 3]] and more.tolist() == [[[True] * 3 + [False]]]
    nothing, seen = model(told(a, known=False))
    assert not seen.any() and bool(torch.isfinite(nothing).all())


def tiny(**more: Any) -> UNetConfig:
    small = UNetConfig((16, 16), blocks=1, attention=(False, True), head_channels=8, cross=8, groups=4)
    return replace(small, **more)


@pytest.mark.parametrize(
    "how", [{"joined": ("boxes",), "in_channels": 4 + PLANES}, {"box_tokens": 1}], ids=["planes", "tokens"]
)
def test_a_model_is_told_boxes_frame_by_frame(how):
    """A box in frame 1 changes frame 1 alone; a dropped box is as no word of it; none here is another matter."""
    image = ImageModel(tiny(**how)).eval()
    x, noise = torch.randn(1, 2, 4, 8, 8), torch.full((1, 2), 300.0)
    base = Condition(tokens=torch.randn(1, 1, 8))
    two = told(), told((CAR, 3, (0.2, 0.2, 0.8, 0.9)))
    boxes = FrameBoxes(*(torch.cat(parts, dim=1) for parts in zip(*map(fields_of, two), strict=True)))
    empty = replace(boxes, cls=torch.full_like(boxes.cls, EMPTY))

    def out(boxes: FrameBoxes | None) -> torch.Tensor:
        with torch.inference_mode():
            return VideoUNet(image.unet)(x, noise, image.told(boxes, (8, 8), base))

    plain, none, one = out(None), out(empty), out(boxes)
    assert image.takes_boxes and not torch.allclose(none, plain, atol=1e-4)
    torch.testing.assert_close(one[:, 0], none[:, 0])
    assert not torch.allclose(one[:, 1], none[:, 1], atol=1e-4)
    torch.testing.assert_close(out(boxes.where(torch.tensor([False]))), plain)


def fields_of(boxes: FrameBoxes) -> tuple[torch.Tensor, ...]:
    return boxes.box, boxes.cls, boxes.track, boxes.known


def test_boxes_at_moments_become_tensors():
    times = (Fraction(0), Fraction(0), Fraction(1, 2))
    boxes = Boxes(
        times, np.array([4, 9, 4]), ("car", "bus", "car"),
        np.array([[0, 0, 0.1, 0.1], [0, 0, 0.5, 0.5], [0.1, 0, 0.2, 0.1]]), np.full(3, np.nan),
        ignore=np.array([False, False, True]),
    )  # fmt: skip
    found = frame_boxes(boxes, [Fraction(1, 2), Fraction(0), Fraction(1)])
    assert found.cls.tolist() == [[[IGNORED, EMPTY], [CLASSES.index("bus"), CAR], [EMPTY, EMPTY]]]
    assert found.track[0, 1].tolist() == [9, 4] and bool(found.known.all())
    assert frame_boxes(boxes, [Fraction(0)], most=1).track.tolist() == [[[9]]]  # the largest stays
    batch = {"boxes": found.box, "box_class": found.cls, "box_track": found.track, "box_known": found.known}
    again = FrameBoxes.of(batch)
    assert again is not None and torch.equal(again.box, found.box) and FrameBoxes.of({}) is None


def test_channels_must_hold_the_planes():
    with pytest.raises(ValueError, match="in_channels 24, not 20"):
        tiny(joined=("boxes",), in_channels=20)
    with pytest.raises(ValueError, match="box_tokens"):
        tiny(box_tokens=1, cross=None)
