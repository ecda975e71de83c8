"""Trains the extractor builtin-v1 and writes its weight file; then prints the sanity table.

    python tools/make_builtin.py drivesim/metrics/builtin-v1.safetensors --minutes 9

builtin-v1 is frozen: what this writes today is another network, with another hash. Run it to see how the file came to
be, or to make builtin-v2. It sees the procedural world alone. Sixteen-frame clips at five frame rates are distorted
in known ways, and linear heads on 64 features must tell what the world knows of the clip and how far it was distorted:
so the features move with all of these, and a Frechet distance in them does as well.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import DataLoader, Dataset

import drivesim
from drivesim import randomness, weights
from drivesim.metrics import builtin
from drivesim.metrics.frechet import Statistics, distance
from drivesim.scene import CLASSES, to_model
from drivesim.world import drive

RATES = (Fraction(15, 8), Fraction(15, 4), Fraction(15, 2), Fraction(15), Fraction(30))
GRID = (4, 8)
SEEN = ("car", "truck", "bus", "pedestrian")
DISTORTIONS = ("blur", "noise", "shuffled", "frozen", "warp", "colour", "brightness")
NUMBERS = ("displacement", "change", "curvature", "yaw", "bend", "agents")
FAST, SLOW = Fraction(30), Fraction(15, 8)


@dataclass
class Drive:
    """A rendered drive: frames uint8 ``T 64 128 3``, truth per frame, and counts ``T K G G'`` of ``SEEN``."""

    frames: np.ndarray
    fps: Fraction
    speed: np.ndarray
    curvature: np.ndarray
    grid: np.ndarray
    night: bool


def render(seed: int, seconds: float, fps: Fraction) -> Drive:
    clip, truth = drive(seed, seconds, fps, builtin.SIZE)
    grid = np.zeros((len(clip.frames), len(SEEN), *GRID), np.float32)
    if clip.boxes is not None:
        for moment, word, box in zip(clip.boxes.time, clip.boxes.cls, clip.boxes.box, strict=True):
            frame = int((moment - clip.start) * fps)
            if word in SEEN and frame < len(grid):
                row, column = (box[1] + box[3]) / 2 * GRID[0], (box[0] + box[2]) / 2 * GRID[1]
                grid[
                    frame, SEEN.index(word), int(np.clip(row, 0, GRID[0] - 1)), int(np.clip(column, 0, GRID[1] - 1))
                ] += 1
    return Drive(clip.frames, fps, np.asarray(truth.speed), np.asarray(truth.curvature), grid, bool(clip.labels.night))


def pool(first: int, fast: int, slow: int, workers: int) -> list[Drive]:
    """``fast`` short drives at 30 fps, for the higher rates, and ``slow`` long ones at the key-frames' rate."""
    jobs = [(first + n, 4.5, FAST) for n in range(fast)] + [(first + fast + n, 64.0, SLOW) for n in range(slow)]
    with get_context("spawn").Pool(workers) as processes:
        return processes.starmap(render, jobs, chunksize=4)


@dataclass
class Sample:
    """A clip uint8 ``16 64 128 3`` and what is to be told of it."""

    video: np.ndarray
    numbers: np.ndarray
    night: float
    grid: np.ndarray
    distortion: np.ndarray


def sample(drives: list[Drive], g: np.random.Generator, clean: bool = False, rate: Fraction | None = None) -> Sample:
    source = drives[g.integers(len(drives))]
    while rate is not None and (source.fps / rate).denominator != 1:
        source = drives[g.integers(len(drives))]
    fitting = [r for r in RATES if (source.fps / r).denominator == 1 and int(source.fps / r) * 15 < len(source.frames)]
    fps = rate or fitting[g.integers(len(fitting))]
    step = int(source.fps / fps)
    start = int(g.integers(len(source.frames) - 15 * step))
    index = start + step * np.arange(builtin.FRAMES)
    video, speed, curve, grid = (
        source.frames[index],
        source.speed[index],
        source.curvature[index],
        source.grid[index].copy(),
    )
    if not clean and g.random() < 0.5:
        video, curve, grid = video[:, :, ::-1], -curve, grid[..., ::-1]
    per_frame = speed / float(fps)
    numbers = np.array([
        np.log1p(per_frame.mean()), per_frame[-1] - per_frame[0], 100 * curve.mean(), (per_frame * curve).sum(),
        100 * (curve[-1] - curve[0]), np.log1p(grid.sum((1, 2, 3)).mean()),
    ])  # fmt: skip
    occupied = np.minimum(grid, 1).mean(0)
    video, distortion = (np.ascontiguousarray(video), np.zeros(len(DISTORTIONS))) if clean else distort(video, g)
    return Sample(video, numbers, float(source.night), occupied, distortion)


def distort(video: np.ndarray, g: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A light change of crop, colour and contrast that nobody asks about, then each distortion now and then."""
    amount = dict.fromkeys(DISTORTIONS, 0.0)
    t, h, w, _ = video.shape
    dy, dx = g.integers(0, 7), g.integers(0, 13)
    video = np.stack([cv2.resize(f[dy : h - 6 + dy, dx : w - 12 + dx], (w, h)) for f in video]).astype(np.float32)
    gain, offset = g.uniform(0.75, 1.25) * g.uniform(0.92, 1.08, 3), g.uniform(-20, 20)
    video = (video - 110) * gain.astype(np.float32) + 110 + offset
    on = {word: g.random() < 0.2 for word in DISTORTIONS}
    order = g.random()  # a clip is shuffled or frozen or neither: both at once cannot be told apart
    on["shuffled"], on["frozen"] = order < 0.35, 0.35 <= order < 0.6
    if on["shuffled"]:
        amount["shuffled"] = g.uniform(0.1, 1)
        moved = np.flatnonzero(g.random(t) < amount["shuffled"])
        video[moved] = video[g.permutation(moved)]
    if on["frozen"]:
        amount["frozen"] = g.uniform(0.1, 1) if g.random() < 0.7 else 1.0
        for n in range(1, t):
            if g.random() < amount["frozen"]:
                video[n] = video[n - 1]
    if on["warp"]:
        amount["warp"] = g.uniform(0.3, 5)
        video = warp(video, amount["warp"], g)
    if on["blur"]:
        amount["blur"] = np.exp(g.uniform(np.log(0.4), np.log(5)))
        video = np.stack([cv2.GaussianBlur(f, (0, 0), amount["blur"]) for f in video])
    if on["noise"]:
        amount["noise"] = np.exp(g.uniform(np.log(2), np.log(45)))
        video = video + amount["noise"] * g.standard_normal(video.shape, np.float32)
    if on["colour"]:  # strong, beyond what the light change above does
        shift = g.normal(0, 1, 3) * g.uniform(5, 35)
        shift -= shift.mean()
        video, amount["colour"] = video + shift.astype(np.float32), float(np.abs(shift).mean())
    if on["brightness"]:  # flickers from frame to frame
        amount["brightness"] = g.uniform(3, 30)
        video = video + amount["brightness"] * g.standard_normal((t, 1, 1, 1)).astype(np.float32)
    told = np.array([amount["blur"], amount["noise"] / 10, 3 * amount["shuffled"], 3 * amount["frozen"], amount["warp"],
                     amount["colour"] / 10, amount["brightness"] / 10])  # fmt: skip
    return video.clip(0, 255).round().astype(np.uint8), np.log1p(told)


def warp(video: np.ndarray, pixels: float, g: np.random.Generator) -> np.ndarray:
    """Smooth displacement of ``pixels``: in half of the clips the same for all frames, else another for each."""
    t, h, w, _ = video.shape
    own = g.random() < 0.5
    rows, columns = np.mgrid[0:h, 0:w].astype(np.float32)
    cells = int(g.integers(3, 9))
    fields = [g.normal(0, pixels, (cells, 2 * cells, 2)).astype(np.float32) for _ in range(t if own else 1)]
    out = np.empty_like(video)
    for n in range(t):
        move = cv2.resize(fields[n % len(fields)], (w, h), interpolation=cv2.INTER_CUBIC)
        out[n] = cv2.remap(
            video[n], columns + move[..., 0], rows + move[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
    return out


def batch(drives: list[Drive], seed: int, step: int, size: int) -> tuple[Tensor, ...]:
    """Step ``step``'s samples, a function of (seed, step)."""
    samples = [sample(drives, randomness.generator("make_builtin", seed, step, n)) for n in range(size)]
    truth = [np.stack([getattr(s, field) for s in samples]) for field in ("numbers", "night", "grid", "distortion")]
    return torch.from_numpy(np.stack([s.video for s in samples])), *(
        torch.from_numpy(a.astype(np.float32)) for a in truth
    )


class Batches(Dataset[tuple[Tensor, ...]]):
    """``batch`` by step, for a worker that makes them ahead."""

    def __init__(self, drives: list[Drive], seed: int, size: int):
        self.drives, self.seed, self.size = drives, seed, size

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        return batch(self.drives, self.seed, step, self.size)


@torch.no_grad()
def see_change(network: builtin.Network) -> None:
    """Temporal convolutions begin as differences in time (forward, backward, second), which random ones find slowly."""
    taps = torch.tensor([[-1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [-0.5, 1.0, -0.5]])
    for stage in network.stages:
        if isinstance(stage, builtin.Stage) and stage.stride:
            kernel = stage.temporal.weight.mul_(0.3)
            for n in range(len(kernel)):
                kernel[n, n, :, 0] += taps[n % 3]


def normalised(network: builtin.Network) -> list[tuple[nn.Module, str]]:
    """Puts a batch norm behind every convolution for training; ``fuse`` folds them away. Returns where they are."""
    places = [(stage, name) for stage in network.stages for name in ("spatial", "temporal") if hasattr(stage, name)]
    for stage, name in places:
        convolution = getattr(stage, name)
        setattr(stage, name, nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels, momentum=0.05)))
    return places


def fuse(places: list[tuple[nn.Module, str]]) -> None:
    for stage, name in places:
        convolution, norm = getattr(stage, name).eval()
        setattr(stage, name, fuse_conv_bn_eval(convolution, norm))


def train(drives: list[Drive], seed: int, minutes: float, size: int, lr: float) -> tuple[builtin.Network, int]:
    torch.manual_seed(seed)
    network = builtin.Network(builtin.BuiltinConfig())
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU
    see_change(network)
    places = normalised(network)
    cells = len(SEEN) * GRID[0] * GRID[1]
    heads = nn.Linear(builtin.BuiltinConfig.features, len(NUMBERS) + 1 + cells + len(DISTORTIONS))
    parameters = [*network.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    spread = torch.cat([batch(drives, seed + 1, n, 32)[1] for n in range(8)])
    centre, scale = spread.mean(0), spread.std(0) + 1e-6
    batches = iter(DataLoader(Batches(drives, seed, size), batch_size=None, num_workers=1, prefetch_factor=8))
    emphasis = torch.tensor([3.0 if word in ("shuffled", "frozen") else 1.0 for word in DISTORTIONS])
    shown: dict[str, float] = {}
    begun, step = time.monotonic(), 0
    while (progress := (time.monotonic() - begun) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:  # a clock, not a count of steps, sets the end: the file is made once
            group["lr"] = lr * min(1.0, (step + 1) / 50) * (1 - progress) ** 0.9
        video, numbers, night, grid, distortion = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            features = network(to_model(video))
        told = heads(features.float()).split([len(NUMBERS), 1, cells, len(DISTORTIONS)], 1)
        losses = {
            "numbers": F.smooth_l1_loss(told[0], (numbers - centre) / scale),
            "night": F.binary_cross_entropy_with_logits(told[1][:, 0], night),
            "grid": F.binary_cross_entropy_with_logits(told[2], grid.flatten(1)),
            "distortion": (F.smooth_l1_loss(told[3], distortion, reduction="none") * emphasis).mean(),
        }
        loss = 2 * losses["numbers"] + 0.3 * losses["night"] + 3 * losses["grid"] + 4 * losses["distortion"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        shown = {k: 0.98 * shown.get(k, v.item()) + 0.02 * v.item() for k, v in losses.items()}
        step += 1
        if step % 50 == 0:
            print(step, f"{progress:.0%}", {k: round(v, 4) for k, v in shown.items()}, flush=True)
    fuse(places)
    network.eval()
    told_apart(network, heads, drives, seed, centre, scale)
    standardise(network, drives, seed)
    return network, step


@torch.inference_mode()
def told_apart(
    network: nn.Module, heads: nn.Module, drives: list[Drive], seed: int, centre: Tensor, scale: Tensor
) -> None:
    """Prints the correlation of every number with what the head says, on samples not trained on."""
    parts = [(batch(drives, seed + 2, n, 32)) for n in range(12)]
    told = torch.cat([heads(network(to_model(p[0]))) for p in parts])
    truth = torch.cat([torch.cat([p[1], p[4]], 1) for p in parts])
    said = torch.cat([told[:, : len(NUMBERS)], told[:, -len(DISTORTIONS) :]], 1)
    for n, word in enumerate((*NUMBERS, *DISTORTIONS)):
        print(f"  {word:13s} correlation {torch.corrcoef(torch.stack([truth[:, n], said[:, n]]))[0, 1]:.2f}")


@torch.inference_mode()
def standardise(network: builtin.Network, drives: list[Drive], seed: int) -> None:
    """Every feature gets mean 0 and deviation 1 over distorted samples, so that no head's scale rules the distance."""
    features = torch.cat([network(to_model(batch(drives, seed + 3, n, 32)[0])) for n in range(24)])
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    network.head.bias.copy_((network.head.bias - mean) / deviation)
    network.head.weight.div_(deviation[:, None])


ALTERED: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "frozen first frame": lambda v, g: np.repeat(v[:1], len(v), 0),
    "shuffled frames": lambda v, g: v[g.permutation(len(v))],
    "blurred, sigma 1": lambda v, g: np.stack([cv2.GaussianBlur(f, (0, 0), 1) for f in v]),
    "blurred, sigma 2": lambda v, g: np.stack([cv2.GaussianBlur(f, (0, 0), 2) for f in v]),
    "blurred, sigma 4": lambda v, g: np.stack([cv2.GaussianBlur(f, (0, 0), 4) for f in v]),
    "noise, 5 levels": lambda v, g: noisy(v, 5, g),
    "noise, 15 levels": lambda v, g: noisy(v, 15, g),
    "noise, 40 levels": lambda v, g: noisy(v, 40, g),
    "warped, 2 pixels": lambda v, g: warp(v, 2, g),
    "backwards": lambda v, g: v[::-1],
    "noise alone": lambda v, g: g.integers(0, 256, v.shape, dtype=np.uint8),
}


def noisy(video: np.ndarray, levels: float, g: np.random.Generator) -> np.ndarray:
    return (video + levels * g.standard_normal(video.shape)).clip(0, 255).astype(np.uint8)


def clips(drives: list[Drive]) -> list[np.ndarray]:
    """Clips of 16 frames side by side at the key-frames' rate."""
    return [d.frames[n : n + 16] for d in drives if d.fps == SLOW for n in range(0, len(d.frames) - 15, 16)]


def sanity(network: nn.Module, real: list[np.ndarray], other: list[np.ndarray]) -> None:
    """Prints what held-back clips score, whole and made worthless, against other held-back clips ``real``."""

    @torch.inference_mode()
    def statistics(videos: list[np.ndarray]) -> Statistics:
        parts = [network(to_model(torch.from_numpy(np.stack(videos[n : n + 8])))) for n in range(0, len(videos), 8)]
        return Statistics.of(torch.cat(parts))

    true = statistics(real)
    print(f"  {len(real)} real clips against {len(other)}")
    print(f"  {'other real clips':20s} {distance(true, statistics(other)):9.2f}")
    for word, change in ALTERED.items():
        changed = [
            np.ascontiguousarray(change(v, randomness.generator("sanity", word, n))) for n, v in enumerate(other)
        ]
        print(f"  {word:20s} {distance(true, statistics(changed)):9.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--fast", type=int, default=60)
    parser.add_argument("--slow", type=int, default=80)
    parser.add_argument("--held-back", type=int, default=80)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(0)
    begun = time.monotonic()
    drives = pool(1_000_000, options.fast, options.slow, options.threads)
    print(
        f"{len(drives)} drives, {sum(len(d.frames) for d in drives)} frames in {time.monotonic() - begun:.0f} s",
        flush=True,
    )
    network, steps = train(drives, options.seed, options.minutes, options.batch, options.lr)
    command = f"--minutes {options.minutes:g} --seed {options.seed} --batch {options.batch} --lr {options.lr:g}"
    provenance = {
        "steps": steps,
        "seed": options.seed,
        "data": f"drivesim.world, seeds 1000000 to {1_000_000 + len(drives) - 1}",
        "version": drivesim.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "hours": round(options.minutes / 60, 2),
        "command": f"make_builtin.py {command} --fast {options.fast} --slow {options.slow} --threads {options.threads}",
    }
    header = weights.Header(
        "extractor",
        asdict(builtin.BuiltinConfig()),
        size=builtin.SIZE,
        frames=builtin.FRAMES,
        fps="15/8 to 30",
        classes=list(CLASSES),
        train=provenance,
    )
    held_back = pool(2_000_000, 0, options.held_back, options.threads)
    sanity(network, clips(held_back[::2]), clips(held_back[1::2]))
    print(
        "sha256",
        weights.save(options.out, weights.halve(network.state_dict()), header),
        options.out.stat().st_size,
        "bytes",
    )


if __name__ == "__main__":
    main()
