"""Training on generated video beside training on true frames: which frames, with which boxes, and the score."""

import importlib
import json
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from drivesim import world
from drivesim.data import generated, video
from drivesim.data.annotations import Labelled
from drivesim.data.index import Index
from drivesim.data.sources import Recipe
from drivesim.errors import Mistake
from drivesim.jobs import index
from drivesim.metrics.precision import Marks
from drivesim.scene import Labels

FPS, FRAMES, SEED = Fraction(15, 8), 6, 330
KINDS = ["real", "real", "key", "key", "key", "key"]
TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def tool():
    """One tool imports the other, as scripts of one folder do."""
    sys.path.insert(0, str(TOOLS))
    try:
        yield importlib.import_module("train_on_generated")
    finally:
        sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of two runs, of which the first two frames are real, and an index of three clips, one of them held back.
    The runs are of the world itself, a little larger than it is looked at."""
    root = tmp_path_factory.mktemp("both")
    for n in range(2):
        clip = world.render(SEED + n, FRAMES / FPS, FPS, (144, 288))
        run = root / "runs" / f"run-{n}"
        run.mkdir(parents=True)
        with video.Writer(run / "video.mp4", (144, 288), FPS) as writer:
            writer.write(clip.frames)
        times = tuple(m / FPS for m in range(FRAMES))
        labelled = Labelled("video", clip.boxes, (144, 288), times)
        generated.save(run, generated.Frames(KINDS, FPS, [Labels()] * FRAMES), labelled)
    recipe = Recipe(name="tiny", kind="world", clips=3, seconds=float(FRAMES / FPS), fps=str(FPS), val=0.3, seed=7)
    index.render(recipe, root / "index", 0)
    return root / "runs", root / "index"


def test_frames_of_the_opening_are_left_out(tool, folders):
    made = tool.runs(folders[0])
    assert [each.places for each in made] == [[2, 3, 4, 5]] * 2 and tool.total(made) == 8
    (one, other), clip = made, world.render(SEED, FRAMES / FPS, FPS, (144, 288))
    pairs = list(one.frames([0, 3]))
    assert len(pairs) == 2 and len(list(other.frames([]))) == 0
    for (picture, boxes), place in zip(pairs, (2, 5), strict=True):
        true = cv2.resize(clip.frames[place], (256, 128), interpolation=cv2.INTER_AREA)
        assert picture.shape == true.shape and np.abs(picture.astype(float) - true).mean() < 6
        assert np.array_equal(boxes.box, clip.boxes.at(place / FPS).box) and len(boxes)


def test_an_index_gives_every_frame_with_its_boxes(tool, folders):
    held = Index.open(folders[1])
    (clip,) = tool.clips(folders[1], "val")
    boxes = held.boxes(held.split("val")[0].clip_id)
    pairs = list(clip.frames(range(FRAMES)))
    assert len(pairs) == FRAMES == len(clip.places)
    assert sum(len(own) for _, own in pairs) == len(boxes) > 0
    assert len(tool.clips(folders[1], "train")) == 2


def test_frames_are_spread_evenly(tool, folders):
    made = tool.runs(folders[0])
    assert tool.spread(made, 8) == [[0, 1, 2, 3]] * 2
    assert tool.spread(made, 4) == [[0, 2]] * 2
    assert tool.spread(made, 3) == [[0, 2], [1]]


def test_what_has_no_boxes_is_a_mistake(tool, tmp_path):
    with pytest.raises(Mistake, match="no run with boxes"):
        tool.runs(tmp_path)
    with pytest.raises(Mistake, match="is not an index"):
        tool.clips(tmp_path, "train")


def marks(*hits: bool) -> dict[str, Marks]:
    """One detection and one box a frame."""
    return {"car": Marks(np.arange(len(hits)), np.array(hits), np.ones(len(hits), np.int64))}


def test_the_interval_is_of_clips_and_seeds(tool):
    clip = [0, 0, 1, 1]
    perfect, half = marks(True, True, True, True), marks(True, True, False, False)
    same = tool.interval({"generated": [perfect], "true": [perfect]}, clip)
    assert same == {"generated": [1, 1], "true": [1, 1], "ratio": [1, 1]}
    by_clip = tool.interval({"generated": [half], "true": [perfect]}, clip)
    assert by_clip["ratio"] == by_clip["generated"] == [0, 1] and by_clip["true"] == [1, 1]
    by_seed = tool.interval({"generated": [marks(*[False] * 4), perfect], "true": [perfect] * 2}, clip)
    assert by_seed["ratio"] == [0, 1]
    assert by_seed == tool.interval({"generated": [marks(*[False] * 4), perfect], "true": [perfect] * 2}, clip)
    assert tool.interval({"generated": [perfect], "true": [marks(*[False] * 4)]}, clip)["ratio"] is None


def test_two_folders_become_a_ratio(tool, folders, tmp_path, monkeypatch, capsys):
    runs, world_index = map(str, folders)
    out = tmp_path / "score.json"
    options = ["--generated", runs, "--true", world_index, "--held", world_index, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["train_on_generated.py", *options, "--steps", "1", "--seeds", "2"])
    threads = torch.get_num_threads()
    try:
        tool.main()
    finally:
        torch.set_num_threads(threads)
    score = json.loads(out.read_text())
    assert (score["frames"], score["steps"], score["held"]) == (8, 1, {"frames": FRAMES, "clips": 1})
    assert {name: len(each["seeds"]) for name, each in score["ap50"].items()} == {"generated": 2, "true": 2}
    assert all(0 <= value <= 1 for each in score["ap50"].values() for value in each["seeds"])
    assert "ratio" in capsys.readouterr().out
