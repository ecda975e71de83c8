"""What a training of the paper's driving model takes on one GPU and on many: a model, not a measurement.

    python tools/scale_model.py
    python tools/scale_model.py --share 0.5 --stage image --gpus 8 64

Counted: parameters, and the operations of a training step of one sample, by torch's counter on the meta device, of the
networks that ``configs/driving`` describes. Assumed: the machine (``Machine``), the share of its peak that a step
reaches, and how much of the exchange of gradients is hidden behind the way back. Every row it prints is simulated.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from drivesim import config
from drivesim.jobs.builders.latents import ImageRun, KeyframesRun
from drivesim.models.temporal import TemporalLayers
from drivesim.models.video import ImageModel, VideoUNet
from drivesim.scene import Condition
from drivesim.training.recompute import BLOCKS, recomputing

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "driving"
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
    state = weights + 4 * gradients  # gradients, two moments, the average
    held = state / gpus + 2 * weights / 20 if sharded else state  # beside its part two gathered blocks of some twenty
    each = work.recomputed if recompute else work.kept
    fits = int((SPARE * machine.memory - held) // each)
    if fits < 1:
        return None
    accumulate = next(n for n in range(1, own + 1) if own % n == 0 and own // n <= fits)
    compute = own * work.flops * (4 / 3 if recompute else 1) / (share * machine.peak)
    exchange = moved * (accumulate if sharded else 1) / machine.link(gpus)
    hidden = min(0.9 * exchange, (2 / 3) * compute)
    optimiser = 7 * gradients / (gpus if sharded else 1) / machine.bandwidth  # reads and writes of AdamW and average
    part = own // accumulate
    return Step(compute, optimiser, hidden, exchange - hidden, moved, held, part * each, part, accumulate)


def works(names: list[str]) -> Iterator[Work]:
    """Of the configurations in ``configs/driving``."""
    for name in names:
        image: Any = config.load(ImageRun, CONFIGS / "image.yaml", [])
        settings: Any = config.load(KeyframesRun, CONFIGS / "keyframes.yaml", []) if name == "keyframes" else image
        yield counted(name, image, settings)


def counted(name: str, image: Any, settings: Any) -> Work:
    """Operations and bytes of one sample, counted on the meta device: nothing is computed."""
    with torch.device("meta"):
        model = ImageModel(image.model)
        temporal = TemporalLayers(settings.temporal, model.unet) if name == "keyframes" else None
        model.requires_grad_(temporal is None)
        network = VideoUNet(model.unet, temporal)
        frames = 1 if temporal is None else settings.temporal.frames
        x = torch.randn(1, frames, 4, *CELLS)
        told = Condition(tokens=torch.randn(1, 2, image.model.cross), fps=torch.ones(1))
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


def rows(work: Work, machine: Machine, counts: list[int], share: float) -> Iterator[str]:
    """Lines of a Markdown table, one for every count."""
    for gpus in counts:
        if work.batch % gpus:  # the nearest batch that divides
            work = Work(**{**vars(work), "batch": max(1, round(work.batch / gpus)) * gpus})
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 40, 256])
    parser.add_argument("--share", type=float, default=0.40, help="of the peak that a step reaches (default 0.40)")
    parser.add_argument("--stage", choices=("image", "keyframes"), nargs="+", default=["image", "keyframes"])
    given = parser.parse_args()
    machine = Machine()
    found = list(works(given.stage))
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
