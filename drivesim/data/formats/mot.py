"""MOTChallenge's ground truth: ``NAME/gt/gt.txt``, a line a box, and ``NAME/seqinfo.ini`` beside it.

    frame, track, left, top, width, height, flag, class, visibility

Frames count from 1. A flag of 0 means that the box is not to be counted, which is read as a region to ignore; a track
of -1 is none. Classes are numbers of ``labels.txt`` beside ``gt.txt`` (a name a line, as CVAT exports it), else
MOT17's and MOT20's. Files of 10 columns are MOT15's and results, whose last three are places in space: they hold
pedestrians. The size and rate come from ``seqinfo.ini``, else from the video; without either, 30 frames a second are
taken, with a remark. Corners are taken as they stand, as the public readers of the format do, though MOTChallenge
counts pixels from 1.

``frameRate`` is often rounded: a video whose rate is within 1 % of it has its own. Written files hold the exact rate as
``frameRateExact`` and ids that are not numbers in a section ``tracks``; other readers pass over both.
Source: MOTChallenge's instructions, the MOT16 and MOT20 reports, CVAT's page on its MOT export.
"""

import configparser
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from drivesim.data.annotations import Footage, Known, Labelled, Remarks, Sheet
from drivesim.data.formats import Format, counted
from drivesim.disk import write_atomic
from drivesim.errors import Mistake

FPS = Fraction(30)
ROUNDED = Fraction(1, 100)  # by how much frameRate may miss the video's rate and still mean it
PLACES = ("gt.txt", "gt/gt.txt", "*/gt/gt.txt", "*/*/gt/gt.txt", "*.txt")
LABELS = "labels.txt"
CLASSES = (
    "pedestrian",
    "person on vehicle",
    "car",
    "bicycle",
    "motorbike",
    "non motorized vehicle",
    "static person",
    "distractor",
    "occluder",
    "occluder on the ground",
    "occluder full",
    "reflection",
    "crowd",
)

# reasons, as they are told
NO_RATE = f"has no frame rate, and {FPS} frames a second were taken"
FROM_ZERO = "counts frames from 0, where the format counts from 1; it was read so"
NO_CLASS = "has no column for classes, and was read as pedestrians"


@dataclass(frozen=True)
class Info:
    """What ``seqinfo.ini`` says; None where it does not."""

    name: str | None = None
    fps: Fraction | None = None
    exact: bool = False
    size: tuple[int, int] | None = None
    frames: int | None = None
    ids: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    where: str
    frame: int
    track: int
    box: tuple[float, float, float, float]
    ignore: bool
    rest: tuple[float, ...]  # class, visibility, and what follows


def claims(path: Path) -> bool:
    try:
        return any(_looks(file) for file in _files(path)[:5])
    except (OSError, Mistake):
        return False


def _looks(file: Path) -> bool:
    if file.suffix.lower() != ".txt":
        return False
    line = next((line for line in counted.head(file).splitlines() if line.strip()), None)
    if line is None:  # a sequence without boxes
        return file.name == "gt.txt" and _seqinfo(file).is_file()
    cells = line.split(",")
    return 7 <= len(cells) <= 10 and all(counted.number(cell) is not None for cell in cells)


def _files(place: Path) -> list[Path]:
    files = [file for file in counted.listed(place, PLACES) if file.name != LABELS]
    if not files:
        raise Mistake("holds no label files", where=place)
    return files


def read(place: Path, known: Known, remarks: Remarks) -> list[Labelled]:
    """Raises:
    Mistake: no files, a line that is not MOTChallenge's, or a size that nothing tells.
    """
    found = [_sequence(file, known, remarks) for file in _files(place)]
    return [labelled for labelled in found if labelled is not None]


def _sequence(file: Path, known: Known, remarks: Remarks) -> Labelled | None:
    info = _info(_seqinfo(file)) if file.name == "gt.txt" else Info()
    name = info.name or _name(file)
    footage = known(name)
    size = info.size or footage.size
    if size is None:
        raise Mistake("the size of its frames is not known", where=file, mend=counted.INDEX_TOGETHER)
    fps = _rate(info, footage)
    if fps is None:
        remarks.add(NO_RATE, name)
    fps = fps or FPS
    lines = _lines(file)
    first = 0 if any(line.frame == 0 for line in lines) else 1
    if first == 0:
        remarks.add(FROM_ZERO, name)
    classes = _classes(file, lines)
    if lines and classes is None:
        remarks.add(NO_CLASS, name)
    sheet, last = Sheet(name, size, footage, remarks), 0
    for line in lines:
        frame = line.frame - first
        if not 0 <= frame <= counted.MOST_FRAMES:
            remarks.add(counted.FAR_FRAME, f"{name}: {line.where}")
            continue
        last = max(last, frame + 1)
        word = CLASSES[0] if classes is None else classes.get(line.rest[0], f"class {line.rest[0]:g}")
        visibility = line.rest[1] if classes is not None and len(line.rest) > 1 else math.nan
        visibility = visibility if 0 <= visibility <= 1 else math.nan
        track = None if line.track < 0 else info.ids.get(line.track, line.track)
        sheet.add(frame / fps, track, word, line.box, visibility, line.ignore, line.where)
    for frame in range(counted.count(footage, info.frames or footage.frames or last)):
        sheet.look(frame / fps)
    return sheet.done()


def _rate(info: Info, footage: Footage) -> Fraction | None:
    if info.fps is None or info.exact or footage.fps is None:
        return info.fps or footage.fps
    return footage.fps if abs(footage.fps / info.fps - 1) <= ROUNDED else info.fps


def _lines(file: Path) -> list[Line]:
    lines = []
    for n, line in enumerate(counted.text(file).splitlines(), 1):
        if not line.strip():
            continue
        where, cells = f"{file}, line {n}", line.split(",")
        if not 7 <= len(cells) <= 10:
            raise Mistake(f"has {len(cells)} columns, not MOTChallenge's 7 to 10", where=where)
        frame, track = counted.whole(cells[0]), counted.whole(cells[1])
        values = [counted.number(cell) for cell in cells[2:]]
        numbers = [value for value in values if value is not None]
        if frame is None or track is None or len(numbers) != len(values):
            raise Mistake("has a word or a fraction where a number belongs", where=where)
        x, y, width, height = numbers[:4]
        box = (x, y, x + width, y + height)
        lines.append(Line(f"line {n}", frame, track, box, numbers[4] == 0, tuple(numbers[5:])))
    return lines


def _classes(file: Path, lines: list[Line]) -> dict[float, str] | None:
    """Names by number; None where the columns behind the flag are none, or places in space."""
    if any(not line.rest for line in lines):
        return None
    spatial = any(len(line.rest) > 2 and not (line.rest[0] >= 1 and line.rest[0].is_integer()) for line in lines)
    if spatial or all(line.rest[0] == -1 for line in lines):
        return None
    own = next((folder / LABELS for folder in (file.parent, file.parent.parent) if (folder / LABELS).is_file()), None)
    names = CLASSES if own is None else [line.strip() for line in counted.text(own).splitlines()]
    return dict(enumerate(names, 1))


def _seqinfo(file: Path) -> Path:
    return (file.parent.parent if file.parent.name == "gt" else file.parent) / "seqinfo.ini"


def _name(file: Path) -> str:
    if file.name != "gt.txt":
        return file.stem
    folder = Path(os.path.abspath(file)).parent
    return folder.parent.name if folder.name == "gt" else folder.name


def _info(file: Path) -> Info:
    """Raises:
    Mistake: the file is there and broken.
    """
    if not file.is_file():
        return Info()
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(counted.text(file))
        if not parser.has_section("Sequence"):
            raise Mistake("has no section [Sequence]", where=file)
        ids = (
            {int(key): str(json.loads(value)) for key, value in parser["tracks"].items()} if "tracks" in parser else {}
        )
    except configparser.Error as problem:
        raise Mistake(f"is not an ini file ({str(problem).splitlines()[0]})", where=file) from None
    except (ValueError, RecursionError):
        raise Mistake("its section [tracks] is not numbers and texts in quotes", where=file) from None
    section = parser["Sequence"]
    exact = section.get("frameRateExact")
    told = exact or section.get("frameRate")
    fps = counted.rate(told) if told is not None else None
    if told is not None and fps is None:
        raise Mistake(f"frameRate is not a rate: {told[:40]!r}", where=file)
    whole = {key: _whole(section, key, file) for key in ("imWidth", "imHeight", "seqLength")}
    width, height, frames = whole.values()
    size = (height, width) if height and width else None
    name = section.get("name", "").replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return Info(name or None, fps, exact is not None, size, frames, ids)


def _whole(section: configparser.SectionProxy, key: str, file: Path) -> int | None:
    told = section.get(key)
    value = counted.whole(told) if told is not None else None
    if told is not None and (value is None or not 0 < value <= counted.MOST_FRAMES):
        raise Mistake(f"{key} is not a whole number from 1 to {counted.MOST_FRAMES}: {told[:40]!r}", where=file)
    return value


def write(labelled: Sequence[Labelled], folder: Path, fps: Fraction, remarks: Remarks) -> None:
    """``folder/VIDEO/gt/gt.txt``, ``gt/labels.txt`` (MOT20's classes first, so that their numbers stay) and
    ``seqinfo.ini``."""
    for name, video in counted.filed(labelled, remarks):
        grid, words = counted.grid(video, fps, remarks), counted.words(video, remarks)
        names = [*CLASSES, *sorted(set(words) - set(CLASSES))]
        frames = max(grid.frames, default=-1) + 1
        counted.tell_unlabelled(grid.frames, range(frames), video.video, remarks)
        counted.tell_labels(video, remarks)
        content = "".join(_rows(video, grid, words, names))
        place = folder / name
        write_atomic(place / "gt" / LABELS, "".join(f"{word}\n" for word in names).encode())
        write_atomic(place / "seqinfo.ini", _sequence_of(name, video, fps, frames).encode())
        write_atomic(place / "gt" / "gt.txt", content.encode())


def _rows(labelled: Labelled, grid: counted.Grid, words: list[str], names: list[str]) -> list[str]:
    boxes, pixels, tracks = labelled.boxes, counted.pixels(labelled), counted.numbers(labelled)
    number = {word: n for n, word in enumerate(names, 1)}
    rows = []
    for frame, n in grid.rows:
        x0, y0, x1, y1 = pixels[n].tolist()
        corners = ",".join(f"{value:.4f}" for value in (x0, y0, x1 - x0, y1 - y0))
        flag, visibility = int(not boxes.ignored[n]), float(boxes.visibility[n])
        seen = "-1" if math.isnan(visibility) else repr(visibility)
        rows.append(f"{frame + 1},{tracks[int(boxes.track[n])]},{corners},{flag},{number[words[n]]},{seen}\n")
    return rows


class SeqInfo(configparser.ConfigParser):
    """Keys keep their case: frameRate, imWidth."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def _sequence_of(name: str, labelled: Labelled, fps: Fraction, frames: int) -> str:
    parser = SeqInfo(interpolation=None)
    rate = (
        {"frameRate": str(fps)} if fps.denominator == 1 else {"frameRate": f"{float(fps):.2f}", "frameRateExact": fps}
    )
    height, width = labelled.size
    length = {"seqLength": frames} if frames else {}
    parser["Sequence"] = {
        "name": name,
        "imDir": "img1",
        **{key: str(value) for key, value in rate.items()},
        **{key: str(value) for key, value in length.items()},
        "imWidth": str(width),
        "imHeight": str(height),
        "imExt": ".jpg",
    }
    ids = {number: labelled.id_of(track) for track, number in counted.numbers(labelled).items() if track >= 0}
    named = {str(number): json.dumps(name) for number, name in ids.items() if name != str(number)}
    if named:
        parser["tracks"] = named
    text = io.StringIO()
    parser.write(text, space_around_delimiters=False)
    return text.getvalue()


# Times survive where they lie on the grid of the rate that is written; so they are not claimed.
CARRIES = frozenset({"ids", "classes", "words", "visibility", "ignore", "empty frames", "size"})
FORMAT = Format("mot", "MOTChallenge", CARRIES, claims, read, write)
