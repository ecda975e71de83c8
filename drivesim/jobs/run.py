"""``run.json`` of what is not a rollout, kept by the same record as a rollout's."""

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from drivesim.rollout.log import Log
from drivesim.rollout.record import Record


@contextmanager
def recorded(out: Path, device: str, job: str, facts: Mapping[str, Any], log: Log | None = None) -> Iterator[Record]:
    """Keeps ``out/run.json``: status running, then done, interrupted or failed; and ``out/log.txt``.

    Args:
        log: what has heard the terminal already; None: it is heard from now on.
    """
    begun = datetime.now(UTC).isoformat(timespec="seconds")
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    told = {"job": job, "argv": sys.argv, "begun": begun, "machine": machine, **facts}
    with nullcontext(log) if log else Log() as heard:
        record = Record(out, torch.device(device), told)
        with record.kept():
            heard.to(out)
            yield record
