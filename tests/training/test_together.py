"""Several processes train as one does: losses, weights, averages, what is stopped, what is resumed."""

import csv
import math
import os
import signal
import subprocess
from dataclasses import replace
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
from drivesim.training.together import whole as gathered

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

        made.training_step = asked
    try:
        train(made, data, name, out, "cpu", begin, devices=world)
    except Interrupted:
        assert stop is not None and made.steps_done == stop, "all stop after the same step"
        return {}
    return {key: value.clone() for key, value in gathered(made.state_dict()).items()}


def alone(name: str, out: Path, settings: LoopConfig, **more: Any) -> dict[str, Tensor]:
    return fit(name, out, settings, **more)


def told(out: Path, column: str = "loss") -> Tensor:
    with open(out / "metrics.csv", newline="") as opened:
        return torch.tensor([float(row[column]) for row in csv.DictReader(opened)])


def close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    """By the norm: where a gradient is nearly 0, Adam makes a step of its last bit."""
    assert one.keys() == two.keys()
    for name in one:
        apart = float((one[name] - two[name]).norm() / one[name].norm().clamp(min=0.1))
        assert apart < 2e-3, f"{name} is {apart:.2g} apart"


LONG = [pytest.param(name, marks=pytest.mark.slow) for name in ("keyframes", "autoencoder adversary")]


@pytest.mark.parametrize("name", ["image", *LONG])
def test_two_are_as_one(name: str, tmp_path: Path) -> None:
    settings = loop(steps=20, batch=4, ema=0.9, lr=1e-3)
    one = alone(name, tmp_path / "one", settings)
    first, second = together(2, fit, name, tmp_path / "two", settings)
    torch.testing.assert_close(told(tmp_path / "two"), told(tmp_path / "one"), **CLOSE)
    assert all(torch.equal(first[key], second[key]) for key in first), "both hold the same averages"
    close(first, one)


@pytest.mark.parametrize("name", ["image", "autoencoder adversary"])
def test_parts_one_after_another_are_as_one_batch(name: str, tmp_path: Path) -> None:
    settings = loop(steps=10, batch=4, ema=0.9, lr=1e-3)
    one = alone(name, tmp_path / "one", settings)
    two = alone(name, tmp_path / "two", replace(settings, accumulate=2))
    torch.testing.assert_close(told(tmp_path / "two"), told(tmp_path / "one"), **CLOSE)
    close(two, one)


@pytest.mark.slow
def test_parts_and_processes_together(tmp_path: Path) -> None:
    """An autoencoder and its adversary: the adaptive weight is that of the whole batch."""
    settings = loop(steps=10, batch=4, ema=0.9, lr=1e-3)
    one = alone("autoencoder adversary", tmp_path / "one", settings)
    two, _ = together(2, fit, "autoencoder adversary", tmp_path / "two", replace(settings, accumulate=2))
    torch.testing.assert_close(told(tmp_path / "two"), told(tmp_path / "one"), **CLOSE)
    close(two, one)


@pytest.mark.parametrize("name", ["image", "keyframes"])
def test_activations_that_are_computed_again_change_nothing_but_memory(name: str) -> None:
    """The same bits of every gradient, from fewer bytes that are kept for the way back."""
    gradients, held = [], []
    for recompute in (False, True):
        made = stage(name, loop(recompute=recompute, batch=2))
        made.setup("fit")
        kept: dict[int, int] = {}

        def pack(x: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        data = Shared(name, made.loop)
        batch = torch.utils.data.default_collate([data[0], data[1]])
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = made(batch)
        loss.backward()
        gradients.append({n: p.grad for n, p in made.named_parameters() if p.grad is not None})
        held.append(sum(kept.values()))
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])
    assert held[1] < 0.7 * held[0]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_sharded_checkpoint_of_two_goes_on_in_one_and_in_four(strategy: str, tmp_path: Path) -> None:
    settings = loop(steps=8, batch=4, ema=0.9, lr=1e-3, checkpoint="sharded", strategy=strategy)
    whole = alone("keyframes", tmp_path / "whole", settings)
    out = tmp_path / "run"
    together(2, fit, "keyframes", out, settings, False, 4)
    folder = latest(out)
    assert folder.is_dir() and steps_in(folder) == 4
    assert len(list(folder.glob("shard-*.safetensors"))) == 2, "each has written a part"
    assert sum(f.stat().st_size for f in folder.glob("shard-*")) < 1.5 * _bytes(checkpoints.read(folder)), "once"
    subprocess.run(["cp", "-r", str(out), str(tmp_path / "copy")], check=True)
    close(alone("keyframes", tmp_path / "copy", settings, resume=True), whole)
    first, *_ = together(4, fit, "keyframes", out, settings, True)
    close(first, whole)


def _bytes(content: Any) -> int:
    return sum(tensor.nbytes for _, tensor in checkpoints.tensors(content))


def test_a_sharded_checkpoint_is_the_whole_one(tmp_path: Path) -> None:
    """Model, average, optimiser and counts, to the bit; and damage to any of its files is noticed."""
    settings = loop(steps=3, ema=0.9)
    for kind in ("whole", "sharded"):
        alone("image", tmp_path / kind, replace(settings, checkpoint=kind))
    one, two = (checkpoints.read(latest(tmp_path / kind)) for kind in ("whole", "sharded"))
    a, b = dict(checkpoints.tensors(one)), dict(checkpoints.tensors(two))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert one["drivesim"]["steps_done"] == two["drivesim"]["steps_done"] == 3
    folder = latest(tmp_path / "sharded")
    for file in folder.iterdir():
        before = file.read_bytes()
        file.write_bytes(before[:-1])
        assert checkpoints.flaw(folder) is not None, file.name
        file.write_bytes(before)
    assert checkpoints.flaw(folder) is None
    next(folder.glob("shard-*")).unlink()
    assert checkpoints.flaw(folder) is not None


def test_all_stop_after_the_step_that_a_signal_comes_into(tmp_path: Path) -> None:
    """It reaches one process alone; all write one checkpoint, from which any number goes on."""
    settings = loop(steps=8, batch=4, ema=0.9, lr=1e-3)
    whole = alone("image", tmp_path / "whole", settings)
    together(2, fit, "image", tmp_path / "run", settings, False, 5)
    assert steps_in(latest(tmp_path / "run")) == 5
    close(alone("image", tmp_path / "run", settings, resume=True), whole)


def doomed(out: Path, settings: LoopConfig) -> list[str]:
    """The last process kills itself in step 6; what the first one comes to."""
    made, world = stage("image", settings), dist.get_world_size()
    taken = made.training_step

    def step(batch: Any, batch_idx: int) -> None:
        if made.steps_done == 5 and dist.get_rank() == world - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        taken(batch, batch_idx)

    made.training_step = step
    with pytest.raises(Interrupted) as told:
        train(made, Shared("image", settings), "image", out, "cpu", devices=world)
    return [str(told.value)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "sharded"])
def test_a_process_killed_in_the_middle_and_the_job_begun_again(kind: str, tmp_path: Path) -> None:
    """The other one does not wait for ever; resumed by as many processes, it is the run that was left alone."""
    settings = loop(steps=8, batch=4, ema=0.9, lr=1e-3, checkpoint_every=4, checkpoint=kind)
    whole, _ = together(2, fit, "image", tmp_path / "whole", settings)
    ((told,),) = together(2, doomed, tmp_path / "run", settings, lost=1)
    assert "another process was lost at step 5; the same command with --resume goes on" in told
    assert steps_in(latest(tmp_path / "run")) == 4
    again, _ = together(2, fit, "image", tmp_path / "run", settings, True)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def spoil(out: Path, settings: LoopConfig) -> list[Any]:
    """One sample of the last process is not finite in step 3."""
    made, world = stage("image", settings), dist.get_world_size()
    loss = made.forward

    def spoiled(batch: Any) -> Tensor:
        bad = made.steps_done == 2 and dist.get_rank() == world - 1
        return loss(batch) * (math.nan if bad else 1.0)

    made.forward = spoiled
    train(made, Shared("image", settings), "image", out, "cpu", devices=world)
    return [made.skipped, {key: value.clone() for key, value in made.state_dict().items()}]


@pytest.mark.slow
def test_a_bad_step_of_one_is_skipped_by_all(tmp_path: Path) -> None:
    (skipped, first), (also, second) = together(2, spoil, tmp_path, loop(steps=5, batch=4))
    assert skipped == also == 1
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in first.values())


def test_what_does_not_divide_is_a_mistake() -> None:
    with pytest.raises(Mistake, match=r"10 does not divide by 2 processes x loop.accumulate 2") as told:
        loop(batch=10, accumulate=2).part(2)
    assert "loop.batch=8 or 12" in str(told.value) and loop(batch=12, accumulate=2).part(2) == 3
    with pytest.raises(Mistake, match="is for one process"):
        loop(minutes=1.0, batch=2).part(2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image", "keyframes", "autoencoder adversary"])
def test_fifty_steps_of_one_two_and_four(name: str, tmp_path: Path) -> None:
    settings = loop(steps=50, batch=4, ema=0.9, lr=3e-4)
    one = alone(name, tmp_path / "1", settings)
    for count in (2, 4):
        found = together(count, fit, name, tmp_path / str(count), settings)
        torch.testing.assert_close(told(tmp_path / str(count)), told(tmp_path / "1"), rtol=1e-3, atol=1e-5)
        close(found[0], one)
        assert all(torch.equal(found[0][key], other[key]) for other in found for key in other)
