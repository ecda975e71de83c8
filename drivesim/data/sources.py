"""From a folder and its recipe to an index: which files are clips, what is measured of each, which drive it belongs
to."""

import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np

from drivesim import config
from drivesim.data import captions, generated, labelling, video
from drivesim.data.annotations import Remarks
from drivesim.data.formats import Reel, known
from drivesim.data.index import Entry, Index, Rows, identity, size_of, whole_folder
from drivesim.errors import Mistake, beside

NIGHT_LUMA = 60.0
"""Below this mean luma (BT.709 weights, 0 to 255, 4 moments) a clip counts as night. The rendered world's nights lie at
37 to 49, its days at 114 to 144, real daylight clips at 74 to 131. Dawn, tunnels and bright city nights can err: the
source's own label goes before."""
LOOKS, LOOK_SIZE = 4, (36, 64)
ONE_PASS = 5  # seconds up to which decoding all is quicker than seeking
MANY, MOST_WORKERS = 256, 32  # files from which on several processes read them: starting those takes seconds
NO_PICTURE = "is a picture that the tables name and that is not there"


@dataclass(frozen=True)
class Recipe:
    """How a source becomes an index; ``datasets/`` holds some.

    Args:
        name: of the source; ``licence`` and ``source`` (where it is from) go into every row.
        kind: ``videos``, ``images`` (folders of numbered images), ``tables`` (pictures of all clips lie together, and
            the tables at ``labels`` tell which make a clip, when each was taken, and the drive; they become videos in
            the index, byte for byte), or ``world`` (rendered).
        root: the folder, where the command names the recipe instead of one; relative to the recipe.
        include: patterns on the path below the root, of ``tables`` on the clip's name; ``*`` also spans folders.
            ``exclude`` likewise.
        fps: the true frame rate, such as 10 or 30000/1001; images need it, for videos it overrides a wrong header.
        drive: regular expression searched in the path; what it finds (its first group, if any) names the drive. Without
            it the folder does, and each file that lies in the root itself is a drive.
        val: share of the drives that is held back.
        labels: a label file or folder, relative to the root, by whose names its clips get their boxes.
        format: that of the labels (``data/formats``); told by a look at them where it is not given.
        captions: a CSV with the columns ``path`` and ``caption``, relative to the root. Besides, a text ``NAME.txt``
            beside ``NAME.mp4`` is its caption.
        clips, seconds, size, seed: of a rendered world: number of clips, length, height and width, first seed.
    """

    name: str = "folder"
    licence: str = "unknown"
    source: str = ""
    kind: Literal["videos", "images", "tables", "world"] = "videos"
    root: str = ""
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    fps: str | int | float | None = None
    drive: str | None = None
    val: float = 0.1
    labels: str = ""
    format: str | None = None
    captions: str = ""
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
    with config.located(file):
        _check(recipe)
        for key in ("labels", "captions"):
            place = Path(getattr(recipe, key))
            if place.is_absolute() or ".." in place.parts:
                mend = f"{key} that lie elsewhere are named by --{key} {'PLACE' if key == 'labels' else 'FILE'}"
                raise Mistake("leads out of the folder of the clips", field=key, mend=mend)
    return recipe


def _check(recipe: Recipe) -> None:
    try:
        fits = recipe.rate is None or recipe.rate > 0
    except (ValueError, ZeroDivisionError):
        fits = False
    if not fits:
        raise Mistake(f"'{recipe.fps}' is not a rate", field="fps", mend="write 10, 7.5 or '30000/1001'")
    try:
        re.compile(recipe.drive or "")
    except re.error as problem:
        raise Mistake(f"not a regular expression: {problem}", field="drive") from None
    if recipe.kind == "images" and recipe.fps is None:
        raise Mistake("images carry no frame rate", field="kind", mend="add fps: 10")
    if recipe.kind == "tables" and not recipe.labels:
        raise Mistake("tables are needed, and none are named", field="kind", mend="see datasets/nuscenes/recipe.yaml")
    if recipe.kind == "tables" and recipe.fps is not None:
        raise Mistake("has no place: the tables know the pictures' own times", field="fps", mend="leave it out")
    if recipe.kind == "world" and (recipe.clips < 1 or recipe.seconds <= 0 or recipe.fps is None):
        mend = "see datasets/world/recipe.yaml"
        raise Mistake("a rendered world needs clips, seconds and fps", field="kind", mend=mend)


def build(
    source: str | Path,
    out: str | Path,
    recipe: Recipe | None = None,
    progress: Callable[[list[str]], Iterable[str]] = iter,
    remarks: Remarks | None = None,
) -> Index:
    """Indexes the videos (or folders of images) below ``source`` into the folder ``out``, with their labels and
    captions if the recipe names some; what is wrong with a box goes to ``remarks``. A generated video brings its own
    boxes.

    A file that cannot be used is a line in ``quarantine.jsonl``, and the work goes on.

    Raises:
        Mistake: no folder, an empty one, one without a readable video, labels or captions that cannot be read or
            belong to no clip; then ``out`` is not made.
    """
    source, out, recipe, remarks = Path(source), Path(out), recipe or Recipe(), remarks or Remarks()
    if not source.is_dir():
        if source.exists():
            raise Mistake("is not a folder", where=source, mend="name the folder of the clips")
        raise Mistake("no such folder", where=source, mend=beside(source) or "name the folder of the clips")
    root = source.resolve()
    if recipe.labels:
        known.of(root / recipe.labels, recipe.format)  # before hours of reading
    rows = Rows()
    with whole_folder(out) as part:
        found = takes(root, recipe, part.resolve(), remarks)
        if not found:
            raise Mistake(_nothing(root), where=source, mend=_instead(root, recipe))
        told = _captions(root, recipe, found)
        seen: dict[str, str] = {}
        together = len(found) >= MANY and recipe.kind != "tables"
        with closing(_all(list(found.values()), together)) as made:
            for name, entry in zip(progress(list(found)), made, strict=True):
                if isinstance(entry, Mistake):
                    rows.quarantine(name, entry.what)
                    continue
                if entry.clip_id in seen:
                    rows.quarantine(name, f"has the same bytes as {seen[entry.clip_id]}")
                    continue
                seen[entry.clip_id] = name
                entry = replace(entry, caption=told.get(name))
                if (own := generated.read(entry.file, entry.clip_id)) is not None:
                    rows.add(labelling.with_labels(entry, own, generated.SOURCE), own.boxes)
                else:
                    rows.add(entry)
        if not rows.entries:
            reason = f"{rows.quarantined[0]['path']} {rows.quarantined[0]['reason']}"
            raise Mistake(f"holds no readable video ({len(found)} tried: {reason})", where=source)
        if recipe.labels:
            place = root / recipe.labels
            labelling.join(rows, place, known.of(place, recipe.format), remarks)
        rows.write(part, recipe.val)
    return Index.open(out)


def takes(root: Path, recipe: Recipe, part: Path, remarks: Remarks) -> dict[str, Callable[[], Entry]]:
    """What makes the row of each clip, by the clip's name; ``part`` is the folder that becomes the index."""
    if recipe.kind != "tables":
        found = candidates(root, recipe)
        return {file.relative_to(root).as_posix(): partial(measure, root, file, recipe) for file in found}
    place = root / recipe.labels
    form = known.of(place, recipe.format)
    if form.reels is None:
        raise Mistake(f"{form.title} does not say which pictures make a video", where=place, mend="use kind: images")
    chosen = [r for r in form.reels(place) if _any(r.video, recipe.include) and not _any(r.video, recipe.exclude)]
    return {reel.video: partial(bound, reel, root, recipe, part, remarks) for reel in chosen}


def _all(takes: list[Callable[[], Entry]], together: bool) -> Generator[Entry | Mistake, None, None]:
    """What each gives, or why it gives nothing, in their order; ``together``: made by as many processes as there are
    cores, a few files ahead."""
    if not together:
        yield from map(_try, takes)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, MOST_WORKERS)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = deque[Future[Entry | Mistake]]()
        try:
            for take in takes:
                waiting.append(pool.submit(_try, take))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _try(take: Callable[[], Entry]) -> Entry | Mistake:
    try:
        return take()
    except Mistake as problem:
        return problem


def _captions(root: Path, recipe: Recipe, taken: Iterable[str]) -> dict[str, str]:
    """The captions of the clips ``taken``, by their names; the CSV may also name clips that the recipe leaves out."""
    told, every = dict[str, str](), list(taken)
    if recipe.captions:
        if recipe.kind != "tables":
            whole = replace(recipe, include=("*",), exclude=())
            every = [file.relative_to(root).as_posix() for file in candidates(root, whole)]
        told = captions.read(root / recipe.captions, every)
    if recipe.kind == "tables":
        return told
    labels = root / recipe.labels if recipe.labels else None
    own = {name: captions.beside(root / name, root, labels) for name in taken}
    both = {name: captions.joined(text, told, name, root / recipe.captions) for name, text in own.items()}
    return {name: text for name, text in both.items() if text is not None}


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
        fits = fits and not generated.is_segment(path)
        if fits and _any(name, recipe.include) and not _any(name, recipe.exclude):
            wanted.append(path)
    return wanted


def measure(root: Path, file: Path, recipe: Recipe) -> Entry:
    """The row of one clip, from its bytes and its frames; night by its luma.

    Raises:
        Mistake: not a usable video, a name that is not UTF-8, or a link that leads out of ``root``.
    """
    name = file.relative_to(root).as_posix()
    video.refuse_outside(file, root)
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
        source=info.synthetic or recipe.source or recipe.name,
        licence=recipe.licence,
    )


def bound(reel: Reel, root: Path, recipe: Recipe, part: Path, remarks: Remarks) -> Entry:
    """The row of a clip whose pictures lie below ``root`` among others: they become a video in ``part/videos``.

    Pictures that are not there are left out with a remark; the others keep their times.

    Raises:
        Mistake: the first is not there, so that its labels have no moment to count from; one is a link that leads out
            of ``root``; as ``video.bind`` and ``measure``.
    """
    there = [n for n, picture in enumerate(reel.pictures) if picture.is_file()]
    if 0 not in there:
        raise Mistake("its first picture is not there", where=reel.pictures[0])
    if not all(reel.pictures[n].resolve().is_relative_to(root) for n in there):
        raise Mistake("has pictures that lead out of the folder", where=root)
    if Path(reel.video).name != reel.video or reel.video.startswith("."):
        raise Mistake("has a name that a file cannot have", where=repr(reel.video))
    missing = sorted(set(range(len(reel.pictures))) - set(there))
    if missing:
        remarks.add(NO_PICTURE, f"{reel.video}: {reel.pictures[missing[0]].name}", len(missing))
    file = part / "videos" / f"{reel.video}.mp4"
    video.bind([reel.pictures[n] for n in there], [reel.times[n] for n in there], file)
    try:
        entry = measure(part, file, recipe)
    except Mistake:
        file.unlink()
        raise
    drive = drive_of(reel.video, recipe) if recipe.drive else f"{recipe.name}/{reel.drive}"
    return replace(entry, root=".", drive=drive)


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


def rendered(entry: Entry, night: bool, cars: int) -> Entry:
    """The row of a rendered clip: its labels are known, not measured, and say what it shows."""
    return replace(entry, night=night, cars=cars, caption=captions.of_world(night, cars), labels="world")


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _nothing(root: Path) -> str:
    return "holds no video" if any(root.iterdir()) else "is an empty folder"


def _instead(root: Path, recipe: Recipe) -> str:
    if recipe.kind == "tables":
        return "no clip of its tables is taken: see include and exclude of the recipe"
    if recipe.kind == "videos" and any(len(video.image_folder(f)) > 1 for f in [root, *root.rglob("*")] if f.is_dir()):
        return "it holds numbered images: use a recipe with kind: images and fps, see datasets/folder"
    return f"{', '.join(video.VIDEOS[:5])} and others are looked for, also in its folders"
