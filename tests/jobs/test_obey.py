"""``evaluate --boxes`` on bright rectangles: what is looked at, what comes out, and what is refused."""

import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from drivesim import config
from drivesim.data import generated, index
from drivesim.data.annotations import Labelled
from drivesim.data.gather import gather
from drivesim.data.index import Rows
from drivesim.data.video import Writer
from drivesim.errors import Mistake
from drivesim.jobs import evaluate, obey
from drivesim.jobs.evaluate import Settings
from drivesim.jobs.index import run as make_index
from drivesim.metrics import verdict
from drivesim.metrics.detection import Detector, Found
from drivesim.scene import Boxes, Labels

FPS, SIZE, FRAMES = Fraction(15), (64, 128), 60


class Bright:
    """Finds bright rectangles; all of them are cars."""

    name, sha, classes, threshold = "bright", "0" * 64, frozenset({"car"}), 0.5

    def __init__(self):
        self.looked = 0

    def __call__(self, frames):
        self.looked += len(frames)
        return [self._seen(frame) for frame in frames]

    def _seen(self, frame):
        mask = (frame.mean(-1) > 128).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        rows = [stats[n] for n in range(1, count) if stats[n][4] > 20]
        box = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in rows], float).reshape(-1, 4)
        scale = [frame.shape[1], frame.shape[0]] * 2
        return Found(box / scale, ("car",) * len(rows), np.full(len(rows), 0.9))


def place(track, n):
    """Where a rectangle is in frame ``n``, in pixels: each has its own lane and its own pace."""
    x = (10 + 30 * track + (1 + track) * n // 4) % 100
    return (x, 8 + 26 * track, x + 20, 24 + 26 * track)


def film(folder, shown=lambda n: (0, 1), told=lambda n: (0, 1), kinds=None, name=generated.VIDEO, phase=0):
    """A video of ``FRAMES``, rectangles by the tracks that ``shown`` says, tables by those that ``told`` says."""
    folder.mkdir(parents=True, exist_ok=True)
    with Writer(folder / name, SIZE, FPS) as writer:
        for n in range(FRAMES):
            frame = np.full((*SIZE, 3), 40, np.uint8)
            for track in shown(n):
                x0, y0, x1, y1 = place(track, n + phase)
                frame[y0:y1, x0:x1] = 230
            writer.write(frame[None])
    rows = [(n, track) for n in range(FRAMES) for track in told(n)]
    boxes = Boxes(
        time=tuple(n / FPS for n, _ in rows),
        track=np.array([track for _, track in rows], np.int64),
        cls=("car",) * len(rows),
        box=np.array([place(track, n + phase) for n, track in rows], float).reshape(-1, 4) / [128, 64, 128, 64],
        visibility=np.full(len(rows), np.nan),
    )
    if name == generated.VIDEO:
        labelled = Labelled("video", boxes, SIZE, tuple(n / FPS for n in range(FRAMES)))
        frames = generated.Frames(kinds or ["key"] * FRAMES, FPS, [Labels()] * FRAMES)
        generated.save(folder, frames, labelled)
    return boxes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """``good`` shows what it was told; ``late`` loses all of it after half of the time; four of each."""
    root = tmp_path_factory.mktemp("runs")
    for n in range(4):
        film(root / "good" / str(n), phase=41 * n)
        film(root / "late" / str(n), shown=lambda n: (0, 1) if n < FRAMES // 2 else (), phase=41 * n)
    return root


@pytest.fixture(scope="module")
def true(tmp_path_factory):
    """An index of true clips with their boxes, at twice the size."""
    root = tmp_path_factory.mktemp("true")
    for n in range(3):
        film(root / "clips" / str(n), phase=11 * n + 3)
    make_index(root / "clips", root / "index")
    return root / "index"


def measured(real, made, detector=None, **kwargs):
    detector = detector or Bright()
    plan = obey.planned((real, made), (gather(real), gather(made)), kwargs.pop("own", False), **kwargs)
    return plan, *obey.measured(plan, detector, None, lambda frames: None)


def test_the_mock_is_a_detector():
    assert isinstance(Bright(), Detector)


def test_a_video_that_obeys_scores_like_true_frames_and_far_above_chance(runs, true):
    plan, score = measured(true, runs / "good")
    assert score.metric == "ap50" and score.value == pytest.approx(1, abs=0.01)
    assert score.controls["true"] == pytest.approx(1, abs=0.01) and score.controls["shuffled"] < 0.3
    whole = score.obedience["whole"]
    assert whole["missing"] == whole["hallucinated"] == 0 and whole["iou"] > 0.85 and whole["centre_pixels"] < 1
    assert (whole["videos"], whole["frames"], whole["boxes"]) == (
        4,
        4 * 30,
        4 * 60,
    )  # every second frame: 15/2 a second
    assert score.usable_until == score.curve[-1]["t1"] == 4 and score.band["limit"] == pytest.approx(0.5, abs=0.01)
    assert score.receipt.extractor == {"name": "bright", "sha": "0" * 64} and score.receipt.fps == "15/2"
    assert score.receipt.protocol == "boxes" and "told" in score.receipt.rules and score.receipt.size == SIZE
    assert score.n_generated == 120 and score.n_real == 30 * len(plan.true) and not score.warnings
    assert json.loads(json.dumps(score.plain())) == score.plain()


def test_what_leaves_its_boxes_is_usable_until_then(runs, true):
    _, score = measured(true, runs / "late")
    assert [window["t0"] for window in score.curve] == [0, 1, 2, 3] and score.usable_until == 2
    assert [round(window["value"], 2) for window in score.curve] == [1, 1, 0, 0]
    assert score.curve[3]["hi"] < score.band["limit"]
    assert [row["missing"] for row in score.obedience["by_second"]] == [0, 0, 1, 1]
    assert {row["video"][-len("0/video.mp4") :] for row in score.obedience["by_video"]} == {
        f"{n}/video.mp4" for n in range(4)
    }


def test_without_true_frames_the_first_stretch_is_what_later_ones_are_held_against(runs):
    _, score = measured(runs / "good", runs / "late")
    assert set(score.controls) == {"shuffled"} and score.usable_until == 2 and score.obedience["true"] is None
    assert any("without true frames" in words for words in score.warnings)


def test_real_frames_in_front_are_not_judged(tmp_path, true):
    kinds = ["real"] * 31 + ["key"] * (FRAMES - 31)
    film(tmp_path / "run", shown=lambda n: () if n < 31 else (0, 1), kinds=kinds)
    plan, score = measured(true, tmp_path / "run")
    assert plan.made[0].times[0] == 31 / FPS and score.value == pytest.approx(1, abs=0.01)


def test_an_index_on_the_generated_side_brings_its_boxes(true):
    _, score = measured(true, true)
    assert score.value == pytest.approx(1, abs=0.01)


def test_true_frames_are_seen_in_the_size_of_the_generated_ones_and_their_boxes_go_along(tmp_path, runs):
    clip = index.Index.open  # an index of one clip of 128x256 whose left and right thirds are cut away
    rows, size = Rows(), (128, 384)
    with Writer(tmp_path / "wide.mp4", size, FPS) as writer:
        frame = np.full((*size, 3), 40, np.uint8)
        frame[40:72, 180:220] = frame[40:72, 0:60] = 230
        writer.write(np.stack([frame] * 30))
    make_index(tmp_path, tmp_path / "index")
    (entry,) = clip(tmp_path / "index").entries
    boxes = Boxes(
        time=tuple(n / FPS for n in range(30) for _ in range(2)),
        track=np.array([0, 1] * 30),
        cls=("car",) * 60,
        box=np.array([(180, 40, 220, 72), (0, 40, 60, 72)] * 30, float) / [384, 128, 384, 128],
        visibility=np.full(60, np.nan),
    )
    rows.add(config.build(index.Entry, {**asdict(entry), "labels": "own"}), boxes)
    rows.write(tmp_path / "index", 0.0)
    plan, score = measured(tmp_path / "index", runs / "good")
    (true,) = plan.true
    assert true.size == SIZE and all(len(b) == 1 for b in true.boxes)  # the left one is outside
    assert true.boxes[0].box[0] * [128, 64, 128, 64] == pytest.approx((58, 20, 78, 36))
    assert score.controls["true"] == pytest.approx(1, abs=0.01)


# --- against the real video -------------------------------------------------------------------------------------------


def test_the_truth_may_be_what_the_detector_sees_in_the_real_video_of_the_same_name(tmp_path):
    """Nothing was told; the second video shows another car than its real one does."""
    for side, tracks in (("real", (0, 1)), ("made", (0,))):
        for n in range(4):
            film(tmp_path / side, shown=lambda n, tracks=tracks: tracks, name=f"{n}.mp4", phase=5 * n)
    film(tmp_path / "made", name="alone.mp4")
    plan, score = measured(tmp_path / "real", tmp_path / "made", own=True)
    assert plan.truth == verdict.OWN and len(plan.made) == len(plan.true) == 4
    assert score.obedience["whole"]["missing"] == pytest.approx(0.5) and score.obedience["whole"]["hallucinated"] == 0
    assert set(score.controls) == {"shuffled"} and score.n_real == 120
    assert [item.count for item in score.left_out] == [1] and "no real video" in score.left_out[0].reason


def test_a_runs_real_video_is_that_of_its_opening_at_the_same_seconds(tmp_path):
    film(tmp_path / "real", name="drive.mp4", phase=0)
    film(tmp_path / "run", phase=20)  # begins 20 frames later
    clip = str(tmp_path / "real" / "drive.mp4")
    scenario = {"version": 1, "opening": {"clip": clip, "at": 20 / 15, "frames": 1}}
    (tmp_path / "run" / "scenario.yaml").write_text(config.to_yaml(scenario))
    plan, score = measured(tmp_path / "real", tmp_path / "run", own=True)
    assert float(plan.true[0].times[0]) == pytest.approx(20 / 15) and len(plan.made[0].times) == 20  # to the clip's end
    assert score.value == pytest.approx(1, abs=0.01) and score.obedience["whole"]["iou"] > 0.9


def test_an_edited_scenario_has_no_real_video(tmp_path):
    film(tmp_path / "real", name="drive.mp4")
    film(tmp_path / "run")
    clip = str(tmp_path / "real" / "drive.mp4")
    track = {"id": "new", "class": "car", "keys": [{"t": 0, "box": [0.1, 0.1, 0.2, 0.2]}]}
    scenario = {"version": 1, "opening": {"clip": clip}, "boxes": "tracks", "tracks": [track]}
    (tmp_path / "run" / "scenario.yaml").write_text(config.to_yaml(scenario))
    with pytest.raises(Mistake, match="was told other boxes than those of its clip"):
        measured(tmp_path / "real", tmp_path / "run", own=True)


# --- what is refused, and the command ---------------------------------------------------------------------------------


def test_videos_without_boxes_are_left_out_and_all_of_them_a_mistake(tmp_path, runs):
    film(tmp_path / "plain", name="a.mp4")
    with pytest.raises(Mistake, match="has no boxes beside it"):
        measured(runs / "good", tmp_path / "plain")
    for n in range(2):
        film(tmp_path / "some" / str(n))
        (tmp_path / "some" / str(n) / "run.json").write_text("{}")
    (tmp_path / "some" / "1" / generated.BOXES).unlink()
    plan, score = measured(runs / "good", tmp_path / "some")
    assert len(plan.made) == 1 and [(item.reason, item.count) for item in score.left_out] == [
        ("boxes: has no boxes beside it", 1)
    ]


def test_boxes_that_are_all_too_small_give_no_score(tmp_path, runs):
    boxes = film(tmp_path / "run", told=lambda n: ())
    assert len(boxes) == 0
    plan = obey.planned((runs / "good", tmp_path), (gather(runs / "good"), gather(tmp_path / "run")), False)
    assert obey.measured(plan, Bright(), None, lambda frames: None) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (Settings(detector="detector-v1"), "--detector: has no meaning without --boxes"),
        (Settings(boxes=True, detector="yolo"), "no detector 'yolo'"),
        (Settings(boxes=True, detector="nowhere.onnx"), "nowhere.onnx: no such file"),
    ],
)
def test_mistakes_of_the_command(settings, says, runs):
    with pytest.raises(Mistake, match=says):
        evaluate.run(runs / "good", runs / "late", settings=settings)


@pytest.mark.slow
def test_the_command_writes_it_beside_the_distances(runs, true, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(obey, "detector", lambda name, device: Bright())
    settings = Settings(fps=FPS, cache=tmp_path / "cache", boxes=True)
    found = evaluate.run(true, runs / "late", tmp_path / "out", settings=settings)
    assert [score["metric"] for score in found] == ["fvd[builtin-v1]", "kvd[builtin-v1]", "fid[builtin-v1]", "ap50"]
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == found
    assert found[3]["usable_until"] == 2 and found[0]["obedience"] is None
    said, page = capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text()
    assert "sable until 2 s of 4 s" in said and "ap50" in said
    assert "Usable until 2 s of 4 s" in page and "ap50" in page
    assert Path(found[3]["obedience"]["by_video"][0]["video"]).name == "video.mp4"
