"""Hostile files at the doors of the command: nothing runs, nothing is called, nothing outside of the folder is read."""

import ctypes
import importlib
import json
import os
import pickle
import pkgutil
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drivesim import cli, jobs
from tests.rollout.mock import stack

from .hostile import HOSTILE, SCRIPT, Hostile, Payload
from .trap import Trap, armed, trap

GIB = 1 << 30
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")  # what may steer a terminal; a line break may not


@pytest.fixture(scope="module", autouse=True)
def commands() -> None:
    """All commands are imported before a trap is set: some imports of theirs load libraries, which no file has asked
    for."""
    for module in pkgutil.iter_modules(jobs.__path__):
        importlib.import_module(f"{jobs.__name__}.{module.name}")


def test_a_trap_springs(tmp_path: Path) -> None:
    with trap(tmp_path) as set_up:
        payload = pickle.dumps(Payload(set_up.canary))
        with armed(set_up):
            pickle.loads(payload)
            ctypes.CDLL("libc.so.6")
            set_up.text.read_bytes()
        assert [line.split(":")[0] for line in set_up.sprung] == ["ctypes.dlopen", "executed"] + 2 * ["read outside"]


def test_they_are_numbered_and_more_than_thirty() -> None:
    assert [one.number for one in HOSTILE] == list(range(1, len(HOSTILE) + 1)) and len(HOSTILE) >= 30


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda one: f"{one.number}-{one.name}")
def test_a_hostile_file_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, hostile: Hostile
) -> None:
    from drivesim.jobs import generate

    if hostile.mocked or hostile.name.startswith("journal"):
        monkeypatch.setattr(generate.stacks, "load", lambda *weights: stack())
    with trap(tmp_path) as set_up:
        words = hostile.make(set_up)
        monkeypatch.chdir(set_up.inside)
        capsys.readouterr()
        before = set(os.listdir(tmp_path)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with armed(set_up):
            status = cli.main(words)
        assert not set_up.sprung
        assert set(os.listdir(tmp_path)) == before[0] and len(os.listdir(set_up.outside)) <= 4
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[1]) << 10 < GIB / 2
        out, err = capsys.readouterr()
        assert status == hostile.status, err
        assert not CONTROL.search(err) and (status == 0 or 1 <= len(err.splitlines()) <= 3)
        assert hostile.says in " ".join(_told(set_up, out, err).split())
        assert not CONTROL.search(out)


def _told(set_up: Trap, out: str, err: str) -> str:
    """Where the command says what it found: on the terminal, among what was left out, on a page."""
    files = [*set_up.inside.rglob("quarantine.jsonl"), *set_up.inside.rglob("scores.json")]
    pages = [page.read_text() for page in set_up.inside.rglob("report.html")]
    assert not any(SCRIPT in page or "<script" in page for page in pages)
    lines = [json.loads(line) for f in files if f.suffix == ".jsonl" for line in f.read_text().splitlines()]
    assert not any(line["path"] == "forged" for line in lines)
    return "\n".join([out, err, *(f.read_text() for f in files), *pages])


@pytest.mark.slow
def test_the_same_where_there_is_no_network(tmp_path: Path) -> None:
    """All of the above in a namespace of its own, without any network, so that whoever calls gets an error at least."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("no namespace without a network can be made here")
    command = [unshare, "-rn", sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    environment = {**os.environ, "NO_NETWORK": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run([*command, __file__], capture_output=True, text=True, env=environment, cwd=root)
    assert done.returncode == 0 and f"{len(HOSTILE) + 2} passed" in done.stdout, done.stdout[-3000:]
