"""The frozen detector: its file, its independence of neighbours and sizes, and that it finds what the world shows."""

import importlib.util
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from drivesim import weights
from drivesim.errors import Mistake
from drivesim.metrics import detector, precision
from drivesim.metrics.detection import Detector, Found
from drivesim.scene import Boxes

SPEC = importlib.util.spec_from_file_location("make_detector", Path(__file__).parents[2] / "tools" / "make_detector.py")
make_detector = importlib.util.module_from_spec(SPEC)
sys.modules["make_detector"] = make_detector
SPEC.loader.exec_module(make_detector)

UNSEEN = 32_000_000  # first seed of worlds that neither the training nor the tool's own report has used
WORLDS, FRAMES = 12, 8


@pytest.fixture(scope="module")
def small() -> detector.Small:
    return detector.load()


@pytest.fixture(scope="module")
def drives():
    return list(make_detector.rendered(UNSEEN, WORLDS, FRAMES, Fraction(15, 32)))


def equal(one: Found, other: Found) -> bool:
    return one.cls == other.cls and np.array_equal(one.box, other.box) and np.array_equal(one.score, other.score)


def test_the_file_is_small_and_says_where_it_came_from():
    assert detector.FILE.stat().st_size <= 1_000_000
    header = weights.header(detector.FILE, "extractor")
    assert {"steps", "seed", "data", "date", "command"} <= header.train.keys()
    assert header.classes == list(detector.CLASSES) and header.size == detector.SIZE


def test_a_flipped_byte_is_noticed(tmp_path):
    data = bytearray(detector.FILE.read_bytes())
    data[-7] ^= 1
    (tmp_path / "bent.safetensors").write_bytes(data)
    for name in ("bent", "none"):
        with pytest.raises(Mistake, match="not detector-v1"):
            detector.load(file=tmp_path / f"{name}.safetensors")


def test_it_is_a_detector(small):
    assert isinstance(small, Detector)
    assert (small.name, small.sha, small.classes) == ("detector-v1", detector.SHA256, frozenset(detector.CLASSES))
    assert small(np.zeros((0, 128, 256, 3), np.uint8)) == []
    with pytest.raises(ValueError, match="uint8 T H W 3"):
        small(np.zeros((2, 128, 256, 3), np.float32))


def test_a_frame_is_judged_alike_in_any_place_beside_any_frames(small, drives):
    frames = drives[0].pictures[:3]
    others = np.random.default_rng(0).integers(0, 256, (9, *detector.SIZE, 3), np.uint8)
    together = small(np.concatenate([others, frames]))
    for alone, beside in zip(frames, together[9:], strict=True):
        assert equal(small(alone[None])[0], beside)


def test_any_number_of_threads_gives_the_same_boxes(small, drives):
    threads = torch.get_num_threads()
    before = small(drives[0].pictures)
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert all(map(equal, before, small(drives[0].pictures)))
    finally:
        torch.set_num_threads(threads)


def test_frames_of_any_size_give_the_same_boxes(small, drives):
    """Pixels repeated: areas give the very same small frame back, of any aspect."""
    frames = drives[0].pictures[:2]
    before = small(frames)
    for down, across in ((4, 4), (1, 3)):
        assert all(map(equal, before, small(frames.repeat(down, 1).repeat(across, 2))))
    less = small(np.stack([cv2.resize(frame, (200, 90), interpolation=cv2.INTER_AREA) for frame in frames]))
    assert all((found.box >= 0).all() and (found.box <= 1).all() for found in less)


def test_things_are_told_once_best_first():
    """Two boxes of one car, one of a bus at the same place, and an unlikely one, in cells."""
    box = np.array([[10, 10, 20, 16], [10.5, 10, 20.5, 16], [10, 10, 20, 16], [40, 10, 50, 16]], np.float32)
    found = detector.suppressed(box, np.array([0, 0, 2, 1]), np.array([0.6, 0.9, 0.7, 0.01], np.float32))
    assert found.cls == ("car", "bus") and found.score == pytest.approx([0.9, 0.7])
    assert found.box[0] == pytest.approx([10.5 / 64, 10 / 32, 20.5 / 64, 16 / 32])


def test_it_finds_what_the_world_shows(small, drives):
    frames = make_detector.watch(small, drives)
    (by_class,) = make_detector.by_class(frames)
    assert sum(marks.positives.sum() for marks in by_class.values()) > 200
    assert make_detector.average(by_class) > 0.85
    assert precision.marks(frames)[0].precision() > 0.95


def boxes(*rows: tuple[float, ...], cls: str = "car", visibility: float = 1.0) -> Boxes:
    return Boxes(
        time=(Fraction(0),) * len(rows),
        track=np.arange(len(rows)),
        cls=(cls,) * len(rows),
        box=np.array(rows, float).reshape(-1, 4),
        visibility=np.full(len(rows), visibility),
    )


def test_cells_are_asked_for_the_box_around_whose_middle_they_lie():
    picture = np.zeros((*detector.SIZE, 3), np.uint8)
    near = boxes((0.25, 0.25, 0.75, 0.75))  # 32 x 16 cells around (32, 16)
    hidden = boxes((0.1, 0.1, 0.15, 0.2), visibility=0.2)
    frames = make_detector.labelled([picture, picture], [near, hidden])
    owner, silent = make_detector.owners(torch.from_numpy(frames.box), torch.from_numpy(frames.kind))
    rows, columns = torch.nonzero(owner[0] == 0, as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (
        14,
        17,
        30,
        33,
    )  # 2.5 cells on either side at most
    assert not silent[0].any() and (owner[1] < 0).all() and silent[1].any()


def test_what_is_too_small_or_hidden_is_not_asked_for():
    picture, large = np.zeros((64, 128, 3), np.uint8), (0.25, 0.25, 0.5, 0.5)
    asked = [boxes(large), boxes(large, visibility=float("nan")), boxes(large, cls="truck")]
    unsure = [boxes(large, visibility=0.2), boxes((0.25, 0.25, 0.27, 0.29)), boxes(large, cls="bicycle")]
    frames = make_detector.labelled([picture] * 7, [*asked, *unsure, boxes()])
    assert frames.pictures.shape == (7, *detector.SIZE, 3)
    assert frames.kind[:, 0].tolist() == [0, 0, 1, *[make_detector.UNSURE] * 3, make_detector.EMPTY]
    assert frames.turns.tolist() == [0, 1, 2, 2, 3, 4, 5, 6]  # a truck comes twice


def test_overlaps_are_known_ones():
    one = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
    other = torch.tensor([[1.0, 0.0, 3.0, 2.0], [3.0, 0.0, 4.0, 1.0]])
    iou, giou = make_detector.overlap(one, other)
    assert iou.tolist() == pytest.approx([1 / 3, 0]) and giou.tolist() == pytest.approx([1 / 3, -0.5])


def test_training_learns_a_frame():
    """The very same frame again and again: its boxes are learned, and the same seed ends in the same bits."""
    (drive,) = make_detector.rendered(UNSEEN + 99, 1, 1, Fraction(15, 8))
    frames = make_detector.labelled(list(drive.pictures), drive.boxes)

    def after(steps):
        network, taken = make_detector.train(frames, 0, lambda step: step / steps, size=2)
        assert taken == steps
        picture, box, kind = make_detector.batch(frames, 2, 1, 0)
        with torch.no_grad():
            return network, [float(loss) for loss in make_detector.losses(*network(picture), box, kind)]

    assert (frames.kind >= 0).sum() > 2
    network, before = after(2)
    again, _ = after(2)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    _, later = after(60)
    assert later[1] < 0.7 * before[1], (before, later)
