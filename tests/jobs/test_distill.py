"""What a teacher must be, and what of a student stays as its teacher has it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from drivesim import config, weights
from drivesim.diffusion.distill import DistillConfig
from drivesim.diffusion.loss import LossConfig
from drivesim.diffusion.noise import Schedule, ScheduleConfig
from drivesim.errors import Mistake
from drivesim.jobs.builders.common import Built
from drivesim.jobs.builders.distill import distilled
from drivesim.jobs.builders.latents import KeyframesRun
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.video import ImageModel
from drivesim.training.diffusion import ContextConfig, Latents
from drivesim.training.interpolation import EndsConfig, InterpolationStage, widened
from tests.training.tiny import AUTOENCODER, BETWEEN, LOOP, SCHEDULE, UNET, Memory

EDM = ScheduleConfig(kind="edm", target="edm", sigma_max=80.0)
PARENTS = {"autoencoder": "a", "text": "t"}


def built(schedule: ScheduleConfig) -> Built:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        latents = Latents(torch.zeros(4), torch.ones(4), Autoencoder(AUTOENCODER))
        image = widened(ImageModel(UNET))
        stage = InterpolationStage(image, latents, BETWEEN, EndsConfig(), schedule, LossConfig(), LOOP, whole=True)
    header = weights.Header("interpolation", {}, parents=PARENTS, schedule={**config.plain(schedule), "shared": 0.0})
    return Built(stage, stage.trained, None, (), "", lambda: header)


def taught(folder: Path, kind: ScheduleConfig, settings: DistillConfig, **other: Any) -> Built:
    """A student of a teacher with the same weights, in whose header something is ``other``."""
    made, file = built(kind), folder / "interpolation.safetensors"
    weights.save(file, made.module.state_dict(), replace(made.header(), **other))
    return distilled(made, replace(settings, teacher=str(file)), "interpolation", "")


@pytest.mark.parametrize(
    ("schedule", "settings", "other", "what"),
    [
        (SCHEDULE, DistillConfig(), {"parents": {"text": "another"}}, "another text"),
        (SCHEDULE, DistillConfig(), {"schedule": config.plain(replace(SCHEDULE, target="eps"))}, "another target"),
        (EDM, DistillConfig(), {"schedule": {**config.plain(EDM), "distilled": 16}}, "distilled itself, to 16 steps"),
        (SCHEDULE, DistillConfig(boxes=2), {}, "told no boxes"),
    ],
)
def test_what_cannot_be_a_teacher(
    tmp_path: Path, schedule: ScheduleConfig, settings: DistillConfig, other: dict[str, Any], what: str
) -> None:
    with pytest.raises(Mistake, match=what):
        taught(tmp_path, schedule, settings, **other)


def test_few_levels_lie_among_those_of_more_but_for_edms() -> None:
    """Why a model of a discrete schedule may be distilled again, and one of EDM's may not."""
    for schedule, among in ((Schedule(SCHEDULE), True), (Schedule(EDM), False)):
        spacing = "trailing" if among else "karras"
        few, more = (schedule.levels(steps, spacing).sigmas for steps in (4, 16))
        assert torch.equal(few, more[::4]) == among


@pytest.mark.parametrize("schedule", [SCHEDULE, EDM], ids=["v", "edm"])
def test_a_whole_student_is_told_in_its_teachers_words(tmp_path: Path, schedule: ScheduleConfig) -> None:
    """All of it learns, but the labels' tokens: the teacher is told those, too."""
    stage = taught(tmp_path, schedule, DistillConfig(labels=2)).stage
    items = [Memory("interpolation", LOOP)[n] for n in range(4)]
    stage({name: torch.stack([item[name] for item in items]) for name in items[0]}).backward()
    moves = {name for name, p in stage.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert any(name.startswith("image.unet") for name in moves) and any(name.startswith("temporal") for name in moves)
    assert not any(name.startswith("image.labels") for name in moves)
    held = [p for group in stage.configure_optimizers().param_groups for p in group["params"]]
    assert not {id(p) for p in stage.image.labels.parameters()} & {id(p) for p in held}


def test_frames_of_its_own_are_no_students_context() -> None:
    with pytest.raises(Mistake, match="in one step of any level"):
        KeyframesRun(context=ContextConfig(own=0.5), distill=DistillConfig(teacher="w.safetensors"))
