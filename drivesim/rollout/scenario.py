"""What a rollout shows: its opening, its length, its labels. A scenario is a YAML file, or the command's options."""

import os
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt, MinLen

from drivesim import config, schema
from drivesim.data.formats import known
from drivesim.data.opening import refuse_name
from drivesim.errors import Mistake, nearest
from drivesim.rollout import tracks
from drivesim.rollout.tracks import Edit, Track
from drivesim.scene import KEYFRAME_FPS, Labels

USUAL = 120.0  # seconds


@dataclass(frozen=True)
class Opening:
    """Where the video starts: ``frames`` real key-frames of a clip, or a frame that the image model makes.

    Args:
        clip: a video file or a folder of numbered images; relative to the scenario's file.
        at: seconds into the clip of its first given frame. The next is 8/15 s later; the output starts at the last one.
        frames: 1, or 2, which also tell how fast the car goes.
        generate: labels of the start frame that the image model makes when no clip is named.
        keep: the given frames themselves stand in front of the output, and in place of its frame 0.
        labels: a label file or folder that holds the clip's own boxes, relative to the scenario's file.
        format: of the labels, told by a look at them where it is not given: bdd100k, kitti, cvat, coco, mot, csv, ...
        fps: the clip's true frame rate, such as 10 or 30000/1001; images need it, of a video it overrides the header.
    """

    clip: str | None = None
    at: Annotated[float, Ge(0), Lt(1e6)] = 0.0
    frames: Literal[1, 2] = 2
    generate: Labels | None = None
    keep: bool = False
    labels: str | None = None
    format: str | None = None
    fps: Annotated[float, Gt(0)] | str | None = None

    @property
    def rate(self) -> Fraction | None:
        return None if self.fps is None else Fraction(str(self.fps))

    @property
    def given(self) -> int:
        return self.frames if self.clip else 1

    @property
    def start(self) -> Fraction:
        """Seconds into the clip of the last given frame, where the output starts."""
        return Fraction(str(self.at)) + (self.given - 1) / KEYFRAME_FPS


@dataclass(frozen=True)
class Scales:
    """Guidance scales; 1 is none, ``None`` leaves the rollout's own setting.

    Args:
        context: how closely windows follow the frames that they are given.
        labels: how closely the video follows its labels.
        boxes: how closely it follows its boxes.
    """

    context: float | None = None
    labels: float | None = None
    boxes: float | None = None


@dataclass(frozen=True)
class Scenario:
    """What a rollout shows.

    Args:
        version: of this format.
        opening: where the video starts.
        seconds: length of the output; ``None`` is two minutes, or one window of models that make all frames from noise.
        fps: 1.875 (the key-frames alone), 3.75, 7.5, 15 or 30; a number or a fraction such as "15/2"; ``None`` is the
            highest that the interpolation model reaches, and 7.5 without one.
        size: height and width; ``None`` is the largest that the weights make.
        seeds: one future of the opening for each.
        played: frames a second at which the file is written; ``None`` is ``fps``, and four fifths of it for models that
            are told words, whose 30 are shown at 24. All other times are those of ``fps``.
        labels: of the whole rollout; ``None`` takes those of ``opening.generate``, and unknown after a real opening.
        temporal_prompt: what temporal layers are told in the place of the prompt.
        guidance: how closely the models follow what they are told.
        boxes: ``unknown``, ``none`` (an empty street), or ``tracks``: those of the clip's own labels and ``tracks``,
            after ``edits``.
        tracks: things and where they are over time.
        edits: changes to the clip's tracks and to ``tracks``, one after the other.
    """

    version: Literal[1] = 1
    opening: Opening = field(default_factory=Opening)
    seconds: Annotated[float, Gt(0), Lt(1e6)] | None = None
    fps: Annotated[float, Gt(0)] | str | None = None
    played: Annotated[float, Gt(0)] | str | None = None
    size: tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]] | None = None
    seeds: Annotated[list[Annotated[int, Ge(0)]], MinLen(1)] = field(default_factory=lambda: [0])
    labels: Labels | None = None
    temporal_prompt: str | None = None
    guidance: Scales = field(default_factory=Scales)
    boxes: Literal["unknown", "none", "tracks"] = "unknown"
    tracks: tuple[Track, ...] = ()
    edits: tuple[Edit, ...] = ()

    @property
    def rate(self) -> Fraction | None:
        return None if self.fps is None else Fraction(str(self.fps))

    @property
    def length(self) -> float:
        """Seconds of a rollout that goes from window to window."""
        return USUAL if self.seconds is None else self.seconds

    @property
    def told(self) -> Labels:
        """The labels that the prediction model is told."""
        return self.labels or self.opening.generate or Labels()

    def identity(self, clip_id: str) -> str:
        """What the noise is keyed by: the opening and the labels.

        Not the length: a longer rollout begins with the shorter one. Nor what temporal layers are told: other words
        for them move the same pictures.
        """
        opening = config.plain(replace(self.opening, clip=clip_id or None, generate=None))
        for name in ("keep", "labels", "format", "fps"):  # of these the noise knows nothing
            del opening[name]
        opening["generate"] = None if self.opening.generate is None else _named(self.opening.generate)
        return config.digest({"opening": opening, "labels": _named(self.told)})


def _named(labels: Labels) -> dict[str, Any]:
    """Without a prompt as before there were any: what was made then is made again."""
    values = config.plain(labels)
    return {name: value for name, value in values.items() if name != "prompt" or value is not None}


def load(file: str | Path) -> Scenario:
    """A scenario from its YAML file; the paths of the clip and of its labels become absolute.

    Raises:
        Mistake: no such file, an unknown key (with the nearest real one), a value that does not fit.
    """
    scenario = config.load(Scenario, file)
    clip, labels = (
        os.path.abspath(Path(file).parent / named) if named else named
        for named in (scenario.opening.clip, scenario.opening.labels)
    )
    scenario = replace(scenario, opening=replace(scenario.opening, clip=clip, labels=labels))
    with config.located(file):
        return check(scenario)


def parse_opening(text: str) -> Opening:
    """``CLIP`` or ``CLIP@SECOND`` of the command line.

    Raises:
        Mistake: SECOND is not a number, or CLIP is not UTF-8.
    """
    refuse_name(Path(text))
    clip, at, second = text.rpartition("@")
    if not at or Path(text).exists():
        return Opening(clip=os.path.abspath(text))
    try:
        return Opening(clip=os.path.abspath(clip), at=float(second))
    except ValueError:
        raise Mistake(
            f"'{second}' is not a time in seconds", where="--opening", mend="write CLIP@SECOND: drive.mp4@12.5"
        ) from None


def check(scenario: Scenario) -> Scenario:
    """``scenario`` when its values fit together.

    Raises:
        Mistake: they do not; it names the field.
    """
    config.build(Scenario, config.plain(scenario))  # what the command's options gave is held to what a file is
    opening, boxes = scenario.opening, scenario.boxes
    for name, rate in (("fps", scenario.fps), ("played", scenario.played), ("opening.fps", opening.fps)):
        if not _positive(rate):
            what = f"a rate above 0 is expected, not {rate!r}"
            raise Mistake(what, field=name, mend="such as 30, 7.5 or 30000/1001")
    listed = next((name for name in ("tracks", "edits") if getattr(scenario, name)), "opening.labels")
    some = listed != "opening.labels" or bool(opening.labels)
    no_clip, no_labels = "name opening.clip, or leave it out", "name opening.labels, or leave it out"
    for wrong, name, what, mend in (
        (opening.clip and opening.generate, "opening.generate", "the opening is a clip already", "leave one out"),
        (opening.keep and not opening.clip, "opening.keep", "only a clip has frames to keep", no_clip),
        (opening.labels and not opening.clip, "opening.labels", "only a clip has boxes of its own", no_clip),
        (opening.format and not opening.labels, "opening.format", "there are no labels to be of it", no_labels),
        (some and boxes != "tracks", listed, f"has no meaning with boxes: {boxes}", "write boxes: tracks"),
        (not some and boxes == "tracks", "boxes", "there are no tracks", "add tracks, edits or opening.labels"),
        (opening.fps and not opening.clip, "opening.fps", "only a clip has a rate of its own", no_clip),
        (len(set(scenario.seeds)) < len(scenario.seeds), "seeds", "a seed is named twice", "leave one out"),
    ):
        if wrong:
            raise Mistake(what, field=name, mend=mend)
    if opening.format is not None and opening.format not in known.FORMATS:
        what, near = f"no label format '{opening.format}'", nearest(opening.format, known.FORMATS)
        raise Mistake(what, field="opening.format", mend=near)
    tracks.check(scenario.tracks, scenario.edits)
    return scenario


def _positive(rate: float | str | None) -> bool:
    try:
        return rate is None or Fraction(str(rate)) > 0
    except (ValueError, ZeroDivisionError):
        return False


def json_schema() -> dict[str, Any]:
    """What editors are told of scenario files; ``check`` also knows which values must fit each other."""
    found = schema.json_schema(Scenario)
    found["title"] = "drivesim scenario"
    found["$defs"]["Edit"]["oneOf"] = tracks.operations()
    return found
