"""The classifier that says whether videos show what they were told, and the pictures of a subject."""

import json
from argparse import Namespace
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from drivesim.data import video

from . import loaded


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return loaded("measure_text")


@pytest.fixture
def quick(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLDS", 24), ("FRAMES", 2), ("STEPS", 40), ("BATCH", 8)):
        monkeypatch.setattr(tool, name, value)


def test_fog_hides_what_is_far_and_nothing_else(tool: ModuleType) -> None:
    seed = next(seed for seed in range(tool.SUBJECT, tool.HELD * 2) if not tool.World(seed).look.night)
    (clear, there), (fog, still) = (tool.world(seed, how).frame(3.0, tool.SIZE) for how in (False, True))
    assert [each.track for each in there] == [each.track for each in still]
    assert np.ptp(fog[24:30].reshape(-1, 3), axis=0).mean() < np.ptp(clear[24:30].reshape(-1, 3), axis=0).mean()
    assert np.abs(fog[:16].astype(float) - tool.FOG).mean() < 12, "the sky"


def test_videos_are_counted_by_their_prompts(tool: ModuleType, quick: None, tmp_path: Path) -> None:
    """Night from day is learned in a moment; what it says of six worlds is what they are."""
    truth = tool.rendered(tool.HELD, 6)
    for n, (frame, night) in enumerate(zip(truth.pictures[::2], truth.night[::2], strict=True)):
        run = tmp_path / "runs" / str(n)
        run.mkdir(parents=True)
        words = "driving at night, light traffic" if night else "driving by day, light traffic"
        run.joinpath("scenario.yaml").write_text(f"opening: {{generate: {{}}}}\nlabels: {{prompt: '{words}'}}\n")
        with video.Writer(run / "video.mp4", tool.SIZE, Fraction(24)) as writer:
            writer.write(np.repeat(frame[None], 3, axis=0))
    file = tmp_path / "said.json"
    tool.score(Namespace(folders=[tmp_path / "runs"], json=file, every=1))
    said = json.loads(file.read_text())
    assert said["classifier"]["true"]["night"] > 0.9
    assert {name.split(": ")[1] for name in said["prompts"]} == {
        f"driving {when}, light traffic" for when in ("at night", "by day")
    }
    for name, row in said["prompts"].items():
        assert row["night"] == ("night" in name)
    assert sum(row["videos"] for row in said["prompts"].values()) == 6
