"""Several processes train as one does: losses, weights, averages, what is stopped, what is resumed."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from drivesim.errors import Interrupted, Mistake
from drivesim.training import checkpoints
from drivesim.training.checkpoints import latest, steps_in
from drivesim.training.loop import LoopConfig, train

from .several import Shared, together
from .tiny import loop, stage

CLOSE = {"rtol": 1e-4, "atol": 1e-6}  # of losses: sums are taken in another order
ADVERSARY = {"adversarial": 0.5, "adversarial_from": 2}


def fit(name: str, out: Path, settings: LoopConfig, resume: bool = False, stop: int | None = None) -> dict[str, Tensor]:
    """Trains a tiny stage in every process; what it then is. ``stop``: the step in which the last one is asked to."""
    made = stage(name.split()[0], settings, **(ADVERSARY if name.endswith("adversary") else {}))
    world = dist.get_world_size() if dist.is_initialized() else 1
    begin = latest(out) if resume else None
    data = Shared(name.split()[0], settings, 0 if begin is None else steps_in(begin))
    if stop is not None and dist.get_rank() == world - 1:
        taken = made.training_step

        def asked(batch: Any, batch_idx: int) -> None:
            if made.steps_done + 1 == stop:
                os.kill(os.getpid(), signal.SIGUSR1)
            taken(batch, batch_idx)

        made.training_step = asked  # type: ignore[method-assign]
    try:
        train(made, data, name, out, "cpu", begin, devices=world)
    except Interrupted:
        assert stop is not None and made.steps_done == stop, "all stop after the same step"
        return {}
    return {key: value.clone() for key, value in made.state_dict().items()}


def alone(name: str, out: Path, settings: LoopConfig, **more: Any) -> dict[str, Tensor]:
    return fit(name, out, settings, **more)


def told(out: Path, column: str = "loss") -> Tensor:
    with open(out / "metrics.csv", newline="") as opened:
        return torch.tensor([float(row[column]) for row in csv.DictReader(opened)])


def close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    """By the norm: where a gradient is nearly 0, Adam makes a step of its last bit."""
    assert one.keys() == two.keys()
    for name in one:
        apart = float((one[name] - two[name]).norm() / one[name].norm().clamp(min=1e-2))
        assert apart < 1e-3, f"{name} is {apart:.2g} apart"


@pytest.mark.parametrize("name", ["image", "keyframes", "autoencoder adversary"])
def test_two_are_as_one(name: str, tmp_path: Path) -> None:
    settings = loop(steps=20, batch=4, ema=0.9, lr=1e-3)
    one = alone(name, tmp_path / "one", settings)
    first, second = together(2, fit, name, tmp_path / "two", settings)
    torch.testing.assert_close(told(tmp_path / "two"), told(tmp_path / "one"), **CLOSE)
    assert all(torch.equal(first[key], second[key]) for key in first), "both hold the same averages"
    close(first, one)
