"""How well models obey the boxes that they are told, beside what ``drivesim evaluate --boxes`` says of whole rollouts.

    python tools/measure_boxes.py scenarios INDEX --out FOLDER [--clips 8] [--seconds 120] [--least 3]
    python tools/measure_boxes.py images WEIGHTS INDEX --json FILE [--frames 256]
    python tools/measure_boxes.py moved WEIGHTS INDEX --json FILE [--windows 16] [--picture FILE.png]
    python tools/measure_boxes.py beside RUN OTHER [RUN OTHER ...]

``scenarios`` writes a scenario for each held-back clip: its first two frames open a rollout that is told the boxes of
the whole clip; by day and by night apart, clips with at least ``--least`` agents a frame that would be judged.
``images`` samples single frames of the image model and asks the detector; beside it the true frames, what the
autoencoder makes of them, boxes of other frames, and no boxes told. ``moved`` makes the first window of a rollout twice
at one seed, one box moved, and says which share of the pixels that change lie in its two places; with ``--keep`` the
second window, and a branch of it. ``beside`` holds the
videos of runs that were told nothing against the boxes that others were told.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from drivesim.data import generated, video
from drivesim.data.annotations import Labelled
from drivesim.data.index import Entry, Index
from drivesim.diffusion.precondition import Denoiser
from drivesim.disk import write_atomic
from drivesim.jobs import openings, stack
from drivesim.metrics import detector, obedience
from drivesim.metrics.matching import LEAST, VISIBLE, extent, overlap
from drivesim.models.autoencoder import Autoencoder, split_moments
from drivesim.models.conditions import label_tensors
from drivesim.models.video import VideoUNet
from drivesim.report.boxes import draw
from drivesim.rollout.kept import Kept
from drivesim.rollout.kept import shares as made_anew
from drivesim.rollout.plan import Window, video_frame
from drivesim.rollout.predictor import Predictor, start_frame
from drivesim.rollout.sample import NoiseSource, Told, sample
from drivesim.rollout.settings import GuidanceConfig, RolloutConfig, SamplerConfig
from drivesim.rollout.stack import Stack
from drivesim.rollout.tracks import Edit, Tracks, from_labelled
from drivesim.scene import (
    KEYFRAME_FPS,
    MOST_BOXES,
    VIDEO_FPS,
    Boxes,
    Condition,
    FrameBoxes,
    Labels,
    frame_boxes,
    to_model,
    to_pixels,
)  # fmt: skip

BATCH = 16
MARGIN = 0.1  # of a box's sides, by which a place is widened
CHANGED = 16  # of 255, from which a pixel has changed
Plain = dict[str, Any]


# --- scenarios --------------------------------------------------------------------------------------------------------


def judged_per_frame(boxes: Boxes, entry: Entry) -> float:
    """Agents of a clip's mean frame that obedience would judge."""
    sizes = extent(boxes.box * np.array([entry.width, entry.height] * 2))
    seen = np.isnan(boxes.visibility) | (boxes.visibility >= VISIBLE)
    return float((seen & (sizes >= LEAST) & ~boxes.ignored).sum()) / entry.frames


def scenarios(args: argparse.Namespace) -> None:
    index = Index.open(args.index)
    taken: dict[bool, int] = {False: 0, True: 0}
    for entry in index.split("val"):
        boxes = index.boxes(entry.clip_id)
        night = bool(entry.night)
        if boxes is None or taken[night] == args.clips or entry.seconds < args.seconds + 8 / 15:
            continue
        if (agents := judged_per_frame(boxes, entry)) < args.least:
            continue
        taken[night] += 1
        name, folder = entry.file.stem, args.out / ("night" if night else "day")
        openings.write(entry, boxes, folder, name, args.seconds, KEYFRAME_FPS)
        print(f"{folder / name}: {agents:.1f} agents a frame")
    if not all(taken.values()):
        raise SystemExit("no clip by day, or none by night, has so many agents")


# --- images -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Still:
    """One held-back frame and what it was told."""

    frame: np.ndarray
    boxes: Boxes
    night: bool


def stills(index: Index, count: int, size: video.Size) -> list[Still]:
    """Held-back frames, evenly over all clips with labels."""
    entries = [entry for entry in index.split("val") if index.boxes(entry.clip_id) is not None]
    if not entries:
        raise SystemExit("no held-back clip has boxes")
    shares = np.diff(np.linspace(0, count, len(entries) + 1).astype(int))  # as many frames of each, or one more
    found = []
    for entry, each in zip(entries, shares.tolist(), strict=True):
        boxes = index.boxes(entry.clip_id)
        assert boxes is not None
        held = video.record(entry.file, size=size, rate=entry.rate)
        for n in range(each):
            time = (n * entry.frames // each) / entry.fps
            found.append(Still(held.read(entry.fps, time, 1)[0], boxes.at(time), bool(entry.night)))
    return found


def numbers(frames: Sequence[np.ndarray], boxes: Sequence[Boxes], size: video.Size, look: detector.Small) -> Plain:
    """What the detector says of single frames, each a video of its own."""
    found = look(np.stack(frames))
    seen = [
        obedience.Watched(str(n), size, (Fraction(0),), (own,), (there,))
        for n, (own, there) in enumerate(zip(boxes, found, strict=True))
    ]
    return obedience.whole(obedience.judge(seen, look.classes, look.threshold))


@torch.inference_mode()
def images(args: argparse.Namespace) -> None:
    image, header = stack.load_image(args.weights / "image.safetensors")
    autoencoder = Autoencoder.load(args.weights / "autoencoder.safetensors")
    size = (header.size[0], header.size[1])
    held = stills(Index.open(args.index), args.frames, size)
    look = detector.load("cpu")
    latent = header.latent
    mean, std = (torch.tensor(latent[name])[:, None, None] for name in ("mean", "std"))
    f = latent["f"]
    cells = size[0] // f, size[1] // f
    shape = (latent["channels"], *cells)
    denoiser = Denoiser(VideoUNet(image.unet), stack.schedule_of(header, args.weights))
    guided = GuidanceConfig(boxes=args.guidance).around(denoiser, None)
    method, levels = SamplerConfig(steps=args.steps).build(denoiser)

    def rebuilt(frames: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        for first in range(0, len(frames), BATCH):
            pixels = to_model(np.stack(frames[first : first + BATCH]))
            yield from to_pixels(autoencoder.decode(split_moments(autoencoder.encode(pixels))[0]))

    def sampled(boxes: Sequence[Boxes] | None) -> Iterator[np.ndarray]:
        for first in range(0, len(held), BATCH):
            part = held[first : first + BATCH]
            condition = Condition(tokens=labelled([still.night for still in part]))
            if boxes is not None:
                condition = image.told(together(boxes[first : first + BATCH]), cells, condition)

            def noise_of(step: int, first: int = first, count: int = len(part)) -> Tensor:
                noise = NoiseSource(args.seed, "stills")
                return torch.cat([noise("image", [first + n], step, shape) for n in range(count)])

            with torch.autocast("cpu", torch.bfloat16):
                x = sample(denoiser, guided, method, levels, condition, noise_of)
            yield from to_pixels(autoencoder.decode(x[:, 0].float() * std + mean))

    def labelled(nights: list[bool]) -> Tensor | None:
        words = image.labels
        return None if words is None else words(*label_tensors([Labels(night) for night in nights]))

    true = [still.frame for still in held]
    boxes = [still.boxes for still in held]
    others = shuffled(boxes)
    made = list(sampled(boxes))
    rows: dict[str, tuple[Sequence[np.ndarray], Sequence[Boxes]]] = {
        "true frames": (true, boxes),
        "through the autoencoder": (list(rebuilt(true)), boxes),
        "told": (made, boxes),
        "told, against the boxes of other frames": (made, others),
        "not told": (list(sampled(None)), boxes),
    }
    result: Plain = {}
    for name, (frames, own) in rows.items():
        result[name] = {"all": numbers(frames, own, size, look)}
        for word, night in (("day", False), ("night", True)):
            which = [n for n, still in enumerate(held) if still.night == night]
            result[name][word] = numbers([frames[n] for n in which], [own[n] for n in which], size, look)
    told = result["told"]["all"]
    result |= {"ap50": told["ap50"], "iou": told["iou"], "missing": told["missing"], "frames": len(held)}
    tell(result, rows)
    if args.json:
        write_atomic(args.json, json.dumps(result, indent=1).encode())
    if args.picture:
        picture(args.picture, [true, rows["through the autoencoder"][0], made, rows["not told"][0]], boxes)


def together(boxes: Sequence[Boxes]) -> FrameBoxes:
    """Of single frames, as a batch with T = 1."""
    own = [frame_boxes(each, [each.time[0] if len(each) else Fraction(0)], MOST_BOXES) for each in boxes]
    fields = ("box", "cls", "track", "known")
    return FrameBoxes(*(torch.cat([getattr(each, name) for each in own]) for name in fields))


def shuffled(boxes: Sequence[Boxes]) -> list[Boxes]:
    """Those of a frame half of the set away: another clip."""
    return [boxes[(n + len(boxes) // 2) % len(boxes)] for n in range(len(boxes))]


def tell(result: Plain, rows: Sequence[str] | dict[str, Any]) -> None:
    print("| frames | AP50 | by day | by night | AP | mean IoU | missing | hallucinated |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in rows:
        whole, day, night = (result[name][part] for part in ("all", "day", "night"))
        cells = [part["ap50"] for part in (whole, day, night)]
        cells += [whole[number] for number in ("ap", "iou", "missing", "hallucinated")]
        print(f"| {name} | " + " | ".join("" if cell is None else f"{cell:.3f}" for cell in cells) + " |")


def picture(file: Path, rows: Sequence[Sequence[np.ndarray]], boxes: Sequence[Boxes], count: int = 8) -> None:
    """A column a frame: ``rows`` from top to bottom, told boxes drawn into the first."""
    columns = []
    for n in np.linspace(0, len(boxes) - 1, count).astype(int):
        tiles = [row[n].copy() for row in rows]
        height, width = tiles[0].shape[:2]
        for x0, y0, x1, y1 in boxes[n].box * np.array([width, height] * 2):
            cv2.rectangle(tiles[0], (round(x0), round(y0)), (round(x1), round(y1)), (255, 60, 60), 1)
        columns.append(np.concatenate(tiles))
    cv2.imwrite(str(file), np.concatenate(columns, axis=1)[..., ::-1])


# --- one box moved ----------------------------------------------------------------------------------------------------


@torch.inference_mode()
def moved(args: argparse.Namespace) -> None:
    models, index = stack.load(args.weights, precision="bf16"), Index.open(args.index)
    steps = SamplerConfig(steps=args.steps)
    config = RolloutConfig(sampler=steps, start=steps, guidance=GuidanceConfig(boxes=args.guidance))
    shares, rows = list[float](), list[np.ndarray]()
    first = models.frames - 2 if args.keep else 0
    times = [Fraction(video_frame(k)) / VIDEO_FPS for k in range(first, first + models.frames)]
    for entry in index.split("val"):
        before = tracks_of(index, entry)
        if len(shares) == args.windows or before is None:
            continue
        if (edit := a_move(before, times, models.size)) is None:
            continue
        after = before.edited([edit])
        noise, told = NoiseSource(args.seed, entry.clip_id), Told(Labels(entry.night), before)
        changed_to = Told(told.labels, after)
        if args.keep:
            pair = branched(models, config, noise, told, changed_to)
        else:
            pair = first_window(models, config, noise, told), first_window(models, config, noise, changed_to)
        one, other = (to_pixels(models.decode(latents)) for latents in pair)
        if args.keep:  # as the engine's last stage, whose frames of the run have been through a video file
            share = made_anew(before, after, times, models.size)[..., None]
            other = np.rint(one + share * (other.astype(np.float32) - one)).astype(np.uint8)
        inside, changed = places(before, after, edit.track, times, models.size), difference(one, other) > CHANGED
        shares.append(float((changed & inside).sum()) / max(1, int(changed.sum())))
        rows += [shown(one, before, times), shown(other, after, times)] if len(rows) < 8 else []
        print(f"{entry.path}: {shares[-1]:.3f} of {int(changed.sum())} pixels, places {inside.mean():.3f} of the frame")
    if not shares:
        raise SystemExit("no held-back clip has a track that could be moved")
    print(f"mean {np.mean(shares):.3f}, median {np.median(shares):.3f} of {len(shares)} windows")
    if args.json:
        write_atomic(args.json, json.dumps({"share": float(np.mean(shares)), "shares": shares}, indent=1).encode())
    if args.picture:
        cv2.imwrite(str(args.picture), np.concatenate(rows)[..., ::-1])


def tracks_of(index: Index, entry: Entry) -> Tracks | None:
    if (boxes := index.boxes(entry.clip_id)) is None:
        return None
    times = tuple(n / entry.fps for n in range(entry.frames))
    return from_labelled(Labelled(entry.path, boxes, (entry.height, entry.width), times))


def a_move(tracks: Tracks, times: Sequence[Fraction], size: video.Size) -> Edit | None:
    """Of the largest track of 12 to 40 pixels that all of the window shows: by one and a half widths to a side, where
    it meets nobody and stays inside; None where there is none."""
    boxes = tracks.at(times)
    pixels = boxes.box * np.array([size[1], size[0]] * 2)
    best: tuple[float, Edit] | None = None
    for number, track in enumerate(tracks.tracks):
        own = boxes.track == number
        sizes = extent(pixels[own])
        if own.sum() < len(times) or sizes.min() < 12 or sizes.max() > 40 or np.nanmin(boxes.visibility[own]) < 0.9:
            continue
        for side in (-1.5, 1.5):
            by = side * float((boxes.box[own, 2] - boxes.box[own, 0]).max())
            there = boxes.box[own] + np.array([by, 0, by, 0])
            free = all(overlap(there[n : n + 1], others_at(boxes, number, t)).sum() == 0 for n, t in enumerate(times))
            if free and there.min() >= 0 and there.max() <= 1 and (best is None or sizes.mean() > best[0]):
                best = float(sizes.mean()), Edit("shift", track.id, by=(by, 0.0))
    return None if best is None else best[1]


def others_at(boxes: Boxes, number: int, time: Fraction) -> np.ndarray:
    there = boxes.at(time)
    return there.box[there.track != number]


def first_window(models: Stack, config: RolloutConfig, noise: NoiseSource, told: Told) -> Tensor:
    """The start frame and the first window's others, ``T C h w``."""
    start = start_frame(models, config, noise, told)
    return Predictor(models, config, noise, told)(Window(0, 0, 1, 0, models.frames), start)


def branched(
    models: Stack, config: RolloutConfig, noise: NoiseSource, told: Told, other: Told
) -> tuple[Tensor, Tensor]:
    """The second window, and what a branch that keeps all but the changed places makes of it."""
    predict, given = Predictor(models, config, noise, told), first_window(models, config, noise, told)[-2:]
    window = Window(1, models.frames - 2, 2, models.frames, 2 * models.frames - 2)
    made = predict(window, given)
    assert told.boxes is not None and other.boxes is not None
    kept = Kept(lambda _, __: made, lambda _: given, told.boxes, other.boxes)
    return made, Predictor(models, config, noise, other, kept=kept)(window, given)


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``T H W``: the largest change over the colours."""
    return np.abs(one.astype(int) - other.astype(int)).max(-1)


def places(before: Tracks, after: Tracks, track: str | int, times: Sequence[Fraction], size: video.Size) -> np.ndarray:
    """``T H W`` bool: where the track is in either, its sides widened by ``MARGIN`` of their length."""
    inside = np.zeros((len(times), *size), bool)
    for tracks in (before, after):
        own = Tracks(tuple(each for each in tracks.tracks if each.id == track)).at(times)
        for time, (x0, y0, x1, y1) in zip(own.time, own.box * np.array([size[1], size[0]] * 2), strict=True):
            across, down = MARGIN * (x1 - x0), MARGIN * (y1 - y0)
            rows = slice(max(0, int(y0 - down)), int(np.ceil(y1 + down)))
            inside[times.index(time), rows, max(0, int(x0 - across)) : int(np.ceil(x1 + across))] = True
    return inside


def shown(frames: np.ndarray, tracks: Tracks, times: Sequence[Fraction]) -> np.ndarray:
    """Every other frame of a window beside each other, with the boxes in the first."""
    tiles = [draw(frames[0], tracks.at([times[0]]), {}), *frames[2::2]]
    return np.concatenate(tiles, axis=1)


# --- one run's boxes, another's video ---------------------------------------------------------------------------------


def beside(args: argparse.Namespace) -> None:
    if len(args.runs) % 2:
        raise SystemExit("runs are named in pairs: the one that was told boxes, and the other")
    look, seen = detector.load("cpu"), []
    for told, other in zip(args.runs[::2], args.runs[1::2], strict=True):
        labelled = generated.read(told / generated.VIDEO)
        if labelled is None:
            raise SystemExit(f"{told} was told no boxes")
        frames = video.record(other / generated.VIDEO).frames
        times = labelled.times[: len(frames)]
        own = tuple(labelled.boxes.at(time) for time in times)
        size = (frames.shape[1], frames.shape[2])
        seen.append(obedience.Watched(str(other), size, times, own, tuple(look(frames[: len(times)]))))
    whole = obedience.whole(obedience.judge(seen, look.classes, look.threshold))
    print(json.dumps({name: whole[name] for name in ("ap50", "any50", "missing", "hallucinated", "iou")}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    first = parts.add_parser("scenarios")
    first.add_argument("index", type=Path)
    first.add_argument("--out", type=Path, required=True)
    first.add_argument("--clips", type=int, default=8, help="by day, and as many by night (default 8)")
    first.add_argument("--seconds", type=float, default=120)
    first.add_argument("--least", type=float, default=3, help="judged agents a frame (default 3)")
    first.set_defaults(run=scenarios)
    last = parts.add_parser("beside")
    last.add_argument("runs", type=Path, nargs="+")
    last.set_defaults(run=beside)
    for name, run in (("images", images), ("moved", moved)):
        part = parts.add_parser(name)
        part.add_argument("weights", type=Path)
        part.add_argument("index", type=Path)
        part.add_argument("--json", type=Path)
        part.add_argument("--picture", type=Path)
        part.add_argument("--seed", type=int, default=0)
        part.add_argument("--steps", type=int, default=20, help="of the sampler (default 20)")
        part.set_defaults(run=run)
        part.add_argument("--guidance", type=float, default=1.0, help="scale on boxes (default 1, none)")
        if name == "images":
            part.add_argument("--frames", type=int, default=256)
        else:
            part.add_argument("--windows", type=int, default=16)
            part.add_argument("--keep", action="store_true", help="in a branch that keeps all but the places")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
