"""Is generated video good enough to train on? A detector trained on it beside one trained on true frames.

    python tools/train_on_generated.py --generated RUNS --true INDEX --held INDEX --steps 3000 --seeds 2 --out FILE.json

The network and the training are those of ``make_detector.py``, from scratch: (a) on the videos of a folder of runs of
``drivesim generate`` with the labels that they were exported with, (b) on as many true frames with true boxes (an
index's ``train``), for as many steps. Frames that a run took from a real opening (``real`` in ``labels.parquet``) are
left out of (a). What is printed is the AP50 of both on held-back true frames (an index's ``val``) and their ratio; its
interval covers the held-back clips and the seeds of the training, both drawn anew (bootstrap, 95 %).
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import make_detector
import numpy as np
import pyarrow.parquet as pq
import torch
from make_detector import Frames

import drivesim
from drivesim import disk, randomness
from drivesim.data import generated, video
from drivesim.data.index import Entry, Index
from drivesim.errors import Mistake
from drivesim.metrics import detector, precision
from drivesim.metrics.detector import CLASSES
from drivesim.metrics.matching import Frame
from drivesim.metrics.precision import Marks
from drivesim.scene import Boxes

DRAWS = 400
Ways = dict[str, list[dict[str, Marks]]]  # way -> seed of the training -> class


@dataclass(frozen=True, eq=False)
class Footage:
    """A video whose boxes are known at some of its frames.

    Args:
        file: a video or a folder of images.
        rate: its true frame rate where its own is not.
        places: numbers of frames that may be used; times: when each of these is shown.
    """

    file: Path
    rate: Fraction | None
    places: list[int]
    times: list[Fraction]
    boxes: Boxes

    def frames(self, chosen: Sequence[int]) -> Iterator[tuple[np.ndarray, Boxes]]:
        """The frames at these of ``places`` (in order) at 128x256, with their boxes."""
        wanted = dict(zip((self.places[n] for n in chosen), self._boxes(chosen), strict=True))
        count = 0
        for clip in video.stream(self.file, rate=self.rate):
            for frame in clip.frames:
                if count in wanted:
                    yield detector.resized(frame), wanted[count]
                count += 1

    def _boxes(self, chosen: Sequence[int]) -> list[Boxes]:
        return make_detector.by_frame(self.boxes, [self.times[n] for n in chosen])


def runs(folder: Path) -> list[Footage]:
    """The generated videos with boxes below ``folder``.

    Raises:
        Mistake: there is none.
    """
    found = []
    for file in sorted(folder.rglob(generated.VIDEO)):
        own = generated.read(file)
        if own is None:
            continue
        rows = pq.read_table(file.with_name(generated.FRAMES)).to_pylist()
        made = [row for row in rows if row["kind"] != "real" and row["boxes"] is not None]
        times = [Fraction(row["time_num"], row["time_den"]) for row in made]
        found.append(Footage(file, None, [row["frame"] for row in made], times, own.boxes))
    if not any(each.places for each in found):
        raise Mistake("holds no run with boxes", where=folder, mend="'drivesim generate' exports them beside video.mp4")
    return found


def clips(folder: Path, split: str) -> list[Footage]:
    """The clips of ``train`` or ``val`` of an index whose boxes are known, every frame of them.

    Raises:
        Mistake: it has none.
    """
    index = Index.open(folder)
    found = [_clip(entry, boxes) for entry in index.split(split) if (boxes := index.boxes(entry.clip_id)) is not None]
    if not found:
        raise Mistake(
            "has no clip with boxes", where=folder, mend="'drivesim index configs/boxes/held.yaml' makes some"
        )
    return found


def _clip(entry: Entry, boxes: Boxes) -> Footage:
    places = list(range(entry.frames))
    return Footage(entry.file, entry.rate, places, [n / entry.fps for n in places], boxes)


def spread(footage: Sequence[Footage], count: int) -> list[list[int]]:
    """``count`` of all frames, evenly: for each video the numbers among its ``places``."""
    ends = np.cumsum([0, *(len(each.places) for each in footage)])
    chosen = np.arange(count) * ends[-1] // count
    return [(chosen[(chosen >= a) & (chosen < b)] - a).tolist() for a, b in zip(ends, ends[1:], strict=False)]


def total(footage: Sequence[Footage]) -> int:
    return sum(len(each.places) for each in footage)


def gathered(footage: Sequence[Footage], count: int) -> Frames:
    """``count`` frames of all, evenly spread, to be trained on."""
    pairs = [pair for each, chosen in zip(footage, spread(footage, count), strict=True) for pair in each.frames(chosen)]
    return make_detector.labelled([picture for picture, _ in pairs], [boxes for _, boxes in pairs])


def watch(small: detector.Small, footage: Sequence[Footage], count: int) -> tuple[list[Frame], list[int]]:
    """``count`` frames of all, looked at, and the number of each one's clip."""
    frames: list[Frame] = []
    clip: list[int] = []
    for number, (each, chosen) in enumerate(zip(footage, spread(footage, count), strict=True)):
        pairs = list(each.frames(chosen))
        if pairs:
            frames += make_detector.judged(small(np.stack([p for p, _ in pairs])), [boxes for _, boxes in pairs])
            clip += [number] * len(pairs)
    return frames, clip


def interval(ways: Ways, clip: Sequence[int]) -> dict[str, list[float] | None]:
    """The 95 % interval of the AP50 of each way, and of the ratio of the first to the second: clips and the seeds of
    the training are drawn anew, the same clips for both. None where nothing can be divided."""
    numbers, place = np.unique(clip, return_inverse=True)
    g = randomness.generator("train_on_generated")
    weights = g.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), DRAWS)[:, place].astype(float)
    drawn = {}
    for name, seeds in ways.items():
        each = np.stack([precision.over_classes(marks, weights) for marks in seeds])
        drawn[name] = each[g.integers(len(seeds), size=(len(seeds), DRAWS)), np.arange(DRAWS)].mean(0)
    above, below = drawn.values()
    drawn["ratio"] = np.divide(above, below, out=np.full(DRAWS, np.nan), where=below > 0)
    return {name: _quantiles(values[np.isfinite(values)]) for name, values in drawn.items()}


def _quantiles(values: np.ndarray) -> list[float] | None:
    return [float(value) for value in np.quantile(values, (0.025, 0.975))] if len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def compare(made: list[Footage], true: list[Footage], held: list[Footage], options: argparse.Namespace) -> dict:
    """Trains both ways with every seed; what is written to the file."""
    count = min(total(made), total(true), options.frames)
    looked = min(total(held), options.judged)
    ways: Ways = {"generated": [], "true": []}
    clip: list[int] = []
    for name, footage in (("generated", made), ("true", true)):
        frames = gathered(footage, count)
        for seed in range(options.seeds):
            network, _ = make_detector.train(frames, seed, lambda step: step / options.steps)
            judged, clip = watch(detector.Small(network), held, looked)
            ways[name] += make_detector.by_class(judged)
            print(f"{name}, seed {seed}: {make_detector.table(judged)}", flush=True)
    each = {name: [make_detector.average(marks) for marks in seeds] for name, seeds in ways.items()}
    means = {name: _mean(values) for name, values in each.items()}
    ratio = means["generated"] / means["true"] if means["generated"] is not None and means["true"] else None
    return {
        "schema": "drivesim.train-on-generated/1",
        "version": drivesim.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "frames": count,
        "steps": options.steps,
        "seeds": options.seeds,
        "held": {"frames": looked, "clips": len(set(clip))},
        "ap50": {name: {"mean": means[name], "seeds": each[name]} for name in ways},
        "by_class": {
            name: {cls: _mean([marks[cls].precision() for marks in seeds]) for cls in CLASSES}
            for name, seeds in ways.items()
        },
        "ratio": ratio,
        "interval": interval(ways, clip),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--generated", type=Path, required=True, help="a run of 'drivesim generate', or a folder of them"
    )
    parser.add_argument("--true", type=Path, required=True, help="an index with boxes")
    parser.add_argument("--held", type=Path, required=True, help="an index with boxes that nothing was trained on")
    parser.add_argument("--steps", type=int, default=3000, help="of 8 frames, of every training")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each way")
    parser.add_argument("--frames", type=int, default=6000, help="at most so many of each way, evenly spread")
    parser.add_argument("--judged", type=int, default=2000, help="at most so many held-back ones, evenly spread")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        score = compare(runs(options.generated), clips(options.true, "train"), clips(options.held, "val"), options)
    except Mistake as mistake:
        raise SystemExit(str(mistake)) from None
    disk.write_atomic(options.out, json.dumps(score, indent=1).encode())
    ap50, between = score["ap50"], score["interval"]
    for name in ap50:
        print(f"AP50 trained on {name} frames: {ap50[name]['mean']} {between[name]}")
    print(f"ratio: {score['ratio']} {between['ratio']}")


if __name__ == "__main__":
    main()
