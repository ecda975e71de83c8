"""The command: what it hands to the jobs, what it says of mistakes, how fast it answers. Jobs are stood in for."""

import subprocess
import sys
import time
import types
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from drivesim import cli
from drivesim.errors import Interrupted, Mistake
from drivesim.jobs.fanout import Engine


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Every job records how it was called."""
    import drivesim.jobs

    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for name in cli.COMMANDS:
        job = types.ModuleType(f"drivesim.jobs.{name}")
        job.run = lambda *args, **kwargs: seen.append((args, kwargs))  # type: ignore[attr-defined]
        job.Settings = dict  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, job.__name__, job)
        monkeypatch.setattr(drivesim.jobs, name, job, raising=False)
    return seen


def run(line: str) -> int:
    return cli.main(line.split())


def test_index(calls: list) -> None:
    assert run("index clips --seed 3 --recipe r.yaml --out o") == 0
    assert run("index clips --labels l.json --format coco") == 0
    assert run("index clips --captions c.csv") == 0
    plain, labelled = (Path("r.yaml"), 3, None, None, None), (None, 0, Path("l.json"), "coco", None)
    captioned, out = (None, 0, None, None, Path("c.csv")), Path("runs/index")
    given = ((Path("o"), *plain), (out, *labelled), (out, *captioned))
    assert calls == [((Path("clips"), *each), {}) for each in given]


def test_scenario(calls: list) -> None:
    assert run("scenario check s.yaml") == run("scenario convert --format mot --out l s.yaml") == 0
    assert run("scenario schema --out s.json") == 0
    given = ("check", Path("s.yaml"), None, None), ("convert", Path("s.yaml"), Path("l"), "mot")
    assert calls == [(each, {}) for each in (*given, ("schema", None, Path("s.json"), None))]


def test_encode(calls: list) -> None:
    line = "encode --size 128x256 idx --weights w --device cpu --fps 7.5 --phases 4 --batch 8 --dry-run"
    assert run(f"{line} --resume --threads 2") == 0
    given = (Path("idx"), Path("w"), Path("runs/latents"), Fraction(15, 2), (128, 256), "cpu")
    told = {"phases": 4, "precision": "32", "batch": 8, "resume": True, "dry_run": True, "engine": Engine(threads=2)}
    assert calls == [(given, told)]


@pytest.mark.parametrize(
    "line",
    [
        "train image c.yaml steps=3 net.width=[1,2] --seed 5 --resume --print-config --device cpu --dry-run",
        "train --seed 5 image --resume steps=3 --print-config c.yaml --dry-run --device cpu net.width=[1,2]",
        "train --device=cpu image steps=3 --seed=5 --dry-run net.width=[1,2] --print-config c.yaml --resume",
    ],
)
def test_train_takes_options_in_any_order(calls: list, line: str) -> None:
    assert run(line) == 0
    overrides = ["steps=3", "net.width=[1,2]"]
    assert calls == [(("image", Path("c.yaml"), overrides, Path("runs/image"), 5, "cpu", True, True, True, 1), {})]


def test_train_without_a_file(calls: list) -> None:
    assert run("train autoencoder a=1 --device cpu --out o") == 0
    assert calls == [(("autoencoder", None, ["a=1"], Path("o"), None, "cpu", False, False, False, 1), {})]


def test_generate(calls: list) -> None:
    line = "generate s.yaml --weights w --opening a.mp4@1.5 --minutes 2 --seed 1 fill=hold --seed 2 --size 64x128"
    words = "--prompt fog --temporal-prompt rain --backbone b --temporal off"
    assert run(f"{line} --fps 15/8 --device cpu --export coco,csv {words}") == 0
    assert calls[0][1] == {
        "scenario": Path("s.yaml"),
        "weights": Path("w"),
        "out": Path("runs/rollout"),
        "opening": "a.mp4@1.5",
        "minutes": 2.0,
        "seeds": [1, 2],
        "size": (64, 128),
        "fps": Fraction(15, 8),
        "device": "cpu",
        "resume": False,
        "settings": ["fill=hold"],
        "precision": "bf16",
        "compiled": False,
        "keep_opening": False,
        "dry_run": False,
        "export": "coco,csv",
        "parent": None,
        "at": None,
        "edit": None,
        "keep": False,
        "prompt": "fog",
        "temporal_prompt": "rain",
        "backbone": Path("b"),
        "temporal": "off",
        "engine": Engine(),
    }


def test_generate_leaves_open_what_the_scenario_says(calls: list) -> None:
    assert run("generate s.yaml --weights w") == 0
    assert [calls[0][1][key] for key in ("opening", "minutes", "seeds", "size", "fps")] == [None, None, [], None, None]


def test_evaluate(calls: list) -> None:
    line = "evaluate real made --json s.json --device cpu --extractor i3d.pt --fps 10 --no-controls --devices 2"
    assert run(f"{line} --protocol styleganv --against old.json --clips 64 --window 7.5 --precision bf16") == 0
    settings = {"protocol": "styleganv", "extractor": Path("i3d.pt"), "inception": None, "fps": 10, "clips": 64}
    settings |= {"controls": False, "window": Fraction(15, 2), "precision": "bf16", "cache": None, "pairs": False}
    settings |= {"boxes": False, "detector": None, "clipsim": None}
    given = (Path("real"), Path("made"), None, Path("s.json"), settings, "cpu", 2, Path("old.json"), False, Engine())
    assert run("evaluate real made --boxes --detector yolo.onnx --clipsim clip --device cpu") == 0
    assert calls[0] == (given, {})
    told = calls[1][0][4]
    assert (told["boxes"], told["detector"], told["clipsim"]) == (True, "yolo.onnx", Path("clip"))


def test_compare(calls: list) -> None:
    assert run("compare a b --pairs 9 --seconds 2.5 --size 64x128 --fps 15/2 --seed 3 --conditioned --out o") == 0
    assert run("compare a b") == 0
    given = dict(pairs=9, seconds=Fraction(5, 2), size=(64, 128), fps=Fraction(15, 2), seed=3, conditioned=True)
    usual = dict(pairs=100, seconds=Fraction(4), size=None, fps=None, seed=0, conditioned=False)
    assert calls == [
        ((Path("a"), Path("b"), Path("o")), given),
        ((Path("a"), Path("b"), Path("runs/compare")), usual),
    ]


def test_compare_tallies(calls: list, monkeypatch: pytest.MonkeyPatch) -> None:
    job = types.ModuleType("drivesim.jobs.tally")
    job.run = lambda *args: calls.append(args)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, job.__name__, job)
    monkeypatch.setattr(sys.modules["drivesim.jobs"], "tally", job, raising=False)
    assert run("compare --tally d v1.json v2.json") == run("compare --tally d") == 0
    assert calls == [(Path("d"), [Path("v1.json"), Path("v2.json")]), (Path("d"), [])]


def test_weights(calls: list) -> None:
    assert run("weights check sd/unet") == run("weights --out a.safetensors convert a.ckpt") == 0
    assert calls == [(("check", Path("sd/unet"), None), {}), (("convert", Path("a.ckpt"), Path("a.safetensors")), {})]


def test_report_demo_doctor(calls: list) -> None:
    assert run("report r") == run("demo --seed 4 --device cpu") == run("doctor") == 0
    assert calls == [((Path("r"),), {}), ((Path("runs/demo"), 4, "cpu"), {"train": False}), ((None,), {})]


def test_the_jobs_take_what_the_command_gives() -> None:
    """The stand-ins above prove nothing if a real job wants something else."""
    import importlib
    import inspect

    wanted = {"index": 6, "encode": 6, "train": 9, "generate": 11, "evaluate": 10, "report": 1, "demo": 3, "doctor": 1}
    wanted |= {"weights": 3, "scenario": 4}
    for name, count in wanted.items():
        inspect.signature(importlib.import_module(f"drivesim.jobs.{name}").run).bind(*range(count))
    inspect.signature(importlib.import_module("drivesim.jobs.tally").run).bind(*range(2))
    compare = inspect.signature(importlib.import_module("drivesim.jobs.compare").run)
    assert list(compare.parameters) == "a b out pairs seconds size fps seed conditioned".split()
    generate = inspect.signature(importlib.import_module("drivesim.jobs.generate").run)
    words = "scenario weights out opening minutes seeds size fps device resume settings precision compiled"
    words += " keep_opening dry_run export parent at edit keep prompt temporal_prompt backbone temporal engine"
    assert set(generate.parameters) == set(words.split())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "a command is expected"),
        ("trian", "did you mean 'train'?"),
        ("--hepl", "did you mean '--help'?"),
        ("train", "STAGE is missing"),
        ("train image --sed 3", "did you mean '--seed'?"),
        ("train image a.yaml b.yaml", "unexpected argument 'b.yaml'"),
        ("train image --seed x", "'x' is not a seed"),
        ("generate", "--weights is required"),
        ("generate --weights w --from run --at 1/0", "'1/0' is not a length in seconds"),
        ("generate --weigths w", "did you mean '--weights'?"),
        ("generate --weights w --fps 15/0", "is not a frame rate"),
        ("generate --weights w --size 64", "HEIGHTxWIDTH"),
        ("generate --weights w --size 0x64", "HEIGHTxWIDTH"),
        ("generate --weights w --minutes -1", "is not a length in minutes"),
        ("generate --weights w --minutes nan", "is not a length in minutes"),
        ("generate --weights w --device tpu", "is not a device"),
        ("generate --weights w --device cuda:999", "no such device"),
        ("encode i --weights w --size 8x8 --phases 0", "is not a whole number from 1"),
        ("encode i --weights w --size 8x8 --precision 16", "'16' is not known"),
        ("evaluate a", "GENERATED is missing"),
        ("evaluate a b c", "unexpected argument 'c'"),
        ("compare a", "B is missing"),
        ("compare a b --seconds 0", "is not a length in seconds"),
        ("compare --tally d --seed 0 v.json", "--seed has no meaning with --tally"),
        ("doctor x", "unexpected argument 'x'"),
        ("weights check", "PATH is missing"),
        ("scenario check", "FILE is missing"),
        ("scenario schema s.yaml", "unexpected argument 's.yaml'"),
        ("demo --seed", "expected one argument"),
    ],
)
def test_mistakes_of_the_line(calls: list, capsys: pytest.CaptureFixture, line: str, says: str) -> None:
    assert run(line) == 2
    out, err = capsys.readouterr()
    assert says in err and 1 <= len(err.splitlines()) <= 3 and not out and not calls


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("index nowhere --out {tmp}/o", "nowhere"),
        ("index {tmp}/empty --out {tmp}/o", "empty"),
        ("index {tmp}/words --out {tmp}/o", "words"),
        ("encode nowhere --weights {tmp} --size 64x128 --out {tmp}/o", "nowhere"),
        ("train imgae --out {tmp}/o", "did you mean 'image'?"),
        ("train autoencoder nowhere.yaml --out {tmp}/o", "no such file"),
        ("train autoencoder modle.channels=3 --out {tmp}/o", "did you mean 'model'?"),
        ("train autoencoder loop.stesp=3 --out {tmp}/o", "did you mean 'steps'?"),
        ("train autoencoder loop.steps=many --out {tmp}/o", "loop.steps: a whole number is expected, not"),
        ("train autoencoder index=nowhere --out {tmp}/o", "nowhere"),
        ("generate nowhere.yaml --weights {tmp} --out {tmp}/o", "no such file"),
        ("generate --weights {tmp}/empty --out {tmp}/o", "no such weight file"),
        ("evaluate {tmp}/empty {tmp}/empty --out {tmp}/o", "empty"),
        ("evaluate {tmp}/a {tmp}/b --protocol bultin-v1 --out {tmp}/o", "did you mean 'builtin-v1'?"),
        ("compare {tmp}/empty {tmp}/empty --out {tmp}/o", "holds no video"),
        ("compare {tmp}/words {tmp}/words --out {tmp}/o", "film.mp4 is text, not a video"),
        ("compare {tmp}/words {tmp}/words --size 64x65 --out {tmp}/o", "64x65 is odd"),
        ("compare --tally {tmp}/empty", "key.json: cannot be read"),
        ("report nowhere", "nowhere"),
        ("doctor --weights nowhere", "nowhere"),
        ("weights chekc {tmp}", "did you mean 'check'?"),
        ("weights check nowhere", "no such file or folder"),
        ("weights check {tmp}/empty", "holds no weights"),
        ("weights convert {tmp}/words/film.mp4", "'convert' takes --out"),
        ("weights convert {tmp}/words/film.mp4 --out {tmp}/o", "must end in .safetensors"),
    ],
)
def test_mistakes_that_the_jobs_find(tmp_path: Path, capsys: pytest.CaptureFixture, line: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "film.mp4").write_text("not a film")
    device = "" if line.split()[0] in ("index", "report", "compare", "doctor", "weights") else " --device cpu"
    assert run(line.format(tmp=tmp_path) + device) == 2
    err = capsys.readouterr().err
    assert says in err and 1 <= len(err.splitlines()) <= 3
    assert not (tmp_path / "o").exists(), "something half-written is left"


@pytest.mark.parametrize(
    ("problem", "status", "says"),
    [
        (Mistake("no", where="a.mp4", mend="do"), 2, "drivesim: a.mp4: no\n  do\n"),
        (Interrupted("window 3 is written"), 75, "drivesim: interrupted; window 3 is written\n"),
        (KeyboardInterrupt(), 75, "what was written so far is in --out"),
        (
            RuntimeError("a\nb"),
            1,
            "drivesim: a defect of drivesim: RuntimeError: a b (run with --debug for the traceback)\n",
        ),
    ],
)
def test_exit_status(
    calls: list,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    problem: Exception,
    status: int,
    says: str,
) -> None:
    def fail(*args: Any) -> None:
        raise problem

    monkeypatch.setattr(sys.modules["drivesim.jobs.report"], "run", fail)
    assert run("report r") == status
    err = capsys.readouterr().err
    assert says in err and "Traceback" not in err
    assert run("report r --debug") == status
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_help_has_an_example_that_parses(calls: list, capsys: pytest.CaptureFixture, name: str) -> None:
    assert run(f"{name} --help") == 0
    out = capsys.readouterr().out
    assert cli.COMMANDS[name].summary in out and f"drivesim {name}" in out
    assert run(cli.COMMANDS[name].example.removeprefix("drivesim ")) == 0 and len(calls) == 1


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    heavy = "[m for m in ('torch', 'numpy', 'av', 'cv2', 'rich', 'yaml') if m in sys.modules]"
    code = f"import sys, drivesim.cli; drivesim.cli.main(['--help']); assert not {heavy}, {heavy}"
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        best = min(best, time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout
    assert best < 1.5  # 0.05 s where this was written; the promise is 0.5 s


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("drivesim 0.")
