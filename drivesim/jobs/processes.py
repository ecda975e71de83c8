"""Several processes at one job, started by Lightning Fabric, torchrun or SLURM: who is who, and how they wait."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Team:
    """The processes that share a pass: this one's number and device, and how to wait for the others."""

    rank: int
    size: int
    device: torch.device
    meet: Callable[[], None]


@contextmanager
def processes(device: str, devices: int) -> Iterator[Team]:
    """One process, or ``devices`` of them by Lightning Fabric, also those that torchrun or SLURM started.

    Where they are on a CPU, they share its cores.
    """
    if devices == 1 and int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) == 1:
        yield Team(0, 1, torch.device(device), lambda: None)
        return
    from lightning_fabric import Fabric

    kind = torch.device(device).type
    fabric = Fabric(accelerator=kind, devices=devices, strategy="ddp")
    fabric.launch()
    if kind == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // fabric.world_size))
    try:
        yield Team(fabric.global_rank, fabric.world_size, fabric.device, fabric.barrier)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
