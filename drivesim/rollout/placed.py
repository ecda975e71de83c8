"""The boxes of a rollout, and whose they are: the clip's own where a frame is real, the scenario's where it is made.

    label file ──from_labelled──> own ──────────────> real frames
                                   │
    scenario's tracks ─────────────┴──edited──> told ──> the models, and what is known of the frames that they make

Times are the scenario's: second 0 is the output's first frame, real frames in front of it lie before. Boxes are
fractions of the output's frame, which of a clip of another aspect is the middle.
"""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from drivesim import config
from drivesim.data import video
from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats import known
from drivesim.errors import Mistake
from drivesim.rollout.scenario import Opening, Scenario
from drivesim.rollout.tracks import Track, Tracks, from_labelled
from drivesim.scene import Labels, joined

NEVER_SEEN = "is never in the picture: outside of the frame, or not there between the start and the end"


@dataclass(frozen=True)
class Placed:
    """
    Args:
        told: the tracks after the edits; no track is an empty street.
        own: the clip's before any edit, None where it has no labels; ``since`` and ``until`` are the first and the last
            moment that these know.
        remarks: what was wrong with the clip's labels, and tracks of the scenario that are never seen.
    """

    told: Tracks
    own: Tracks | None = None
    since: Fraction = Fraction(0)
    until: Fraction = Fraction(0)
    remarks: Remarks = field(default_factory=Remarks, compare=False)

    @property
    def digest(self) -> str:
        """Changes when any box does that a model is told."""
        return config.digest(self.told)

    def labelled(
        self, name: str, frames: int, real: int, front: int, fps: Fraction, size: video.Size, labels: Labels
    ) -> Labelled:
        """What is known of a video, at its own times, which begin with 0.

        Args:
            frames: how many it has; the first ``real`` are, and ``front`` of these lie before second 0.
        """
        moments, shift = [(n - front) / fps for n in range(frames)], front / fps
        seen = [t for t in moments[:real] if self.own is not None and self.since <= t <= self.until]
        own, told = self._numbered()
        boxes = joined(own.at(seen), told.at(moments[real:]))
        boxes = replace(boxes, time=tuple(t + shift for t in boxes.time))
        times = tuple(t + shift for t in (*seen, *moments[real:]))
        return Labelled(name, boxes, size, times, told.ids, labels)

    def _numbered(self) -> tuple[Tracks, Tracks]:
        """The clip's own tracks and those told, so that one id has one number in both."""
        own = self.own.tracks if self.own else ()
        ids = dict.fromkeys(track.id for track in (*self.told.tracks, *own))
        sides = [{track.id: track for track in tracks} for tracks in (own, self.told.tracks)]
        first, second = (Tracks(tuple(side.get(id, Track(id, "other", ())) for id in ids)) for side in sides)
        return first, second


def placed(scenario: Scenario, size: video.Size) -> Placed | None:
    """The boxes of ``scenario`` in frames of ``size``; None where they are unknown.

    Raises:
        Mistake: no such clip or labels, labels that do not name the clip, an edit that does not fit.
    """
    if scenario.boxes == "unknown":
        return None
    remarks, own, since, until = Remarks(), None, Fraction(0), Fraction(0)
    if scenario.opening.labels:
        labelled, start = _labelled(scenario.opening, size, remarks), scenario.opening.start
        own = from_labelled(labelled, start)
        since, until = (time - start for time in (labelled.times[0], labelled.times[-1]))
    tracks = own.tracks if own else ()
    for number, track in enumerate(scenario.tracks):
        if track.id in {each.id for each in tracks}:
            what = f"the clip has a track '{track.id}' of its own"
            raise Mistake(what, field=f"tracks[{number}].id", mend="name it otherwise")
    told = Tracks((*tracks, *scenario.tracks)).edited(scenario.edits)
    written = {each.id for each in scenario.tracks} | {each.track for each in scenario.edits}
    for id in Tracks(tuple(each for each in told.tracks if each.id in written)).unseen(scenario.length):
        remarks.add(NEVER_SEEN, f"track '{id}'")
    return Placed(told, own, since, until, remarks)


def _labelled(opening: Opening, size: video.Size, remarks: Remarks) -> Labelled:
    """The labels of the opening's clip, as fractions of it as it is shown in frames of ``size``."""
    assert opening.clip and opening.labels  # scenario.check
    clip, place = Path(opening.clip), Path(opening.labels)
    info = video.probe(clip, rate=opening.rate)
    shape = info.height, info.width
    footage = Footage(shape, info.fps, info.frames)
    read = known.of(place, opening.format).read(
        place, lambda name: footage if name == clip.stem else Footage(), remarks
    )
    for one in read:
        if one.video == clip.stem and one.times:
            return replace(one, boxes=replace(one.boxes, box=video.fit_boxes(one.boxes.box, shape, size)))
    names = ", ".join(f"'{labelled.video}'" for labelled in read[:5]) or "no video"
    refused = "; ".join(remarks.lines()) if not read else ""
    raise Mistake(f"has no labels of '{clip.stem}'", where=place, mend=refused or f"it has those of {names}")
