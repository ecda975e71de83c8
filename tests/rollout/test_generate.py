"""The job: options and files in, run folders out, and nothing half-written where something does not fit."""

from fractions import Fraction
from pathlib import Path

import pytest

from drivesim.errors import Mistake
from drivesim.jobs import generate
from drivesim.weights import Header, save

from .mock import stack

QUICK = ["sampler.steps=1", "start.steps=1"]


@pytest.fixture
def mocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate.stacks, "load", lambda *weights: stack())


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.usefixtures("mocked")
def test_options_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    done = generate.run(None, tmp_path, out, minutes=0.05, seeds=[7], fps=Fraction(15, 2), settings=QUICK)
    assert done == [out] and {"video.mp4", "plan.json", "run.json", "scenario.yaml", "config.yaml"} <= names(out)
    said = " ".join(capsys.readouterr().out.split())
    assert "25 frames of 32x64, 3.3 s at 7.5 fps" in said and "image decoder, blended to 7.5" in said
    with pytest.raises(Mistake, match="not empty"):
        generate.run(None, tmp_path, out, minutes=0.05, seeds=[7], fps=Fraction(15, 2), settings=QUICK)
    generate.run(None, tmp_path, out, minutes=0.05, seeds=[7], fps=Fraction(15, 2), settings=QUICK, resume=True)


@pytest.mark.usefixtures("mocked")
def test_several_seeds_of_several_scenarios(tmp_path: Path) -> None:
    folder = tmp_path / "scenarios"
    folder.mkdir()
    (folder / "day.yaml").write_text("seconds: 2\nseeds: [1, 2]\n")
    (folder / "night.yaml").write_text("seconds: 2\nopening: {generate: {night: true}}\n")
    done = generate.run(folder, tmp_path, tmp_path / "out", settings=QUICK)
    assert [d.relative_to(tmp_path / "out").as_posix() for d in done] == ["day/seed-1", "day/seed-2", "night"]
    assert len({(d / "video.mp4").read_bytes() for d in done}) == 3
    assert generate.run(folder, tmp_path, tmp_path / "out", settings=QUICK, resume=True) == done


@pytest.mark.usefixtures("mocked")
def test_a_worker_makes_what_the_command_makes(tmp_path: Path) -> None:
    """A run, and a branch of it; its second try goes on with what the first left, and changes nothing."""
    one, edit = tmp_path / "one", tmp_path / "edit.yaml"
    edit.write_text("labels: {night: true}\n")
    generate.run(None, tmp_path, one, minutes=0.2, seeds=[7], settings=QUICK)
    generate.run(None, tmp_path, tmp_path / "two", parent=one, at=Fraction(8), edit=edit)
    for name, parent, at in (("one", None, None), ("two", one, Fraction(8))):
        made = generate.scenarios.load(tmp_path / name / "scenario.yaml")
        task = generate.Task(tmp_path / f"by-worker-{name}", name, made, 7, None)
        loading = generate.Loading(tmp_path, "cpu", "32", None, None, False)
        parting = generate.Parting(parent, at, False) if parent and at else None
        worker = generate.Roller(loading, tuple(QUICK), None, parting, "word")
        said = worker(task)
        assert said == worker(task) and "video.mp4" in said[0]
        for file in ("video.mp4", "journal.jsonl", "plan.json", "labels.parquet"):
            assert (task.folder / file).read_bytes() == (tmp_path / name / file).read_bytes(), (name, file)


@pytest.mark.usefixtures("mocked")
def test_a_scenario_as_it_was_run_runs_again(tmp_path: Path) -> None:
    generate.run(None, tmp_path, tmp_path / "a", minutes=0.05, seeds=[7], settings=QUICK)
    generate.run(tmp_path / "a" / "scenario.yaml", tmp_path, tmp_path / "b", settings=QUICK)
    assert (tmp_path / "a" / "video.mp4").read_bytes() == (tmp_path / "b" / "video.mp4").read_bytes()


@pytest.mark.usefixtures("mocked")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"opening": "nowhere.mp4@1"}, "no such file"),
        ({"size": (8, 8)}, "not 8x8"),
        ({"fps": Fraction(24)}, "one of 1.875"),
        ({"minutes": -1.0}, "greater than 0"),
        ({"settings": ["samplr.steps=3"]}, "did you mean 'sampler'"),
        ({"settings": ["sampler.steps=0"]}, "steps"),
        ({"scenario": Path("nowhere.yaml")}, "no such file"),
    ],
)
def test_mistakes_write_nothing(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(Mistake, match=words):
        generate.run(**{"scenario": None, "weights": tmp_path, "out": tmp_path / "out", **options})  # type: ignore[arg-type]
    assert names(tmp_path) == set()


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"autoencoder\.safetensors"):
        generate.run(None, tmp_path, tmp_path / "out")
    assert names(tmp_path) == set()


def test_weights_of_another_stage(tmp_path: Path) -> None:
    save(tmp_path / "autoencoder.safetensors", {}, Header(stage="image", config={}))
    with pytest.raises(Mistake, match="weights of stage 'image', not 'autoencoder'"):
        generate.run(None, tmp_path, tmp_path / "out")
    assert names(tmp_path) == {"autoencoder.safetensors"}


@pytest.mark.usefixtures("mocked")
def test_a_folder_without_scenarios(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="holds no scenario"):
        generate.run(tmp_path, tmp_path, tmp_path / "out")
