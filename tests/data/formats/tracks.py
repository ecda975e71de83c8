"""Boxes that tests write and read back: of one video, at whole frames, in a frame of 1280x720."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from drivesim.data.annotations import Footage, Labelled
from drivesim.data.classes import class_of
from drivesim.scene import Boxes, Labels

SIZE = (720, 1280)
FPS = Fraction(30000, 1001)
Box = tuple[int, int, str, tuple[float, float, float, float], float, bool]  # frame, track, word, pixels, visibility


def unknown(video: str) -> Footage:
    return Footage()


def video(
    rows: Sequence[Box],
    frames: Sequence[int],
    fps: Fraction = FPS,
    name: str = "drive",
    ids: dict[int, str] | None = None,
) -> Labelled:
    rows = sorted(rows, key=lambda row: (row[0], row[1]))
    height, width = SIZE
    boxes = Boxes(
        time=tuple(row[0] / fps for row in rows),
        track=np.array([row[1] for row in rows], np.int64),
        cls=tuple(class_of(row[2]) or "other" for row in rows),
        box=np.array([row[3] for row in rows], np.float64).reshape(-1, 4) / (width, height, width, height),
        visibility=np.array([row[4] for row in rows], np.float64),
        word=tuple(row[2] for row in rows),
        ignore=np.array([row[5] for row in rows], bool),
    )
    return Labelled(name, boxes, SIZE, tuple(frame / fps for frame in frames), ids or {}, Labels())


@st.composite
def videos(draw: st.DrawFn) -> Labelled:
    """Up to 8 labelled frames, from 0 on; tracks that come and go, regions without a track (numbers below 0)."""
    length = draw(st.integers(1, 8))
    rows: list[Box] = []
    for track in draw(st.lists(st.integers(0, 50), max_size=4, unique=True)):
        word = draw(st.sampled_from(["Car", "pedestrian", "Van", "vehicle.truck", "bus"]))
        for frame in sorted(draw(st.sets(st.integers(0, length - 1)))):
            rows.append((frame, track, word, draw(_box), draw(_visibility), draw(st.booleans())))
    for n in range(draw(st.integers(0, 2))):
        rows.append((draw(st.integers(0, length - 1)), -1 - n, "DontCare", draw(_box), math.nan, True))
    return video(rows, range(length))


_visibility = st.one_of(st.just(math.nan), st.sampled_from([0.3, 0.5, 0.7, 1.0]), st.floats(0, 1))
# At least 2 pixels wide: the sheet refuses a file whose every coordinate is below 2, as it looks like fractions. In
# 64ths, so that what is rounded to 4 decimals sorts as before and ``moved`` pairs regions, which have no id, rightly.
_box = st.builds(
    lambda x, y, w, h: (x / 64, y / 64, min((x + w) / 64, 1280.0), min((y + h) / 64, 720.0)),
    *(st.integers(64 * low, 64 * high) for low, high in ((0, 1270), (0, 710), (2, 400), (2, 400))),
)


def rows_of(labelled: Labelled) -> list[tuple]:
    """(time, id, class, word, visibility or -1, ignored) of every box; regions without a track have no id."""
    boxes = labelled.boxes
    return [
        (time, labelled.id_of(track) if track >= 0 else None, cls, word, -1.0 if math.isnan(seen) else seen, ignored)
        for time, track, cls, word, seen, ignored in zip(
            boxes.time,
            boxes.track.tolist(),
            boxes.cls,
            boxes.words,
            boxes.visibility.tolist(),
            boxes.ignored.tolist(),
            strict=True,
        )
    ]


def moved(a: Labelled, b: Labelled) -> float:
    """By how many pixels corners differ at most; boxes of one time and id are compared."""
    height, width = a.size

    def ordered(labelled: Labelled) -> np.ndarray:
        rows = [(repr(row[:3]), *box) for row, box in zip(rows_of(labelled), labelled.boxes.box.tolist(), strict=True)]
        return np.array([row[1:] for row in sorted(rows)]).reshape(-1, 4) * (width, height, width, height)

    return float(np.abs(ordered(a) - ordered(b)).max(initial=0.0))
