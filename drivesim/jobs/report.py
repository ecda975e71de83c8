"""``drivesim report``: all that a run folder holds, on one self-contained page."""

import json
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import drivesim
from drivesim import report
from drivesim.data import generated, video
from drivesim.errors import Mistake
from drivesim.report import Block, Curves, Facts, Page, Picture, Scores, Section, Stamp, Video, Words, video_stamp
from drivesim.report.boxes import draw
from drivesim.rollout.labels import EXPORT
from drivesim.scene import KEYFRAME_FPS

COLUMNS = 6
SHOWN = 24
WIDTH = 256
SAMPLES = 8
PICTURES = (".png", ".jpg", ".jpeg")


def run(run_folder: Path, real: Sequence[Path] = (), title: str | None = None) -> Path:
    """Writes ``report.html`` into ``run_folder`` from what is found in it and in its subfolders; returns the page.

    Args:
        real: clips to show beside what was generated.
        title: None = the name of the folder, or of the videos that were scored where it holds nothing but scores.

    Raises:
        Mistake: no such folder, or nothing in it that could be shown.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise Mistake("no such run folder", where=folder, mend="'drivesim train', 'generate' and 'demo' make one")
    scores = _scores(folder)
    videos, training = _videos(folder, scores), _training(folder)
    sections = [*videos, *_branches(folder), *_real(real), *_score_section(scores), *training]
    if not sections:
        raise Mistake(
            "holds no video, scores or training curves", where=folder, mend="a run folder of drivesim is expected"
        )
    title = title or (folder.resolve().name if videos or training else _scored(scores) or folder.resolve().name)
    own = [block for block in scores if not block.caption] or scores
    stamp = own[0].stamp if len(own) == 1 else None  # that of one evaluation says nothing of another
    facts = _facts(folder)
    page = Page(title, _lead(sections), [*sections, *facts], f"drivesim {drivesim.__version__}", stamp)
    return report.write(page, folder / "report.html")


def video_blocks(file: Path, stamp: Stamp | None = None) -> list[Block]:
    """A generated video: itself, its opening, and contact sheets of its whole length, its key-frames and its frames;
    where its boxes are known, these over some frames, and what label files lie beside it."""
    info = video.probe(file)
    factor = _factor(file, info.fps)
    shape = f"{info.frames} frames of {info.height}x{info.width}"
    caption = f"{shape} at {float(info.fps):g} frames a second, {float(info.seconds):.0f} s. {_filling(factor)}"
    opening = next(video.stream(file, chunk=1)).frames[0]
    blocks: list[Block] = [
        Video(file, caption, stamp),
        Picture(
            opening,
            "The opening: the frame that all others follow from.",
            lossless=True,
            pixelated=opening.shape[1] <= 256,
        ),
    ]
    every = max(info.seconds / SHOWN, 1 / info.fps)
    blocks.append(_sheet(file, 1 / every, SHOWN, f"The whole length, a frame every {float(every):.1f} s."))
    keys = info.fps / factor if factor else min(KEYFRAME_FPS, info.fps)
    shown = "The first key-frames" if factor else "The first frames"
    blocks.append(_sheet(file, keys, 2 * COLUMNS, f"{shown}, {keys} a second."))
    if factor > 1:
        blocks.append(
            _sheet(
                file,
                info.fps,
                2 * COLUMNS,
                f"The first frames as played; every {_ordinal(factor)} is a key-frame (k).",
                factor,
            )
        )
    return [*blocks, *_boxes(file)]


def _boxes(file: Path) -> list[Block]:
    labelled = generated.read(file)
    if labelled is None or not labelled.times:
        return []
    boxes, count = labelled.boxes, len(labelled.times)
    times = labelled.times[:: -(-count // (2 * COLUMNS))]
    frames = []
    for time in times:
        frame = video.read(file, start=time, frames=1).frames[0]
        scale = max(1, round(2 * WIDTH / frame.shape[1]))  # lines and names on small frames would hide them
        large = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        frames.append(draw(large, boxes.at(time), labelled.ids))
    known = f"The boxes of {len(times)} of the {count} frames of which they are known, {len(boxes)} in all"
    caption = f"{known}: what the models were told, and on real frames the clip's own."
    sheet = report.contact_sheet(np.stack(frames), COLUMNS // 2, [f"{float(time):.2f} s" for time in times], 2 * WIDTH)
    names = sorted(folder.name for folder in (file.parent / EXPORT).glob("*") if folder.is_dir())
    told = [Words(f"Label files of these boxes: {', '.join(f'{EXPORT}/{name}' for name in names)}.")] if names else []
    return [Picture(sheet, caption), *told]


def _sheet(file: Path, fps: Fraction, count: int, caption: str, factor: int = 0) -> Picture:
    """The first ``count`` frames at ``fps``; where ``factor`` is given, every so many are marked as key-frames."""
    frames = np.concatenate([clip.frames for clip in islice(video.stream(file, fps=fps, chunk=1), count)])
    stamps = [f"{float(n / fps):.2f} s{' k' if factor and n % factor == 0 else ''}" for n in range(len(frames))]
    return Picture(report.contact_sheet(frames, COLUMNS, stamps, WIDTH), caption)


def _factor(file: Path, fps: Fraction) -> int:
    """Frames per key-frame: what the plan beside the video says, else what the rates say; 0 = not a rollout's rate."""
    plan = _json(file.with_name("plan.json"))
    if isinstance(plan, dict) and isinstance(plan.get("plan"), dict):
        return int(plan["plan"].get("factor", 0))
    ratio = fps / KEYFRAME_FPS
    return int(ratio) if ratio.denominator == 1 else 0


def _filling(factor: int) -> str:
    if factor == 0:
        return ""
    if factor == 1:
        return "Every frame is a key-frame that the model made."
    return (
        f"Every {_ordinal(factor)} frame is a key-frame that the model made; "
        f"the {factor - 1} between two of them are filled in from these two."
    )


def _ordinal(n: int) -> str:
    return f"{n}{'th' if 10 <= n % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def _videos(folder: Path, scores: Sequence[Scores]) -> list[Section]:
    files = sorted(folder.rglob("video.mp4"))
    rows = [row for block in scores for row in block.rows]
    found = []
    for file in files:
        row = _row_of(file, folder, rows)
        try:
            blocks = video_blocks(file, video_stamp(row) if row else None)
        except Mistake as problem:  # one that does not open leaves the page to the others
            blocks = [Words(f"{file.name} {problem.what}.")]
        found.append(Section("Video" if len(files) == 1 else f"Video: {_where(file.parent, folder)}", blocks))
    return found


def _branches(folder: Path) -> list[Section]:
    """The tree of the runs in ``folder``: every branch behind all that it parts from, and when it does."""
    parents: dict[Path, tuple[Path, float]] = {}
    waiting = [file.parent.resolve() for file in sorted(folder.rglob("run.json"))]
    while waiting:
        run = waiting.pop()
        facts = _json(run / "run.json")
        parting = facts.get("from") if isinstance(facts, dict) else None
        if run not in parents and isinstance(parting, dict) and {"run", "second"} <= parting.keys():
            parents[run] = Path(parting["run"]), float(parting["second"])
            if parents[run][0].resolve().is_relative_to(folder.resolve()):  # what is in no folder of ours is not opened
                waiting.append(parents[run][0])
    lines = []
    for run in parents:
        line, seen = run.name, {run}
        while (step := parents.get(run)) is not None and step[0] not in seen:
            run, second = step
            seen.add(run)
            line = f"{run.name} \u2192 {second:.2f} s \u2192 {line}"
        lines.append(line)
    told = "Runs that have one past: each is the run before it, bit for bit, until the second at which they part."
    return [Section("Branches", [Words(told), *map(Words, sorted(lines))])] if lines else []


def _row_of(file: Path, folder: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What was found about a video, by its path as it is now, or, where the folder was moved since or the path is
    relative to another, by the path's end from the folder's own name on."""
    here, end = file.resolve(), (folder.resolve().name, *file.relative_to(folder).parts)
    exact = [row for row in rows if Path(row["video"]).resolve() == here]
    alike = [row for row in rows if Path(row["video"]).parts[-len(end) :] == end]
    return next(iter(exact), alike[0] if len({row["video"] for row in alike}) == 1 else None)


def _real(files: Sequence[Path]) -> list[Section]:
    """Real clips as a contact sheet each, for the eye to compare with."""
    sheets: list[Block] = []
    for file in files:
        info = video.probe(file)
        count = min(SHOWN // 2, video.frames_in(info.seconds, KEYFRAME_FPS))
        sheets.append(_sheet(file, min(KEYFRAME_FPS, info.fps), count, f"{file.name}: real, never trained on."))
    return [Section("Real footage, to compare with", sheets)] if sheets else []


def _scores(folder: Path) -> list[Scores]:
    found = []
    for file in sorted(folder.rglob("scores.json"), key=lambda f: (len(f.parts), f)):
        content = _json(file)
        scores = [one for one in (content if isinstance(content, list) else [content]) if _is_score(one)]
        if scores:
            found.append(Scores(scores, "" if file.parent == folder else _where(file.parent, folder)))
    return found


def _is_score(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("receipt"), dict) and "metric" in content


def _score_section(scores: Sequence[Scores]) -> list[Section]:
    if not scores:
        return []
    explained = Words(
        "Lower is better unless a score says otherwise. The floor is what real video scores against itself. The "
        "controls are real clips made worthless: their first frame held, or their frames shuffled. A score is only "
        "worth something well below the controls, and too few clips push it upward: the estimate is without that "
        "bias, with its standard error."
    )
    return [Section("Scores", [explained, *scores])]


def _scored(scores: Sequence[Scores]) -> str:
    """Name of the folder that all scored videos lie in; "" where it is not known."""
    parents = {Path(row["video"]).parent for block in scores for row in block.rows}
    return parents.pop().name if len(parents) == 1 else ""


def _training(folder: Path) -> list[Section]:
    blocks: list[Block] = []
    for file in sorted(folder.rglob("metrics.csv")):
        stage = _where(file.parent, folder)
        blocks.append(Curves(file, f"{stage}, by optimiser step"))
        pictures = sorted(
            (p for p in (file.parent / "samples").glob("*") if p.suffix in PICTURES), key=lambda p: p.name
        )
        for picture in pictures[-1:]:
            try:
                image = video.image(picture)
            except Mistake:
                continue
            caption = f"{stage}: the last samples, {picture.name}"
            blocks.append(Picture(image, caption, lossless=image.size < 2**20))
    return [Section("Training", blocks)] if blocks else []


def _facts(folder: Path) -> list[Section]:
    """run.json of the run and of the runs inside it, as tables."""
    blocks: list[Block] = []
    for file in sorted(folder.rglob("run.json"), key=lambda f: (len(f.parts), f)):
        facts = _json(file)
        if isinstance(facts, dict):
            blocks.append(Facts(_readable(facts), "" if file.parent == folder else _where(file.parent, folder)))
    return [Section("How it was made", blocks)] if blocks else []


def _readable(facts: dict[str, Any]) -> dict[str, Any]:
    """Lists on one line, sub-tables kept, long hashes shortened to what tells them apart."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            found[name] = _readable(value)
        elif isinstance(value, list):
            found[name] = " ".join(map(str, value))
        elif isinstance(value, str) and len(value) == 64:
            found[name] = value[:16]
        else:
            found[name] = f"{value:.4g}" if isinstance(value, float) else value
    return found


def _lead(sections: list[Section]) -> str:
    blocks = [block for section in sections for block in section.blocks]
    films = sum(isinstance(block, Video) for block in blocks)
    parts = []
    if films:
        parts.append(
            "A drive that was generated, not filmed."
            if films == 1
            else f"{films} drives that were generated, not filmed."
        )
    elif any(isinstance(block, Curves) for block in blocks):
        parts.append("A training run.")
    parts += [block.lead for block in blocks if isinstance(block, Scores)]
    return " ".join(parts) or "What was found in this folder."


def _where(place: Path, folder: Path) -> str:
    return str(place.relative_to(folder)) if place != folder else folder.resolve().name


def _json(file: Path) -> Any:
    """The content of ``file``, or None where there is none or it is not whole."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
