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
from drivesim.data import video
from drivesim.errors import Mistake
from drivesim.report import Block, Curves, Facts, Page, Picture, Scores, Section, Video, Words
from drivesim.scene import KEYFRAME_FPS

COLUMNS = 6
SHOWN = 24
WIDTH = 256
SAMPLES = 8
PICTURES = (".png", ".jpg", ".jpeg")


def run(run_folder: Path, real: Sequence[Path] = ()) -> Path:
    """Writes ``report.html`` into ``run_folder`` from what is found in it and in its subfolders; returns the page.

    Args:
        real: clips to show beside what was generated.

    Raises:
        Mistake: no such folder, or nothing in it that could be shown.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise Mistake("no such run folder", where=folder, mend="'drivesim train', 'generate' and 'demo' make one")
    sections = [*_videos(folder), *_real(real), *_scores(folder), *_training(folder)]
    if not sections:
        raise Mistake(
            "holds no video, scores or training curves", where=folder, mend="a run folder of drivesim is expected"
        )
    facts = _facts(folder)
    lead = _lead(folder, sections)
    return report.write(
        Page(folder.resolve().name, lead, [*sections, *facts], f"drivesim {drivesim.__version__}"),
        folder / "report.html",
    )


def video_blocks(file: Path) -> list[Block]:
    """A generated video: itself, its opening, and contact sheets of its whole length, its key-frames and its frames."""
    info = video.probe(file)
    factor = _factor(file, info.fps)
    shape = f"{info.frames} frames of {info.height}x{info.width}"
    caption = f"{shape} at {float(info.fps):g} frames a second, {float(info.seconds):.0f} s. {_filling(factor)}"
    opening = next(video.stream(file, chunk=1)).frames[0]
    blocks: list[Block] = [
        Video(file, caption),
        Picture(
            opening,
            "The opening: the frame that all others follow from.",
            lossless=True,
            pixelated=opening.shape[1] <= 256,
        ),
    ]
    every = max(info.seconds / SHOWN, 1 / info.fps)
    blocks.append(_sheet(file, 1 / every, SHOWN, f"The whole length, a frame every {float(every):.1f} s."))
    blocks.append(_sheet(file, min(KEYFRAME_FPS, info.fps), 2 * COLUMNS, "The first key-frames, 15/8 a second."))
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
    return blocks


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


def _videos(folder: Path) -> list[Section]:
    files = sorted(folder.rglob("video.mp4"))
    return [
        Section("Video" if len(files) == 1 else f"Video: {_where(file.parent, folder)}", video_blocks(file))
        for file in files
    ]


def _real(files: Sequence[Path]) -> list[Section]:
    """Real clips as a contact sheet each, for the eye to compare with."""
    sheets: list[Block] = []
    for file in files:
        info = video.probe(file)
        count = min(SHOWN // 2, video.frames_in(info.seconds, KEYFRAME_FPS))
        sheets.append(_sheet(file, min(KEYFRAME_FPS, info.fps), count, f"{file.name}: real, never trained on."))
    return [Section("Real footage, to compare with", sheets)] if sheets else []


def _scores(folder: Path) -> list[Section]:
    found: list[Block] = []
    for file in sorted(folder.rglob("scores.json")):
        scores = _json(file)
        if isinstance(scores, list) and scores:
            found.append(Scores(scores, "" if file.parent == folder else _where(file.parent, folder)))
    if not found:
        return []
    explained = Words(
        "The floor is what real video scores against itself. The controls are real clips made worthless: their first "
        "frame held, or their frames shuffled. A score is only worth something well below the controls."
    )
    return [Section("Scores", [explained, *found])]


def _training(folder: Path) -> list[Section]:
    blocks: list[Block] = []
    for file in sorted(folder.rglob("metrics.csv")):
        stage = _where(file.parent, folder)
        blocks.append(Curves(file, f"{stage}, by optimiser step"))
        pictures = sorted(
            (p for p in (file.parent / "samples").glob("*") if p.suffix in PICTURES), key=lambda p: p.name
        )
        for picture in pictures[-1:]:
            image = cv2.imread(str(picture), cv2.IMREAD_COLOR)
            if image is not None:
                blocks.append(
                    Picture(
                        cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
                        f"{stage}: the last samples, {picture.name}",
                        lossless=image.size < 2**20,
                    )
                )
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


def _lead(folder: Path, sections: list[Section]) -> str:
    blocks = [block for section in sections for block in section.blocks]
    films = sum(isinstance(block, Video) for block in blocks)
    scores = [score for block in blocks if isinstance(block, Scores) for score in block.scores]
    parts = []
    if films:
        parts.append(
            "A drive that was generated, not filmed."
            if films == 1
            else f"{films} drives that were generated, not filmed."
        )
    elif any(isinstance(block, Curves) for block in blocks):
        parts.append("A training run.")
    for score in scores:
        control = min(score["controls"].values(), default=None)
        against = f" where the better control scores {control:.1f}" if control is not None else ""
        parts.append(f"{score['metric']} is {score['value']:.1f}{against}; lower is better.")
    return " ".join(parts) or "What was found in this folder."


def _where(place: Path, folder: Path) -> str:
    return str(place.relative_to(folder)) if place != folder else folder.resolve().name


def _json(file: Path) -> Any:
    """The content of ``file``, or None where there is none or it is not whole."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
