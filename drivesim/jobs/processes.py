"""Several processes at one job, started by Lightning Fabric, torchrun or SLURM: who is who, and how they wait."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from drivesim.errors import EXIT_INTERRUPTED, EXIT_MISTAKE, Interrupted, Mistake

T = TypeVar("T")
PATIENCE = timedelta(days=2)  # that one process may keep the others waiting: a survey of a large set takes hours
READERS = 16  # threads that read; each holds a clip in full size


@dataclass(frozen=True)
class Team:
    """The processes that share a job.

    Args:
        rank, size: this one's number, of how many.
        device: this one's.
        cores: this one's share of the machine's.
        each: processes on every machine.
        meet: waits for the others.
        broadcast: gives everyone what the first has.
    """

    rank: int
    size: int
    device: torch.device
    cores: int
    meet: Callable[[], None]
    broadcast: Callable[[Any], Any]
    each: int = 1

    def first(self, work: Callable[[], T]) -> T:
        """What ``work`` gives the first process, for all of them.

        Raises:
            Mistake: in the first process, which alone speaks; the others end with its exit status.
        """
        outcome: T | Mistake | None = None
        if self.rank == 0:
            try:
                outcome = work()
            except Mistake as problem:
                outcome = problem
        outcome = self.broadcast(outcome)
        if isinstance(outcome, Mistake):
            if self.rank > 0:
                raise SystemExit(EXIT_MISTAKE)
            raise outcome
        return outcome


@contextmanager
def processes(device: str, devices: int, patience: timedelta = PATIENCE) -> Iterator[Team]:
    """One process, or ``devices`` of them on this machine, or those that torchrun or SLURM started on many.

    Where they are on a CPU, they share its cores. A mistake or an interruption that leaves the block is the first
    process's to tell; the others end with its exit status.

    Args:
        patience: after which a process that waits for another one gives up.

    Raises:
        Mistake: there are fewer devices than processes.
    """
    size, local = _started()
    own = cores()
    if devices == 1 and size == 1:
        yield Team(0, 1, torch.device(device), min(own, READERS), lambda: None, lambda it: it)
        return
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    kind = torch.device(device).type
    local, nodes = (local, size // local) if size > 1 else (devices, 1)
    if kind == "cuda" and torch.cuda.device_count() < local:
        what = f"{local} processes need a GPU each, this machine has {torch.cuda.device_count()}"
        raise Mistake(what, where="--devices", mend=f"--devices {torch.cuda.device_count()}")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its lines on who is who are not for users
    fabric = Fabric(accelerator=kind, devices=local, num_nodes=nodes, strategy=DDPStrategy(timeout=patience))
    fabric.launch()
    share = max(1, own // local)
    if kind == "cpu":
        torch.set_num_threads(share)
    try:
        yield Team(
            fabric.global_rank,
            fabric.world_size,
            fabric.device,
            min(share, READERS),
            fabric.barrier,
            fabric.broadcast,
            local,
        )
    except (Mistake, Interrupted) as told:  # one voice is enough
        if fabric.global_rank > 0:
            raise SystemExit(EXIT_MISTAKE if isinstance(told, Mistake) else EXIT_INTERRUPTED) from None
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _started() -> tuple[int, int]:
    """How many processes a launcher started in all, and on each machine; (1, 1) without one."""
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun
        return int(os.environ.get("WORLD_SIZE", "1")), int(os.environ["LOCAL_WORLD_SIZE"])
    if "SLURM_PROCID" in os.environ and "SLURM_NTASKS_PER_NODE" in os.environ:
        return int(os.environ.get("SLURM_NTASKS", "1")), int(os.environ["SLURM_NTASKS_PER_NODE"])
    return 1, 1
