"""What stands around the networks: the rollout's loop, its memory, data, files; and how the work grows.

    python tools/benchmark_loop.py                                # goals: every row
    python tools/benchmark_loop.py goals clips-30 latents --rounds 9 --json runs/loop.json
    python tools/benchmark_loop.py shares WEIGHTS sampler.steps=2 upsample.sampler.steps=1 upsample.noise=10
    python tools/benchmark_loop.py growth --plot docs/growth.png

``goals`` and ``shares`` are ratios within one run: what is compared is called in turn, and what is told are medians of
processor seconds, since other work may share the machine. Networks run on one thread, and what is freed is kept, as in
every command. A rollout's own thread is the one that waits for nothing: encoding and files have another, so its
processor seconds are the wall time of a machine that is free. WEIGHTS is a folder for ``drivesim generate``, or tiny.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from benchmark import PEAK_SIDE, flops
from matplotlib.figure import Figure

from drivesim import config
from drivesim.data import video
from drivesim.data.frames import Upright
from drivesim.data.index import Entry
from drivesim.data.latent_writer import LatentWriter
from drivesim.data.latents import About, LatentCache, Place
from drivesim.jobs import stack as stacks
from drivesim.jobs import tiny
from drivesim.rollout import engine, memory
from drivesim.rollout.scenario import Opening, Scenario
from drivesim.rollout.settings import RolloutConfig
from drivesim.rollout.stack import Stack
from drivesim.rollout.tracks import Key, Track
from drivesim.scene import Labels
from drivesim.world import drive

Call = Callable[[], Any]
SIZE = (512, 1024)  # of the footage that clips are read from
CLIP, CLIPS = 16, 6  # frames of a clip, and clips of a round
RATE = Fraction(30)
KILLED = 300  # frames that the writer has been given when it dies
LIMITS = {"loop": 1.10, "memory": 1.05, "pyav": 1.3, "opencv": 1.5, "latents": 500.0}


@dataclass(frozen=True)
class Row:
    """Args:
    value: what the goal is for, a median; ``low``, ``high``: quartiles over the rounds, where there are rounds.
    goal: as it is told, with its sign. ``told``: what the value is made of.
    """

    name: str
    what: str
    value: float
    low: float
    high: float
    goal: str
    met: bool
    told: str


def ratio(name: str, what: str, pairs: list[tuple[float, float]], goal: float, least: bool, told: str) -> Row:
    """The row of medians of a / b; ``least``: whether the goal is the least that will do, or the most."""
    value = statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)
    each = sorted(a / b for a, b in pairs)
    low, high = statistics.quantiles(each, n=4)[::2] if len(each) > 1 else each * 2
    met = value >= goal if least else value <= goal
    return Row(name, what, value, low, high, f"{'>=' if least else '<='} {goal:g}", met, told)


# --- rollouts ---------------------------------------------------------------------------------------------------------


class Counted:
    """A network, or a decoder, that counts its calls, and remembers what it was given first."""

    def __init__(self, call: Callable[..., Any]):
        self.call, self.calls, self.given = call, 0, tuple[Any, ...]()

    def __call__(self, *given: Any) -> Any:
        self.calls += 1
        self.given = self.given or given
        return self.call(*given)

    @torch.inference_mode()
    def bare(self) -> Any:
        return self.call(*self.given)


@dataclass(frozen=True)
class Watched:
    """A stack whose networks count their calls, by the stage that calls them."""

    stack: Stack
    networks: dict[str, Counted]

    @classmethod
    def of(cls, stack: Stack) -> "Watched":
        held: dict[str, Counted] = {}
        between, upsampler, decoder = stack.interpolation, stack.upsampler, stack.temporal_decoder
        denoisers = {
            "start frame": stack.image,
            "keyframes": stack.keyframes,
            "interpolation": between.denoiser if between else None,
            "upsample": upsampler.denoiser if upsampler else None,
        }
        for name, denoiser in denoisers.items():
            if denoiser is not None:
                held[name] = denoiser.network = Counted(denoiser.network)
        if decoder is not None:
            held["decode"] = Counted(decoder.decode)
            return cls(replace(stack, temporal_decoder=replace(decoder, decode=held["decode"])), held)
        held["decode"] = Counted(stack.decode)
        return cls(replace(stack, decode=held["decode"]), held)

    def called(self) -> dict[str, int]:
        return {name: network.calls for name, network in self.networks.items() if network.calls}


@dataclass(frozen=True)
class Taken:
    """Of one rollout: processor seconds of the thread that calls the networks, and of the whole process; by stage what
    run.json tells, in the same kind of seconds; frames, and the most bytes that the process held."""

    own: float
    whole: float
    stages: dict[str, float]
    frames: int
    peak: int


def rolled(stack: Stack, settings: RolloutConfig, seconds: float, fps: str, **more: Any) -> Taken:
    """A rollout from a generated start frame, as ``drivesim generate`` makes it."""
    scenario = Scenario(opening=Opening(generate=Labels()), seconds=seconds, fps=fps, **more)
    with tempfile.TemporaryDirectory() as folder, processor_seconds():
        rollout = engine.prepare(stack, scenario, 1, settings)
        out = Path(folder) / "run"
        begin = time.thread_time(), time.process_time()
        engine.roll(rollout, out, export=())
        own, whole = time.thread_time() - begin[0], time.process_time() - begin[1]
        told = json.loads((out / "run.json").read_text())
    return Taken(own, whole, told["seconds"], rollout.plan.total, told["peak_bytes"])


@contextmanager
def processor_seconds() -> Iterator[None]:
    """Within the block run.json's seconds are those of the processor, of the thread that asks."""
    before, time.perf_counter = time.perf_counter, time.thread_time
    try:
        yield
    finally:
        time.perf_counter = before


def thread_seconds(call: Call) -> float:
    begin = time.thread_time()
    call()
    return time.thread_time() - begin


def loop(name: str, seconds: float, fps: str, rounds: int) -> Row:
    """A rollout beside the calls that it makes, each as often as it makes them."""
    watched = Watched.of(stacks.load(tiny.FOLDER, precision="32"))
    settings = RolloutConfig()
    frames = rolled(watched.stack, settings, seconds, fps).frames  # warms up, and counts
    calls = watched.called()
    pairs, wholes = [], []
    for _ in range(rounds):
        bare = {stage: list[float]() for stage in calls}
        for stage in calls:
            bare[stage] += [thread_seconds(watched.networks[stage].bare) for _ in range(3)]
        taken = rolled(watched.stack, settings, seconds, fps)
        for stage in calls:
            bare[stage] += [thread_seconds(watched.networks[stage].bare) for _ in range(3)]
        need = sum(count * statistics.median(bare[stage]) for stage, count in calls.items())
        pairs.append((taken.own, need))
        wholes.append(taken.whole / need)
    told = ", ".join(f"{count} {stage}" for stage, count in calls.items())
    words = f"{frames} frames: {pairs[-1][0]:.2f} s for calls of {pairs[-1][1]:.2f} s ({told})"
    words += f"; with the thread that encodes {statistics.median(wholes):.3f}"
    return ratio(name, f"a rollout's time over its calls, {fps} fps", pairs, LIMITS["loop"], False, words)


def lengths(name: str, seconds: float, fps: str) -> Row:
    """Peak bytes of a process at ten times the length, each in a process of its own."""
    peaks = [_child("peak", str(length), fps)["peak"] for length in (seconds, 10 * seconds)]
    told = f"{seconds:g} s {peaks[0] / 2**20:.0f} MiB, {10 * seconds:g} s {peaks[1] / 2**20:.0f} MiB"
    pairs = [(float(peaks[1]), float(peaks[0]))]
    return ratio(name, f"peak memory at ten times the length, {fps} fps", pairs, LIMITS["memory"], False, told)


def _child(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, "child", *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# --- clips ------------------------------------------------------------------------------------------------------------


def footage(file: Path, gop: int, frames: np.ndarray) -> None:
    """H.264 with B-frames, some of which others refer to, as cameras and phones write it."""
    with av.open(str(file), mode="w") as container:
        options = {"g": str(gop), "bf": "3", "crf": "20", "preset": "medium", "threads": "1", "sc_threshold": "0"}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def street(seconds: float) -> np.ndarray:
    """The rendered world with a sensor's grain: ``T 512 1024 3``."""
    frames = drive(1000, seconds, RATE, SIZE)[0].frames
    draw = np.random.default_rng(0)
    grain = draw.normal(0, 3, (8, *SIZE, 1)).astype(np.float32)
    return np.stack([np.clip(f + grain[n % 8], 0, 255).astype(np.uint8) for n, f in enumerate(frames)])


def ours(file: Path, first: int, count: int = CLIP) -> np.ndarray:
    return video.read(file, fps=RATE, start=first / RATE, frames=count).frames


def plain(file: Path, first: int, count: int = CLIP) -> np.ndarray:
    """PyAV as its documentation has it: seek to the key-frame before, decode up to the clip, convert its frames."""
    upright, found = Upright(file), list[np.ndarray]()
    with av.open(str(file)) as container:
        stream: Any = container.streams.video[0]
        stream.codec_context.thread_type = "NONE"  # with threads it takes more processor time, not less
        at = int(first / RATE / stream.time_base)
        container.seek(at, stream=stream)
        for frame in container.decode(stream):
            if frame.pts >= at:
                found.append(upright(frame))
            if len(found) == count:
                break
    return np.stack(found)


def opencv(file: Path, first: int) -> np.ndarray:
    capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    capture.set(cv2.CAP_PROP_POS_FRAMES, first)
    found = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB) for _ in range(CLIP)]
    capture.release()
    return np.stack(found)


def clips(gop: int) -> Callable[[int], list[Row]]:
    def rows(rounds: int) -> list[Row]:
        cv2.setNumThreads(1)
        draw = np.random.default_rng(7)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "street.mp4"
            footage(file, gop, street(17.0))
            truth = video.read(file, frames=(count := video.probe(file).frames)).frames
            starts = [draw.integers(0, count - CLIP, CLIPS).tolist() for _ in range(rounds)]
            for first in starts[0]:
                wanted = truth[first : first + CLIP]
                for reader in (ours, plain):
                    if not np.array_equal(reader(file, first), wanted):
                        sys.exit(f"clips-{gop}: {reader.__name__} gives other frames from {first} on")
                if np.abs(opencv(file, first).astype(int) - wanted).mean() > 3:  # its colours are rounded otherwise
                    sys.exit(f"clips-{gop}: OpenCV gives other frames from {first} on")
            spent = [[_each(reader, file, some) for reader in (ours, plain, opencv)] for some in starts]
        speeds = ", ".join(
            f"{reader.__name__} {CLIPS / statistics.median(column):.2f}"
            for reader, column in zip((ours, plain, opencv), zip(*spent, strict=True), strict=True)
        )
        told = f"clips of 16 frames of 512x1024 a processor second: {speeds}; the same frames"
        found = []
        for n, peer in ((1, "pyav"), (2, "opencv")):
            pairs = [(row[n], row[0]) for row in spent]
            what = f"random clips, GOP {gop}, against {'PyAV' if n == 1 else 'OpenCV'}"
            found.append(ratio(f"clips-{gop}", what, pairs, LIMITS[peer], True, told))
        return found

    return rows


def _each(reader: Callable[[Path, int], np.ndarray], file: Path, starts: list[int]) -> float:
    begin = time.process_time()
    for first in starts:
        reader(file, first)
    return time.process_time() - begin


def latents(rounds: int) -> list[Row]:
    """Clips of a cache against the same from a video, read as PyAV does and as we do: 8 frames of 512x1024, which are
    1 MiB of halves."""
    frames, cells = 8, (8, 64, 128)
    draw = np.random.default_rng(3)
    about = About("0" * 64, "0" * 64, SIZE, str(RATE), 1, "32", cells)
    with tempfile.TemporaryDirectory() as folder:
        file, cache = Path(folder) / "street.mp4", Path(folder) / "cache"
        cache.mkdir()
        footage(file, 30, street(6.0))
        with LatentWriter(cache, about) as writer:
            for n in range(8):
                moments = draw.normal(size=(128, *cells)).astype(np.float32)
                writer.add(_entry(file, n), moments, RATE, Fraction(0))
        held = LatentCache.open(cache)
        drawn = draw.integers(0, (8, 120), (400, 2)).tolist()
        places = [(held.sequences.place(n), first) for n, first in drawn]
        spent = []
        for _ in range(rounds):
            starts = draw.integers(0, 170, CLIPS).tolist()
            decoded = (_each(partial(reader, count=frames), file, starts) / CLIPS for reader in (plain, ours))
            spent.append((*decoded, _cached(held, places, frames)))
    by_pyav, by_ours, cached = (1 / statistics.median(column) for column in zip(*spent, strict=True))
    told = f"{cached:.0f} of 1 MiB a processor second; of the video {by_pyav:.1f} by PyAV, {by_ours:.1f} by ours"
    told += f", {cached / by_ours:.0f} times that"
    pairs = [(row[0], row[2]) for row in spent]
    return [ratio("latents", "random clips of latents against PyAV's of video", pairs, LIMITS["latents"], True, told)]


def _cached(cache: LatentCache, places: list[tuple[Place, int]], frames: int) -> float:
    begin = time.process_time()
    for place, first in places:
        cache.read(place, first, frames)
    return (time.process_time() - begin) / len(places)


def _entry(file: Path, n: int) -> Entry:
    size = file.stat().st_size
    return Entry(f"{n:064x}", file.name, str(file.parent), size, "d", 128, *SIZE[::-1], 0, 30, 1, False, 128 / 30)


def killed(rounds: int) -> list[Row]:
    """What a writer leaves that is killed with kill -9."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, __file__, "child", "written", folder])
        if done.returncode != -signal.SIGKILL:
            sys.exit(f"killed: the writer was not killed, it ended with {done.returncode}")
        (part,) = Path(folder).glob(".*.part")
        with av.open(str(part)) as container:
            found = sum(1 for _ in container.decode(video=0))
    gop = round(RATE)
    least = KILLED - gop - 10
    told = f"killed behind frame {KILLED} of 512x1024, GOP {gop}"
    return [Row("killed", "frames that can be decoded", found, found, found, f">= {least}", found >= least, told)]


def child(words: list[str]) -> None:
    """What is measured in a process of its own."""
    if words[0] == "written":
        frame = (np.random.default_rng(0).random((*SIZE, 3)) * 60).astype(np.uint8)
        with video.Writer(Path(words[1]) / "a.mp4", SIZE, RATE) as writer:
            for n in range(KILLED):
                writer.write(np.roll(frame, n, axis=1)[None])
            os.kill(os.getpid(), signal.SIGKILL)
    taken = rolled(stacks.load(tiny.FOLDER, precision="32"), RolloutConfig(), float(words[1]), words[2])
    print(json.dumps({"peak": taken.peak}))


GOALS: dict[str, Callable[[int], list[Row]]] = {
    "loop-keys": lambda rounds: [loop("loop-keys", 24.0, "15/8", rounds)],
    "loop-all": lambda rounds: [loop("loop-all", 2.0, "30", rounds)],
    "memory-keys": lambda rounds: [lengths("memory-keys", 8.0, "15/8")],
    "memory-all": lambda rounds: [lengths("memory-all", 2.0, "30")],
    "clips-30": clips(30),
    "clips-250": clips(250),
    "latents": latents,
    "killed": killed,
}


def goals(args: argparse.Namespace) -> list[Row]:
    found = []
    print("| what | ratio (quartiles) | goal | met | |")
    print("|---|---|---|---|---|")
    for name in args.rows or GOALS:
        for row in GOALS[name](args.rounds):
            found.append(row)
            value = f"{row.value:.3g} ({row.low:.3g} to {row.high:.3g})"
            print(f"| {row.what} | {value} | {row.goal} | {'yes' if row.met else 'no'} | {row.told} |", flush=True)
    return found


# --- where the time goes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """A stage's part of a rollout; ``roof``: seconds of its operations at the speed of a matrix product in the run."""

    stage: str
    calls: int
    flop: int
    seconds: float
    roof: float


def shares(args: argparse.Namespace) -> list[Share]:
    """The stages of one rollout, each beside what its network calls would take at the speed of a matrix product."""
    folder = tiny.FOLDER if args.weights == "tiny" else Path(args.weights)
    watched = Watched.of(stacks.load(folder, precision="32"))
    settings = config.load(RolloutConfig, None, args.settings)
    rolled(watched.stack, settings, args.seconds, args.fps)  # warms up
    before = watched.called()
    taken = rolled(watched.stack, settings, args.seconds, args.fps)
    calls = {stage: count - before[stage] for stage, count in watched.called().items()}
    peak = matmul_peak()
    spent = {stage: 0.0 for stage in (*calls, *STAGES)}
    for stage, seconds in taken.stages.items():
        spent[stage.partition("-")[0]] = spent.get(stage.partition("-")[0], 0.0) + seconds
    work = {stage: count * flops(watched.networks[stage].bare) for stage, count in calls.items()}
    work["keyframes"] += work.pop("start frame", 0)  # they are one stage
    calls["keyframes"] += calls.pop("start frame", 0)
    rows = [
        Share(stage, calls.get(stage, 0), work.get(stage, 0), spent[stage], work.get(stage, 0) / peak)
        for stage in STAGES
        if spent[stage] > 0
    ]
    whole, frames = sum(row.seconds for row in rows), taken.frames
    print(f"{frames} frames, {taken.own:.1f} s of the rollout's thread: {frames / taken.own:.2f} frames/s; ", end="")
    print(f"{taken.peak / 2**20:.0f} MiB at the peak; matmul peak of this run {peak / 1e9:.0f} GFLOP/s")
    print("| stage | network calls | TFLOP | seconds | share | roofline time | of the peak |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        network = f"{row.calls} | {row.flop / 1e12:.3f}" if row.flop else " | "
        told = f"{row.roof:.2f} s | {row.roof / row.seconds:.2f}" if row.flop else " | "
        print(f"| {row.stage} | {network} | {row.seconds:.2f} | {row.seconds / whole:.0%} | {told} |", flush=True)
    return rows


STAGES = ("keyframes", "interpolation", "decode", "fill", "upsample", "write")


def matmul_peak() -> float:
    """Operations a second of this thread, the median of nine products."""
    left, right = (torch.randn(PEAK_SIDE, PEAK_SIDE) for _ in range(2))
    return 2 * PEAK_SIDE**3 / statistics.median(thread_seconds(lambda: left @ right) for _ in range(9))


# --- how the work grows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Growth:
    """Seconds and bytes at each of some sizes ``x``."""

    name: str
    x: tuple[float, ...]
    seconds: tuple[float, ...]
    bytes: tuple[float, ...]

    def exponents(self) -> tuple[float, float]:
        """Of seconds and of bytes: the slopes of straight lines through the logarithms, by least squares."""
        log = np.log(self.x)
        seconds, held = (float(np.polyfit(log, np.log(values), 1)[0]) for values in (self.seconds, self.bytes))
        return seconds, held


def growth(args: argparse.Namespace) -> list[Growth]:
    stack, settings = stacks.load(tiny.FOLDER, precision="32"), RolloutConfig()
    channels = stack.latent_shape[0]

    def of_frames(count: float) -> Call:
        return lambda: rolled(stack, settings, (count - 1) * 8 / 15, "15/8")

    def of_size(pixels: float) -> Call:
        height = round((pixels / 2) ** 0.5)
        resized = replace(stack, size=(height, 2 * height), latent_shape=(channels, height // 8, height // 4))
        return lambda: rolled(resized, settings, 8.0, "15/8")

    def of_boxes(count: float) -> Call:
        draw = np.random.default_rng(5)
        corners = draw.random((int(count), 2)) * (0.8, 0.6)
        boxes = [(x, y, x + 0.1, y + 0.1) for x, y in corners.tolist()]
        tracks = tuple(Track(n, "car", (Key(0.0, box), Key(9.0, box))) for n, box in enumerate(boxes))
        return lambda: rolled(stack, settings, 8.0, "15/8", boxes="tracks", tracks=tracks)

    watched = Watched.of(stacks.load(tiny.FOLDER, precision="32"))
    rolled(watched.stack, settings, 8.0, "15/8")
    network = watched.networks["keyframes"]

    def of_batch(count: float) -> Call:
        x, noise, told = network.given
        values = {field.name: getattr(told, field.name) for field in fields(told)}
        many = {k: None if v is None else torch.cat([v] * int(count)) for k, v in values.items()}
        given = torch.cat([x] * int(count)), torch.cat([noise] * int(count)), replace(told, **many)
        return Counted(lambda *_: network.call(*given)).bare

    found = [
        grown("frames, key-frames of 128x256", FRAMES, of_frames, args.rounds),
        grown("pixels a frame, 64x128 to 256x512", SIDES, of_size, args.rounds),
        grown("clips in a call of the key-frames' network", BATCHES, of_batch, args.rounds),
        grown("boxes a frame", BOXES, of_boxes, args.rounds),
    ]
    for row in found:
        slopes = row.exponents()
        span, taken = f"{row.x[0]:g} to {row.x[-1]:g}", f"{row.seconds[0]:.2f} to {row.seconds[-1]:.2f} s"
        held = f"{row.bytes[0] / 2**20:.0f} to {row.bytes[-1] / 2**20:.0f} MiB"
        print(f"| {row.name} | {span} | {taken} | {slopes[0]:.2f} | {held} | {slopes[1]:.2f} |", flush=True)
    if args.plot:
        plotted(found, args.plot)
    return found


FRAMES, BATCHES, BOXES = (8.0, 16.0, 31.0, 61.0), (1.0, 2.0, 4.0, 8.0), (1.0, 4.0, 16.0, 64.0)
SIDES = tuple(2.0 * side**2 for side in (64, 96, 128, 192, 256))


def grown(name: str, sizes: tuple[float, ...], make: Callable[[float], Call], rounds: int) -> Growth:
    """``make`` of every size is called in turn; the least seconds, and the most bytes on top of what was there."""
    calls, device = [make(size) for size in sizes], torch.device("cpu")
    spent, held = [list[float]() for _ in sizes], [0.0 for _ in sizes]
    for _ in range(rounds):
        for n, call in enumerate(calls):
            memory.hand_back()
            before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            with memory.measured(device) as piece:
                spent[n].append(thread_seconds(call))
            held[n] = max(held[n], float((piece.peak or 0) - before))
    return Growth(name, sizes, tuple(map(min, spent)), tuple(held))


def plotted(found: list[Growth], file: Path) -> None:
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots(2, len(found))
    for column, row in enumerate(found):
        measured = ((row.seconds, "seconds of one thread"), (tuple(b / 2**20 for b in row.bytes), "MiB on top"))
        for axis, (values, unit), slope in zip(axes[:, column], measured, row.exponents(), strict=True):
            axis.loglog(row.x, values, "o-", base=2)
            axis.set_title(f"{row.name}\n^{slope:.2f}", fontsize=9)
            axis.set_ylim(min(values) / 4, max(values) * 4)
            axis.set_ylabel(unit)
            axis.grid(True, alpha=0.3)
    figure.savefig(file, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    rows = commands.add_parser("goals", help="ratios beside their goals")
    rows.add_argument("rows", nargs="*", help=f"of {', '.join(GOALS)} (default: all)")
    rows.add_argument("--rounds", type=int, default=5)
    split = commands.add_parser("shares", help="where a rollout's time goes, beside the roofline")
    split.add_argument("weights")
    split.add_argument("settings", nargs="*", metavar="key=value")
    split.add_argument("--seconds", type=float, default=4.0)
    split.add_argument("--fps", default="30")
    grows = commands.add_parser("growth", help="time and memory against frames, pixels, clips and boxes")
    grows.add_argument("--plot", type=Path)
    grows.add_argument("--rounds", type=int, default=2)
    commands.add_parser("child").add_argument("words", nargs="*")
    for command in (rows, split, grows):
        command.add_argument("--json", type=Path)
    args = parser.parse_args(sys.argv[1:] or ["goals"])
    torch.set_num_threads(1)
    memory.keep()
    if args.command == "child":
        child(args.words)
        return
    if args.command == "goals" and (unknown := [name for name in args.rows if name not in GOALS]):
        parser.error(f"no row '{unknown[0]}'")
    commanded: dict[str, Callable[[argparse.Namespace], list[Any]]] = {
        "goals": goals,
        "shares": shares,
        "growth": growth,
    }
    found = commanded[args.command](args)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        told = [asdict(row) for row in found]
        args.json.write_text(json.dumps({"torch": torch.__version__, args.command: told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
