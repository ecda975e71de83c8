"""Whether the traffic of a video is where its boxes say: one side judged whole, by class, by size and by second.

Average precision looks at every detection with its score, class by class. All else is told at one score, the detector's
threshold, and of traffic of any class: a told box is found where something is found that overlaps it by half; a box
without such a detection is missing, a detection without such a box is hallucinated, and a pair whose classes differ is
confused, not missing. What is judged at all, ``matching`` says. Intervals come from a bootstrap over videos, or over
blocks of ``BLOCK`` seconds where there are fewer than ``FEW`` videos, which then say nothing of other videos.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from itertools import compress
from typing import Any

import numpy as np

from drivesim import randomness
from drivesim.metrics import tracking
from drivesim.metrics.detection import Found
from drivesim.metrics.matching import MOST, SIZES, Frame, Size, seen, told
from drivesim.metrics.precision import OVERLAPS, Marks, known, marks, mean, over_classes
from drivesim.scene import Boxes

Plain = dict[str, Any]
HALF = 0.5  # overlap from which a detection is of a box, at the threshold
FEW, BLOCK = 4, 1.0
DRAWS = 200
CURVES = ("ap50", "missing", "hallucinated", "iou")  # what has an interval in every stretch
RULES = (
    f"COCO's average precision, at most {MOST} detections a frame; judged from 8 pixels (root of area) on, where at "
    f"least half is visible; all else at the detector's threshold and an overlap of {HALF}"
)


@dataclass(frozen=True, eq=False)
class Watched:
    """What a detector saw of one video, beside what the video was told.

    Args:
        name: of the video.
        size: height and width of the frames, in pixels.
        times: ``T`` seconds of the frames that were looked at, rising.
        boxes: ``T``, of each of these moments.
        found: ``T``.
    """

    name: str
    size: Size
    times: tuple[Fraction, ...]
    boxes: tuple[Boxes, ...]
    found: tuple[Found, ...]

    def __post_init__(self) -> None:
        if not len(self.times) == len(self.boxes) == len(self.found):
            raise ValueError(f"{len(self.times)} times, {len(self.boxes)} boxes, {len(self.found)} detections")


@dataclass(frozen=True, eq=False)
class Rows:
    """Every judged box, a row each, at the threshold.

    Args:
        frame: number of its frame. ``cls``, ``extent``: the box's class and the root of its area in pixels.
        found: bool. ``overlap``, ``centre`` (pixels), ``share`` (of the box's diagonal), ``named`` (bool, of the right
            class) and ``switched`` (bool) are those of the detection, and mean nothing where none is.
    """

    frame: np.ndarray
    cls: np.ndarray
    extent: np.ndarray
    found: np.ndarray
    overlap: np.ndarray
    centre: np.ndarray
    share: np.ndarray
    named: np.ndarray
    switched: np.ndarray

    def where(self, which: np.ndarray) -> "Rows":
        return Rows(**{field.name: getattr(self, field.name)[which] for field in fields(self)})


@dataclass(frozen=True, eq=False)
class Extra:
    """Every detection that counts, a row each, at the threshold: its frame, class, root of area, and whether it is
    hallucinated."""

    frame: np.ndarray
    cls: np.ndarray
    extent: np.ndarray
    false: np.ndarray

    def where(self, which: np.ndarray) -> "Extra":
        return Extra(**{field.name: getattr(self, field.name)[which] for field in fields(self)})


@dataclass(frozen=True, eq=False)
class Judged:
    """All frames of a side, judged; numbers of any part of it follow from this.

    Args:
        names: of the videos.
        video, time: ``F``, each frame's video and second.
        frames: ``F``. ``apart``: by class, ``F`` each.
        marks: by class at an overlap of a half.
        anything: the same of all classes as one.
        rows, extra: at the threshold.
    """

    names: tuple[str, ...]
    video: np.ndarray
    time: np.ndarray
    frames: tuple[Frame, ...]
    apart: dict[str, tuple[Frame, ...]]
    marks: dict[str, Marks]
    anything: Marks
    rows: Rows
    extra: Extra

    @property
    def units(self) -> np.ndarray:
        """``F``: what a bootstrap draws, by number."""
        blocks = np.zeros_like(self.time) if len(self.names) >= FEW else self.time // BLOCK
        return np.unique(np.stack([self.video, blocks]), axis=1, return_inverse=True)[1].reshape(-1)

    @property
    def sums(self) -> np.ndarray:
        """``F`` rows of ``sums``."""
        return sums(self.rows, self.extra, len(self.frames))

    def numbers(self) -> dict[str, float | None]:
        """``rates``, with ``ap50`` and ``any50``, the mean of classes and that of all classes as one."""
        return {name: known(value[0]) for name, value in self.weighted(np.ones((1, len(self.frames)))).items()}

    def weighted(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """``numbers``, ``R`` each, NaN for None, for ``R F``: how many times each frame counts."""
        precise = {"ap50": over_classes(self.marks, weights), "any50": self.anything.precisions(weights)}
        return precise | rates(weights @ self.sums)

    def of(self, which: np.ndarray) -> "Judged":
        """Those of some frames (``F`` bool), numbered anew in their order."""
        number = np.cumsum(which) - 1
        rows, extra = self.rows.where(which[self.rows.frame]), self.extra.where(which[self.extra.frame])
        return replace(
            self,
            video=self.video[which],
            time=self.time[which],
            frames=tuple(compress(self.frames, which)),
            apart={cls: tuple(compress(each, which)) for cls, each in self.apart.items()},
            marks={cls: each.of(which) for cls, each in self.marks.items()},
            anything=self.anything.of(which),
            rows=replace(rows, frame=number[rows.frame]),
            extra=replace(extra, frame=number[extra.frame]),
        )


def judge(videos: Sequence[Watched], classes: frozenset[str], threshold: float) -> Judged:
    """All frames of one or more videos, seen by a detector that knows ``classes`` and counts from ``threshold`` on."""
    frames, video, time, parts = list[Frame](), list[int](), list[float](), list[tuple[Rows, Extra]]()
    for number, one in enumerate(videos):
        own = [
            Frame.of(told(boxes, one.size, classes), seen(found, one.size))
            for boxes, found in zip(one.boxes, one.found, strict=True)
        ]
        times = [float(t) for t in one.times]
        parts.append(_at_threshold(own, times, len(frames), threshold))
        frames += own
        video += [number] * len(own)
        time += times
    rows, extra = (_joined([part[n] for part in parts]) for n in range(2))
    apart = {cls: tuple(frame.only(cls) for frame in frames) for cls in sorted(classes)}
    return Judged(
        names=tuple(one.name for one in videos),
        video=np.array(video, np.int64),
        time=np.array(time, np.float64),
        frames=tuple(frames),
        apart=apart,
        marks={cls: marks(each)[0] for cls, each in apart.items()},
        anything=marks(frames)[0],
        rows=rows,
        extra=extra,
    )


def _at_threshold(frames: Sequence[Frame], times: Sequence[float], first: int, threshold: float) -> tuple[Rows, Extra]:
    """Of one video, whose frames are numbered from ``first`` on."""
    frames = [frame.sure(threshold) for frame in frames]
    tracks = tracking.tracks([frame.seen.box for frame in frames], times)
    rows, extra = list[tuple[Any, ...]](), list[tuple[Any, ...]]()
    pairs, places = list[tuple[int, int]](), list[int]()
    for number, (frame, track) in enumerate(zip(frames, tracks, strict=True), first):
        ((found, _),) = frame.outcomes((HALF,))
        of = {int(place): row for row, place in enumerate(found) if place >= 0}
        sizes, own = frame.told.extent, frame.seen.extent
        extra += [(number, frame.seen.cls[row], own[row], found[row] < 0) for row in np.flatnonzero(found >= -1)]
        for place in np.flatnonzero(frame.told.judged):
            cls = frame.told.cls[place]
            if place not in of:
                rows.append((number, cls, sizes[place], False, 0.0, 0.0, 0.0, False, False))
                continue
            row = of[int(place)]
            pairs.append((int(frame.told.track[place]), int(track[row])))
            places.append(len(rows))
            close = _closeness(frame.told.box[place], frame.seen.box[row])
            rows.append((number, cls, sizes[place], True, *close, frame.seen.cls[row] == cls, False))
    made = _columns(Rows, rows)
    made.switched[places] = tracking.switches([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return made, _columns(Extra, extra)


def _closeness(box: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Overlap, distance of the centres in pixels, and as a share of the first box's diagonal."""
    from_to = (other[:2] + other[2:] - box[:2] - box[2:]) / 2
    apart = float(np.hypot(*from_to))
    return float(overlap_of(box, other)), apart, apart / float(np.hypot(*(box[2:] - box[:2])))


def overlap_of(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    return float(tracking.overlap(box[None], other[None])[0, 0])


KINDS = {"frame": np.int64, "cls": np.str_, "found": bool, "named": bool, "switched": bool, "false": bool}


def _columns(kind: Callable[..., Any], rows: Sequence[tuple[Any, ...]]) -> Any:
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return kind(*(np.array(c, KINDS.get(n, np.float64)) for n, c in zip(names, columns, strict=True)))


def _joined(parts: Sequence[Any]) -> Any:
    kind = type(parts[0])
    return kind(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(kind)})


def sums(rows: Rows, extra: Extra, frames: int) -> np.ndarray:
    """Of every frame, ``F 10``: 1, boxes, found ones, and of these the overlaps, the centres' shares and pixels, how
    many are confused and how many switched; then detections and hallucinated ones."""
    hit = rows.found.astype(np.float64)
    of_found = (rows.overlap, rows.share, rows.centre, ~rows.named, rows.switched)
    of_boxes = [np.ones_like(hit), hit, *(hit * each for each in of_found)]
    of_extra = [np.ones(len(extra.frame)), extra.false.astype(np.float64)]
    columns = [np.bincount(rows.frame, each, frames) for each in of_boxes]
    columns += [np.bincount(extra.frame, each, frames) for each in of_extra]
    return np.stack([np.ones(frames), *columns], 1)


def rates(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers at the threshold from ``R 10`` sums; NaN where there is nothing to divide by.

    Returns:
        missing: share of judged boxes that are not found. hallucinated: share of detections that are of no box;
        hallucinated_per_frame: how many. iou, centre (share of the box's diagonal), centre_pixels: means over the boxes
        that are found, all of which overlap by half. confused: share of these that are found as another class.
        switches: how many a hundred of these, where a box's track is found as another track than before.
    """
    frames, boxes, found, overlap, share, pixels, confused, switched, detections, false = sums.T

    def over(value: np.ndarray, total: np.ndarray) -> np.ndarray:
        return np.divide(value, total, out=np.full(len(value), np.nan), where=total > 0)

    return {
        "missing": over(boxes - found, boxes),
        "hallucinated": over(false, detections),
        "hallucinated_per_frame": over(false, frames),
        "iou": over(overlap, found),
        "centre": over(share, found),
        "centre_pixels": over(pixels, found),
        "confused": over(confused, found),
        "switches": over(100 * switched, found),
    }


# --- whole, and by class, size and second -----------------------------------------------------------------------------


def whole(judged: Judged) -> Plain:
    """Of all frames: the counts, ``numbers``, and ``ap``, the mean over overlaps from 0.5 to 0.95."""
    strict = {cls: marks(frames, OVERLAPS[1:]) for cls, frames in judged.apart.items()}
    levels = [judged.marks, *({cls: each[n] for cls, each in strict.items()} for n in range(len(OVERLAPS) - 1))]
    once = np.ones((1, len(judged.frames)))
    precise = mean([over_classes(level, once) for level in levels], 1)
    counts = {"videos": len(judged.names), "frames": len(judged.frames)}
    counts |= {"boxes": len(judged.rows.frame), "detections": len(judged.extra.frame)}
    counts |= {"switched": int(judged.rows.switched.sum())}
    numbers = judged.numbers()
    return {**counts, "ap50": numbers["ap50"], "ap": known(precise[0]), **numbers}


def by_class(judged: Judged) -> dict[str, Plain]:
    """Boxes by what they were told to be, detections by what they were found as; classes that occur."""
    found = {}
    for cls in judged.apart:
        rows, extra = judged.rows.where(judged.rows.cls == cls), judged.extra.where(judged.extra.cls == cls)
        if len(rows.frame) or len(extra.frame):
            found[cls] = _part(judged, rows, extra, judged.marks[cls].precision())
    return found


def by_size(judged: Judged) -> dict[str, Plain]:
    """By the root of the area, in pixels: boxes by their own, detections by theirs; see ``matching.SIZES``."""
    found = {}
    for name, within in SIZES.items():
        inside = [(part.extent >= within[0]) & (part.extent < within[1]) for part in (judged.rows, judged.extra)]
        rows, extra = judged.rows.where(inside[0]), judged.extra.where(inside[1])
        sized = {cls: marks(frames, within=within)[0] for cls, frames in judged.apart.items()}
        precise = over_classes(sized, np.ones((1, len(judged.frames))))
        found[name] = _part(judged, rows, extra, known(precise[0]))
    return found


def _part(judged: Judged, rows: Rows, extra: Extra, precise: float | None) -> Plain:
    counts = {"boxes": len(rows.frame), "detections": len(extra.frame), "switched": int(rows.switched.sum())}
    own = rates(sums(rows, extra, len(judged.frames)).sum(0, keepdims=True))
    return counts | {"ap50": precise} | {name: known(value[0]) for name, value in own.items()}


def by_video(judged: Judged) -> list[Plain]:
    """Of every video by itself."""
    found = []
    for number, name in enumerate(judged.names):
        own = judged.of(judged.video == number)
        found.append({"video": name, "boxes": len(own.rows.frame), "switched": int(own.rows.switched.sum())})
        found[-1] |= own.numbers()
    return found


def by_second(judged: Judged, width: Fraction) -> list[Plain]:
    """Of every stretch of ``width`` seconds: ``{t0, t1, videos, frames, boxes, switched}``, ``numbers``, and under
    ``interval`` of each of ``CURVES`` the bounds of 95 %, or null where fewer than two units are in it."""
    moments, found = np.unique(judged.time), list[Plain]()
    step = float(np.median(np.diff(moments))) if len(moments) > 1 else 0.0
    end = float(moments[-1]) + step if len(moments) else 0.0  # the last stretch ends with the longest video
    stretch = (judged.time // float(width)).astype(int)
    for n in np.unique(stretch):
        own = judged.of(stretch == n)
        bounds = {"t0": float(n * width), "t1": min(float((n + 1) * width), end)}
        counts = {"videos": len(np.unique(own.video)), "frames": len(own.frames), "boxes": len(own.rows.frame)}
        counts |= {"switched": int(own.rows.switched.sum())}
        found.append({**bounds, **counts, **own.numbers(), "interval": intervals(own, ("second", int(n)))})
    return found


def draws(judged: Judged, key: tuple[int | str, ...]) -> dict[str, np.ndarray]:
    """``numbers`` of ``DRAWS`` bootstrap samples of the units, NaN for None; nothing where there are fewer than two."""
    unit = judged.units
    count = int(unit.max(initial=-1)) + 1
    if count < 2:
        return {}
    times = randomness.generator("evaluate", "obedience", *key).multinomial(count, np.full(count, 1 / count), DRAWS)
    return judged.weighted(times[:, unit].astype(np.float64))


def intervals(judged: Judged, key: tuple[int | str, ...]) -> dict[str, list[float] | None]:
    """The bounds of 95 % of each of ``CURVES``."""
    drawn = draws(judged, key)
    return {name: _bounds(drawn[name]) if drawn else None for name in CURVES}


def _bounds(values: np.ndarray) -> list[float] | None:
    values = values[~np.isnan(values)]
    return np.quantile(values, (0.025, 0.975)).tolist() if len(values) > DRAWS // 2 else None


def spread(judged: Judged) -> float | None:
    """The standard error of ``ap50``, by the bootstrap."""
    values = draws(judged, ("whole",)).get("ap50", np.empty(0))
    values = values[~np.isnan(values)]
    return float(values.std(ddof=1)) if len(values) > DRAWS // 2 else None


# --- what worthless video scores --------------------------------------------------------------------------------------


def shuffled(videos: Sequence[Watched]) -> list[Watched]:
    """The same detections beside other boxes: those of the next video that was told others, at the same place in it;
    where all were told the same, the video's own of half its length later. What still agrees does so by chance."""
    made = []
    for number, one in enumerate(videos):
        others = [*videos[number + 1 :], *videos[:number]]
        other = next((each for each in others if not _alike(each, one)), one)
        shift = len(one.times) // 2 if other is one else 0
        boxes = tuple(other.boxes[(n + shift) % len(other.boxes)] for n in range(len(one.times)))
        made.append(replace(one, boxes=boxes))
    return made


def _alike(one: Watched, other: Watched) -> bool:
    pairs = list(zip(one.boxes, other.boxes, strict=False))
    return all(a.cls == b.cls and a.box.shape == b.box.shape and np.allclose(a.box, b.box) for a, b in pairs)
