"""I3D's golden weights (of the shared bundle) as the public files have them: two layouts, and a TorchScript archive."""

import importlib.util
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from drivesim.metrics import i3d

HASSONY = {
    "0": "branch_0", "1a": "branch_1.0", "1b": "branch_1.1", "2a": "branch_2.0", "2b": "branch_2.1", "3b": "branch_3.1",
}  # fmt: skip
TENSORFLOW = {
    "0": "Branch_0/Conv3d_0a_1x1", "1a": "Branch_1/Conv3d_0a_1x1", "1b": "Branch_1/Conv3d_0b_3x3",
    "2a": "Branch_2/Conv3d_0a_1x1", "2b": "Branch_2/Conv3d_0b_3x3", "3b": "Branch_3/Conv3d_0b_1x1",
}  # fmt: skip


def maker(shared: Path) -> ModuleType:
    """The bundle's make_weights.py."""
    file = shared / "reference" / "i3d-golden" / "make_weights.py"
    spec = importlib.util.spec_from_file_location("make_weights", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tensors(values: dict[str, np.ndarray], layout: str) -> dict[str, Tensor]:
    """A state dict of either layout, with the counters and the gammas of ones that ports carry."""
    state: dict[str, Tensor] = {}
    places = {name.rpartition(".")[0] for name in i3d._shapes()}
    for place in sorted(places):
        source, module, norm = names(place, layout)
        state[f"{module}.conv3d.weight"] = torch.from_numpy(
            values[f"{source}/conv_3d/w"].transpose(4, 3, 0, 1, 2).copy()
        )
        if place == "logits":
            state[f"{module}.conv3d.bias"] = torch.from_numpy(values[f"{source}/conv_3d/b"])
            continue
        for ours, theirs in (("bias", "beta"), ("running_mean", "moving_mean"), ("running_var", "moving_variance")):
            state[f"{module}.{norm}.{ours}"] = torch.from_numpy(values[f"{source}/batch_norm/{theirs}"].reshape(-1))
        state[f"{module}.{norm}.weight"] = torch.ones_like(state[f"{module}.{norm}.bias"])
        state[f"{module}.{norm}.num_batches_tracked"] = torch.tensor(0)
    return state


def names(place: str, layout: str) -> tuple[str, str, str]:
    """(TensorFlow's scope, module, batch norm) of one of ``i3d``'s canonical places."""
    root, norm = "RGB/inception_i3d", "batch3d" if layout == "hassony2" else "bn"
    if place == "logits":
        return f"{root}/Logits/Conv3d_0c_1x1", "conv3d_0c_1x1" if layout == "hassony2" else "logits", norm
    if place in i3d.STEM:
        return f"{root}/Conv3d_{place}", f"{'conv3d' if layout == 'hassony2' else 'Conv3d'}_{place}", norm
    block, branch = place.split(".")
    scope = "Branch_2/Conv3d_0a_3x3" if place == "5b.2b" else TENSORFLOW[branch]  # the graph's own slip
    module = f"mixed_{block}.{HASSONY[branch]}" if layout == "hassony2" else f"Mixed_{block}.b{branch}"
    return f"{root}/Mixed_{block}/{scope}", module, norm


class Tree(nn.Module):
    """Modules that hold tensors by dotted names, and a forward to be scripted."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("a weight file was run")


def save_archive(state: dict[str, Tensor], file: Path) -> None:
    """A TorchScript archive that holds ``state``."""
    root = Tree()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module: nn.Module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, Tree())
            module = module._modules[part]
        module.register_buffer(last, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # files of this kind will be about for long
        torch.jit.script(root).save(str(file))
