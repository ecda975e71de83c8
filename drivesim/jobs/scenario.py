"""``drivesim scenario check | preview | convert``: a scenario's boxes are read, edited, drawn, written as labels."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

from drivesim.data import video
from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats import known
from drivesim.errors import Mistake, nearest
from drivesim.report.boxes import draw
from drivesim.rollout import scenario as scenarios
from drivesim.rollout.scenario import Scenario
from drivesim.rollout.tracks import Tracks, from_labelled

ACTIONS = ("check", "preview", "convert")
BACKGROUND = 96  # grey, under the boxes of an opening that is still to be made
SIZE, FPS = (256, 512), Fraction(15)  # of a preview that no clip gives them
CHUNK = 16  # frames at a time


def run(action: str, file: Path, out: Path | None = None, form: str | None = None) -> None:
    """Checks the scenario in ``file``; ``preview`` also writes a video, ``convert`` a folder of labels in the format
    ``form``, both at ``out``.

    Raises:
        Mistake: no such action or format; anything of the scenario that does not fit; ``out`` is there already.
    """
    if action not in ACTIONS:
        raise Mistake(f"no action '{action}'", where="scenario", mend=nearest(action, ACTIONS))
    if (form is not None) != (action == "convert"):
        raise Mistake("belongs to convert, which needs it", where="--format")
    written = None if form is None else known.named(form)
    if written is not None and written.write is None:
        able = ", ".join(each.name for each in known.FORMATS.values() if each.write)
        raise Mistake(f"{written.title} is only read", where="--format", mend=f"formats that are written: {able}")
    out = out or Path({"preview": "preview.mp4", "convert": "labels"}.get(action, ""))
    if action != "check" and out.exists():
        raise Mistake("exists already", where=out, mend="remove it, or choose another --out")
    found = scenarios.load(file)
    remarks = Remarks()
    tracks = tracks_of(found, remarks, file)
    say = Console(highlight=False, soft_wrap=True).print
    say(escape(f"{file}: {_words(found, tracks)}"))
    if action == "preview":
        preview(found, tracks, out)
    elif written is not None and written.write is not None:
        fps, size, _ = _source(found)
        times = [Fraction(n) / fps for n in range(frames_of(found, fps))]
        written.write([tracks.labelled(file.stem, times, size)], out, fps, remarks)
    for line in remarks.lines():
        say(f"[yellow]labels[/] {escape(line)}")
    if action != "check":
        say(escape(str(out)))


def frames_of(scenario: Scenario, fps: Fraction) -> int:
    return max(1, round(Fraction(str(scenario.seconds)) * fps))


def tracks_of(scenario: Scenario, remarks: Remarks, where: object) -> Tracks:
    """The clip's own tracks from the moment of the opening on, the scenario's, and the edits of both.

    Raises:
        Mistake: no such clip or labels, labels that do not name the clip, an edit that does not fit.
    """
    tracks = Tracks()
    if scenario.opening.clip:
        video.probe(Path(scenario.opening.clip))
    if scenario.opening.labels:
        tracks = from_labelled(_labelled(scenario, remarks), Fraction(str(scenario.opening.at)))
    taken = {track.id for track in tracks.tracks}
    for track in scenario.tracks:
        if track.id in taken:
            raise Mistake(f"the clip has a track '{track.id}' of its own", where=where, mend="name it otherwise")
    return Tracks((*tracks.tracks, *scenario.tracks)).edited(scenario.edits, where)


def _labelled(scenario: Scenario, remarks: Remarks) -> Labelled:
    assert scenario.opening.clip and scenario.opening.labels  # scenarios.check
    clip, place = Path(scenario.opening.clip), Path(scenario.opening.labels)
    info = video.probe(clip)
    footage = Footage((info.height, info.width), info.fps, info.frames)
    read = known.of(place, scenario.opening.format).read(
        place, lambda name: footage if name == clip.stem else Footage(), remarks
    )
    for labelled in read:
        if labelled.video == clip.stem:
            return labelled
    names = ", ".join(f"'{labelled.video}'" for labelled in read[:5]) or "no video"
    raise Mistake(f"has no labels of '{clip.stem}'", where=place, mend=f"it has those of {names}")


def _words(scenario: Scenario, tracks: Tracks) -> str:
    opening = f"{Path(scenario.opening.clip).name}@{scenario.opening.at:g}" if scenario.opening.clip else "a made frame"
    boxes = f"{len(tracks.tracks)} tracks" if scenario.boxes == "tracks" else f"boxes {scenario.boxes}"
    return f"{scenario.seconds:g} s from {opening}, {boxes}, {len(scenario.edits)} edits, {len(scenario.seeds)} seeds"


def preview(scenario: Scenario, tracks: Tracks, out: Path) -> None:
    """The boxes over the real clip, as far as it goes, then over grey; over grey alone where there is no clip."""
    fps, size, source = _source(scenario)
    with video.Writer(out, size, fps) as writer:
        for number, frame in enumerate(islice(source, frames_of(scenario, fps))):
            writer.write(draw(frame, tracks.at([Fraction(number) / fps]), tracks.ids)[None])


def _source(scenario: Scenario) -> tuple[Fraction, tuple[int, int], Iterator[np.ndarray]]:
    """Rate, size, and frames without end."""
    if not scenario.opening.clip:
        size = scenario.size or SIZE
        return scenario.rate or FPS, size, _grey(size)
    clip = Path(scenario.opening.clip)
    info = video.probe(clip)
    fps = scenario.rate or info.fps
    size = scenario.size or (info.height // 2 * 2, info.width // 2 * 2)

    def frames() -> Iterator[np.ndarray]:
        stream = video.stream(clip, fps=fps, chunk=CHUNK, start=Fraction(str(scenario.opening.at)), size=size)
        for part in stream:
            yield from part.frames
        yield from _grey(size)

    return fps, size, frames()


def _grey(size: tuple[int, int]) -> Iterator[np.ndarray]:
    while True:
        yield np.full((*size, 3), BACKGROUND, np.uint8)
