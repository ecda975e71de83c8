"""Several processes at one training: Lightning's DDP, or torch's FSDP2 under the same strategy; and what the processes
agree on.

Each holds an equal part of the batch of a step. Losses are means over equal parts, so the mean over the processes is
that of the whole batch; what no mean tells (whether to stop, whether a step was bad) is agreed on here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from drivesim.errors import Mistake
from drivesim.models.temporal import ResnetSite, TransformerSite
from drivesim.models.unet import Resnet, Transformer

PATIENCE = timedelta(minutes=30)  # that one process may keep the others waiting, for a preflight or for pictures
UNITS = (Resnet, Transformer, ResnetSite, TransformerSite)  # blocks whose weights are gathered as a whole
LOST = ("gloo", "nccl", "process group", "connection closed by peer", "connection reset by peer")
_APART = ContextVar("apart", default=False)


def lost(problem: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    told = isinstance(problem, dist.DistError) or any(word in str(problem).lower() for word in LOST)
    return isinstance(problem, RuntimeError) and told and not alone()


class Agreed(Mistake):
    """A mistake that every process of a training comes to in the same step: one of them tells it."""


@contextmanager
def apart() -> Iterator[None]:
    """Within the block this process trains by itself, while the others wait."""
    token = _APART.set(True)
    try:
        yield
    finally:
        _APART.reset(token)


def alone() -> bool:
    return _APART.get() or not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


def rank() -> int:
    return 0 if alone() else dist.get_rank()


def mean(values: Tensor) -> Tensor:
    """Of all processes."""
    if alone():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def anyone(asks: bool, device: torch.device) -> bool:
    """Whether one of the processes does."""
    if alone():
        return asks
    asked = torch.tensor(int(asks), device=device)
    dist.all_reduce(asked, dist.ReduceOp.MAX)
    return bool(asked)


def everyones(own: list[Any]) -> list[Any]:
    """The lists of all processes, one behind the other."""
    if alone():
        return own
    lists: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(lists, own)
    return [item for held in lists for item in held]


def whole(content: Any) -> Any:
    """``content`` with whole tensors in the place of shards. All processes call it."""
    if isinstance(content, DTensor):
        return content.full_tensor()
    if isinstance(content, Mapping):
        return {key: whole(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(whole(value) for value in content)
    return content


def spread(tensor: Tensor, like: Any) -> Tensor:
    """This process's shard of ``tensor``, where ``like`` is one and of its shape; else ``tensor``."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


class Copies(DDPStrategy):
    """Every process holds the whole model, and the gradients are averaged (DDP).

    Which parameters a step uses is looked for in every step: the adversary joins late, boxes may be off, and an
    optimiser's parameters rest while the other's are trained.
    """

    def __init__(self) -> None:
        super().__init__(timeout=PATIENCE, find_unused_parameters=True, gradient_as_bucket_view=True)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """By all processes: a sharded checkpoint is written by all."""
        self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)


class Shards(Copies):
    """Every process holds a part of the weights, of the optimiser and of the average (FSDP2); a block's weights are
    gathered for as long as it is computed. The average begins once the weights are shards, and is of such, too."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True

    def configure_ddp(self) -> None:
        assert self.model is not None
        shard(self.model, self.root_device.type)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimiser, kept in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            held = [p for group in optimiser.param_groups for p in group["params"]]
            state = {n: {k: spread(v, held[n]) for k, v in own.items()} for n, own in kept["state"].items()}
            optimiser.load_state_dict({**kept, "state": state})


def shard(module: nn.Module, device: str) -> nn.Module:
    """Shards the parameters of ``module`` in place over all processes, block by block; what lies outside of the blocks
    is gathered while ``module`` is called. Whole tensors may be loaded into it afterwards."""
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for block in reversed(list(module.modules())):  # inner ones first: a block takes what is left below it
        if isinstance(block, UNITS):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    module.register_load_state_dict_pre_hook(_spread_all)
    return module


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within the block a sharded ``module`` may be used outside of its call, too, by all processes."""
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def _spread_all(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    own = module.state_dict()
    for name in [name for name in state if name.removeprefix(prefix) in own]:
        state[name] = spread(state[name], own[name.removeprefix(prefix)])


def without_averaging(model: Any) -> Any:
    """A context in which gradients are summed up here alone: all but the last part of a step's batch."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
