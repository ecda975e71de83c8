"""``run.json``: what a run is, how it ended, how long it took and on what; written at the start and at every end."""

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drivesim import __version__, weights
from drivesim.errors import Interrupted


@dataclass
class Run:
    """What is noted of a run while it goes on."""

    facts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - begun, 3)


@contextmanager
def recorded(out: Path, device: str, **facts: Any) -> Iterator[Run]:
    """Keeps ``out/run.json``: status running, then done, interrupted or failed."""
    import torch

    run = Run(
        {
            "schema": "drivesim.run/1",
            "argv": sys.argv,
            "version": __version__,
            "begun": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": device,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            **facts,
        }
    )
    _write(out, run, "running")
    try:
        yield run
    except (Interrupted, KeyboardInterrupt):
        _write(out, run, "interrupted")
        raise
    except BaseException:
        _write(out, run, "failed")
        raise
    _write(out, run, "done")


def _write(out: Path, run: Run, status: str) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    content = {**run.facts, "status": status, "seconds": run.seconds, "peak_bytes": peak}
    weights.write_atomic(out / "run.json", (json.dumps(content, indent=1, default=str) + "\n").encode())
