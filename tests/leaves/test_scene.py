"""What crosses rooms checks its shapes at the door, and pixels survive the way in and out."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from drivesim.scene import Boxes, Clip, Condition, Level, to_model, to_pixels


def test_every_level_survives_the_way_in_and_out() -> None:
    frames = np.arange(2 * 8 * 16 * 3, dtype=np.uint8).reshape(2, 8, 16, 3)
    inside = to_model(frames)
    assert inside.shape == (2, 3, 8, 16) and inside.min() == -1 and inside.max() == 1
    assert np.array_equal(to_pixels(inside), frames)


def test_out_of_range_is_clipped() -> None:
    assert to_pixels(torch.tensor([-3.0, 3.0, 0.0]).reshape(1, 3, 1, 1)).ravel().tolist() == [0, 255, 128]


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), np.zeros((2, 4, 4, 1), np.uint8)]
)
def test_a_clip_is_uint8_thw3(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 T H W 3"):
        Clip(bad, Fraction(30))


def test_boxes_agree_in_length() -> None:
    with pytest.raises(ValueError, match="boxes disagree"):
        Boxes((Fraction(0),), np.zeros(1, int), ("car",), np.zeros((2, 4)), np.ones(1))


def test_levels_and_conditions() -> None:
    with pytest.raises(ValueError, match="B T"):
        Level(torch.ones(3))
    with pytest.raises(ValueError, match="context_mask"):
        Condition(context=torch.zeros(1, 2, 4, 8, 8))
    full = Condition(tokens=torch.ones(1, 2, 3), context=torch.ones(1, 2, 1, 1, 1), context_mask=torch.ones(1, 2))
    free = full.without_context()
    assert free.context is None and free.context_mask is None and free.tokens is full.tokens
    assert full.without_labels().tokens is None and full.without_labels().context is full.context
    doubled = full.map(lambda x: 2 * x)
    assert doubled.tokens is not None and doubled.tokens.unique().tolist() == [2.0] and doubled.low is None
    assert Level(torch.tensor([[2.0]])).of(torch.ones(1, 1, 3, 4, 4)).shape == (1, 1, 1, 1, 1)
