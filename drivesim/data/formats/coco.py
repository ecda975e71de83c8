"""COCO-VID: one JSON with ``videos``, ``images`` (``video_id``, ``frame_id``), ``annotations`` and ``categories``.

``bbox`` is x, y, width, height in pixels. A track is its ``instance_id`` (BDD100K's and MMTracking's files), else
``track_id`` (TAO's), else that among ``attributes`` (CVAT's); Scalabel's converter keeps the source's own name in
``scalabel_id``, which goes before them. ``iscrowd`` and ``ignore`` are regions to ignore. Frames are ``frame_id``, or
TAO's ``frame_index``, and count from 0; where they count up to the number of the video's frames, they count from 1,
which a remark says. Sizes are the images', the video's entry's, or the video's own.

COCO has no frame rate: ``fps`` of the video's entry where there is one (within 1 % of the video's own it means that),
else the video's own, else 30 a second with a remark. Single images without ``video_id`` are refused: they have no
tracks. Written is ``annotations.json``, with ``fps_exact``, ``night`` and ``cars`` of a video and ``visibility`` of a
box besides; a category is a word of the source, its ``supercategory`` our class. Other readers pass over these.
Source: COCO's page on its format; MMTracking's and TAO's pages on theirs; Scalabel's ``to_coco.py``.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from drivesim.data.annotations import Footage, Known, Labelled, Remarks, Sheet
from drivesim.data.classes import class_of
from drivesim.data.formats import Format, counted, fields
from drivesim.data.formats.document import Part, opened
from drivesim.disk import write_atomic
from drivesim.errors import Mistake
from drivesim.scene import CLASSES, Labels

FPS = Fraction(30)
FILE = "annotations.json"
PLACES = ("*.json", "annotations/*.json")
LOOK = 4096  # bytes at both ends: categories may fill the beginning
TRACKS = ("scalabel_id", "instance_id", "track_id")

# reasons, as they are told
NO_BOX = "has no bbox (a mask or key points) and is no box"
NO_IMAGE = "is of an image that the file does not hold"
NO_VIDEO = "is an image of a video that the file does not hold"
NO_FRAMES = "is a video without images, of which nothing is known"
NO_RATE = f"has no frame rate, and {FPS} frames a second were taken"
FROM_ONE = "counts frames from 1, and was read so"


def claims(place: Path) -> bool:
    return counted.claimed(place, PLACES, _looks)


def _looks(file: Path) -> bool:
    if file.suffix.lower() != ".json":
        return False
    with file.open("rb") as told:
        head = told.read(LOOK)
        told.seek(max(0, os.fstat(told.fileno()).st_size - LOOK))
        ends = head + told.read(LOOK)
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return False
    return b'"image_id"' in ends or b'"video_id"' in ends or (b'"images"' in ends and b'"file_name"' in ends)


def read(place: Path, known: Known, remarks: Remarks) -> list[Labelled]:
    """Raises:
    Mistake: no files, one that is not COCO's, or a size that nothing tells.
    """
    found = [one for file in counted.listed(place, PLACES) for one in _read_file(file, known, remarks)]
    return [one for one in found if one is not None]


@dataclass
class Clip:
    """What a file says of one video: its entry, its images and the annotations of each."""

    entry: Part
    images: list[Part] = field(default_factory=list)
    boxes: list[list[Part]] = field(default_factory=list)


def _read_file(file: Path, known: Known, remarks: Remarks) -> list[Labelled | None]:
    document = opened(file)
    images = document["images"].rows()
    if images and not any("video_id" in image for image in images):
        mend = "COCO-VID has videos, and video_id and frame_id of its images"
        raise Mistake("holds single images, not videos", where=file, mend=mend)
    words = {fields.identity(part["id"]): part["name"].text() for part in document["categories"].rows()}
    clips = {fields.identity(part["id"]): Clip(part) for part in document["videos"].rows()}
    place: dict[str, list[Part]] = {}
    for image in images:
        clip = clips.get(fields.identity(image["video_id"]))
        if clip is None:
            remarks.add(NO_VIDEO, f"{file.name}: {image.at}")
            place[fields.identity(image["id"])] = []
            continue
        clip.images.append(image)
        clip.boxes.append(place.setdefault(fields.identity(image["id"]), []))
    for annotation in document["annotations"].rows():
        own = place.get(fields.identity(annotation["image_id"]))
        if own is None:
            remarks.add(NO_IMAGE, f"{file.name}: {annotation.at}")
        else:
            own.append(annotation)
    return [_read_clip(clip, words, known, remarks) for clip in clips.values()]


def _read_clip(clip: Clip, words: dict[str, str], known: Known, remarks: Remarks) -> Labelled | None:
    name = fields.video(clip.entry["name"].text())
    if not clip.images:
        remarks.add(NO_FRAMES, name)
        return None
    footage = known(name)
    size = _size(clip) or footage.size
    if size is None:
        where = f"{clip.entry.file}, video {name}"
        raise Mistake("the size of its frames is not known", where=where, mend=counted.INDEX_TOGETHER)
    fps = _rate(clip.entry, footage)
    if fps is None:
        remarks.add(NO_RATE, name)
    fps = fps or FPS
    frames = [_frame(image) for image in clip.images]
    first = int(min(frames) > 0 and fps == footage.fps and max(frames) == footage.frames)
    if first:
        remarks.add(FROM_ONE, name)
    sheet = Sheet(name, size, footage, remarks)
    sheet.labels = _labels(clip.entry)
    for frame, image, boxes in zip(frames, clip.images, clip.boxes, strict=True):
        if not 0 <= frame - first <= counted.MOST_FRAMES:
            remarks.add(counted.FAR_FRAME, f"{name}: {image.at}", max(1, len(boxes)))
            continue
        sheet.look((frame - first) / fps)
        for box in boxes:
            _add(sheet, (frame - first) / fps, box, words)
    return sheet.done()


def _frame(image: Part) -> int:
    found = fields.told(image, "frame_id", "frame_index")
    if found is None:
        image.wrong("has neither 'frame_id' nor 'frame_index'")
    return found.whole()


def _size(clip: Clip) -> tuple[int, int] | None:
    sizes = {fields.size(image) for image in clip.images} - {None}
    if len(sizes) > 1:
        clip.images[0].wrong("and other images of its video are of several sizes")
    return sizes.pop() if sizes else fields.size(clip.entry)


def _rate(entry: Part, footage: Footage) -> Fraction | None:
    told = fields.told(entry, "fps_exact", "fps")
    if told is None:
        return footage.fps
    stated = fields.rate(told)
    near = footage.fps is not None and abs(footage.fps / stated - 1) <= Fraction(1, 100)
    return footage.fps if near and told.at.endswith(".fps") else stated


def _labels(entry: Part) -> Labels:
    cars = fields.told(entry, "cars")
    return Labels(fields.flag(entry, "night"), None if cars is None else cars.whole())


def _add(sheet: Sheet, time: Fraction, annotation: Part, words: dict[str, str]) -> None:
    bbox, attributes = fields.told(annotation, "bbox"), fields.told(annotation, "attributes")
    if bbox is None:
        sheet.remarks.add(NO_BOX, f"{sheet.video}: {annotation.at}")
        return
    values = [fields.coordinate(part) for part in bbox.rows()]
    if len(values) != 4:
        bbox.wrong(f"has {len(values)} numbers, not 4")
    x, y, width, height = values
    category = fields.identity(annotation["category_id"])
    track = fields.told(annotation, *TRACKS) or fields.told(attributes, "track_id")
    seen = fields.visibility(annotation)
    sheet.add(
        time,
        None if track is None else fields.identity(track),
        words.get(category, f"category {category}"),
        (x, y, x + width, y + height),
        fields.visibility(attributes) if math.isnan(seen) else seen,
        bool(fields.flag(annotation, "iscrowd") or fields.flag(annotation, "ignore")),
        annotation.at,
    )


def write(labelled: Sequence[Labelled], folder: Path, fps: Fraction, remarks: Remarks) -> None:
    """``folder/annotations.json``, which holds all videos."""
    videos: list[dict[str, object]] = []
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    categories = {word: number for number, word in enumerate(CLASSES, 1)}
    for name, one in counted.filed(labelled, remarks):
        videos.append(_video(len(videos) + 1, name, one, fps))
        grid, words = counted.grid(one, fps, remarks), counted.words(one, remarks)
        tracks, pixels = _tracks(one), counted.pixels(one)
        ids = {frame: len(images) + number for number, frame in enumerate(grid.frames, 1)}
        images += [
            {
                "id": ids[frame],
                "video_id": len(videos),
                "frame_id": frame,
                "file_name": f"{name}/{frame:06d}.jpg",
                "height": one.size[0],
                "width": one.size[1],
            }
            for frame in grid.frames
        ]
        for frame, n in grid.rows:
            x0, y0, x1, y1 = pixels[n].tolist()
            width, height, ignore = x1 - x0, y1 - y0, int(one.boxes.ignored[n])
            seen = float(one.boxes.visibility[n])
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": ids[frame],
                "category_id": categories.setdefault(words[n], len(categories) + 1),
                **tracks[int(one.boxes.track[n])],
                "bbox": [round(value, 4) for value in (x0, y0, width, height)],
                "area": round(width * height, 4),
                "iscrowd": ignore,
                "ignore": ignore,
                **({} if math.isnan(seen) else {"visibility": seen}),
            })  # fmt: skip
    named = [{"id": n, "name": word, "supercategory": class_of(word) or "other"} for word, n in categories.items()]
    document = {"videos": videos, "categories": named, "images": images, "annotations": annotations}
    write_atomic(folder / FILE, json.dumps(document, indent=1).encode())


def _video(number: int, name: str, one: Labelled, fps: Fraction) -> dict[str, object]:
    night, cars = one.labels.night, one.labels.cars
    return {
        "id": number,
        "name": name,
        "height": one.size[0],
        "width": one.size[1],
        "fps": float(fps),
        "fps_exact": str(fps),
        **({} if night is None else {"night": night}),
        **({} if cars is None else {"cars": cars}),
    }


def _tracks(one: Labelled) -> dict[int, dict[str, object]]:
    """What an annotation says of its track; nothing for regions, which have none."""
    told: dict[int, dict[str, object]] = {}
    for track, number in counted.numbers(one).items():
        told[track] = {} if track < 0 else {"instance_id": number}
        if track >= 0 and one.id_of(track) != str(number):
            told[track]["scalabel_id"] = one.id_of(track)
    return told


CARRIES = frozenset({"ids", "classes", "words", "visibility", "ignore", "empty frames", "size"})
FORMAT = Format("coco", "COCO-VID", CARRIES, claims, read, write)
