"""Several processes on this machine that train together, as torchrun starts them."""

import importlib
import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from drivesim.data.order import Batches

from .tiny import Memory

SECONDS = 240  # that they may take
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command sets it
ROOT, PACKAGE = Path(__file__).resolve().parents[2], "tests.training"  # as other processes find these modules


class Shared(Memory):
    """As ``Memory``, of which each process has its part, as those of ``data.loader.Ordered`` have."""

    def train_dataloader(self) -> DataLoader[Any]:
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        batches = Batches(self.loop.batch // world, self.start_step, self.loop.steps, rank, world)
        own = torch.Generator().manual_seed(0)
        return DataLoader(self, batch_sampler=batches, generator=own)


def together(count: int, work: Callable[..., Any], *args: Any, lost: int = 0) -> list[Any]:
    """What ``work(*args)`` gives each of ``count`` processes but the ``lost`` last, which give nothing. They are forks
    of one that has imported all there is, and run no threads."""
    context = multiprocessing.get_context("forkserver")
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    place = f"{PACKAGE}.{work.__module__.rpartition('.')[2]}", work.__name__
    context.set_forkserver_preload([place[0], "torch.utils.tensorboard"])
    port, one = _free(), importlib.import_module(f"{PACKAGE}.several")._one
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(n) for n in range(count)]
        workers = [context.Process(target=one, args=(files[n], n, count, port, place, args)) for n in range(count)]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(SECONDS)
        finally:
            for worker in workers:
                worker.kill()
        found = [torch.load(file, weights_only=True) if file.exists() else "gave nothing" for file in files]
    assert all(result == "gave nothing" for result in found[count - lost :])
    found = found[: count - lost]
    assert not any(isinstance(result, str) for result in found), "\n".join(map(str, found))
    return found


def _one(file: Path, rank: int, count: int, port: int, place: tuple[str, str], args: tuple[Any, ...]) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "tests"}
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    try:
        if count > 1:
            dist.init_process_group("gloo", timeout=timedelta(seconds=SECONDS))
        torch.save(getattr(importlib.import_module(place[0]), place[1])(*args), file)
    except BaseException:
        torch.save(f"process {rank}: {traceback.format_exc()}", file)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _free() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
