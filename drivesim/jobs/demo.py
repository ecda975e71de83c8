"""``drivesim demo``: the whole way, small, from a rendered world to a page with a scored rollout.

It calls the jobs that a user would call, with ``configs/tiny``, and says each as the command it is.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import drivesim
from drivesim import config, weights
from drivesim.data.index import Entry, Index
from drivesim.errors import Mistake
from drivesim.jobs import encode, evaluate, generate, index, report, train
from drivesim.jobs.run import recorded
from drivesim.scene import KEYFRAME_FPS

CONFIGS = Path(drivesim.__file__).resolve().parents[1] / "configs" / "tiny"
SECONDS = 120.0
SIZE = (64, 128)
SETTINGS = ["sampler.steps=10"]


@dataclass(frozen=True)
class Budget:
    """Most minutes of each training: with them the whole ends within ten minutes on two cores, slow ones too."""

    autoencoder: float = 1.4
    image: float = 2.1
    keyframes: float = 2.4


def run(out: Path, seed: int = 0, device: str = "cpu", budget: Budget | None = None) -> Path:
    """Trains, generates, scores; returns the page.

    Raises:
        Mistake: ``out`` is in use, or ``configs/tiny`` is not at hand (an installation without the checkout).
    """
    budget, out = budget or Budget(), Path(out)
    if not CONFIGS.is_dir():
        raise Mistake(
            "the demo's configurations are not here", where=CONFIGS, mend="run it from a checkout of drivesim"
        )
    if out.exists() and any(out.iterdir()):
        raise Mistake("this folder is not empty", where=out, mend="remove it, or name another --out")
    say, begun = Console(highlight=False).print, time.monotonic()
    with recorded(out, device, "demo", {"seed": seed}) as noted:

        def step(name: str, words: str) -> None:
            say(f"[bold]{time.monotonic() - begun:4.0f} s[/]  {words}")
            noted.facts["at"] = name

        step("world", "the world: footage to train on, and other drives held back")
        with noted.timing("world"):
            index.run(CONFIGS / "world.yaml", out / "world", seed=seed)
            index.run(CONFIGS / "held.yaml", out / "held", seed=seed)
        step("autoencoder", "train autoencoder: frames to latents")
        with noted.timing("autoencoder"):
            _train("autoencoder", out, seed, device, budget.autoencoder, f"index={out / 'world'}")
        step("encode", "encode: every frame once")
        with noted.timing("encode"):
            encode.run(
                out / "world", _weights(out, "autoencoder"), out / "cache", KEYFRAME_FPS, SIZE, device, precision="bf16"
            )
        step("image", "train image: single frames, by day and night")
        with noted.timing("image"):
            parent = f"autoencoder={_weights(out, 'autoencoder')}"
            _train("image", out, seed, device, budget.image, f"cache={out / 'cache'}", parent)
        step("keyframes", "train keyframes: temporal layers, the image model frozen")
        with noted.timing("keyframes"):
            parent = f"image={_weights(out, 'image')}"
            _train("keyframes", out, seed, device, budget.keyframes, f"cache={out / 'cache'}", parent)
        step("generate", "generate: two minutes from each of three openings that were held back")
        with noted.timing("generate"):
            openings = _scenarios(Index.open(out / "held").entries, out / "scenarios", seed)
            generate.run(
                out / "scenarios", out / "keyframes" / "weights", out / "drives", device=device, settings=SETTINGS
            )
        step("evaluate", "evaluate: against the drives that were held back, at the key-frame rate")
        with noted.timing("evaluate"):
            evaluate.run(out / "held", out / "drives", out=out, device=device)
    page = report.run(out, real=openings)
    seconds = json.loads((out / "run.json").read_text())["seconds"]
    say(", ".join(f"{name} {took:.0f} s" for name, took in seconds.items()))
    say(f"{time.monotonic() - begun:.0f} s in all. The report: {page}")
    return page


def _weights(out: Path, stage: str) -> Path:
    return out / stage / "weights" / f"{stage}.safetensors"


def _train(stage: str, out: Path, seed: int, device: str, minutes: float, *parents: str) -> None:
    overrides = [f"loop.minutes={minutes}", *parents]
    train.run(stage, CONFIGS / f"{stage}.yaml", overrides, out / stage, seed, device)


def _scenarios(held: list[Entry], folder: Path, seed: int) -> list[Path]:
    """Three files: the openings of two drives by day and one by night, each told its labels; the clips."""
    folder.mkdir(parents=True)
    day, night = ([e for e in held if bool(e.night) == dark] for dark in (False, True))
    chosen = [*day[:2], *night[:1]]
    for entry in chosen:
        scenario = {
            "version": 1,
            "opening": {"clip": str(entry.file.resolve()), "at": 2.0, "frames": 2},
            "seconds": SECONDS,
            "fps": "15/2",
            "seeds": [seed],
            "labels": {"night": entry.night, "cars": entry.cars},
        }
        name = f"{'night' if entry.night else 'day'}-{entry.file.stem}.yaml"
        weights.write_atomic(folder / name, config.to_yaml(scenario).encode())
    return [entry.file for entry in chosen]
