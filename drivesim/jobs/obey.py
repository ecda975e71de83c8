"""``evaluate --boxes``: whether the traffic of generated video is where its boxes say, as a detector sees it.

    generated video + its boxes ───────────┐
    true frames + their boxes ── cut alike ┴─> detector ─> verdict: ap50 and all beside it

With ``detector-v1`` the boxes are those that the video was told, from the tables beside it or from an index. With an
ONNX detector they are what it sees itself in the real video of the same name, or in the one that the run's opening is
from, at the same seconds: so it is not blamed for what it never finds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from drivesim import randomness
from drivesim.data import generated, index, video
from drivesim.data.frames import shown
from drivesim.data.gather import Source
from drivesim.data.pairs import names as by_name
from drivesim.errors import Mistake
from drivesim.metrics import onnx, tracking, verdict
from drivesim.metrics.detection import Detector, Found
from drivesim.metrics.drift import width_for
from drivesim.metrics.matching import Size
from drivesim.metrics.obedience import Watched
from drivesim.metrics.receipt import Score
from drivesim.metrics.survey import Tally, identity
from drivesim.rollout import scenario
from drivesim.scene import Boxes

RATE = Fraction(15, 2)  # frames a second that are looked at, at most: traffic moves less than its size between two
CHUNK = 32
LEAST_TRUE = 500  # true frames that say how far the detector errs, where there are so many
NO_BOXES, EDITED, NO_REAL = (
    "has no boxes beside it",
    "was told other boxes than those of its clip, which no real video shows",
    "has no real video of its name, and none that its opening is from",
)


def is_file(name: str | None) -> bool:
    """Whether ``--detector`` names an ONNX file, which no YAML or name of ours ends like."""
    return name is not None and name.lower().endswith(".onnx")


def detector(name: str | None, device: torch.device) -> Detector:
    """The detector that ``--detector`` names, None = ``detector-v1``.

    Raises:
        Mistake: there is none of that name, or its file cannot be used.
    """
    from drivesim.metrics import detector as small

    if name is not None and is_file(name):
        return onnx.Onnx(Path(name))
    if name not in (None, small.NAME):
        mend = f"'{small.NAME}', or an ONNX file with its YAML beside it"
        raise Mistake(f"no detector '{name}'", where="--detector", mend=mend)
    return small.load(device)


@dataclass(frozen=True, eq=False)
class Film:
    """A video and the moments of it that are looked at.

    Args:
        size: height and width that its frames are brought to.
        times: seconds, rising.
        boxes: of each of ``times``; of a film of which they are unknown, none.
    """

    source: Source
    clip_id: str
    size: Size
    times: tuple[Fraction, ...]
    boxes: tuple[Boxes, ...] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """What is looked at.

    Args:
        made: generated videos.
        true: with boxes that were told, true frames whose boxes are known; else each generated video's real one.
        truth: ``verdict.TOLD`` or ``OWN``.
    """

    made: list[Film]
    true: list[Film]
    truth: str
    left_out: Tally = field(default_factory=Tally)

    @property
    def frames(self) -> int:
        return sum(len(film.times) for film in (*self.made, *self.true))


def planned(
    names: tuple[str | Path, str | Path],
    places: tuple[Sequence[Source], Sequence[Source]],
    own: bool,
    rate: Fraction | None = None,
) -> Plan:
    """Which frames of which videos are looked at.

    Args:
        names, places: real and generated: what the user named, and its videos.
        own: the truth is what the detector sees in real video.
        rate: frames a second, at most; None is ``RATE``.

    Raises:
        Mistake: no generated video has boxes, or, with ``own``, a real one beside it.
    """
    plan = Plan([], [], verdict.OWN if own else verdict.TOLD)
    look = _beside_real(names, places) if own else _told(names[1])
    for source in places[1]:
        try:
            film, real = look(source, rate or RATE)
        except Mistake as problem:
            plan.left_out.add(problem.what, source.file)
            continue
        plan.made.append(film)
        plan.true.extend([real] if real else [])
    if not plan.made:
        why = next(iter(plan.left_out.files))
        mend = "generate from a scenario with boxes, or name an index that has them" if why == NO_BOXES else None
        raise Mistake(f"no generated video can be held against boxes: the first {why}", where="--boxes", mend=mend)
    if not own:
        plan.true.extend(_true(names[0], places[0], plan, rate or RATE))
    return plan


Look = Callable[[Source, Fraction], tuple[Film, Film | None]]


def _told(name: str | Path) -> Look:
    """Boxes from the index ``name``, where it is one, else from the tables beside each video."""
    opened = _index(name)

    def look(source: Source, rate: Fraction) -> tuple[Film, None]:
        if opened is not None:
            boxes = opened.boxes(source.clip_id)
            times: Sequence[Fraction] = sorted(set(boxes.time)) if boxes is not None else ()
        else:
            labelled = generated.read(source.file)
            boxes, times = (labelled.boxes, labelled.times) if labelled else (None, ())
            times = times[_real_frames(source, times) :]
        if boxes is None or not times:
            raise Mistake(NO_BOXES, where=source.file)
        info = video.probe(source.file, rate=source.rate)
        times = _thinned(times, rate)
        return Film(source, identity(source), (info.height, info.width), times, _at(boxes, times)), None

    return look


def _index(name: str | Path) -> index.Index | None:
    return index.Index.open(name) if (Path(name) / index.FILES).is_file() else None


def _real_frames(source: Source, times: Sequence[Fraction]) -> int:
    """How many of ``times`` are of the real frames in front of a rollout: the clip's own boxes, obeyed by nature."""
    made = generated.first_made(source.file)
    return 0 if made is None else sum(time < made for time in times)


def _thinned(times: Sequence[Fraction], rate: Fraction) -> tuple[Fraction, ...]:
    """As many of ``times`` as lie no closer than at ``rate``."""
    kept: list[Fraction] = []
    for time in times:
        if not kept or time - kept[-1] >= 1 / rate - video.GRACE:
            kept.append(time)
    return tuple(kept)


def _at(boxes: Boxes, times: Sequence[Fraction]) -> tuple[Boxes, ...]:
    places: dict[Fraction, list[int]] = {time: [] for time in times}
    for row, time in enumerate(boxes.time):
        if time in places:
            places[time].append(row)
    return tuple(boxes.rows(rows) for rows in places.values())


# --- true frames ------------------------------------------------------------------------------------------------------


def _true(name: str | Path, sources: Sequence[Source], plan: Plan, rate: Fraction) -> Iterator[Film]:
    """Videos of the index ``name``, in random order, until there are as many frames as generated ones; none where it is
    no index or has no boxes. They are looked at in the usual size of the generated ones."""
    opened = _index(name)
    if opened is None:
        return
    sizes = [film.size for film in plan.made]
    size, left = max(sorted(set(sizes)), key=sizes.count), max(LEAST_TRUE, plan.frames)
    for number in randomness.generator("evaluate", "obedience", "true").permutation(len(sources)):
        source, boxes = sources[number], opened.boxes(sources[number].clip_id)
        if boxes is None or not len(boxes) or left <= 0:
            continue
        info = video.probe(source.file, rate=source.rate)
        times = _thinned(sorted(set(boxes.time)), rate)[:left]
        left -= len(times)
        cut = _cut(boxes, (info.height, info.width), size)
        yield Film(source, identity(source), size, times, _at(cut, times))


def _cut(boxes: Boxes, shape: Size, size: Size) -> Boxes:
    """Boxes of pictures of ``shape`` as they lie in what ``video.fit`` makes of these."""
    box = np.clip(video.fit_boxes(boxes.box, shape, size), 0, 1)
    inside = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
    return replace(boxes, box=box).rows(np.flatnonzero(inside).tolist())


def _beside_real(names: tuple[str | Path, str | Path], places: tuple[Sequence[Source], Sequence[Source]]) -> Look:
    """Each video's real one: the one that its run's opening is from, or else the one of its name."""
    left, right = (by_name(Path(name), list(sources)) for name, sources in zip(names, places, strict=True))
    called = {source.file: name for name, source in right.items()}
    files = {source.file.resolve(): source for source in places[0]}

    def look(source: Source, rate: Fraction) -> tuple[Film, Film]:
        told = source.file.with_name("scenario.yaml")
        run = scenario.load(told) if source.file.name == generated.VIDEO and told.is_file() else None
        real, start, made = left.get(called[source.file]), Fraction(0), Fraction(0)
        if run is not None and run.opening.clip is not None:
            if run.tracks or run.edits:
                raise Mistake(EDITED, where=source.file)
            made, real = generated.first_made(source.file) or Fraction(0), files.get(Path(run.opening.clip).resolve())
            start = run.opening.start - (made - Fraction(1) / _fps(source) if made else 0)
        if real is None:
            raise Mistake(NO_REAL, where=source.file)
        info, truth = video.probe(source.file, rate=source.rate), video.probe(real.file, rate=real.rate)
        every = range(video.frames_in(min(info.seconds, truth.seconds - start), info.fps))
        times = _thinned([time for n in every if (time := n / info.fps) >= made], rate)
        if not times:
            raise Mistake("has no frame whose second its real video has", where=source.file)
        size = info.height, info.width
        return (
            Film(source, identity(source), size, times),
            Film(real, identity(real), size, tuple(time + start for time in times)),
        )

    return look


def _fps(source: Source) -> Fraction:
    return video.probe(source.file, rate=source.rate).fps


# --- looking ----------------------------------------------------------------------------------------------------------


def measured(plan: Plan, detector: Detector, window: Fraction | None, done: Callable[[int], None]) -> list[Score]:
    """The score, or none where no box is judged in any frame; a video that cannot be read is left out.

    Args:
        window: seconds of a stretch of the curve; None = a twelfth of the longest video.
        done: told how many frames were looked at.

    Raises:
        Mistake: no video can be read.
    """
    own = plan.truth == verdict.OWN
    made, true = verdict.Side([], []), verdict.Side([], [])
    for number, film in enumerate(plan.made):
        try:
            real = _watched(plan.true[number], detector, done) if own else None
            seen = _watched(film if real is None else _with_truth(film, real, detector), detector, done)
        except Mistake as problem:
            plan.left_out.add(problem.what, film.source.file)
            continue
        made.videos.append(seen)
        made.clips.append(film.clip_id)
        if real is not None:
            true.videos.append(real)
            true.clips.append(plan.true[number].clip_id)
    if not made.videos:
        raise Mistake(f"no video can be read: {next(iter(plan.left_out.files))}", where="--boxes")
    for film in () if own else plan.true:
        try:
            true.videos.append(_watched(film, detector, done))
            true.clips.append(film.clip_id)
        except Mistake as problem:
            plan.left_out.add(f"true frames: {problem.what}", film.source.file)
    longest = max(film.times[-1] for film in plan.made)
    width = window or width_for([longest], Fraction(1))
    found = verdict.score(
        made,
        None if own or not true.videos else true,
        detector,
        plan.truth,
        (true.hash, true.frames),
        width,
        plan.left_out.counted("boxes"),
    )
    return [] if found is None else [found]


def _watched(film: Film, detector: Detector, done: Callable[[int], None]) -> Watched:
    """What ``detector`` sees in ``film``, up to the end of its video.

    Raises:
        Mistake: the video cannot be read, or ends before the first moment.
    """
    found: list[Found] = []
    waiting: list[np.ndarray] = []
    for frame in chain(_frames(film), [None]):
        waiting += [] if frame is None else [frame]
        if waiting and (frame is None or len(waiting) == CHUNK):
            found += detector(np.stack(waiting))
            done(len(waiting))
            waiting = []
    if not found:
        raise Mistake("ends before the first moment that is looked at", where=film.source.file)
    count = len(found)
    boxes = film.boxes or (_boxes(film.times[0], Found(np.empty((0, 4)), (), np.empty(0)), np.empty(0, int)),) * count
    return Watched(str(film.source.file), film.size, film.times[:count], boxes[:count], tuple(found))


def _frames(film: Film) -> Iterator[np.ndarray]:
    """The frame that is shown at each moment of ``film``; only these are converted."""
    due = iter(film.times)
    moment, held = next(due, None), None
    with shown(film.source.file, film.times[0], film.source.rate) as (frames, _):
        for frame in chain(frames, [None]):
            end = frame.time if frame is not None else held.time + held.length if held is not None else Fraction(0)
            while held is not None and moment is not None and moment + video.GRACE < end:
                yield np.ascontiguousarray(video.fit(held.picture(), film.size))
                moment = next(due, None)
            if moment is None:
                return
            held = frame


def _with_truth(film: Film, real: Watched, detector: Detector) -> Film:
    """``film`` held against what the detector is sure of in its real video, whose moments are the film's, later."""
    sure = [_sure(found, detector.threshold) for found in real.found]
    pixels = np.array([real.size[1], real.size[0]] * 2)
    tracks = tracking.tracks([found.box * pixels for found in sure], [float(time) for time in real.times])
    moments = film.times[: len(sure)]
    boxes = tuple(_boxes(t, found, track) for t, found, track in zip(moments, sure, tracks, strict=True))
    return replace(film, times=moments, boxes=boxes)


def _sure(found: Found, threshold: float) -> Found:
    count = int((found.score >= threshold).sum())  # most certain first
    return Found(found.box[:count], found.cls[:count], found.score[:count])


def _boxes(time: Fraction, found: Found, track: np.ndarray) -> Boxes:
    return Boxes((time,) * len(found), track.astype(np.int64), found.cls, found.box, np.full(len(found), np.nan))
