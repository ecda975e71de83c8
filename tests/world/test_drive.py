"""A clip is a function of seed and time alone; labels mean what they say."""

from fractions import Fraction
from itertools import pairwise

import cv2
import numpy as np
import pytest

from drivesim.errors import Mistake
from drivesim.scene import CARS, CLASSES
from drivesim.world import World, drive, render
from drivesim.world.drive import MIN_VISIBLE
from drivesim.world.paint import MIN_BOX

KEY = Fraction(15, 8)
SMALL = (64, 128)


def test_a_seed_is_a_clip() -> None:
    one, two = render(10, 2, KEY, SMALL), render(10, 2, KEY, SMALL)
    assert np.array_equal(one.frames, two.frames)
    assert one.boxes is not None and two.boxes is not None
    assert np.array_equal(one.boxes.box, two.boxes.box) and one.labels == two.labels
    assert not np.array_equal(one.frames, render(11, 2, KEY, SMALL).frames)


@pytest.mark.parametrize("seed", [0, 10])
def test_another_rate_shows_the_same_moments(seed: int) -> None:
    slow, truth = drive(seed, 3, KEY, SMALL)
    fast, fine = drive(seed, 3, 4 * KEY, SMALL)
    assert len(slow.frames) == 6 and len(fast.frames) == 23
    assert np.array_equal(slow.frames, fast.frames[::4])
    assert np.array_equal(truth.speed, fine.speed[::4]) and np.array_equal(truth.curvature, fine.curvature[::4])
    assert slow.boxes is not None and fast.boxes is not None
    times = set(slow.boxes.time)
    kept = np.array([t in times for t in fast.boxes.time])
    assert np.array_equal(fast.boxes.box[kept], slow.boxes.box)


def test_a_moment_needs_no_history() -> None:
    world = World(11)
    first = world.frame(Fraction(8), SMALL)[0]
    world.frame(Fraction(100), SMALL)
    assert np.array_equal(first, world.frame(Fraction(8), SMALL)[0])
    assert np.array_equal(first, World(11).frame(8.0, SMALL)[0])


@pytest.mark.parametrize("size", [(64, 128), (100, 100), (97, 131), (192, 64), (512, 1024)])
def test_any_size(size: tuple[int, int]) -> None:
    clip = render(10, Fraction(1, 15), Fraction(30), size)
    assert clip.frames.shape == (2, *size, 3)
    assert clip.frames.std() > 10


def test_half_as_large_is_the_same_picture() -> None:
    large, small = World(0).frame(2.0, (128, 256))[0], World(0).frame(2.0, SMALL)[0]
    down = cv2.resize(large, (128, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(down.astype(int) - small).max() <= 2


def test_boxes_are_in_the_frame_and_last() -> None:
    clip = render(11, 4, Fraction(30), SMALL)
    boxes = clip.boxes
    assert boxes is not None and len(boxes) > 100
    assert boxes.box.min() >= 0 and boxes.box.max() <= 1
    assert (boxes.box[:, 2] > boxes.box[:, 0]).all() and (boxes.box[:, 3] - boxes.box[:, 1] >= MIN_BOX).all()
    assert boxes.visibility.min() >= MIN_VISIBLE and boxes.visibility.max() <= 1
    assert set(boxes.cls) <= set(CLASSES)
    rows: dict[int, list[int]] = {}
    for n, track in enumerate(boxes.track.tolist()):
        rows.setdefault(track, []).append(n)
    for mine in rows.values():
        assert len({boxes.cls[n] for n in mine}) == 1
        assert len({boxes.time[n] for n in mine}) == len(mine)
        for a, b in pairwise(mine):
            if boxes.time[b] - boxes.time[a] == Fraction(1, 30):
                assert np.abs(boxes.box[a] - boxes.box[b]).max() < 0.3
    assert max(len(mine) for mine in rows.values()) == len(clip.frames)  # the car ahead stays


def test_night_is_dark() -> None:
    dark, bright = [], []
    for seed in range(80):
        world = World(seed)
        if len(dark if world.look.night else bright) == 20:
            continue
        luma = (world.frame(5.0, (32, 64))[0] @ [0.299, 0.587, 0.114]).mean()
        (dark if world.look.night else bright).append(luma)
    assert len(dark) == len(bright) == 20
    assert max(dark) < 0.6 * min(bright)


def test_labels_follow_the_traffic() -> None:
    counts = {seed: render(seed, 3, Fraction(1), SMALL).labels for seed in range(24)}
    cars = [label.cars for label in counts.values()]
    assert all(isinstance(n, int) for n in cars)
    assert min(cars) == 0 and 5 <= max(cars) <= 14 and len(set(cars)) >= 4
    assert all(label.night is World(seed).look.night for seed, label in counts.items())
    empty = next(seed for seed in range(99) if World(seed).traffic.density == 0)
    clip = render(empty, 4, Fraction(1), SMALL)
    assert clip.labels.cars == 0 and clip.boxes is not None and not set(clip.boxes.cls) & set(CARS)


def test_no_drive_is_a_mistake() -> None:
    for seconds, fps, size in ((0, Fraction(30), SMALL), (1, Fraction(0), SMALL), (1, Fraction(30), (8, 128))):
        with pytest.raises(Mistake):
            drive(0, seconds, fps, size)


def test_threads_are_left_as_they_were() -> None:
    before = cv2.getNumThreads()
    render(0, Fraction(1, 30), Fraction(30), SMALL)
    assert cv2.getNumThreads() == before
