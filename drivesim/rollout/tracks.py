"""Boxes over time as a person writes them: a few key poses a track, edits of what a clip already holds.

::

    label file ──from_labelled──> tracks ──edited──> tracks ──at(times)──> Boxes
    scenario   ──────────────────^
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import numpy as np

from drivesim.data.annotations import Labelled
from drivesim.errors import Mistake, nearest
from drivesim.scene import CLASSES, Boxes

Box = tuple[float, float, float, float]
Op = Literal["insert", "delete", "shift", "retime", "class"]
WANTS = {"insert": ("cls", "keys"), "delete": (), "shift": ("by",), "retime": ("by", "speed"), "class": ("to",)}


@dataclass(frozen=True)
class Key:
    """Where a track is at a moment; between two keys it moves evenly.

    Args:
        t: seconds from the start of the scenario.
        box: ``x0 y0 x1 y1`` as fractions of the frame; it may reach over the edge.
        visibility: share that can be seen; None is unknown.
        gone: from here to the next key the track is not there.
    """

    t: float
    box: Box
    visibility: float | None = None
    gone: bool = False


@dataclass(frozen=True)
class Track:
    """A thing on its way: there from its first key to its last, both included."""

    id: str | int
    cls: str
    keys: tuple[Key, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", str(self.id))  # a file may leave the quotation marks out

    def at(self, t: float) -> Key | None:
        """Its pose at ``t``; None where it is not there."""
        if not self.keys or not self.keys[0].t <= t <= self.keys[-1].t:
            return None
        for key, after in pairwise(self.keys):
            if t < after.t:
                return key if t == key.t else None if key.gone else _between(key, after, t)
        return self.keys[-1]


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
        op: ``insert`` a track (``cls``, ``keys``), ``delete`` it, ``shift`` its boxes (``by``: right and down, as
            fractions of the frame), ``retime`` it (``by``: seconds later; ``speed``: so many times as fast, from its
            first key on), or change its ``class`` (``to``).
        track: its id.
    """

    op: Op
    track: str | int
    cls: str | None = None
    keys: tuple[Key, ...] = ()
    by: tuple[float, ...] = ()
    speed: float | None = None
    to: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "track", str(self.track))

    @property
    def given(self) -> tuple[str, ...]:
        return tuple(name for name in ("cls", "keys", "by", "speed", "to") if getattr(self, name) not in (None, ()))


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

    def labelled(self, video: str, times: Sequence[Fraction], size: tuple[int, int]) -> Labelled:
        """The boxes at ``times`` as labels of a video of that name and size, under the tracks' own ids."""
        return Labelled(video, self.at(times), size, tuple(times), self.ids)

    def edited(self, edits: Iterable[Edit], where: object = "edits") -> "Tracks":
        """The tracks after ``edits``, one after the other.

        Raises:
            Mistake: an edit of a track that is not there, or an insertion of one that is.
        """
        tracks = {track.id: track for track in self.tracks}
        for number, edit in enumerate(edits):
            here = f"{where}: edits[{number}] ({edit.op} '{edit.track}')"
            if (edit.track in tracks) == (edit.op == "insert"):
                what = "there is a track of that id already" if edit.op == "insert" else "there is no such track"
                mend = None if edit.op == "insert" or not tracks else nearest(str(edit.track), map(str, tracks))
                raise Mistake(what, where=here, mend=mend)
            if edit.op == "delete":
                del tracks[edit.track]
            elif edit.op == "insert":
                tracks[edit.track] = Track(edit.track, edit.cls or "", edit.keys)
            else:
                tracks[edit.track] = _changed(tracks[edit.track], edit)
        return Tracks(tuple(tracks.values()))


def _changed(track: Track, edit: Edit) -> Track:
    if edit.op == "class":
        return replace(track, cls=edit.to or track.cls)
    if edit.op == "shift":
        dx, dy = edit.by
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
        found.append(Track(labelled.id_of(track), boxes.cls[own[0]], tuple(keys)))
    return Tracks(tuple(found))


def check(tracks: Iterable[Track], edits: Iterable[Edit], where: object) -> None:
    """Raises:
    Mistake: a value of a track or an edit that cannot be meant; it names the field.
    """
    ids = set()
    for number, track in enumerate(tracks):
        here = f"{where}: tracks[{number}]"
        if track.id in ids:
            raise Mistake(f"there are two tracks '{track.id}'", where=here)
        ids.add(track.id)
        _check_class(track.cls, f"{here}.cls")
        _check_keys(track.keys, here)
    for number, edit in enumerate(edits):
        here, wants = f"{where}: edits[{number}] ({edit.op})", WANTS[edit.op]
        for name in edit.given:
            if name not in wants:
                raise Mistake(
                    f"{name} means nothing here", where=here, mend=f"it takes {', '.join(wants) or 'nothing'}"
                )
        if (edit.op == "retime" and not edit.given) or (edit.op != "retime" and len(edit.given) < len(wants)):
            raise Mistake(
                f"needs {' or '.join(wants)}" if edit.op == "retime" else f"needs {', '.join(wants)}", where=here
            )
        if len(edit.by) not in ((2,) if edit.op == "shift" else (0, 1)):
            raise Mistake("by is [right, down]" if edit.op == "shift" else "by is [seconds]", where=here)
        if edit.speed is not None and edit.speed <= 0:
            raise Mistake(f"speed is above 0, not {edit.speed}", where=here)
        for name in ("cls", "to"):
            if (word := getattr(edit, name)) is not None:
                _check_class(word, f"{here}.{name}")
        if edit.op == "insert":
            _check_keys(edit.keys, here)


def _check_class(word: str, where: str) -> None:
    if word not in CLASSES:
        raise Mistake(f"no class '{word}'", where=where, mend=nearest(word, CLASSES))


def _check_keys(keys: Sequence[Key], where: str) -> None:
    if not keys:
        raise Mistake("a track needs a key: {t, box}", where=where)
    for number, key in enumerate(keys):
        x0, y0, x1, y1 = key.box
        here = f"{where}.keys[{number}]"
        if not all(map(np.isfinite, (key.t, *key.box))):
            raise Mistake("a number is expected, not NaN or infinity", where=here)
        if x1 <= x0 or y1 <= y0:
            mend = "x0 y0 x1 y1 are the left, upper, right and lower edge"
            raise Mistake(f"box {list(key.box)} has no area", where=here, mend=mend)
        if max(map(abs, key.box)) > 8:
            raise Mistake(f"box {list(key.box)} looks like pixels", where=here, mend="write fractions of the frame")
        if key.visibility is not None and not 0 <= key.visibility <= 1:
            raise Mistake(f"visibility is 0 to 1, not {key.visibility}", where=here)
        if number and key.t <= keys[number - 1].t:
            raise Mistake(f"t = {key.t} is not after the key before it", where=here)
