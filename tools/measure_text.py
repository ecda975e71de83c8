"""Does a video show what it was told in words? A small classifier that has learned true frames of the world says so.

    python tools/measure_text.py pictures --out runs/t/fog       # of a subject that the world does not have
    python tools/measure_text.py prompts WEIGHTS --out runs/t/prompts --seeds 16 [--only TEXT ...] [--backbone W]
    python tools/measure_text.py score runs/t/prompts ... --json FILE

``prompts`` makes one video for each seed and each of the world's captions (or of ``--only``). ``score`` trains the
classifier, from scratch and from the same seed every time, on frames of worlds of its own by day, at night and in fog:
is it night, is there fog, and how many vehicles are seen. It is held against other true worlds first, whole and
blurred, since a small model's frames are soft. Then it looks at every frame of every video; a video is what its frames
are on average, and is counted by the prompt in its ``scenario.yaml``.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drivesim import yamlfile
from drivesim.data import video
from drivesim.data.captions import DENSE, of_world
from drivesim.disk import write_atomic
from drivesim.jobs import generate
from drivesim.randomness import generator
from drivesim.scene import CARS, to_model
from drivesim.world import World
from drivesim.world.drive import one_thread

SIZE = (64, 128)
TRAIN, HELD, SUBJECT = 40_000_000, 41_000_000, 42_000_000  # first seeds of worlds
SEEN = 0.25  # share of a vehicle from which on it counts, as for the label
WORLDS, FRAMES, STEPS, BATCH = 900, 6, 1500, 32
FOG = (196.0, 200.0, 205.0)
FOG_AT = 22.0  # metres after which fog hides two thirds of an object
CAPTIONS = [of_world(night, cars) for night in (False, True) for cars in (0, 1, DENSE)]
Plain = dict[str, Any]


def world(seed: int, fog: bool = False) -> World:
    made = World(seed)
    if fog:
        made.look = replace(
            made.look, haze=FOG, horizon=FOG, zenith=FOG, hill=FOG, haze_at=FOG_AT, clouds=0.0, sun=False, ambient=0.9
        )
    return made


# --- pictures of a subject --------------------------------------------------------------------------------------------


def pictures(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True)
    seeds = (seed for seed in count(SUBJECT) if not World(seed).look.night)
    for n, seed in enumerate(islice(seeds, args.count)):
        with one_thread():
            frame, _ = world(seed, fog=True).frame(3.0, SIZE)
        cv2.imwrite(str(args.out / f"{n:02d}.png"), frame[..., ::-1])
    print(f"{args.out}: {args.count} pictures of fog")


# --- videos by prompt -------------------------------------------------------------------------------------------------


def prompts(args: argparse.Namespace) -> None:
    for n, prompt in enumerate(args.only or CAPTIONS):
        generate.run(
            None, args.weights, args.out / f"{n:02d}", prompt=prompt, temporal_prompt=args.temporal_prompt,
            backbone=args.backbone, seeds=list(range(args.seeds)), settings=args.settings, resume=True,
        )  # fmt: skip


# --- the classifier ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames uint8 ``N H W 3``, and of each whether it is night, whether there is fog, and how many vehicles are
    seen, ``N`` each."""

    pictures: np.ndarray
    night: np.ndarray
    fog: np.ndarray
    cars: np.ndarray


def rendered(first: int, worlds: int) -> Frames:
    """``FRAMES`` of each world, half a minute in all; a third of the worlds by day are in fog."""
    rows = []
    with one_thread():
        for seed in range(first, first + worlds):
            fog = seed % 3 == 0 and not World(seed).look.night
            own = world(seed, fog)
            for n in range(FRAMES):
                frame, seen = own.frame(6 * n, SIZE)
                cars = sum(each.cls in CARS and each.visibility >= SEEN for each in seen)
                rows.append((frame, own.look.night, fog, cars))
    frames, *told = zip(*rows, strict=True)
    return Frames(np.stack(frames), *(np.array(each) for each in told))


class Classifier(nn.Sequential):
    """``B 3 64 128`` in [-1, 1] to ``B 3``: logits of night and of fog, and the logarithm of 1 + vehicles."""

    def __init__(self) -> None:
        layers, width = list[nn.Module](), 3
        for wider in (16, 32, 64, 96):
            layers += [nn.Conv2d(width, wider, 3, stride=2, padding=1), nn.BatchNorm2d(wider), nn.SiLU()]
            width = wider
        super().__init__(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(width * 4 * 8, 3))


def learned(frames: Frames, seed: int = 0) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier().train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, STEPS)
        told = torch.from_numpy(np.stack([frames.night, frames.fog, np.log1p(frames.cars)], 1)).float()
        for step in range(STEPS):
            g = generator("measure_text", seed, step)
            chosen = g.integers(len(frames.pictures), size=BATCH)
            softened = np.stack([_soft(frames.pictures[n], g) for n in chosen])
            loss = _loss(network(to_model(softened)), told[torch.from_numpy(chosen)])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def _loss(said: Tensor, told: Tensor) -> Tensor:
    clear = 1 - told[:, 1]  # nobody can count what is in fog
    counted = F.smooth_l1_loss(said[:, 2], told[:, 2], reduction="none")
    return F.binary_cross_entropy_with_logits(said[:, :2], told[:, :2]) + (clear * counted).mean()


def _soft(picture: np.ndarray, g: np.random.Generator) -> np.ndarray:
    """Mirrored, in another light, blurred, and with noise, each now and then: a small model's frames are soft."""
    soft: np.ndarray = picture.astype(np.float32) * g.uniform(0.85, 1.15)
    if g.random() < 0.5:
        soft = cv2.GaussianBlur(soft, (0, 0), float(g.uniform(0.3, 1.5)))
    if g.random() < 0.5:
        soft = soft + g.standard_normal(soft.shape, np.float32) * g.uniform(1, 8)
    soft = soft[:, ::-1] if g.random() < 0.5 else soft
    return soft.clip(0, 255).round().astype(np.uint8)


@torch.inference_mode()
def looked(network: Classifier, frames: np.ndarray) -> np.ndarray:
    """Of each of ``T H W 3``: likelihood of night, of fog, and the number of vehicles, ``T 3``."""
    fitted = np.stack([video.fit(frame, SIZE) for frame in frames])
    said = torch.cat([network(to_model(part)) for part in np.array_split(fitted, max(1, len(fitted) // 64))])
    return torch.cat([said[:, :2].sigmoid(), said[:, 2:].expm1().clamp(min=0)], 1).numpy()


def trusted(network: Classifier, frames: Frames) -> Plain:
    """How well it knows true frames of worlds that it has not seen."""
    found: Plain = {"frames": len(frames.pictures)}
    for name, sigma in (("true", 0.0), ("blurred by a pixel", 1.0)):
        shown = [cv2.GaussianBlur(frame, (0, 0), sigma) if sigma else frame for frame in frames.pictures]
        said, clear = looked(network, np.stack(shown)), ~frames.fog
        cars, true = said[clear, 2], frames.cars[clear]
        found[name] = {
            "night": float(((said[:, 0] > 0.5) == frames.night).mean()),
            "fog": float(((said[:, 1] > 0.5) == frames.fog).mean()),
            "cars off": float(np.abs(cars - true).mean()),
            "cars correlate": float(np.corrcoef(cars, true)[0, 1]),
            "by number": {
                word: float(np.mean(own)) if len(own := cars[(true >= low) & (true < high)]) else None
                for word, low, high in (("0", 0, 1), ("1 to 4", 1, DENSE), ("5 and more", DENSE, 99))
            },
        }
    return found


# --- score ------------------------------------------------------------------------------------------------------------


def runs(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Prompt and video of every run below."""
    for folder in folders:
        for file in sorted(folder.rglob("video.mp4")):
            words = yamlfile.read(file.with_name("scenario.yaml"))
            told = words.get("labels") or (words["opening"].get("generate") or {})
            yield f"{folder.name}: {told['prompt']}", file


def score(args: argparse.Namespace) -> None:
    network = learned(rendered(TRAIN, WORLDS))
    found: Plain = {"classifier": trusted(network, rendered(HELD, WORLDS // 4)), "prompts": {}}
    print(json.dumps(found["classifier"], indent=1))
    by_prompt = defaultdict[str, list[np.ndarray]](list)
    for prompt, file in runs(args.folders):
        frames = video.record(file).frames
        by_prompt[prompt].append(looked(network, frames[:: args.every]).mean(0))
    print("| told | videos | night | fog | vehicles |\n|---|---:|---:|---:|---:|")
    for prompt, rows in by_prompt.items():
        means = np.stack(rows)
        error = means.std(0, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else means[0] * np.nan
        share = (means[:, :2] > 0.5).mean(0)
        found["prompts"][prompt] = {
            "videos": len(means), "night": float(share[0]), "fog": float(share[1]), "cars": float(means[:, 2].mean()),
            "cars se": float(error[2]), "each": means.tolist(),
        }  # fmt: skip
        print(
            f"| {prompt} | {len(means)} | {share[0]:.2f} | {share[1]:.2f} | {means[:, 2].mean():.2f} ± {error[2]:.2f} |"
        )
    if args.json:
        write_atomic(args.json, (json.dumps(found, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    first = parts.add_parser("pictures")
    first.add_argument("--out", type=Path, required=True)
    first.add_argument("--count", type=int, default=16)
    first.set_defaults(run=pictures)
    second = parts.add_parser("prompts")
    second.add_argument("weights", type=Path)
    second.add_argument("--out", type=Path, required=True)
    second.add_argument("--seeds", type=int, default=16)
    second.add_argument("--only", nargs="+", help="prompts in the place of the world's captions")
    second.add_argument("--temporal-prompt")
    second.add_argument("--backbone", type=Path)
    second.add_argument("--settings", nargs="*", default=[], help="KEY=VALUE, as of 'drivesim generate'")
    second.set_defaults(run=prompts)
    last = parts.add_parser("score")
    last.add_argument("folders", type=Path, nargs="+")
    last.add_argument("--json", type=Path)
    last.add_argument("--every", type=int, default=8, help="looks at every eighth frame (default)")
    last.set_defaults(run=score)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
