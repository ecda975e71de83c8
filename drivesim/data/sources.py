"""From a folder and its recipe to an index: which files are clips, what is measured of each, which drive it belongs
to."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from drivesim import config
from drivesim.data import labelling, video
from drivesim.data.annotations import Remarks
from drivesim.data.formats import known
from drivesim.data.index import Entry, Index, Rows, identity, size_of, whole_folder
from drivesim.errors import Mistake

NIGHT_LUMA = 60.0
"""Below this mean luma (BT.709 weights, 0 to 255, 4 moments) a clip counts as night. The rendered world's nights lie at
37 to 49, its days at 114 to 144, real daylight clips at 74 to 131. Dawn, tunnels and bright city nights can err: the
source's own label goes before."""
LOOKS, LOOK_SIZE = 4, (36, 64)
ONE_PASS = 5  # seconds up to which decoding all is quicker than seeking


@dataclass(frozen=True)
class Recipe:
    """How a source becomes an index; ``datasets/`` holds some.

    Args:
        name: of the source; ``licence`` and ``source`` (where it is from) go into every row.
        kind: ``videos``, ``images`` (folders of numbered images), or ``world`` (rendered).
        root: the folder, where the command names the recipe instead of one; relative to the recipe.
        include: patterns on the path below the root; ``*`` also spans folders. ``exclude`` likewise.
        fps: the true frame rate, such as 10 or 30000/1001; images need it, for videos it overrides a wrong header.
        drive: regular expression searched in the path; what it finds (its first group, if any) names the drive. Without
            it the folder does, and each file that lies in the root itself is a drive.
        val: share of the drives that is held back.
        labels: a label file or folder, relative to the root, by whose names its clips get their boxes.
        format: that of the labels (``data/formats``); told by a look at them where it is not given.
        clips, seconds, size, seed: of a rendered world: number of clips, length, height and width, first seed.
    """

    name: str = "folder"
    licence: str = "unknown"
    source: str = ""
    kind: Literal["videos", "images", "world"] = "videos"
    root: str = ""
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    fps: str | int | float | None = None
    drive: str | None = None
    val: float = 0.1
    labels: str = ""
    format: str | None = None
    clips: int = 0
    seconds: float = 0.0
    size: tuple[int, int] = (128, 256)
    seed: int = 0

    @property
    def rate(self) -> Fraction | None:
        return None if self.fps is None else Fraction(str(self.fps))


def load_recipe(file: Path) -> Recipe:
    """Raises:
    Mistake: an unknown key, or a value that does not fit.
    """
    recipe = config.load(Recipe, file)
    try:
        fits = recipe.rate is None or recipe.rate > 0
    except (ValueError, ZeroDivisionError):
        fits = False
    if not fits:
        raise Mistake(f"fps: '{recipe.fps}' is not a rate", where=file, mend="write 10, 7.5 or '30000/1001'")
    try:
        re.compile(recipe.drive or "")
    except re.error as problem:
        raise Mistake(f"drive: not a regular expression: {problem}", where=file) from None
    if recipe.kind == "images" and recipe.fps is None:
        raise Mistake("images carry no frame rate", where=file, mend="add fps: 10")
    if recipe.kind == "world" and (recipe.clips < 1 or recipe.seconds <= 0 or recipe.fps is None):
        raise Mistake(
            "a rendered world needs clips, seconds and fps", where=file, mend="see datasets/world/recipe.yaml"
        )
    return recipe


def build(
    source: str | Path,
    out: str | Path,
    recipe: Recipe | None = None,
    progress: Callable[[list[Path]], Iterable[Path]] = iter,
    remarks: Remarks | None = None,
) -> Index:
    """Indexes the videos (or folders of images) below ``source`` into the folder ``out``, with their labels if the
    recipe names some; what is wrong with a box goes to ``remarks``.

    A file that cannot be used is a line in ``quarantine.jsonl``, and the work goes on.

    Raises:
        Mistake: no folder, an empty one, one without a readable video, labels that cannot be read or belong to no
            clip; then ``out`` is not made.
    """
    source, out, recipe = Path(source), Path(out), recipe or Recipe()
    if not source.is_dir():
        raise Mistake("no such folder" if not source.exists() else "is not a folder", where=source)
    root = source.resolve()
    if recipe.labels:
        known.of(root / recipe.labels, recipe.format)  # before hours of reading
    rows = Rows()
    found = candidates(root, recipe)
    if not found:
        raise Mistake(_nothing(root), where=source, mend=_instead(root, recipe))
    with whole_folder(out) as part:
        seen: dict[str, str] = {}
        for file in progress(found):
            name = file.relative_to(root).as_posix()
            try:
                entry = measure(root, file, recipe)
            except Mistake as problem:
                rows.quarantine(name, problem.what)
                continue
            if entry.clip_id in seen:
                rows.quarantine(name, f"has the same bytes as {seen[entry.clip_id]}")
                continue
            seen[entry.clip_id] = name
            rows.add(entry)
        if not rows.entries:
            reason = f"{rows.quarantined[0]['path']} {rows.quarantined[0]['reason']}"
            raise Mistake(f"holds no readable video ({len(found)} tried: {reason})", where=source)
        if recipe.labels:
            place = root / recipe.labels
            labelling.join(rows, place, known.of(place, recipe.format), Remarks() if remarks is None else remarks)
        rows.write(part, recipe.val)
    return Index.open(out)


def candidates(root: Path, recipe: Recipe) -> list[Path]:
    """What the recipe takes below ``root``, by name: files with a video's ending, or folders of numbered images."""
    wanted = []
    for path in sorted([root, *root.rglob("*")] if recipe.kind == "images" else root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        if recipe.kind == "images":
            fits = path.is_dir() and len(video.image_folder(path)) > 1
        else:
            fits = path.suffix.lower() in video.VIDEOS
        if fits and _any(name, recipe.include) and not _any(name, recipe.exclude):
            wanted.append(path)
    return wanted


def measure(root: Path, file: Path, recipe: Recipe) -> Entry:
    """The row of one clip, from its bytes and its frames; night by its luma.

    Raises:
        Mistake: not a usable video, a name that is not UTF-8, or a link that leads out of ``root``.
    """
    name = file.relative_to(root).as_posix()
    if file.exists() and not file.resolve().is_relative_to(root):
        raise Mistake("leads out of the folder", where=file)
    info = video.probe(file, rate=recipe.rate)
    return Entry(
        clip_id=identity(file),
        path=name,
        root=str(root),
        bytes=size_of(file),
        drive=drive_of(name, recipe),
        frames=info.frames,
        width=info.width,
        height=info.height,
        rotation=info.rotation,
        fps_num=info.fps.numerator,
        fps_den=info.fps.denominator,
        fps_stated=recipe.fps is not None,
        seconds=float(info.seconds),
        night=luma(file, info, recipe.rate) < NIGHT_LUMA,
        source=recipe.source or recipe.name,
        licence=recipe.licence,
    )


def luma(file: Path, info: video.VideoInfo, rate: Fraction | None) -> float:
    """Mean luma, 0 to 255, of ``LOOKS`` moments spread over the clip, each read small."""
    looks = min(LOOKS, info.frames)
    if info.seconds <= ONE_PASS:
        frames = [video.read(file, fps=looks / info.seconds, frames=looks, size=LOOK_SIZE, rate=rate).frames]
    else:
        moments = [info.seconds * n / looks for n in range(looks)]
        frames = [video.read(file, start=at, frames=1, size=LOOK_SIZE, rate=rate).frames for at in moments]
    return float((np.concatenate(frames) @ np.array([0.2126, 0.7152, 0.0722])).mean())


def drive_of(name: str, recipe: Recipe) -> str:
    """The drive of the clip at ``name`` below the root, by the recipe's expression, else by the folder."""
    if recipe.drive:
        found = re.search(recipe.drive, name)
        if not found:
            return f"{recipe.name}/{name}"
        return f"{recipe.name}/{found.group(1) if found.re.groups and found.group(1) else found.group(0)}"
    parent = Path(name).parent.as_posix()
    return f"{recipe.name}/{name if parent == '.' or recipe.kind == 'images' else parent}"


def rendered(entry: Entry, night: bool | None, cars: int | None) -> Entry:
    """The row of a clip whose labels are known, not measured."""
    return replace(entry, night=night, cars=cars, labels="world")


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _nothing(root: Path) -> str:
    return "holds no video" if any(root.iterdir()) else "is an empty folder"


def _instead(root: Path, recipe: Recipe) -> str:
    if recipe.kind == "videos" and any(len(video.image_folder(f)) > 1 for f in [root, *root.rglob("*")] if f.is_dir()):
        return "it holds numbered images: use a recipe with kind: images and fps, see datasets/folder"
    return f"{', '.join(video.VIDEOS[:5])} and others are looked for, also in its folders"
