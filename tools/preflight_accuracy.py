"""How far the preflight is from what is then measured:

    python tools/preflight_accuracy.py sampler.steps=4 upsample.sampler.steps=4
    python tools/preflight_accuracy.py --of driving --steps 4 --minutes 0.08 sampler.steps=2 start.steps=2

Trains every stage of ``configs/tiny`` for two steps on a small world, so that all weights are there, and then foretells
and runs three settings: a training at two sizes of the batch, and a rollout through all stages. ``--of driving``: the
paper's own sizes, 1.3 billion weights, as far as a prediction needs them; without the running average, and with
``loop.recompute``, as a machine of 24 GiB has no room for more; its training comes first and leaves the weights for the
rollout. 20 GB of disk.

Each time in a process of its own; the real runs are without a preflight, so that it cannot help. A table in Markdown
comes out: what was foretold, what was measured (``run.json``'s seconds and peak), and their ratio. On a machine that
does other things as well, ``--cpu-time`` counts the seconds of the processor, of all threads, on both sides.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from drivesim import config, disk
from drivesim.jobs import encode, generate, index, train
from drivesim.jobs.preflight import Estimate, size
from drivesim.training.diffusion import ImageStage

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
WORLD = {"name": "small", "kind": "world", "fps": 30, "val": 0.0}


@dataclass(frozen=True)
class Suite:
    """Weights that are made, and what is done with them.

    Args:
        world: of the footage, beside ``WORLD``. size: of the latents' frames.
        stages: their configurations are ``configs/NAME``'s, each trained with the settings ``first``.
        drawn: steps of the sample pictures that a training ends with.
        rates: of the caches, by name. settings: name, and the stage and batch of a training; None: a rollout.
    """

    world: dict[str, Any]
    size: tuple[int, int]
    stages: tuple[str, ...]
    first: tuple[str, ...]
    drawn: int
    rates: dict[str, Fraction]
    settings: dict[str, tuple[str, int] | None]


SUITES = {
    "tiny": Suite(
        {"clips": 12, "seconds": 6.5, "size": [256, 512]},
        (64, 128),
        tuple(train.STAGES),
        ("loop.steps=2", "loop.batch=2"),
        ImageStage.steps_drawn,
        {"slow": Fraction(15, 8), "fast": Fraction(30)},
        {"train image, batch 4": ("image", 4), "train image, batch 24": ("image", 24), "generate": None},
    ),
    "driving": Suite(
        {"clips": 2, "seconds": 7, "size": [128, 256]},
        (128, 256),
        ("autoencoder", "image"),
        (
            *("loop.steps=1", "loop.batch=1", "loop.workers=0", "loop.checkpoint_every=0"),
            *("loop.ema=0", "loop.recompute=true"),
        ),
        1,
        {"slow": Fraction(15, 8)},
        {"train keyframes, batch 1": ("keyframes", 1), "generate": None},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="default: runs/preflight-NAME")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=120, help="of each training (default 120)")
    parser.add_argument("--minutes", type=float, default=0.25, help="of the rollout (default 0.25)")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of the rollout")
    parser.add_argument("--of", choices=SUITES, default="tiny")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--dry", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work = args.work or Path("runs") / f"preflight-{args.of}"
    ImageStage.steps_drawn = SUITES[args.of].drawn
    if args.one:
        if args.cpu_time:
            time.perf_counter = time.process_time
        print(json.dumps(_dry(args) if args.dry else _real(args)))
        return
    _stack(args.of, args.work, args.device)
    print("| setting | time foretold | measured | ratio | peak foretold | measured | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in SUITES[args.of].settings:
        said, found = (_process(args, name, *words) for words in (["--dry"], []))
        cells = [f"{said['seconds']:.1f} s", f"{found['seconds']:.1f} s", _ratio(said["seconds"], found["seconds"])]
        cells += [size(said["peak"]), size(found["peak"]), _ratio(said["peak"], found["peak"])]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _process(args: argparse.Namespace, name: str, *words: str) -> dict[str, float]:
    given = [f"--{key}={getattr(args, key)}" for key in ("of", "work", "device", "steps", "minutes")]
    given += ["--cpu-time"] * args.cpu_time + args.settings
    command = [sys.executable, __file__, *given, "--one", name, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _ratio(said: float, found: float) -> str:
    return f"{said / found:.2f}"


def _run(args: argparse.Namespace, out: Path, dry_run: bool) -> None:
    setting = SUITES[args.of].settings[args.one]
    if setting is None:
        given: dict[str, Any] = {"minutes": args.minutes, "seeds": [1], "settings": args.settings}
        generate.run(None, args.work / "weights", out, device=args.device, dry_run=dry_run, **given)
        return
    stage, batch = setting
    words = [*SUITES[args.of].first, f"loop.steps={args.steps}", f"loop.batch={batch}", *_parents(args.work, stage)]
    train.run(stage, CONFIGS / args.of / f"{stage}.yaml", words, out, 0, args.device, dry_run=dry_run)


def _dry(args: argparse.Namespace) -> dict[str, Any]:
    seen: list[Estimate] = []
    Estimate.show = lambda self, room, console=None: seen.append(self)  # type: ignore[method-assign]
    _run(args, args.work / "nowhere", True)
    return {"seconds": seen[0].seconds, "peak": seen[0].peak}


def _real(args: argparse.Namespace) -> dict[str, Any]:
    train.rehearse = lambda *args, **more: None
    generate.foresee = lambda *_: Estimate("generate", (), None, 0, "nothing")
    out = args.work / "real" / args.one.replace(" ", "-").replace(",", "")
    shutil.rmtree(out, ignore_errors=True)
    _run(args, out, False)
    kept = json.loads((out / "run.json").read_text())
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    for file in (out / "weights").glob("*.safetensors"):
        if not (held := args.work / "weights" / file.name).is_file():
            file.rename(held)
    return {"seconds": sum(kept["seconds"].values()), "peak": kept["peak_bytes"]}


def _stack(name: str, work: Path, device: str) -> None:
    """All weights of the suite in ``work/weights``, as far as they are not there."""
    suite = SUITES[name]
    train.rehearse = lambda *args, **more: None
    (work / "weights").mkdir(parents=True, exist_ok=True)
    if not (work / "world").is_dir():
        disk.write_atomic(work / "world.yaml", config.to_yaml(WORLD | suite.world).encode())
        index.run(work / "world.yaml", work / "world", seed=7)
    for stage in suite.stages:
        kept = work / "weights" / f"{stage}.safetensors"
        if kept.is_file():
            continue
        if stage == "image":
            for cache, fps in suite.rates.items():
                if (work / cache).is_dir():
                    continue
                encode.run(work / "world", work / "weights", work / cache, fps, suite.size, device)
        words = [*suite.first, *_parents(work, stage)]
        train.run(stage, CONFIGS / name / f"{stage}.yaml", words, work / stage, 0, device).rename(kept)
        shutil.rmtree(work / stage)


def _parents(work: Path, stage: str) -> list[str]:
    held = {name: f"{name}={work / 'weights' / name}.safetensors" for name in ("autoencoder", "image", "upsampler")}
    slow, fast, world = f"cache={work / 'slow'}", f"cache={work / 'fast'}", f"index={work / 'world'}"
    return {
        "autoencoder": [world, "statistics=16"],
        "image": [slow, held["autoencoder"]],
        "keyframes": [slow, held["image"]],
        "interpolation": [fast, held["image"]],
        "decoder": [world, held["autoencoder"]],
        "upsampler": [world],
        "upsampler-temporal": [world, held["upsampler"]],
    }[stage]


if __name__ == "__main__":
    main()
