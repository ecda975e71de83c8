"""``drivesim demo``: from a rendered world to a page with scored rollouts, with the weights that come along; with
``--train`` the whole way, small, which trains its own.

It calls the jobs that a user would call, with their settings.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from rich.console import Console

import drivesim
from drivesim import config, disk
from drivesim.data.index import Entry, Index
from drivesim.errors import Mistake
from drivesim.jobs import encode, evaluate, generate, index, openings, report, tiny
from drivesim.jobs import train as training
from drivesim.jobs.run import recorded
from drivesim.scene import KEYFRAME_FPS

CONFIGS = Path(drivesim.__file__).resolve().parents[1] / "configs" / "tiny"
SECONDS, MINUTE = 120.0, 60.0
FPS = Fraction(15, 2)
SIZE = (64, 128)
SETTINGS = ["sampler.steps=10"]
FIRST_UNSEEN = 1000  # seeds of the world below this may have been trained on
WORLD = {
    "name": "world-demo", "licence": "Apache-2.0", "source": "drivesim.world", "kind": "world",
    "clips": 12, "seconds": 61, "fps": "15/8", "size": [128, 256], "val": 1.0,
}  # fmt: skip
Step = Callable[[str, str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Budget:
    """Most minutes of each training: with them the whole ends within ten minutes on two cores, slow ones too."""

    autoencoder: float = 1.4
    image: float = 2.1
    keyframes: float = 2.4


def run(out: Path, seed: int = 0, device: str = "cpu", budget: Budget | None = None, train: bool = False) -> Path:
    """With the weights that come along, or with such as are trained here: generates, scores; returns the page.

    Args:
        train: from scratch, with ``configs/tiny``, each training for as long as ``budget`` says.

    Raises:
        Mistake: ``out`` is in use, or ``configs/tiny`` is not at hand (an installation without the checkout).
    """
    out = Path(out)
    if train and not CONFIGS.is_dir():
        raise Mistake(
            "the demo's configurations are not here", where=CONFIGS, mend="run it from a checkout of drivesim"
        )
    if out.exists() and any(out.iterdir()):
        raise Mistake("this folder is not empty", where=out, mend="remove it, or name another --out")
    say, begun = Console(highlight=False).print, time.monotonic()
    with recorded(out, device, "demo", {"seed": seed, "train": train}) as noted:

        @contextmanager
        def step(name: str, words: str) -> Iterator[None]:
            say(f"[bold]{time.monotonic() - begun:4.0f} s[/]  {name}: {words}")
            noted.facts["at"] = name
            with noted.timing(name):
                yield

        real = _trained(out, seed, device, budget or Budget(), step) if train else _shipped(out, seed, device, step)
    page = report.run(out, real=[entry.file for entry in real])
    seconds = json.loads((out / "run.json").read_text())["seconds"]
    say(", ".join(f"{name} {took:.0f} s" for name, took in seconds.items()))
    say(f"{time.monotonic() - begun:.0f} s in all. The report: {page}")
    return page


def _shipped(out: Path, seed: int, device: str, step: Step) -> list[Entry]:
    """A minute by day and one by night, told the boxes of drives that no model has seen."""
    with step("world", "footage of drives that the weights have not seen, with the boxes of its traffic"):
        disk.write_atomic(out / "world.yaml", config.to_yaml(WORLD).encode())
        held = Index.open(index.run(out / "world.yaml", out / "held", seed=FIRST_UNSEEN + seed))
    with step("generate", "a minute by day and one by night, with the traffic where those drives have it"):
        opened = _scenarios(held, out / "scenarios", 1, seed, MINUTE, boxes=True)
        generate.run(out / "scenarios", tiny.FOLDER, out / "drives", device=device)
    with step("evaluate", "against those drives, and whether the traffic is where it was told to be"):
        settings = evaluate.Settings(boxes=True, fps=KEYFRAME_FPS)
        evaluate.run(out / "held", out / "drives", out=out, device=device, settings=settings)
    return opened


def _trained(out: Path, seed: int, device: str, budget: Budget, step: Step) -> list[Entry]:
    """The whole way, small."""
    with step("world", "footage to train on, and other drives held back"):
        index.run(CONFIGS / "world.yaml", out / "world", seed=seed)
        held = Index.open(index.run(CONFIGS / "held.yaml", out / "held", seed=seed))
    with step("autoencoder", "train autoencoder: frames to latents"):
        _train("autoencoder", out, seed, device, budget.autoencoder, f"index={out / 'world'}")
    with step("encode", "every frame once"):
        encode.run(
            out / "world", _weights(out, "autoencoder"), out / "cache", KEYFRAME_FPS, SIZE, device, precision="bf16"
        )
    with step("image", "train image: single frames, by day and night"):
        parent = f"autoencoder={_weights(out, 'autoencoder')}"
        _train("image", out, seed, device, budget.image, f"cache={out / 'cache'}", parent)
    with step("keyframes", "train keyframes: temporal layers, the image model frozen"):
        parent = f"image={_weights(out, 'image')}"
        _train("keyframes", out, seed, device, budget.keyframes, f"cache={out / 'cache'}", parent)
    with step("generate", "two minutes from each of three openings that were held back"):
        opened = _scenarios(held, out / "scenarios", 2, seed, SECONDS, boxes=False)
        generate.run(out / "scenarios", out / "keyframes" / "weights", out / "drives", device=device, settings=SETTINGS)
    with step("evaluate", "against the drives that were held back, at the key-frame rate"):
        evaluate.run(out / "held", out / "drives", out=out, device=device)
    return opened


def _weights(out: Path, stage: str) -> Path:
    return out / stage / "weights" / f"{stage}.safetensors"


def _train(stage: str, out: Path, seed: int, device: str, minutes: float, *parents: str) -> None:
    overrides = [f"loop.minutes={minutes}", *parents]
    training.run(stage, CONFIGS / f"{stage}.yaml", overrides, out / stage, seed, device)


def _scenarios(held: Index, folder: Path, days: int, seed: int, seconds: float, boxes: bool) -> list[Entry]:
    """Writes those of the first ``days`` drives by day and of the first one by night, told their labels and, if asked
    for, their boxes; their clips."""
    folder.mkdir(parents=True)
    day, night = ([e for e in held.entries if bool(e.night) == dark] for dark in (False, True))
    chosen = [*day[:days], *night[:1]]
    for entry in chosen:
        name = f"{'night' if entry.night else 'day'}-{entry.file.stem}"
        told = held.boxes(entry.clip_id) if boxes else None
        openings.write(entry, told, folder, name, seconds, FPS, seed, at=0.0 if boxes else 2.0)
    return chosen
