"""Kills trainings and rollouts again and again, resumes them, and compares the result with a run that was left alone.

    python tools/torture.py train --kills 200 --out DIR
    python tools/torture.py rollout --kills 100 --out DIR
    python tools/torture.py soak --windows 2000 --out DIR

A round is one run, killed and resumed until it is done. Kills come at random moments, or within a random call of the
system that writes: half of the data of a write is out, a file is not yet or just now flushed, put in its place or
removed. After every kill each file must be whole; after every round nothing may lie about, and every bit be that of the
run that was left alone. What is imported is imported once, and every attempt is a fork of that: an attempt takes a
second, not ten. One attempt in twenty is the command itself, as a user starts it. The preflight, which writes nothing,
is left out of the others.
"""

import argparse
import builtins
import io
import json
import os
import platform
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a fork of a process with threads has none of them

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
import torch.utils.tensorboard  # a training imports it late: here once for all

from drivesim import cli, disk, weights, yamlfile
from drivesim.data import video
from drivesim.jobs import encode, generate, index, train
from drivesim.jobs.preflight import Estimate
from drivesim.training import checkpoints

SIZE, FPS = (32, 64), Fraction(15, 8)
WORLD = "name: torture\nkind: world\nclips: 4\nseconds: 8\nfps: 15/8\nsize: [32, 64]\nval: 0.0\n"
LOOP = ["loop.batch=2", "loop.ema=0.9", "loop.precision=32-true", "loop.lr=1e-3", "loop.warmup=2"]
SMALL = {
    "autoencoder": [
        *("size=[32,64]", "fps=15/8", "statistics=8", "model.channels=[8,8,8]", "model.blocks=1", "loss.width=8"),
        *("model.attention=false", "model.groups=4", "loss.adversarial=0.5", "loss.adversarial_from=4"),
        "loss.perceptual=0",
    ],
    "image": [
        *("model.channels=[16,16]", "model.blocks=1", "model.attention=[false,true]", "model.head_channels=8"),
        *("model.cross=8", "model.groups=4", "schedule.target=v", "schedule.betas=cosine"),
        *("model.joined=[boxes]", "model.in_channels=24"),
    ],
    "keyframes": ["temporal.frames=4", "temporal.depth=1", "temporal.head_channels=8", "temporal.context_channels=8"],
}
TORTURED = ["loop.steps=12", "loop.checkpoint_every=2", "loop.sample_every=5"]
SCENARIO = """\
version: 1
opening: {generate: {night: true, cars: 2}}
seconds: 12
fps: 15/2
seeds: [3]
boxes: tracks
tracks:
- {id: a, class: car, keys: [{t: 0, box: [0.2, 0.4, 0.5, 0.9]}, {t: 12, box: [0.4, 0.4, 0.7, 0.9]}]}
"""
QUICK = ["sampler.steps=2", "start.steps=2"]
FREE = {"run.json", "log.txt"}  # of files: they tell of times, processes and resuming
REAL_EVERY = 20  # attempts, one of which is the command itself
STARTING = 12.0  # seconds that the command itself takes until it begins, at most
EVERY = 50  # windows between two looks at a soak
WARM = 200  # windows after which its memory must be flat


@dataclass
class Tally:
    """What has come of it."""

    kills: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    attempts: int = 0
    torn: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    tails: int = 0

    @property
    def clean(self) -> bool:
        return not (self.torn or self.orphans or self.differences or self.lost)

    def lines(self) -> list[str]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        found = [
            f"{sum(self.kills.values())} kills ({kinds}) in {self.rounds} runs, {self.attempts} attempts",
            f"{len(self.torn)} torn files, {len(self.orphans)} orphans, {len(self.differences)} differences, "
            f"{len(self.lost)} windows lost; {self.tails} last lines were cut off and are gone after the next start",
        ]
        return found + [f"  {line}" for line in (*self.torn, *self.orphans, *self.differences, *self.lost)]


# --- attempts ---------------------------------------------------------------------------------------------------------


def forked(work: Callable[[], int], said: Path) -> int:
    """Starts ``work`` in a fork that writes into the file ``said``; returns its process."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, 1), os.dup2(handle, 2)
        torch.set_num_threads(1)
        status = work()
        sys.stdout.flush(), sys.stderr.flush()
    except BaseException as problem:
        os.write(2, f"{type(problem).__name__}: {problem}\n".encode())
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    """The exit status of a process, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def command(words: list[str], hurry: bool = True) -> int:
    """``drivesim WORDS`` in this process, without its preflight."""
    sys.argv = ["drivesim", *words]
    if hurry:
        train.rehearse = lambda *args: None
        generate.foresee = lambda *args: Estimate("generate", (), None, 0, "nothing")
    return cli.main(words)


class Killer:
    """Counts the calls that change files under ``folder``; within call number ``at`` it kills its own process."""

    def __init__(self, folder: Path, at: int, seed: int):
        self.folder, self.at, self.count, self.random = str(folder), at, 0, random.Random(seed)

    def arm(self) -> None:
        os.write = self._data(os.write, self._path_of)
        os.fsync = self._around(os.fsync, self._path_of)
        os.ftruncate = self._around(os.ftruncate, self._path_of)
        for name in ("replace", "unlink", "mkdir", "rmdir"):
            setattr(os, name, self._around(getattr(os, name), str))
        builtins.open = io.open = self._opening(io.open)

    @staticmethod
    def _path_of(handle: int) -> str:
        return os.readlink(f"/proc/self/fd/{handle}")

    def _due(self, path: str) -> bool:
        if not path.startswith(self.folder):
            return False
        self.count += 1
        return self.count == self.at

    @staticmethod
    def _die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _around(self, call: Callable[..., Any], path: Callable[[Any], str]) -> Callable[..., Any]:
        def wrapped(what: Any, *args: Any, **kwargs: Any) -> Any:
            due = self._due(path(what))
            if due and self.random.random() < 0.5:
                self._die()
            result = call(what, *args, **kwargs)
            if due:
                self._die()
            return result

        return wrapped

    def _data(self, call: Callable[..., Any], path: Callable[[Any], str]) -> Callable[..., Any]:
        def wrapped(what: Any, data: Any) -> Any:
            if self._due(path(what)):
                call(what, bytes(data)[: self.random.randrange(len(data) + 1)])
                self._die()
            return call(what, data)

        return wrapped

    def _opening(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            found = call(file, mode, *args, **kwargs)
            if isinstance(file, str | os.PathLike) and set(mode) & set("wax+") and self.folder in str(file):
                if self._due(str(file)):
                    self._die()
                raw = found.buffer if hasattr(found, "buffer") else found
                return found if raw is not found else _Written(found, self, str(file))
            return found

        return opened


class _Written:
    """A file of bytes whose writing may be cut off."""

    def __init__(self, file: Any, killer: Killer, path: str):
        self.file, self.killer, self.path = file, killer, path

    def write(self, data: Any) -> int:
        if self.killer._due(self.path):
            self.file.write(bytes(data)[: self.killer.random.randrange(len(data) + 1)])
            self.file.flush()
            self.killer._die()
        return self.file.write(data)

    def __enter__(self) -> "_Written":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


# --- what must hold ---------------------------------------------------------------------------------------------------


def flaws(run: Path, reference: Path | None = None) -> tuple[list[str], int]:
    """Files of ``run`` that stand there finished and are not whole; and how many tables end in half a line.

    Args:
        reference: where given, files of both have the same bytes but for ``FREE`` and tables that are not done.
    """
    found, tails = [], 0
    for file in sorted(file for file in run.rglob("*") if file.is_file()):
        name = file.relative_to(run)
        if any(disk.PART.fullmatch(part) for part in name.parts) or name.parts[0] in ("events", "lock"):
            continue
        try:
            tails += _whole(file)
            twin = reference / name if reference else None
            if twin is not None and file.name not in FREE and file.suffix != ".jsonl":
                if not twin.is_file() and name.parts[0] == "state":
                    continue  # it had grown old in the run that was left alone
                if not twin.is_file() or twin.read_bytes() != file.read_bytes():
                    found.append(f"{name} is not that of the run that was left alone")
        except Exception as problem:
            found.append(f"{name}: {type(problem).__name__} {' '.join(str(problem).split())[:200]}")
    return found, tails


def _whole(file: Path) -> bool:
    """Whether a table ends in half a line; everything else is whole, or raises."""
    data, kind = file.read_bytes(), file.suffix
    if kind == ".ckpt":
        why = checkpoints.flaw(file)
        assert why is None, why
        checkpoints.read(file)
    elif kind == ".safetensors":
        list(weights.read([file]))
    elif kind == ".json":
        json.loads(data)
    elif kind == ".yaml":
        yamlfile.read(file)
    elif kind == ".mp4":
        probed = video.probe(file)
        assert len(video.read(file, frames=probed.frames).frames) == probed.frames
    elif kind == ".parquet":
        pq.read_table(file)
    elif kind == ".png":
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None, "no picture"
    elif kind == ".sha256":
        assert len(data.split()[0]) == 64 and data.endswith(b"\n"), "no hash"
    if kind == ".jsonl":
        for line in data.split(b"\n")[:-1]:
            json.loads(line)
    return kind in (".csv", ".jsonl", ".txt") and not data.endswith(b"\n") and data != b""


def orphans(run: Path) -> list[str]:
    return [
        str(file.relative_to(run)) for file in run.rglob("*") if disk.PART.fullmatch(file.name) or file.name == "lock"
    ]


def differences(run: Path, whole: Path) -> list[str]:
    """What of ``run`` is not as in ``whole``: files, bytes; of a training its tensors, as its files tell of time."""
    one, two = (_files(folder) for folder in (whole, run))
    found = [f"{name} is missing" for name in sorted(one - two)] + [f"{name} is too many" for name in sorted(two - one)]
    for name in sorted(one & two):
        a, b = whole / name, run / name
        if name.endswith(".ckpt"):
            same = _same(checkpoints.read(a), checkpoints.read(b))
        elif name.startswith("weights/"):
            same = _same(*(weights.load(file)[0] for file in (a, b))) and _header(a) == _header(b)
        else:
            same = name.endswith(".sha256") or Path(name).name in FREE or a.read_bytes() == b.read_bytes()
        if not same:
            found.append(f"{name} differs")
    if json.loads((run / "run.json").read_bytes())["status"] != "done":
        found.append("run.json does not say done")
    return found


def _files(folder: Path) -> set[str]:
    names = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {name.as_posix() for name in names if name.parts[0] != "events"}


def _header(file: Path) -> Any:
    header = weights.header(file)
    timeless = {name: value for name, value in header.train.items() if name not in ("hours", "date")}
    return {**vars(header), "train": timeless}


def _same(one: Any, two: Any) -> bool:
    """All tensors, and the count of steps, of two checkpoints or mappings of tensors."""
    a, b = (dict(checkpoints.tensors(content)) for content in (one, two))
    steps = [content.get("drivesim", {}).get("steps_done") for content in (one, two)]
    return a.keys() == b.keys() and steps[0] == steps[1] and all(torch.equal(a[name], b[name]) for name in a)


def committed(run: Path) -> int:
    """Windows whose segment stands in the journal."""
    file, done = run / "journal.jsonl", 0
    for line in file.read_bytes().split(b"\n")[:-1] if file.exists() else ():
        done += json.loads(line)["stage"] == "segment"
    return done


# --- the runs ---------------------------------------------------------------------------------------------------------


def things(out: Path) -> Path:
    """What the runs are made of, in a folder of its own: a world, latents, weights of small models."""
    folder = out / "things"
    if (folder / "whole").exists():
        return folder

    def make() -> int:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "world.yaml").write_text(WORLD)
        (folder / "scenario.yaml").write_text(SCENARIO)
        index.run(folder / "world.yaml", folder / "world", seed=7)
        three = ["loop.steps=3", *LOOP]
        train.rehearse = lambda *args: None
        last = train.run(
            "autoencoder", None, [*SMALL["autoencoder"], *three, f"index={folder / 'world'}"], folder / "ae"
        )
        encode.run(folder / "world", last, folder / "cache", FPS, SIZE)
        own = [f"cache={folder / 'cache'}", f"autoencoder={last}"]
        last = train.run("image", None, [*SMALL["image"], *three, *own], folder / "image")
        own = [f"cache={folder / 'cache'}", f"image={last}"]
        train.run("keyframes", None, [*SMALL["keyframes"], *three, *own], folder / "keyframes")
        (folder / "whole").touch()
        return 0

    if ended(forked(make, out / "said.txt")):
        sys.exit(f"torture: what the runs are made of could not be made, see {out / 'said.txt'}")
    return folder


def trainings(folder: Path) -> list[list[str]]:
    """Of a stage with two optimisers that reads video, and of one that reads the cache."""
    own = {
        "autoencoder": [f"index={folder / 'world'}"],
        "image": [f"cache={folder / 'cache'}", f"autoencoder={folder / 'ae' / 'weights' / 'autoencoder.safetensors'}"],
    }
    return [["train", stage, *SMALL[stage], *LOOP, *TORTURED, *more, "--device", "cpu"] for stage, more in own.items()]


def rollouts(folder: Path) -> list[list[str]]:
    """With all states kept, and with the newest alone."""
    start = ["generate", str(folder / "scenario.yaml"), "--weights", str(folder / "keyframes" / "weights"), *QUICK]
    return [[*start, "--device", "cpu"], [*start, "states=newest", "--device", "cpu"]]


class Torture:
    def __init__(self, out: Path, kills: int, seed: int):
        self.out, self.kills, self.random, self.tally = out, kills, random.Random(seed), Tally()
        self.said = out / "said.txt"
        out.mkdir(parents=True, exist_ok=True)
        self.said.unlink(missing_ok=True)

    def run(self, commands: list[list[str]]) -> Tally:
        """Runs each of ``commands`` alone, then rounds of them in turn until there were enough kills."""
        alone = [self._alone(words, self.out / f"whole-{n}") for n, words in enumerate(commands)]
        while sum(self.tally.kills.values()) < self.kills:
            which = self.tally.rounds % len(commands)
            self._round(commands[which], *alone[which])
            self.tally.rounds += 1
            print(
                f"{sum(self.tally.kills.values())} kills, {self.tally.rounds} runs", *self.tally.lines()[1:], flush=True
            )
        return self.tally

    def _alone(self, words: list[str], run: Path) -> tuple[Path, float, int]:
        """The run that is left alone, its seconds, and how many calls change files."""
        told, begin = self.out / "calls", time.monotonic()

        def work() -> int:
            killer = Killer(run, 0, 0)
            killer.arm()
            status = command([*words, "--out", str(run)])
            told.write_text(str(killer.count))
            return status

        if not (run / "run.json").exists() or json.loads((run / "run.json").read_bytes())["status"] != "done":
            subprocess.run(["rm", "-rf", str(run)], check=True)
            if ended(forked(work, self.said)):
                sys.exit(f"torture: the run that is left alone failed, see {self.said}")
            told.rename(self.out / f"{run.name}.calls")
            (self.out / f"{run.name}.seconds").write_text(str(time.monotonic() - begin))
        calls, seconds = ((self.out / f"{run.name}.{name}").read_text() for name in ("calls", "seconds"))
        return run, float(seconds), int(calls)

    def _round(self, words: list[str], whole: Path, seconds: float, calls: int) -> None:
        run = self.out / "run"
        subprocess.run(["rm", "-rf", str(run)], check=True)
        done = 0
        while True:
            resume = ["--resume"] if run.exists() else []
            status, how = self._attempt([*words, "--out", str(run), *resume], run, seconds, calls)
            self.tally.attempts += 1
            if status == 0:
                break
            if status != -signal.SIGKILL:
                self.tally.differences.append(f"{shlex.join(words[:2])} ended with {status}, see {self.said}")
                return
            self.tally.kills[how] += 1
            if run.exists():
                self._look(run, whole if words[0] == "generate" else None)
                now = committed(run)
                if now < done:
                    self.tally.lost.append(f"{done - now} of {done} windows")
                done = now
        self._look(run, None)
        self.tally.orphans += orphans(run)
        self.tally.differences += differences(run, whole)

    def _attempt(self, words: list[str], run: Path, seconds: float, calls: int) -> tuple[int, str]:
        """Ends by itself, or is killed; the status, and how it was killed."""
        enough = sum(self.tally.kills.values()) >= self.kills
        if not enough and self.tally.attempts % REAL_EVERY == REAL_EVERY - 1:
            started = [sys.executable, "-m", "drivesim.cli", *words]
            with open(self.said, "ab") as said, subprocess.Popen(started, stdout=said, stderr=said) as process:
                try:
                    process.wait(self.random.uniform(0, STARTING + seconds))
                except subprocess.TimeoutExpired:
                    process.kill()
            return process.returncode, "of the command itself"
        write = self.random.random() < 0.5
        at = self.random.randint(1, calls) if write and not enough else 0
        seed = self.random.getrandbits(32)

        def work() -> int:
            Killer(run, at, seed).arm()
            return command(words)

        pid = forked(work, self.said)
        if not write and not enough:
            self._wait(pid, self.random.uniform(0, seconds))
        return ended(pid), "within a write" if write else "at a moment"

    @staticmethod
    def _wait(pid: int, most: float) -> None:
        """Kills a process after ``most`` seconds, if it is still there; it stays to be waited for."""
        end = time.monotonic() + most
        while time.monotonic() < end:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)

    def _look(self, run: Path, whole: Path | None) -> None:
        """In a fork: decoders may start threads."""
        told = self.out / "flaws.json"

        def work() -> int:
            told.write_text(json.dumps(flaws(run, whole)))
            return 0

        if ended(forked(work, self.said)):
            self.tally.torn.append(f"could not be looked at, see {self.said}")
            return
        found, tails = json.loads(told.read_text())
        self.tally.torn += found
        self.tally.tails += tails


def soak(out: Path, windows: int) -> dict[str, Any]:
    """One rollout of ``windows`` windows, looked at from outside every ``EVERY``: memory and file descriptors."""
    folder, run = things(out), out / "soak"
    subprocess.run(["rm", "-rf", str(run)], check=True)
    minutes = (2 * windows + 1.5) * 8 / 15 / 60  # 4 key-frames, then 2 more each
    words = ["generate", "--weights", str(folder / "keyframes" / "weights"), "--minutes", f"{minutes:.6f}", "--fps"]
    words += ["15/8", "--seed", "1", "sampler.steps=1", "start.steps=1", "--device", "cpu", "--out", str(run)]
    begin = time.monotonic()
    pid = forked(lambda: command(words), out / "said.txt")
    seen: list[tuple[int, int, int]] = []
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        done = committed(run)
        if done >= EVERY * (len(seen) + 1):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            handles = min(len(os.listdir(f"/proc/{pid}/fd")) for _ in range(20))  # a file may be open just now
            seen.append((done, pages * os.sysconf("SC_PAGE_SIZE"), handles))
            print(f"{done} windows: {pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.1f} MiB, {handles} files", flush=True)
        time.sleep(0.05)
    if ended(pid):
        sys.exit(f"torture: the rollout failed, see {out / 'said.txt'}")
    late = [row for row in seen if min(WARM, windows // 2) <= row[0] < windows]  # behind the last the video is joined
    n, held = (np.array([row[column] for row in late], float) for column in (0, 1))
    slope = float(np.polyfit(n, held, 1)[0]) if len(late) > 1 else float("nan")
    return {
        "windows": committed(run),
        "seconds": round(time.monotonic() - begin, 1),
        "rss_first_mib": round(held[0] / 2**20, 2),
        "rss_last_mib": round(held[-1] / 2**20, 2),
        "slope_bytes_a_window": round(slope, 1),
        "growth_percent": round(100 * slope * (n[-1] - n[0]) / held.mean(), 3),
        "files": sorted({row[2] for row in late}),
        "seen": seen,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("train", "rollout", "soak"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    out, begin = args.out.absolute(), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    apart = os.stat(out).st_dev != os.stat(tempfile.gettempdir()).st_dev
    print(f"{out} is {'not ' if apart else ''}on the file system of {tempfile.gettempdir()}")
    if args.what == "soak":
        found = soak(out, args.windows)
        clean = found["growth_percent"] < 1 and len(found["files"]) == 1
        lines = [f"{name}: {value}" for name, value in found.items() if name != "seen"]
    else:
        made = things(out)
        tally = Torture(out, args.kills, args.seed).run((trainings if args.what == "train" else rollouts)(made))
        clean, lines = tally.clean, tally.lines()
        found = {"kills": dict(tally.kills), **{n: v for n, v in vars(tally).items() if n != "kills"}}
    about = {"seed": args.seed, "apart_from_tmp": apart, "torch": torch.__version__, "machine": platform.platform()}
    told = {"what": args.what, **about, "seconds": round(time.monotonic() - begin), **found}
    (out / f"torture-{args.what}.json").write_text(json.dumps(told, indent=1) + "\n")
    print(*lines, f"{time.monotonic() - begin:.0f} s", sep="\n")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
