"""``drivesim evaluate`` from video files to scores.json, on short drives of the procedural world and on bad files."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.data.gather import gather
from drivesim.data.video import Writer
from drivesim.errors import Mistake
from drivesim.jobs import evaluate, index, instruments
from drivesim.jobs.evaluate import Settings
from drivesim.metrics import measure, protocols, survey
from drivesim.metrics.survey import EXAMPLES
from drivesim.world import render
from tests.data.bad import BAD, as_user
from tests.data.numbered import write

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


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(fps=FPS, cache=tmp_path_factory.mktemp("cache"))


def test_scores_have_everything_and_are_the_same_twice(drives, tmp_path, settings, monkeypatch):
    real, other = drives / "real", drives / "other"
    found = evaluate.run(real, other, tmp_path / "out", tmp_path / "score.json", settings)
    assert [score["metric"] for score in found] == ["fvd[builtin-v1]", "kvd[builtin-v1]", "fid[builtin-v1]"]
    score = found[0]
    assert score["schema"] == "drivesim.score/1" and (score["n_real"], score["n_generated"]) == (4, 4)
    assert score["value"] > 0 and score["floor"] > 0 and set(score["controls"]) == {"frozen", "shuffled"}
    assert score["receipt"]["fps"] == "15/1" and score["receipt"]["size"] == [64, 128]
    assert found[2]["n_real"] == 16 and found[2]["receipt"]["frames"] == 1 and found[2]["value"] > 0
    assert any("only 4 real clips" in line for line in score["warnings"])
    assert [score[key] for key in ("estimate", "se", "curve", "usable_until")] == [None] * 4
    for file in (tmp_path / "out" / "scores.json", tmp_path / "score.json"):
        assert json.loads(file.read_text()) == found
    assert (tmp_path / "out" / "scores.md").read_text().count("\n") == 3
    monkeypatch.setattr(measure, "_read", None)  # the second run measures nothing
    assert evaluate.run(real, other, settings=settings) == found
    assert evaluate.run(f"{real}/*.mp4", other, settings=settings)[0]["value"] == score["value"]


def test_the_same_clips_score_nothing_and_are_noticed(drives, settings):
    score = evaluate.run(drives / "real", drives / "real", settings=settings)[0]
    assert 0 <= score["value"] < 1e-6
    assert min(score["controls"].values()) > 1
    assert "4 clips stand on both sides" in score["warnings"]


def test_a_run_folder_gives_its_video_and_takes_the_scores(drives, tmp_path, settings):
    (tmp_path / "segments").mkdir()
    (tmp_path / "video.mp4").write_bytes((drives / "other" / "2.mp4").read_bytes())
    (tmp_path / "segments" / "000000.mp4").write_bytes((drives / "other" / "3.mp4").read_bytes())
    (tmp_path / "run.json").write_text("{}")
    found = evaluate.run(drives / "real", tmp_path, settings=settings)
    assert found[0]["n_generated"] == 2
    assert json.loads((tmp_path / "scores.json").read_text()) == found
    assert [source.file.name for source in gather(tmp_path)] == ["video.mp4"]


# --- what is left out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["real", "generated"])
def test_thirty_bad_inputs_are_left_out_or_noted_each_with_its_line(tmp_path, side):
    """All of them at once among good clips: the run goes on, and each is told with its reason."""
    folder = {name: tmp_path / name for name in ("real", "generated")}
    for name, first in (("real", 0), ("generated", 60)):
        folder[name].mkdir()
        for n in range(2):
            write(folder[name] / f"good-{n}.mp4", 48, Fraction(25), first=first + n)
    made = {}
    for bad in BAD:
        place = folder[side] / f"{bad.number:02d}"
        place.mkdir()
        made[bad.number] = bad.make(place)
    both = folder["generated" if side == "real" else "real"] / "both.mp4"
    both.write_bytes(made[27].read_bytes())
    (folder[side] / "30" / "another.mp4").write_bytes(made[30].read_bytes())
    with as_user():
        score = evaluate.run(
            folder["real"], folder["generated"], settings=Settings(fps=Fraction(25), cache=tmp_path / "cache")
        )[0]
    left = {Path(name).parts[-2]: item["reason"] for item in score["left_out"] for name in item["examples"]}
    notes = {item["reason"].removeprefix(f"{side}: ") for item in score["notes"]}
    assert all(item["reason"].startswith(side) for item in score["left_out"])
    for bad in BAD:
        number = f"{bad.number:02d}"
        if bad.refused and bad.number != 23:  # a missing file is in no folder
            told = [item for item in score["left_out"] if bad.refused in item["reason"]]
            assert told and (number in left or told[0]["count"] > EXAMPLES - 1), bad
        elif bad.remark:
            assert bad.remark in notes or number in left, bad  # the uneven one is slower than 25 frames a second
    assert "is shorter than a clip of 16 frames at 25 fps" in left["28"]
    assert "runs slower than the 25 frames a second" in left["29"]
    assert any("stand on both sides" in line for line in score["warnings"])
    counted = sum(item["count"] for item in score["left_out"])
    assert any(line.startswith(f"{counted} {side} videos were left out") for line in score["warnings"])


def test_a_file_that_changed_since_it_was_indexed_is_left_out(drives, tmp_path, settings):
    for name in ("0.mp4", "1.mp4"):
        (tmp_path / name).write_bytes((drives / "real" / name).read_bytes())
    index.run(tmp_path, tmp_path / "index")
    (source,) = gather(tmp_path / "index")  # the drive that is held back
    data = bytearray(source.file.read_bytes())
    data[len(data) // 2] ^= 1  # one bit, in the picture: nothing but the hash tells
    source.file.write_bytes(data)
    with pytest.raises(Mistake, match="has changed since it was indexed"):
        evaluate.run(tmp_path / "index", drives / "other", settings=settings)


def test_a_video_that_cannot_be_decoded_to_its_end_is_left_out_whole(drives, tmp_path, settings, monkeypatch):
    for name in ("2.mp4", "3.mp4"):
        (tmp_path / name).write_bytes((drives / "other" / name).read_bytes())
    write(tmp_path / "bad.mp4", 40, FPS)
    true = measure.clips

    def breaking(wanted, protocol):
        for n, clip in enumerate(true(wanted, protocol)):
            if wanted.source.file.name == "bad.mp4" and n == 1:
                raise Mistake("is damaged and cannot be decoded", where=wanted.source.file)
            yield clip

    monkeypatch.setattr(measure, "clips", breaking)
    score = evaluate.run(drives / "real", tmp_path, settings=settings)[0]
    assert score["n_generated"] == 4
    assert [(item["reason"], item["count"]) for item in score["left_out"]] == [
        ("generated: is damaged and cannot be decoded", 1)
    ]
    first = evaluate.run(tmp_path, drives / "other", json_file=tmp_path / "s.json", settings=settings)
    again = evaluate.run(tmp_path, drives / "other", settings=settings, against=tmp_path / "s.json")
    assert again == first and first[0]["left_out"][0]["reason"].startswith("real")


@pytest.mark.parametrize("side", ["real", "generated"])
def test_a_side_without_video_is_a_mistake_and_writes_nothing(drives, tmp_path, side, settings):
    (tmp_path / "empty").mkdir()
    (tmp_path / "named.mp4").write_text("text")
    for place, words in (
        ("empty", "holds no video"),
        ("named.mp4", "text"),
        ("none", "no such file"),
        ("*.m4", "fits"),
    ):
        places = {"real": drives / "real", "generated": drives / "other"} | {side: tmp_path / place}
        with pytest.raises(Mistake, match=words):
            evaluate.run(places["real"], places["generated"], tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


def test_too_few_clips_are_said(drives, settings):
    with pytest.raises(Mistake, match="2 are the least"):
        evaluate.run(drives / "real", drives / "other", settings=Settings(cache=settings.cache))
    with pytest.raises(Mistake, match="is shorter than a clip"):
        evaluate.run(drives / "real" / "0.mp4", drives / "other", settings=Settings(cache=settings.cache))


# --- protocols and receipts -------------------------------------------------------------------------------------------


def test_unknown_names_and_missing_weights_are_answered_with_known_ones(drives, tmp_path):
    for settings, words in (
        (Settings(protocol="builtin-v2"), "did you mean 'builtin-v1'"),
        (Settings(protocol="paper"), "i3d_torchscript.pt"),
        (Settings(protocol="cdfvd"), "vit_g_hybrid"),
        (Settings(extractor=tmp_path / "i3d.pt"), "no such weight file"),
        (Settings(protocol="builtin-v1", extractor=tmp_path / "i3d.pt"), "brings its own network"),
        (Settings(inception=tmp_path / "pt.pth"), "pt_inception-2015-12-05"),
        (Settings(fps=Fraction(0)), "not a rate"),
        (Settings(precision="bf16"), "float32 alone"),
        (Settings(protocol="cdfvd", extractor=tmp_path / "mae.pth", precision="bf16"), "float32 alone"),
    ):
        with pytest.raises(Mistake) as refusal:
            evaluate.run(drives / "real", drives / "other", settings=settings)
        assert words in str(refusal.value)


def test_scores_of_other_receipts_are_refused_with_the_field_that_differs(drives, tmp_path, settings):
    real, other = drives / "real", drives / "other"
    first = evaluate.run(real, other, json_file=tmp_path / "first.json", settings=settings)
    assert evaluate.run(real, other, settings=settings, against=tmp_path / "first.json") == first
    with pytest.raises(Mistake, match="fps differs: 15/1 here, 14/1 there"):
        slower = Settings(fps=Fraction(14), cache=settings.cache)
        evaluate.run(real, other, settings=slower, against=tmp_path / "first.json")
    with pytest.raises(Mistake, match="clips_real differs"):
        evaluate.run(other, other, settings=settings, against=tmp_path / "first.json")
    (tmp_path / "no.json").write_text("{}")
    for name, words in (("no.json", "holds no scores"), ("none.json", "cannot be read")):
        with pytest.raises(Mistake, match=words):
            evaluate.run(real, other, settings=settings, against=tmp_path / name)


def test_at_their_own_rates_both_sides_must_run_alike(drives, tmp_path, monkeypatch):
    write(tmp_path / "a.mp4", 40, Fraction(30))
    write(tmp_path / "b.mp4", 40, Fraction(30), first=5)
    protocol = protocols.Protocol("own", "builtin-v1", resize="")
    monkeypatch.setitem(protocols.PROTOCOLS, "own", protocol)
    with pytest.raises(Mistake, match="real video runs at 15 frames a second, generated at 30"):
        evaluate.run(drives / "real", tmp_path, settings=Settings(protocol="own", cache=tmp_path / "cache"))
    write(tmp_path / "slow.mp4", 40, FPS)
    score = evaluate.run(tmp_path, tmp_path, settings=Settings(protocol="own", cache=tmp_path / "cache"))[0]
    assert score["receipt"]["fps"] == "30/1" and score["n_real"] == 4
    assert {item["reason"].partition(": ")[2] for item in score["left_out"]} == {
        "runs at another rate than most, 30 frames a second"
    }


# --- the same score, whoever computes it ------------------------------------------------------------------------------


def run_command(*words: str, cache: Path) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "drivesim.cli", "evaluate", *words, "--fps", "15", "--device", "cpu"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run_launched(count: int, *words: str, cache: Path) -> subprocess.CompletedProcess:
    """As the documents say, by torchrun."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache)}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "drivesim.cli"]
    command = [sys.executable, *launcher, "evaluate", *words, "--fps", "15", "--device", "cpu"]
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )


@pytest.mark.slow
def test_a_mistake_is_told_once_by_all_processes(tmp_path):
    (tmp_path / "a.mp4").write_text("text")
    done = run_command(str(tmp_path), str(tmp_path), "--devices", "2", cache=tmp_path)
    text = done.communicate(timeout=300)[0]
    assert done.returncode == 2 and text.count("drivesim:") == 1 and "defect" not in text, text


@pytest.mark.slow
def test_one_process_two_and_a_killed_one_give_the_same_bits(tmp_path):
    for seed in range(12):
        clip = render(seed, Fraction(70, 15), FPS, (64, 128))
        with Writer(tmp_path / ("real" if seed % 2 else "other") / f"{seed}.mp4", (64, 128), FPS) as writer:
            writer.write(clip.frames)
    words = (str(tmp_path / "real"), str(tmp_path / "other"))
    for name, more in (("one", ()), ("two", ("--devices", "2"))):
        done = run_command(*words, "--json", str(tmp_path / f"{name}.json"), *more, cache=tmp_path / name)
        text = done.communicate(timeout=300)[0]
        assert done.returncode == 0, text
    launched = run_launched(2, *words, "--json", str(tmp_path / "launched.json"), cache=tmp_path / "launched")
    assert launched.returncode == 0, launched.stdout
    killed = run_command(*words, cache=tmp_path / "killed")
    while not list((tmp_path / "killed").rglob("*.safetensors")) and killed.poll() is None:
        pass  # until the first vectors are on disk
    killed.kill()
    killed.communicate()
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "killed").rglob("*.safetensors")}
    again = run_command(*words, "--json", str(tmp_path / "again.json"), cache=tmp_path / "killed")
    text = again.communicate(timeout=300)[0]
    assert again.returncode == 0, text
    assert kept and {file: file.stat().st_mtime_ns for file in kept} == kept, "what was kept is not made again"
    one = (tmp_path / "one.json").read_bytes()
    assert (
        one
        == (tmp_path / "launched.json").read_bytes()
        == (tmp_path / "two.json").read_bytes()
        == (tmp_path / "again.json").read_bytes()
    )
    assert json.loads(one)[0]["n_real"] == 24


def test_the_order_of_videos_and_the_readers_do_not_matter(drives, tmp_path):
    found = {}
    for readers in (1, 3):
        ruler = instruments.ruler_for(protocols.named("builtin-v1", FPS), Settings(), torch.device("cpu"))
        probes, cache = survey.Probes(tmp_path / f"{readers}"), measure.Cache(tmp_path / f"{readers}", ruler)
        sources = [*gather(drives / "real"), *gather(drives / "other")][:: 1 if readers == 1 else -1]
        side = survey.survey(sources, ruler.protocol, probes, readers)
        assert not measure.measure(side.videos, ruler, cache, readers, lambda count: None)
        found[readers] = [cache.load(wanted.clip_id) for wanted in side.videos]
    for one, other in zip(found[1], found[3], strict=True):
        assert sorted(one.clips) == sorted(other.clips)
        for clip in one.clips:
            for word, row in one.of(clip).items():
                assert torch.equal(row, other.of(clip)[word])


def test_the_score_does_not_depend_on_what_the_cache_has_seen(drives, tmp_path):
    """With and without controls, few clips and many, a side and the other, in any order."""
    real, other = drives / "real", drives / "other"
    fresh = evaluate.run(real, other, settings=Settings(fps=FPS, cache=tmp_path / "fresh"))
    used = tmp_path / "used"
    evaluate.run(real, other, settings=Settings(fps=FPS, cache=used, clips=2))
    plain = evaluate.run(real, other, settings=Settings(fps=FPS, cache=used, controls=False))
    evaluate.run(other, real, settings=Settings(fps=FPS, cache=used, clips=3))
    assert evaluate.run(real, other, settings=Settings(fps=FPS, cache=used)) == fresh
    assert plain[0]["value"] == fresh[0]["value"] and plain[0]["controls"] == {} and plain[0]["curve"] is None


def test_the_same_bytes_at_another_rate_are_other_clips(drives, monkeypatch):
    one = gather(drives / "real")
    stated = [replace(source, rate=Fraction(12)) for source in one]
    assert {survey.identity(source) for source in one}.isdisjoint(survey.identity(source) for source in stated)


def test_a_cache_file_that_was_cut_off_is_made_again(drives, settings, tmp_path):
    fresh = Settings(fps=FPS, cache=tmp_path / "cache")
    found = evaluate.run(drives / "real", drives / "other", settings=fresh)
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-9])
    with open(tmp_path / "cache" / "videos.jsonl", "a") as opened:
        opened.write('{"key": "cut o')
    assert evaluate.run(drives / "real", drives / "other", settings=fresh) == found


def test_controls_are_a_function_of_the_clip():
    clip = np.arange(16, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    one, again = (measure._copies(clip, ("a", 1), True) for _ in range(2))
    assert (one["frozen"] == 0).all()
    assert sorted(one["shuffled"].ravel()) == sorted(clip.ravel()) and (one["shuffled"] != clip).any()
    assert (one["shuffled"] == again["shuffled"]).all()
    assert (one["shuffled"] != measure._copies(clip, ("a", 2), True)["shuffled"]).any()
    assert set(measure._copies(clip, ("a", 1), False)) == {"features"}
