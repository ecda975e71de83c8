"""Clips of two sides, paired to be looked at side by side: which videos go together, and where each clip is cut.

Videos of one name (``A/seed-1/video.mp4`` and ``B/seed-1/video.mp4``) go together, and their clips are cut at the same
second; other videos are paired at random. No stretch of a video is shown twice, and no video gives a second clip before
all that were taken have given one. Everything follows from the seed.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from drivesim import randomness
from drivesim.data import video
from drivesim.data.gather import Source
from drivesim.errors import Mistake

Size = tuple[int, int]
Row = tuple[Source, ...]  # videos that are cut at the same seconds: one of each side, or a video by itself
Measured = tuple[Row, tuple[video.VideoInfo, ...]]


@dataclass(frozen=True)
class Cut:
    """A clip of ``source`` from second ``start`` on."""

    source: Source
    start: Fraction


@dataclass(frozen=True)
class Pair:
    """A clip of each side. Pairs that share a video, directly or through others, are of one ``group``."""

    a: Cut
    b: Cut
    group: int


@dataclass(frozen=True)
class Plan:
    """Pairs in the order in which they are taken; those beyond the number asked for are spare.

    Args:
        by_name: whether videos of one name were paired.
        frames: of each clip, at ``fps`` and ``size``: no video's frame is enlarged unless asked for.
        slow: number of videos with fewer frames a second than ``fps``.
        left_out: why a video gave nothing, each with its file.
    """

    pairs: list[Pair]
    by_name: bool
    frames: int
    fps: Fraction
    size: Size
    slow: int
    left_out: list[Mistake]


def pair_clips(
    a: tuple[Path, list[Source]],
    b: tuple[Path, list[Source]],
    count: int,
    seconds: Fraction,
    *,
    size: Size | None = None,
    fps: Fraction | None = None,
    seed: int = 0,
    opening: bool = False,
    progress: Callable[[list[Row]], Iterable[Row]] = iter,
) -> Plan:
    """At least ``count`` pairs of clips of ``seconds``, where there are so many.

    Args:
        a, b: each side's place and its videos.
        size, fps: of all clips; None = the smallest height, width and rate of the videos that are used.
        opening: pair by name alone, and cut at second 0, where both sides still stand at the same opening.

    Raises:
        Mistake: no video of a side is long enough, or ``opening`` and no names in common.
    """
    partners = _partners(a, b, opening)
    columns: list[list[Row]] = [partners] if partners else [[(source,) for source in side] for _, side in (a, b)]
    words = ["both"] if partners else ["a", "b"]
    measured, left_out = [], list[Mistake]()
    for word, column in zip(words, columns, strict=True):
        found, refused = _measured(_shuffled(column, seed, word), seconds, count, progress)
        if not found:
            raise _none_long_enough((a[0], b[0]), seconds, refused)
        measured.append(found)
        left_out += refused
    infos = [info for found in measured for _, row in found for info in row]
    fps = fps or min(info.fps for info in infos)
    frames = max(2, int(seconds * fps))
    cuts = [_dealt(found, fps, frames, (seed, word), opening) for word, found in zip(words, measured, strict=True)]
    if partners:
        both = [(row[0], row[1]) for row in cuts[0]]
    else:
        both = [(left, right) for (left,), (right,) in zip(cuts[0], cuts[1], strict=False)]
    return Plan(
        pairs=_grouped(both),
        by_name=bool(partners),
        frames=frames,
        fps=fps,
        size=size or _common(infos),
        slow=sum(info.fps < fps * video.FULL_RATE for info in infos),
        left_out=left_out,
    )


def names(place: Path, sources: list[Source]) -> dict[str, Source]:
    """Each video by its path below ``place`` (of an index or a pattern: below what all have in common), no ending."""
    inside = place.is_dir() and all(source.file.is_relative_to(place) for source in sources)
    root = place if inside else Path(os.path.commonpath([source.file.absolute().parent for source in sources]))
    return {(s.file if inside else s.file.absolute()).relative_to(root).with_suffix("").as_posix(): s for s in sources}


def _partners(a: tuple[Path, list[Source]], b: tuple[Path, list[Source]], opening: bool) -> list[Row]:
    """Videos of one name, where these are more than half of the shorter side; else none."""
    left, right = names(*a), names(*b)
    shared = sorted(left.keys() & right.keys())
    if opening and not shared:
        mend = "each needs a video of the same name for each opening"
        raise Mistake("no video of A has the name of one of B", where="--conditioned", mend=mend)
    enough = opening or 2 * len(shared) > min(len(left), len(right))
    return [(left[name], right[name]) for name in shared] if enough else []


def _shuffled(rows: list[Row], seed: int, word: str) -> list[Row]:
    return [rows[n] for n in randomness.generator("compare", "videos", seed, word).permutation(len(rows))]


def _measured(
    rows: list[Row], seconds: Fraction, enough: int, progress: Callable[[list[Row]], Iterable[Row]]
) -> tuple[list[Measured], list[Mistake]]:
    """The first ``enough`` rows whose videos can be read and are long enough, and what is wrong with those before
    them."""
    found: list[Measured] = []
    refused = []
    for row in progress(rows):
        if len(found) == enough:
            break
        try:
            found.append((row, tuple(_long_enough(source, seconds) for source in row)))
        except Mistake as problem:
            refused.append(problem)
    return found, refused


def _long_enough(source: Source, seconds: Fraction) -> video.VideoInfo:
    source.check()
    info = video.probe(source.file, rate=source.rate)
    if info.seconds + video.GRACE < seconds:
        raise Mistake(f"is {float(info.seconds):.2f} s long, shorter than a clip", where=source.file)
    return info


def _none_long_enough(places: tuple[Path, Path], seconds: Fraction, refused: list[Mistake]) -> Mistake:
    file = Path(str(refused[0].where))
    place = next((place for place in places if file.is_relative_to(place)), places[0])
    more = f"; {len(refused) - 1} others likewise" if len(refused) > 1 else ""
    what = f"gives no clip of {float(seconds):g} s ({file.name} {refused[0].what}{more})"
    return Mistake(what, where=place, mend="longer video is needed, or a lower --seconds")


def _common(infos: list[video.VideoInfo]) -> Size:
    height, width = min(info.height for info in infos), min(info.width for info in infos)
    return height - height % 2, width - width % 2  # H.264 in 4:2:0


def _dealt(
    found: list[Measured],
    fps: Fraction,
    frames: int,
    key: tuple[int, str],
    opening: bool,
) -> Iterator[tuple[Cut, ...]]:
    """A clip of each row, then a second of each that has one, and so on; clips of a row do not overlap."""
    places = []
    for number, (_, infos) in enumerate(found):
        room = min(video.frames_in(info.seconds, fps) for info in infos)
        clips = max(1, room // frames)
        draw = randomness.generator("compare", "places", *key, number)
        first = int(draw.integers(max(0, room - clips * frames) + 1))
        places.append([Fraction(0)] if opening else [(first + frames * int(n)) / fps for n in draw.permutation(clips)])
    for turn in range(max(map(len, places))):
        for (row, _), starts in zip(found, places, strict=True):
            if turn < len(starts):
                yield tuple(Cut(source, starts[turn]) for source in row)


def _grouped(cuts: list[tuple[Cut, Cut]]) -> list[Pair]:
    """Numbers the connected parts of the graph whose nodes are videos and whose edges are pairs."""
    parent: dict[tuple[str, Path], tuple[str, Path]] = {}

    def root(node: tuple[str, Path]) -> tuple[str, Path]:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for a, b in cuts:
        parent[root(("a", a.source.file))] = root(("b", b.source.file))
    numbers: dict[tuple[str, Path], int] = {}
    return [Pair(a, b, numbers.setdefault(root(("a", a.source.file)), len(numbers))) for a, b in cuts]
