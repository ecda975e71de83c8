"""CVAT 1.1 for video: an XML file a video (or several tasks of a project), a ``track`` an object, a ``box`` a frame.

Frames count from 0 in the source video. A box with ``outside="1"`` says that its track has left. Between two boxes of a
track with frames missing, the missing ones are interpolated linearly, as CVAT does, unless the first is outside; behind
its last box a track is gone. Which frames were labelled comes from ``size``, ``start_frame`` and the step of
``frame_filter``; JAAD's files, of an older CVAT, have ``size`` alone, tracks without ids, and the person's id as an
attribute. CVAT has no frame rate: where the video is not known, 30 a second are taken, with a remark.

An id attribute that every track has, a different one each, goes before the track's number; a number below 0 is that of
a region without a track. Attributes ``visibility`` (0 to 1) and ``ignored`` go before the flag ``occluded`` (1.0 or
0.5). Written files hold these, and ``frame_rate``, ``cars`` and ``class_source`` (where a track changes its word),
which CVAT passes over. XML is read by defusedxml: entities and document types are refused.
Source: CVAT's page on its XML format; JAAD's annotations.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, ParseError, SubElement, indent, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from drivesim.data.annotations import Footage, Known, Labelled, Remarks, Sheet
from drivesim.data.formats import Format, counted
from drivesim.disk import write_atomic
from drivesim.errors import Mistake
from drivesim.scene import Labels

FPS = Fraction(30)
MOST_BETWEEN = 2_000_000  # interpolated boxes of one file: a small one could ask for any number
PLACES = ("*.xml", "annotations/*.xml")
VIDEO = re.compile(r"\.(mp4|m4v|mov|avi|mkv|webm|mpe?g|ts|zip)$", re.IGNORECASE)
REGIONS = {"dontcare", "crowd", "ignoredregion", "ignoredregions", "ignore"}  # words of regions, letters alone
NIGHT = {"daytime": False, "nighttime": True}  # JAAD's, of video_attributes

NEEDED = ("xtl", "ytl", "xbr", "ybr")
NUMBERS = (*NEEDED, "rotation")
ATTRIBUTES = ("visibility", "ignored", "id", "class_source")  # of every box that is written, where they say something
TRUE, FALSE = {"1", "true"}, {"0", "false"}

# reasons, as they are told
NO_RATE = f"has no frame rate in CVAT's files, and {FPS} frames a second were taken"
NOT_A_BOX = "is a shape that is not a box"
TURNED = "is a turned box, and became the upright one around it"
ILLEGAL_ID = "has an id with characters that XML cannot hold; they are replaced"
SAME_ID = "has tracks that share an id; all are named by their places in the file"
NO_TASK = "is a track of a task that the file does not describe"


@dataclass(frozen=True)
class Key:
    """A box of a track as it stands in the file."""

    frame: int
    outside: bool
    box: tuple[float, float, float, float]
    visibility: float
    word: str
    ignore: bool


@dataclass(frozen=True)
class Task:
    """What the file says of one video.

    Args:
        video: its name.
        start, step, count: which frames were labelled; without a count it is up to the last box.
    """

    video: str
    fps: Fraction | None
    size: tuple[int, int] | None
    start: int
    step: int
    count: int | None
    labels: Labels

    def frames(self, last: int, footage: Footage) -> range:
        """Those that were labelled, up to the box at ``last`` where the file does not say, none behind the video."""
        stop = last + 1 if self.count is None else self.start + self.count * self.step
        return range(self.start, stop if footage.frames is None else min(stop, footage.frames), self.step)


def claims(path: Path) -> bool:
    return counted.claimed(path, PLACES, _looks)


def _looks(file: Path) -> bool:
    if file.suffix.lower() != ".xml":
        return False
    start = counted.head(file)
    return bool(re.match(r"\s*(<\?xml[^>]*>)?(\s|<!--.*?-->)*<(annotations[\s>]|!DOCTYPE)", start, re.DOTALL))


def read(place: Path, known: Known, remarks: Remarks) -> list[Labelled]:
    """Raises:
    Mistake: no files, one that is not CVAT's or not safe, or a size that nothing tells.
    """
    found = [labelled for file in counted.listed(place, PLACES) for labelled in _file(file, known, remarks)]
    return [labelled for labelled in found if labelled is not None]


def _file(file: Path, known: Known, remarks: Remarks) -> Iterator[Labelled | None]:
    root = _root(file)
    tracks = root.findall("track")
    described = [element for element in root.findall("meta//*") if element.tag in ("task", "job")]
    if len(described) < 2:
        yield _video(file, described[0] if described else Element("task"), tracks, known, remarks)
        return
    ids = [element.findtext("id", "") for element in described]
    for track in tracks:
        if track.get("task_id", "") not in ids:
            remarks.add(NO_TASK, f"{file.name}: {track.get('task_id', '')}")
    for number, element in zip(ids, described, strict=True):
        own = [track for track in tracks if track.get("task_id", "") == number]
        yield _video(file, element, own, known, remarks)


def _root(file: Path) -> Element:
    try:
        root = fromstring(file.read_bytes(), forbid_dtd=True)
    except OSError as problem:
        raise Mistake(f"cannot be read: {problem.strerror}", where=file) from None
    except DefusedXmlException:
        mend = "take its document type out if you trust it"
        raise Mistake("declares entities or a document type, which are not read", where=file, mend=mend) from None
    except (ParseError, ValueError, LookupError) as problem:
        raise Mistake(f"is not XML ({problem})", where=file) from None
    if root.tag != "annotations":
        raise Mistake(f"is XML of another kind: <{root.tag[:40]}>, not <annotations>", where=file)
    if root.find("image") is not None and root.find("track") is None:
        raise Mistake("holds images, not a video", where=file, mend="export it as 'CVAT for video 1.1'")
    return root


def _video(file: Path, element: Element, tracks: list[Element], known: Known, remarks: Remarks) -> Labelled | None:
    task = _task(file, element)
    footage = known(task.video)
    size, fps = task.size or footage.size, task.fps or footage.fps
    if size is None:
        raise Mistake("the size of its frames is not known", where=file, mend=counted.INDEX_TOGETHER)
    if fps is None:
        remarks.add(NO_RATE, task.video)
    fps = fps or FPS
    keyed = [(track, _keys(file, n, track, task.video, remarks)) for n, track in enumerate(tracks)]
    keyed = [(track, keys) for track, keys in keyed if keys]
    frames = task.frames(max((keys[-1].frame for _, keys in keyed), default=-1), footage)
    if sum(len(_between(a, b, frames)) for _, keys in keyed for a, b in pairwise(keys)) > MOST_BETWEEN:
        raise Mistake(f"asks for more than {MOST_BETWEEN} boxes between its key-frames", where=file)
    sheet = Sheet(task.video, size, footage, remarks)
    sheet.labels = task.labels
    for frame in frames:
        sheet.look(frame / fps)
    for name, (_, keys) in zip(_names([track for track, _ in keyed], task.video, remarks), keyed, strict=True):
        for key in _expanded(keys, frames):
            where = f"frame {key.frame}, track {name}"
            sheet.add(key.frame / fps, name, key.word, key.box, key.visibility, key.ignore, where)
    return sheet.done()


def _task(file: Path, element: Element) -> Task:
    source = re.split(r"[/\\]", element.findtext("source", "").strip())[-1]
    told = element.findtext("frame_rate")
    fps = counted.rate(told) if told is not None else None
    if told is not None and fps is None:
        _wrong(file, "frame_rate", told)
    width, height = (_whole(file, element, f"original_size/{side}", 1) for side in ("width", "height"))
    start, last = (_whole(file, element, key, 0) for key in ("start_frame", "stop_frame"))
    step = re.search(r"step=(\d{1,6})", element.findtext("frame_filter", ""))
    every = max(1, int(step[1])) if step else 1
    count = _whole(file, element, "size", 0)
    if count is None and last is not None:
        count = max(0, (last - (start or 0)) // every + 1)
    return Task(
        video=VIDEO.sub("", source) or element.findtext("name", "").strip() or file.stem,
        fps=fps,
        size=(height, width) if height and width else None,
        start=start or 0,
        step=every,
        count=count,
        labels=Labels(
            NIGHT.get(element.findtext("video_attributes/time_of_day", "")),
            _whole(file, element, "video_attributes/cars", 0),
        ),
    )


def _whole(file: Path, element: Element, key: str, least: int) -> int | None:
    told = element.findtext(key)
    if told is None or not told.strip():
        return None
    value = counted.whole(told)
    if value is None or not least <= value <= counted.MOST_FRAMES:
        _wrong(file, key, told)
    return value


def _wrong(file: Path, key: str, told: str | None) -> NoReturn:
    raise Mistake(f"has no '{key}'" if told is None else f"its {key} cannot be {told[:40]!r}", where=file)


def _names(tracks: list[Element], video: str, remarks: Remarks) -> list[str | None]:
    """The id that all boxes of a track share as an attribute, else the track's own, else its place; one way for all."""
    regions = [re.fullmatch(r"-\d+", track.get("id", "")) is not None for track in tracks]
    named = [track for track, region in zip(tracks, regions, strict=True) if not region]
    ways = [_shared_id(track) for track in named], [track.get("id", "") for track in named]
    names = next((way for way in ways if all(way) and len(set(way)) == len(way)), None)
    if names is None and all(ways[1]):
        remarks.add(SAME_ID, video)
    rest = iter(names or map(str, range(len(named))))
    return [None if region else next(rest) for region in regions]


def _shared_id(track: Element) -> str:
    boxes = [box for box in track.iterfind("box") if box.get("outside") != "1"]
    found = {_attributes(box).get("id", "") for box in boxes}
    return found.pop() if len(found) == 1 else ""


def _attributes(box: Element) -> dict[str, str]:
    return {attribute.get("name", ""): attribute.text or "" for attribute in box.iterfind("attribute")}


def _keys(file: Path, n: int, track: Element, video: str, remarks: Remarks) -> list[Key]:
    """The boxes of a track as they stand there, by frame."""
    keys = []
    if track.get("label") is None:
        raise Mistake(f"track {n} has no 'label'", where=file)
    for shape in track:
        where = f"{video}: track {n}, frame {shape.get('frame')}"
        if shape.tag != "box":
            if shape.get("frame") is not None:
                remarks.add(NOT_A_BOX, f"{where}, {shape.tag}")
            continue
        told = {key: counted.number(value) for key, value in shape.items() if key in NUMBERS}
        bad = next((key for key in NEEDED if told.get(key) is None), None)
        frame = counted.whole(shape.get("frame", ""))
        if bad is not None or frame is None:
            place = f"track {n}, frame {shape.get('frame')}"
            key = bad or "frame"
            raise Mistake(f"{place}: {key!r} is not a number but {shape.get(key, 'missing')[:40]!r}", where=file)
        if not 0 <= frame <= counted.MOST_FRAMES:
            remarks.add(counted.FAR_FRAME, where)
            continue
        keys.append(_key(shape, frame, track.get("label", ""), {k: v for k, v in told.items() if v is not None}))
        if told.get("rotation"):
            remarks.add(TURNED, where)
    return sorted(keys, key=lambda key: key.frame)


def _key(shape: Element, frame: int, label: str, told: dict[str, float]) -> Key:
    attributes = _attributes(shape)
    word = attributes.get("class_source") or label
    region = re.sub(r"[^a-z]", "", word.lower()) in REGIONS
    flag = attributes.get("ignored", attributes.get("ignore", "")).strip().lower()
    return Key(
        frame=frame,
        outside=shape.get("outside", "0").lower() in TRUE,
        box=_upright((told["xtl"], told["ytl"], told["xbr"], told["ybr"]), told.get("rotation", 0.0)),
        visibility=_visibility(attributes.get("visibility"), shape.get("occluded")),
        word=word,
        ignore=flag in TRUE if flag in TRUE | FALSE else region,
    )


def _visibility(exact: str | None, occluded: str | None) -> float:
    """The attribute, where it is a share; an empty one is unknown. Else the flag."""
    if exact is not None and not exact.strip():
        return math.nan
    share = counted.number(exact) if exact is not None else None
    if share is not None and 0 <= share <= 1:
        return share
    return math.nan if occluded is None else 0.5 if occluded.lower() in TRUE else 1.0


def _upright(box: tuple[float, float, float, float], degrees: float) -> tuple[float, float, float, float]:
    """The box around one that is turned about its centre."""
    if not degrees or not math.isfinite(degrees):
        return box
    x0, y0, x1, y1 = box
    c, s = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    width, height = (x1 - x0) * c + (y1 - y0) * s, (x1 - x0) * s + (y1 - y0) * c
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _between(a: Key, b: Key, frames: range) -> range:
    """The labelled frames behind ``a`` and before ``b``, which the file leaves out; none where ``a`` is outside."""
    first = a.frame + frames.step - (a.frame - frames.start) % frames.step
    return range(0) if a.outside else range(max(first, frames.start), min(b.frame, frames.stop), frames.step)


def _expanded(keys: list[Key], frames: range) -> Iterator[Key]:
    """Every box of a track that is not outside, those between the keys interpolated."""
    for n, a in enumerate(keys):
        if not a.outside:
            yield a
        for b in keys[n + 1 : n + 2]:
            for frame in _between(a, b, frames):
                share = (frame - a.frame) / (b.frame - a.frame)
                x0, y0, x1, y1 = (p + share * (q - p) for p, q in zip(a.box, b.box, strict=True))
                yield replace(a, frame=frame, box=(x0, y0, x1, y1))


def write(labelled: Sequence[Labelled], folder: Path, fps: Fraction, remarks: Remarks) -> None:
    """``folder/VIDEO.xml``."""
    for name, video in counted.filed(labelled, remarks):
        root = Element("annotations")
        SubElement(root, "version").text = "1.1"
        grid, words = counted.grid(video, fps, remarks), counted.words(video, remarks)
        frames = _labelled(grid.frames)
        counted.tell_unlabelled(grid.frames, frames, video.video, remarks)
        root.append(_meta(_legal(name), video, fps, frames, sorted(set(words))))
        root.extend(_tracks(video, grid, frames, words, remarks))
        indent(root)
        write_atomic(folder / f"{name}.xml", tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _labelled(frames: tuple[int, ...]) -> range:
    """The narrowest progression that holds all frames."""
    if not frames:
        return range(0)
    step = math.gcd(*(b - a for a, b in pairwise(frames))) or 1
    return range(frames[0], frames[-1] + 1, step)


def _legal(text: str) -> str:
    """What XML cannot hold is replaced."""
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]", "_", text)


def _meta(name: str, labelled: Labelled, fps: Fraction, frames: range, words: list[str]) -> Element:
    meta = Element("meta")
    task = SubElement(meta, "task")
    told = {
        "name": name,
        "size": len(frames),
        "mode": "interpolation",
        "start_frame": frames.start,
        "stop_frame": frames[-1] if frames else 0,
        "frame_filter": f"step={frames.step}" if frames.step > 1 else "",
        "frame_rate": fps,
    }
    for key, value in told.items():
        SubElement(task, key).text = str(value)
    labels = SubElement(task, "labels")
    for word in words:
        label = SubElement(labels, "label")
        SubElement(label, "name").text = word
        attributes = SubElement(label, "attributes")
        for attribute in ATTRIBUTES:
            spec = SubElement(attributes, "attribute")
            for key, value in (("name", attribute), ("mutable", "True"), ("input_type", "text")):
                SubElement(spec, key).text = value
    size = SubElement(task, "original_size")
    SubElement(size, "width").text, SubElement(size, "height").text = str(labelled.size[1]), str(labelled.size[0])
    known = SubElement(task, "video_attributes")
    if labelled.labels.night is not None:
        SubElement(known, "time_of_day").text = next(w for w, night in NIGHT.items() if night == labelled.labels.night)
    if labelled.labels.cars is not None:
        SubElement(known, "cars").text = str(labelled.labels.cars)
    return meta


def _tracks(
    labelled: Labelled, grid: counted.Grid, frames: range, words: list[str], remarks: Remarks
) -> Iterator[Element]:
    boxes, pixels, numbers = labelled.boxes, counted.pixels(labelled), counted.numbers(labelled)
    named = any(not counted.PLAIN.fullmatch(labelled.id_of(track)) for track in numbers if track >= 0)
    own: dict[int, list[tuple[int, int]]] = {}
    for frame, n in grid.rows:
        own.setdefault(int(boxes.track[n]), []).append((frame, n))
    for track, rows in sorted(own.items()):
        name, label = labelled.id_of(track), words[rows[0][1]]
        if _legal(name) != name:
            remarks.add(ILLEGAL_ID, f"{labelled.video}: {name!r}")
        element = Element("track", id=str(numbers[track] if track >= 0 else track), label=label)
        for (frame, n), (after, _) in zip(rows, [*rows[1:], (-1, -1)], strict=True):
            told = {"visibility": "" if math.isnan(boxes.visibility[n]) else repr(float(boxes.visibility[n]))}
            if boxes.ignored[n] or re.sub(r"[^a-z]", "", words[n].lower()) in REGIONS:
                told["ignored"] = "true" if boxes.ignored[n] else "false"
            if named and track >= 0:
                told["id"] = _legal(name)
            if words[n] != label:
                told["class_source"] = words[n]
            occluded = bool(boxes.visibility[n] < 0.75)
            element.append(_box(frame, pixels[n].tolist(), occluded, False, told))
            left = frame + frames.step
            if after != left and left in frames:
                element.append(_box(left, pixels[n].tolist(), occluded, True, told))
        yield element


def _box(frame: int, corners: list[float], occluded: bool, outside: bool, told: dict[str, str]) -> Element:
    flags = {"frame": str(frame), "keyframe": "1", "outside": str(int(outside)), "occluded": str(int(occluded))}
    places = {key: f"{value:.4f}" for key, value in zip(NEEDED, corners, strict=True)}
    box = Element("box", {**flags, **places, "z_order": "0"})
    for name, value in told.items():
        SubElement(box, "attribute", name=name).text = value
    return box


# Times survive where they lie on the grid of the rate that is written; so they are not claimed.
CARRIES = frozenset({"ids", "classes", "words", "visibility", "ignore", "empty frames", "size"})
FORMAT = Format("cvat", "CVAT 1.1 for video", CARRIES, claims, read, write)
