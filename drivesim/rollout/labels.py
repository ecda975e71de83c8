"""What leaves with a rollout's video: what every frame is, its boxes, and label files in other people's formats."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from drivesim.data import generated
from drivesim.data.annotations import Labelled, Remarks
from drivesim.data.formats import Format
from drivesim.data.video import Size
from drivesim.disk import writing
from drivesim.rollout.branch import Branch
from drivesim.rollout.placed import Placed
from drivesim.rollout.plan import Plan
from drivesim.scene import Labels

EXPORT = "export"


def save(
    out: Path,
    plan: Plan,
    fps: Fraction,
    filled: str,
    labels: Labels,
    placed: Placed | None,
    size: Size,
    front: int,
    real: int,
    branch: Branch | None = None,
) -> Labelled | None:
    """Writes the tables beside ``out/video.mp4``; returns its boxes, None where they are unknown.

    Args:
        fps: at which the video is played; its tables have its own times.
        filled: what frames are called that no model made.
        size: height and width of the video.
        front: real frames before the output's frame 0.
        real: frames of the output itself that are real, 0 or 1.
        branch: whose past the video has, with what is known of it.
    """
    made = (plan.kind(n) for n in range(real, plan.total))
    kinds = ["real"] * (front + real) + [filled if kind == "filled" else kind for kind in made]
    labelled = None
    if placed is not None:
        name = Path(generated.VIDEO).stem
        labelled = placed.labelled(name, len(kinds), front + real, front, plan.fps, size, labels)
        labelled = _played(labelled, plan.fps / fps)
    frames = generated.Frames(kinds, fps, [labels] * len(kinds), plan.fps)
    if branch is not None:
        frames, labelled = generated.with_past(frames, labelled, branch.run / generated.VIDEO, front + branch.frame)
    generated.save(out, frames, labelled)
    return labelled


def _played(labelled: Labelled, slower: Fraction) -> Labelled:
    """The same where every moment comes so many times as late."""
    if slower == 1:
        return labelled
    boxes = replace(labelled.boxes, time=tuple(time * slower for time in labelled.boxes.time))
    return replace(labelled, boxes=boxes, times=tuple(time * slower for time in labelled.times))


def export(labelled: Labelled, out: Path, fps: Fraction, formats: Iterable[Format]) -> dict[str, dict[str, int]]:
    """Writes ``out/export/FORMAT`` for every one of ``formats``; the folder is there when all of it is.

    Returns:
        What each cannot carry: how often, by reason.

    Raises:
        Mistake: a file cannot be written.
    """
    lost, whole = {}, out / EXPORT
    part = out / f".{EXPORT}.{os.getpid()}.part"
    try:
        for form in formats:
            assert form.write is not None  # known.written
            remarks = Remarks()
            with writing(whole / form.name):
                form.write([labelled], part / form.name, fps, remarks)
            lost[form.name] = remarks.count
        if lost:
            with writing(whole):
                shutil.rmtree(whole, ignore_errors=True)  # of a run that was killed before it was done
                os.replace(part, whole)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return lost
