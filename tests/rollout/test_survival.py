"""A rollout outlives signals, kills and too little memory; its folder has one owner and keeps a log."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drivesim.errors import Interrupted, Mistake
from drivesim.rollout import labels
from drivesim.rollout.engine import roll
from drivesim.rollout.journal import Journal, check_free
from drivesim.rollout.log import Log
from drivesim.rollout.settings import DecodeConfig, RolloutConfig, SamplerConfig

from .mock import Mock
from .test_engine import FAST, digest, planned

TOOL = Path(__file__).resolve().parents[2] / "tools" / "torture.py"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return roll(planned(), tmp_path_factory.mktemp("whole") / "run")


class Doing(Mock):
    """Does something at its call number ``at``: 3 calls are a window."""

    def __init__(self, at: int, what: Callable[[], object]):
        super().__init__()
        self.at, self.what = at, what

    def __call__(self, *args: object) -> torch.Tensor:
        if self.calls == self.at:
            self.what()
        return super().__call__(*args)  # type: ignore[arg-type]


def status(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["status"])


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_waits_for_the_end_of_the_window(whole: Path, tmp_path: Path, number: signal.Signals) -> None:
    before, run = signal.getsignal(number), tmp_path / "run"
    mock = Doing(7, lambda: os.kill(os.getpid(), number))  # in window 2 of 0 to 5
    with pytest.raises(Interrupted, match="stopped behind window 3 of 6; the same command with --resume goes on"):
        roll(planned(mock), run)
    assert signal.getsignal(number) == before and mock.calls == 9 and status(run) == "interrupted"
    again = Mock()
    roll(planned(again), run, resume=True)
    assert again.calls == 9, "what was done is not made again"
    assert digest(run / "video.mp4") == digest(whole / "video.mp4")


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM), os.kill(os.getpid(), signal.SIGTERM)

    before, run, mock = signal.getsignal(signal.SIGTERM), tmp_path / "run", Doing(7, twice)
    with pytest.raises(Interrupted, match="--resume"):
        roll(planned(mock), run)
    assert mock.calls == 7 and status(run) == "interrupted" and signal.getsignal(signal.SIGTERM) == before
    assert not list(run.rglob("*.part")) and not (run / "lock").exists()


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "left", [["lock"], ["lock", "scenario.yaml"], ["lock", "scenario.yaml", ".config.yaml.4999999.part"]]
)
def test_killed_before_it_had_begun(whole: Path, tmp_path: Path, left: list[str], resume: bool) -> None:
    """A process that is killed leaves its lock; then what stands before plan.json is nobody's."""
    run = tmp_path / "run"
    run.mkdir()
    for name in left:
        (run / name).write_text("{")
    roll(planned(), run, resume=resume)
    assert digest(run / "video.mp4") == digest(whole / "video.mp4")
    assert {file.name for file in run.iterdir()} == {file.name for file in whole.iterdir()}


def test_a_users_file_is_not_taken_for_a_begin(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text("mine")
    for resume in (False, True):
        with pytest.raises(Mistake, match="not empty|no run"):
            check_free(tmp_path, resume)
        with pytest.raises(Mistake, match="not empty|no run"):
            roll(planned(), tmp_path, resume=resume)
    assert (tmp_path / "scenario.yaml").read_text() == "mine"


def test_what_a_killed_process_left_goes(whole: Path, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="died"):
        roll(planned(Mock(fail_at_call=10)), run)
    for name in (f".journal.jsonl.{dead.pid}.part", f"state/.keyframes-000003.safetensors.{dead.pid}.part"):
        (run / name).write_bytes(b"half")
    (run / f".export.{dead.pid}.part" / "coco").mkdir(parents=True)
    alive = run / f".report.html.{os.getppid()}.part"
    mine = run / "holiday.part"
    alive.touch(), mine.touch()
    (run / "segments" / "000003.mp4").write_bytes(b"whole, but in no journal")
    (run / "state" / "keyframes-000003.safetensors").write_bytes(b"the same")
    roll(planned(), run, resume=True)
    assert set(run.rglob("*.part")) == {alive, mine}, "what another process writes just now is not ours"
    assert digest(run / "video.mp4") == digest(whole / "video.mp4")


def test_states_that_had_grown_old_go(tmp_path: Path) -> None:
    """Killed between the journal's line and the removal of the oldest."""
    settings = RolloutConfig(sampler=SamplerConfig(steps=3), start=SamplerConfig(steps=3), states="newest")
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="died"):
        roll(planned(Mock(fail_at_call=12), settings=settings), run)
    kept = sorted(file.name for file in (run / "state").iterdir())
    assert kept == ["keyframes-000002.safetensors", "keyframes-000003.safetensors"]
    (run / "state" / "keyframes-000001.safetensors").write_bytes(b"")
    roll(planned(settings=settings), run, resume=True)
    kept = sorted(file.name for file in (run / "state").iterdir())
    assert kept == ["keyframes-000004.safetensors", "keyframes-000005.safetensors"]


def test_half_a_line_of_the_journal_is_not_a_window(whole: Path, tmp_path: Path) -> None:
    text = (whole / "journal.jsonl").read_text()
    (tmp_path / "journal.jsonl").write_text(text[:-1])
    plan = json.loads((whole / "plan.json").read_text())["hash"]
    assert len(Journal(tmp_path, plan).lines) == 11 and len(Journal(whole, plan).lines) == 12


def test_label_files_are_there_when_all_are(tmp_path: Path) -> None:
    class Failing:
        name = "second"

        @staticmethod
        def write(*args: object) -> None:
            raise OSError(28, "No space left on device")

    class Writing:
        name = "first"

        @staticmethod
        def write(labelled: object, out: Path, *args: object) -> None:
            out.mkdir(parents=True)
            (out / "labels.json").write_text("new")

    (tmp_path / "export" / "first").mkdir(parents=True)
    (tmp_path / "export" / "first" / "labels.json").write_text("old")
    plan = planned().plan
    with pytest.raises(Mistake, match="second: cannot be written: No space left"):
        labels.export(None, tmp_path, plan.fps, [Writing, Failing])  # type: ignore[arg-type,list-item]
    assert (tmp_path / "export" / "first" / "labels.json").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["export"]
    labels.export(None, tmp_path, plan.fps, [Writing])  # type: ignore[arg-type,list-item]
    assert (tmp_path / "export" / "first" / "labels.json").read_text() == "new"


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "mend"),
    [(DecodeConfig(batch=4), "try decode.batch=2"), (DecodeConfig(batch=1), "take smaller models")],
)
def test_too_little_memory_names_the_next_setting(tmp_path: Path, settings: DecodeConfig, mend: str) -> None:
    mock = Doing(4, lambda: torch.empty(1 << 56))
    with pytest.raises(Mistake, match="a window does not fit into the memory of cpu") as told:
        roll(planned(mock, settings=replace(FAST, decode=settings)), tmp_path / "run")
    assert mend in str(told.value) and len(str(told.value).splitlines()) == 2
    assert status(tmp_path / "run") == "failed"


# --- the log ----------------------------------------------------------------------------------------------------------


def said(run: Path) -> list[str]:
    """The lines of log.txt without their times."""
    lines = (run / "log.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 ", line) for line in lines if line)
    return [line[26:] for line in lines]


def test_a_run_keeps_what_the_terminal_said(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="died"):
        roll(planned(Mock(fail_at_call=4)), run)
    assert said(run)[0].startswith("$ ") and said(run)[-1] == "RuntimeError: the machine died"
    text = (run / "log.txt").read_text()
    (run / "log.txt").write_text(text + "2026-11-29T00:00:00+00:00 cut o")
    roll(planned(), run, resume=True)
    assert (run / "log.txt").read_text().startswith(text), "a resumed run goes on behind it"
    assert "cut o" in said(run) and said(run)[-1].startswith("rollout")


def test_the_log_holds_lines_and_what_came_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Log() as log:
        print("before")
        log.to(tmp_path)
        print("\x1b[31mred\x1b[0m", "and plain")
        print("1 of 3", end="\r"), print("2 of 3", end="\r"), print("3 of 3")
        print("half ", end=""), print("and half", file=sys.stderr), print("a line")
        log.to(None)
        print("elsewhere")
    print("after")
    assert [line for line in said(tmp_path) if not line.startswith("$")] == [
        "before", "red and plain", "3 of 3", "and half", "half a line",
    ]  # fmt: skip
    out, err = capsys.readouterr()
    assert out.endswith("half a line\nelsewhere\nafter\n") and err == "and half\n"


def test_a_line_in_place_is_kept_every_ten_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("drivesim.rollout.log.time.monotonic", lambda: now[0])
    with Log() as log:
        log.to(tmp_path)
        for step in range(30):
            now[0] += 1
            print(f"step {step}", end="\r")
    assert said(tmp_path)[1:] == ["step 10", "step 21"]


# --- all of it --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_again_and_again_it_is_the_same(tmp_path: Path) -> None:
    """Five times; ``tools/torture.py rollout`` does it a hundred times."""
    done = subprocess.run(
        [sys.executable, str(TOOL), "rollout", "--kills", "5", "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "torture-rollout.json").read_text())
    assert sum(told["kills"].values()) >= 5 and told["rounds"] >= 1
    assert told["torn"] == told["orphans"] == told["differences"] == told["lost"] == []
