"""Detectors from ONNX files: the three layouts see the same, boxes come back to where they are in the frame, and what
does not fit is told in one sentence."""

import cv2
import numpy as np
import pytest

from drivesim import config
from drivesim.errors import Mistake
from drivesim.metrics import onnx
from drivesim.metrics.detection import Detector
from drivesim.metrics.onnx import Described, Onnx, chosen, declared, fed
from tests.metrics.tiny_onnx import bright, model

SIZE, CELL = (32, 64), 8
LAYOUTS = ("yolov5", "yolov8", "boxes-scores-labels")
CLASSES = ["car", "person"]


def saved(folder, layout, content=None, rows="rg", **about):
    file = folder / "tiny.onnx"
    file.write_bytes(bright(SIZE, CELL, rows, layout) if content is None else content)
    own = {"corners": "cxcywh"} if layout == "boxes-scores-labels" else {}
    values = {"size": list(SIZE), "layout": layout, "classes": CLASSES, **own, **about}
    file.with_suffix(".yaml").write_text(config.to_yaml(values))
    return file


def frame(*cells, shape=SIZE, colour=(255, 0, 0)):
    """Black but for cells of 8 pixels at (row, column)."""
    made = np.zeros((*shape, 3), np.uint8)
    for row, column in cells:
        made[CELL * row : CELL * (row + 1), CELL * column : CELL * (column + 1)] = colour
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(tmp_path, layout):
    network = Onnx(saved(tmp_path, layout))
    assert isinstance(network, Detector) and network.classes == {"car", "pedestrian"}
    first, second, nothing = network(np.stack([frame((1, 2)), frame((0, 0), (3, 7)), frame()]))
    assert first.cls == ("car",) and first.score == pytest.approx([1.0], abs=1e-5)
    assert first.box * [64, 32, 64, 32] == pytest.approx(np.array([[16, 8, 24, 16]]), abs=1e-4)
    assert sorted((second.box * [64, 32, 64, 32]).round(3).tolist()) == [[0, 0, 8, 8], [56, 24, 64, 32]]
    assert len(nothing) == 0 and nothing.box.shape == (0, 4)


@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_the_likelier_class_is_the_boxs(tmp_path, layout):
    (found,) = Onnx(saved(tmp_path, layout))(frame((1, 2), colour=(100, 200, 0))[None])
    assert found.cls == ("pedestrian",) and found.score == pytest.approx([200 / 255], abs=1e-5)


def test_channels_mean_and_scale_are_applied_in_this_order(tmp_path):
    """The network looks at its first channel: blue, where the order is bgr."""
    about = {"channels": "bgr", "mean": [55.0, 0.0, 0.0], "scale": [1 / 200, 1.0, 1.0]}
    network = Onnx(saved(tmp_path, "yolov8", **about))
    (found,) = network(frame((1, 2), colour=(0, 0, 155))[None])
    assert found.cls == ("car",) and found.score == pytest.approx([0.5], abs=1e-5)


def test_a_letterbox_and_a_stretch_both_lead_back_to_the_frame(tmp_path):
    """A frame of 64x64, twice as high as the input: in a letterbox it is half as large, in its middle."""
    tall = np.zeros((64, 64, 3), np.uint8)
    tall[16:32, 16:32] = (255, 0, 0)
    for fit in ("letterbox", "stretch"):
        (found,) = Onnx(saved(tmp_path, "yolov8", fit=fit))(tall[None])
        sure = found.box[found.score > 0.9] * 64
        low, high = sure.min(0)[:2], sure.max(0)[2:]
        assert (low.tolist(), high.tolist()) == ([16, 16], [32, 32]), fit
        grey = found.score[(found.score > 0.4) & (found.score < 0.5)]  # 114 of 255, cut away by the frame's edge
        assert len(grey) == 0


def test_what_is_fed_keeps_the_place_of_every_pixel():
    about = Described((32, 64), "yolov8", ("car",))
    blob, placing = fed(np.full((10, 40, 3), 255, np.uint8), about)
    assert blob.shape == (1, 3, 32, 64) and blob.dtype == np.float32
    assert placing.by == (1.6, 1.6) and placing.at == (0, 8)
    assert (blob[0, :, 8:24] == 1).all() and blob[0, 0, 0, 0] == pytest.approx(114 / 255)
    assert placing.back(np.array([[0.0, 8, 64, 24]])).tolist() == [[0, 0, 1, 1]]


def test_doubles_of_a_class_go_and_other_words_of_it_count_as_the_same():
    about = Described((32, 64), "yolov8", ("car", "van", "truck", "traffic light"), least=0.1, overlap=0.5)
    box = np.array([[0, 0, 0.5, 0.5]] * 4 + [[0.5, 0.5, 1, 1], [0, 0, 0, 0], [np.nan] * 4, [0.5, 0, 1, 0.5]])
    score = np.array([0.6, 0.9, 0.8, 0.99, 0.5, 0.9, 0.9, 0.01])
    found = chosen(box, score, np.array([0, 1, 2, 3, 0, 0, 0, 0]), about)
    assert found.cls == ("car", "truck", "car") and found.score == pytest.approx([0.9, 0.8, 0.5])
    assert about.ours == ("car", "car", "truck", None)


def test_the_name_tells_how_it_is_read_and_the_hash_what_it_is(tmp_path):
    one, other = Onnx(saved(tmp_path, "yolov8")), Onnx(saved(tmp_path, "yolov8", threshold=0.3))
    assert one.sha == other.sha and len(one.sha) == 64 and one.name != other.name
    assert one.name.startswith("tiny[") and (one.threshold, other.threshold) == (0.5, 0.3)


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"classes": ["car"]}, "tiny.onnx: gives out 1 6 32: not what 1 classes give\n  layout yolov8 is one output"),
        ({"layout": "yolov5"}, "tiny.onnx: gives out 1 6 32: not what 2 classes give"),
        ({"layout": "boxes-scores-labels"}, "tiny.onnx: gives out 1 6 32: no output 'boxes'"),
        ({"classes": ["dog", "chair"]}, "tiny.yaml: classes: names no traffic"),
        ({"layout": "yolo"}, "tiny.yaml line .: layout"),
        ({"sizes": [1, 2]}, "did you mean 'size'"),
        ({"threshold": 1.5}, "tiny.yaml line .: threshold"),
        ({"size": [1, 64]}, "tiny.yaml line 2: size"),
        ({"size": [48, 64]}, "takes 1 3 32 64, its description says 1 3 48 64\n  size: \\[32, 64\\]"),
    ],
)
def test_a_description_that_does_not_fit_is_a_mistake(tmp_path, about, says):
    with pytest.raises(Mistake, match=says) as caught:
        Onnx(saved(tmp_path, content=bright(SIZE, CELL, "rg", "yolov8"), **{"layout": "yolov8", **about}))
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("content", [b"", b"not a network" * 9, bright(SIZE, CELL, "rg", "yolov8")[:200]])
def test_a_broken_file_is_a_mistake(tmp_path, content, capfd):
    with pytest.raises(Mistake, match="tiny.onnx: (cannot be read by OpenCV|holds no network)") as caught:
        Onnx(saved(tmp_path, "yolov8", content))
    assert len(str(caught.value).splitlines()) <= 3


def test_a_file_that_is_not_there_not_described_or_too_large_is_a_mistake(tmp_path, monkeypatch):
    with pytest.raises(Mistake, match="no such file"):
        Onnx(tmp_path / "nowhere.onnx")
    file = saved(tmp_path, "yolov8")
    file.with_suffix(".yaml").unlink()
    with pytest.raises(Mistake, match="is not described\n  tiny.yaml beside it says size"):
        Onnx(file)
    monkeypatch.setattr(onnx, "LARGEST", 100)
    with pytest.raises(Mistake, match="a detector of at most"):
        Onnx(file)


def test_inputs_are_read_from_the_file():
    content = bright(SIZE, CELL, "rg", "yolov8")
    assert declared(memoryview(content)) == [(1, 3, 32, 64)]
    open_ = model([], {"w": np.zeros(2)}, [0, 3, 0, 64], {"out": [1]})  # 0 is how this encoder writes "any"
    assert declared(memoryview(open_)) == [(None, 3, None, 64)]


def test_opencv_reads_from_memory_alone(tmp_path, monkeypatch):
    """By its path, a file could name others beside it."""
    given = []
    true = cv2.dnn.readNetFromONNX
    monkeypatch.setattr(cv2.dnn, "readNetFromONNX", lambda what: given.append(what) or true(what))
    Onnx(saved(tmp_path, "yolov8"))
    assert isinstance(given[0], np.ndarray)
