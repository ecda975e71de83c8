"""The run folder of a rollout: who works in it, what is done, and where to go on.

    RUN/lock  scenario.yaml  config.yaml  plan.json  run.json  journal.jsonl  video.mp4
        state/keyframes-000012.safetensors   what the stages must remember behind window 12
        segments/000012.mp4                  window 12's part of the video

A journal line is written when its file is whole and on disk, and names the line before it by its hash. A window is
done when both its state and its segment are in the journal and their bytes are those that were written.
"""

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialise

from drivesim.disk import PART, append, copy_atomic, sha256, sweep, write_atomic, writing
from drivesim.errors import Mistake
from drivesim.rollout import log
from drivesim.rollout.plan import Window
from drivesim.rollout.stages import Segment, State

KEPT_STATES = 2  # the newest may be damaged by what ended the run
LOCK = "lock"
BEGINNINGS = {LOCK, log.NAME, "scenario.yaml", "config.yaml"}  # what stands in a run folder before plan.json


def check_free(out: Path, resume: bool) -> None:
    """Refuses a folder that a rollout must not write into. One whose process was killed before it had begun is free.

    Raises:
        Mistake: it is a file, holds something and ``resume`` is not asked for, or is to be resumed and is no run.
    """
    if out.exists() and not out.is_dir():
        raise Mistake("is a file, not a folder", where=out)
    held = {entry.name for entry in out.iterdir() if not PART.fullmatch(entry.name)} if out.exists() else set()
    if held <= {LOCK} or (LOCK in held and held <= BEGINNINGS):
        return
    if not resume:
        raise Mistake(
            "this folder is not empty", where=out, mend="--resume goes on with its run; or name another --out"
        )
    if not (out / "plan.json").exists():
        raise Mistake("this folder holds no run that can be resumed", where=out, mend="name another --out")


@contextmanager
def claimed(out: Path, resume: bool, heir: str = "") -> Iterator[None]:
    """``out`` belongs to this rollout until the end of the block; see ``owned``. It is free again after an error before
    the run has begun.

    Raises:
        Mistake: another process has it, or ``check_free``.
    """
    check_free(out, resume)
    with owned(out, heir):
        check_free(out, resume)  # again: another run may have begun and ended in between
        try:
            yield
        finally:
            if not (out / "plan.json").exists():
                for name in BEGINNINGS - {LOCK}:
                    with suppress(OSError):
                        (out / name).unlink(missing_ok=True)


@contextmanager
def owned(out: Path, heir: str = "") -> Iterator[bool]:
    """``out`` belongs to this process until the end of the block; it is made where there is none, and goes again where
    it stays empty, with the folders that were made for it. What a process that was killed in it left half-written is
    removed.

    Args:
        heir: a word that the lock holds, too. Whoever comes with the same word was given the folder because the process
            before is gone, also one of another machine. "" knows nothing of the kind.

    Yields:
        Whether a process was: its lock is still there.

    Raises:
        Mistake: another process has it, or it cannot be written.
    """
    lock, handle = out / LOCK, None
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        with writing(lock):
            killed = lock.exists()
            handle = _locked(lock, heir)
            os.truncate(handle, 0)
            os.pwrite(handle, json.dumps(_owner(heir)).encode(), 0)
        sweep(out, *(entry for entry in out.iterdir() if entry.is_dir()))
        yield killed
    finally:
        if handle is not None:
            with suppress(OSError):  # the lock ends with the handle; what is left of the file is taken over
                lock.unlink(missing_ok=True)
            os.close(handle)
        with suppress(OSError):  # it is not empty
            for folder in made:
                folder.rmdir()


def _owner(heir: str) -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), **({"heir": heir} if heir else {})}


def _locked(lock: Path, heir: str) -> int:
    """An open handle that holds the system's lock on the file, which ends with the process, however it dies."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(handle, lock, heir)
            try:
                if os.fstat(handle).st_ino == os.stat(lock).st_ino:
                    return handle
            except FileNotFoundError:
                pass
            os.close(handle)  # its owner has just removed it: what we hold is no file any more
        except Mistake:
            os.close(handle)
            raise


def _take(handle: int, lock: Path, heir: str) -> None:
    text = os.pread(handle, 1000, 0)
    try:
        owner = json.loads(text) if text else {}
        name = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
    except (ValueError, KeyError, TypeError):
        owner, name = {}, "another process"
    known = bool(heir) and owner.get("heir") == heir  # it may take a while to be gone; if it lives yet, it ends first
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if known else fcntl.LOCK_NB))
    except OSError:
        raise Mistake(
            f"{name} works in this folder", where=lock.parent, mend="wait for it, or name another --out"
        ) from None
    if not known and owner and owner["host"] != socket.gethostname():  # locks may not reach over a network's files
        mend = f"once that process is gone, delete {lock}"
        raise Mistake(f"{name} may be working in this folder", where=lock.parent, mend=mend)


class Journal:
    """What is done in a run folder.

    Args:
        out: the run folder, claimed by this process.
        plan: the hash of the plan, to which the first line is chained.
        keep_states: of all windows, for branches; else of the newest.
    """

    def __init__(self, out: Path, plan: str, keep_states: bool = False):
        self.out, self.plan, self.keep_states = out, plan, keep_states
        self.file = out / "journal.jsonl"
        self.lines = self._read()

    def resume(self) -> tuple[int, State]:
        """The first window that is still to be made, and the state before it; drops what stands in the journal beyond.

        Every segment up to there has the bytes that were written; a damaged one, and what follows it, is made again.
        """
        begin, state = 0, {}
        done = self._verified("segment")
        for entry in reversed([e for e in self._entries("keyframes") if e["n"] < done]):
            found = self._state(entry)
            if found is not None:
                begin, state = entry["n"] + 1, found
                break
        self.lines = [line for line in self.lines if json.loads(line)["n"] < begin]  # a prefix: the chain holds
        write_atomic(self.file, "".join(f"{line}\n" for line in self.lines).encode())  # a torn last line goes, too
        self._tidy(begin)
        return begin, state

    def _tidy(self, begin: int) -> None:
        """Removes what a window left that was not done, and the states that had grown old when the run was killed."""
        first = 0 if self.keep_states else begin - KEPT_STATES
        for file, oldest in ((self.state_file, first), (self.segment_file, 0)):
            for held in file(0).parent.glob(f"*{file(0).suffix}"):
                number = held.stem.rpartition("-")[2]
                if number.isdecimal() and not oldest <= int(number) < begin:
                    with writing(held):
                        held.unlink()

    def commit(self, segment: Segment) -> None:
        """Window done: its state goes to disk, then the lines of state and segment; states grown old are deleted."""
        window, data = segment.window, serialise({k: v.detach().cpu().contiguous() for k, v in segment.state.items()})
        state = self.state_file(window.n)
        write_atomic(state, data)
        self._append("keyframes", window, state, hashlib.sha256(data).hexdigest())
        file = segment.file
        self._append("segment", window, file, sha256(file) if file else None, frames=[segment.first, segment.last])
        if not self.keep_states:
            with writing(self.out):
                self.state_file(window.n - KEPT_STATES).unlink(missing_ok=True)

    def ends(self) -> list[int]:
        """How many output frames there are once window n is done, for every window that is."""
        done = self._verified("segment")
        return [entry["frames"][1] for entry in self._entries("segment")[:done]]

    def kept(self, n: int) -> bool:
        """Whether the state behind window ``n`` is there, as it was written."""
        return self.state(n) is not None

    def state(self, n: int) -> State | None:
        """The state behind window ``n``, if it is there as it was written."""
        return next((self._state(entry) for entry in self._entries("keyframes") if entry["n"] == n), None)

    def adopt(self, parent: "Journal", windows: int) -> None:
        """Windows ``[0, windows)`` of ``parent`` and the state behind them, as if they had been made here."""
        begin = self._verified("segment")
        for entry in [json.loads(line) for line in parent.lines]:
            if not begin <= entry["n"] < windows:
                continue
            file = entry["file"] and parent.out / entry["file"]
            if file and (entry["stage"] == "segment" or entry["n"] == windows - 1):
                own = self.out / entry["file"]
                copy_atomic(file, own)
            self._line({**entry, "previous": self._previous(self.lines)})

    def segment_file(self, n: int) -> Path:
        return self.out / "segments" / f"{n:06d}.mp4"

    def state_file(self, n: int) -> Path:
        return self.out / "state" / f"keyframes-{n:06d}.safetensors"

    def _append(self, stage: str, window: Window, file: Path | None, digest: str | None, **more: Any) -> None:
        entry: dict[str, Any] = {"n": window.n, "stage": stage, "first": window.first, "last": window.last, **more}
        entry |= {
            "file": file and file.relative_to(self.out).as_posix(),  # null: the window made no frame complete
            "sha256": digest,
            "previous": self._previous(self.lines),
        }
        self._line(entry)

    def _line(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry)
        append(self.file, f"{line}\n", sync=True)
        self.lines.append(line)

    def _previous(self, lines: list[str]) -> str:
        return hashlib.sha256(lines[-1].encode()).hexdigest() if lines else self.plan

    def _read(self) -> list[str]:
        """The lines up to the first that is torn or does not name the one before it."""
        lines: list[str] = []
        text = self.file.read_text(encoding="utf-8", errors="replace") if self.file.exists() else ""
        for line in text.split("\n")[:-1]:  # behind the last line break stands nothing, or a torn line
            try:
                entry = json.loads(line)
                if entry["previous"] != self._previous(lines) or not self._ours(entry):
                    break
            except (ValueError, KeyError, TypeError, RecursionError):
                break
            lines.append(line)
        return lines

    def _ours(self, entry: dict[str, Any]) -> bool:
        """Whether a line is one that ``commit`` writes: its file is the window's own, no other place on the disk."""
        n, stage, frames = entry["n"], entry["stage"], entry.get("frames", [0, 0])
        if type(n) is not int or n < 0 or [type(frame) for frame in frames] != [int, int]:
            return False
        own = {"keyframes": self.state_file, "segment": self.segment_file}[stage](n)
        return entry["file"] == own.relative_to(self.out).as_posix() or (stage == "segment" and entry["file"] is None)

    def _entries(self, stage: str) -> list[dict[str, Any]]:
        return [entry for entry in map(json.loads, self.lines) if entry["stage"] == stage]

    def _verified(self, stage: str) -> int:
        """How many files of ``stage``, from window 0 on without a gap, have the bytes that were written."""
        done = 0
        for entry in self._entries(stage):
            file = entry["file"] and self.out / entry["file"]
            if entry["n"] != done or (file and (not file.is_file() or sha256(file) != entry["sha256"])):
                break
            done += 1
        return done

    def _state(self, entry: dict[str, Any]) -> State | None:
        try:
            data = (self.out / entry["file"]).read_bytes()
            return parse(data) if hashlib.sha256(data).hexdigest() == entry["sha256"] else None
        except (OSError, SafetensorError):
            return None
