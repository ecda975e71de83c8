"""A stage that is distilled: it begins with its teacher's weights, and learns to reach in few steps what they reach in
more."""

from dataclasses import replace
from pathlib import Path

from drivesim import weights
from drivesim.diffusion.distill import DistillConfig
from drivesim.errors import Mistake
from drivesim.jobs.builders.common import Built
from drivesim.training.diffusion import ImageStage


def distilled(built: Built, settings: DistillConfig, stage: str, init: str) -> Built:
    """Args:
        init: what the configuration says of other weights to begin with; it has to say nothing.

    Raises:
        Mistake: no such teacher, one of other shapes or over other parents, one that knows too few steps itself, or
            guidance by what the model is not told.
    """
    teacher, learned = Path(settings.teacher), built.stage
    assert isinstance(learned, ImageStage)  # the stages that have this setting
    if init:
        raise Mistake("training begins with the teacher's weights", field="init", mend="leave init or distill out")
    tensors, header = weights.load(teacher, stage)
    weights.fill(built.module, tensors, teacher)
    beside = {file.stem: weights.sha256(file) for file in built.parents if file.is_file()}
    for parent, wanted in header.parents.items():
        if beside.get(parent, wanted) != wanted:
            raise Mistake(f"was trained on another {parent}", where=teacher, mend=f"name the {parent} of its folder")
    knows = header.schedule.get("distilled")
    if knows is not None and knows != settings.steps * settings.substeps:
        what = f"was distilled itself, to {knows} steps, not {settings.steps} x {settings.substeps}"
        raise Mistake(what, where=teacher, mend="take the weights that it was taught by, or so many substeps")
    if (shared := header.schedule.get("shared", 0.0)) != learned.shared:
        what = f"its frames shared {shared:g} of their noise, not {learned.shared:g}"
        raise Mistake(what, where=teacher, mend=f"loss.shared={shared:g}")
    if settings.boxes != 1 and not learned.image.takes_boxes:
        raise Mistake("the model is told no boxes", field="distill.boxes", mend="leave it out")
    learned.distil(settings)

    def written() -> weights.Header:
        made = built.header()
        return replace(made, schedule={**made.schedule, "distilled": settings.steps})

    return replace(built, init=teacher, header=written)
