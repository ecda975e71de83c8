"""``drivesim evaluate`` from video files to scores.json, on short drives of the procedural world."""

import json
from fractions import Fraction

import numpy as np
import pytest

from drivesim.data.video import Writer
from drivesim.errors import Mistake
from drivesim.jobs import evaluate
from drivesim.world import render

FPS = Fraction(15)


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """Folders ``real`` and ``other`` with two drives of 40 frames each: two clips of 16 at 15 fps and a rest."""
    place = tmp_path_factory.mktemp("drives")
    for seed in range(4):
        clip = render(seed, Fraction(40, 15), FPS, (64, 128))
        with Writer(place / ("real" if seed < 2 else "other") / f"{seed}.mp4", (64, 128), FPS) as writer:
            writer.write(clip.frames)
    return place


def test_a_score_has_everything_and_is_the_same_twice(drives, tmp_path):
    score = evaluate.run(drives / "real", drives / "other", tmp_path / "out", tmp_path / "score.json", fps=FPS)
    assert score["schema"] == "drivesim.score/1" and score["metric"] == "fvd[builtin-v1]"
    assert (score["n_real"], score["n_generated"]) == (4, 4)
    assert score["value"] > 0 and score["floor"] > 0 and set(score["controls"]) == {"frozen", "shuffled"}
    assert score["receipt"]["fps"] == "15/1" and score["receipt"]["size"] == [64, 128]
    assert any("only 4 real clips" in line for line in score["warnings"])
    assert [score[k] for k in ("estimate", "se", "curve", "usable_until")] == [None] * 4
    for file in (tmp_path / "out" / "scores.json", tmp_path / "score.json"):
        assert json.loads(file.read_text()) == [score]
    assert evaluate.run(drives / "real", drives / "other", fps=FPS) == score


def test_the_same_clips_score_nothing_and_are_noticed(drives):
    score = evaluate.run(drives / "real", drives / "real", fps=FPS)
    assert 0 <= score["value"] < 1e-6
    assert min(score["controls"].values()) > 1
    assert "4 clips stand on both sides" in score["warnings"]


def test_a_run_folder_gives_its_video_and_takes_the_scores(drives, tmp_path):
    (tmp_path / "segments").mkdir()
    (tmp_path / "video.mp4").write_bytes((drives / "other" / "2.mp4").read_bytes())
    (tmp_path / "segments" / "000000.mp4").write_bytes((drives / "other" / "3.mp4").read_bytes())
    (tmp_path / "run.json").write_text("{}")
    score = evaluate.run(drives / "real", tmp_path, fps=FPS)
    assert score["n_generated"] == 2
    assert json.loads((tmp_path / "scores.json").read_text()) == [score]
    assert [source.file.name for source in evaluate.sources(tmp_path)] == ["video.mp4"]


def test_short_and_broken_files_are_left_out_and_counted(drives, tmp_path):
    for name in ("2.mp4", "3.mp4"):
        (tmp_path / name).write_bytes((drives / "other" / name).read_bytes())
    (tmp_path / "text.mp4").write_text("not a video")
    with Writer(tmp_path / "short.mp4", (64, 128), FPS) as writer:
        writer.write(np.zeros((10, 64, 128, 3), np.uint8))
    score = evaluate.run(drives / "real", tmp_path, fps=FPS)
    assert score["n_generated"] == 4
    reasons = {item["reason"]: (item["count"], item["examples"]) for item in score["left_out"]}
    assert len(reasons) == 2 and any("shorter than a clip" in reason for reason in reasons)
    assert any("2 videos were left out" in line for line in score["warnings"])


def test_controls_are_a_function_of_the_clip():
    clip = np.arange(16, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    one, again = (evaluate.altered(clip, "a", Fraction(1)) for _ in range(2))
    assert (one["frozen"] == 0).all()
    assert sorted(one["shuffled"].ravel()) == sorted(clip.ravel()) and (one["shuffled"] != clip).any()
    assert (one["shuffled"] == again["shuffled"]).all()
    assert (one["shuffled"] != evaluate.altered(clip, "a", Fraction(2))["shuffled"]).any()


@pytest.mark.parametrize("side", ["real", "generated"])
def test_bad_input_is_a_mistake_and_writes_nothing(drives, tmp_path, side):
    (tmp_path / "empty").mkdir()
    (tmp_path / "named.mp4").write_text("text")
    for place, words in (("empty", "holds no video"), ("named.mp4", "text"), ("none", "no such file")):
        places = {"real": drives / "real", "generated": drives / "other"} | {side: tmp_path / place}
        with pytest.raises(Mistake, match=words):
            evaluate.run(places["real"], places["generated"], tmp_path / "out", fps=FPS)
    assert not (tmp_path / "out").exists()


def test_too_few_clips_are_said(drives):
    with pytest.raises(Mistake, match="2 are the least"):
        evaluate.run(drives / "real", drives / "other")  # 2.7 s give no clip of 16 key-frames
    with pytest.raises(Mistake, match="shorter than a clip"):
        evaluate.run(drives / "real" / "0.mp4", drives / "other")


def test_unknown_names_are_answered_with_known_ones(drives):
    with pytest.raises(Mistake, match="builtin-v1"):
        evaluate.run(drives / "real", drives / "other", protocol="builtin-v2")
    with pytest.raises(Mistake, match="unknown extractor"):
        evaluate.run(drives / "real", drives / "other", extractor="i3d.pt")
    with pytest.raises(Mistake, match="not a rate"):
        evaluate.run(drives / "real", drives / "other", fps=Fraction(0))
