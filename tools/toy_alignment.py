"""The toy picture: what temporal layers do to a batch of diffusion trajectories [Fig. 2 of arXiv 2304.08818].

    python tools/toy_alignment.py --out docs/toy.png

Every frame is one number, drawn from a mixture of three modes. An image model learns that distribution. Then it is
frozen, and temporal layers beside it learn short smooth sequences whose every frame has that same distribution. Before,
the frames of a batch end wherever their own noise takes them; after, from the same noise, they end as one sequence.
The paper publishes no settings of its toy: all numbers here are ours.

Nothing stands in for the package: network, temporal layers, loss, schedule and sampler are the driving model's, at one
channel and one cell. One cell has nothing to attend to, so the U-Net has no transformers, and the temporal layers are
the convolutions alone. In two minutes they bring all frames of three batches in four into one mode.
"""

import argparse
import copy
import io
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image
from torch import Tensor, nn

from drivesim.diffusion.loss import DiffusionLoss
from drivesim.diffusion.noise import Schedule, ScheduleConfig
from drivesim.diffusion.precondition import Denoiser
from drivesim.diffusion.samplers import dpmpp_2m
from drivesim.models.temporal import Mixer, TemporalConfig, TemporalLayers
from drivesim.models.unet import UNet, UNetConfig
from drivesim.models.video import VideoUNet
from drivesim.randomness import Key, normal, uniform
from drivesim.scene import Condition, Level

WEIGHTS, CENTRES, WIDTH = (0.3, 0.45, 0.25), (-1.3, 0.1, 1.3), 0.2
BETWEEN = tuple((a + b) / 2 for a, b in zip(CENTRES, CENTRES[1:], strict=False))
MEMORY = 4.0  # frames; two frames n apart correlate within their mode by exp(-n^2 / (2 MEMORY^2))
SCHEDULE = Schedule(ScheduleConfig(betas="cosine", target="v"))
NOTHING = Condition()
INK, PALE, GREY = "#1f2328", "#d0d7de", "#6e7781"


@dataclass(frozen=True)
class Training:
    """``steps`` of ``batch`` sequences (an image is a sequence of one); ``lr`` is the highest rate."""

    steps: int
    batch: int
    lr: float


@dataclass(frozen=True)
class Toy:
    frames: int = 8
    width: int = 64
    image: Training = Training(800, 256, 2e-3)
    video: Training = Training(2000, 32, 4e-3)
    seed: int = 0


def sequences(key: Key, count: int, frames: int) -> Tensor:
    """True sequences, ``B T 1 1 1``: one mode for the whole sequence, a smooth Gaussian process within it.

    So each frame alone is distributed as the mixture, exactly, and a sequence of one frame is an image.
    """
    chosen = torch.bucketize(uniform((*key, "mode"), (count,)), torch.tensor(WEIGHTS).cumsum(0)[:-1], right=True)
    place = torch.arange(frames, dtype=torch.float64)
    covariance = torch.exp(-((place[:, None] - place) ** 2) / (2 * MEMORY**2)) + 1e-9 * torch.eye(frames)
    smooth = normal((*key, "motion"), (count, frames)) @ torch.linalg.cholesky(covariance).float().T
    return (torch.tensor(CENTRES)[chosen, None] + WIDTH * smooth)[..., None, None, None]


def density(x: np.ndarray, sigma: float = 0.0) -> np.ndarray:
    """Of a frame under noise ``sigma``, variance-preserving, as the network sees it; ``sigma`` 0 is the data's own."""
    alpha = 1 / math.sqrt(1 + sigma**2)
    width = alpha * math.sqrt(WIDTH**2 + sigma**2)
    bells = [w * np.exp(-(((x - alpha * c) / width) ** 2) / 2) for w, c in zip(WEIGHTS, CENTRES, strict=True)]
    return np.sum(bells, axis=0) / (width * math.sqrt(2 * math.pi))


def trained(toy: Toy) -> VideoUNet:
    """The image model first, then the temporal layers beside it, the image model frozen [§3.1]."""
    with torch.random.fork_rng(devices=[]):  # initial weights alone; data and noise have keys of their own
        torch.manual_seed(toy.seed)
        spatial = UNet(UNetConfig((toy.width,), 1, (False,), cross=None, groups=8, in_channels=1, out_channels=1))
        temporal = TemporalLayers(TemporalConfig(toy.frames, context_channels=0), spatial)
    train(VideoUNet(spatial), spatial, toy.image, 1, ("toy", toy.seed, "image"))
    spatial.requires_grad_(False)
    network = VideoUNet(spatial, temporal)
    train(network, temporal, toy.video, toy.frames, ("toy", toy.seed, "video"))
    return network


def train(network: VideoUNet, part: nn.Module, training: Training, frames: int, key: Key) -> None:
    """Trains ``part`` of ``network``. The levels of a batch are spread evenly: one from each of ``batch`` stretches."""
    optimiser = torch.optim.Adam(part.parameters(), training.lr, betas=(0.9, 0.99))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, training.lr, total_steps=training.steps, pct_start=0.1)
    loss, count = DiffusionLoss(SCHEDULE), training.batch
    for step in range(training.steps):
        now = (*key, step)
        x0 = sequences(now, count, frames)
        u = (torch.arange(count) + uniform((*now, "level"), (count,))) / count
        optimiser.zero_grad()
        loss(network, x0, normal((*now, "noise"), tuple(x0.shape)), u, NOTHING).mean().backward()
        optimiser.step()
        rate.step()


def images(network: VideoUNet) -> VideoUNet:
    """The same model without its temporal layers."""
    return VideoUNet(network.spatial)


def at_alpha_one(network: VideoUNet) -> VideoUNet:
    """The same model with its temporal layers, mixed in by alpha = 1: a sigmoid never gets there, float32 does."""
    network = copy.deepcopy(network)
    for layer in network.modules():
        if isinstance(layer, Mixer):
            layer.mix_factor.data.fill_(40.0)
    return network


@torch.no_grad()
def sampled(network: VideoUNet, noise: Tensor, steps: int) -> Tensor:
    """The trajectories from unit ``noise`` B T 1 1 1 by DPM-Solver++ 2M.

    In as few steps DDIM gives the middle mode more than its share, even with the exact denoiser.

    Returns:
        ``steps + 1 B T``, variance-preserving, from noise to the sampled frames.
    """
    denoiser, levels = Denoiser(network, SCHEDULE), SCHEDULE.levels(steps, sampler="dpmpp_2m")
    path: list[Tensor] = []

    def denoise(x: Tensor, level: Level) -> Tensor:
        path.append(x / (1 + level.of(x) ** 2).sqrt())
        return denoiser(x, level, NOTHING)

    path.append(dpmpp_2m(denoise, noise * float(SCHEDULE.start_scale(levels.sigmas[0])), levels))
    return torch.stack(path)[..., 0, 0, 0]


@dataclass(frozen=True)
class Measured:
    """Of sequences ``B T``.

    Args:
        neighbours: mean square of the difference between neighbouring frames.
        together: share of the sequences with all frames in one mode.
        shares: of the frames, in each mode.
        distance: 1-Wasserstein, between the frames and the mixture.
    """

    neighbours: float
    together: float
    shares: tuple[float, ...]
    distance: float

    def __str__(self) -> str:
        shares = " ".join(f"{share:.3f}" for share in self.shares)
        return f"{self.neighbours:10.4f}   {self.together:8.3f}   {shares}   {self.distance:8.3f}"


def measure(x: Tensor) -> Measured:
    mode = torch.bucketize(x.contiguous(), torch.tensor(BETWEEN))
    return Measured(
        neighbours=float(x.diff(dim=1).square().mean()),
        together=float((mode == mode[:, :1]).all(dim=1).float().mean()),
        shares=tuple(float((mode == k).float().mean()) for k in range(len(CENTRES))),
        distance=float(np.abs(np.sort(x.numpy(), axis=None) - quantiles(x.numel())).mean()),
    )


def quantiles(count: int) -> np.ndarray:
    """``count`` equally likely values of the mixture, rising."""
    x = np.linspace(-4, 4, 20001)
    below = np.cumsum(density(x)) * (x[1] - x[0])
    return np.interp((np.arange(count) + 0.5) / count, below, x)


def draw(before: Tensor, after: Tensor, true: Measured, out: Path) -> None:
    """The picture, from trajectories ``S B T`` of both models with the same noise; the first batch is followed."""
    layout = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.06)
    figure = Figure(figsize=(10, 6.2), layout=layout, facecolor="white")
    rows = (
        ("Before: the image model", "each frame of a batch ends in a mode of its own", "they jump", before),
        ("After: temporal layers, the same noise", "all frames end as one smooth sequence", "they flow", after),
    )
    axes = figure.subplots(2, 3, sharey=True, width_ratios=(2.2, 1.3, 0.75))
    for (left, middle, right), (title, ending, order, path) in zip(axes, rows, strict=True):
        batches = path.shape[1]
        _trajectories(left, path[:, 0])
        _titles(left, title, ending)
        _sequence(middle, path[-1, 0])
        _titles(middle, "Its frames in order", order)
        step = f"mean squared step over\n{batches} batches: {measure(path[-1]).neighbours:#.2g}"
        middle.text(0.6, 2.75, step, color=INK, fontsize=10.5, va="top", linespacing=1.4)
        _marginal(right, path[-1])
        _titles(right, "All frames", f"of {batches} batches")
    axes[1, 1].text(0.6, 1.45, f"true sequences: {true.neighbours:#.2g}", color=GREY, fontsize=10.5, va="top")
    axes[0, 2].legend(loc="upper right", frameon=False, fontsize=9, labelcolor=GREY, handlelength=1.0, borderaxespad=0)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150)
    out.parent.mkdir(parents=True, exist_ok=True)
    few = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)  # a third as large as all colours
    few.save(out, optimize=True)


def colours(frames: int) -> np.ndarray:
    return colormaps["plasma"](np.linspace(0, 0.88, frames))


def _trajectories(axes: Axes, path: Tensor) -> None:
    """``S T``, above the density that a frame has at every level."""
    steps = len(path) - 1
    value = np.linspace(-2.9, 2.9, 300)
    sigmas = SCHEDULE.levels(steps, sampler="dpmpp_2m").sigmas.tolist()
    field = np.sqrt(np.stack([density(value, sigma) for sigma in sigmas], axis=1))
    axes.contourf(np.arange(steps + 1), value, field, levels=12, cmap="Blues", vmin=0, vmax=2.4)
    for line, colour in zip(path.T.numpy(), colours(path.shape[1]), strict=True):
        axes.plot(line, color="white", linewidth=3.2)
        axes.plot(line, color=colour, linewidth=1.8)
        axes.plot(steps, line[-1], "o", color=colour, markersize=6, markeredgecolor="white", clip_on=False, zorder=5)
    axes.set(xlim=(0, steps), ylim=(-2.9, 2.9), ylabel="value of a frame", xticks=(0, steps))
    axes.set_xticklabels(("noise", "data"))
    axes.set_xlabel(f"{steps} sampler steps")
    _plain(axes)


def _sequence(axes: Axes, x: Tensor) -> None:
    """``T``, over the frame's number."""
    frame = np.arange(1, len(x) + 1)
    axes.plot(frame, x, color=GREY, linewidth=1.2)
    axes.scatter(frame, x, c=colours(len(x)), s=52, edgecolors="white", zorder=5)
    axes.set(xlabel="frame", xticks=frame, xlim=(0.5, len(x) + 0.5))
    _plain(axes)


def _marginal(axes: Axes, x: Tensor) -> None:
    value = np.linspace(-2.9, 2.9, 300)
    axes.hist(
        x.flatten().numpy(),
        bins=np.linspace(-2.9, 2.9, 59).tolist(),
        density=True,
        orientation="horizontal",
        color=PALE,
        label="sampled",
    )
    axes.plot(density(value), value, color=INK, linewidth=1.4, label="data")
    axes.set(xticks=(), xlabel="density")
    _plain(axes)


def _titles(axes: Axes, title: str, subtitle: str) -> None:
    axes.set_title(f"{title}\n", loc="left", color=INK, fontsize=12.5, fontweight="bold")
    axes.text(0, 1.025, subtitle, transform=axes.transAxes, color=GREY, fontsize=10.5)


def _plain(axes: Axes) -> None:
    axes.tick_params(colors=GREY, labelsize=10, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=GREY, fontsize=10.5)
    for side in axes.spines.values():
        side.set_visible(False)


def main(out: Path, seed: int, batches: int = 512, steps: int = 50) -> None:
    begin, toy = time.process_time(), Toy(seed=seed)
    torch.set_num_threads(1)  # sums in the same order on every machine with as many
    network = trained(toy)
    noise = normal(("toy", seed, "start"), (batches, toy.frames, 1, 1, 1))
    before, after = sampled(images(network), noise, steps), sampled(network, noise, steps)
    true = measure(sequences(("toy", seed, "true"), batches, toy.frames)[..., 0, 0, 0])
    same = torch.equal(sampled(at_alpha_one(network), noise[:8], steps), sampled(images(network), noise[:8], steps))
    print(f"{batches} batches     neighbours   together   shares of the modes   distance")
    for name, found in (("before", measure(before[-1])), ("after", measure(after[-1])), ("true sequences", true)):
        print(f"{name:15} {found}")
    print(f"alpha = 1 gives the image model's trajectories bit for bit: {'yes' if same else 'NO'}")
    draw(before, after, true, out)
    print(f"{out}, {time.process_time() - begin:.0f} s of processor time")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/toy.png"))
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
