"""Short rollouts as clips: what is taken of them, and that true video scores better than its frozen first frame."""

import argparse
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from drivesim import yamlfile
from drivesim.data import video
from drivesim.data.index import Index
from drivesim.errors import Mistake
from drivesim.jobs import index
from drivesim.metrics.builtin import Builtin
from drivesim.scene import KEYFRAME_FPS

from . import loaded

RECIPE = """
name: held
kind: world
clips: 4
seconds: 20
fps: 15/8
size: [64, 128]
val: 1.0
"""
COUNT = 9  # clips a rollout: 36 in all


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return loaded("measure_drift")


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drift")
    (folder / "world.yaml").write_text(RECIPE)
    index.run(folder / "world.yaml", folder / "held", seed=3)
    return folder / "held"


def scored(tool: ModuleType, held: Path, folder: Path, still: bool) -> dict[str, float]:
    """Of the held-back clips themselves, or of their first frames."""
    for n, entry in enumerate(Index.open(held).entries):
        frames = np.concatenate([clip.frames for clip in video.stream(entry.file, fps=KEYFRAME_FPS, chunk=64)])
        frames = np.broadcast_to(frames[:1], frames.shape).copy() if still else frames
        with video.Writer(folder / "rollouts" / f"{n}" / "video.mp4", (64, 128), KEYFRAME_FPS) as writer:
            writer.write(frames)
    file = folder / "scores.json"
    tool.clips(argparse.Namespace(index=held, folder=folder, count=COUNT, json=file))
    return json.loads(file.read_text())


def test_true_video_is_near_and_frozen_video_is_far(tool: ModuleType, held: Path, tmp_path: Path) -> None:
    true, frozen = (scored(tool, held, tmp_path / name, name == "frozen") for name in ("true", "frozen"))
    assert true["clips"] == true["real clips"] == 4 * COUNT
    assert abs(true["fvd"]) < 0.1 * frozen["fvd"] and frozen["fvd se"] > 0
    assert true["motion"] == pytest.approx(1, abs=0.1) and frozen["motion"] < 0.2
    assert true["sharpness"] == pytest.approx(1, abs=0.1)


def test_clips_and_their_single_frames_are_of_the_same_places(tool: ModuleType, held: Path) -> None:
    film = tool.Film(Index.open(held).entries[0].file, Builtin())
    length = len(film.frames)
    assert film.starts(0.0, film.seconds, 3) == [0, round((length - 16) / 2), length - 16]
    after = float(1 / KEYFRAME_FPS)
    assert film.starts(after, film.seconds, 2) == [1, length - 16]
    pictures = film.pictures(0.0, film.seconds, 1)
    assert np.array_equal(pictures, film.frames[[0, 5, 10, 15]])
    assert torch.equal(film.clips(0.0, film.seconds, 1)[0], film.prepared[:16])
    assert tool.single([film], 0.0, 2).shape[:2] == (2, 4)


def test_openings_need_no_more_than_they_show_where_no_boxes_are_told(
    tool: ModuleType, held: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool.generate, "run", lambda *_, **__: None)
    told = {"weights": tmp_path, "index": held, "rollouts": 6, "seconds": 60.0, "settings": []}
    tool.roll(argparse.Namespace(**told, out=tmp_path / "none", boxes=False, labels=False))
    written = [yamlfile.read(file) for file in sorted((tmp_path / "none" / "scenarios").glob("*.yaml"))]
    assert [each["opening"]["at"] for each in written] == [0, 0, 0, 0, 8.533, 8.533]
    assert written[0]["seeds"] == [0] and set(written[0]["labels"].values()) <= {None}
    with pytest.raises(Mistake, match="no clip lasts 61 seconds"):
        tool.roll(argparse.Namespace(**told, out=tmp_path / "boxes", boxes=True, labels=True))
