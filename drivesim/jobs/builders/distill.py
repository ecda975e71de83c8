"""A stage that is distilled: it begins with its teacher's weights, and learns to reach in few steps what they reach in
more."""

from dataclasses import replace
from pathlib import Path

from drivesim import config, weights
from drivesim.diffusion.distill import DistillConfig
from drivesim.errors import Mistake
from drivesim.jobs.builders.common import Built
from drivesim.training.diffusion import ImageStage, TemporalStage


def distilled(built: Built, settings: DistillConfig, stage: str, init: str) -> Built:
    """Args:
        init: what the configuration says of other weights to begin with; it has to say nothing.

    Raises:
        Mistake: no such teacher, one of other shapes, over other parents or of another schedule, one that knows other
            steps alone, or guidance by what the model is not told.
    """
    teacher, learned = Path(settings.teacher), built.stage
    assert isinstance(learned, ImageStage)  # the stages that have this setting
    if init:
        raise Mistake("training begins with the teacher's weights", field="init", mend="leave init or distill out")
    tensors, header = weights.load(teacher, stage)
    weights.fill(built.module, tensors, teacher)
    beside = built.header().parents
    for parent, wanted in header.parents.items():
        if beside.get(parent, wanted) != wanted:
            raise Mistake(f"was trained on another {parent}", where=teacher, mend=f"name the {parent} of its folder")
    own = config.plain(learned.schedule.config)
    if other := [name for name, value in own.items() if header.schedule.get(name, value) != value]:
        what = f"its noise schedule has another {', '.join(other)} than the image model's"
        raise Mistake(what, where=teacher, mend="name the image model that it was trained with")
    knows = header.schedule.get("distilled")
    if knows is not None and own["kind"] == "edm":  # the levels of few steps do not lie among those of more
        what = f"was distilled itself, to {knows} steps of EDM's own"
        raise Mistake(what, where=teacher, mend="take the weights that it was taught by")
    if knows is not None and knows != settings.steps * settings.substeps:
        what = f"was distilled itself, to {knows} steps, not {settings.steps} x {settings.substeps}"
        raise Mistake(what, where=teacher, mend="take the weights that it was taught by, or so many substeps")
    if (shared := header.schedule.get("shared", 0.0)) != learned.shared:
        what = f"its frames shared {shared:g} of their noise, not {learned.shared:g}"
        raise Mistake(what, where=teacher, mend=f"loss.shared={shared:g}")
    for name, told in (
        ("context", isinstance(learned, TemporalStage) and not learned.clean),
        ("labels", learned.image.labels is not None or learned.text is not None),
        ("boxes", learned.image.takes_boxes),
    ):
        if getattr(settings, name) != 1 and not told:
            raise Mistake(f"the model is told no {name}", field=f"distill.{name}", mend="leave it out")
    learned.distil(settings)

    def written() -> weights.Header:
        made = built.header()
        return replace(made, schedule={**made.schedule, "distilled": settings.steps})

    return replace(built, init=teacher, header=written)
