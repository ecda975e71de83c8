"""What the formats share that count frames: times become frames, ids numbers, tokens numbers or nothing."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.classes import class_of
from drivesim.data.frames import refuse_outside
from drivesim.errors import Mistake

MOST_FRAMES = 1_000_000  # nine hours at 30 fps; a larger number is a slip, and every frame up to it is remembered
INDEX_TOGETHER = "index it together with its video"
NEAR = Fraction(1, 1000)  # seconds: times in files are rounded, or a clock's
PLAIN = re.compile(r"0|[1-9]\d{0,17}")  # ids that are numbers, as annotations.Sheet takes them
RATE = re.compile(r"\d{1,7}(\.\d{1,9})?|[1-9]\d{0,9}/[1-9]\d{0,9}")

# reasons, as they are told
FAR_FRAME = f"has a frame number below 0 or above {MOST_FRAMES}"
OFF_GRID = "stands between two frames of the rate that is written, and moves to the nearer one"
COLLIDED = "shares a frame with another box of its track at the rate that is written, and is left out"
UNLABELLED = "is a frame between labelled ones that was not labelled, and reads as one without boxes"
WORD = "has a word that does not mean its class; the class is written"
CHANGED = "has characters in its word that the format cannot hold; they are replaced"
RENAMED = "is a video whose name a file cannot have, and gets another"
NIGHT_AND_CARS = "has labels (night, cars) that the format does not hold"


def listed(place: Path, patterns: Iterable[str]) -> list[Path]:
    """``place`` itself, or the files of the first pattern that finds some, by name.

    Raises:
        Mistake: there is none, or one is a link that leads out of ``place``.
    """
    if place.is_file():
        return [place]
    for pattern in patterns:
        files = sorted(file for file in place.glob(pattern) if file.is_file() and not file.name.startswith("."))
        if files:
            for file in files:
                refuse_outside(file, place)
            return files
    raise Mistake("holds no label files", where=place)


def claimed(place: Path, patterns: Iterable[str], looks: Callable[[Path], bool]) -> bool:
    """Whether one of the first files of ``listed`` looks like the format's."""
    try:
        return any(looks(file) for file in listed(place, patterns)[:5])
    except (OSError, Mistake):
        return False


def head(file: Path) -> str:
    """The first characters, whatever they are; raises ``OSError`` alone."""
    with file.open("rb") as opened:
        return opened.read(4096).decode("utf-8-sig", errors="replace")


def text(file: Path) -> str:
    """Raises:
    Mistake: the file cannot be read, or is not text.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as problem:
        raise Mistake(f"cannot be read: {problem.strerror}", where=file) from None
    except UnicodeDecodeError:
        raise Mistake("is not text", where=file) from None


def number(token: str) -> float | None:
    """Also NaN and infinity, which are the sheet's to refuse."""
    try:
        return None if "_" in token else float(token)
    except ValueError:
        return None


def whole(token: str) -> int | None:
    """Also ``3.0``, as numpy writes it."""
    if re.fullmatch(r"\s*[+-]?[0-9]{1,300}\s*", token):
        return int(token)
    value = number(token)
    return int(value) if value is not None and value.is_integer() else None


def rate(token: str) -> Fraction | None:
    """Frames a second, exact: ``30``, ``29.97`` or ``30000/1001``; None is not one."""
    found = RATE.fullmatch(token.strip())
    return Fraction(found[0]) or None if found else None


def near(time: Fraction, footage: Footage) -> Fraction | None:
    """The time of the video's frame that is within a millisecond of ``time``; None where there is no such frame."""
    if footage.fps is None:
        return None
    nearest = round(time * footage.fps) / footage.fps
    return nearest if abs(time - nearest) <= min(NEAR, 1 / footage.fps / 4) else None


def count(footage: Footage, own: int) -> int:
    """How many frames were labelled: ``own``, but none behind the video's last."""
    return own if footage.frames is None else min(own, footage.frames)


@dataclass(frozen=True)
class Grid:
    """The boxes of a video, by frame.

    Args:
        frames: that were labelled, in order.
        rows: (frame, index into the boxes), in order.
    """

    frames: tuple[int, ...]
    rows: tuple[tuple[int, int], ...]


def grid(labelled: Labelled, fps: Fraction, remarks: Remarks) -> Grid:
    """Times become frames; those that stand between two go to the nearer, and are told."""
    boxes = labelled.boxes
    moments = sorted({*labelled.times, *boxes.time})
    for time in moments:
        if (time * fps).denominator != 1:
            remarks.add(OFF_GRID, f"{labelled.video}: {float(time):.3f} s")
    nearest = {time: int(time * fps + Fraction(1, 2)) for time in moments}
    best: dict[tuple[int, int], int] = {}
    for n, (time, track) in enumerate(zip(boxes.time, boxes.track.tolist(), strict=True)):
        key = (nearest[time], track)
        other = best.setdefault(key, n)
        if other == n:
            continue
        if abs(time * fps - key[0]) < abs(boxes.time[other] * fps - key[0]):
            best[key] = n
        remarks.add(COLLIDED, f"{labelled.video}: frame {key[0]}, track {labelled.id_of(track)}")
    rows = sorted((frame, n) for (frame, _), n in best.items())
    return Grid(tuple(sorted(set(nearest.values()))), tuple(rows))


def tell_unlabelled(frames: Iterable[int], read: Iterable[int], video: str, remarks: Remarks) -> None:
    """Frames that a reader of the format will take for labelled, and that are not."""
    extra = sorted(set(read) - set(frames))
    if extra:
        remarks.add(UNLABELLED, f"{video}: frame {extra[0]}", len(extra))


def tell_labels(labelled: Labelled, remarks: Remarks) -> None:
    if labelled.labels.night is not None or labelled.labels.cars is not None:
        remarks.add(NIGHT_AND_CARS, labelled.video)


def pixels(labelled: Labelled) -> np.ndarray:
    """``N 4`` float, ``x0 y0 x1 y1`` in pixels.

    Raises:
        Mistake: the size of the frames is not known.
    """
    height, width = labelled.size
    if not height or not width:
        raise Mistake("the size of its frames is not known", where=labelled.video, mend=INDEX_TOGETHER)
    return labelled.boxes.box * (width, height, width, height)


def numbers(labelled: Labelled) -> dict[int, int]:
    """A number for every track, that of its id where this is one; -1 for those of regions, which have none."""
    tracks = sorted(set(labelled.boxes.track.tolist()))
    chosen = {track: -1 for track in tracks if track < 0}
    taken: set[int] = set()
    named = [track for track in tracks if track >= 0]
    for track in sorted(named, key=lambda track: not PLAIN.fullmatch(labelled.id_of(track))):
        own = int(labelled.id_of(track)) if PLAIN.fullmatch(labelled.id_of(track)) else track
        chosen[track] = own if own not in taken else next(n for n in range(len(taken) + 1) if n not in taken)
        taken.add(chosen[track])
    return chosen


def words(labelled: Labelled, remarks: Remarks, legal: str = r"[^\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]") -> list[str]:
    """The word to write for every box: the source's where it means the box's class, else the class.

    Args:
        legal: the characters that the format can hold in a word, as a regular expression.
    """
    found = []
    boxes = labelled.boxes
    for word, cls, ignored in zip(boxes.words, boxes.cls, boxes.ignored.tolist(), strict=True):
        means = class_of(word)
        if means != cls and not (ignored and means is None and cls == "other" and word):
            remarks.add(WORD, f"{labelled.video}: {word}")
            word = cls
        kept = word.strip()
        if not re.fullmatch(f"(?:{legal})*", kept):
            kept = "".join(c if re.fullmatch(legal, c) else "_" for c in kept)
        if kept != word:
            remarks.add(CHANGED, f"{labelled.video}: {word!r}")
        found.append(kept)
    return found


def filed(videos: Iterable[Labelled], remarks: Remarks) -> Iterator[tuple[str, Labelled]]:
    """Every video with a name that a file can have.

    Raises:
        Mistake: two videos would share a file.
    """
    seen: set[str] = set()
    for labelled in videos:
        name = re.sub(r"[\x00-\x1f/\\\ud800-\udfff]", "_", labelled.video).strip()
        name = name if name.strip(".") else f"_{name}"
        if name != labelled.video:
            remarks.add(RENAMED, repr(labelled.video))
        if name in seen:
            raise Mistake(f"two videos are called '{name}'", mend="write them to folders of their own")
        seen.add(name)
        yield name, labelled


def name_of(path: Path) -> str:
    """Of a folder as it was given, be it ``.``."""
    return Path(os.path.abspath(path)).name
