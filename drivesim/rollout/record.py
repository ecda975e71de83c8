"""run.json: what was run, on what, how it ended, and where the time went."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from drivesim import __version__
from drivesim.disk import write_atomic
from drivesim.errors import Interrupted, Mistake
from drivesim.rollout.memory import peak_bytes

T = TypeVar("T")
LATE = ("handover",)  # what is known only while a run goes on, and stays when it is resumed


class Record:
    """run.json, written anew at every change of status; a resumed run adds to the seconds of the one before.

    Args:
        facts: what is known of the run from its start. ``late``: what is asked for whenever it is written.
    """

    def __init__(self, out: Path, device: torch.device, facts: dict[str, Any]):
        self.file, self.device = out / "run.json", device
        before = _read(self.file)
        self.seconds: dict[str, float] = before.get("seconds", {})
        self.resumed_at: list[int] = before.get("resumed_at", [])
        self.before, self.late = before, dict[str, Callable[[], Any]]()
        self.facts = {
            "schema": "drivesim.run/1",
            "version": __version__,
            "device": str(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            **facts,
        }

    def save(self, status: str) -> None:
        seconds = {stage: round(value, 3) for stage, value in self.seconds.items()}
        late = {"seconds": seconds, "peak_bytes": peak_bytes(self.device), "resumed_at": self.resumed_at}
        told = {name: value for name, ask in self.late.items() if (value := ask()) is not None}
        kept = {name: self.before[name] for name in LATE if name in self.before}
        content = {**self.facts, "status": status, **late, **kept, **told}
        write_atomic(self.file, json.dumps(content, indent=1, default=str).encode())

    @contextmanager
    def kept(self) -> Iterator[None]:
        """``running`` while its block runs, then ``done``, ``interrupted`` or ``failed``; where the disk takes no more,
        it stays as it is."""
        self.save("running")
        try:
            yield
        except BaseException as problem:
            with suppress(Mistake):
                self.save("interrupted" if isinstance(problem, Interrupted | KeyboardInterrupt) else "failed")
            raise
        self.save("done")

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Adds the time that its block takes to ``stage``."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin

    def timed(self, stage: str, chunks: Iterable[T]) -> Iterator[T]:
        """``chunks``; the time to make each is added to ``stage``, less what timed stages below it took of that."""
        chunks = iter(chunks)
        while True:
            begin, others = time.perf_counter(), sum(self.seconds.values())
            try:
                chunk = next(chunks)
            except StopIteration:
                return
            taken = time.perf_counter() - begin - (sum(self.seconds.values()) - others)
            self.seconds[stage] = self.seconds.get(stage, 0.0) + taken
            yield chunk


def _read(file: Path) -> dict[str, Any]:
    try:
        before = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return before if isinstance(before, dict) else {}
