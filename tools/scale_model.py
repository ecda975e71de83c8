"""What a training of the paper's driving model takes on one GPU and on many: a model, not a measurement.

    python tools/scale_model.py
    python tools/scale_model.py --share 0.5 --stage image --gpus 8 64
    python tools/scale_model.py --measure

Counted: parameters, and the operations of a training step of one sample, by torch's counter on the meta device, of the
networks that ``configs/driving`` describes. Assumed: the machine (``Machine``), the share of its peak that a step
reaches, and how much of the exchange of gradients is hidden behind the way back. Every row it prints is simulated, but
for those of ``--measure``: there real steps of ``configs/tiny``, as the preflight tries them, are held against what is
counted of the same networks.
"""

import argparse
import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from drivesim import config
from drivesim.jobs.builders.latents import ImageRun, KeyframesRun
from drivesim.jobs.preflight import Law
from drivesim.models.autoencoder import Autoencoder, AutoencoderConfig
from drivesim.models.temporal import TemporalLayers
from drivesim.models.video import ImageModel, VideoUNet
from drivesim.rollout import memory
from drivesim.scene import Condition
from drivesim.training.diffusion import ImageStage, KeyframeStage, Latents
from drivesim.training.recompute import BLOCKS, recomputing
from drivesim.training.trial import Trial, attempt

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SIZES = {"image": (64, 128), "keyframes": (4, 8)}  # batches whose memory is measured: a checkpoint takes less
CELLS = (16, 32)  # of the latents: key-frames of 128x256 at f = 8, which two upsamplers make 512x1024
FLOAT, GB, TERA = 4, 1e9, 1e12
SPARE = 0.9  # of the memory, that may be planned with
NEAR = 1.05  # times the quickest: the plainest choice within it is recommended


@dataclass(frozen=True)
class Machine:
    """An H200, and what connects it.

    Args:
        peak: operations a second, dense bf16, that can be had.
        bandwidth: of its memory, bytes a second.
        memory: bytes.
        inside, between: bytes a second and GPU, one direction, in a machine and between machines.
        each: GPUs of a machine.
    """

    peak: float = 790 * TERA
    bandwidth: float = 4.0 * TERA
    memory: float = 141 * GB
    inside: float = 450 * GB
    between: float = 400 / 8 * GB
    each: int = 8

    def link(self, gpus: int) -> float:
        """Of a ring over so many: it leaves a machine by all of its network cards at once."""
        return self.inside if gpus <= self.each else min(self.inside, self.between * self.each)


@dataclass(frozen=True)
class Work:
    """What a stage asks for.

    Args:
        name, batch: of the configuration; ``batch`` samples a step, of all GPUs.
        parameters, trained: numbers of the model, and of them those that are trained.
        flops: operations of one sample, the way there and back.
        kept, recomputed: bytes that one sample keeps for its way back, and those with ``loop.recompute``.
    """

    name: str
    batch: int
    parameters: int
    trained: int
    flops: float
    kept: float
    recomputed: float


@dataclass(frozen=True)
class Step:
    """A simulated step: seconds, where they go, and bytes of a GPU's memory."""

    compute: float
    optimiser: float
    hidden: float
    exposed: float
    moved: float
    state: float
    activations: float
    part: int
    accumulate: int

    @property
    def seconds(self) -> float:
        return self.compute + self.optimiser + self.exposed

    @property
    def limit(self) -> str:
        told = {"compute": self.compute, "exchange": self.exposed, "memory bandwidth": self.optimiser}
        return max(told, key=lambda name: told[name])


def state(work: Work) -> float:
    """Bytes of the weights, and of what is trained gradients, two moments and the average."""
    return FLOAT * (work.parameters + 4 * work.trained)


def step(work: Work, machine: Machine, gpus: int, share: float, sharded: bool, recompute: bool) -> Step | None:
    """A step on ``gpus``, which divide its batch; None where even one sample at a time does not fit.

    Bytes: DDP's ring sends and receives 2 (n - 1) / n of the gradients in float32. FSDP gathers the weights for the way
    there and again for the way back, and scatters the gradients: 3 (n - 1) / n, of which the weights' two also for what
    is frozen. All but the last tenth of it runs beside the way back.
    """
    own = work.batch // gpus
    gradients, weights = FLOAT * work.trained, FLOAT * work.parameters
    ring = (gpus - 1) / gpus
    moved = ring * ((2 * weights + gradients) if sharded else 2 * gradients)
    held = state(work)
    if sharded:
        held = held / gpus + 2 * weights / 20  # beside its part two gathered blocks of some twenty
    each = work.recomputed if recompute else work.kept
    fits = int((SPARE * machine.memory - held) // each)
    if fits < 1:
        return None
    accumulate = next(n for n in range(1, own + 1) if own % n == 0 and own // n <= fits)
    compute = own * work.flops * (4 / 3 if recompute else 1) / (share * machine.peak)
    exchange = moved * (accumulate if sharded else 1) / machine.link(gpus)
    hidden = min(0.9 * exchange, (2 / 3) * compute)
    passed = 7 * gradients + 3 * weights  # reads and writes of AdamW, and of the average
    optimiser = passed / (gpus if sharded else 1) / machine.bandwidth
    part = own // accumulate
    return Step(compute, optimiser, hidden, exchange - hidden, moved, held, part * each, part, accumulate)


def loaded(name: str, folder: str) -> tuple[Any, Any]:
    """The settings of the image model, and of the stage ``name``, in ``configs/folder``."""
    image = config.load(ImageRun, CONFIGS / folder / "image.yaml", [])
    return image, config.load(KeyframesRun, CONFIGS / folder / "keyframes.yaml", []) if name == "keyframes" else image


def counted(name: str, image: Any, settings: Any) -> Work:
    """Operations and bytes of one sample, counted on the meta device: nothing is computed."""
    with torch.device("meta"):
        model = ImageModel(image.model)
        temporal = TemporalLayers(settings.temporal, model.unet) if name == "keyframes" else None
        model.requires_grad_(temporal is None)
        network = VideoUNet(model.unet, temporal)
        frames = 1 if temporal is None else settings.temporal.frames
        x = torch.randn(1, frames, 4, *CELLS)
        told = Condition(tokens=torch.randn(1, 1, image.model.cross), fps=torch.ones(1))
        counter = FlopCounterMode(display=False)
        with counter:
            kept, largest, loss = _kept(network, x, told)
            loss.backward()
        recomputing(network)
        outside, _, _ = _kept(network, x, told)
        recomputed = outside + largest
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    total = sum(p.numel() for p in network.parameters())
    flops = float(counter.get_total_flops())
    return Work(name, settings.loop.batch, total, trained, flops, kept, recomputed)


def _kept(network: VideoUNet, x: torch.Tensor, told: Condition) -> tuple[float, float, torch.Tensor]:
    """Bytes kept for the way back, in bf16: in all, what enters the blocks included, and for the block that keeps most;
    and what the way begins at."""
    held: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # so that no two have the same address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            held[tensor.untyped_storage()._cdata] = 2 * tensor.numel()
            alive.append(tensor)
        return tensor

    before, blocks = list[float](), [0.0]

    def enters(block: torch.nn.Module, given: Any) -> None:
        keep(given[0])
        before.append(sum(held.values()))

    def leaves(block: torch.nn.Module, given: Any, out: Any) -> None:
        blocks.append(sum(held.values()) - before.pop())

    hooks = [hook for block in network.modules() if isinstance(block, BLOCKS)
             for hook in (block.register_forward_pre_hook(enters), block.register_forward_hook(leaves))]  # fmt: skip
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(x, torch.zeros(x.shape[:2]), told).square().mean()
    for hook in hooks:
        hook.remove()
    return float(sum(held.values())), max(blocks), loss


def rows(asked: Work, machine: Machine, counts: list[int], share: float) -> Iterator[str]:
    """Lines of a Markdown table, one for every count."""
    for gpus in counts:
        work = replace(asked, batch=max(1, round(asked.batch / gpus)) * gpus)  # the nearest batch that divides
        choices = [(sharded, again) for sharded in (False, True) for again in (False, True)]
        found = [(c, s) for c in choices if (s := step(work, machine, gpus, share, *c)) is not None]
        if not found:
            yield f"| {work.name} | {gpus} | {work.batch} | - | does not fit | | | | | |"
            continue
        quick = NEAR * min(s.seconds for _, s in found)
        (sharded, again), best = next(pair for pair in found if pair[1].seconds <= quick)
        told = f"loop.strategy={'fsdp' if sharded else 'ddp'} loop.accumulate={best.accumulate}"
        told += " loop.recompute=true" if again else ""
        yield (
            f"| {work.name} | {gpus} | {work.batch} | {best.seconds:.3g} s | {best.compute:.3g} s | "
            f"{best.moved / GB:.3g} GB, {1000 * best.exposed:.3g} ms not hidden | {best.state / GB:.3g} GB | "
            f"{best.activations / GB:.3g} GB of {best.part} | {best.limit} | `{told}` |"
        )


class Noise(Dataset[dict[str, torch.Tensor]]):
    """Samples of no content, with the shapes of those of a cache."""

    def __init__(self, frames: int):
        self.frames = frames

    def __getitem__(self, sample: int) -> dict[str, torch.Tensor]:
        labels = {name: torch.tensor(value) for name, value in (("night", 0), ("cars", 3), ("sample", sample))}
        return {"moments": torch.randn(self.frames, 8, *CELLS), "fps": torch.tensor(1.875), **labels}


def measured(name: str, image: Any, settings: Any) -> tuple[float, int]:
    """Bytes that a sample more takes in real steps on this CPU, and those of a checkpoint."""
    peaks, trial = dict[int, int](), attempted(name, image, settings, 1)  # the first loads what is loaded once
    for batch in SIZES[name]:
        gc.collect()
        with memory.measured(torch.device("cpu")) as piece:
            attempted(name, image, settings, batch)
        assert piece.peak is not None, "needs Linux"
        peaks[batch] = piece.peak
    return Law(peaks).slope, trial.checkpoint_bytes


def attempted(name: str, image: Any, settings: Any, batch: int) -> Trial:
    """Two steps of the stage as it would be trained, and a checkpoint, as the preflight tries them."""
    latents = Latents(torch.zeros(4), torch.ones(4), Autoencoder(AutoencoderConfig(channels=(8,), blocks=1, groups=4)))
    given = (ImageModel(image.model), latents)
    after = (image.schedule, settings.loss, replace(settings.loop, batch=batch))
    if name == "keyframes":
        stage: ImageStage = KeyframeStage(*given, settings.temporal, settings.context, *after)
    else:
        stage = ImageStage(*given, *after)
    frames = settings.temporal.frames if name == "keyframes" else 1
    return attempt(stage, Noise(frames), range(batch), "cpu", 0, timed=False)


def held_against(names: list[str]) -> None:
    """Prints what is counted of ``configs/tiny`` beside what real steps take: a checkpoint holds all of the state but
    the gradients and what is frozen."""
    print("MEASURED on this CPU, real steps of configs/tiny at latents of 16x32:\n")
    print("| stage, batches | kept, a sample: counted | measured | ratio | state: counted | measured | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        image, settings = loaded(name, "tiny")
        work = counted(name, image, settings)
        kept, checkpoint = measured(name, image, settings)
        held = checkpoint + FLOAT * work.parameters  # of the gradients, and of what is frozen, which it lacks
        cells = [f"{work.kept / 1e6:.1f} MB", f"{kept / 1e6:.1f} MB", f"{kept / work.kept:.2f}"]
        cells += [f"{state(work) / 1e6:.1f} MB", f"{held / 1e6:.1f} MB", f"{held / state(work):.2f}"]
        print(f"| {name}, {' and '.join(map(str, SIZES[name]))} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 40, 256])
    parser.add_argument("--share", type=float, default=0.40, help="of the peak that a step reaches (default 0.40)")
    parser.add_argument("--stage", choices=("image", "keyframes"), nargs="+", default=["image", "keyframes"])
    parser.add_argument("--measure", action="store_true", help="holds what is counted against real, small steps")
    given = parser.parse_args()
    if given.measure:
        held_against(given.stage)
        return
    machine = Machine()
    found = [counted(name, *loaded(name, "driving")) for name in given.stage]
    print("Counted, of one sample (torch's counter, meta device):\n")
    print("| stage | parameters | trained | operations of a step | kept for the way back | with loop.recompute |")
    print("|---|---|---|---|---|---|")
    for work in found:
        print(
            f"| {work.name} | {work.parameters / 1e6:.0f} M | {work.trained / 1e6:.0f} M | "
            f"{work.flops / TERA:.2f} TFLOP | {work.kept / GB:.2f} GB | {work.recomputed / GB:.2f} GB |"
        )
    print(
        f"\nSIMULATED, not measured: H200 at {given.share:.2f} of {machine.peak / TERA:.0f} TFLOP/s, memory "
        f"{machine.bandwidth / TERA:g} TB/s, {machine.inside / GB:.0f} GB/s in a machine of {machine.each}, "
        f"{machine.between / GB:.0f} GB/s a GPU between machines:\n"
    )
    print("| stage | GPUs | batch | step | compute | exchange a GPU | state | activations | limited by | recommended |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for work in found:
        for line in rows(work, machine, given.gpus, given.share):
            print(line)


if __name__ == "__main__":
    main()
