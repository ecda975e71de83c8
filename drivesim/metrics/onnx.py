"""Any detector as an ONNX file, run by OpenCV's DNN module; a YAML file beside it says how it is fed and read.

The file is data of others: it is read once, within a limit, from memory, so that it can name no further files, and all
that comes out of it is checked. OpenCV runs no code from it, but its parser is not hardened against hostile files.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import cv2
import numpy as np
from annotated_types import Ge, Interval, Le, MinLen

from drivesim import config
from drivesim.data.classes import class_of
from drivesim.data.opening import content
from drivesim.errors import Mistake
from drivesim.metrics.detection import Found, distinct
from drivesim.metrics.matching import Size

T = TypeVar("T")
LARGEST = 2**30  # bytes
PADDED = 114  # level beside a picture in a letterbox, as the YOLO networks are trained
Side = Annotated[int, Ge(16), Le(4096)]
Score = Annotated[float, Interval(ge=0, le=1)]
LAYOUTS = {
    "yolov5": "one output 1 N 5+C: centre, size, likelihood of anything, of each class",
    "yolov8": "one output 1 4+C N: centre, size, likelihood of each class",
    "boxes-scores-labels": "three outputs: N 4, N, N, each with or without a 1 in front",
}
KEYS = "size: [H, W], layout: yolov8, classes: [person, bicycle, car, ...]"


@dataclass(frozen=True)
class Described:
    """How a network is fed and read: ``FILE.yaml`` beside ``FILE.onnx``.

    Args:
        size: height and width of its input, 1 3 H W.
        layout: of its output: yolov5, yolov8, or boxes-scores-labels.
        classes: its classes' names by number; those that are none of ours (background, traffic lights) are passed over.
        fit: how a frame is brought to ``size``: letterbox keeps its shape and fills up with grey, stretch does not.
        channels: their order.
        mean: subtracted from the levels, 0 to 255, in that order.
        scale: multiplied with what is left.
        outputs: names of the boxes, the scores and the labels, of boxes-scores-labels.
        corners: of these boxes: xyxy or cxcywh. ``unit``: pixels of the input, or fractions of it.
        threshold: score from which a detection counts.
        least: score below which it is not even told.
        overlap: from which on two boxes of a class are one thing.
    """

    size: tuple[Side, Side]
    layout: Literal["yolov5", "yolov8", "boxes-scores-labels"]
    classes: Annotated[tuple[str, ...], MinLen(1)]
    fit: Literal["letterbox", "stretch"] = "letterbox"
    channels: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1 / 255, 1 / 255, 1 / 255)
    outputs: tuple[str, str, str] = ("boxes", "scores", "labels")
    corners: Literal["xyxy", "cxcywh"] = "xyxy"
    unit: Literal["pixels", "fractions"] = "pixels"
    threshold: Score = 0.5
    least: Score = 0.05
    overlap: Score = 0.6

    @property
    def ours(self) -> tuple[str | None, ...]:
        """By number, the class of ``scene.CLASSES``; None for what is no traffic, or none that we name."""
        found = (class_of(word) for word in self.classes)
        return tuple(None if cls == "other" else cls for cls in found)


@dataclass(frozen=True)
class Placing:
    """Where a frame of ``shape`` (height, width) lies in the input: ``input = frame * by + at``, x and y."""

    shape: Size
    by: tuple[float, float]
    at: tuple[float, float]

    def back(self, box: np.ndarray) -> np.ndarray:
        """Boxes ``N 4`` in pixels of the input, as fractions of the frame, cut to it."""
        frame = (box - np.array(self.at * 2)) / np.array(self.by * 2)
        return np.clip(frame / np.array([self.shape[1], self.shape[0]] * 2), 0, 1)


@dataclass(eq=False)
class Onnx:
    """A ``detection.Detector``.

    Args:
        file: the network; the description lies beside it.

    Raises:
        Mistake: no such file, too large, no description, one that does not fit, or no network that OpenCV can run.
    """

    file: Path
    name: str = field(init=False)
    sha: str = field(init=False)
    classes: frozenset[str] = field(init=False)
    threshold: float = field(init=False)

    def __post_init__(self) -> None:
        network, beside = _content(self.file), self.file.with_suffix(".yaml")
        if not beside.is_file():
            raise Mistake("is not described", where=self.file, mend=f"{beside.name} beside it says {KEYS}")
        self.about = config.load(Described, beside)
        self.classes = frozenset(cls for cls in self.about.ours if cls is not None)
        if not self.classes:
            raise Mistake("names no traffic", where=beside, field="classes", mend="car, truck, bus, person, ...")
        self.sha, self.threshold = hashlib.sha256(network).hexdigest(), self.about.threshold
        self.name = f"{self.file.stem}[{config.digest(config.plain(self.about))[:8]}]"  # read otherwise, it is another
        self.network = self._tried(lambda: cv2.dnn.readNetFromONNX(np.frombuffer(network, np.uint8)), "be read")
        if self.network.empty():
            raise Mistake("holds no network", where=self.file)
        self._check_inputs(network)
        self.outputs = list(self.network.getUnconnectedOutLayersNames())
        self(np.zeros((1, *self.about.size, 3), np.uint8))  # what does not fit shows before hours of video

    def __call__(self, frames: np.ndarray) -> list[Found]:
        """See ``detection.Detector``; frames go through it one by one, as most files are made for one.

        Raises:
            Mistake: the network cannot be run, or gives something else than its description says.
        """
        return [self._seen(frame) for frame in frames]

    def _check_inputs(self, network: bytes) -> None:
        """OpenCV clamps shapes that do not fit and goes on, so the file is held to its description here."""
        wanted = (1, 3, *self.about.size)
        try:
            inputs = declared(memoryview(network))
        except (ValueError, IndexError, KeyError):
            raise Mistake("holds no network", where=self.file) from None
        for shape in inputs[:1]:
            if len(shape) != 4 or any(a not in (b, None) for a, b in zip(shape, wanted, strict=True)):
                said = " ".join("?" if n is None else str(n) for n in shape)
                mend = f"size: [{shape[2]}, {shape[3]}]" if shape[:2] == (1, 3) and len(shape) == 4 else None
                what = f"takes {said}, its description says {' '.join(map(str, wanted))}"
                raise Mistake(what, where=self.file, mend=mend)
        if len(inputs) != 1:
            raise Mistake(f"takes {len(inputs)} inputs, one is fed", where=self.file, mend="export it with one")

    def _seen(self, frame: np.ndarray) -> Found:
        blob, placing = fed(frame, self.about)
        self.network.setInput(blob)
        given = self._tried(lambda: self.network.forward(self.outputs), "be run")
        by_name = {name: np.asarray(value) for name, value in zip(self.outputs, given, strict=True)}
        box, score, number = self._read(by_name)
        return chosen(placing.back(box), score, number, self.about)

    def _tried(self, call: Callable[[], T], what: str) -> T:
        try:
            return call()
        except cv2.error as problem:
            words = " ".join(str(problem.err or problem).split())[:120]
            raise Mistake(f"cannot {what} by OpenCV {cv2.__version__}: {words}", where=self.file) from None

    def _read(self, given: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes ``N 4``, corners in pixels of the input, scores ``N`` and numbers of classes ``N``."""
        about, count = self.about, len(self.about.classes)
        if about.layout == "boxes-scores-labels":
            if missing := [name for name in about.outputs if name not in given]:
                raise self._unlike(given, f"no output '{missing[0]}'")
            box, score, label = (_plain(given[name], rank) for name, rank in zip(about.outputs, (2, 1, 1), strict=True))
            if box.ndim != 2 or box.shape[1] != 4 or not score.shape == label.shape == box.shape[:1]:
                raise self._unlike(given, "shapes that do not fit each other")
            scale = np.array([about.size[1], about.size[0]] * 2) if about.unit == "fractions" else 1.0
            return (box if about.corners == "xyxy" else _corners(box)) * scale, score, np.rint(label).astype(int)
        rows = _plain(next(iter(given.values())), 2)
        rows = rows.T if about.layout == "yolov8" and rows.ndim == 2 else rows
        wide = count + (4 if about.layout == "yolov8" else 5)
        if len(given) != 1 or rows.ndim != 2 or rows.shape[1] != wide:
            raise self._unlike(given, f"not what {count} classes give")
        likely = rows[:, 4:] if about.layout == "yolov8" else rows[:, 4:5] * rows[:, 5:]
        return _corners(rows[:, :4]), likely.max(1), likely.argmax(1)

    def _unlike(self, given: dict[str, np.ndarray], why: str) -> Mistake:
        shapes = ", ".join(f"{name} {' '.join(map(str, value.shape))}" for name, value in given.items())
        mend = f"layout {self.about.layout} is {LAYOUTS[self.about.layout]}"
        return Mistake(f"gives {shapes}: {why}", where=self.file, mend=mend)


def _content(file: Path) -> bytes:
    size = file.stat().st_size if file.is_file() else 0
    if size > LARGEST:
        what = f"has {size / 2**30:.1f} GiB, a detector of at most {LARGEST // 2**30} GiB is read"
        raise Mistake(what, where=file)
    return content(file)


def declared(model: memoryview) -> list[tuple[int | None, ...]]:
    """The shapes of a network's inputs; None is any number. ``ModelProto.graph`` is field 7, its inputs are 11, its
    constants, which old files count among the inputs, 5.

    Raises:
        ValueError, IndexError: not protobuf.
    """
    graph = next((value for number, value in _fields(model) if number == 7), memoryview(b""))
    inputs, constants = list[memoryview](), set[bytes]()
    for number, value in _fields(graph):
        if number == 11:
            inputs.append(value)
        elif number == 5:
            constants.add(bytes(next((name for n, name in _fields(value) if n == 8), memoryview(b""))))
    found = []
    for value in inputs:
        parts = dict(_fields(value))
        if bytes(parts[1]) in constants:
            continue
        shape = dict(_fields(dict(_fields(parts[2]))[1])).get(2, memoryview(b""))  # type, its tensor, its shape
        sizes = (dict(_numbers(dim)).get(1) for number, dim in _fields(shape) if number == 1)
        found.append(tuple(size or None for size in sizes))
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Of a protobuf message, the fields that have a length: number and content."""
    for number, value in _wire(message):
        if isinstance(value, memoryview):
            yield number, value


def _numbers(message: memoryview) -> Iterator[tuple[int, int]]:
    """Of a protobuf message, the fields that are whole numbers."""
    for number, value in _wire(message):
        if isinstance(value, int):
            yield number, value


def _wire(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind, end = key & 7, place
        if kind == 0:
            value, end = _varint(message, place)
            yield key >> 3, value
        elif kind == 2:
            length, place = _varint(message, place)
            end = place + length
            if end > len(message):
                raise ValueError("cut off")
            yield key >> 3, message[place:end]
        elif kind in (1, 5):
            end = place + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        place = end


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number without an end")


def fed(frame: np.ndarray, about: Described) -> tuple[np.ndarray, Placing]:
    """A frame uint8 ``H W 3`` as the network takes it, float32 ``1 3 h w``, and where in it the frame lies."""
    height, width = about.size
    by = width / frame.shape[1], height / frame.shape[0]
    if about.fit == "letterbox":
        by = (min(by), min(by))
    inner = max(1, round(frame.shape[0] * by[1])), max(1, round(frame.shape[1] * by[0]))
    smaller = inner[0] <= frame.shape[0] and inner[1] <= frame.shape[1]
    resized = cv2.resize(frame, inner[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    canvas = np.full((height, width, 3), PADDED, np.uint8)
    canvas[top : top + inner[0], left : left + inner[1]] = resized
    levels = canvas if about.channels == "rgb" else canvas[..., ::-1]
    blob = (levels.astype(np.float32) - np.array(about.mean, np.float32)) * np.array(about.scale, np.float32)
    exact = inner[1] / frame.shape[1], inner[0] / frame.shape[0]
    return np.ascontiguousarray(blob.transpose(2, 0, 1)[None]), Placing(frame.shape[:2], exact, (left, top))


def chosen(box: np.ndarray, score: np.ndarray, number: np.ndarray, about: Described) -> Found:
    """What is traffic, sure enough and no double, of boxes ``N 4`` in fractions, scores and numbers of classes."""
    kinds = [about.ours[n] if 0 <= n < len(about.ours) else None for n in number.tolist()]
    sane = np.isfinite(box).all(1) & np.isfinite(score) & (box[:, 2:] > box[:, :2]).all(1)
    sane &= np.array([kind is not None for kind in kinds], bool) & (score >= about.least)
    rows = np.flatnonzero(sane)
    if not len(rows):
        return Found(np.empty((0, 4)), (), np.empty(0))
    words = sorted({kind for kind in kinds if kind is not None})
    corners, likely = box[rows].astype(np.float64), np.clip(score[rows], 0, 1).astype(np.float64)
    groups = np.array([words.index(str(kinds[row])) for row in rows])
    best = distinct(corners, groups, likely, about.least, about.overlap)
    return Found(corners[best], tuple(words[groups[row]] for row in best), likely[best])


def _corners(box: np.ndarray) -> np.ndarray:
    """Centre and size ``N 4`` as corners."""
    return np.concatenate([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], 1)


def _plain(value: np.ndarray, rank: int) -> np.ndarray:
    """Without the 1s in front of ``rank`` axes."""
    while value.ndim > rank and value.shape[0] == 1:
        value = value[0]
    return value.astype(np.float64)
