"""Wherever a file cannot be written: one line that names it, and what was there before is still there.

A full disk is a real one, small and mounted for the test; a folder that may not be written to, or only be read, is
injected where the file is opened, and real once for a whole file system.
"""

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from drivesim import cli, weights
from drivesim.data.index import Rows
from drivesim.data.latents import LatentCache
from drivesim.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_MISTAKE, Mistake
from drivesim.jobs import encode, evaluate, index, train
from drivesim.metrics import store
from drivesim.training import checkpoints
from drivesim.training.callbacks import rows
from drivesim.training.checkpoints import latest, steps_in

RECIPE = "name: micro\nkind: world\nclips: 4\nseconds: 9\nfps: 15/8\nsize: [32, 64]\nval: 0.25\n"
SMALL = [
    *("size=[32,64]", "fps=15/8", "statistics=8", "model.channels=[8,8,8]", "model.blocks=1", "model.attention=false"),
    *("model.groups=4", "loss.perceptual=0", "loss.adversarial=0", "loop.batch=2", "loop.ema=0.5"),
    *("loop.precision=32-true", "loop.checkpoint_every=2"),
]
FILES = {  # of a training: how a file is opened, and what the error calls it
    "lock": "lock",
    ".config.yaml.*.part": "config.yaml",
    ".run.json.*.part": "run.json",
    "log.txt": "log.txt",
    "events.out.*": "run",
    ".metrics.csv.*.part": "metrics.csv",
    "metrics.csv": "metrics.csv",
    ".step-*.ckpt.[0-9]*.part": "step-00000006.ckpt",
    ".step-*.sha256.*.part": "step-00000006.ckpt.sha256",
    ".step-*.png.*.part": "step-00000008.png",
    ".autoencoder.safetensors.*.part": "autoencoder.safetensors",
}
KINDS = {
    errno.ENOSPC: "No space left on device",
    errno.EACCES: "Permission denied",
    errno.EROFS: "Read-only file system",
}
QUICK = [
    (errno.ENOSPC, ".step-*.ckpt.[0-9]*.part"),
    (errno.EACCES, ".step-*.sha256.*.part"),
    (errno.EROFS, "metrics.csv"),
    (errno.EACCES, ".autoencoder.safetensors.*.part"),
]
ALL = [
    pytest.param(code, file, marks=[] if (code, file) in QUICK else pytest.mark.slow)
    for code in KINDS
    for file in FILES
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    (folder / "world.yaml").write_text(RECIPE)
    return index.run(folder / "world.yaml", folder / "index", seed=7)


@pytest.fixture(autouse=True)
def no_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "rehearse", lambda *args: None)


def trained(world: Path, out: Path, steps: int, resume: bool = False) -> Path:
    return train.run("autoencoder", None, [*SMALL, f"index={world}", f"loop.steps={steps}"], out, 0, resume=resume)


@pytest.fixture(scope="module")
def four(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps that is done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "rehearse", lambda *args: None)
        return trained(world, tmp_path_factory.mktemp("four") / "run", 4).parents[1]


@pytest.fixture(scope="module")
def eight(world: Path, four: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, and four more."""
    run = tmp_path_factory.mktemp("eight") / "run"
    shutil.copytree(four, run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "rehearse", lambda *args: None)
        return trained(world, run, 8, resume=True).parents[1]


@pytest.mark.parametrize(("code", "file"), ALL)
def test_every_write_of_a_training(
    world: Path, four: Path, eight: Path, small_disk: Path, obstacle, code: int, file: str
) -> None:
    run = small_disk / "run"
    shutil.copytree(four, run)
    obstacle.put(code, file, small_disk if code == errno.ENOSPC else None)
    with pytest.raises(Mistake) as told:
        trained(world, run, 8, resume=True)
    obstacle.remove()
    assert obstacle.met and len(str(told.value).splitlines()) == 1
    assert str(told.value).endswith(f": cannot be written: {KINDS[code]}")
    what = next(part for part in str(told.value).split(": ") if part.startswith(str(run)))
    # what is appended to may still have room in its last page, and the next file is the first that has none
    assert what.endswith(FILES[file]) or (code == errno.ENOSPC and not file.endswith(".part"))
    (small_disk / "filler").unlink(missing_ok=True)
    assert steps_in(latest(run, pytest.fail)) >= 4
    assert all(checkpoints.flaw(each) is None for each in (run / "checkpoints").glob("*.ckpt"))
    assert rows(run / "metrics.csv")[: len(rows(four / "metrics.csv"))] == rows(four / "metrics.csv")
    kept = run / "weights" / "autoencoder.safetensors"
    assert kept.read_bytes() == (four / "weights" / "autoencoder.safetensors").read_bytes()
    assert json.loads((run / "run.json").read_text())["job"] == "train"
    assert not list(run.rglob("*.part"))
    trained(world, run, 8, resume=True)
    one, two = (weights.load(folder / "weights" / "autoencoder.safetensors")[0] for folder in (run, eight))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert rows(run / "metrics.csv") == rows(eight / "metrics.csv")


def test_the_command_says_it_in_one_line_and_fails(
    world: Path, four: Path, tmp_path: Path, obstacle, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(four, tmp_path / "run")
    obstacle.put(errno.ENOSPC, ".step-*.ckpt.[0-9]*.part")
    words = ["train", "autoencoder", *SMALL, f"index={world}", "loop.steps=8", "--resume", "--seed", "0"]
    assert cli.main([*words, "--device", "cpu", "--out", str(tmp_path / "run")]) == EXIT_MISTAKE
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("autoencoder: step")]
    file = tmp_path / "run" / "checkpoints" / "step-00000006.ckpt"
    assert said == [f"drivesim: {file}: cannot be written: No space left on device"]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.splitlines()[-1].endswith(f"Mistake: {file}: cannot be written: No space left on device")


def test_a_file_system_that_can_only_be_read(world: Path, four: Path, small_disk: Path) -> None:
    run = small_disk / "run"
    shutil.copytree(four, run)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for out, resume in ((run, True), (small_disk / "new" / "run", False)):
        with pytest.raises(Mistake, match="cannot be written: Read-only file system"):
            trained(world, out, 8, resume=resume)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert not (small_disk / "new").exists()


def test_the_index_and_the_cache(world: Path, four: Path, small_disk: Path, obstacle) -> None:
    """They come whole or not at all; of a cache, shards that are whole stay for --resume."""
    shutil.copy(world.parent / "world.yaml", small_disk / "world.yaml")
    cases = (
        (errno.ENOSPC, small_disk, "*.mp4.*.part", r"00000\.mp4"),
        (errno.EACCES, None, ".quarantine.jsonl.*", "quarantine.jsonl"),
    )
    for code, disk, file, name in cases:
        obstacle.put(code, file, disk)
        with pytest.raises(Mistake, match=f"{name}: cannot be written: {KINDS[code]}"):
            index.run(small_disk / "world.yaml", small_disk / "index", seed=7)
        obstacle.remove()
        (small_disk / "filler").unlink(missing_ok=True)
        assert [each.name for each in small_disk.iterdir()] == ["world.yaml"]
    obstacle.fill(small_disk)
    with pytest.raises(Mistake, match=r"files\.parquet: cannot be written: No space left on device"):
        Rows().write(small_disk, 0.0)
    for name in ("filler", "files.parquet"):
        (small_disk / name).unlink(missing_ok=True)
    cases = ((".000000.npy.*.part", "000000.npy", False), (".cache.json.*.part", "cache.json", True))
    for file, name, kept in cases:
        obstacle.put(errno.ENOSPC, file, small_disk)
        with pytest.raises(Mistake, match=f"{name}: cannot be written: No space left"):
            encode.run(world, four / "weights", small_disk / "cache", Fraction(15, 8), (32, 64))
        obstacle.remove()
        (small_disk / "filler").unlink()
        assert {each.name for each in small_disk.iterdir()} == {"world.yaml"} | ({"cache"} if kept else set())
    parts = {file: file.stat().st_mtime_ns for file in (small_disk / "cache").glob("*.npy")}
    with pytest.raises(Mistake, match="is not a latent cache"):
        LatentCache.open(small_disk / "cache")
    encode.run(world, four / "weights", small_disk / "cache", Fraction(15, 8), (32, 64), resume=True)
    LatentCache.open(small_disk / "cache")
    assert parts and {file: file.stat().st_mtime_ns for file in parts} == parts, "what was whole is not made again"


@pytest.mark.slow
def test_scores_and_features(world: Path, small_disk: Path, obstacle) -> None:
    settings = evaluate.Settings(protocol="builtin-v1", controls=False, cache=small_disk / "cache")
    score = small_disk / "scores.json"
    score.write_text("old")
    for file in (".*.safetensors.*.part", ".scores.json.*.part"):
        obstacle.put(errno.ENOSPC, file, small_disk)
        with pytest.raises(Mistake, match="cannot be written: No space left"):
            evaluate.run(world, world, json_file=score, settings=settings)
        assert obstacle.met
        obstacle.remove()
        (small_disk / "filler").unlink()
        assert score.read_text() == "old" and not list(small_disk.rglob("*.part"))
    for file in (small_disk / "cache").rglob("*.safetensors"):
        store.read(file)


# --- who works in a folder, and who ends it ---------------------------------------------------------------------------


def started(world: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "drivesim.cli", "train", "autoencoder", *SMALL, f"index={world}", "--device", "cpu"]
    return subprocess.Popen(
        [*words, *more, "--out", str(out)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def until(process: subprocess.Popen[str], file: Path) -> None:
    end = time.monotonic() + 300
    while not file.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert file.exists(), process.communicate()


@pytest.mark.slow
def test_a_second_training_is_refused_and_the_first_can_be_asked_to_stop(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = started(world, out, "loop.steps=100000")
    until(first, out / "checkpoints" / "step-00000002.ckpt")
    for resume in (False, True):
        with pytest.raises(Mistake) as told:
            trained(world, out, 100000, resume=resume)
        assert f"{out}: process {first.pid} on" in str(told.value) and "works in this folder" in str(told.value)
    assert "works in this folder" not in (out / "log.txt").read_text()
    first.send_signal(signal.SIGUSR1)
    _, err = first.communicate(timeout=300)
    assert first.returncode == EXIT_INTERRUPTED and err.splitlines()[-1].startswith("drivesim: interrupted; ")
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted" and not (out / "lock").exists()
    done = steps_in(latest(out, pytest.fail))
    second = started(world, out, f"loop.steps={done + 2}", "--resume")
    second.communicate(timeout=300)
    assert second.returncode == EXIT_DONE and json.loads((out / "run.json").read_text())["status"] == "done"


def test_killed_before_its_first_checkpoint_it_begins_again(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").write_text("")
    assert trained(world, tmp_path / "run", 2, resume=True).is_file()
    assert "was stopped before its first checkpoint: it begins again" in capsys.readouterr().out
    with pytest.raises(Mistake, match="no checkpoint to resume from"):
        trained(world, tmp_path / "other", 2, resume=True)
    assert not (tmp_path / "other").exists()


def test_resuming_says_what_it_passes_over(
    world: Path, four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(four, run)
    newest = latest(run)
    newest.write_bytes(newest.read_bytes()[:100])
    (run / "weights" / "autoencoder.safetensors").unlink()
    trained(world, run, 4, resume=True)
    line = f"{newest} is passed over: 100 bytes that are not what {newest.name}.sha256 says"
    assert capsys.readouterr().out.count(line) == 1 and f" {line}\n" in (run / "log.txt").read_text()
    one, two = (weights.load(folder / "weights" / "autoencoder.safetensors")[0] for folder in (run, four))
    assert all(torch.equal(one[name], two[name]) for name in one)
