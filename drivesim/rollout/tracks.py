"""Boxes over time as a person writes them: a few key poses a track, edits of what a clip already holds.

::

    label file ──from_labelled──> tracks ──edited──> tracks ──at(times)──> Boxes
    scenario   ──────────────────^
"""

import math
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Annotated, Any, Literal, cast

import numpy as np
from annotated_types import Interval, MinLen

from drivesim.data.annotations import Labelled
from drivesim.errors import Mistake, nearest
from drivesim.scene import VIDEO_FPS, Boxes, Class
from drivesim.schema import spelled

Side = Annotated[float, Interval(ge=-8, le=8)]  # of a box in frames: what is larger was meant as pixels
Seconds = Annotated[float, Interval(ge=-1e6, le=1e6)]
Box = tuple[Side, Side, Side, Side]
Op = Literal["insert", "delete", "shift", "retime", "class"]
WANTS = {"insert": ("cls", "keys"), "delete": (), "shift": ("by",), "retime": ("by", "speed"), "class": ("to",)}
BY = {"shift": ("right", "down"), "retime": ("seconds",)}  # what the numbers of ``by`` are


@dataclass(frozen=True)
class Key:
    """Where a track is at a moment; between two keys it moves evenly.

    Args:
        t: seconds from the start of the scenario.
        box: ``x0 y0 x1 y1`` as fractions of the frame; it may reach over the edge.
        visibility: share that can be seen; ``None`` is unknown.
        gone: from here to the next key the track is not there.
    """

    t: Seconds
    box: Box
    visibility: Annotated[float, Interval(ge=0, le=1)] | None = None
    gone: bool = False


@dataclass(frozen=True)
class Track:
    """A thing on its way: there from its first key to its last, both included.

    Args:
        id: its name, which no other track has.
        cls: what it is.
        keys: where it is, in order of time.
    """

    id: str | int
    cls: Class
    keys: Annotated[tuple[Key, ...], MinLen(1)]

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", str(self.id))  # a file may leave the quotation marks out

    def at(self, t: float) -> Key | None:
        """Its pose at ``t``; None where it is not there."""
        if not self.keys or not self.keys[0].t <= t <= self.keys[-1].t:
            return None
        place = bisect_right(self.keys, t, key=lambda key: key.t)
        key = self.keys[place - 1]
        return key if t == key.t else None if key.gone else _between(key, self.keys[place], t)


def _between(key: Key, after: Key, t: float) -> Key:
    share = (t - key.t) / (after.t - key.t)
    box = tuple(a + share * (b - a) for a, b in zip(key.box, after.box, strict=True))
    seen = key.visibility, after.visibility
    visibility = None if seen[0] is None or seen[1] is None else seen[0] + share * (seen[1] - seen[0])
    return Key(t, (box[0], box[1], box[2], box[3]), visibility)


@dataclass(frozen=True)
class Edit:
    """A change to the tracks.

    Args:
        op: ``insert`` a track (``class``, ``keys``), ``delete`` it, ``shift`` its boxes (``by``), ``retime`` it
            (``by``, ``speed``), or change its ``class`` (``to``).
        track: its id.
        cls: of the track that is inserted.
        keys: of the track that is inserted.
        by: of shift, right and down, as fractions of the frame; of retime, so many seconds later.
        speed: of retime, so many times as fast, from the track's first key on.
        to: of class, the new one.
    """

    op: Op
    track: str | int
    cls: Class | None = None
    keys: Annotated[tuple[Key, ...], MinLen(1)] | None = None
    by: tuple[Seconds, ...] | None = None
    speed: Annotated[float, Interval(ge=1e-3, le=1e3)] | None = None
    to: Class | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "track", str(self.track))

    @property
    def given(self) -> tuple[str, ...]:
        return tuple(name for name in ("cls", "keys", "by", "speed", "to") if getattr(self, name) is not None)


@dataclass(frozen=True)
class Tracks:
    """All tracks of a scenario, by id."""

    tracks: tuple[Track, ...] = field(default=())

    @property
    def ids(self) -> dict[int, str]:
        """The ids that are not the tracks' numbers in ``Boxes``, which are their places here."""
        return {n: str(track.id) for n, track in enumerate(self.tracks) if track.id != str(n)}

    def at(self, times: Sequence[Fraction]) -> Boxes:
        """Boxes at ``times``, cut to the frame; what is wholly outside of it is not there."""
        rows = []
        for time in times:
            for number, track in enumerate(self.tracks):
                pose = track.at(float(time))
                if pose is not None and (box := _seen(pose.box)) is not None:
                    rows.append((time, number, track.cls, box, np.nan if pose.visibility is None else pose.visibility))
        return Boxes(
            time=tuple(row[0] for row in rows),
            track=np.array([row[1] for row in rows], np.int64),
            cls=tuple(row[2] for row in rows),
            box=np.array([row[3] for row in rows], np.float64).reshape(-1, 4),
            visibility=np.array([row[4] for row in rows], np.float64),
        )

    def identified(self, times: Sequence[Fraction]) -> Boxes:
        """``at`` under numbers that stay whatever other tracks come and go: what networks are told."""
        boxes, numbers = self.at(times), np.array([_number(str(track.id)) for track in self.tracks], np.int64)
        return replace(boxes, track=numbers[boxes.track]) if len(boxes) else boxes

    def unseen(self, seconds: float) -> list[str]:
        """The ids of those that no frame shows, at 30 a second, of a video of so many seconds."""
        times = [float(n / VIDEO_FPS) for n in range(max(1, math.ceil(seconds * VIDEO_FPS)))]
        shown = (any(pose and _seen(pose.box) for pose in map(track.at, times)) for track in self.tracks)
        return [str(track.id) for track, seen in zip(self.tracks, shown, strict=True) if not seen]

    def edited(self, edits: Iterable[Edit]) -> "Tracks":
        """The tracks after ``edits``, one after the other.

        Raises:
            Mistake: an edit of a track that is not there, or an insertion of one that is.
        """
        tracks = {track.id: track for track in self.tracks}
        for number, edit in enumerate(edits):
            if (edit.track in tracks) == (edit.op == "insert"):
                there, end = ("a", "already") if edit.op == "insert" else ("no", f"to {edit.op}")
                what = f"there is {there} track '{edit.track}' {end}"
                mend = "name it otherwise" if edit.op == "insert" else nearest(str(edit.track), map(str, tracks))
                raise Mistake(what, field=f"edits[{number}].track", mend=mend)
            if edit.op == "delete":
                del tracks[edit.track]
            elif edit.op == "insert":
                tracks[edit.track] = Track(edit.track, edit.cls or "other", edit.keys or ())
            else:
                tracks[edit.track] = _changed(tracks[edit.track], edit)
        return Tracks(tuple(tracks.values()))


def _number(name: str) -> int:
    """The number that an id is, or a hash of it, below 2^31."""
    return int(name) if name.isdecimal() and len(name) < 10 else zlib.crc32(name.encode()) >> 1


def _changed(track: Track, edit: Edit) -> Track:
    if edit.op == "class":
        return replace(track, cls=edit.to or track.cls)
    if edit.op == "shift":
        dx, dy = edit.by or (0.0, 0.0)
        moved = ((k.box[0] + dx, k.box[1] + dy, k.box[2] + dx, k.box[3] + dy) for k in track.keys)
        return replace(track, keys=tuple(replace(k, box=box) for k, box in zip(track.keys, moved, strict=True)))
    first, later, speed = track.keys[0].t, edit.by[0] if edit.by else 0.0, edit.speed or 1.0
    return replace(track, keys=tuple(replace(k, t=first + (k.t - first) / speed + later) for k in track.keys))


def _seen(box: Box) -> Box | None:
    x0, y0, x1, y1 = (min(max(side, 0.0), 1.0) for side in box)
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def from_labelled(labelled: Labelled, start: Fraction = Fraction(0)) -> Tracks:
    """The tracks of a labelled video, with ``start`` as second 0. Where a moment was labelled and the track has no box
    in it, it is gone; ignored regions are no tracks."""
    boxes, moments = labelled.boxes, {time: n for n, time in enumerate(labelled.times)}
    rows: dict[int, list[int]] = {}
    for place in np.flatnonzero(~boxes.ignored).tolist():
        rows.setdefault(int(boxes.track[place]), []).append(place)
    found = []
    for track, own in sorted(rows.items()):
        keys = []
        for row, after in zip(own, [*own[1:], None], strict=True):
            last = after is None or moments[boxes.time[after]] == moments[boxes.time[row]] + 1
            x0, y0, x1, y1 = boxes.box[row].tolist()
            seen = float(boxes.visibility[row])
            keys.append(
                Key(float(boxes.time[row] - start), (x0, y0, x1, y1), None if np.isnan(seen) else seen, gone=not last)
            )
        found.append(Track(labelled.id_of(track), cast(Class, boxes.cls[own[0]]), tuple(keys)))
    return Tracks(tuple(found))


def check(tracks: Iterable[Track], edits: Iterable[Edit]) -> None:
    """Raises:
    Mistake: values of a track or an edit that do not fit each other; it names the field.
    """
    ids = set()
    for number, track in enumerate(tracks):
        if track.id in ids:
            what = f"there is a track '{track.id}' already"
            raise Mistake(what, field=f"tracks[{number}].id", mend="name it otherwise")
        ids.add(track.id)
        _check_keys(track.keys, f"tracks[{number}]")
    for number, edit in enumerate(edits):
        _check_edit(edit, f"edits[{number}]")
        _check_keys(edit.keys or (), f"edits[{number}]")


def _check_edit(edit: Edit, here: str) -> None:
    wants, given = WANTS[edit.op], edit.given
    takes = f"{edit.op} takes {', '.join(map(spelled, wants)) or 'nothing but the track'}"
    for name in given:
        if name not in wants:
            raise Mistake(f"has no meaning with op: {edit.op}", field=f"{here}.{spelled(name)}", mend=takes)
    missing = [name for name in wants if name not in given]
    if missing and not (edit.op == "retime" and given):
        raise Mistake(f"{' or '.join(map(spelled, missing))} is missing", field=here, mend=takes)
    if edit.by is not None and len(edit.by) != len(BY[edit.op]):
        raise Mistake(f"is [{', '.join(BY[edit.op])}], not {list(edit.by)}", field=f"{here}.by")


def _check_keys(keys: Sequence[Key], here: str) -> None:
    for number, key in enumerate(keys):
        x0, y0, x1, y1 = key.box
        if x1 <= x0 or y1 <= y0:
            what, mend = f"{list(key.box)} has no area", "x0 y0 x1 y1 are the left, upper, right and lower edge"
            raise Mistake(what, field=f"{here}.keys[{number}].box", mend=mend)
        if number and key.t <= keys[number - 1].t:
            what = f"{key.t:g} is not after {keys[number - 1].t:g}, the key before it"
            raise Mistake(what, field=f"{here}.keys[{number}].t", mend="keys stand in order of time")


def operations() -> list[dict[str, Any]]:
    """What each ``op`` takes, as alternatives of a JSON schema."""
    fields, found = {name for wants in WANTS.values() for name in wants}, []
    for op, wants in WANTS.items():
        given = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in map(spelled, wants)]
        properties: dict[str, Any] = {spelled(name): {"type": "null"} for name in sorted(fields - {*wants})}
        if op in BY:
            properties["by"] = {"minItems": len(BY[op]), "maxItems": len(BY[op])}
        properties["op"] = {"const": op}
        found.append({"properties": properties, **({"anyOf" if op == "retime" else "allOf": given} if given else {})})
    return found
