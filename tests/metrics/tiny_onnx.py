"""ONNX files of a few hundred bytes, encoded by hand: protobuf's wire format needs no library for so little."""

from collections.abc import Sequence

import numpy as np

FLOAT, INT64 = 1, 7


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value & (2**64 - 1))
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def tensor(name: str, value: np.ndarray) -> bytes:
    kind, array = (INT64, value.astype("<i8")) if value.dtype.kind == "i" else (FLOAT, value.astype("<f4"))
    dims = b"".join(_field(1, n) for n in value.shape)
    return dims + _field(2, kind) + _field(8, name) + _field(9, array.tobytes())


def node(op: str, inputs: Sequence[str], output: str, **ints: Sequence[int]) -> bytes:
    """A node with attributes that are lists of whole numbers."""
    found = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, op)
    for name, values in ints.items():
        found += _field(5, _field(1, name) + b"".join(_field(8, n) for n in values) + _field(20, 7))
    return found


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_field(1, _field(1, n)) for n in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, dims)))


def model(
    nodes: Sequence[bytes], constants: dict[str, np.ndarray], shape: Sequence[int], outputs: dict[str, Sequence[int]]
) -> bytes:
    """A network from ``input`` of ``shape`` to ``outputs``."""
    graph = b"".join(_field(1, each) for each in nodes) + _field(2, "tiny")
    graph += b"".join(_field(5, tensor(name, value)) for name, value in constants.items())
    graph += _field(11, _value("input", shape))
    graph += b"".join(_field(12, _value(name, dims)) for name, dims in outputs.items())
    opset = _field(8, _field(1, "") + _field(2, 13))
    return _field(1, 8) + opset + _field(7, graph)


def bright(size: tuple[int, int], cell: int, rows: Sequence[str], layout: str) -> bytes:
    """A detector of bright cells: every ``cell`` x ``cell`` pixels is a box, whose likelihood of being of class n of
    ``rows`` is the mean of the channel named there (``r``, ``g`` or ``b``), which is fed in [0, 1].

    Args:
        layout: as in ``onnx.Described``; boxes-scores-labels says of every cell the first class.
    """
    h, w = size[0] // cell, size[1] // cell
    front = {"yolov5": 5, "yolov8": 4, "boxes-scores-labels": 4}[layout]
    wide, count = front + len(rows), h * w
    weight = np.zeros((wide, 3, cell, cell), np.float32)
    for n, channel in enumerate(rows):
        weight[front + n, "rgb".index(channel)] = 1 / cell**2
    y, x = np.mgrid[:h, :w].astype(np.float32)
    offset = np.zeros((1, wide, h, w), np.float32)
    offset[0, :4] = (x + 0.5) * cell, (y + 0.5) * cell, np.full((h, w), cell), np.full((h, w), cell)
    if front == 5:
        offset[0, 4] = 1
    nodes = [
        node("Conv", ["input", "weight"], "each", strides=[cell, cell], kernel_shape=[cell, cell]),
        node("Add", ["each", "offset"], "placed"),
        node("Reshape", ["placed", "flat"], "flatten" if layout != "yolov8" else "out"),
    ]
    constants = {"weight": weight, "offset": offset, "flat": np.array([1, wide, count])}
    outputs: dict[str, Sequence[int]] = {"out": [1, wide, count]}
    if layout != "yolov8":
        nodes.append(node("Transpose", ["flatten"], "turned", perm=[0, 2, 1]))
    if layout == "yolov5":
        nodes[-1] = node("Transpose", ["flatten"], "out", perm=[0, 2, 1])
        outputs = {"out": [1, count, wide]}
    if layout == "boxes-scores-labels":
        constants |= {"begin": np.array([0]), "four": np.array([4]), "five": np.array([5]), "axis": np.array([2])}
        constants |= {"one": np.array([1, count]), "nothing": np.zeros((1, count), np.float32)}
        nodes += [
            node("Slice", ["turned", "begin", "four", "axis"], "boxes"),
            node("Slice", ["turned", "four", "five", "axis"], "likely"),
            node("Reshape", ["likely", "one"], "scores"),
            node("Mul", ["scores", "nothing"], "labels"),
        ]
        outputs = {"boxes": [1, count, 4], "scores": [1, count], "labels": [1, count]}
    return model(nodes, constants, [1, 3, *size], outputs)
