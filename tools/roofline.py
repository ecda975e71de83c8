"""How fast the paper's driving stack could at most generate on a GPU: a bound, not a measurement.

    python tools/roofline.py                                      # three ways to sample, from key-frames to 512x1024
    python tools/roofline.py --direct --thin                      # key-frames of 512x1024, and a thin decoder
    python tools/roofline.py sampler.steps=50 guidance.context=2 upsample.sampler.steps=4
    python tools/roofline.py --minutes 5 --peak 990 --bandwidth 3.35

The networks that ``configs/driving`` describes stand on the meta device, where nothing is computed; the stages of a
rollout are called there as ``drivesim generate``'s preflight calls them, under torch's counter of operations. A stage
takes at least its operations at ``--peak``, and at least the time in which the weights of all its calls are read; the
sum over the stages is the bound, for a GPU that reaches both. What else one spends its time on (launches, norms,
softmax, copies, video encoding) is not in it: two fifths of such a bound are what one may hope for. It takes minutes.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from scale_model import Machine
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from drivesim import config
from drivesim.diffusion.noise import Schedule
from drivesim.diffusion.precondition import Denoiser
from drivesim.jobs.builders.autoencoder import AutoencoderRun
from drivesim.jobs.builders.decoder import DecoderRun
from drivesim.jobs.builders.latents import ImageRun, InterpolationRun, KeyframesRun
from drivesim.jobs.builders.upsampler import UpsamplerRun, UpsamplerTemporalRun
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.decoder import DecoderLayers, VideoDecoder
from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.unet import UNetConfig
from drivesim.models.video import ImageModel, VideoUNet
from drivesim.rollout.engine import prepare
from drivesim.rollout.probe import Probe, probes
from drivesim.rollout.scenario import Opening, Scenario
from drivesim.rollout.settings import RolloutConfig
from drivesim.rollout.stack import Interpolation, Stack, TemporalDecoder, Upsampler
from drivesim.scene import Labels

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "driving"
META = torch.device("meta")
BYTES, TERA = 2, 1e12  # of a number in bf16
HOPED = 0.4  # of the bound
TOKENS = 1  # of labels
SIZE, LARGE = (128, 256), (512, 1024)
WAYS = {
    "the paper's: 200, 50, 50 steps, guidance 2": (
        "sampler.steps=200", "sampler.eta=1", "start.steps=200", "interpolation.sampler.steps=50",
        "upsample.sampler.steps=50", "guidance.context=2", "interpolation.guidance.context=2",
    ),
    "the defaults: 20, 10, 20 steps": (),
    "distilled to 4, 2, 2 steps": (
        "sampler.steps=4", "start.steps=4", "interpolation.sampler.steps=2", "upsample.sampler.steps=2",
    ),
}  # fmt: skip


class Read(TorchDispatchMode):
    """Counts the bytes of the weights that operations are given, each once in a call of a watched network."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.seen = set[int]()

    def watch(self, network: nn.Module) -> nn.Module:
        network.register_forward_pre_hook(lambda *_: self.seen.clear())
        return network

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for weight in tree_leaves((args, kwargs)):
            if isinstance(weight, nn.Parameter) and id(weight) not in self.seen:
                self.seen.add(id(weight))
                self.bytes += BYTES * weight.numel()
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Spent:
    """What a stage takes of a whole rollout: operations, and bytes of weights that are read."""

    stage: str
    calls: int
    steps: int
    flop: float
    bytes: float

    def seconds(self, machine: Machine) -> float:
        return max(self.flop / machine.peak, self.bytes / machine.bandwidth)


class Decoding(nn.Module):
    """A decoder that is called as what it is."""

    def __init__(self, video: VideoDecoder):
        super().__init__()
        self.video = video

    def forward(self, z: Tensor) -> Tensor:
        return self.video.decode(z)


def driving(direct: bool, thin: bool, read: Read) -> Stack:
    """The networks of ``configs/driving`` without numbers.

    Args:
        direct: key-frames of 512x1024, which no upsampler follows.
        thin: the decoder is ``configs/cascade/thin.yaml``'s.
        read: counts what their calls read.
    """
    first, size = settings(AutoencoderRun, "autoencoder").model, LARGE if direct else SIZE
    drawn, own, between = (
        settings(ImageRun, "image"), settings(KeyframesRun, "keyframes"), settings(InterpolationRun, "interpolation"),
    )  # fmt: skip
    decoder = settings(DecoderRun, "../cascade/thin" if thin else "decoder").decoder
    schedule = Schedule(drawn.schedule)
    with META:
        code = Autoencoder(first).eval()
        decode = read.watch(Decoding(VideoDecoder(code, DecoderLayers(decoder, code))).eval())
    tokens = tokens_of(drawn.model.cross)
    image, keys, gaps = (
        Denoiser(network(drawn.model, layers, read), schedule) for layers in (None, own.temporal, between.temporal)
    )
    return Stack(
        image=image,
        keyframes=keys,
        tokens=tokens,
        null_tokens=tokens([Labels()])[0],
        mean=torch.zeros(first.latent, device=META),
        std=torch.ones(first.latent, device=META),
        encode=code.encode,
        decode=code.decode,
        frames=own.temporal.frames,
        size=size,
        latent_shape=(first.latent, size[0] // first.f, size[1] // first.f),
        weights={},
        device=META,
        interpolation=Interpolation(gaps, between.temporal.rates),
        temporal_decoder=TemporalDecoder(decode, decoder.frames, Fraction(30)),
        upsampler=None if direct else upsampler(read),
    )


def upsampler(read: Read) -> Upsampler:
    """Image upsampler and temporal layers, without numbers."""
    alone, over = settings(UpsamplerRun, "upsampler"), settings(UpsamplerTemporalRun, "upsampler-temporal").temporal
    denoiser = Denoiser(network(alone.model, over, read), Schedule(alone.schedule))
    tokens = tokens_of(alone.model.cross)
    return Upsampler(denoiser, over.frames, alone.factor, alone.low_levels, tokens, tokens([Labels()])[0])


def network(model: UNetConfig, temporal: TemporalConfig | None, read: Read) -> nn.Module:
    with META:
        unet = ImageModel(model).unet
        layers = None if temporal is None else TemporalLayers(temporal, unet)
    return read.watch(VideoUNet(unet, layers).eval().requires_grad_(False))


def settings(kind: type[Any], name: str) -> Any:
    return config.load(kind, CONFIGS / f"{name}.yaml", [])


def tokens_of(width: int | None) -> Callable[[list[Labels]], Tensor]:
    return lambda labels: torch.zeros(len(labels), TOKENS, width or 1, device=META)


def spent(probe: Probe, read: Read) -> Spent:
    """Counted of a call of one step and of two: more steps are a line through both."""

    def count(steps: int) -> tuple[int, int]:
        read.bytes = 0
        with read, FlopCounterMode(display=False) as counter:
            probe.run(steps)
        return counter.get_total_flops(), read.bytes

    first, second = count(1), count(min(2, probe.steps))
    flop, held = (probe.calls * (one + (probe.steps - 1) * (two - one)) for one, two in zip(first, second, strict=True))
    return Spent(probe.name, probe.calls, probe.steps, flop, held)


def show(title: str, found: list[Spent], frames: int, machine: Machine) -> None:
    seconds = {each.stage: each.seconds(machine) for each in found}
    whole = sum(seconds.values())
    print(f"\n{title}: at most **{frames / whole:.3g}** frames/s, {HOPED * frames / whole:.3g} at {HOPED:.0%} of it\n")
    print("| stage | calls x steps | TFLOP | TB of weights read | seconds at least | share |")
    print("|---|---|---|---|---|---|")
    for each in found:
        cells = f"{each.flop / TERA:,.1f} | {each.bytes / TERA:.2f} | {seconds[each.stage]:.2f}"
        print(f"| {each.stage} | {each.calls:,} x {each.steps} | {cells} | {seconds[each.stage] / whole:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="of the rollout, at 30 fps (default 1)")
    parser.add_argument("--direct", action="store_true", help="key-frames of 512x1024 instead of an upsampler")
    parser.add_argument("--thin", action="store_true", help="the thin decoder of configs/cascade")
    parser.add_argument(
        "--peak",
        type=float,
        default=Machine.peak / TERA,
        help="TFLOP/s, bf16 (default: an H200's in products)",
    )
    parser.add_argument("--bandwidth", type=float, default=Machine.bandwidth / TERA, help="TB/s of its memory")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of the rollout, in the place of three ways")
    given = parser.parse_args()
    machine = Machine(peak=given.peak * TERA, bandwidth=given.bandwidth * TERA)
    read = Read()
    stack = driving(given.direct, given.thin, read)
    scenario = Scenario(opening=Opening(generate=Labels(night=False)), seconds=60 * given.minutes, fps="30")
    for title, words in {"as asked": given.settings}.items() if given.settings else WAYS.items():
        rollout = prepare(stack, scenario, 1, config.load(RolloutConfig, None, list(words)))
        found = [spent(probe, read) for probe in probes(rollout) if probe.name != "write"]
        show(title, found, rollout.plan.total, machine)


if __name__ == "__main__":
    main()
