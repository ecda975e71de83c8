"""Ours beside its peers on identical weights and inputs, and beside the limit, in one run:

    python tools/benchmark.py                       # every row that this machine can run
    python tools/benchmark.py decode unet-64 --rounds 9 --json runs/benchmark.json

Each row first checks that both give the same, then calls peer, ours and a product of matrices in turn, ``--rounds``
times: whatever else the machine does falls on all of them. What is told are medians of processor seconds of one thread,
the ratio peer / ours with the quartiles of the rounds' own ratios, operations counted by torch, and what share of the
product's speed they are. What is freed is kept by the process, as every command keeps it on a CPU; ``--no-keep`` gives
it back, as Python programs do by themselves: the peer gains from keeping as well. diffusers is a peer, not a
dependency: it comes with the extra ``[test]``.
"""

import argparse
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from drivesim.models import pretrained
from drivesim.models.blocks import ONE_DNN
from drivesim.models.temporal import TemporalConfig, TemporalLayers
from drivesim.models.unet import UNet, UNetConfig
from drivesim.models.video import VideoUNet
from drivesim.rollout import memory
from drivesim.scene import Condition

Call = Callable[[], Any]
LATENT = (16, 32)  # of 128x256 at f = 8
LIMIT = 1e-4  # relative, in float32
PEAK_SIDE = 1536


@dataclass(frozen=True, eq=False)
class Pair:
    """What a row compares.

    Args:
        peer, ours: called in turn; what ``check`` compares is what they return.
        per: by what each one's seconds are divided: frames, where the two do not do the same number.
        same: whether both must return the same.
        networks: whether operations can be counted.
    """

    peer: Call
    ours: Call
    per: tuple[int, int] = (1, 1)
    same: bool = True
    networks: bool = True


@dataclass(frozen=True)
class Row:
    """Args:
    ratio: peer / ours, median of seconds over median of seconds; ``low``, ``high``: quartiles of the rounds' ratios.
    error: the largest difference of the outputs, relative to the largest value; NaN where they are not comparable.
    share: of the matmul peak in the same rounds that ours, and the peer, reach; NaN where nothing is counted.
    """

    name: str
    what: str
    goal: str
    peer_s: float
    ours_s: float
    ratio: float
    low: float
    high: float
    error: float
    share: float
    peer_share: float
    met: bool | None


@dataclass(frozen=True)
class Case:
    """One row: what it is, the goal for the ratio (None: it is only told), and what makes its pair."""

    what: str
    goal: float | None
    make: Callable[[torch.device], Pair]


# --- peers on the same weights ----------------------------------------------------------------------------------------


def svd(channels: tuple[int, ...]) -> dict[str, Any]:
    attention = ["CrossAttnDownBlockSpatioTemporal"] * (len(channels) - 1) + ["DownBlockSpatioTemporal"]
    return {
        "_class_name": "UNetSpatioTemporalConditionModel",
        "addition_time_embed_dim": 256,
        "block_out_channels": list(channels),
        "cross_attention_dim": 64,
        "down_block_types": attention,
        "in_channels": 8,
        "layers_per_block": 2,
        "num_attention_heads": [width // 32 for width in channels],
        "num_frames": 16,
        "out_channels": 4,
        "projection_class_embeddings_input_dim": 768,
        "transformer_layers_per_block": 1,
        "up_block_types": [name.replace("Down", "Up") for name in attention[::-1]],
    }


def svd_vae(channels: tuple[int, ...]) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKLTemporalDecoder",
        "block_out_channels": list(channels),
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "out_channels": 3,
    }


def both(values: dict[str, Any], device: torch.device) -> tuple[Any, Any]:
    """diffusers' model of ``values`` with random weights, and ours with the same."""
    import diffusers

    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = getattr(diffusers, values["_class_name"]).from_config(values).eval().requires_grad_(False)
        model.save_pretrained(folder)
        return model.to(device), pretrained.load(folder).to(device)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unet(channels: tuple[int, ...], frames: int, training: bool = False) -> Callable[[torch.device], Pair]:
    """The whole video U-Net of SVD, forward, or forward and back with the loss of a sum of squares."""

    def make(device: torch.device) -> Pair:
        model, ours = both(svd(channels), device)
        x, context = (seeded(1, frames, 4, *LATENT, seed=n).to(device) for n in (0, 1))
        tokens, told = seeded(1, 1, 64, seed=2).to(device), torch.tensor([[6.0, 127.0, 0.02]], device=device)
        level = torch.tensor([0.4], device=device)
        condition = Condition(
            tokens=tokens, context=context, context_mask=torch.ones(1, frames, device=device), pooled=told
        )
        joined, spread = torch.cat([x, context], dim=2), level[:, None].expand(1, frames)

        def peer() -> Tensor:
            return model(joined, level, tokens, told).sample

        def own() -> Tensor:
            return ours(x, spread, condition)

        return stepped(model, ours, peer, own) if training else Pair(peer, own)

    return make


def stepped(model: nn.Module, ours: VideoUNet, peer: Call, own: Call) -> Pair:
    """Forward and back through both; what is compared is the gradient of the first convolution."""
    first = (model.conv_in, ours.spatial.conv_in)
    for network in (model, ours):
        network.requires_grad_(True)

    def step(call: Call, network: nn.Module, watched: Any) -> Tensor:
        network.zero_grad(set_to_none=True)
        call().square().mean().backward()
        return watched.weight.grad

    return Pair(lambda: step(peer, model, first[0]), lambda: step(own, ours, first[1]))


def decode(device: torch.device) -> Pair:
    """The decoder with temporal layers, 8 frames."""
    model, ours = both(svd_vae((32, 64, 128, 128)), device)
    z = seeded(1, 8, 4, *LATENT).to(device)
    return Pair(lambda: model.decode(z[0], num_frames=8).sample, lambda: ours.decode(z)[0])


def driving(feed: tuple[int, int]) -> Callable[[torch.device], Pair]:
    """Our own driving video U-Net beside its image U-Net, a frame: what temporal layers cost."""
    return lambda device: _driving(device, feed)


def _driving(device: torch.device, feed: tuple[int, int]) -> Pair:
    spatial = UNetConfig(channels=(64, 128, 256), blocks=2, attention=(True, True, False), cross=64, groups=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = UNet(spatial).to(device).eval()
        layers = TemporalLayers(TemporalConfig(frames=8, depth=1, feed=feed), image).to(device).eval()
    x, tokens = seeded(1, 8, 4, *LATENT).to(device), seeded(1, 1, 64).to(device)
    noise, shown = torch.full((1, 8), 500.0, device=device), torch.zeros(1, 8, device=device)
    condition = Condition(
        tokens=tokens, context=torch.zeros_like(x), context_mask=shown, context_level=shown,
        given=torch.zeros(1, dtype=torch.long, device=device),
    )  # fmt: skip
    alone, whole = VideoUNet(image), VideoUNet(image, layers)
    return Pair(lambda: alone(x, noise, condition), lambda: whole(x, noise, condition), same=False)


def averages(device: torch.device) -> Pair:
    """A step of Lightning's own EMA callback, and of ours."""
    from pytorch_lightning.callbacks import EMAWeightAveraging

    from drivesim.training.loop import LoopConfig, Stage, averaging

    class Small(Stage):
        def __init__(self) -> None:
            super().__init__(LoopConfig(ema=0.999))
            self.model = nn.ModuleList(nn.Linear(128, 128) for _ in range(200))

    peer, module = EMAWeightAveraging(decay=0.999), Small().to(device)
    peer.setup(None, module, "fit")  # type: ignore[arg-type]  # no trainer is looked at
    average = peer._average_model
    assert average is not None
    (own,), ours = averaging(Small()), Small().to(device)
    own.begin(ours)
    return Pair(
        lambda: average.update_parameters(module),
        lambda: own.update(ours),
        same=False,
        networks=False,
    )


CASES = {
    "decode": Case("temporal decoder, 8 frames, against diffusers' AutoencoderKLTemporalDecoder", 1.6, decode),
    "unet-64": Case(
        "video U-Net, 64 to 256 channels, 16 frames, against diffusers' SVD", 1.25, unet((64, 128, 256), 16)
    ),
    "unet-128": Case("the same, 128 to 512 channels, 8 frames", 1.1, unet((128, 256, 512), 8)),
    "step-64": Case("forward and back, 64 to 256 channels, 16 frames", 1.25, unet((64, 128, 256), 16, True)),
    "step-128": Case("forward and back, 128 to 512 channels, 8 frames", 1.1, unet((128, 256, 512), 8, True)),
    "driving": Case(
        "our video U-Net: the image U-Net's time over its own (goal: at most 1.5 times)", 1 / 1.5, driving((4, 4))
    ),
    "driving-feed": Case("the same with temporal.feed=[0,2]", 1 / 1.5, driving((0, 2))),
    "ema": Case("a step of the running average, against Lightning's EMAWeightAveraging", 1 / 0.4, averages),
}


# --- measuring --------------------------------------------------------------------------------------------------------


def seconds(call: Call, device: torch.device) -> float:
    """Processor seconds on a CPU; the device's own time on a GPU."""
    if device.type != "cuda":
        begin = time.process_time()
        call()
        return time.process_time() - begin
    begin_at, end_at = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin_at.record()
    call()
    end_at.record()
    torch.cuda.synchronize()
    return begin_at.elapsed_time(end_at) / 1000


def flops(call: Call) -> int:
    """Operations of products and convolutions, those of oneDNN's own linear layer included."""

    def linear(x: Any, weight: Any, *_: Any, **__: Any) -> int:
        return 2 * math.prod(x) * weight[0]

    known = {} if ONE_DNN is None else {torch.ops.mkldnn._linear_pointwise: linear}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        call()
    return int(counter.get_total_flops())


def differ(ours: Any, peer: Any) -> float:
    return float((ours - peer).abs().max() / peer.abs().max())


def measured(name: str, case: Case, rounds: int, device: torch.device) -> Row:
    pair = case.make(device)
    trained = name.startswith("step")
    with torch.enable_grad() if trained else torch.no_grad():
        error = differ(pair.ours(), pair.peer()) if pair.same else float("nan")
        if error > LIMIT:
            sys.exit(f"{name}: ours and the peer differ by {error:.1e}, more than {LIMIT:.0e}")
        work = [flops(call) if pair.networks else 0 for call in (pair.peer, pair.ours)]
        left, right = (torch.randn(PEAK_SIDE, PEAK_SIDE, device=device) for _ in range(2))
        times: list[tuple[float, float, float]] = []
        for call in (pair.peer, pair.ours, lambda: left @ right):
            call()
        for _ in range(rounds):
            peak = seconds(lambda: left @ right, device)
            times.append((seconds(pair.peer, device), seconds(pair.ours, device), peak))
    peer, ours, peak = (statistics.median(column) for column in zip(*times, strict=True))
    speed = 2 * PEAK_SIDE**3 / peak
    ratios = sorted(a / b for a, b, _ in times)
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    ratio = peer / ours
    shares = [count / spent / speed if count else float("nan") for count, spent in zip(work, (peer, ours), strict=True)]
    met = None if case.goal is None else ratio >= case.goal
    goal = "" if case.goal is None else f"{case.goal:.2f}"
    return Row(name, case.what, goal, peer, ours, ratio, quartiles[0], quartiles[2], error, shares[1], shares[0], met)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-keep", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if unknown := [name for name in args.rows if name not in CASES]:
        parser.error(f"no row '{unknown[0]}'")
    torch.set_num_threads(1)
    if not args.no_keep:
        memory.keep()
    device = torch.device(args.device)
    rows = []
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, {args.rounds} rounds, {device}")
    print("| row | peer, s | ours, s | ratio (quartiles) | goal | error | of the peak: ours, peer |")
    print("|---|---|---|---|---|---|---|")
    for name in args.rows or CASES:
        row = measured(name, CASES[name], args.rounds, device)
        rows.append(row)
        error = "" if row.error != row.error else f"{row.error:.0e}"
        share = "" if row.share != row.share else f"{row.share:.2f}, {row.peer_share:.2f}"
        print(
            f"| {row.what} | {row.peer_s:.3f} | {row.ours_s:.3f} | {row.ratio:.2f} ({row.low:.2f} to {row.high:.2f}) "
            f"| {row.goal} | {error} | {share} |",
            flush=True,
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
            "rounds": args.rounds,
        }
        args.json.write_text(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
