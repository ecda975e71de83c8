"""What clips show, in words: from a CSV of paths and captions, from a text file beside a clip, or of the rendered
world, which knows.

A caption is one line: line breaks and runs of spaces become single spaces. An empty one is unknown.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from drivesim.data.frames import refuse_outside
from drivesim.errors import Mistake

COLUMNS = ("path", "caption")
LONGEST = 2000  # characters; text encoders read a few hundred
BESIDE = ".txt"
DENSE = 5
"""Vehicles, on average of a clip's frames, from which the world's traffic is called dense; 1 to 4 are light. Of 60
seeds 9 are empty, 29 light and 22 dense."""


def of_world(night: bool, cars: int) -> str:
    """The caption of a rendered clip, by its labels."""
    traffic = "an empty road" if cars < 1 else "light traffic" if cars < DENSE else "dense traffic"
    return f"driving {'at night' if night else 'by day'}, {traffic}"


def beside(clip: Path, root: Path, labels: Path | None = None) -> str | None:
    """The caption in ``NAME.txt`` beside the clip ``NAME.mp4`` or the folder of images ``NAME``, None where there is
    none.

    Args:
        labels: the place of the label files: a text there is no caption.

    Raises:
        Mistake: it is a link that leads out of ``root``, too long, or not UTF-8.
    """
    if clip == root:
        return None
    file = clip.with_name((clip.name if clip.is_dir() else clip.stem) + BESIDE)
    if not file.is_file() or (labels is not None and labels in (file, file.parent)):
        return None
    refuse_outside(file, root)
    mend = "a text beside a clip is its caption: give it another name if it is none"
    return _checked(_text(file, mend, 8 * LONGEST), file, mend)


def read(file: Path, clips: Iterable[str]) -> dict[str, str]:
    """The captions of a CSV with the columns ``path`` and ``caption``, by clip; those left empty are not there.

    Args:
        clips: their paths, relative to the source; in the file, the suffix may be left out.

    Raises:
        Mistake: no CSV with these columns or without a line, a clip that is not there or is named twice, a caption that
            is too long or not UTF-8.
    """
    clips = list(clips)
    names, found, missing = _by_name(clips), dict[str, str](), list[str]()
    lines = dict[str, int]()
    for number, path, text in _rows(file):
        name = PurePosixPath(path.replace("\\", "/")).as_posix()
        matched = names.get(name, [])
        if not matched:
            missing.append(path)
            continue
        where = f"{file} line {number}"
        if len(matched) > 1:
            what = f"'{path}' is the name of {len(matched)} clips"
            raise Mistake(what, where=where, mend=f"write the suffix, as in {matched[0]}")
        if (before := lines.setdefault(matched[0], number)) != number:
            raise Mistake(f"a second caption for {matched[0]}", where=where, mend=f"the first is in line {before}")
        if caption := _checked(text, where):
            found[matched[0]] = caption
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        mend = f"paths are relative to the source, as {clips[0]}" if clips else None
        raise Mistake(f"names clips that are not there: {missing[0]}{more}", where=file, mend=mend)
    return found


def joined(own: str | None, told: Mapping[str, str], name: str, where: Path) -> str | None:
    """The caption of a clip, from the text beside it or from the CSV at ``where``.

    Raises:
        Mistake: it has both.
    """
    if own is not None and name in told:
        raise Mistake(f"a second caption for {name}, which has a text beside it", where=where, mend="keep one of them")
    return own if own is not None else told.get(name)


def _by_name(clips: list[str]) -> dict[str, list[str]]:
    """The clips that a name may mean: whole, or without its suffix where no clip has that name whole."""
    names: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        names[PurePosixPath(clip).with_suffix("").as_posix()].append(clip)
    return {**names, **{clip: [clip] for clip in clips}}


def _rows(file: Path) -> list[tuple[int, str, str]]:
    """Line number, path and caption of every line that is not empty."""
    columns, mend = " and ".join(COLUMNS), "the first line is: path,caption"
    reader = csv.reader(io.StringIO(_text(file, "captions are a CSV in UTF-8"), newline=""))
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        if not header:
            raise Mistake("is empty", where=file, mend=mend)
        if any(header.count(column) != 1 for column in COLUMNS):
            raise Mistake(f"has no columns {columns}, one of each", where=file, mend=mend)
        path, caption = map(header.index, COLUMNS)
        rows = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) <= max(path, caption) or not cells[path].strip():
                raise Mistake(f"has no {columns}", where=f"{file} line {reader.line_num}")
            rows.append((reader.line_num, cells[path].strip(), cells[caption]))
    except csv.Error as problem:
        raise Mistake(f"is no CSV ({problem})", where=f"{file} line {reader.line_num}") from None
    if not rows:
        raise Mistake("holds no caption", where=file, mend=mend)
    return rows


def _text(file: Path, mend: str, most: int = -1) -> str:
    """The text of a file, or its first ``most`` bytes as far as they are whole characters."""
    try:
        with open(file, "rb") as opened:
            data = opened.read(most)
            cut = bool(opened.read(1))
        return data.decode("utf-8-sig", errors="ignore" if cut else "strict")
    except OSError as problem:
        raise Mistake(f"cannot be read: {problem.strerror}", where=file) from None
    except UnicodeDecodeError:
        raise Mistake("is not UTF-8", where=file, mend=mend) from None


def _checked(text: str, where: object, mend: str = "shorten it") -> str | None:
    caption = " ".join(text.split())
    if len(caption) > LONGEST:
        raise Mistake(f"a caption of more than {LONGEST} characters", where=where, mend=mend)
    return caption or None
