"""Which videos a place stands for, where a command takes a folder, a pattern, an index, a run or one video alike."""

import glob
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import takewhile
from pathlib import Path

from drivesim.data import index, video
from drivesim.errors import Mistake, beside

PATTERN = set("*?[")


@dataclass(frozen=True)
class Source:
    """A video to take clips from.

    Args:
        rate: its true frame rate where an index states another than the file does.
        clip_id: SHA-256 of its bytes where an index knows it.
        drive: clips of one drive depend on each other.
        root: the folder that it was found in, which it must not lead out of; None where it was named itself.
    """

    file: Path
    rate: Fraction | None = None
    clip_id: str = ""
    drive: str = ""
    root: Path | None = None

    def check(self) -> None:
        """Raises:
        Mistake: it is a link that leads out of the folder that it was found in.
        """
        if self.root is not None:
            video.refuse_outside(self.file, self.root)


def gather(place: str | Path) -> list[Source]:
    """The videos that ``place`` stands for, by name.

    A run folder gives its ``video.mp4``; a folder of run folders one of each; an index the clips of its split ``val``,
    or all where that is empty; any other folder every video below it; a pattern (``runs/*/video.mp4``) what it fits.
    In a folder, the files of one subfolder are one drive, and each file that lies in the folder itself is its own.

    Raises:
        Mistake: there is none.
    """
    place = Path(place)
    if place.is_file():
        return [Source(place, drive=place.name)]
    if place.is_dir():
        return _in_folder(place)
    if PATTERN & set(str(place)):
        found = sorted(Path(name) for name in glob.glob(str(place), recursive=True))
        sources = [source for one in found if one.is_dir() or _is_video(one) for source in _beside(one, place)]
        if sources:
            return sources
        raise Mistake("the pattern fits no video", where=place)
    raise Mistake("no such file or folder", where=place, mend=beside(place))


def _beside(one: Path, pattern: Path) -> list[Source]:
    """What a pattern fits, its drives named by their paths below what the pattern leaves open."""
    fixed = Path(*takewhile(lambda part: not PATTERN & set(part), pattern.parts))
    if one.is_file():
        return [Source(one, drive=_drive(one.relative_to(fixed)))]
    if (one / index.FILES).is_file():
        return gather(one)
    return [replace(source, drive=_drive(source.file.relative_to(fixed))) for source in gather(one)]


def _in_folder(place: Path) -> list[Source]:
    if (place / index.FILES).is_file():
        opened = index.Index.open(place)
        chosen = opened.split("val") or opened.entries
        return [Source(entry.file, entry.rate, entry.clip_id, entry.drive, Path(entry.root)) for entry in chosen]
    runs = sorted(file.parent for file in place.rglob("run.json"))
    found = [run / "video.mp4" for run in runs if (run / "video.mp4").is_file()]
    found = found or sorted(file for file in place.rglob("*") if _is_video(file))
    if not found:
        mend = f"{', '.join(video.VIDEOS[:4])} and others are looked for, also in its folders"
        raise Mistake("holds no video", where=place, mend=mend)
    return [Source(file, drive=_drive(file.relative_to(place)), root=place) for file in found]


def _drive(name: Path) -> str:
    return name.name if name.parent == Path(".") else name.parent.as_posix()


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in video.VIDEOS and not file.name.startswith(".")
