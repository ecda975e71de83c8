"""The ten defects of boxes as files of every format that is written: each is told in one line, and nothing else goes.

Numbers are those of the defects of files, which ``tests/data/bad.py`` begins: 1-30 are of videos.
"""

import json
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import pytest

from drivesim.data import annotations
from drivesim.data.annotations import Footage, Remarks
from drivesim.data.formats.known import FORMATS, WRITTEN

Row = tuple[int, int, str, tuple[float, float, float, float]]  # frame, track, word, corners in pixels

WIDTH, HEIGHT, FRAMES = 1280, 720, 10
FPS = Fraction(5)
VIDEO = Footage((HEIGHT, WIDTH), FPS, FRAMES)
GOOD: tuple[Row, ...] = tuple((n, 1, "car", (100.0 + 60 * n, 300.0, 160.0 + 60 * n, 360.0)) for n in range(6))


def kitti(rows: Sequence[Row], folder: Path) -> None:
    lines = (f"{n} {track} {word} 0 0 0 {x0} {y0} {x1} {y1} 0 0 0 0 0 0 0" for n, track, word, (x0, y0, x1, y1) in rows)
    (folder / "drive.txt").write_text("\n".join(lines))


def mot(rows: Sequence[Row], folder: Path) -> None:
    words = list(dict.fromkeys(row[2] for row in rows))
    lines = (
        f"{n + 1},{track},{x0},{y0},{x1 - x0},{y1 - y0},1,{words.index(word) + 1},1"
        for n, track, word, (x0, y0, x1, y1) in rows
    )
    (folder / "gt").mkdir()
    (folder / "gt" / "gt.txt").write_text("\n".join(lines))
    (folder / "gt" / "labels.txt").write_text("\n".join(words))
    size = f"imWidth={WIDTH}\nimHeight={HEIGHT}\n"
    (folder / "seqinfo.ini").write_text(f"[Sequence]\nname=drive\nframeRate={FPS}\nseqLength={FRAMES}\n{size}")


def csv(rows: Sequence[Row], folder: Path) -> None:
    lines = (f"{n},{track},{word},{','.join(map(str, box))},{WIDTH},{HEIGHT}" for n, track, word, box in rows)
    header = "frame,track,class,x0,y0,x1,y1,frame_width,frame_height"
    (folder / "drive.csv").write_text("\n".join([header, *lines]))


def cvat(rows: Sequence[Row], folder: Path) -> None:
    tracks = ""
    for track, word in dict.fromkeys(row[1:3] for row in rows):
        boxes = "".join(
            f'<box frame="{n}" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}" outside="0" occluded="0"/>'
            for n, own, _, (x0, y0, x1, y1) in rows
            if own == track
        )
        tracks += f'<track id="{track}" label="{word}">{boxes}</track>'
    size = f"<original_size><width>{WIDTH}</width><height>{HEIGHT}</height></original_size>"
    meta = f"<meta><task><name>drive</name>{size}</task></meta>"
    (folder / "drive.xml").write_text(f"<annotations><version>1.1</version>{meta}{tracks}</annotations>")


def coco(rows: Sequence[Row], folder: Path) -> None:
    words = list(dict.fromkeys(row[2] for row in rows))
    frames = range(max(FRAMES, *(row[0] + 1 for row in rows)))
    image = {"video_id": 1, "width": WIDTH, "height": HEIGHT}
    document = {
        "videos": [{"id": 1, "name": "drive", "fps": int(FPS)}],
        "categories": [{"id": n, "name": word} for n, word in enumerate(words, 1)],
        "images": [{**image, "id": n + 1, "frame_id": n, "file_name": f"{n}.jpg"} for n in frames],
        "annotations": [
            {
                "id": place,
                "image_id": n + 1,
                "category_id": words.index(word) + 1,
                "instance_id": track,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
            }
            for place, (n, track, word, (x0, y0, x1, y1)) in enumerate(rows)
        ],
    }
    (folder / "drive.json").write_text(json.dumps(document))


def bdd100k(rows: Sequence[Row], folder: Path) -> None:
    frames = [
        {
            "name": f"{n}.jpg",
            "videoName": "drive",
            "frameIndex": n,
            "labels": [
                {"id": str(track), "category": word, "box2d": {"x1": x0, "y1": y0, "x2": x1 - 1, "y2": y1 - 1}}
                for at, track, word, (x0, y0, x1, y1) in rows
                if at == n
            ],
        }
        for n in sorted({row[0] for row in rows})
    ]
    config = {"imageSize": {"width": WIDTH, "height": HEIGHT}}
    (folder / "drive.json").write_text(json.dumps({"frames": frames, "config": config}))


WRITERS: dict[str, Callable[[Sequence[Row], Path], None]] = {
    write.__name__: write for write in (bdd100k, kitti, cvat, coco, mot, csv)
}


def one(box: tuple[float, float, float, float], frame: int = 3, track: int = 2, word: str = "car") -> tuple[Row, ...]:
    return (*GOOD, (frame, track, word, box))


def changed(change: Callable[[float, float, float, float], tuple[float, float, float, float]]) -> tuple[Row, ...]:
    return tuple((n, track, word, change(*box)) for n, track, word, box in GOOD)


BOX = (500.0, 300.0, 560.0, 360.0)
DEFECTS = [
    pytest.param(one((math.nan, 300.0, 560.0, 360.0)), annotations.NOT_A_NUMBER, 6, id="31 NaN"),
    pytest.param(one((560.0, 300.0, 500.0, 360.0)), annotations.INVERTED, 6, id="32 inverted"),
    pytest.param(one((1300.0, 300.0, 1360.0, 360.0)), annotations.OUTSIDE, 6, id="33 outside the frame"),
    pytest.param(one((500.0, 300.0, 500.0, 360.0)), annotations.FLAT, 6, id="34 zero area"),
    pytest.param(one(BOX, word="hovercraft"), f"{annotations.UNKNOWN_CLASS}: hovercraft", 7, id="35 unknown class"),
    pytest.param(one(BOX, track=1), annotations.TWICE, 6, id="36 duplicate track id"),
    pytest.param(one(BOX, frame=FRAMES), annotations.TOO_LATE, 6, id="37 frame past the end"),
    pytest.param(
        changed(lambda x0, y0, x1, y1: (x0, y0, x1 - x0, y1 - y0)),
        annotations.LIKE_SIZES,
        0,
        id="39 xywh taken for xyxy",
    ),
    pytest.param(
        changed(lambda x0, y0, x1, y1: (x0 / WIDTH, y0 / HEIGHT, x1 / WIDTH, y1 / HEIGHT)),
        annotations.LIKE_FRACTIONS,
        0,
        id="40 normalised taken for pixels",
    ),
]


def read(name: str, rows: Sequence[Row], folder: Path, footage: Footage = VIDEO) -> tuple[int, list[str], int]:
    """How many boxes were taken, what was told, and of how many boxes."""
    remarks = Remarks()
    WRITERS[name](rows, folder)
    found = FORMATS[name].read(folder, lambda _: footage, remarks)
    return sum(len(one.boxes) for one in found), remarks.lines(), sum(remarks.count.values())


def test_every_format_that_is_written_is_here() -> None:
    assert set(WRITERS) == {form.name for form in WRITTEN}


@pytest.mark.parametrize("name", WRITERS)
def test_a_good_file_says_nothing(tmp_path: Path, name: str) -> None:
    assert read(name, GOOD, tmp_path) == (len(GOOD), [], 0)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("rows", "reason", "taken"), DEFECTS)
def test_a_defect_is_one_line_and_the_rest_goes_on(
    tmp_path: Path, name: str, rows: Sequence[Row], reason: str, taken: int
) -> None:
    boxes, lines, told = read(name, rows, tmp_path)
    assert boxes == taken and len(lines) == 1 and reason in lines[0] and "first drive" in lines[0]
    assert boxes + told == len(rows) + (boxes == len(rows))  # the unknown class alone is told of a box that is taken


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "kitti"])  # whose files hold no size
def test_38_boxes_of_another_image_size_are_one_line(tmp_path: Path, name: str) -> None:
    boxes, lines, told = read(name, GOOD, tmp_path, Footage((720, 960), FPS, FRAMES))
    assert boxes == 0 and len(lines) == 1 and annotations.OTHER_SIZE in lines[0] and told == len(GOOD)
