"""Does the distance grow as video gets worse? Five distortions of real clips, seen by both extractors of video.

    python -m tools.distortions ../shared --json runs/distortions.json --out docs/distortions.png

Every video is cut side by side into stretches, which are dealt in turn to the halves A and B. The clips of a stretch
overlap; no frame is in both halves. A is distorted ever more, and its distance is taken to two sets that are not: to B
(other clips, as in use; at strength 0 this is the floor, A as it is against B), and to A itself (0 at strength 0, so
that nothing is seen but the distortion). What is random is drawn once for a clip and then only grows: the same noise
louder, the same displacement further, the frames that were moved before and some more.

I3D has the random weights of the shared bundle, in which no distance is an FVD, or those of ``--i3d``. With ``--json``,
what was measured is kept as it comes: a second run goes on where the first was stopped, or only draws.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from drivesim import disk, randomness
from drivesim.data import sources, video
from drivesim.metrics import i3d
from drivesim.metrics.builtin import Builtin
from drivesim.metrics.features import Extractor, prepared_clips
from drivesim.metrics.frechet import Gaussian

SIZE = (256, 512)
FRAMES = 16
STRETCH, STARTS = 24, (0, 4, 8)
CELLS = (4, 8)  # of the displacement field: a cell is 64 pixels of SIZE


def blur(clip: np.ndarray, sigma: float, g: np.random.Generator) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in clip])


def noise(clip: np.ndarray, levels: float, g: np.random.Generator) -> np.ndarray:
    """Independent for each value, of standard deviation ``levels``; clipped and rounded as a file would hold it."""
    return (clip + np.float32(levels) * g.standard_normal(clip.shape, np.float32)).clip(0, 255).round().astype(np.uint8)


def shuffle(clip: np.ndarray, frames: float, g: np.random.Generator) -> np.ndarray:
    """``frames`` frames, anywhere in the clip, change places in a ring, so that each of them moves."""
    moved = g.permutation(len(clip))[: int(frames)]
    shuffled = clip.copy()
    shuffled[moved] = clip[np.roll(moved, 1)]
    return shuffled


def freeze(clip: np.ndarray, frames: float, g: np.random.Generator) -> np.ndarray:
    """The last ``frames`` frames repeat the one before them."""
    return clip[np.minimum(np.arange(len(clip)), len(clip) - 1 - int(frames))]


def warp(clip: np.ndarray, pixels: float, g: np.random.Generator) -> np.ndarray:
    """A smooth field of displacements, another for each frame, whose root mean square is ``pixels``.

    Sampled by Lanczos: a linear sample blurs as much at one pixel as at sixteen, which I3D sees before the warp.
    """
    height, width = clip.shape[1:3]
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    warped = np.empty_like(clip)
    for frame, into in zip(clip, warped, strict=True):
        grid = g.standard_normal((*CELLS, 2), np.float32)
        field = np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC))
        field = field * np.float32(pixels / np.sqrt((field**2).sum(-1).mean()))
        across, down = columns + field[..., 0], rows + field[..., 1]
        cv2.remap(frame, across, down, cv2.INTER_LANCZOS4, into, borderMode=cv2.BORDER_REFLECT)
    return warped


@dataclass(frozen=True)
class Distortion:
    """A way to make a clip uint8 ``T H W 3`` worse, and the strengths, growing, at which it is tried."""

    name: str
    unit: str
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    strengths: tuple[float, ...]

    def __call__(self, clip: np.ndarray, strength: float, number: int) -> np.ndarray:
        """Clip ``number`` is distorted by what is drawn for it, whatever the strength."""
        return self.apply(clip, strength, randomness.generator("distortions", self.name, number))

    def key(self, strength: float) -> str:
        return f"{self.name} {strength:g}"


# Noise begins where builtin-v1 sees it: that looks at means of 4x4 pixels of SIZE, and 8 levels stay within the floor's
# error there. Shuffling ends at 12 of 16 frames: beyond, hardly two neighbours are left, and the curve is flat.
DISTORTIONS = (
    Distortion("blur", "sigma, pixels", blur, (1, 2, 4, 8, 16)),
    Distortion("noise", "deviation, levels of 255", noise, (16, 32, 64, 96, 128)),
    Distortion("frame shuffle", f"frames moved, of {FRAMES}", shuffle, (2, 4, 6, 8, 12)),
    Distortion("frame freeze", f"frames held, of {FRAMES}", freeze, (3, 6, 9, 12, 15)),
    Distortion("local warp", "displacement, pixels", warp, (1, 2, 4, 8, 16)),
)


# --- clips and their vectors ------------------------------------------------------------------------------------------


def footage(shared: Path) -> list[Path]:
    """The videos of the shared bundle that datasets/clips takes."""
    recipe = Path(__file__).parents[1] / "datasets" / "clips" / "recipe.yaml"
    return sources.candidates((shared / "data" / "permissive").resolve(), sources.load_recipe(recipe))


def halves(files: Iterable[Path], size: tuple[int, int] = SIZE) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Clips uint8 ``16 H W 3`` of A and of B, each video at its own rate."""
    dealt: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    stretches = (stretch for file in files for stretch in _stretches(video.record(file, size=size).frames))
    for n, stretch in enumerate(stretches):
        dealt[n % 2].extend(stretch[start : start + FRAMES] for start in STARTS)
    return dealt


def _stretches(frames: np.ndarray) -> Iterator[np.ndarray]:
    for begin in range(0, len(frames) - STRETCH + 1, STRETCH):
        yield frames[begin : begin + STRETCH]


@dataclass(frozen=True)
class Looker:
    """An extractor that sees one clip in ``every``."""

    extractor: Extractor
    every: int = 1
    title: str = ""


def golden_i3d(shared: Path, precision: str) -> i3d.I3D:
    """I3D with the bundle's random weights, from a file like the public ones."""
    from tests.metrics import golden

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "golden.pt"
        torch.save(golden.tensors(golden.maker(shared).weights(), "hassony2"), file)
        return i3d.I3D(file, precision="bf16" if precision == "bf16" else "32")


def seen(lookers: Sequence[Looker], clips: Iterable[np.ndarray]) -> list[Gaussian]:
    """What each looker makes of ``clips``."""
    rows: list[list[Tensor]] = [[] for _ in lookers]
    for n, clip in enumerate(clips):
        for looker, into in zip(lookers, rows, strict=True):
            if n % looker.every == 0:
                into.append(looker.extractor(prepared_clips(looker.extractor, clip[None])))
    return [Gaussian.fit(torch.cat(row)) for row in rows]


# --- distances --------------------------------------------------------------------------------------------------------

AGAINST = ("others", "themselves")
Known = dict[str, list[list[float]]]
"""By distortion and strength: for each looker the distances of A, distorted, to B and to A as they are."""


def measure(
    lookers: Sequence[Looker],
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    known: Known,
    keep: Callable[[str], None] = lambda key: None,
) -> None:
    """Adds to ``known`` what it lacks, and tells ``keep`` of each."""
    todo = [(d, strength) for d in DISTORTIONS for strength in d.strengths if d.key(strength) not in known]
    if not todo:
        return
    others, themselves = seen(lookers, b), seen(lookers, a)

    def add(key: str, found: list[Gaussian]) -> None:
        known[key] = [[x.distance(f), y.distance(f)] for x, y, f in zip(others, themselves, found, strict=True)]
        keep(key)

    add("nothing", themselves)
    for distortion, strength in todo:
        add(distortion.key(strength), seen(lookers, (distortion(clip, strength, n) for n, clip in enumerate(a))))


def curve(known: Known, distortion: Distortion, looker: int, against: int) -> np.ndarray:
    """The distances of growing strengths, from 0 on."""
    return np.array([known[key][looker][against] for key in ("nothing", *map(distortion.key, distortion.strengths))])


def spearman(curve: np.ndarray) -> float:
    """Rank correlation of the distance with the strength: 1 where each step is larger than the one before."""
    ranks = np.array([(curve < value).sum() + ((curve == value).sum() - 1) / 2 for value in curve])
    return float(np.corrcoef(np.arange(len(curve)), ranks)[0, 1])


def table(known: Known, lookers: Sequence[Looker]) -> str:
    """The curves in rows, and whether each is monotone: no step smaller than the one before, and Spearman 1."""
    lines = []
    for n, looker in enumerate(lookers):
        lines.append(f"\n{looker.title}")
        for distortion in DISTORTIONS:
            lines.append(f"  {distortion.name + ': ' + distortion.unit:40s}  0  {_cells(distortion.strengths)}")
            for against, word in enumerate(AGAINST):
                values = curve(known, distortion, n, against)
                falls = any(after < before for before, after in pairwise(values))
                verdict = "NOT MONOTONE" if falls or spearman(values) < 1 - 1e-9 else "monotone"
                lines.append(f"    against {word:11s}{_cells(values)}   Spearman {spearman(values):.2f}  {verdict}")
    return "\n".join(lines)


def _cells(values: Iterable[float]) -> str:
    return " ".join(f"{value:9.4g}" for value in values)


# --- the picture ------------------------------------------------------------------------------------------------------

INK, GREY, BLUE, RED = "#222222", "#777777", "#2f6fc4", "#c8372d"


def draw(known: Known, lookers: Sequence[Looker], file: Path) -> None:
    """A row of small axes for each looker; a step down is red."""
    figure = Figure(figsize=(12.5, 2.7 * len(lookers) + 0.4), layout="constrained", facecolor="white")
    parts = np.atleast_1d(np.asarray(figure.subfigures(len(lookers), 1)))
    for n, (looker, part) in enumerate(zip(lookers, parts, strict=True)):
        part.suptitle(looker.title, color=INK, fontsize=11, x=0.01, ha="left")
        for axes, distortion in zip(part.subplots(1, len(DISTORTIONS)), DISTORTIONS, strict=True):
            _axes(axes, distortion, *(curve(known, distortion, n, against) for against in range(len(AGAINST))))
    figure.legend(
        *part.axes[0].get_legend_handles_labels(), ncols=4, fontsize=9, loc="outside lower center", frameon=False
    )
    figure.savefig(file, dpi=100, metadata={"Software": None}, pil_kwargs={"optimize": True})


def _axes(axes: Any, distortion: Distortion, others: np.ndarray, themselves: np.ndarray) -> None:
    axes.axhline(others[0], color=GREY, linewidth=1, linestyle=":", label="floor: undistorted, against other clips")
    looks = {"linewidth": 1.6, "marker": "o", "markersize": 4}
    axes.plot(others, color=BLUE, **looks, label="against other clips")
    axes.plot(themselves, color=GREY, **looks | {"linewidth": 1, "markersize": 2.5}, label="against themselves")
    axes.plot([], color=RED, linewidth=1.6, label="a step down")
    for values in (others, themselves):
        for place, (before, after) in enumerate(pairwise(values)):
            if after < before:
                axes.plot([place, place + 1], [before, after], color=RED, **looks, markevery=[1])
    axes.set_ylim(0, 1.08 * max(others.max(), themselves.max()))
    axes.set_xticks(range(len(others)), ["0", *(f"{strength:g}" for strength in distortion.strengths)])
    axes.set_title(distortion.name, color=INK, fontsize=10)
    axes.set_xlabel(distortion.unit, color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(axis="y", alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path, help="the shared bundle")
    parser.add_argument("--i3d", type=Path, help="weight file, in place of the bundle's random weights")
    parser.add_argument("--precision", choices=("bf16", "32"), default="bf16", help="of I3D")
    parser.add_argument("--every", type=int, default=2, help="I3D sees one clip in so many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="keeps what is measured, and goes on from it")
    parser.add_argument("--out", type=Path, help="the picture")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    a, b = halves(footage(options.shared))
    if options.i3d:
        large, name = i3d.I3D(options.i3d, precision=options.precision), "I3D"
    else:
        large, name = golden_i3d(options.shared, options.precision), "I3D with random weights"
    lookers = [
        Looker(extractor, every, f"{words}: {len(a[::every])} clips distorted, {len(b[::every])} others")
        for extractor, every, words in (
            (Builtin(), 1, "builtin-v1"),
            (large, options.every, f"{name}, {options.precision}"),
        )
    ]
    settings = {"extractors": [[looker.extractor.sha, looker.title] for looker in lookers], "size": list(SIZE)}
    kept: dict[str, Any] = {"settings": settings, "distances": {}}
    if options.json and options.json.is_file():
        kept = json.loads(options.json.read_text(encoding="utf-8"))
    if kept["settings"] != settings:
        raise SystemExit(f"{options.json}: of other clips, weights or settings; remove it")
    known: Known = kept["distances"]

    def keep(key: str) -> None:
        print(f"{key:20s}", *map(_cells, known[key]), flush=True)
        if options.json:
            disk.write_atomic(options.json, json.dumps(kept, indent=1).encode())

    measure(lookers, a, b, known, keep)
    print(table(known, lookers))
    if options.out:
        draw(known, lookers, options.out)


if __name__ == "__main__":
    main()
