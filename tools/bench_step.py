"""Time and peak memory of training steps at full width:

    python tools/bench_step.py keyframes configs/driving/keyframes.yaml --image configs/driving/image.yaml --batch 1

Random latents and labels; forward, loss, backward, clipping and AdamW as in training. ``bf16`` holds weights, gradients
and moments in bfloat16, the least that a step can take; ``mixed`` holds them in float32 and computes in bfloat16, as
training does.
"""

import argparse
import resource
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from drivesim import config
from drivesim.diffusion.loss import DiffusionLoss
from drivesim.diffusion.noise import Schedule
from drivesim.jobs.builders.latents import ImageRun, KeyframesRun
from drivesim.models.temporal import TemporalLayers
from drivesim.models.video import ImageModel, VideoUNet
from drivesim.scene import Condition


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("image", "keyframes"))
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--image", type=Path, help="keyframes: the configuration of the image model")
    parser.add_argument("--latent", default="16x32", help="height and width of the latents")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=("bf16", "mixed", "32"), default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    device, (h, w) = torch.device(args.device), map(int, args.latent.split("x"))
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32

    kind: type[ImageRun | KeyframesRun] = ImageRun if args.stage == "image" else KeyframesRun
    run = config.load(kind, args.config, args.overrides)
    image_run = run if isinstance(run, ImageRun) else config.load(ImageRun, args.image)
    torch.set_default_dtype(dtype)  # no float32 copy is ever made
    with device:
        image = ImageModel(image_run.model)
        temporal = None
        if isinstance(run, KeyframesRun):
            image.requires_grad_(False)
            temporal = TemporalLayers(run.temporal, image.unet)
    torch.set_default_dtype(torch.float32)
    frames = temporal.config.frames if temporal else 1
    network = VideoUNet(image.unet, temporal)
    trained = list((temporal or image).parameters())
    optimiser = torch.optim.AdamW(trained, lr=run.loop.lr, weight_decay=run.loop.weight_decay, fused=True)
    loss_of = DiffusionLoss(Schedule(image_run.schedule), run.loss)

    millions = [round(sum(p.numel() for p in held) / 1e6) for held in (trained, network.parameters())]
    print(f"{millions[0]} M trained of {millions[1]} M; {args.batch} x {frames} frames of {h}x{w}, {args.precision}")
    x = torch.randn(args.batch, frames, image_run.model.out_channels, h, w, device=device, dtype=dtype)
    mask = (torch.arange(frames, device=device) < min(2, frames - 1)).to(x).expand(args.batch, frames)
    for step in range(args.steps):
        begin, busy = time.perf_counter(), time.process_time()
        with torch.autocast(device.type, torch.bfloat16) if args.precision == "mixed" else nullcontext():
            labels = torch.zeros(args.batch, dtype=torch.long, device=device)
            condition = Condition(
                tokens=image.labels(labels, labels) if image.labels else None,
                context=x * mask[..., None, None, None],
                context_mask=mask,
                context_level=0 * mask,
                given=labels + 2,
            )
            u = torch.full((args.batch,), 0.5, device=device)
            loss = loss_of(network, x, torch.randn_like(x), u, condition, mask == 0).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, run.loop.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds, busy = time.perf_counter() - begin, time.process_time() - busy
        peak = (
            torch.cuda.max_memory_allocated(device) / 2**30
            if device.type == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        )
        took = f"{seconds:.1f} s ({busy:.1f} s of processor)"
        print(f"step {step}: {took}, peak {peak:.2f} GiB, loss {float(loss.detach()):.3f}", flush=True)


if __name__ == "__main__":
    main()
