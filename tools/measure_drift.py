"""Does a long rollout stay as good as it began? Many rollouts from held-back openings, by settings side by side.

    python tools/measure_drift.py roll WEIGHTS HELD --out runs/drift/all [--rollouts 64] [--set KEY=VALUE ...]
    python tools/measure_drift.py score HELD runs/drift/all other=runs/drift/none ... --json FILE [--picture FILE.png]
    python tools/measure_drift.py clips HELD runs/drift/all [--count 2] --json FILE

``roll`` makes rollouts at the key-frame rate, told the boxes and labels of their clips; it goes on where it stopped.
``score`` takes from every rollout the same number of clips of 16 frames out of seconds 10 to 40, and out of the last 30
(7 each, evenly: 448 of 64 rollouts), and says their distance (fvd[builtin-v1]) from as many real clips, with the group
jackknife's standard error; the same of real clips whose first frame stands still; and saturation, contrast and motion
beside the real ones. The curve takes 7 clips out of every 10 seconds.
``clips`` scores rollouts of any length: so many clips of 16 frames of each, behind its opening, against as many real
ones; FVD, and FID of four frames a clip, without their bias, with their standard errors.
"""

import argparse
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from drivesim.data import video
from drivesim.data.index import Index
from drivesim.disk import write_atomic
from drivesim.errors import Mistake
from drivesim.jobs import generate, openings
from drivesim.metrics import drift
from drivesim.metrics.builtin import Builtin, BuiltinFrames
from drivesim.metrics.features import prepared_clips
from drivesim.metrics.jackknife import frechet
from drivesim.scene import KEYFRAME_FPS

FRAMES, CLIPS, SINGLE = 16, 7, 4
STRETCH = 30.0
SHOWN = ("saturation", "contrast", "motion", "brightness", "sharpness")
Plain = dict[str, Any]


# --- roll -------------------------------------------------------------------------------------------------------------


def roll(args: argparse.Namespace) -> None:
    """Openings are spread over the held-back clips as they come; a clip's next rollout starts later."""
    index, scenarios = Index.open(args.index), args.out / "scenarios"
    needed = args.seconds + 1 if args.boxes else 2  # told no boxes, it needs the opening alone
    entries = [entry for entry in index.entries if entry.seconds >= needed]
    if not entries:
        raise Mistake(
            f"no clip lasts {needed:g} seconds", where=args.index, mend="--no-boxes needs no more than openings"
        )
    if not scenarios.is_dir():
        scenarios.mkdir(parents=True)
        for n in range(args.rollouts):
            entry = entries[n % len(entries)]
            later = (n // len(entries)) * float(16 / KEYFRAME_FPS)
            at = min(later, float(entry.seconds) - needed)
            boxes = index.boxes(entry.clip_id) if args.boxes else None
            entry = entry if args.labels else replace(entry, night=None, cars=None)
            openings.write(entry, boxes, scenarios, f"{n:03d}", args.seconds, KEYFRAME_FPS, seed=n, at=round(at, 3))
    generate.run(
        scenarios,
        args.weights,
        args.out / "rollouts",
        resume=True,
        settings=args.settings,
        export="none" if args.boxes else None,
    )


# --- score ------------------------------------------------------------------------------------------------------------


def score(args: argparse.Namespace) -> None:
    look = Builtin()
    index = Index.open(args.index)
    films = [entry.file for entry in index.entries]
    real = [Film(file, look) for file in films]
    count = max(1, round(448 / len(real)))
    whole = [film.clips(0.0, film.seconds, count) for film in real]
    features, stills = (torch.cat(parts) for parts in zip(*((look(a), look(still(a))) for a in whole), strict=True))
    half = len(features) // 2  # of drives: clips of a drive lie side by side
    found: Plain = {
        "real clips": len(features),
        "floor": told(features[:half], features[half:]),
        "frozen": told(features[:half], stills[half:]),
        "true": {name: float(value) for name, value in statistics(real, 0.0, None).items()},
        "rows": {},
    }
    for word in args.folders:
        name, _, folder = word.rpartition("=")
        name, folder = name or Path(folder).name, Path(folder)
        made = [Film(file, look) for file in sorted(folder.glob("rollouts/*/video.mp4"))]
        length = min(film.seconds for film in made)
        places = {"10 to 40": (10.0, 40.0), "last 30": (length - STRETCH, length)}
        row: Plain = {"rollouts": len(made), "seconds": length}
        for place, (begin, end) in places.items():
            clips = torch.cat([look(film.clips(begin, end, CLIPS)) for film in made])
            row[place] = {"clips": len(clips), **told(features, clips), **statistics(made, begin, end)}
        row["ratio"] = row["last 30"]["fvd"] / row["10 to 40"]["fvd"]
        row["curve"] = [
            {"t0": t, **told(features, torch.cat([look(film.clips(t, t + 10, 2)) for film in made]))}
            for t in np.arange(0.0, length - 9, 10.0).tolist()
        ]
        found["rows"][name] = row
        print(line(name, row, found))
    write_atomic(args.json, (json.dumps(found, indent=1) + "\n").encode())
    if args.picture:
        draw(found, args.picture)


# --- clips ------------------------------------------------------------------------------------------------------------


def clips(args: argparse.Namespace) -> None:
    made = [Film(file, Builtin()) for file in sorted(args.folder.glob("rollouts/*/video.mp4"))]
    real = [Film(entry.file, Builtin()) for entry in Index.open(args.index).entries]
    each = max(1, round(args.count * len(made) / len(real)))
    after = float(1 / KEYFRAME_FPS)  # a rollout begins with the last frame of its opening
    found: Plain = {"clips": args.count * len(made), "real clips": each * len(real)}
    for name, seen in (("fvd", moving), ("fid", single)):
        sides = seen(real, 0.0, each), seen(made, after, args.count)
        found |= {name if key == "fvd" else f"{name} {key}": value for key, value in told(*sides).items()}
    true, own = statistics(real, 0.0, None), statistics(made, after, None)
    found |= {key: own[key] / true[key] for key in SHOWN}
    print(json.dumps(found))
    write_atomic(args.json, (json.dumps(found, indent=1) + "\n").encode())


def moving(films: list["Film"], begin: float, count: int) -> Tensor:
    """``N d``, a row a clip."""
    look = Builtin()
    return torch.cat([look(film.clips(begin, film.seconds, count)) for film in films])


def single(films: list["Film"], begin: float, count: int) -> Tensor:
    """``N r d``, a row a frame."""
    look = BuiltinFrames()
    frames = torch.cat([prepared_clips(look, film.pictures(begin, film.seconds, count)[:, None]) for film in films])
    return rearrange(look(frames), "(n r) d -> n r d", r=SINGLE)


class Film:
    """A video at the key-frame rate, as the network looks at it and as it is."""

    def __init__(self, file: Path, look: Builtin):
        self.frames = np.concatenate([clip.frames for clip in video.stream(file, fps=KEYFRAME_FPS, chunk=64)])
        self.prepared = prepared_clips(look, self.frames[None])[0]
        self.seconds = float(Fraction(len(self.frames)) / KEYFRAME_FPS)

    def clips(self, begin: float, end: float, count: int) -> Tensor:
        """``count`` clips as prepared, evenly in the seconds ``[begin, end)``; they may overlap."""
        return torch.stack([self.prepared[n : n + FRAMES] for n in self.starts(begin, end, count)])

    def pictures(self, begin: float, end: float, count: int) -> np.ndarray:
        """Of each of those clips, ``SINGLE`` frames: uint8 ``N H W 3``."""
        places = np.linspace(0, FRAMES - 1, SINGLE).round().astype(int)
        return np.concatenate([self.frames[n + places] for n in self.starts(begin, end, count)])

    def starts(self, begin: float, end: float, count: int) -> list[int]:
        first, last = round(begin * float(KEYFRAME_FPS)), min(len(self.frames), round(end * float(KEYFRAME_FPS)))
        return [int(n) for n in np.linspace(first, last - FRAMES, count).round()]


def still(clips: Tensor) -> Tensor:
    return clips[:, :1].expand_as(clips)


def told(real: Tensor, made: Tensor) -> dict[str, float]:
    estimate = frechet(real.double(), made.double())
    if estimate is None:
        raise SystemExit("too few clips for an error: 16 rollouts or more")
    return {"fvd": estimate.value, "se": estimate.se}


def statistics(films: list[Film], begin: float, end: float | None) -> dict[str, float]:
    """Means over all frames of those seconds."""
    fps = float(KEYFRAME_FPS)
    parts = [film.frames[round(begin * fps) : None if end is None else round(end * fps)] for film in films]
    mean = torch.stack([drift.statistics(part) for part in parts]).mean(0).tolist()
    of = dict(zip(drift.STATISTICS, mean, strict=True))
    return {name: of[name] for name in SHOWN}


def line(name: str, row: Plain, found: Plain) -> str:
    early, late, true = row["10 to 40"], row["last 30"], found["true"]
    shares = "  ".join(f"{key} {late[key] / true[key]:.2f}" for key in SHOWN)
    return (
        f"{name}: {early['fvd']:.1f} ± {early['se']:.1f} -> {late['fvd']:.1f} ± {late['se']:.1f}, "
        f"ratio {row['ratio']:.2f}; "
        f"frozen {found['frozen']['fvd']:.1f}, floor {found['floor']['fvd']:.1f}; last 30 s of true: {shares}"
    )


def draw(found: Plain, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for name, row in found["rows"].items():
        x = [point["t0"] + 5 for point in row["curve"]]
        axes.errorbar(x, [p["fvd"] for p in row["curve"]], [p["se"] for p in row["curve"]], label=name, capsize=3)
    for name, style in (("frozen", "--"), ("floor", ":")):
        axes.axhline(found[name]["fvd"], color="grey", linestyle=style, label=f"real clips, {name}")
    axes.set(xlabel="seconds", ylabel="fvd[builtin-v1]", ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    cv2.setNumThreads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    own = commands.add_parser("roll")
    own.add_argument("weights", type=Path)
    own.add_argument("index", type=Path)
    own.add_argument("--set", nargs="*", action="extend", default=[], dest="settings", metavar="KEY=VALUE")
    own.add_argument("--out", type=Path, required=True)
    own.add_argument("--rollouts", type=int, default=64)
    own.add_argument("--seconds", type=float, default=60.0)
    own.add_argument("--no-boxes", dest="boxes", action="store_false")
    own.add_argument("--no-labels", dest="labels", action="store_false")
    own.set_defaults(run=roll)
    own = commands.add_parser("score")
    own.add_argument("index", type=Path)
    own.add_argument("folders", nargs="+", metavar="[NAME=]FOLDER")
    own.add_argument("--json", type=Path, required=True)
    own.add_argument("--picture", type=Path)
    own.set_defaults(run=score)
    own = commands.add_parser("clips")
    own.add_argument("index", type=Path)
    own.add_argument("folder", type=Path)
    own.add_argument("--count", type=int, default=1, help="clips a rollout")
    own.add_argument("--json", type=Path, required=True)
    own.set_defaults(run=clips)
    args = parser.parse_args()
    try:
        args.run(args)
    except Mistake as mistake:
        parser.exit(2, f"{mistake}\n")


if __name__ == "__main__":
    main()
