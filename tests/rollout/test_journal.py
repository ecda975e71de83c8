"""The lock of a run folder."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from drivesim.errors import Mistake
from drivesim.rollout.journal import claimed


def test_a_second_process_is_refused_and_the_lock_goes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with claimed(out, False):
        owner = json.loads((out / "lock").read_text())
        assert owner == {"pid": os.getpid(), "host": socket.gethostname()}
        script = "from pathlib import Path; from drivesim.rollout.journal import claimed\n"
        script += f"with claimed(Path({str(out)!r}), True): pass"
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert other.returncode == 1 and f"process {os.getpid()} on" in other.stderr
        with pytest.raises(Mistake, match="works in this folder"), claimed(out, True):
            pass
    assert not out.exists(), "it was made for this, and stayed empty"
    with claimed(out, False):
        pass


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "lock").write_text(json.dumps({"pid": dead.pid, "host": socket.gethostname()}))
    with claimed(tmp_path, False):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_a_lock_cut_short_is_taken_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text)
    with claimed(tmp_path, False):
        pass


def test_the_lock_of_another_machine_is_respected(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(Mistake, match="process 1 on elsewhere"), claimed(tmp_path, True):
        pass
    assert (tmp_path / "lock").exists()


def test_the_heir_of_another_machine_takes_its_lock_over(tmp_path: Path) -> None:
    """Whoever hands out the work knows that the process is gone; another word than its own says nothing."""
    lock = tmp_path / "lock"
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "heir": "a"}))
    for word in ("", "b"):
        with pytest.raises(Mistake, match="process 1 on elsewhere"), claimed(tmp_path, True, word):
            pass
    with claimed(tmp_path, True, "a"):
        assert json.loads(lock.read_text()) == {"pid": os.getpid(), "host": socket.gethostname(), "heir": "a"}
    assert not lock.exists()


def test_an_heir_waits_until_a_process_is_gone(tmp_path: Path) -> None:
    """A process may be declared dead before the system has taken its lock from it."""
    script = "import sys; from pathlib import Path; from drivesim.rollout.journal import claimed\n"
    script += f"with claimed(Path({str(tmp_path)!r}), True, 'a'): print(flush=True); sys.stdin.read()"
    dying = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert dying.stdin is not None and dying.stdout is not None
    dying.stdout.readline()  # it has the folder
    with pytest.raises(Mistake, match="works in this folder"), claimed(tmp_path, True, "b"):
        pass
    threading.Timer(0.5, dying.kill).start()
    begin = time.monotonic()
    with claimed(tmp_path, True, "a"):
        assert time.monotonic() - begin > 0.4 and dying.wait(timeout=60) == -9
    dying.stdin.close()
    dying.stdout.close()


def test_the_lock_goes_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), claimed(tmp_path, False):
        raise RuntimeError
    assert not (tmp_path / "lock").exists()
