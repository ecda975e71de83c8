"""What long commands say before they start: the sums, the line of the memory, what does not fit, and that nothing is
left behind: neither files nor a changed training."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from drivesim import weights
from drivesim.data.latents import BOX, LatentCache
from drivesim.errors import Interrupted, Mistake
from drivesim.jobs import encode, evaluate, foresee, index, preflight, rehearsal, train
from drivesim.jobs.preflight import GIB, MIB, Estimate, Law, Part, Room, check_disk, check_memory, duration
from drivesim.rollout import memory
from drivesim.training import checkpoints, trial
from drivesim.training.autoencoder import AutoencoderStage

CPU = torch.device("cpu")
FPS, SIZE = Fraction(15, 8), (32, 64)
LOOP = ["loop.steps=6", "loop.batch=3", "loop.ema=0.5", "loop.precision=32-true", "loop.checkpoint_every=2"]
MODEL = ["model.channels=[8,8,8]", "model.blocks=1", "model.attention=false", "model.groups=4"]
LOSS = ["loss.perceptual=0", "loss.width=8", "loss.adversarial=0.5", "loss.adversarial_from=3"]
AUTOENCODER = ["size=[32,64]", "fps=15/8", "statistics=8", *MODEL, *LOSS, *LOOP]
RECIPE = "name: micro\nkind: world\nclips: 5\nseconds: 18\nfps: 15/8\nsize: [32, 64]\nval: 0.4\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    (folder / "world.yaml").write_text(RECIPE)
    return index.run(folder / "world.yaml", folder / "index", seed=7) or folder / "index"


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int | None]]:
    """What is there, as a test sets it."""
    there: dict[str, int | None] = {"memory": 1 << 50, "disk": 1 << 50}
    monkeypatch.setattr(Room, "at", lambda out, device: Room(there["memory"], there["disk"] or 0))
    yield there


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_memory_follows_a_line() -> None:
    law = Law({1: 500 * MIB, 2: 510 * MIB, 8: 570 * MIB})
    assert law.slope == 10 * MIB and law.at(2) == 510 * MIB and law.at(20) == 690 * MIB
    assert law.largest(570 * MIB) == 8 and law.largest(699 * MIB) == 20 and law.largest(499 * MIB) == 0
    assert Law({1: 500 * MIB, 2: 500 * MIB + 3}).largest(GIB) is None  # noise is no slope
    assert Law({4: MIB}).slope == 0 and Law({4: MIB}).at(9) == MIB


def test_time_is_a_sum_of_parts() -> None:
    parts = (Part("steps", 100, 0.25), Part("pictures", 2, 1.5), Part("dust", 1, 0.01))
    made = Estimate("train image", parts, 3 * GIB, 5 * MIB, "1 checkpoint", "loop.batch=7")
    assert made.seconds == pytest.approx(28.01)
    lines = made.lines(Room(4 * GIB, 2 * GIB))
    assert [line.split()[0] for line in lines] == ["train", "time", "memory", "disk"]
    assert "28 s" in lines[1] and "steps 100 x 250 ms, pictures 2 x 1.5 s" in lines[1] and "dust" not in lines[1]
    assert "3.0 GiB" in lines[2] and "4.0 GiB can be had; loop.batch=7 is the largest that fits" in lines[2]
    assert "5 MiB" in lines[3] and "1 checkpoint; 2.0 GiB free" in lines[3]
    timed = replace(made, most=10.0, peak=None, fits="")
    assert timed.seconds == 10 and "ended after 10 s" in timed.lines(Room(None, GIB))[1]
    assert "unknown " in timed.lines(Room(None, GIB))[2] and "fits" not in timed.lines(Room(None, GIB))[2]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (60, "1 min"), (250, "4 min 10 s"), (11520, "3 h 12 min"),
     (183_600, "2 d 3 h")],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("steps", "begin", "every", "count"),
    [(10, 0, 0, 1), (10, 0, 5, 2), (10, 0, 4, 3), (10, 5, 5, 1), (10, 4, 4, 2), (10, 9, 100, 1)],
)
def test_how_often_a_checkpoint_is_written(steps: int, begin: int, every: int, count: int) -> None:
    assert rehearsal.times(steps, begin, every) == count


def test_what_is_not_there_is_a_mistake() -> None:
    there = Room(GIB, GIB)
    check_memory(GIB, there, "x", ""), check_memory(None, there, "x", ""), check_disk(GIB, there, "x", "")
    check_memory(9 * GIB, Room(None, 0), "x", "")  # unknown is not too little
    with pytest.raises(Mistake, match=r"needs about 2.0 GiB of memory, 1.0 GiB can be had"):
        check_memory(2 * GIB, there, "x", "")
    with pytest.raises(Mistake, match=r"needs about 2.0 GiB of disk, 1.0 GiB is free"):
        check_disk(2 * GIB, there, "x", "")


# --- what is measured -------------------------------------------------------------------------------------------------


def test_the_peak_of_a_piece_is_its_own() -> None:
    with memory.measured(CPU) as first:
        np.ones(64 * MIB, np.uint8)
    with memory.measured(CPU) as second:
        np.ones(MIB, np.uint8)
    if first.peak is None or second.peak is None:
        pytest.skip("this system does not let a process set its high-water mark back")
    assert 48 * MIB < first.peak - second.peak < 80 * MIB
    assert memory.peak_bytes(CPU) >= first.peak  # the process has held that much all the same


@pytest.mark.parametrize(
    "write",
    [
        lambda content, file: trial.Scales().save_checkpoint(content, ""),
        lambda content, file: checkpoints.save(content, file),
        lambda content, file: weights.save(file, content, weights.Header("image", {})),
    ],
    ids=["a trial's checkpoint", "a checkpoint", "weights"],
)
def test_what_is_written_is_not_held_twice(write: Callable[[dict[str, Tensor], Path], object], tmp_path: Path) -> None:
    content = {str(n): torch.ones(MIB) for n in range(64)}  # 4 MiB each
    with memory.measured(CPU) as before:
        pass
    with memory.measured(CPU) as piece:
        write(content, tmp_path / "w")
    if before.peak is None or piece.peak is None:
        pytest.skip("this system does not let a process set its high-water mark back")
    assert piece.peak - before.peak < 64 * MIB


def test_memory_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernel files of a process in a group with a limit, of either version."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text("VmHWM:\t    300 kB\nVmRSS:\t    200 kB\n")
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:   1000 kB\n")
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")
    assert memory.within_reach(CPU) == 1200 * 1024
    (tmp_path / "self" / "cgroup").write_text("4:memory:/a/b\n3:cpu:/\n")
    group = tmp_path / "groups" / "memory" / "a"
    (group / "b").mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("600000\n")  # the parent's limit holds, too
    (group / "memory.usage_in_bytes").write_text("500000\n")
    (group / "memory.stat").write_text("cache 7\ntotal_inactive_file 50000\n")
    assert memory.within_reach(CPU) == 200 * 1024 + 150000
    (tmp_path / "self" / "cgroup").write_text("0::/pod\n")
    pod = tmp_path / "groups" / "pod"
    pod.mkdir()
    (pod / "memory.max").write_text("max\n")
    (pod / "memory.current").write_text("500000\n")
    assert memory.within_reach(CPU) == 1200 * 1024
    (pod / "memory.max").write_text("500000\n")
    assert memory.within_reach(CPU) == 200 * 1024
    (tmp_path / "meminfo").unlink()
    assert memory.within_reach(CPU) is None and memory.within_reach(torch.device("mps")) is None


def test_the_disk_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    assert Room.at(tmp_path / "not" / "yet", "cpu").disk > 0 and not (tmp_path / "not").exists()


# --- the commands -----------------------------------------------------------------------------------------------------


def trained(world: Path, out: Path, *more: str, **options: bool) -> Path:
    return train.run("autoencoder", None, [*AUTOENCODER, f"index={world}", *more], out, 0, **options)


def test_a_dry_run_says_it_all_and_writes_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], room: dict[str, int | None]
) -> None:
    trained(world, tmp_path / "out", dry_run=True)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["train", "time", "memory", "disk"]
    assert "steps before the last change 3 x" in said[1] and "steps 3 x" in said[1]  # the adversary joins at step 3
    assert "3 checkpoints of" in said[3]
    assert not list(tmp_path.iterdir())


def test_a_training_is_the_same_with_and_without(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: dict[str, int | None]
) -> None:
    state = torch.get_rng_state()
    one, _ = weights.load(trained(world, tmp_path / "with"))
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(train, "rehearse", lambda *args: None)
    two, _ = weights.load(trained(world, tmp_path / "without"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    written = [{f.relative_to(tmp_path / n) for f in (tmp_path / n).rglob("*") if "events" not in f.parts}
               for n in ("with", "without")]  # fmt: skip
    assert written[0] == written[1]


def test_the_size_of_a_checkpoint_is_that_of_the_file(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: dict[str, int | None]
) -> None:
    """Of the largest: before the adversary joins, its optimiser holds nothing."""
    seen: list[Estimate] = []
    monkeypatch.setattr(Estimate, "show", lambda self, room, console=None: seen.append(self))
    trained(world, tmp_path)
    files = [file.stat().st_size for file in (tmp_path / "checkpoints").glob("*.ckpt")]
    stored = sum(file.stat().st_size for file in (tmp_path / "weights").iterdir())
    assert len(files) == 3 and seen[0].disk == pytest.approx(3 * max(files) + stored, rel=0.1)
    assert seen[0].peak is None or seen[0].peak > 50 * MIB


def test_ctrl_c_while_it_is_tried(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: dict[str, int | None]
) -> None:
    def pressed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoencoderStage, "training_step", pressed)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(Interrupted, match="nothing has begun yet"):
            trained(world, tmp_path / "out")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "out").exists()


def test_too_little_disk_is_told_first(world: Path, tmp_path: Path, room: dict[str, int | None]) -> None:
    room["disk"] = 4_000_000
    with pytest.raises(Mistake, match="of disk") as told:
        trained(world, tmp_path / "out", "loop.checkpoint_every=1")
    assert not (tmp_path / "out").exists()
    assert told.value.mend is not None and told.value.mend.endswith("fits")
    trained(world, tmp_path / "out", told.value.mend.split()[0], dry_run=True)
    room["disk"] = 10
    with pytest.raises(Mistake, match="of disk") as told:
        trained(world, tmp_path / "out")
    assert "another disk" in (told.value.mend or "")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Memory as if a sample took 100 MiB beside 200 that are always there; the sizes that were tried."""
    tried: list[int] = []
    real = rehearsal.Rehearsal._try

    def counted(self: rehearsal.Rehearsal, batch: int, at: int, timed: bool = True) -> object:
        tried.append(batch)
        trial = real(self, batch, at, timed)
        self.peaks[batch] = (200 + 100 * batch) * MIB
        return trial

    monkeypatch.setattr(rehearsal.Rehearsal, "_try", counted)
    return tried


def test_too_little_memory_is_told_with_what_fits(
    world: Path, tmp_path: Path, lines: list[int], room: dict[str, int | None]
) -> None:
    room["memory"] = 750 * MIB
    with pytest.raises(Mistake, match="needs about 1.1 GiB of memory, 750 MiB can be had") as told:
        trained(world, tmp_path / "out", "loop.batch=9")
    assert told.value.mend == "loop.batch=5 fits" and lines == [1, 2]  # what does not fit is not tried
    room["memory"] = 250 * MIB
    with pytest.raises(Mistake, match="a single sample does not fit"):
        trained(world, tmp_path / "out", "loop.batch=9")
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_are_not_tried(
    world: Path, tmp_path: Path, lines: list[int], room: dict[str, int | None]
) -> None:
    room["memory"] = 100_000
    with pytest.raises(Mistake, match="needs about .* of memory, .* can be had"):
        trained(world, tmp_path / "out", "loop.batch=1", dry_run=True)
    assert lines == []
    room["memory"] = 350 * MIB  # 300 for one, 400 for two
    trained(world, tmp_path / "out", "loop.batch=1", dry_run=True)
    assert set(lines) == {1}
    room["memory"] = 650 * MIB
    trained(world, tmp_path / "out", "loop.batch=1", dry_run=True)
    assert set(lines) == {1, 2}, "two are tried where twice one fits"


def test_a_resumed_run_is_told_that_its_batch_stays(
    world: Path, tmp_path: Path, lines: list[int], room: dict[str, int | None]
) -> None:
    out = tmp_path / "out"
    trained(world, out, "loop.steps=2")
    room["memory"] = 450 * MIB
    with pytest.raises(Mistake) as told:
        trained(world, out, resume=True)
    assert "began with loop.batch=3; loop.batch=2 in another --out fits" in (told.value.mend or "")


def test_encode(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], room: dict[str, int | None]) -> None:
    file = trained(world, tmp_path / "run")
    capsys.readouterr()
    encode.run(world, file, tmp_path / "cache", FPS, SIZE, dry_run=True)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["encode", "time", "memory", "disk"] and "170 frames" in said[3]
    room["disk"] = 1000
    with pytest.raises(Mistake, match="of disk"):
        encode.run(world, file, tmp_path / "cache", FPS, SIZE)
    room |= {"disk": 1 << 50, "memory": 10 * MIB}
    if memory.within_reach(CPU) is not None:
        with pytest.raises(Mistake, match="of memory"):
            encode.run(world, file, tmp_path / "cache", FPS, SIZE)
    assert not (tmp_path / "cache").exists()
    room["memory"] = None
    encode.run(world, file, tmp_path / "cache", FPS, SIZE)
    stored = sum(shard.stat().st_size for shard in (tmp_path / "cache").glob("*.npy"))
    boxes = LatentCache.open(tmp_path / "cache").about.boxes
    assert boxes and stored == pytest.approx(170 * (2 * 8 * 8 * 16 + boxes * BOX.itemsize), rel=0.05)


def test_evaluate(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    room: dict[str, int | None],
) -> None:  # fmt: skip
    settings = evaluate.Settings(cache=tmp_path / "cache", fps=FPS)
    assert evaluate.run(world, world, settings=settings, dry_run=True) == []
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == [
        "evaluate",
        "time",
        "memory",
        "disk",
    ] and "features of 12 clips" in said[3]
    room["disk"] = 100
    monkeypatch.setattr(foresee, "LONG", 0)
    with pytest.raises(Mistake, match="of disk"):
        evaluate.run(world, world, settings=settings)
    assert not (tmp_path / "cache" / "features").exists() and not list(tmp_path.rglob("*.safetensors"))
    room |= {"disk": 1 << 50, "memory": 10}
    if memory.within_reach(CPU) is not None:
        with pytest.raises(Mistake, match="of memory"):
            evaluate.run(world, world, settings=settings, dry_run=True)
    assert preflight.size(10) == "under 1 MiB"
