"""The loop: losses fall, only what should be trained is, averages are what remains, a resumed run is the run."""

import csv
import logging
import math
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drivesim.errors import Interrupted, Mistake
from drivesim.training.autoencoder import AutoencoderStage, latent_statistics
from drivesim.training.callbacks import Progress, trained
from drivesim.training.checkpoints import latest, steps_in, tensors
from drivesim.training.decoder import DecoderStage
from drivesim.training.diffusion import TemporalStage
from drivesim.training.loop import Stage, averaging, train

from .tiny import LOOP, Memory, loop, stage

STAGES = ["autoencoder", "image", "keyframes", "interpolation", "decoder"]


def fit(name: str, out: Path, *, start: int = 0, repeat: bool = False, resume: bool = False, **more: Any) -> Stage:
    """Trains a tiny stage; ``more`` goes into its loop."""
    adversary = {key: more.pop(key) for key in list(more) if key.startswith("adversarial")}
    made = stage(name, loop(**more), **adversary)
    train(made, Memory(name, made.loop, start, repeat), name, out, "cpu", latest(out) if resume else None)
    return made


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "metrics.csv", newline="") as opened:
        return list(csv.DictReader(opened))


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", STAGES)
def test_one_repeated_batch_makes_the_loss_fall(name: str, tmp_path: Path) -> None:
    made = fit(name, tmp_path, repeat=True, steps=40)
    losses = {int(row["step"]): float(row["loss"]) for row in rows(tmp_path)}
    assert list(losses) == [1, 10, 20, 30, 40] and made.steps_done == 40
    assert losses[40] < 0.9 * losses[1]
    assert (tmp_path / "samples" / "step-00000040.png").is_file()
    assert latest(tmp_path).name == "step-00000040.ckpt" and steps_in(latest(tmp_path)) == 40


@pytest.mark.parametrize("name", ["keyframes", "interpolation", "decoder"])
def test_temporal_layers_alone_change(name: str, tmp_path: Path) -> None:
    before, made = parts(stage(name, LOOP)), parts(found := fit(name, tmp_path, steps=3))
    assert same(before[0].state_dict(), made[0].state_dict())
    assert not same(before[1].state_dict(), made[1].state_dict())
    assert not any(key.startswith(("latents", "autoencoder")) for key in found.state_dict())
    held = [p for group in found.trainer.optimizers[0].param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in made[1].parameters()}


def parts(made: Stage) -> tuple[nn.Module, nn.Module]:
    """What is frozen, and the layers that are trained."""
    if isinstance(made, DecoderStage):
        return made.autoencoder, made.temporal
    assert isinstance(made, TemporalStage)
    return made.image, made.temporal


class Noted(AutoencoderStage):
    """Keeps the weights of every step."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.__dict__.setdefault("history", []).append([p.detach().clone() for p in self.model.parameters()])


def test_averages_are_what_remains(tmp_path: Path) -> None:
    """PyTorch's average starts at the weights after the first step."""
    made = stage("autoencoder", loop(steps=4, ema=0.5))
    made.__class__ = Noted
    train(made, Memory("autoencoder", made.loop), "autoencoder", tmp_path, "cpu")
    last = torch.load(latest(tmp_path), weights_only=True)["state_dict"]
    history = [*made.__dict__["history"][1:], [last[f"model.{name}"] for name, _ in made.model.named_parameters()]]
    wanted = history[0]
    for now in history[1:]:
        wanted = [0.5 * a + 0.5 * b for a, b in zip(wanted, now, strict=True)]
    for got, want in zip(made.model.parameters(), wanted, strict=True):
        torch.testing.assert_close(got.detach(), want)


@pytest.mark.parametrize("name", ["keyframes", "decoder"])
def test_what_is_frozen_is_neither_averaged_nor_in_a_checkpoint(name: str, tmp_path: Path) -> None:
    """A checkpoint takes what is trained four times: itself, the average and two moments."""
    made = fit(name, tmp_path, steps=3, ema=0.5)
    frozen, layers = parts(made)
    named = {n for n, p in made.named_parameters() if p.requires_grad}
    assert len(named) == len(list(layers.parameters())) and len(list(frozen.parameters())) > 0
    content = torch.load(latest(tmp_path), weights_only=True)
    assert content["average"]["tensors"].keys() == content["state_dict"].keys() == named
    assert content["average"]["count"] == 3
    whole = sum(p.nbytes for p in layers.parameters())
    assert 4 * whole <= sum(t.nbytes for _, t in tensors(content)) < 4 * whole + 1000 * len(named)
    for name, average in content["average"]["tensors"].items():
        assert torch.equal(made.state_dict()[name], average)


def test_within_its_block_a_stage_holds_the_averages_and_what_is_frozen() -> None:
    made = stage("keyframes", loop(ema=0.5))
    (average,) = averaging(made)
    average.begin(made)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    for value in (1.0, 2.0, 4.0):  # 1, then 1.5, then 2.75
        for weight in trained(made).values():
            weight.fill_(value)
        average.update(made)
    now = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    with average.inside(made):
        for name, tensor in made.state_dict().items():
            assert torch.all(tensor == 2.75) if name in trained(made) else torch.equal(tensor, before[name])
    assert same(made.state_dict(), now)
    assert all(torch.all(tensor == 2.75) for tensor in average.tensors.values())


def test_the_checkpoint_of_a_version_before_is_refused() -> None:
    with pytest.raises(Mistake, match="of a version before"):
        stage("keyframes", LOOP).on_load_checkpoint({"drivesim": {"steps_done": 2, "minutes": 0.1}, "state_dict": {}})


def test_other_frozen_weights_than_it_began_with_are_a_mistake(tmp_path: Path) -> None:
    """A checkpoint lacks them: they come from the parents' files, which may have been made anew meanwhile."""
    fit("keyframes", tmp_path, steps=2)
    made = stage("keyframes", loop(steps=4))
    with torch.no_grad():
        next(parts(made)[0].parameters()).view(-1)[0] += 1
    with pytest.raises(Mistake, match="began with other weights of the model that it builds on") as told:
        train(made, Memory("keyframes", made.loop, 2), "keyframes", tmp_path, "cpu", latest(tmp_path))
    assert len(str(told.value).splitlines()) == 2


def test_budget_by_steps_and_by_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    made, now = stage("image", loop(steps=100, lr=1.0, warmup=4)), [1000.0]
    monkeypatch.setattr("drivesim.training.loop.time.monotonic", lambda: now[0])
    made.on_train_start()
    assert made.progress == 0.0 and made.rate() == 0.25  # the first of four steps of warming up
    made.steps_done = 50
    assert made.progress == 0.5 and made.rate() == pytest.approx(0.5)
    made.steps_done = 100
    assert made.progress == 1.0 and made.rate() == pytest.approx(0.0)
    timed = stage("image", loop(steps=100, minutes=2.0, lr=1.0, warmup=0))
    timed.on_train_start()
    timed.steps_done, now[0] = 10, now[0] + 60
    assert timed.progress == 0.5 and timed.rate() == pytest.approx(0.5)  # time is further along than steps
    timed.minutes_before = 0.5
    assert timed.minutes_spent == 1.5 and timed.rate() == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))
    now[0] += 600
    assert timed.progress > 1 and timed.rate() == 0.0


def test_minutes_end_a_run(tmp_path: Path) -> None:
    made = fit("autoencoder", tmp_path, steps=10_000, minutes=0.02)
    assert 0 < made.steps_done < 10_000
    assert steps_in(latest(tmp_path)) == made.steps_done and int(rows(tmp_path)[-1]["step"]) == made.steps_done


@pytest.mark.parametrize("name", [*STAGES, "autoencoder adversary", "decoder adversary"])
def test_resumed_is_uninterrupted(name: str, tmp_path: Path) -> None:
    """To the bit, averages and both optimisers included, and the curve. Seven is odd on purpose: see Checkpoints."""
    more: dict[str, Any] = {"steps": 14, "ema": 0.9, "checkpoint_every": 7}
    if name.endswith(" adversary"):
        name, more = name.split()[0], {**more, "adversarial": 0.5, "adversarial_from": 3}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    one = fit(name, whole, **more)
    assert sorted(file.name for file in (whole / "checkpoints").glob("*.ckpt")) == [
        "step-00000007.ckpt",
        "step-00000014.ckpt",
    ]
    (stopped / "checkpoints").mkdir(parents=True)
    (whole / "checkpoints" / "step-00000007.ckpt").rename(stopped / "checkpoints" / "step-00000007.ckpt")
    (stopped / "metrics.csv").write_text((whole / "metrics.csv").read_text())
    two = fit(name, stopped, start=steps_in(latest(stopped)), resume=True, **more)
    assert two.steps_done == 14 and same(one.state_dict(), two.state_dict())
    assert rows(whole) == rows(stopped) and [row["step"] for row in rows(whole)] == ["1", "10", "14"]


def test_a_resumed_run_takes_the_batches_that_are_left(tmp_path: Path) -> None:
    fit("image", tmp_path, steps=6, checkpoint_every=4)
    latest(tmp_path).unlink()
    made = stage("image", loop(steps=6, checkpoint_every=4))
    data = Memory("image", made.loop, start_step=4)
    train(made, data, "image", tmp_path, "cpu", latest(tmp_path))
    assert data.asked == [8, 9, 10, 11]


def test_nothing_to_resume_from_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no checkpoint to resume from"):
        latest(tmp_path)


def test_ctrl_c_is_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: Any) -> None:
        raise KeyboardInterrupt

    made = stage("image", LOOP)
    monkeypatch.setattr(made, "training_step", pressed)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(Interrupted, match="stopped at step 0; nothing is kept"):
            train(made, Memory("image", LOOP), "image", tmp_path, "cpu")
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_terminal_shows_our_line_and_no_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.INFO):
        warnings.simplefilter("always")
        fit("image", tmp_path, steps=6, ema=0.9)
    out, err = capfd.readouterr()
    lines = [line for line in (out + err).splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("image: step 6, loss ") and lines[0].endswith("0 s left")
    assert not caplog.records


def test_time_left_is_said_once_it_is_known() -> None:
    made, bar = stage("image", loop(steps=100)), Progress("image")
    bar.first, made.steps_done, made.minutes_before = 0, 4, 0.1
    assert bar.line(made, 0.5, 1.0) == "image: step 4, loss 0.5000"
    made.steps_done = 50
    assert bar.line(made, 0.5, 10.0).endswith(", 5.0 steps/s, 6 s left")


def test_latent_statistics_whiten() -> None:
    made = stage("autoencoder", LOOP)
    assert isinstance(made, AutoencoderStage)
    frames = torch.randn(16, 3, 16, 32).tanh()
    found = latent_statistics(made.model, frames)
    mean, _ = made.model.encode(frames).chunk(2, dim=1)
    whitened = (mean - torch.tensor(found["mean"])[:, None, None]) / torch.tensor(found["std"])[:, None, None]
    torch.testing.assert_close(whitened.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(whitened.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
