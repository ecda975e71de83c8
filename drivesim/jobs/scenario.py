"""``drivesim scenario check | preview | convert | schema``: a scenario's boxes are read, edited, drawn, written as
labels; what may be in its file, for editors."""

import json
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

from drivesim import config
from drivesim.data import generated, video
from drivesim.data.annotations import Labelled, Remarks
from drivesim.data.formats import Format, known
from drivesim.disk import write_atomic
from drivesim.errors import Mistake, nearest
from drivesim.report.boxes import draw
from drivesim.rollout import scenario as scenarios
from drivesim.rollout.placed import Placed, placed
from drivesim.rollout.scenario import Scenario
from drivesim.rollout.tracks import Tracks

ACTIONS = ("check", "preview", "convert", "schema")
BACKGROUND = 96  # grey, under the boxes of an opening that is still to be made
SIZE, FPS = (256, 512), Fraction(15)  # of a preview that no clip gives them
CHUNK = 16  # frames at a time


def run(action: str, file: Path | None, out: Path | None = None, form: str | None = None) -> None:
    """Checks the scenario in ``file``; ``preview`` also writes a video, ``convert`` a folder of labels in the format
    ``form``, both at ``out``. What is converted may also be a run, or a folder of runs: then it is their boxes.
    ``schema`` takes no file; it writes the JSON schema of scenario files, or prints it without ``out``.

    Raises:
        Mistake: no such action or format; anything of the scenario that does not fit; ``out`` is there already.
    """
    if action not in ACTIONS:
        raise Mistake(f"no action '{action}'", where="scenario", mend=nearest(action, ACTIONS))
    if (form is not None) != (action == "convert"):
        if form is not None:
            raise Mistake(f"belongs to convert, not to {action}", where="--format", mend="leave it out")
        formats = ", ".join(each.name for each in known.WRITTEN)
        raise Mistake("is missing: convert needs it", where="--format", mend=f"one of {formats}")
    written = None if form is None else known.written(form)
    if file is None:
        return write_schema(out)
    out = out or Path({"preview": "preview.mp4", "convert": "labels"}.get(action, ""))
    if action != "check" and out.exists():
        raise Mistake("exists already", where=out, mend="remove it, or choose another --out")
    say = Console(highlight=False, soft_wrap=True).print
    if written is not None and file.is_dir():
        remarks = convert_runs(file, written, out)
    else:
        found = scenarios.load(file)
        fps, size = _shape(found)
        with config.located(file):
            boxes = placed(found, size)
        say(escape(f"{file}: {_words(found, boxes)}"))
        remarks = boxes.remarks if boxes else Remarks()
        if action == "preview":
            preview(found, boxes.told if boxes else Tracks(), out)
        elif written is not None and written.write is not None:
            if boxes is None:
                mend = "boxes: none, or boxes: tracks"
                raise Mistake("has no boxes to write: they are unknown", where=file, mend=mend)
            frames = frames_of(found, fps)
            written.write([boxes.labelled(file.stem, frames, 0, 0, fps, size, found.told)], out, fps, remarks)
    for line in remarks.lines():
        say(f"[yellow]labels[/] {escape(line)}")
    if action != "check":
        say(escape(str(out)))


def write_schema(out: Path | None) -> None:
    """The JSON schema of scenario files at ``out``, in place of an older one, or on the terminal.

    Raises:
        Mistake: ``out`` is a folder.
    """
    text = json.dumps(scenarios.json_schema(), indent=1)
    if out is None:
        print(text)
    elif out.is_dir():
        raise Mistake("is a folder", where=out, mend=f"--out {out / 'scenario.schema.json'}")
    else:
        write_atomic(out, f"{text}\n".encode())


def frames_of(scenario: Scenario, fps: Fraction) -> int:
    return max(1, round(Fraction(str(scenario.length)) * fps))


def convert_runs(folder: Path, form: Format, out: Path) -> Remarks:
    """The boxes of all runs in ``folder`` as labels in ``out``; every video is called as the folder of its run is.

    Raises:
        Mistake: no run in it has boxes, or two have videos of other rates.
    """
    found: list[Labelled] = []
    rates: dict[Fraction, Path] = {}
    for file in sorted(folder.rglob(generated.VIDEO)):
        labelled = generated.read(file)
        if labelled is not None:
            name = "-".join(file.parent.relative_to(folder).parts) or folder.resolve().name
            found.append(replace(labelled, video=name))
            rates.setdefault(video.probe(file).fps, file)
    if not found:
        raise Mistake("holds no run whose boxes are known", where=folder)
    (fps, first), *others = rates.items()
    if others:
        raise Mistake(f"has another rate than {first}", where=others[0][1], mend="convert each run by itself")
    remarks = Remarks()
    assert form.write is not None  # known.written
    form.write(found, out, fps, remarks)
    return remarks


def _words(scenario: Scenario, boxes: Placed | None) -> str:
    opening = f"{Path(scenario.opening.clip).name}@{scenario.opening.at:g}" if scenario.opening.clip else "a made frame"
    told = f"{len(boxes.told.tracks)} tracks" if boxes and scenario.boxes == "tracks" else f"boxes {scenario.boxes}"
    return f"{scenario.length:g} s from {opening}, {told}, {len(scenario.edits)} edits, {len(scenario.seeds)} seeds"


def preview(scenario: Scenario, tracks: Tracks, out: Path) -> None:
    """The boxes over the real clip, as far as it goes, then over grey; over grey alone where there is no clip."""
    fps, size = _shape(scenario)
    with video.Writer(out, size, fps) as writer:
        for number, frame in enumerate(islice(_frames(scenario, fps, size), frames_of(scenario, fps))):
            writer.write(draw(frame, tracks.at([Fraction(number) / fps]), tracks.ids)[None])


def _shape(scenario: Scenario) -> tuple[Fraction, video.Size]:
    """Rate and size: the scenario's, else the clip's."""
    if not scenario.opening.clip:
        return scenario.rate or FPS, scenario.size or SIZE
    info = video.probe(Path(scenario.opening.clip), rate=scenario.opening.rate)
    return scenario.rate or info.fps, scenario.size or (info.height // 2 * 2, info.width // 2 * 2)


def _frames(scenario: Scenario, fps: Fraction, size: video.Size) -> Iterator[np.ndarray]:
    """The clip's from where the output starts, then grey ones without end."""
    opening = scenario.opening
    if opening.clip:
        start, rate = opening.start, opening.rate
        for part in video.stream(opening.clip, fps=fps, chunk=CHUNK, start=start, size=size, rate=rate):
            yield from part.frames
    while True:
        yield np.full((*size, 3), BACKGROUND, np.uint8)
