"""``run.json`` of what is not a rollout, kept by the same record as a rollout's."""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from drivesim.errors import Interrupted
from drivesim.rollout.record import Record


@contextmanager
def recorded(out: Path, device: str, job: str, **facts: Any) -> Iterator[Record]:
    """Keeps ``out/run.json``: status running, then done, interrupted or failed."""
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    record = Record(
        out, torch.device(device), {"job": job, "argv": sys.argv, "begun": begun, "machine": machine, **facts}
    )
    record.save("running")
    try:
        yield record
    except (Interrupted, KeyboardInterrupt):
        record.save("interrupted")
        raise
    except BaseException:
        record.save("failed")
        raise
    record.save("done")
