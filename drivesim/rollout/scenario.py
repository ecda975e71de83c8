"""What a rollout shows: its opening, its length, its labels. A scenario is a YAML file, or the command's options."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

from drivesim import config
from drivesim.errors import Mistake
from drivesim.rollout import tracks
from drivesim.rollout.tracks import Edit, Track
from drivesim.scene import Labels


@dataclass(frozen=True)
class Opening:
    """Where the video starts: ``frames`` real key-frames of a clip, or a frame that the image model makes.

    Args:
        clip: a video file or a folder of numbered images; relative to the scenario's file.
        at: seconds into the clip of its first given frame. The next is 8/15 s later; the output starts at the last one.
        frames: 1, or 2, which also tell how fast the car goes.
        generate: labels of the start frame that the image model makes when no clip is named.
        keep: the given frames themselves stand in front of the output, and in place of its frame 0.
        labels: a label file or folder that holds the clip's own boxes, relative to the scenario's file; ``format`` is
            that of the labels, told by a look at them where it is not given.
    """

    clip: str | None = None
    at: float = 0.0
    frames: int = 2
    generate: Labels | None = None
    keep: bool = False
    labels: str | None = None
    format: str | None = None

    @property
    def given(self) -> int:
        return self.frames if self.clip else 1


@dataclass(frozen=True)
class Scales:
    """Guidance scales; ``None`` leaves the rollout's own setting."""

    context: float | None = None
    labels: float | None = None


@dataclass(frozen=True)
class Scenario:
    """One scenario, format 1.

    Args:
        seconds: length of the output.
        fps: 1.875 (the key-frames alone), 3.75, 7.5, 15 or 30; a number or a fraction such as "15/2"; ``None`` is the
            highest that the interpolation model reaches, and 7.5 without one.
        size: height and width; ``None`` is the largest that the weights make.
        seeds: one future of the opening for each.
        labels: of the whole rollout; ``None`` takes those of ``opening.generate``, and unknown after a real opening.
        boxes: ``unknown``, ``none`` (an empty street), or ``tracks``: those of the clip's own labels and ``tracks``,
            after ``edits``.
    """

    version: int = 1
    opening: Opening = field(default_factory=Opening)
    seconds: float = 120.0
    fps: float | str | None = None
    size: tuple[int, int] | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    labels: Labels | None = None
    guidance: Scales = field(default_factory=Scales)
    boxes: Literal["unknown", "none", "tracks"] = "unknown"
    tracks: tuple[Track, ...] = ()
    edits: tuple[Edit, ...] = ()

    @property
    def rate(self) -> Fraction | None:
        return None if self.fps is None else Fraction(str(self.fps))

    @property
    def told(self) -> Labels:
        """The labels that the prediction model is told."""
        return self.labels or self.opening.generate or Labels()

    def identity(self, clip_id: str) -> str:
        """What the noise is keyed by: the opening and the labels.

        Not the length: a longer rollout begins with the shorter one.
        """
        opening = config.plain(replace(self.opening, clip=clip_id or None))
        for name in ("keep", "labels", "format"):  # what is shown beside changes nothing that is made
            del opening[name]
        return config.digest({"opening": opening, "labels": config.plain(self.told)})


def load(file: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Scenario:
    """A scenario from its YAML file; the clip's path becomes absolute.

    Raises:
        Mistake: no such file, an unknown key (with the nearest real one), a value that does not fit.
    """
    scenario = config.load(Scenario, file, overrides)
    clip, labels = (
        str((Path(file).parent / named).resolve()) if named else named
        for named in (scenario.opening.clip, scenario.opening.labels)
    )
    scenario = replace(scenario, opening=replace(scenario.opening, clip=clip, labels=labels))
    return check(scenario, file)


def parse_opening(text: str) -> Opening:
    """``CLIP`` or ``CLIP@SECOND`` of the command line.

    Raises:
        Mistake: SECOND is not a number.
    """
    clip, at, second = text.rpartition("@")
    if not at or Path(text).exists():
        return Opening(clip=str(Path(text).resolve()))
    try:
        return Opening(clip=str(Path(clip).resolve()), at=float(second))
    except ValueError:
        raise Mistake(
            f"'{second}' is not a time in seconds", where="--opening", mend="write CLIP@SECOND: drive.mp4@12.5"
        ) from None


def check(scenario: Scenario, where: object = "scenario") -> Scenario:
    """``scenario`` when its values fit together.

    Raises:
        Mistake: they do not.
    """
    opening = scenario.opening
    try:
        positive = scenario.rate is None or scenario.rate > 0
    except (ValueError, ZeroDivisionError):
        positive = False
    told = [each for each in (scenario.labels, opening.generate) if each is not None]
    listed = bool(scenario.tracks or scenario.edits or opening.labels)
    for wrong, what in (
        (scenario.version != 1, f"version {scenario.version} is not known; this is version 1"),
        (opening.clip and opening.generate, "the opening is either a clip or generated, not both"),
        (opening.keep and not opening.clip, "opening.keep: only a clip has frames to keep"),
        (opening.labels and not opening.clip, "opening.labels: only a clip has boxes of its own"),
        (opening.format and not opening.labels, "opening.format is that of opening.labels, and there are none"),
        (listed and scenario.boxes != "tracks", "tracks, edits and opening.labels need boxes: tracks"),
        (not listed and scenario.boxes == "tracks", "boxes: tracks, and there are none: add tracks or opening.labels"),
        (opening.frames not in (1, 2), f"opening.frames is 1 or 2, not {opening.frames}"),
        (not 0 <= opening.at < 1e6, f"opening.at is seconds into the clip, not {opening.at}"),
        (not 0 < scenario.seconds < 1e6, f"seconds is a length above 0, not {scenario.seconds}"),
        (not positive, f"fps is a number or a fraction above 0, not {scenario.fps!r}"),
        (not scenario.seeds, "seeds is empty"),
        (any(seed < 0 for seed in scenario.seeds), "a seed is 0 or more"),
        (any((each.cars or 0) < 0 for each in told), "cars is 0 or more, or null for unknown"),
        (len(set(scenario.seeds)) < len(scenario.seeds), "a seed is named twice"),
    ):
        if wrong:
            raise Mistake(what, where=where)
    tracks.check(scenario.tracks, scenario.edits, where)
    return scenario
