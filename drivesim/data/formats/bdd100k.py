"""BDD100K / Scalabel: a JSON list of frames, or ``{"frames": [...], "config": {...}}``, with boxes by category and id.

Corners are inclusive, as in Scalabel's own conversions (a box from 10 to 19 is 10 wide): one is added on reading, taken
away on writing. A frame's place is its ``frameIndex``, at the rate of ``config.fps`` where we wrote it, else at 5 a
second, the rate of BDD100K's box tracks; numbers that lead behind the video's end at 5, but not at its own rate, are at
its own, which a remark says. Sizes are the frame's ``size``, ``config.imageSize``, the video's, else 1280x720.
``crowd`` and categories called ignored are regions to ignore. Labels without ``box2d`` (polygons) are counted.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from drivesim.data.annotations import Footage, Known, Labelled, Remarks, Sheet
from drivesim.data.classes import class_of
from drivesim.data.formats import Format
from drivesim.data.formats.document import Part, opened
from drivesim.weights import write_atomic

FPS = Fraction(5)
SIZE = (720, 1280)
NO_BOX = "has no box2d (a polygon or a lane) and is no box"
OWN_RATE = "frames are numbered at the video's own rate, not at 5 a second"
OFF_GRID = "stood between two frames of the rate that is written, and moved to the nearer one"
LOOK = 4096


def claims(place: Path) -> bool:
    try:
        file = place if place.is_file() else min(place.glob("*.json"), default=None)
        if file is None or file.suffix != ".json":
            return False
        with open(file, "rb") as opened_file:
            head = opened_file.read(LOOK)
        return b'"images"' not in head and (b'"videoName"' in head or (b'"labels"' in head and b'"name"' in head))
    except OSError:
        return False


def read(place: Path, known: Known, remarks: Remarks) -> list[Labelled]:
    files = sorted(place.glob("*.json")) if place.is_dir() else [place]
    found = []
    for file in files:
        found += _read_file(file, known, remarks)
    return found


def _read_file(file: Path, known: Known, remarks: Remarks) -> list[Labelled]:
    document = opened(file)
    config = document["config"] if "config" in document else None
    frames = (document["frames"] if "frames" in document else document).rows()
    stated = _rate(config["fps"]) if config is not None and "fps" in config else None
    videos: dict[str, list[Part]] = {}
    for number, frame in enumerate(frames):
        named = "videoName" in frame and frame["videoName"].value is not None
        name = frame["videoName"] if named else frame["name"] if "name" in frame else None
        videos.setdefault(str(number) if name is None else Path(name.text()).stem, []).append(frame)
    found = []
    for video, own in videos.items():
        footage = known(video)
        sheet = Sheet(video, _size(own[0], config) or footage.size or SIZE, footage, remarks)
        fps = stated or _fitting(max(map(_place, own)), footage, video, remarks)
        for frame in own:
            _read_frame(frame, sheet, fps, remarks)
        if (labelled := sheet.done()) is not None:
            found.append(labelled)
    return found


def _place(frame: Part) -> int:
    has = "frameIndex" in frame and frame["frameIndex"].value is not None
    return frame["frameIndex"].whole() if has else 0


def _rate(part: Part) -> Fraction:
    try:
        rate = Fraction(part.text())
    except (ValueError, ZeroDivisionError):
        part.wrong("is not a rate")
    if rate <= 0:
        part.wrong("is not a rate")
    return rate


def _fitting(last: int, footage: Footage, video: str, remarks: Remarks) -> Fraction:
    """The rate at which frame ``last`` lies in the video."""
    own, frames = footage.fps, footage.frames
    if own is None or frames is None or last / FPS < frames / own or last >= frames:
        return FPS
    remarks.add(OWN_RATE, video)
    return own


def _read_frame(frame: Part, sheet: Sheet, fps: Fraction, remarks: Remarks) -> None:
    name = frame["name"].text() if "name" in frame else f"frame {_place(frame)}"
    time = _place(frame) / fps
    sheet.look(time)
    if "attributes" in frame and "timeofday" in (told := frame["attributes"]):
        light = told["timeofday"].value
        if light in ("night", "daytime"):
            sheet.labels = replace(sheet.labels, night=light == "night")
    labels = frame["labels"] if "labels" in frame else None
    for label in [] if labels is None or labels.value is None else labels.rows():
        if "box2d" not in label or label["box2d"].value is None:
            remarks.add(NO_BOX, f"{sheet.video}: {name}")
            continue
        box, category = label["box2d"], label["category"].text()
        corners = tuple(_number(box[side]) + side.endswith("2") for side in ("x1", "y1", "x2", "y2"))
        flags = label["attributes"] if "attributes" in label else None
        track = label["id"].value if "id" in label else None
        ignore = "ignored" in category or _flag(flags, "crowd") is True
        sheet.add(
            time, None if track is None else str(track), category, (corners[0], corners[1], corners[2], corners[3]),
            _visibility(flags), ignore, name,
        )  # fmt: skip


def _number(part: Part) -> float:
    """Also what JSON has no word for: the sheet refuses it with its place."""
    value = part.value
    return float(value) if isinstance(value, float) and not math.isfinite(value) else part.number()


def _flag(flags: Part | None, name: str) -> object:
    return flags[name].value if flags is not None and name in flags else None


def _visibility(flags: Part | None) -> float:
    exact, occluded = _flag(flags, "visibility"), _flag(flags, "occluded")
    if isinstance(exact, (int, float)) and not isinstance(exact, bool) and 0 <= exact <= 1:
        return float(exact)
    return math.nan if not isinstance(occluded, bool) else 0.5 if occluded else 1.0


def _size(frame: Part, config: Part | None) -> tuple[int, int] | None:
    for holder, key in ((frame, "size"), (config, "imageSize")):
        if holder is not None and key in holder and holder[key].value is not None:
            return holder[key]["height"].whole(), holder[key]["width"].whole()
    return None


def write(labelled: Sequence[Labelled], folder: Path, fps: Fraction, remarks: Remarks) -> None:
    for one in labelled:
        frames: dict[int, list[dict[str, object]]] = {}
        for time in one.times:
            place = round(time * fps)
            if place != time * fps:
                remarks.add(OFF_GRID, f"{one.video}: {float(time):g} s")
            frames.setdefault(place, [])
        for row, time in enumerate(one.boxes.time):
            frames.setdefault(round(time * fps), []).append(_label(one, row))
        document = {
            "config": {"imageSize": {"height": one.size[0], "width": one.size[1]}, "fps": str(fps)},
            "frames": [_frame(one, place, rows) for place, rows in sorted(frames.items())],
        }
        write_atomic(folder / f"{one.video}.json", json.dumps(document, indent=1).encode())


def _frame(one: Labelled, place: int, rows: list[dict[str, object]]) -> dict[str, object]:
    night = one.labels.night
    told = {} if night is None else {"attributes": {"timeofday": "night" if night else "daytime"}}
    size = {"height": one.size[0], "width": one.size[1]}
    name = f"{one.video}-{place + 1:07d}.jpg"
    return {"name": name, "videoName": one.video, "frameIndex": place, "size": size, **told, "labels": rows}


def _label(one: Labelled, row: int) -> dict[str, object]:
    boxes, (height, width) = one.boxes, one.size
    x0, y0, x1, y1 = boxes.box[row] * (width, height, width, height)
    seen, word = float(boxes.visibility[row]), boxes.words[row]
    flags: dict[str, object] = {"crowd": bool(boxes.ignored[row])}
    if not math.isnan(seen):
        flags |= {"occluded": seen < 0.75, "visibility": seen}
    track = int(boxes.track[row])
    return {
        **({"id": one.id_of(track)} if track >= 0 else {}),
        "category": word if class_of(word) == boxes.cls[row] else boxes.cls[row],
        "attributes": flags,
        "box2d": {"x1": round(x0, 4), "y1": round(y0, 4), "x2": round(x1 - 1, 4), "y2": round(y1 - 1, 4)},
    }


CARRIED = frozenset({"ids", "classes", "words", "visibility", "ignore", "empty frames", "size"})
FORMAT = Format("bdd100k", "BDD100K / Scalabel", CARRIED, claims, read, write)
