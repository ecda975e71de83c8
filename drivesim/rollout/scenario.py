"""What a rollout shows: its opening, its length, its labels. A scenario is a YAML file, or the command's options."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from drivesim import config
from drivesim.errors import Mistake
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
    """

    clip: str | None = None
    at: float = 0.0
    frames: int = 2
    generate: Labels | None = None
    keep: bool = False

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
    """

    version: int = 1
    opening: Opening = field(default_factory=Opening)
    seconds: float = 120.0
    fps: float | str | None = None
    size: tuple[int, int] | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    labels: Labels | None = None
    guidance: Scales = field(default_factory=Scales)

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
        del opening["keep"]  # what is shown beside changes nothing that is made
        return config.digest({"opening": opening, "labels": config.plain(self.told)})


def load(file: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Scenario:
    """A scenario from its YAML file; the clip's path becomes absolute.

    Raises:
        Mistake: no such file, an unknown key (with the nearest real one), a value that does not fit.
    """
    scenario = config.load(Scenario, file, overrides)
    if scenario.opening.clip:
        clip = (Path(file).parent / scenario.opening.clip).resolve()
        scenario = replace(scenario, opening=replace(scenario.opening, clip=str(clip)))
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
    for wrong, what in (
        (scenario.version != 1, f"version {scenario.version} is not known; this is version 1"),
        (opening.clip and opening.generate, "the opening is either a clip or generated, not both"),
        (opening.keep and not opening.clip, "opening.keep: only a clip has frames to keep"),
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
    return scenario
