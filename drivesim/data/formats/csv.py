"""Plain CSV: a header line, then a line a box. Columns, in any order, separated by commas, semicolons or tabs:

    video                     its name; without the column, the file's
    time_num, time_den        seconds from the first frame, exact; or
    time                      seconds, as a decimal or as ``1001/30000``; or
    frame                     counted from 0, at the video's rate (30 a second, with a remark, where none is known)
    track, class              the track may be empty: a region that has none
    x0, y0, x1, y1            corners, the second exclusive; or
    x, y, w, h                the upper left corner, width and height
    unit                      pixels (also where the column is missing) or fractions of the frame; names may say it
                              instead: ``x0_px`` ... or ``x0_fraction`` ...
    visibility                0 to 1; empty is unknown
    ignore                    1 or true for a region that was not labelled
    frame_width, frame_height pixels; the video's own where they are missing
    night, cars               of the video: 1 or 0, and a number

Time, track, class and corners are needed. A line whose corners are all empty says that its moment was labelled; so
frames without boxes are known. Columns of other names are told and not read. Decimal times are read to the picosecond,
and one within a millisecond of a frame of the video is that frame's. Written is ``boxes.csv``, which holds all videos
and loses nothing: ``time_num`` and ``time_den`` whatever the rate, pixels with the size of the frame, or fractions
where the size is not known.
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from drivesim.data.annotations import Footage, Known, Labelled, Remarks, Sheet
from drivesim.data.formats import Format, counted, fields
from drivesim.disk import write_atomic
from drivesim.errors import Mistake
from drivesim.scene import Labels

FPS = Fraction(30)
FILE = "boxes.csv"
PLACES = ("*.csv", "*.tsv")
PICO = 10**12
LONGEST = 1 << 16  # characters of a header
DECIMAL = re.compile(r"[+-]?(\d{1,15}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,2})?")
QUOTIENT = re.compile(r"[+-]?\d{1,18}/[1-9]\d{0,17}")
INT64 = 1 << 63
TRUE, FALSE = {"1", "true", "yes", "1.0"}, {"", "0", "false", "no", "0.0"}
UNITS = {"": False, "pixels": False, "px": False, "fractions": True, "fraction": True}  # whether they are fractions
CORNERS = (("x0", "y0", "x1", "y1"), ("x", "y", "w", "h"))
TIMES = (("time_num", "time_den"), ("time",), ("frame",))
SIZES = ("frame_width", "frame_height")
WRITTEN = (
    "video,time_num,time_den,track,class,x0,y0,x1,y1,unit,visibility,ignore,frame_width,frame_height,night,cars"
).split(",")

# reasons, as they are told
NO_RATE = f"has no frame rate, and {FPS} frames a second were taken"
NO_CORNERS = "has a track or a class and no corners"
NOT_READ = "is a column that is not read"
NOT_SEEN = "has a visibility that is not in [0, 1], and became unknown"
BEFORE = "has a time below 0"
RENAMED = "is a track whose name has characters that a line cannot hold; they are replaced"


@dataclass(frozen=True)
class Layout:
    """Which columns of a header mean what.

    Args:
        time: of ``TIMES``.
        corners: four names of columns.
        sizes: the corners are x, y, width, height.
        unit: what the names of the corners say; None leaves it to the column ``unit``.
    """

    time: tuple[str, ...]
    corners: tuple[str, ...]
    sizes: bool
    unit: str | None

    def used(self) -> set[str]:
        rest = {"video", "track", "class", "visibility", "ignore", *SIZES, "night", "cars"}
        return {*rest, *self.time, *self.corners, *([] if self.unit else ["unit"])}


@dataclass(frozen=True)
class Line:
    """A line of the file, its cells by the names of their columns; missing ones are empty."""

    where: str
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")

    def wrong(self, column: str, what: str) -> Mistake:
        return Mistake(f"{column} is not {what}: {self[column][:40]!r}", where=self.where)

    def number(self, column: str) -> float:
        """Also NaN and infinity, which are the sheet's to refuse."""
        value = counted.number(self[column])
        if value is None:
            raise self.wrong(column, "a number")
        return value

    def whole(self, column: str, low: int, high: int) -> int:
        value = counted.whole(self[column])
        if value is None or not low <= value <= high:
            raise self.wrong(column, f"a whole number from {low} to {high}")
        return value

    def flag(self, column: str) -> bool:
        cell = self[column].lower()
        if cell not in TRUE | FALSE:
            raise self.wrong(column, "1 or 0")
        return cell in TRUE


def claims(place: Path) -> bool:
    return counted.claimed(place, PLACES, _looks)


def _looks(file: Path) -> bool:
    if file.suffix.lower() not in (".csv", ".tsv"):
        return False
    lines = counted.head(file).lstrip().splitlines()
    return bool(lines) and _layout(_header(lines[0])) is not None


def _separator(header: str) -> str:
    return max(",;\t", key=header.count)


def _header(line: str) -> list[str]:
    try:
        return [cell.strip().lower() for cell in next(csv.reader([line], delimiter=_separator(line)), [])]
    except csv.Error:
        return []


def _layout(header: Sequence[str]) -> Layout | None:
    names = set(header)
    time = next((columns for columns in TIMES if names.issuperset(columns)), None)
    if time is None or not names.issuperset(("track", "class")):
        return None
    for corners in CORNERS:
        for end, unit in (("", None), ("_px", "pixels"), ("_fraction", "fractions")):
            columns = tuple(f"{corner}{end}" for corner in corners)
            if names.issuperset(columns):
                return Layout(time, columns, corners == CORNERS[1], unit)
    return None


def read(place: Path, known: Known, remarks: Remarks) -> list[Labelled]:
    """Raises:
    Mistake: no files, one without the needed columns, a word where a number belongs, or a size that nothing tells.
    """
    found = [one for file in counted.listed(place, PLACES) for one in _read_file(file, known, remarks)]
    return [one for one in found if one is not None]


def _read_file(file: Path, known: Known, remarks: Remarks) -> Iterator[Labelled | None]:
    header, lines = _lines(file)
    layout = _layout(header)
    if layout is None:
        mend = "it needs track, class, x0 y0 x1 y1 (or x y w h), and time_num and time_den (or time, or frame)"
        raise Mistake(f"has not the columns of boxes: {', '.join(header)[:80]}", where=file, mend=mend)
    for column in header:
        if column not in layout.used():
            remarks.add(NOT_READ, f"{file.name}: {column[:40]}")
    videos: dict[str, list[Line]] = {}
    for line in lines:
        videos.setdefault(fields.video(line["video"]) or file.stem, []).append(line)
    for video, own in videos.items():
        yield _video(file, video, own, layout, known(video), remarks)


def _lines(file: Path) -> tuple[list[str], list[Line]]:
    text = counted.text(file)
    first = next((line for line in text.splitlines() if line.strip()), "")
    if len(first) > LONGEST:
        raise Mistake(f"begins with a line of more than {LONGEST} characters, which is no header", where=file)
    header, lines = _header(first), []
    if len(set(header)) < len(header):
        raise Mistake("has two columns of one name", where=file)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(first), strict=True)
    begun = False
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if not begun:
                begun = True
                continue
            where = f"{file}, line {rows.line_num}"
            if len(row) != len(header):
                raise Mistake(f"has {len(row)} cells, the header {len(header)}", where=where)
            lines.append(Line(where, {key: cell.strip() for key, cell in zip(header, row, strict=True)}))
    except csv.Error as problem:
        raise Mistake(f"is not CSV ({problem})", where=f"{file}, line {rows.line_num}") from None
    return header, lines


def _video(
    file: Path, video: str, lines: list[Line], layout: Layout, footage: Footage, remarks: Remarks
) -> Labelled | None:
    fractions = [_fractions(line, layout) for line in lines]
    stated = _size(lines)
    size = stated or footage.size
    held = [any(line[column] for column in layout.corners) for line in lines]
    in_pixels = any(has and not fraction for has, fraction in zip(held, fractions, strict=True))
    if in_pixels and size is None:
        mend = f"{counted.INDEX_TOGETHER}, or add the columns {' and '.join(SIZES)}"
        raise Mistake("the size of its frames is not known", where=f"{file}, video {video}", mend=mend)
    if not in_pixels and stated is None:
        size = None
    sheet = Sheet(video, size or (1, 1), footage, remarks)
    if layout.time == ("frame",) and footage.fps is None:
        remarks.add(NO_RATE, video)
    for line, has, fraction in zip(lines, held, fractions, strict=True):
        sheet.labels = _labels(line, sheet.labels)
        where = line.where.rpartition(", ")[2]
        time = _time(line, layout, footage)
        if time is None or time < 0:
            remarks.add(BEFORE if time is not None else counted.FAR_FRAME, f"{video}: {where}")
            continue
        sheet.look(time)
        if not has:
            if line["track"] or line["class"]:
                remarks.add(NO_CORNERS, f"{video}: {where}")
            continue
        box = _box(line, layout, size if fraction else None)
        visibility = _visibility(line, f"{video}: {where}", remarks)
        sheet.add(time, line["track"] or None, line["class"], box, visibility, line.flag("ignore"), where)
    return sheet.done()


def _fractions(line: Line, layout: Layout) -> bool:
    unit = line["unit"].lower() if layout.unit is None else layout.unit
    if unit not in UNITS:
        raise line.wrong("unit", "pixels or fractions")
    return UNITS[unit]


def _size(lines: list[Line]) -> tuple[int, int] | None:
    size = None
    for line in lines:
        if any(line[column] for column in SIZES):
            width, height = (line.whole(column, 1, fields.LARGEST) for column in SIZES)
            if size not in (None, (height, width)):
                raise Mistake("has another size of frame than the lines before", where=line.where)
            size = height, width
    return size


def _time(line: Line, layout: Layout, footage: Footage) -> Fraction | None:
    """Seconds; None for a frame that none can be."""
    if layout.time == ("frame",):
        frame = counted.whole(line["frame"])
        if frame is None:
            raise line.wrong("frame", "a whole number")
        return frame / (footage.fps or FPS) if 0 <= frame <= counted.MOST_FRAMES else None
    if layout.time != ("time",):
        return Fraction(line.whole("time_num", -INT64, INT64 - 1), line.whole("time_den", 1, INT64 - 1))
    if QUOTIENT.fullmatch(line["time"]):
        return Fraction(line["time"])
    if not DECIMAL.fullmatch(line["time"]):
        raise line.wrong("time", "a time in seconds")
    time = Fraction(line["time"])
    if abs(time) >= INT64 // PICO:
        raise line.wrong("time", "a time in seconds")
    shown = counted.near(time, footage)
    return Fraction(round(time * PICO), PICO) if shown is None else shown


def _box(line: Line, layout: Layout, size: tuple[int, int] | None) -> tuple[float, float, float, float]:
    """Corners; fractions are multiplied by ``size``, where it is known."""
    x0, y0, x1, y1 = (line.number(column) for column in layout.corners)
    if layout.sizes:
        x1, y1 = x0 + x1, y0 + y1
    height, width = size or (1, 1)
    return x0 * width, y0 * height, x1 * width, y1 * height


def _visibility(line: Line, where: str, remarks: Remarks) -> float:
    if not line["visibility"]:
        return math.nan
    value = line.number("visibility")
    if math.isnan(value) or 0 <= value <= 1:
        return value
    remarks.add(NOT_SEEN, where)
    return math.nan


def _labels(line: Line, labels: Labels) -> Labels:
    night = line.flag("night") if line["night"] else labels.night
    return Labels(night, line.whole("cars", 0, counted.MOST_FRAMES) if line["cars"] else labels.cars)


def write(labelled: Sequence[Labelled], folder: Path, fps: Fraction, remarks: Remarks) -> None:
    """``folder/boxes.csv``. Times are exact, so that ``fps`` does not count."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, WRITTEN, lineterminator="\n")
    table.writeheader()
    for name, one in counted.filed(labelled, remarks):
        table.writerows(_rows(name, one, remarks))
    write_atomic(folder / FILE, text.getvalue().encode())


def _rows(name: str, one: Labelled, remarks: Remarks) -> Iterator[dict[str, object]]:
    """The lines of a video: one a box, and one for each moment without."""
    boxes, words, tracks = one.boxes, counted.words(one, remarks), _tracks(one, remarks)
    night, cars = one.labels.night, one.labels.cars
    same: dict[str, object] = {
        "video": name,
        "unit": "pixels" if all(one.size) else "fractions",
        "frame_height": one.size[0] or "",
        "frame_width": one.size[1] or "",
        "night": "" if night is None else int(night),
        "cars": "" if cars is None else cars,
    }
    pixels = counted.pixels(one).round(6) if all(one.size) else boxes.box
    moments: dict[Fraction, list[int]] = {time: [] for time in sorted({*one.times, *boxes.time})}
    for n, time in enumerate(boxes.time):
        moments[time].append(n)
    for time, own in moments.items():
        when = {**same, "time_num": time.numerator, "time_den": time.denominator}
        if not own:
            yield when
        for n in own:
            seen = float(boxes.visibility[n])
            yield {
                **when,
                "track": tracks[int(boxes.track[n])],
                "class": words[n],
                **dict(zip(CORNERS[0], map(repr, pixels[n].tolist()), strict=True)),
                "visibility": "" if math.isnan(seen) else repr(seen),
                "ignore": int(boxes.ignored[n]),
            }


def _tracks(one: Labelled, remarks: Remarks) -> dict[int, str]:
    """The name of every track, of characters that a line can hold; empty for regions, which have none."""
    names: dict[int, str] = {}
    for track in sorted(set(one.boxes.track.tolist())):
        own = one.id_of(track) if track >= 0 else ""
        name = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "_", own).strip()
        while track >= 0 and (not name or (name != own and name in {*names.values(), *one.ids.values()})):
            name += "_"
        if name != own:
            remarks.add(RENAMED, f"{one.video}: {own!r}")
        names[track] = name
    return names


CARRIES = frozenset({"ids", "classes", "words", "visibility", "ignore", "times", "empty frames", "size"})
FORMAT = Format("csv", "plain CSV", CARRIES, claims, read, write)
