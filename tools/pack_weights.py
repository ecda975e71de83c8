"""Weights as they are shipped: a whole stack in bfloat16, its files named as each other's parents, and its card.

    python tools/pack_weights.py RUN/weights [RUN/weights ...] --bounds 0.75 --out drivesim/jobs/tiny

Every folder holds STAGE.safetensors of the same stack; of a stage that is in several, the last is taken. Rounding
changes a file's hash, by which the stages that were trained on it know it: so their headers get the new one. What a
file was made of stays in its header as ``train.packed``. ``--bounds`` is what rollouts keep key-frames within where
they do not say otherwise (``RolloutConfig.bounds``). Prints a row of the card a file, and fails above 16 MB.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from drivesim import disk, weights
from drivesim.jobs.train import STAGES

LIMIT = 16_000_000  # bytes, of all files


def pack(folders: list[Path], out: Path, bounds: float | None = None) -> list[str]:
    """The rows of the card."""
    found: dict[str, Path] = {}
    for folder in folders:
        found |= {file.stem: file for file in sorted(folder.glob("*.safetensors")) if file.stem in STAGES}
    renamed: dict[str, str] = {}
    rows = ["| file | parameters | bytes | steps | hours | SHA-256 |", "|---|---|---|---|---|---|"]
    for stage, file in ((stage, found[stage]) for stage in STAGES if stage in found):  # parents first
        tensors, header = weights.load(file, stage)
        before = disk.sha256(file)
        parents = {parent: renamed[sha] for parent, sha in header.parents.items()}  # KeyError: of another stack
        made = replace(header, parents=parents, train={**header.train, "packed": before})
        if stage == "keyframes" and bounds is not None:
            made = replace(made, latent={**made.latent, "usual": {**made.latent["usual"], "bounds": bounds}})
        place = out / file.name
        renamed[before] = weights.save(place, {name: halved(tensor) for name, tensor in tensors.items()}, made)
        count = sum(tensor.numel() for tensor in tensors.values()) / 1e6
        told = f"{header.train.get('steps')} | {header.train.get('hours')} | `{renamed[before]}`"
        rows.append(f"| {file.name} | {count:.2f} M | {place.stat().st_size:,} | {told} |")
    return rows


def halved(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16() if tensor.is_floating_point() else tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--bounds", type=float)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.bounds is not None and args.bounds <= 0:
        parser.error("--bounds is above 0")
    print("\n".join(pack(args.folders, args.out, args.bounds)))
    size = sum(file.stat().st_size for file in args.out.glob("*.safetensors"))
    print(f"{size:,} bytes in all")
    if size > LIMIT:
        raise SystemExit(f"more than {LIMIT:,}")


if __name__ == "__main__":
    main()
