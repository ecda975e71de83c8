"""BDD100K / Scalabel: a JSON list of frames, or ``{"frames": [...], "config": {...}}``, with boxes by category and id.

Corners are inclusive, as in Scalabel's own conversions (a box from 10 to 19 is 10 wide): one is added on reading, taken
away on writing. BDD100K's own boxes reach 1280 in frames that wide; what lies over the edge by that pixel is cut.
A frame's place is its ``frameIndex``, at the rate of ``config.fps`` where we wrote it, else at 5 a second, the rate of
BDD100K's box tracks; numbers that lead behind the video's end at 5, but not at its own rate, are at its own, which a
remark says. Sizes are the frame's ``size``, ``config.imageSize``, the video's, else 1280x720.

Frames without ``videoName`` are videos of one frame each. Where one has several frames of a number, as drives with
several cameras do, every camera is a video, called as its frames are without their number. ``crowd``, ``ignored`` and
categories called ignored are regions to ignore. Labels without ``box2d`` (polygons) are counted. Written files hold an
exact ``visibility`` beside ``occluded``, and ``cars`` beside ``timeofday``; Scalabel passes over both.
Source: Scalabel's format and ``transforms.py``; BDD100K's documentation.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from drivesim.data.annotations import Footage, Known, Labelled, Remarks, Sheet
from drivesim.data.formats import Format, counted, fields
from drivesim.data.formats.document import Part, opened
from drivesim.disk import write_atomic
from drivesim.scene import Labels

FPS = Fraction(5)
SIZE = (720, 1280)
PLACES = ("*.json", "*/*.json")  # the download has train/ and val/
LIGHTS = {"night": True, "daytime": False}

# reasons, as they are told
NO_BOX = "has no box2d (a polygon, a lane, a box in space) and is no box"
OWN_RATE = "frames are numbered at the video's own rate, not at 5 a second"
NO_INDEX = "frames have no frameIndex, and were taken in their order"
CAMERAS = "has several frames of a number, and became a video for each name of its frames"


def claims(place: Path) -> bool:
    return counted.claimed(place, PLACES, _looks)


def _looks(file: Path) -> bool:
    if file.suffix.lower() != ".json":
        return False
    head = counted.head(file)
    if any(f'"{key}"' in head for key in ("images", "image_id", "videos")):  # COCO's
        return False
    return '"videoName"' in head or '"imageSize"' in head or ('"labels"' in head and '"name"' in head)


def read(place: Path, known: Known, remarks: Remarks) -> list[Labelled]:
    """Raises:
    Mistake: no files, or one that is not Scalabel's.
    """
    return [one for file in counted.listed(place, PLACES) for one in _read_file(file, known, remarks)]


def _read_file(file: Path, known: Known, remarks: Remarks) -> list[Labelled]:
    document = opened(file)
    config = fields.told(document, "config")
    frames = (document["frames"] if "frames" in document else document).rows()
    rate = fields.told(config, "fps")
    stated = None if rate is None else fields.rate(rate)
    found = []
    for video, own in _videos(frames, remarks).items():
        footage = known(video)
        sheet = Sheet(video, _size(own, config) or footage.size or SIZE, footage, remarks)
        places = _places(own, video, remarks)
        fps = stated or _fitting(max(places, default=0), footage, video, remarks)
        for place, frame in places.items():
            for part in frame:
                _read_frame(part, sheet, place / fps, remarks)
        if (labelled := sheet.done()) is not None:
            found.append(labelled)
    return found


def _videos(frames: list[Part], remarks: Remarks) -> dict[str, list[Part]]:
    """The frames of every video, by its name."""
    videos: dict[str, list[Part]] = {}
    for number, frame in enumerate(frames):
        videos.setdefault(_text(frame, "videoName") or _stem(frame) or str(number), []).append(frame)
    split: dict[str, list[Part]] = {}
    for video, own in videos.items():
        indices = Counter(part.whole() for frame in own if (part := fields.told(frame, "frameIndex")) is not None)
        cameras = {re.sub(r"[-_]?\d+$", "", _stem(frame)) for frame in own}
        several = len(cameras) > 1 and max(indices.values(), default=0) > 1
        if several:
            remarks.add(CAMERAS, video)
        for frame in own:
            split.setdefault(re.sub(r"[-_]?\d+$", "", _stem(frame)) if several else video, []).append(frame)
    return split


def _text(frame: Part, key: str) -> str:
    part = fields.told(frame, key)
    return "" if part is None else fields.video(part.text())


def _stem(frame: Part) -> str:
    return _text(frame, "name")


def _places(own: list[Part], video: str, remarks: Remarks) -> dict[int, list[Part]]:
    """The frames of a video by their numbers; one that none can be is told."""
    numbers = [fields.told(frame, "frameIndex") for frame in own]
    if None in numbers and len(own) > 1:
        remarks.add(NO_INDEX, video)
    places: dict[int, list[Part]] = {}
    for order, (number, frame) in enumerate(zip(numbers, own, strict=True)):
        place = order if None in numbers or number is None else number.whole()
        if not 0 <= place <= counted.MOST_FRAMES:
            remarks.add(counted.FAR_FRAME, f"{video}: {_stem(frame)}", max(1, len(_labels(frame))))
            continue
        places.setdefault(place, []).append(frame)
    return places


def _fitting(last: int, footage: Footage, video: str, remarks: Remarks) -> Fraction:
    """The rate at which frame ``last`` lies in the video."""
    own, frames = footage.fps, footage.frames
    if own is None or frames is None or last / FPS < frames / own or last >= frames:
        return FPS
    remarks.add(OWN_RATE, video)
    return own


def _labels(frame: Part) -> list[Part]:
    labels = fields.told(frame, "labels")
    return [] if labels is None else labels.rows()


def _read_frame(frame: Part, sheet: Sheet, time: Fraction, remarks: Remarks) -> None:
    name = _stem(frame) or f"{float(time):g} s"
    sheet.look(time)
    sheet.labels = _told(fields.told(frame, "attributes"), sheet.labels)
    for label in _labels(frame):
        box = fields.told(label, "box2d")
        if box is None:
            remarks.add(NO_BOX, f"{sheet.video}: {name}")
            continue
        x1, y1, x2, y2 = (fields.coordinate(box[side]) for side in ("x1", "y1", "x2", "y2"))
        category, flags, track = label["category"].text(), fields.told(label, "attributes"), fields.told(label, "id")
        ignore = "ignored" in category or fields.flag(flags, "crowd") or fields.flag(flags, "ignored") or False
        sheet.add(
            time,
            None if track is None else fields.identity(track),
            category,
            (x1, y1, x2 + 1, y2 + 1),
            fields.visibility(flags),
            ignore,
            name,
        )


def _told(attributes: Part | None, labels: Labels) -> Labels:
    light, cars = fields.told(attributes, "timeofday"), fields.told(attributes, "cars")
    if light is not None and isinstance(light.value, str) and light.value in LIGHTS:
        labels = replace(labels, night=LIGHTS[light.value])
    return labels if cars is None else replace(labels, cars=cars.whole())


def _size(own: list[Part], config: Part | None) -> tuple[int, int] | None:
    sizes = {fields.size(fields.told(frame, "size")) for frame in own} - {None}
    if len(sizes) > 1:
        own[0].wrong("and other frames of its video are of several sizes")
    return sizes.pop() if sizes else fields.size(fields.told(config, "imageSize"))


def write(labelled: Sequence[Labelled], folder: Path, fps: Fraction, remarks: Remarks) -> None:
    """``folder/VIDEO.json``."""
    for name, one in list(counted.filed(labelled, remarks)):
        grid = counted.grid(one, fps, remarks)
        frames: dict[int, list[dict[str, object]]] = {place: [] for place in grid.frames}
        for (place, _), row in zip(grid.rows, _rows(one, grid, remarks), strict=True):
            frames[place].append(row)
        document = {
            "config": {"imageSize": {"height": one.size[0], "width": one.size[1]}, "fps": str(fps)},
            "frames": [_frame(name, one, place, rows) for place, rows in frames.items()],
        }
        write_atomic(folder / f"{name}.json", json.dumps(document, indent=1).encode())


def _frame(name: str, one: Labelled, place: int, rows: list[dict[str, object]]) -> dict[str, object]:
    night, cars = one.labels.night, one.labels.cars
    told = {} if night is None else {"timeofday": "night" if night else "daytime"}
    return {
        "name": f"{name}-{place + 1:07d}.jpg",
        "videoName": name,
        "frameIndex": place,
        "size": {"height": one.size[0], "width": one.size[1]},
        "attributes": told if cars is None else {**told, "cars": cars},
        "labels": rows,
    }


def _rows(one: Labelled, grid: counted.Grid, remarks: Remarks) -> list[dict[str, object]]:
    boxes, pixels, words = one.boxes, counted.pixels(one), counted.words(one, remarks)
    rows: list[dict[str, object]] = []
    for _, n in grid.rows:
        x0, y0, x1, y1 = pixels[n].tolist()
        seen, track = float(boxes.visibility[n]), int(boxes.track[n])
        flags: dict[str, object] = {"crowd": bool(boxes.ignored[n])}
        if not math.isnan(seen):
            flags |= {"occluded": seen < 0.75, "visibility": seen}
        rows.append({
            **({"id": one.id_of(track)} if track >= 0 else {}),
            "category": words[n],
            "attributes": flags,
            "box2d": {"x1": round(x0, 4), "y1": round(y0, 4), "x2": round(x1 - 1, 4), "y2": round(y1 - 1, 4)},
        })  # fmt: skip
    return rows


CARRIES = frozenset({"ids", "classes", "words", "visibility", "ignore", "empty frames", "size"})
FORMAT = Format("bdd100k", "BDD100K / Scalabel", CARRIES, claims, read, write)
