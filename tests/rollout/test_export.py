"""What leaves with a video: its boxes as tables and label files, and the mark in its metadata."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from drivesim import config
from drivesim.data import generated, video
from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats import bdd100k, known
from drivesim.data.index import BOXES_SCHEMA, Index, as_boxes
from drivesim.disk import sha256
from drivesim.errors import Mistake
from drivesim.jobs import generate, index, report
from drivesim.jobs import scenario as job
from drivesim.rollout import scenario as scenarios
from drivesim.rollout.engine import Rollout, prepare, roll
from drivesim.rollout.scenario import Opening, Scenario
from drivesim.rollout.settings import RolloutConfig, SamplerConfig
from drivesim.rollout.stack import Stack
from drivesim.rollout.tracks import Edit, Key, Track, Tracks
from drivesim.scene import KEYFRAME_FPS, Boxes, Labels

from .mock import SIZE, Mock, stack

HEIGHT, WIDTH = SIZE
FAST = RolloutConfig(sampler=SamplerConfig(steps=2), start=SamplerConfig(steps=2))
CAR = Track("cut-in", "car", (Key(0.0, (0.1, 0.3, 0.4, 0.8)), Key(3.0, (0.4, 0.3, 0.7, 0.9), 1.0)))
BUS = Track("12", "bus", (Key(2.0, (0.5, 0.2, 0.9, 0.7), 0.5), Key(4.0, (0.6, 0.2, 1.2, 0.7), 0.25)))
BOXED = Scenario(
    seconds=6, fps=7.5, boxes="tracks", tracks=(CAR, BUS), labels=Labels(night=True, cars=2)
)  # 13 key-frames, 3 windows, 49 frames
FORMATS = [form.name for form in known.WRITTEN]


def planned(scenario: Scenario = BOXED, seed: int = 1, models: Stack | None = None) -> Rollout:
    return prepare(models or stack(), scenario, seed, FAST)


def rolled(folder: Path, scenario: Scenario) -> tuple[Labelled, list[dict], Rollout]:
    """The boxes that lie beside the video, the rows of its frames, and what was planned."""
    rollout = planned(scenario)
    run = roll(rollout, folder / "run", export=())
    labelled = generated.read(run / "video.mp4")
    assert labelled is not None
    return labelled, pq.read_table(run / "labels.parquet").to_pylist(), rollout


def exported(run: Path) -> dict[str, str]:
    """SHA-256 of what leaves beside the video, by name."""
    files = [file for file in (run / "export").rglob("*") if file.is_file()]
    assert not [file for file in run.rglob("*.part")]
    return {
        str(file.relative_to(run)): sha256(file) for file in (*files, run / "boxes.parquet", run / "labels.parquet")
    }


def rows(boxes: Boxes, ids: dict[int, str]) -> list[tuple[object, ...]]:
    names = [ids.get(int(n), str(n)) for n in boxes.track]
    sides, seen = boxes.box.round(9).tolist(), [None if np.isnan(v) else v for v in boxes.visibility]
    return sorted(zip(boxes.time, names, boxes.cls, map(tuple, sides), map(str, seen), strict=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return roll(planned(), tmp_path_factory.mktemp("boxed") / "run")


def test_boxes_of_frame_n_are_those_of_the_scenario_at_n_over_the_rate(run: Path) -> None:
    table = pq.read_table(run / "boxes.parquet")
    assert table.schema.equals(BOXES_SCHEMA)
    assert set(table["clip_id"].to_pylist()) == {sha256(run / "video.mp4")}
    boxes, told = as_boxes(table.to_pylist()), Tracks((CAR, BUS))
    count = video.probe(run / "video.mp4").frames
    for n in range(count):
        found, wanted = boxes.at(n / Fraction(15, 2)), told.at([n / Fraction(15, 2)])
        assert found.track.tolist() == wanted.track.tolist() and found.cls == wanted.cls
        assert np.array_equal(found.box, wanted.box)
        assert np.array_equal(found.visibility, wanted.visibility, equal_nan=True)
    frames = pq.read_table(run / "labels.parquet").to_pylist()
    assert [row["boxes"] for row in frames] == [len(boxes.at(n / Fraction(15, 2))) for n in range(count)]
    assert [row["boxes"] for row in frames[:2]] == [1, 1] and frames[-1]["boxes"] == 0 and count == 49
    labelled = generated.read(run / "video.mp4")
    assert labelled is not None and len(labelled.times) == count
    assert (labelled.size, labelled.ids, labelled.labels) == (SIZE, {0: "cut-in", 1: "12"}, Labels(True, 2))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_back(run: Path, name: str) -> None:
    info, form = video.probe(run / "video.mp4"), known.FORMATS[name]
    remarks = Remarks()
    footage = Footage((info.height, info.width), info.fps, info.frames)
    assert known.of(run / "export" / name) is form
    (read,) = form.read(run / "export" / name, lambda video: footage, remarks)
    told, times = Tracks((CAR, BUS)), [n / info.fps for n in range(info.frames)]
    wanted = told.at(times)
    assert (read.video, read.times) == ("video", tuple(times)) and not remarks.count
    assert (read.boxes.time, read.boxes.cls) == (wanted.time, wanted.cls)
    assert np.abs((read.boxes.box - wanted.box) * (WIDTH, HEIGHT, WIDTH, HEIGHT)).max() < 0.5
    if "ids" in form.carries:
        assert [read.id_of(int(n)) for n in read.boxes.track] == [told.ids[int(n)] for n in wanted.track]
    lost = json.loads((run / "run.json").read_text())["export"]
    assert set(lost) == set(FORMATS) and bool(lost[name]) == (name in ("kitti", "mot"))


def test_an_empty_street_is_known_to_be_empty_and_unknown_boxes_leave_nothing(tmp_path: Path) -> None:
    empty, frames, _ = rolled(tmp_path, Scenario(seconds=1, fps=3.75, boxes="none"))
    assert len(empty.boxes) == 0 and len(empty.times) == len(frames) and {row["boxes"] for row in frames} == {0}
    unknown = roll(planned(Scenario(seconds=1, fps=3.75)), tmp_path / "unknown")
    assert not (unknown / "boxes.parquet").exists() and not (unknown / "export").exists()
    assert {row["boxes"] for row in pq.read_table(unknown / "labels.parquet").to_pylist()} == {None}
    assert generated.read(unknown / "video.mp4") is None


@pytest.mark.parametrize("call", [0, 3, 5])
def test_a_resumed_run_leaves_the_same_bytes(run: Path, tmp_path: Path, call: int) -> None:
    with pytest.raises(RuntimeError, match="died"):
        roll(planned(models=stack(Mock(fail_at_call=call))), tmp_path / "run")
    assert not (tmp_path / "run" / "export").exists()
    again = roll(planned(), tmp_path / "run", resume=True)
    assert sha256(again / "video.mp4") == sha256(run / "video.mp4") and exported(again) == exported(run)
    (again / "export" / "csv" / "boxes.csv").unlink()
    roll(planned(), again, resume=True)
    assert exported(again) == exported(run), "what is missing is written again, and nothing is made for it"


@pytest.fixture(scope="module")
def opening(tmp_path_factory: pytest.TempPathFactory) -> Opening:
    """Three seconds at 30 fps, twice as high as the output's part of them, and two tracks: one leaves at second 2."""
    folder = tmp_path_factory.mktemp("clip")
    with video.Writer(folder / "drive.mp4", (2 * HEIGHT, WIDTH), Fraction(30)) as writer:
        for n in range(90):
            writer.write(np.full((1, 2 * HEIGHT, WIDTH, 3), 40 + 2 * n, np.uint8))
    own = Tracks((
        Track("7", "car", (Key(0, (0.2, 0.5, 0.4, 0.6)), Key(3, (0.5, 0.5, 0.7, 0.6)))),
        Track("9", "truck", (Key(0, (0.6, 0.1, 0.8, 0.5)), Key(2, (0.6, 0.1, 0.8, 0.5)))),
    ))  # fmt: skip
    times = tuple(Fraction(n, 30) for n in range(90))
    labelled = Labelled("drive", own.at(times), (2 * HEIGHT, WIDTH), times, own.ids)
    bdd100k.write([labelled], folder / "labels", Fraction(30), Remarks())
    return Opening(str(folder / "drive.mp4"), at=0.8, keep=True, labels=str(folder / "labels"))


def test_real_frames_in_front_have_the_clips_own_boxes_and_made_ones_the_edited(
    opening: Opening, tmp_path: Path
) -> None:
    keys = (Key(-1.0, (0.1, 0.1, 0.3, 0.3)), Key(2.0, (0.1, 0.1, 0.3, 0.3)))
    edits = (Edit("delete", "7"), Edit("insert", "new", cls="bus", keys=keys))
    labelled, frames, rollout = rolled(tmp_path, replace(BOXED, opening=opening, tracks=(), edits=edits))
    front, fps = 4, Fraction(15, 2)  # frames at 7.5 fps from the first given key-frame to the last
    kinds = [row["kind"] for row in frames]
    assert kinds[: front + 2] == ["real"] * (front + 1) + ["blended"]
    assert len(frames) == video.probe(tmp_path / "run" / "video.mp4").frames == front + rollout.plan.total
    assert labelled.times == tuple(n / fps for n in range(len(frames)))
    start = Fraction(8, 10) + 1 / KEYFRAME_FPS  # of the output, in the clip
    for n in range(len(frames)):
        in_clip = start + (n - front) / fps
        boxes = labelled.boxes.at(n / fps)
        found = {labelled.id_of(int(t)): box for t, box in zip(boxes.track, boxes.box.tolist(), strict=True)}
        moved = 0.1 * float(in_clip)
        wanted = {"7": [0.2 + moved, 0.5, 0.4 + moved, 0.7]} if n <= front else {}  # of the middle, half as high
        wanted |= {"9": [0.6, 0.0, 0.8, 0.5]} if in_clip <= 2 else {}
        wanted |= {"new": [0.1, 0.1, 0.3, 0.3]} if front < n <= front + 2 * fps else {}
        assert set(found) == set(wanted), n
        for name, box in wanted.items():
            assert found[name] == pytest.approx(box, abs=1e-2)
    assert len(set(labelled.boxes.track.tolist())) == 3, "a track has one number before and behind the first made frame"


def test_of_real_frames_without_labels_nothing_is_known(opening: Opening, tmp_path: Path) -> None:
    bare = replace(opening, labels=None)
    labelled, frames, _ = rolled(tmp_path, replace(BOXED, opening=bare))
    assert [row["boxes"] for row in frames[:6]] == [None] * 5 + [1]
    assert labelled.times[0] == Fraction(5) / Fraction(15, 2) and len(labelled.times) == len(frames) - 5


def test_a_file_that_is_played_slower_holds_the_same_frames_at_its_own_times(opening: Opening, tmp_path: Path) -> None:
    """Segments, the real frames in front, the whole, boxes and label files: all 6 frames a second, made at 7.5."""
    scenario = replace(BOXED, opening=opening)
    usual, rows, _ = rolled(tmp_path / "a", scenario)
    slower, slow_rows, rollout = rolled(tmp_path / "b", replace(scenario, played="6"))
    files = [tmp_path / "b" / "run" / "video.mp4", *sorted((tmp_path / "b" / "run" / "segments").iterdir())]
    assert {video.probe(file).fps for file in files} == {Fraction(6)} and rollout.plan.fps == Fraction(15, 2)
    assert [file.name for file in files][-1] == "opening.mp4" and comment(files[0])["made_at"] == "15/2"
    shown = [video.read(file, frames=len(rows)).frames for file in (files[0], tmp_path / "a" / "run" / "video.mp4")]
    assert np.abs(shown[0].astype(int) - shown[1]).mean() < 2  # a group of pictures lasts a second
    assert slower.times == tuple(time * Fraction(5, 4) for time in usual.times)
    assert slower.boxes.time == tuple(time * Fraction(5, 4) for time in usual.boxes.time)
    assert np.array_equal(slower.boxes.box, usual.boxes.box)
    for row, slow in zip(rows, slow_rows, strict=True):
        assert Fraction(slow["time_num"], slow["time_den"]) == slow["frame"] / Fraction(6)
        made = slow["made_num"], slow["made_den"]
        assert made == (row["made_num"], row["made_den"]) == (row["time_num"], row["time_den"])
        assert (slow["kind"], slow["boxes"]) == (row["kind"], row["boxes"])
    (read,) = known.FORMATS["csv"].read(
        roll(planned(replace(BOXED, played="6")), tmp_path / "c") / "export" / "csv", lambda _: Footage(), Remarks()
    )
    assert read.times[:3] == (0, Fraction(1, 6), Fraction(1, 3))


def test_the_past_of_a_branch_keeps_its_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        generate.stacks, "load", lambda *weights: stack(boxed=lambda boxes, cells, condition: condition)
    )
    text = config.to_yaml(replace(BOXED, played="6"))
    (tmp_path / "s.yaml").write_text(text)
    quick = ["sampler.steps=2", "start.steps=2"]
    (whole,) = generate.run(tmp_path / "s.yaml", tmp_path, tmp_path / "run", settings=quick)
    (branch,) = generate.run(None, tmp_path, tmp_path / "branch", parent=whole, at=Fraction(4), seeds=[5])
    before, after = (generated.read(each / "video.mp4") for each in (whole, branch))
    assert before is not None and after is not None and video.probe(branch / "video.mp4").fps == 6
    assert (after.times, after.boxes.time) == (before.times, before.boxes.time)


def test_the_clip_is_told_where_the_output_starts(opening: Opening) -> None:
    """Second 0 of the tracks is the output's first frame, which lies 8/15 s behind the first given one."""
    for frames, start in ((1, Fraction(4, 5)), (2, Fraction(4, 5) + Fraction(8, 15))):
        boxed = planned(replace(BOXED, opening=replace(opening, frames=frames), tracks=())).placed
        assert boxed is not None
        x0 = boxed.told.at([Fraction(0)]).box[0, 0]
        assert x0 == pytest.approx(0.2 + 0.1 * float(start), abs=1e-2)


def comment(file: Path) -> dict[str, object]:
    with av.open(str(file)) as container:
        sentence, _, facts = container.metadata["comment"].partition(" {")
        assert sentence.startswith("synthetic: generated by drivesim ")
        return json.loads("{" + facts)


def test_any_reader_finds_the_mark_in_the_video_and_in_every_segment(
    run: Path, opening: Opening, tmp_path: Path
) -> None:
    rollout = planned()
    assert rollout.placed is not None
    wanted = {
        "seed": 1, "scenario": rollout.noise.scenario, "boxes": rollout.placed.digest,
        "weights": {"keyframes": "0" * 16},
    }  # fmt: skip
    files = [run / "video.mp4", *sorted((run / "segments").iterdir())]
    assert len(files) == 4 and all(comment(file) == wanted for file in files)
    kept = roll(planned(replace(BOXED, opening=replace(opening, labels=None))), tmp_path / "kept", export=())
    assert opening.clip and comment(kept / "video.mp4")["opening"] == sha256(opening.clip)[:16]
    assert not video.probe(kept / "segments" / "opening.mp4").synthetic, "these frames are real"
    assert json.loads((kept / "run.json").read_text())["opening"] == sha256(opening.clip)


def test_other_boxes_are_another_plan(run: Path) -> None:
    with pytest.raises(Mistake, match="another plan .boxes differ"):
        roll(planned(replace(BOXED, tracks=(CAR,))), run, resume=True)


def test_a_run_is_made_again_from_what_lies_in_its_folder(run: Path, tmp_path: Path) -> None:
    again = scenarios.load(run / "scenario.yaml")
    settings = config.load(RolloutConfig, run / "config.yaml")
    made = prepare(stack(), again, again.seeds[0], settings)
    assert again.seeds == [1] and made.description == json.loads((run / "plan.json").read_text())
    roll(made, tmp_path / "again")
    assert sha256(tmp_path / "again" / "video.mp4") == sha256(run / "video.mp4")
    assert exported(tmp_path / "again") == exported(run)


@pytest.fixture(scope="module")
def futures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one scenario, as ``generate`` lays them out."""
    folder = tmp_path_factory.mktemp("futures")
    for seed in (1, 2):
        roll(planned(seed=seed), folder / f"seed-{seed}", export=())
    return folder


def test_a_folder_of_runs_is_indexed_with_its_boxes(
    futures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Index.open(index.run(futures, tmp_path / "index"))
    assert [entry.path for entry in made.entries] == ["seed-1/video.mp4", "seed-2/video.mp4"], "without their segments"
    told = Tracks((CAR, BUS)).at([n / Fraction(15, 2) for n in range(49)])
    for entry in made.entries:
        boxes = made.boxes(entry.clip_id)
        assert boxes is not None and rows(boxes, {}) == rows(told, {})
        assert (
            entry.synthetic and entry.source.startswith("synthetic: generated by drivesim ") and "{" not in entry.source
        )
        assert (entry.night, entry.labels) == (True, "generated")
    said = " ".join(capsys.readouterr().out.split())
    assert "2 clips are marked synthetic: they were generated, not filmed" in said
    assert f"2 clips with {2 * len(told)} boxes" in said


def test_tables_of_another_video_are_not_its_own(run: Path, tmp_path: Path) -> None:
    for name in ("boxes.parquet", "labels.parquet"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    with video.Writer(tmp_path / "video.mp4", SIZE, Fraction(15, 2)) as writer:
        writer.write(np.zeros((49, *SIZE, 3), np.uint8))
    assert generated.read(tmp_path / "video.mp4") is None
    (tmp_path / "boxes.parquet").write_bytes(b"PAR1")
    with pytest.raises(Mistake, match="boxes.parquet: cannot be read"):
        generated.read(tmp_path / "video.mp4")


def test_runs_that_are_there_become_one_set_of_labels(futures: Path, tmp_path: Path) -> None:
    job.run("convert", futures, tmp_path / "labels", "coco")
    read = known.FORMATS["coco"].read(tmp_path / "labels", lambda _: Footage(), Remarks())
    assert [one.video for one in read] == ["seed-1", "seed-2"]
    told = Tracks((CAR, BUS)).at([n / Fraction(15, 2) for n in range(49)])
    assert all(one.boxes.time == told.time and len(one.times) == 49 for one in read)
    with pytest.raises(Mistake, match="no run whose boxes are known"):
        job.run("convert", tmp_path / "labels", tmp_path / "other", "coco")


def test_the_page_shows_the_boxes_and_names_the_label_files(run: Path) -> None:
    blocks = report.video_blocks(run / "video.mp4")
    captions = [getattr(block, "caption", getattr(block, "text", "")) for block in blocks]
    count = len(Tracks((CAR, BUS)).at([n / Fraction(15, 2) for n in range(49)]))
    assert f"The boxes of 10 of the 49 frames of which they are known, {count} in all" in captions[-2]
    assert captions[-1] == f"Label files of these boxes: {', '.join(f'export/{name}' for name in sorted(FORMATS))}."


def test_generate_writes_what_is_asked_for_and_says_once_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    boxed = stack(boxed=lambda boxes, cells, condition: condition)
    monkeypatch.setattr(generate.stacks, "load", lambda *weights: boxed)
    quick = ["sampler.steps=1", "start.steps=1"]
    file = tmp_path / "cut-in.yaml"
    file.write_text(config.to_yaml(replace(BOXED, seconds=1, seeds=[1, 2])))
    first, _ = generate.run(file, tmp_path, tmp_path / "two", settings=quick, export="kitti, csv")
    assert {folder.name for folder in (first / "export").iterdir()} == {"kitti", "csv"}
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("label files: kitti, csv") == 2 and said.count("kitti: has no frame rate") == 1
    (run,) = generate.run(file, tmp_path, tmp_path / "none", seeds=[1], settings=quick, export="none")
    assert not (run / "export").exists() and (run / "boxes.parquet").exists()
    (run,) = generate.run(None, tmp_path, tmp_path / "unknown", minutes=0.02, settings=quick)
    assert "label files: none, as its boxes are unknown" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("names", "words"),
    [("bdd", "--export: no label format 'bdd'\n.*bdd100k"), ("dgp", "only read"), ("coco", "they are unknown")],
)
def test_what_cannot_be_exported_is_said_before_anything_is_made(tmp_path: Path, names: str, words: str) -> None:
    with pytest.raises(Mistake, match=words):
        generate.run(None, tmp_path / "weights", tmp_path / "out", export=names)
    assert not list(tmp_path.iterdir())
