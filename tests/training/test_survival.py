"""A training outlives damaged files, bad numbers, signals and too little memory; what it leaves is sound."""

import csv
import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from drivesim import disk, weights
from drivesim.errors import Interrupted, Mistake
from drivesim.training import checkpoints
from drivesim.training.callbacks import Average, rows
from drivesim.training.checkpoints import latest, steps_in
from drivesim.training.loop import Stage, train

from .tiny import Memory, loop, stage

TOOL = Path(__file__).resolve().parents[2] / "tools" / "torture.py"


def fit(
    name: str, out: Path, *, resume: bool = False, change: Callable[[Stage], None] | None = None, **more: Any
) -> Stage:
    """Trains a tiny stage; ``change`` is done to it first, ``more`` goes into its loop."""
    more = {"steps": 8, "ema": 0.9, "checkpoint_every": 2, **more}
    adversary = {key: more.pop(key) for key in list(more) if key.startswith("adversarial")}
    made = stage(name, loop(**more), **adversary)
    if change is not None:
        change(made)
    start = steps_in(latest(out)) if resume else 0
    train(
        made,
        Memory(name, made.loop, start),
        name,
        out,
        "cpu",
        latest(out) if resume else None,
        lambda n: f"clip-{n}.mp4",
    )
    return made


def kept(out: Path) -> list[str]:
    return sorted(file.name for file in (out / "checkpoints").iterdir())


def same(one: Stage, two: Stage) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Stage]:
    """Eight steps of the image model that nobody disturbs; and what it then is."""
    out = tmp_path_factory.mktemp("whole")
    return out, fit("image", out)


@pytest.fixture
def run(whole: tuple[Path, Stage], tmp_path: Path) -> Path:
    """A copy of its folder, to spoil."""
    subprocess.run(["cp", "-r", str(whole[0]), str(tmp_path / "run")], check=True)
    return tmp_path / "run"


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_has_its_hash_beside_it_and_the_newest_stay(whole: tuple[Path, Stage]) -> None:
    out, _ = whole
    names = [f"step-0000000{n}.ckpt" for n in (4, 6, 8)]
    assert kept(out) == sorted(names + [f"{name}.sha256" for name in names])
    for name in names:
        file = out / "checkpoints" / name
        assert (out / "checkpoints" / f"{name}.sha256").read_text() == f"{disk.sha256(file)}  {name}\n"
        assert checkpoints.flaw(file) is None


def test_all_stay_where_none_is_to_go(tmp_path: Path) -> None:
    fit("image", tmp_path, steps=4, checkpoint_every=1, checkpoints_kept=0)
    assert len(list((tmp_path / "checkpoints").glob("*.ckpt"))) == 4


def test_twenty_truncations_are_twenty_fallbacks(run: Path) -> None:
    file, before = latest(run), run / "checkpoints" / "step-00000006.ckpt"
    data, draw = file.read_bytes(), random.Random(5)
    for cut in [0, 1, len(data) - 1, *(draw.randrange(len(data)) for _ in range(17))]:
        file.write_bytes(data[:cut])
        said: list[str] = []
        assert latest(run, said.append) == before
        assert said == [f"{file} is passed over: {cut} bytes that are not what {file.name}.sha256 says"]


def test_the_run_from_the_one_before_is_the_same(whole: tuple[Path, Stage], run: Path) -> None:
    newest = latest(run)
    newest.write_bytes(newest.read_bytes()[:1000])
    assert same(fit("image", run, resume=True), whole[1])
    assert checkpoints.flaw(newest) is None and rows(run / "metrics.csv") == rows(whole[0] / "metrics.csv")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def lose(file: Path) -> None:
    checkpoints.hash_file(file).unlink()
    file.write_bytes(file.read_bytes()[:-10])


def page(file: Path) -> None:
    file.write_text("<html>404</html>")
    checkpoints.hash_file(file).write_text(f"{hashlib.sha256(b'').hexdigest()}  {file.name}\n")


def blank(file: Path) -> None:
    checkpoints.hash_file(file).write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "told"),
    [(flip, "not what"), (lose, "not a whole checkpoint, and has no"), (page, "16 bytes"), (blank, "not what")],
)
def test_other_damage_is_passed_over_as_well(run: Path, damage: Callable[[Path], None], told: str) -> None:
    newest, said = latest(run), list[str]()
    damage(newest)
    assert latest(run, said.append).name == "step-00000006.ckpt"
    assert len(said) == 1 and said[0].startswith(str(newest)) and told in said[0]


def test_where_none_is_whole_it_is_said_of_each(run: Path) -> None:
    for file in (run / "checkpoints").glob("*.ckpt"):
        file.write_bytes(b"")
    said: list[str] = []
    with pytest.raises(Mistake, match="none of its 3 checkpoints is whole"):
        latest(run, said.append)
    assert len(said) == 3


def test_one_of_a_version_before_without_a_hash_is_taken(run: Path) -> None:
    checkpoints.hash_file(latest(run)).unlink()
    assert latest(run).name == "step-00000008.ckpt"


def test_a_disk_that_gives_back_other_bytes_is_noticed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_read_back", lambda file: "0" * 64)
    with pytest.raises(Mistake, match="gives back other bytes"):
        fit("image", run, resume=True, steps=10)
    assert latest(run).name == "step-00000008.ckpt" and len(list((run / "checkpoints").glob("*.ckpt"))) == 3


def test_what_a_killed_process_had_still_to_do_is_done(run: Path) -> None:
    """It was killed behind the newest checkpoint: no hash, one too many, and a hash whose checkpoint it had removed."""
    before = kept(run)
    hash_file = checkpoints.hash_file(latest(run))
    told = hash_file.read_text()
    hash_file.unlink()
    for file in (checkpoints.named(run, 2), checkpoints.hash_file(checkpoints.named(run, 1))):
        file.write_bytes(b"old")
    checkpoints.settle(latest(run), 3)
    assert kept(run) == before and hash_file.read_text() == told


def test_a_line_of_the_curve_that_was_cut_off_goes(whole: tuple[Path, Stage], run: Path) -> None:
    latest(run).unlink()
    table = run / "metrics.csv"
    table.write_text(table.read_text().replace("\n8,", "\n7") + "1")  # as of step 7, and of step 1
    fit("image", run, resume=True)
    assert rows(table) == rows(whole[0] / "metrics.csv")


# --- numbers ----------------------------------------------------------------------------------------------------------


def bad(at: set[int], how: Callable[[Any, dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Stage], None]:
    """Lets ``how`` spoil the stage or its batch before the steps ``at``, counted from 1."""

    def change(made: Stage) -> None:
        step = made.training_step

        def spoiled(batch: dict[str, Tensor], batch_idx: int) -> Any:
            return step(how(made, batch) if made.steps_done + 1 in at else batch, batch_idx)

        made.training_step = spoiled  # type: ignore[method-assign]

    return change


def in_batch(made: Stage, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    batch["moments" if "moments" in batch else "video"][1, 0, 0, 0, 0] = math.nan
    return batch


def in_gradient(made: Stage, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    parameter = next(p for p in made.parameters() if p.requires_grad)
    handle = parameter.register_hook(lambda gradient: (handle.remove(), gradient * math.inf)[1])
    return batch


def in_weights(made: Stage, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        next(p for p in made.parameters() if p.requires_grad).view(-1)[0] = math.nan
    return batch


def in_average(made: Stage, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    average = next(c for c in made.trainer.callbacks if isinstance(c, Average))
    next(iter(average.tensors.values())).view(-1)[0] = math.nan
    return batch


def in_loss(made: Stage) -> None:
    loss = made.forward

    def spoiled(batch: dict[str, Tensor]) -> Any:
        return loss(batch) * (math.nan if made.steps_done + 1 == 4 else 1.0)

    made.forward = spoiled  # type: ignore[method-assign]


def skipped(out: Path) -> list[str]:
    with open(out / "metrics.csv", newline="") as opened:
        return [row["skipped"] for row in csv.DictReader(opened)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (in_loss, "the loss is nan; samples 6, 7 (clips clip-6.mp4, clip-7.mp4)"),
        (bad({4}, in_gradient), "the gradient is not finite; samples 6, 7 (clips clip-6.mp4, clip-7.mp4)"),
        (bad({4}, in_batch), "the loss is nan, and sample 7 came with such values; samples 6, 7"),
    ],
    ids=["loss", "gradient", "batch"],
)
def test_a_bad_step_is_skipped_counted_and_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], change: Callable[[Stage], None], told: str
) -> None:
    """Neither the weights nor the average nor the optimiser know of it."""
    seen: dict[int, list[Tensor]] = {}

    def watched(made: Stage) -> None:
        change(made)
        start = made.on_train_batch_start

        def noted(batch: Any, batch_idx: int) -> None:
            start(batch, batch_idx)
            seen[made.steps_done + 1] = [p.detach().clone() for p in made.parameters()]

        made.on_train_batch_start = noted  # type: ignore[method-assign]

    made = fit("image", tmp_path, change=watched)
    assert f"image: step 4 is skipped: {told}" in capfd.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(seen[4], seen[5], strict=True)), "step 4 changed the weights"
    assert not all(torch.equal(a, b) for a, b in zip(seen[5], seen[6], strict=True)), "step 5 did not"
    assert made.skipped == 1 and skipped(tmp_path) == ["", "1"]
    three, four = (checkpoints.read(checkpoints.named(tmp_path, n)) for n in (4, 8))
    assert three["drivesim"]["skipped"] == 1 and four["average"]["count"] == 7


@pytest.mark.parametrize("name", ["autoencoder", "decoder"])
def test_with_two_optimisers_neither_steps(tmp_path: Path, name: str) -> None:
    more = {"adversarial": 0.5, "adversarial_from": 0, "steps": 4}
    made = fit(name, tmp_path, change=bad({3}, in_batch), **more)
    assert made.skipped == 1 and all(torch.isfinite(p).all() for p in made.parameters())
    content = checkpoints.read(checkpoints.named(tmp_path, 4))
    counts = {float(state["step"]) for own in content["optimizer_states"] for state in own["state"].values()}
    assert counts == {3.0}, "of both optimisers"


def test_after_so_many_in_a_row_it_ends_and_names_them(tmp_path: Path) -> None:
    with pytest.raises(Mistake) as told:
        fit("image", tmp_path, change=bad({2, 4, 5, 6}, in_batch), bad_steps=3)
    assert "3 steps in a row were skipped, up to step 6" in str(told.value)
    assert "samples 7, 9, 11 (clips clip-7.mp4, clip-9.mp4, clip-11.mp4)" in str(told.value)
    assert len(str(told.value).splitlines()) == 2
    assert steps_in(latest(tmp_path)) == 4, "none is written of a bad end"


def test_a_resumed_run_remembers_how_many_were_bad(tmp_path: Path) -> None:
    fit("image", tmp_path, change=bad({7, 8}, in_batch), bad_steps=3)
    with pytest.raises(Mistake, match="3 steps in a row were skipped, up to step 9"):
        fit("image", tmp_path, resume=True, change=bad({9}, in_batch), bad_steps=3, steps=12)


def test_what_is_done_can_be_trained_further(run: Path) -> None:
    made = fit("image", run, resume=True, steps=11)
    assert made.steps_done == 11 and kept(run)[-2] == "step-00000011.ckpt"


@pytest.mark.parametrize(
    ("how", "told"),
    [(in_weights, "the weights are not finite at step 5, first"), (in_average, "not finite")],
    ids=["weights", "average"],
)
def test_weights_that_are_not_finite_never_replace_good_ones(
    tmp_path: Path, how: Callable[[Any, dict[str, Tensor]], dict[str, Tensor]], told: str
) -> None:
    """Nothing that follows could be sound, so the end comes at once: at the step, or when they are to be written."""
    with pytest.raises(Mistake, match=told):
        fit("image", tmp_path, change=bad({5}, how))
    assert steps_in(latest(tmp_path)) == 4
    for file in (tmp_path / "checkpoints").glob("*.ckpt"):
        assert all(torch.isfinite(t).all() for _, t in checkpoints.tensors(checkpoints.read(file)))
    assert not [name for name in kept(tmp_path) if name.endswith(".part")]


def test_the_average_is_looked_at_between_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="the averaged weights are not finite at step 10"):
        fit("image", tmp_path, change=bad({9}, in_average), steps=20, checkpoint_every=0)


def test_a_weight_file_is_not_written_of_them(tmp_path: Path) -> None:
    header, file = weights.Header("image", {}), tmp_path / "image.safetensors"
    weights.save(file, {"a": torch.zeros(3)}, header)
    with pytest.raises(Mistake, match="a holds values that are not finite"):
        weights.save(file, {"a": torch.tensor([0.0, math.inf])}, header)
    assert torch.equal(weights.load(file)[0]["a"], torch.zeros(3))


# --- signals and memory -----------------------------------------------------------------------------------------------


def asked(number: int, times: int = 1) -> Callable[[Stage], None]:
    """Sends this process a signal in step 5."""

    def send(made: Stage, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        for _ in range(times):
            os.kill(os.getpid(), number)
        return batch

    return bad({5}, send)


@contextmanager
def heeded(number: signal.Signals) -> Iterator[None]:
    """As in a process of its own: a shell that started the tests behind its back has them ignore Ctrl-C."""
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_waits_for_the_end_of_the_step(
    whole: tuple[Path, Stage], tmp_path: Path, number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    with heeded(number):
        before = signal.getsignal(number)
        with pytest.raises(Interrupted, match="stopped at step 5; the same command with --resume goes on"):
            fit("image", tmp_path, change=asked(number))
        assert signal.getsignal(number) == before
    assert f"{number.name}: stops after this step; a second signal stops at once" in capfd.readouterr().err
    assert steps_in(latest(tmp_path)) == 5
    assert same(fit("image", tmp_path, resume=True), whole[1])


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped at step 4"):
        fit("image", tmp_path, change=asked(signal.SIGTERM, times=2))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert steps_in(latest(tmp_path)) == 4


def test_a_signal_in_the_last_step_changes_nothing(tmp_path: Path, whole: tuple[Path, Stage]) -> None:
    def send(made: Stage, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        os.kill(os.getpid(), signal.SIGTERM)
        return batch

    assert same(fit("image", tmp_path, change=bad({8}, send)), whole[1])


def huge(made: Stage, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.empty(1 << 56)
    return batch


@pytest.mark.parametrize(("batch", "mend"), [(4, "try loop.batch=2"), (1, "a single sample does not fit")])
def test_too_little_memory_names_the_next_setting(tmp_path: Path, batch: int, mend: str) -> None:
    with pytest.raises(Mistake, match=f"a step of batch {batch} does not fit") as told:
        fit("image", tmp_path, change=bad({3}, huge), batch=batch)
    assert mend in str(told.value) and len(str(told.value).splitlines()) == 2
    assert steps_in(latest(tmp_path)) == 2


def test_other_errors_of_torch_stay_what_they_are(tmp_path: Path) -> None:
    def wrong(made: Stage, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        fit("image", tmp_path, change=bad({3}, wrong))


# --- all of it --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_again_and_again_it_is_the_same(tmp_path: Path) -> None:
    """Five times, in the folder of the tests; ``tools/torture.py train`` does it two hundred times."""
    done = subprocess.run(
        [sys.executable, str(TOOL), "train", "--kills", "5", "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "torture-train.json").read_text())
    assert sum(told["kills"].values()) >= 5 and told["rounds"] >= 1
    assert told["torn"] == told["orphans"] == told["differences"] == []
