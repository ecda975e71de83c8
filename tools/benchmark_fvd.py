"""``drivesim evaluate`` beside its peers: the same clips, weights and process, in turns, as a table.

    pip install --no-deps --target build/peers cd-fvd==0.1.1 torchvision==0.20.1 requests tqdm
    python tools/benchmark_fvd.py --parts all --out docs/evaluation-benchmarks.md

cd-fvd reads video through a part of torchvision that later releases dropped, and pip's torchvision does not fit a
CPU torch: ``import_cdfvd`` lets just that part be imported. The peers' own code runs unchanged. What else is needed
(scipy, torchmetrics) comes with ``pip install -e .[test]``. A peer that is missing is a line in the table.

Weights are I3D's golden ones (random), of the shared bundle, or any file in piergiaj's layout by ``--weights``: the
time does not depend on them. Clips are cut from the bundle's real ones, or from the rendered world where it is absent.
Nothing is downloaded: cd-fvd would, but it is given the file.

Times are medians of processor time, children included; a ratio is the median of the rounds' own ratios, each round
running every contestant once. On a busy machine ratios hold, and wall clocks mean little.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's and scipy's: read when they are loaded

import argparse
import contextlib
import importlib.util
import io
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from fractions import Fraction
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivesim import disk, randomness
from drivesim.data import video
from drivesim.data.gather import gather
from drivesim.metrics import protocols, resize
from drivesim.metrics.builtin import BuiltinFrames
from drivesim.metrics.features import Extractor
from drivesim.metrics.frechet import Gaussian, distance_of
from drivesim.metrics.fvd import FrechetVideoDistance
from drivesim.metrics.i3d import I3D
from drivesim.metrics.measure import Cache, Ruler, clips, measure
from drivesim.metrics.survey import Probes, Side, survey
from drivesim.world import render

ROOT = Path(__file__).resolve().parent.parent
REAL = ("cosmos_multiview/videos", "nvidia_clips", "udacity_carnd")  # the bundle's folders of camera footage
SIZE, FRAMES, FPS = (512, 1024), 16, Fraction(30)
SHORT, SHORT_FPS = (64, 128), Fraction(15)
FEW, MANY = 64, 2048  # videos, half of them on each side
Precision = Literal["32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("32", "bf16")
GFLOP = 55.6  # of I3D, 16 frames: 27.8 G multiply-adds
TITLES = {
    "equality": "The same score from the same clips and weights",
    "i3d": "I3D",
    "resize": "Resizing 16 frames of 512x1024",
    "features": "From a folder of mp4 to features",
    "distance": "The distance, from features at hand",
    "command": "The whole command, from two folders to a score",
    "memory": "Peak memory",
}

NOTES = {
    "equality": "Real clips, random weights. Few clips have singular covariances, where `sqrtm` errs.",
    "i3d": "Input at hand; the public module is cd-fvd's.",
    "features": "cd-fvd loads in this process (`num_workers=0`), but scans the folder in four others, as it comes.",
    "distance": "Where N > d all start from means and covariances; where N <= d ours starts from features, the others\n"
    "from covariances. `sqrtm` turns complex, and takes half as long again, where a covariance is nearly singular:\n"
    "two spectra are shown. Errors are relative, to the nuclear norm of the features; the peer's is `sqrtm`'s.",
    "command": "Each is started anew, imports included; cd-fvd as its README has it. With so few videos a good part\n"
    "of a run is its start, which is the time of the second run.",
    "memory": "Single runs, which differ by a few per cent from one another.",
}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        goal: as it is written, ``>= 3`` or ``<= 0.001``; empty = none was set.
        figure: what is held against it; ``shown`` as it is written.
    """

    part: str
    what: str
    peer: str = ""
    ours: str = ""
    shown: str = ""
    goal: str = ""
    figure: float | None = None

    @property
    def met(self) -> str:
        if not self.goal or self.figure is None:
            return ""
        sign, limit = self.goal.split()
        return "yes" if (self.figure >= float(limit) if sign == ">=" else self.figure <= float(limit)) else "**no**"


# --- time -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Laps:
    """Seconds of processor and of wall clock, a value a round."""

    cpu: list[float]
    wall: list[float]

    def over(self, other: "Laps", clock: str = "cpu") -> float:
        """How many times as long as ``other`` this took."""
        return statistics.median(a / b for a, b in zip(getattr(self, clock), getattr(other, clock), strict=True))

    def text(self, per: int = 1) -> str:
        return _seconds(statistics.median(self.cpu) / per)


def spent() -> float:
    """Processor seconds of this process and of the children that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in used)


def race(runners: dict[str, Callable[[], Any]], rounds: int, threads: int = 1, warm: bool = True) -> dict[str, Laps]:
    """Runs all in turns, ``rounds`` times, after one that is not counted."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    laps = {name: Laps([], []) for name in runners}
    for turn in range(rounds + warm):
        for name, run in runners.items():
            cpu, wall = spent(), time.perf_counter()
            run()
            cpu, wall = spent() - cpu, time.perf_counter() - wall
            if turn >= warm:
                laps[name].cpu.append(cpu)
                laps[name].wall.append(wall)
    return laps


def child(argv: list[str]) -> tuple[float, float, int, str]:
    """(processor seconds, wall seconds, peak bytes, output) of a command run to its end.

    A small process stands between: the kernel counts the memory of who forked as the child's.
    """
    before = time.perf_counter()
    found = subprocess.run([sys.executable, "-c", BETWEEN, *argv], cwd=ROOT, capture_output=True, text=True)
    wall = time.perf_counter() - before
    if found.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {found.returncode}:\n{found.stderr[-2000:]}")
    *output, cpu, peak = found.stdout.splitlines()
    return float(cpu), wall, int(peak) * 1024, "\n".join(output)


BETWEEN = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss, sep="\\n")
sys.exit(code)
"""


# --- peers ------------------------------------------------------------------------------------------------------------


def import_cdfvd(folder: Path) -> types.ModuleType | None:
    """``cdfvd.fvd`` with all that it needs, or None where it is not installed.

    torchvision's ``__init__`` stops without its compiled operators, so that an empty package stands in its place, with
    the same folder: ``torchvision.io`` and ``datasets.video_utils`` (PyAV's half) and ``transforms`` are its own files.
    PyAV since renamed the error that they catch.
    """
    if folder.is_dir():
        sys.path.append(str(folder))  # behind everything: the project's own versions win
    own, peer = (importlib.util.find_spec(name) for name in ("torchvision", "cdfvd"))
    if own is None or peer is None:
        return None
    assert own.submodule_search_locations is not None
    place = next(iter(own.submodule_search_locations))
    if not (Path(place) / "io" / "video.py").is_file():
        return None
    import av

    for name in ("torchvision", "torchvision.datasets"):
        module = types.ModuleType(name)
        module.__path__ = [str(Path(place, *name.split(".")[1:]))]
        sys.modules[name] = module
    vars(sys.modules["torchvision"])["get_video_backend"] = lambda: "pyav"
    if not hasattr(av, "AVError"):
        vars(av)["AVError"] = av.FFmpegError
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import cdfvd.fvd
            import cdfvd.utils.data_utils
        except ImportError as problem:
            print(f"cd-fvd cannot be imported: {problem}", file=sys.stderr)
            return None
    return cdfvd


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Peers print and draw bars."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def peer_score(peer: types.ModuleType, weight_file: Path, real: Path, generated: Path) -> float:
    """cd-fvd's README, with its own settings but for the number of videos: by default it would draw a few of them over
    and over until it has 2048."""
    evaluator = peer.fvd.cdfvd("i3d", n_real="full", n_fake="full", ckpt_path=str(weight_file), device="cpu")
    evaluator.compute_real_stats(evaluator.load_videos(str(real), data_type="video_folder"))
    evaluator.compute_fake_stats(evaluator.load_videos(str(generated), data_type="video_folder"))
    return float(evaluator.compute_fvd_from_stats())


class Public(nn.Module):
    """The public I3D module and its preparation, as cd-fvd has them: uint8 ``B T H W 3`` to ``B 400``."""

    num_features = 400

    def __init__(self, peer: types.ModuleType, weight_file: Path):
        super().__init__()
        self.prepare = peer.fvd.preprocess_i3d
        with quiet():
            self.network = peer.fvd.load_i3d_model(torch.device("cpu"), str(weight_file))

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        return self.network(self.prepare(clips.numpy()))


class Ours(nn.Module):
    """Our I3D as torchmetrics takes a network of one's own."""

    num_features = 400

    def __init__(self, extractor: Extractor):
        super().__init__()
        self.extractor = extractor

    def forward(self, clips: Tensor) -> Tensor:
        return self.extractor(torch.from_numpy(np.stack([self.extractor.prepare(clip) for clip in clips.numpy()])))


# --- what all parts share ---------------------------------------------------------------------------------------------


class Bench:
    """The peers, the weights, and the clips as files, made when they are first asked for.

    Args:
        place: folder for what is made; ``videos`` a side; ``rounds`` of every race.
    """

    def __init__(self, place: Path, shared: Path, peers: Path, given: Path | None, videos: int, rounds: int):
        self.place, self.shared, self.peers, self.given = place, shared, peers, given
        self.videos, self.rounds = videos, rounds
        self.cdfvd = import_cdfvd(peers)

    @cached_property
    def weights(self) -> Path:
        """I3D's, in piergiaj's layout."""
        if self.given is not None:
            return self.given
        spec = importlib.util.spec_from_file_location("golden", ROOT / "tests" / "metrics" / "golden.py")
        assert spec is not None and spec.loader is not None
        golden = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(golden)
        if not (self.shared / "reference" / "i3d-golden").is_dir():
            raise SystemExit(f"no i3d-golden in {self.shared}/reference: name a public weight file with --weights")
        values = golden.maker(self.shared).weights()
        torch.save(golden.tensors(values, "piergiaj"), self.place / "i3d.pt")
        return self.place / "i3d.pt"

    @cached_property
    def folders(self) -> tuple[Path, Path]:
        """Folders ``real`` and ``generated`` with ``videos`` H.264 files each, 16 frames of 512x1024, of other drives.

        Exactly 16 frames, so that cd-fvd's draw of a clip from each is determined.
        """
        places = [self.shared / "data" / "permissive" / name for name in REAL]
        sources = [source for place in places if place.is_dir() for source in gather(place)]
        if not sources:
            print("no real clips: rendered ones are taken", file=sys.stderr)
        for side, folder in enumerate(("real", "generated")):
            for n, frames in enumerate(islice(_cuts(sources[side::2], side), self.videos)):
                with video.Writer(self.place / folder / f"{folder}-{n:03d}.mp4", SIZE, FPS) as writer:
                    writer.write(frames)
        return self.place / "real", self.place / "generated"

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The same clips decoded, uint8 ``N T 256 512 3``."""
        half = (SIZE[0] // 2, SIZE[1] // 2)
        sides = ([video.read(s.file, frames=FRAMES, size=half).frames for s in gather(place)] for place in self.folders)
        real, generated = (np.stack(side) for side in sides)
        return real, generated

    def i3d(self, protocol: str, precision: Precision = "32") -> I3D:
        preset = protocols.PROTOCOLS[protocol]
        return I3D(self.weights, resize=preset.resize, epsilon=preset.epsilon, precision=precision)

    def fresh(self, name: str) -> Path:
        """An empty folder."""
        shutil.rmtree(self.place / name, ignore_errors=True)
        return self.place / name

    def forget(self) -> None:
        """Removes what cd-fvd writes into the folders that it reads, so that it starts like the first time."""
        for folder in self.folders:
            for file in folder.glob("metadata_*.pkl"):
                file.unlink()

    @cached_property
    def commands(self) -> dict[str, tuple[float, float, float]]:
        """(processor seconds, wall seconds, FVD) of whole commands on the same two folders."""
        real, generated = map(str, self.folders)
        found = {}
        if self.cdfvd is not None:
            self.forget()
            own = [sys.executable, __file__, "--peer-score", real, generated, "--weights", str(self.weights)]
            for name in ("cd-fvd", "cd-fvd again"):
                cpu, wall, _, text = child([*own, "--peers", str(self.peers.resolve())])
                found[name] = (cpu, wall, float(text.split()[-1]))
            self.forget()
        base = [sys.executable, "-m", "drivesim.cli", "evaluate", real, generated, "--protocol", "cdfvd-i3d"]
        base += ["--extractor", str(self.weights), "--json", str(self.place / "score.json")]
        kinds = {
            "ours": (["--cache", str(self.fresh("cache"))]),
            "ours again": (["--cache", str(self.place / "cache")]),
            "ours, --no-controls": ["--no-controls", "--cache", str(self.fresh("bare"))],
            "ours, --no-controls bf16": ["--no-controls", "--precision", "bf16", "--cache", str(self.fresh("half"))],
        }
        for name, more in kinds.items():
            cpu, wall, *_ = child([*base, *more])
            found[name] = (cpu, wall, json.loads((self.place / "score.json").read_text())[0]["value"])
        return found


def _cuts(sources: list[Any], side: int) -> Iterator[np.ndarray]:
    """Clips uint8 ``16 512 1024 3``: the first of every source, then the second of every source, and so on."""
    if not sources:
        for seed in range(side, 1 << 20, 2):
            yield render(seed, FRAMES / FPS, FPS, SIZE).frames
    streams = [video.stream(source.file, size=SIZE, chunk=FRAMES) for source in sources]
    while streams:
        for stream in list(streams):
            clip = next(stream, None)
            if clip is None or len(clip.frames) < FRAMES:
                streams.remove(stream)
            else:
                yield clip.frames


# --- the parts --------------------------------------------------------------------------------------------------------


def equality(bench: Bench) -> Iterator[Row]:
    """FVD by us and by others."""
    real, generated = bench.arrays
    torch.set_num_threads(os.cpu_count() or 1)

    def ours(protocol: str, sides: tuple[np.ndarray, np.ndarray]) -> float:
        metric = FrechetVideoDistance(bench.i3d(protocol), protocols.PROTOCOLS[protocol].ddof)
        for side, is_real in zip(sides, (True, False), strict=True):
            for clip in side:
                metric.update(torch.from_numpy(clip[None]), real=is_real)
        return float(metric.compute())

    def row(what: str, theirs: float, own: float) -> Row:
        apart = abs(own - theirs) / theirs
        return Row("equality", what, f"{theirs:.6g}", f"{own:.6g}", f"{apart:.1e}", "<= 0.001", apart)

    if bench.cdfvd is None:
        yield Row("equality", "cd-fvd", "not installed")
    else:
        sides = (real[:, :, :, 128:384], generated[:, :, :, 128:384])
        with quiet():
            evaluator = bench.cdfvd.fvd.cdfvd("i3d", n_fake="full", ckpt_path=str(bench.weights), device="cpu")
            theirs = float(evaluator.compute_fvd(*sides))
        yield row("`cdfvd-i3d`, arrays of 256x256, against cd-fvd's `compute_fvd`", theirs, ours("cdfvd-i3d", sides))
        theirs, own = bench.commands["cd-fvd"][2], bench.commands["ours"][2]
        yield row("`cdfvd-i3d`, folders of mp4, against cd-fvd's `load_videos`", theirs, own)
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError:
        yield Row("equality", "torchmetrics", "not installed")
        return
    metric = FrechetInceptionDistance(Ours(bench.i3d("paper")), input_img_size=(FRAMES, *real.shape[2:]))
    for side, is_real in ((real, True), (generated, False)):
        for clip in side:
            metric.update(torch.from_numpy(clip[None]), real=is_real)
    what = "`paper` (covariance over N - 1), against torchmetrics' `FrechetInceptionDistance(feature=I3D)`"
    yield row(what, float(metric.compute()), ours("paper", (real, generated)))


def i3d(bench: Bench) -> Iterator[Row]:
    """The network alone, prepared input at hand."""
    if bench.cdfvd is None:
        yield Row("i3d", "public module", "not installed")
        return
    public, own, half = (
        Public(bench.cdfvd, bench.weights), bench.i3d("cdfvd-i3d"), bench.i3d("cdfvd-i3d", "bf16")
    )  # fmt: skip
    frames = [video.read(source.file, frames=FRAMES).frames for source in gather(bench.folders[0])[:4]]
    prepared = torch.from_numpy(np.stack([resize.bilinear(clip) for clip in frames]))
    square = torch.rand(2048, 2048)
    for batch, threads, goal in ((1, 1, 1.7), (4, 1, 1.7), (1, 2, 1.7), (4, 2, 2.0)):
        x = prepared[:batch]
        theirs = rearrange(x * (2 / 255) - 1, "b t h w c -> b c t h w").contiguous()
        runners: dict[str, Callable[[], Any]] = {
            "public": partial(public.network, theirs),
            "32": partial(own, x),
            "bf16": partial(half, x),
            "matmul": partial(torch.matmul, square, square),
        }
        with torch.no_grad():
            laps = race(runners, bench.rounds, threads)
        clock = "cpu" if threads == 1 else "wall"
        for name, word, limit in (("32", "float32", goal), ("bf16", "bfloat16", 3.5)):
            ratio = laps["public"].over(laps[name], clock)
            peer, mine = (_seconds(statistics.median(getattr(laps[n], clock)) / batch) for n in ("public", name))
            what = f"{word}, batch {batch}, {threads} thread{'s' * (threads > 1)} ({clock}, a clip)"
            yield Row("i3d", what, peer, mine, f"{ratio:.2f}x", f">= {limit}", ratio)
        if (batch, threads) == (4, 1):
            share = batch * GFLOP * 1e9 / (2 * 2048**3) * laps["matmul"].over(laps["32"])
            what = "float32, batch 4, 1 thread: operations a second, over those of a product of 2048x2048 matrices"
            yield Row("i3d", what, "", "", f"{share:.2f}")
    with torch.no_grad():
        wanted = public.network(theirs)
    error = float((own(prepared) - wanted).abs().max() / wanted.abs().max())
    yield Row("i3d", "float32: largest difference over largest feature", "", "", f"{error:.1e}", "<= 2e-6", error)
    error = float((half(prepared) - wanted).norm() / wanted.norm())
    yield Row(
        "i3d", "bfloat16: norm of the difference over norm of the features", "", "", f"{error:.1e}", "<= 5e-3", error
    )


def resizing(bench: Bench) -> Iterator[Row]:
    """A clip's frames to 224x224."""
    frames = video.read(gather(bench.folders[0])[0].file, frames=FRAMES).frames

    def interpolate() -> Tensor:
        x = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous().float()
        return F.interpolate(x, (224, 224), mode="bilinear", align_corners=False)

    runners: dict[str, Callable[[], Any]] = {
        "bilinear": lambda: resize.bilinear(frames),
        "interpolate": interpolate,
        "cdfvd": lambda: resize.cdfvd(frames),
    }
    if bench.cdfvd is not None:
        runners["chain"] = partial(_chain, bench.cdfvd, frames)
    laps = race(runners, 3 * bench.rounds)
    for peer, name, words, goal in (
        ("interpolate", "bilinear", "`bilinear` against torch's float `interpolate`", ">= 5"),
        ("chain", "bilinear", "`bilinear` against cd-fvd's chain (256 antialiased, crop, bytes, 224)", ">= 15"),
        ("chain", "cdfvd", "`cdfvd`, that same chain, against it", ""),
    ):
        if peer not in laps:
            yield Row("resize", words, "not installed", goal=goal)
            continue
        ratio = laps[peer].over(laps[name])
        yield Row("resize", words, laps[peer].text(), laps[name].text(), f"{ratio:.1f}x", goal, ratio)
    exact = F.interpolate(torch.from_numpy(frames).permute(0, 3, 1, 2).double(), (224, 224), mode="bilinear")
    error = float((torch.from_numpy(resize.bilinear(frames)).permute(0, 3, 1, 2) - exact).abs().max())
    yield Row("resize", "`bilinear`: largest error, in levels, of float64's", "", "", f"{error:.1e}", "<= 0.02", error)
    if bench.cdfvd is not None:
        theirs = rearrange(_chain(bench.cdfvd, frames)[0], "c t h w -> t h w c")
        apart = ((theirs + 1) * 127.5 - torch.from_numpy(resize.cdfvd(frames))).abs()
        shown = f"largest {apart.max():.2g}, mean {apart.mean():.1e}"
        yield Row("resize", "`cdfvd`: difference, in levels, to cd-fvd's chain", "", "", shown)


def _chain(peer: types.ModuleType, frames: np.ndarray) -> Tensor:
    """What cd-fvd does to a clip between decoding and the network."""
    loaded = peer.utils.data_utils.preprocess(torch.from_numpy(frames), 256)["video"][None]
    return peer.fvd.preprocess_i3d(rearrange(loaded * 255, "b c t h w -> b t h w c").byte().data.numpy())


def features(bench: Bench) -> Iterator[Row]:
    """A folder of mp4 through the data path, and through the network."""
    folder, count = bench.folders[0], bench.videos
    frame = BuiltinFrames()

    def ruler(protocol: str, precision: Precision) -> Ruler:
        network = bench.i3d(protocol, precision)
        return Ruler(protocols.PROTOCOLS[protocol], network, frame, False, 4, f"{precision} cpu")

    def looked(which: Ruler) -> tuple[Side, Path]:
        place = bench.fresh("features")
        return survey(gather(folder), which.protocol, Probes(place), os.cpu_count() or 1), place

    def whole(which: Ruler) -> None:
        side, place = looked(which)
        measure(side.videos, which, Cache(place, which), os.cpu_count() or 1, lambda n: None)

    def bare(which: Ruler, network: bool) -> None:
        side, _ = looked(which)
        prepared = (which.clip.prepare(f) for w in side.videos for _, f in clips(w, which.protocol))
        while batch := list(islice(prepared, which.batch)):
            if network:
                which.clip(torch.from_numpy(np.stack(batch)))

    rulers = {(p, n): ruler(p, n) for p in ("cdfvd-i3d", "styleganv") for n in PRECISIONS}
    runners: dict[str, Callable[[], Any]] = {}
    if (cdfvd := bench.cdfvd) is not None:
        with quiet():
            evaluator = cdfvd.fvd.cdfvd("i3d", n_fake="full", ckpt_path=str(bench.weights), device="cpu")

        def peer(network: bool) -> None:
            bench.forget()
            with quiet():
                loader = evaluator.load_videos(str(folder), data_type="video_folder", num_workers=0)
                if network:
                    evaluator.compute_real_stats(loader)
                    return evaluator.empty_real_stats()
                for batch in loader:
                    videos = rearrange(batch["video"] * 255, "b c t h w -> b t h w c").byte().data.numpy()
                    cdfvd.fvd.preprocess_i3d(videos)

        runners |= {"peer": lambda: peer(True), "peer data": lambda: peer(False)}
    for (protocol, precision), which in rulers.items():
        if precision == "32":
            runners[f"{protocol} data"] = partial(bare, which, False)
        runners[f"{protocol} {precision}"] = partial(bare, which, True)
        runners[f"{protocol} {precision} whole"] = partial(whole, which)
    laps = race(runners, max(2, bench.rounds // 2), warm=False)
    bench.forget()
    for protocol in ("cdfvd-i3d", "styleganv"):
        for name, words, goal in (
            ("data", "decoded and prepared only", ">= 3"),
            ("32", "float32", ">= 2.2"),
            ("32 whole", "float32, all of the pass: frames for FID, statistics, cache", ""),
            ("bf16", "bfloat16", ">= 4"),
            ("bf16 whole", "bfloat16, all of the pass", ""),
        ):
            own, words = laps[f"{protocol} {name}"], f"`{protocol}`, {words} (cpu, a clip)"
            if "peer" not in laps:
                yield Row("features", words, "not installed", own.text(count), goal=goal)
                continue
            other = laps["peer data" if name == "data" else "peer"]
            ratio = other.over(own)
            yield Row("features", words, other.text(count), own.text(count), f"{ratio:.2f}x", goal, ratio)


def distance(bench: Bench) -> Iterator[Row]:
    """Of N feature vectors a side: with all directions alike, and with deviations that fall, to a condition of 3e9.

    Where N > d all start from means and covariances. Where N <= d we start from the features, and the others from
    covariances that they are given for nothing.
    """
    try:
        import scipy.linalg
    except ImportError:
        yield Row("distance", "scipy's `sqrtm`", "not installed")
        return
    from torchmetrics.image.fid import _compute_fid

    def sqrtm(mu1: np.ndarray, s1: np.ndarray, mu2: np.ndarray, s2: np.ndarray) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root = scipy.linalg.sqrtm(s1 @ s2)
        return float(((mu1 - mu2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(np.real(root)))

    for d, n, power, goal in ((400, 2048, 1.5, 3), (1408, 2048, 0, 8), (1408, 2048, 1.5, 8), (1408, 512, 1.5, 10)):
        x, y = _drawn(d, n, power)
        moments = [(side.mean(0), np.cov(side, rowvar=False)) for side in (x, y)]
        flat = [part for side in moments for part in side]
        tensors, sides = [torch.from_numpy(part) for part in flat], (torch.from_numpy(x), torch.from_numpy(y))
        laps = race(
            {
                "ours": partial(distance_of, *sides) if n <= d else partial(_between, *moments),
                "sqrtm": partial(sqrtm, *flat),
                "torchmetrics": partial(_compute_fid, *tensors),
            },
            max(2, bench.rounds // 2) if d > 1000 else 3 * bench.rounds,
        )
        words = f"d = {d}, N = {n}, deviations {f'as 1 / k^{power}' if power else 'alike'}: "
        for peer, name in (("sqrtm", "scipy's `sqrtm`"), ("torchmetrics", "torchmetrics' `_compute_fid`")):
            ratio, limit = laps[peer].over(laps["ours"]), f">= {goal}" if peer == "sqrtm" else ""
            shown = f"{ratio:.1f}x"
            yield Row("distance", words + name, laps[peer].text(), laps["ours"].text(), shown, limit, ratio)
        # the nuclear norm of the features themselves: no covariance, no root
        a, b = ((side - side.mean(0)).T / (n - 1) ** 0.5 for side in (x, y))
        exact = (a**2).sum() + (b**2).sum() - 2 * np.linalg.svd(a.T @ b, compute_uv=False).sum()
        exact += ((moments[0][0] - moments[1][0]) ** 2).sum()
        errors = [abs(float(value) / exact - 1) for value in (sqrtm(*flat), distance_of(*sides))]
        theirs, own = (f"{error:.0e}" for error in errors)
        yield Row("distance", f"{words}error", theirs, own, "", "<= 1e-6", errors[1])


def _between(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    """Means and covariances, of which nothing is kept from round to round."""
    return Gaussian(*one).distance(Gaussian(*other))


def _drawn(d: int, n: int, power: float) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of ``n`` Gaussian vectors in the same random axes, the second shifted and a tenth wider."""
    drawn = randomness.generator("benchmark", "distance", d, n)
    axes = np.linalg.qr(drawn.standard_normal((d, d)))[0]
    deviations = np.arange(1, d + 1) ** -float(power)
    x, y = ((drawn.standard_normal((n, d)) * deviations) @ axes for _ in range(2))
    return x, 1.1 * y + 0.1 * deviations.mean()


def command(bench: Bench) -> Iterator[Row]:
    """Two folders to a score, imports and all."""
    found = bench.commands
    for name in [name for name in found if name.startswith("ours")]:
        peer = "cd-fvd again" if name == "ours again" else "cd-fvd"
        goal = {"ours, --no-controls": ">= 2.2", "ours, --no-controls bf16": ">= 4"}.get(name, "")
        words = {
            "ours": "as it comes: FVD, KVD, FID, floor, controls (3 passes of the real side), receipt",
            "ours again": "second run, features cached",
            "ours, --no-controls": "`--no-controls`",
            "ours, --no-controls bf16": "`--no-controls --precision bf16`",
        }[name]
        for clock in (0, 1):
            mine, words_ = found[name][clock], f"{words} ({('cpu', 'wall')[clock]})"
            if peer not in found:
                yield Row("command", words_, "not installed", _seconds(mine))
                continue
            ratio, limit = found[peer][clock] / mine, goal if clock == 0 else ""
            yield Row("command", words_, _seconds(found[peer][clock]), _seconds(mine), f"{ratio:.2f}x", limit, ratio)


def memory(bench: Bench) -> Iterator[Row]:
    """``drivesim evaluate`` on few and on many short videos."""
    contents = []
    for seed in range(FEW // 2):
        with video.Writer(bench.place / "short.mp4", SHORT, SHORT_FPS) as writer:
            writer.write(render(seed, FRAMES / SHORT_FPS, SHORT_FPS, SHORT).frames)
        contents.append((bench.place / "short.mp4").read_bytes())
    peaks = {}
    for count in (FEW, MANY):
        places = [bench.fresh(f"{side}-{count}") for side in ("real", "generated")]
        for side, place in enumerate(places):
            place.mkdir()
            for n in range(count // 2):  # an empty box of its own at the end: other bytes, the same video
                stamp = (side * MANY + n).to_bytes(8, "big")
                (place / f"{n:05d}.mp4").write_bytes(contents[n % len(contents)] + b"\0\0\0\x10free" + stamp)
        argv = [sys.executable, "-m", "drivesim.cli", "evaluate", *map(str, places), "--fps", str(SHORT_FPS)]
        *_, peaks[count], _ = child([*argv, "--cache", str(bench.fresh(f"cache-{count}"))])
        for place in places:
            shutil.rmtree(place)
        words = f"{count} videos, 16 frames of 64x128, `builtin-v1` with controls"
        yield Row("memory", words, "", f"{peaks[count] / 1e6:.0f} MB")
    growth, each = peaks[MANY] / peaks[FEW], (peaks[MANY] - peaks[FEW]) / (MANY - FEW)
    words = f"{MANY} over {FEW} videos"
    yield Row("memory", words, "", f"{each / 1e3:.1f} kB a video", f"{growth:.3f}x", "<= 1.05", growth)


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "equality": equality,
    "i3d": i3d,
    "resize": resizing,
    "features": features,
    "distance": distance,
    "command": command,
    "memory": memory,
}


# --- what is written --------------------------------------------------------------------------------------------------


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def table(rows: list[Row], about: list[str]) -> str:
    """The document."""
    lines = [
        "# `drivesim evaluate` beside its peers",
        "",
        "Written by `python tools/benchmark_fvd.py --parts all --out docs/evaluation-benchmarks.md`, whose head says",
        "what to install. Ratios are how many times as long the peer takes, medians over rounds in which each",
        "contestant runs once, in one process; they carry over to other machines, the seconds do not.",
        "",
        *(f"- {line}" for line in about),
    ]
    for part, title in TITLES.items():
        chosen = [row for row in rows if row.part == part]
        if chosen:
            lines += [
                "",
                f"## {title}",
                "",
                *([NOTES[part], ""] if part in NOTES else []),
                "| | peer | drivesim | ratio or error | goal | met |",
                "|---|---|---|---|---|---|",
            ]
            lines += [f"| {r.what} | {r.peer} | {r.ours} | {r.shown} | {r.goal} | {r.met} |" for r in chosen]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Processor, cores, versions."""
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    return f"{date.today()}, {os.cpu_count()} cores of {names[0] if names else platform.processor()}, {versions}"


def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines() if Path(file).is_file() else []


def _load() -> str:
    return " ".join(f"{load:.1f}" for load in os.getloadavg())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default="all", help=f"all, or some of {','.join(PARTS)}")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--videos", type=int, default=8, help="a side; a multiple of 4, a batch")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="I3D in piergiaj's layout (i3d_pretrained_400.pt)")
    parser.add_argument("--peers", type=Path, metavar="DIR", default=ROOT / "build" / "peers", help="pip's --target")
    parser.add_argument("--shared", type=Path, metavar="DIR", default=ROOT.parent / "shared")
    parser.add_argument("--peer-score", type=Path, nargs=2, help=argparse.SUPPRESS)  # what `commands` runs
    args = parser.parse_args()
    if args.peer_score:
        peer = import_cdfvd(args.peers)
        assert peer is not None
        print(peer_score(peer, args.weights, *args.peer_score))
        return
    if args.videos < 4 or args.videos % 4:
        parser.error(f"--videos {args.videos}: a multiple of 4 is needed, or a padded batch would be counted as work")
    chosen = list(PARTS) if args.parts == "all" else args.parts.split(",")
    if unknown := set(chosen) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    rows, loads, start = [], [f"before {_load()}"], time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as place:
        bench = Bench(Path(place), args.shared, args.peers, args.weights, args.videos, args.rounds)
        for part in chosen:
            begun = time.perf_counter()
            for row in PARTS[part](bench):
                rows.append(row)
                print(
                    " | ".join(filter(None, (row.what, row.peer, row.ours, row.shown, row.goal, row.met))), flush=True
                )
            loads.append(f"after {part} {_load()}")
            print(f"-- {part}: {time.perf_counter() - begun:.0f} s, load {_load()}", flush=True)
    about = [machine(), f"load (1, 5, 15 minutes): {'; '.join(loads)}", f"{time.perf_counter() - start:.0f} s in all"]
    if args.json:
        content = {"about": about, "rows": [asdict(row) | {"met": row.met} for row in rows]}
        disk.write_atomic(args.json, json.dumps(content, indent=1).encode())
    if args.out:
        disk.write_atomic(args.out, table(rows, about).encode())


if __name__ == "__main__":
    main()
