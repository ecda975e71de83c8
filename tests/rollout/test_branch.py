"""Branches: the same past bit for bit, another future; and what they refuse."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from drivesim.data import generated, video
from drivesim.errors import Mistake
from drivesim.jobs import generate, report
from drivesim.rollout.branch import Branch, part
from drivesim.rollout.journal import Journal
from drivesim.rollout.stages import Segment

from .mock import stack
from .test_cascade import cascade

QUICK = ["sampler.steps=2", "start.steps=2", "interpolation.sampler.steps=2", "upsample.sampler.steps=2"]
RATE = Fraction(15, 8)
EDIT = "labels: {night: true}\n"


@pytest.fixture(params=["key-frames", "all stages"])
def models(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Path]]:
    """``generate.run`` with mock models, which a test gives its other options."""
    make = stack if request.param == "key-frames" else cascade
    monkeypatch.setattr(generate.stacks, "load", lambda *weights: make())
    return lambda out, **options: generate.run(None, Path("weights"), out, **options)


def frames(run: Path) -> np.ndarray:
    return video.read(run / "video.mp4", frames=video.probe(run / "video.mp4").frames).frames


def test_one_past_two_futures(models, tmp_path: Path, capsys) -> None:
    (run,) = models(tmp_path / "run", minutes=0.2, settings=QUICK, seeds=[1])
    edit = tmp_path / "night.yaml"
    edit.write_text(EDIT)
    (other,) = models(tmp_path / "other", parent=run, at=Fraction(7), seeds=[2])
    (night,) = models(tmp_path / "night", parent=run, at=Fraction(7), edit=edit)
    past, whole = part(run, Fraction(7)), frames(run)
    assert 0 < past.frame <= 7 * Fraction(json.loads((run / "plan.json").read_text())["fps"])
    for branch in (other, night):
        made = frames(branch)
        assert made.shape == whole.shape
        assert np.array_equal(made[: past.frame], whole[: past.frame])
        assert not np.array_equal(made[past.frame :], whole[past.frame :])
        told = json.loads((branch / "run.json").read_text())["from"]
        assert told["frame"] == past.frame and Path(told["run"]) == run.resolve()
        for n in range(past.window):
            name = f"segments/{n:06d}.mp4"
            assert not (run / name).exists() or (run / name).read_bytes() == (branch / name).read_bytes()
    assert not np.array_equal(frames(other)[past.frame :], frames(night)[past.frame :])
    assert f"parts from {run.resolve()}" in capsys.readouterr().out.replace("\n", "")
    page = report.run(tmp_path).read_text()
    assert f"run \u2192 {float(past.second):.2f} s \u2192 night" in page


def test_the_labels_of_the_past_are_those_of_the_run(tmp_path: Path, monkeypatch) -> None:
    """A track that the branch deletes was there before it parted; its night begins where it parts."""
    monkeypatch.setattr(generate.stacks, "load", lambda *_: stack(boxed=lambda boxes, cells, condition: condition))
    track = "{id: ahead, class: car, keys: [{t: 0, box: [0.4, 0.4, 0.6, 0.6]}, {t: 12, box: [0.3, 0.4, 0.5, 0.6]}]}"
    (tmp_path / "s.yaml").write_text(f"seconds: 12\nfps: 15/8\nboxes: tracks\ntracks: [{track}]\n")
    (run,) = generate.run(tmp_path / "s.yaml", Path("weights"), tmp_path / "run", settings=QUICK)
    (tmp_path / "edit.yaml").write_text(f"{EDIT}edits: [{{op: delete, track: ahead}}]\n")
    edit = tmp_path / "edit.yaml"
    (branch,) = generate.run(None, Path("weights"), tmp_path / "b", parent=run, at=Fraction(7), edit=edit)
    before, after = (generated.read(each / "video.mp4") for each in (run, branch))
    assert before is not None and after is not None and before.times == after.times
    second = part(run, Fraction(7)).second
    past = [row for row, time in enumerate(before.boxes.time) if time < second]
    assert np.array_equal(after.boxes.box, before.boxes.rows(past).box) and set(after.boxes.time) == {
        before.boxes.time[row] for row in past
    }
    assert after.id_of(int(after.boxes.track[0])) == "ahead"
    rows = pq.read_table(branch / "labels.parquet").to_pylist()
    assert [row["night"] for row in rows] == [
        None if n < part(run, Fraction(7)).frame else True for n in range(len(rows))
    ]


def test_a_branch_that_was_cut_off_goes_on(models, tmp_path: Path, monkeypatch) -> None:
    (run,) = models(tmp_path / "run", minutes=0.2, settings=QUICK)
    made, parting = [], {"parent": run, "at": Fraction(5)}
    (whole,) = models(tmp_path / "whole", **parting, seeds=[5])
    commit = Journal.commit

    def dies(journal: Journal, segment: Segment) -> None:
        if len(made) == 2:
            raise RuntimeError("the machine died")
        made.append(segment)
        commit(journal, segment)

    with monkeypatch.context() as broken, pytest.raises(RuntimeError):
        broken.setattr(Journal, "commit", dies)
        models(tmp_path / "cut", **parting, seeds=[5])
    models(tmp_path / "cut", **parting, seeds=[5], resume=True)
    assert (tmp_path / "cut" / "video.mp4").read_bytes() == (whole / "video.mp4").read_bytes()
    resumed = json.loads((tmp_path / "cut" / "run.json").read_text())["resumed_at"]
    assert resumed == [part(run, Fraction(5)).window, part(run, Fraction(5)).window + 2]


def test_a_branch_of_a_branch(models, tmp_path: Path) -> None:
    (run,) = models(tmp_path / "run", minutes=0.25, settings=QUICK)
    (second,) = models(tmp_path / "second", parent=run, at=Fraction(5), seeds=[2])
    (third,) = models(tmp_path / "third", parent=second, at=Fraction(10), seeds=[3])
    first, later = part(run, Fraction(5)).frame, part(second, Fraction(10)).frame
    assert np.array_equal(frames(third)[:first], frames(run)[:first])
    assert np.array_equal(frames(third)[:later], frames(second)[:later])
    assert "run \u2192" in (page := report.run(tmp_path).read_text()) and "\u2192 second \u2192" in page


@pytest.mark.parametrize(
    ("at", "edit", "options", "said"),
    [
        ("1/2", EDIT, {}, "first window"),
        ("600", EDIT, {}, "no second 600"),
        ("7", None, {}, "the run itself again"),
        ("7", "opening: {at: 3}\n", {}, "opening: a branch cannot change it"),
        ("7", "edit: []\n", {}, "edits"),
        ("7", "seconds: 3\n", {}, "ends before it parts"),
        ("7", EDIT, {"minutes": 1.0}, "goes without minutes"),
    ],
)
def test_mistakes_write_nothing(tmp_path: Path, monkeypatch, at, edit, options, said) -> None:
    monkeypatch.setattr(generate.stacks, "load", lambda *weights: stack())
    (run,) = generate.run(None, Path("weights"), tmp_path / "run", minutes=0.2, settings=QUICK)
    if edit:
        (tmp_path / "edit.yaml").write_text(edit)
    parting = {"parent": run, "at": Fraction(at), "edit": tmp_path / "edit.yaml" if edit else None}
    with pytest.raises(Mistake, match=said):
        generate.run(None, Path("weights"), tmp_path / "out", **parting, **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(Mistake, match="is not a run"):
        part(tmp_path, Fraction(1))


def test_a_past_that_changes_under_way_is_refused(tmp_path: Path, monkeypatch) -> None:
    """Between planning and making, a segment of the run is damaged: no branch with another past comes of it."""
    monkeypatch.setattr(generate.stacks, "load", lambda *weights: stack())
    (run,) = generate.run(None, Path("weights"), tmp_path / "run", minutes=0.2, settings=QUICK)
    plan = generate.part

    def damaged(parent: Path, at: Fraction, keeps: bool) -> Branch:
        branch = plan(parent, at, keeps)
        (parent / "segments" / "000000.mp4").write_bytes(b"other")
        return branch

    monkeypatch.setattr(generate, "part", damaged)
    with pytest.raises(Mistake, match="no longer what it was"):
        generate.run(None, Path("weights"), tmp_path / "b", parent=run, at=Fraction(7), seeds=[3])
    assert not (tmp_path / "b" / "video.mp4").exists()


def test_a_run_that_kept_no_states(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(generate.stacks, "load", lambda *weights: stack())
    settings = [*QUICK, "states=newest"]
    (run,) = generate.run(None, Path("weights"), tmp_path / "run", minutes=0.2, settings=settings)
    assert len(list((run / "state").iterdir())) == 2
    with pytest.raises(Mistake, match="kept no state"):
        part(run, Fraction(5))
