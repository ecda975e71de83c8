"""Trains a detector of traffic on the rendered world and writes its weight file; then prints how good it is.

    python tools/make_detector.py detector-v2.safetensors --minutes 15

detector-v1 is frozen: what this writes is another network, with another hash. The header of the frozen file has the
command that it was made with, from before three changes: its frames lay half as far apart, boxes below ``LEAST`` were
asked for as well, and frames with a class of ``RARE`` came once. The training sees the procedural world alone, with
exact boxes, softened at random by blur, noise and JPEG: frames from a model are softer than true ones, and the detector
must work on both. ``train`` is also what ``train_on_generated.py`` trains with.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import drivesim
from drivesim import randomness, weights, world
from drivesim.metrics import detector, matching, precision
from drivesim.metrics.detection import Detector, Found
from drivesim.metrics.detector import CELL, CLASSES, SIZE, THRESHOLD, DetectorConfig, Network
from drivesim.metrics.matching import Frame
from drivesim.metrics.precision import Marks
from drivesim.scene import KEYFRAME_FPS, Boxes, to_model

TRAIN, HELD = 30_000_000, 31_000_000  # first seeds of worlds
EMPTY, UNSURE = -1, -2  # in the place of a class: no box, and one too small or too hidden to be asked for
VISIBLE, LEAST = 0.3, 6.0  # share that is seen, and pixels (root of the area), from which on a box is asked for
RARE = ("truck", "bus")  # a frame with one comes twice as often
SPREAD, NEAR, FAR = 0.2, 0.8, 1.6  # cells that are asked for a box: this share of it around its middle, within bounds
MEAN = 0.998  # of the running mean of weights
PUSH = 2.0  # weight of the boxes' loss beside the classes'


@dataclass(frozen=True, eq=False)
class Frames:
    """Labelled frames.

    Args:
        pictures: uint8 ``N 128 256 3``.
        box: ``N M 4`` float32, ``x0 y0 x1 y1`` in cells.
        kind: ``N M``, a place in ``CLASSES``, ``EMPTY`` or ``UNSURE``.
    """

    pictures: np.ndarray
    box: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def turns(self) -> np.ndarray:
        """Numbers of frames, those with a class of ``RARE`` twice."""
        rare = np.isin(self.kind, [CLASSES.index(cls) for cls in RARE]).any(1)
        return np.repeat(np.arange(len(self)), 1 + rare)


def labelled(pictures: Sequence[np.ndarray], boxes: Sequence[Boxes]) -> Frames:
    """Frames of any size, and the boxes of each. A class that is not in ``CLASSES`` and an ignored region are
    ``UNSURE``; a box of unknown visibility is asked for."""
    most = max(1, max(map(len, boxes), default=0))
    box, kind = np.zeros((len(boxes), most, 4), np.float32), np.full((len(boxes), most), EMPTY)
    for n, own in enumerate(boxes):
        box[n, : len(own)] = own.box * (np.array(SIZE[::-1] * 2) / CELL)
        large = matching.extent(box[n, : len(own)] * CELL) >= LEAST
        sure = large & ~own.ignored & ~(own.visibility < VISIBLE)
        kind[n, : len(own)] = [
            CLASSES.index(cls) if ok and cls in CLASSES else UNSURE for cls, ok in zip(own.cls, sure, strict=True)
        ]
    return Frames(np.stack([detector.resized(picture) for picture in pictures]), box, kind)


def by_frame(boxes: Boxes, times: Sequence[Fraction]) -> list[Boxes]:
    """The boxes at each of ``times``."""
    rows: dict[Fraction, list[int]] = {moment: [] for moment in times}
    for row, moment in enumerate(boxes.time):
        if moment in rows:
            rows[moment].append(row)
    return [boxes.rows(rows[moment]) for moment in times]


@dataclass(frozen=True, eq=False)
class Rendered:
    """Frames of one seed: uint8 ``T 128 256 3``, the boxes of each, and whether it is night."""

    pictures: np.ndarray
    boxes: list[Boxes]
    night: bool


def rendered(first: int, seeds: int, frames: int, fps: Fraction) -> Iterator[Rendered]:
    for seed in range(first, first + seeds):
        clip = world.render(seed, frames / fps, fps, SIZE)
        assert clip.boxes is not None
        yield Rendered(clip.frames, by_frame(clip.boxes, [n / fps for n in range(frames)]), bool(clip.labels.night))


def softened(picture: np.ndarray, g: np.random.Generator) -> np.ndarray:
    """Another light and contrast, and now and then what makes pictures soft: blur, fewer pixels, noise, JPEG."""
    soft = picture.astype(np.float32)
    gain, middle = g.uniform(0.75, 1.25) * g.uniform(0.93, 1.07, 3), soft.mean()  # a night keeps what it shows
    soft = (soft - middle) * gain.astype(np.float32) + middle * g.uniform(0.85, 1.15)
    if g.random() < 0.35:
        soft = cv2.GaussianBlur(soft, (0, 0), float(g.uniform(0.3, 1.4)))
    elif g.random() < 0.25:
        share = g.uniform(0.5, 0.9)
        small = cv2.resize(soft, (round(SIZE[1] * share), round(SIZE[0] * share)), interpolation=cv2.INTER_AREA)
        soft = cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    if g.random() < 0.4:
        spread = int(g.integers(1, 5))  # pixels of a grain: a model's noise is not white
        noise = g.standard_normal((SIZE[0] // spread, SIZE[1] // spread, 3), np.float32) * g.uniform(1, 9)
        soft = soft + cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    picture = soft.clip(0, 255).round().astype(np.uint8)
    if g.random() < 0.3:
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(g.integers(25, 90))])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        picture = decoded
    return picture


def batch(frames: Frames, size: int, seed: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Step ``step``'s pictures in [-1, 1], boxes in cells and kinds: a function of (seed, step). Every frame has had
    its turns before any has more."""
    pictures, boxes, kinds = [], [], []
    for n in range(size * step, size * (step + 1)):
        epoch, place = divmod(n, len(frames.turns))
        chosen = frames.turns[_order(seed, epoch, len(frames.turns))[place]]
        g = randomness.generator("make_detector", seed, n)
        picture, box = softened(frames.pictures[chosen], g), frames.box[chosen]
        if g.random() < 0.5:
            picture, box = picture[:, ::-1], box[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (SIZE[1] / CELL, 0) * 2
        pictures.append(picture)
        boxes.append(box)
        kinds.append(frames.kind[chosen])
    box = torch.from_numpy(np.stack(boxes).astype(np.float32))
    return to_model(np.stack(pictures)), box, torch.from_numpy(np.stack(kinds))


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return randomness.generator("make_detector", "order", seed, epoch).permutation(count)


def owners(box: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
    """Which cell is asked for which box.

    Args:
        box: ``B M 4`` in cells; kind: ``B M``.

    Returns:
        ``B h w``: the number of its box, the smallest where several claim it, -1 where there is none; and whether
        nothing at all is asked of the cell, since an unsure box claims it.
    """
    height, width = SIZE[0] // CELL, SIZE[1] // CELL
    row, column = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    across, down = (box[..., 2] - box[..., 0])[..., None, None], (box[..., 3] - box[..., 1])[..., None, None]
    x, y = (box[..., 0] + box[..., 2])[..., None, None] / 2, (box[..., 1] + box[..., 3])[..., None, None] / 2
    near_x = (column - x).abs() <= (SPREAD * across).clamp(NEAR, FAR)
    claimed = near_x & ((row - y).abs() <= (SPREAD * down).clamp(NEAR, FAR))
    asked, unsure = (kind >= 0)[..., None, None], (kind == UNSURE)[..., None, None]
    area, owner = torch.where(claimed & asked, across * down, torch.inf).min(1)
    owner = torch.where(area.isinf(), -1, owner)
    return owner, (claimed & unsure).any(1) & (owner < 0)


def overlap(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and GIoU [Rezatofighi 2019] of boxes ``n 4``, pair by pair."""
    inner = (torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])).clamp_min(0).prod(1)
    hull = (torch.maximum(one[:, 2:], other[:, 2:]) - torch.minimum(one[:, :2], other[:, :2])).prod(1)
    union = (one[:, 2:] - one[:, :2]).prod(1) + (other[:, 2:] - other[:, :2]).prod(1) - inner
    iou = inner / union
    return iou, iou - (hull - union) / hull


def losses(logits: Tensor, told: Tensor, box: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
    """Of the classes (quality focal loss [Li 2020, eq. 2], a sum over cells by their boxes' number) and of the boxes
    (1 - GIoU)."""
    owner, silent = owners(box, kind)
    b, row, column = torch.nonzero(owner >= 0, as_tuple=True)
    wanted = owner[b, row, column]
    iou, giou = overlap(detector.boxes_of(told)[b, row, column], box[b, wanted])
    target = torch.zeros_like(logits)
    target[b, kind[b, wanted], row, column] = iou.detach()
    focal = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * (logits.sigmoid() - target).square()
    count = max(len(b), 1)
    return (focal * ~silent[:, None]).sum() / count, (1 - giou).sum() / count


def begun(seed: int) -> Network:
    """A network that has learned nothing: no class is likely, and boxes are two cells wide and high."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(DetectorConfig())
    assert network.tell.bias is not None
    with torch.no_grad():
        network.tell.weight.mul_(0.1)
        network.tell.bias.copy_(torch.tensor([-4.6] * len(CLASSES) + [0.0, 0.0, 0.7, 0.7]))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU


def normalised(network: Network) -> Network:
    """With a batch norm behind every convolution but the last, for training; ``fused`` folds them away."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and child is not network.tell:
                setattr(parent, name, nn.Sequential(child, nn.BatchNorm2d(child.out_channels, momentum=0.05)))
    return network


def fused(network: Network) -> Network:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Sequential) and len(child) == 2 and isinstance(child[1], nn.BatchNorm2d):
                assert isinstance(child[0], nn.Conv2d)
                setattr(parent, name, fuse_conv_bn_eval(child[0].eval(), child[1].eval()))
    return network


def train(
    frames: Frames, seed: int, progress: Callable[[int], float], size: int = 8, lr: float = 3e-3
) -> tuple[Network, int]:
    """A network trained from scratch, the running mean of its weights, and the steps that it took.

    Args:
        progress: the share of the training that is over after so many steps; at 1 it ends.
        size: frames of a step.
    """
    network = normalised(begun(seed)).train()
    mean = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.02, betas=(0.9, 0.98))
    step, shown, start = 0, [0.0, 0.0], time.process_time()
    while (done := progress(step)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, 0.02 + 30 * done) * (0.5 + 0.5 * math.cos(math.pi * done))
        pictures, box, kind = batch(frames, size, seed, step)
        with torch.autocast("cpu", torch.bfloat16):
            logits, told = network(pictures.contiguous(memory_format=torch.channels_last))
        parts = losses(logits, told, box, kind)
        optimiser.zero_grad()
        (parts[0] + PUSH * parts[1]).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        step += 1
        follow(mean, network, min(MEAN, (1 + step) / (20 + step)))
        shown = [0.98 * old + 0.02 * new.item() for old, new in zip(shown, parts, strict=True)]
        if step % 100 == 0:
            rate = size * step / (time.process_time() - start)
            print(
                f"{step} {done:.0%} classes {shown[0]:.4f} boxes {shown[1]:.4f} {rate:.0f} frames a second of one core",
                flush=True,
            )
    return fused(mean.eval()), step


@torch.no_grad()
def follow(mean: nn.Module, network: nn.Module, keep: float) -> None:
    """``mean`` takes a step towards ``network``, statistics of norms included."""
    for old, new in zip(mean.state_dict().values(), network.state_dict().values(), strict=True):
        old.copy_(new) if not old.is_floating_point() else old.lerp_(new, 1 - keep)


def judged(found: Sequence[Found], boxes: Sequence[Boxes]) -> list[Frame]:
    """Detections of frames beside their true boxes, in pixels of 128x256."""
    known = frozenset(CLASSES)
    return [Frame.of(matching.told(b, SIZE, known), matching.seen(f, SIZE)) for f, b in zip(found, boxes, strict=True)]


def by_class(frames: Sequence[Frame], leasts: Sequence[float] = precision.OVERLAPS[:1]) -> list[dict[str, Marks]]:
    """For each overlap of ``leasts`` what becomes of the detections of every class."""
    each = {cls: precision.marks([frame.only(cls) for frame in frames], leasts) for cls in CLASSES}
    return [{cls: marks[n] for cls, marks in each.items()} for n in range(len(leasts))]


def average(marks: Mapping[str, Marks]) -> float | None:
    """Average precision, the mean over the classes that occur; None where none does."""
    count = max(len(each.positives) for each in marks.values())
    return precision.known(precision.over_classes(marks, np.ones((1, count)))[0])


def table(frames: Sequence[Frame]) -> str:
    """AP50, of all classes as one as well, AP50:95, and of the boxes found at a score of ``THRESHOLD`` the share of all
    and the mean overlap; then AP50 of each class with its number of judged boxes."""
    marks = by_class(frames, precision.OVERLAPS)
    strict = [value for each in marks if (value := average(each)) is not None]
    words = [
        f"AP50 {_said(average(marks[0]))}",
        f"AP50 of all classes as one {_said(precision.marks(frames)[0].precision())}",
        f"AP50:95 {_said(float(np.mean(strict)) if strict else None)}",
        *closeness(frames),
        *(f"{cls} {_said(each.precision())} of {each.positives.sum()}" for cls, each in marks[0].items()),
    ]
    return f"{len(frames)} frames: " + ", ".join(words)


def closeness(frames: Sequence[Frame]) -> tuple[str, str]:
    """Recall and mean overlap of boxes found with their class at a score of ``THRESHOLD`` and an overlap of a half."""
    overlaps, total = [], 0
    for frame in frames:
        for own in map(frame.sure(THRESHOLD).only, CLASSES):
            places, positives = next(own.outcomes((0.5,)))
            overlaps += [own.shared[row, place] for row, place in enumerate(places) if place >= 0]
            total += positives
    return f"recall {_said(len(overlaps) / max(total, 1))}", f"mean IoU {_said(float(np.mean(overlaps or [0.0])))}"


def _said(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def watch(small: Detector, drives: Sequence[Rendered]) -> list[Frame]:
    return [frame for drive in drives for frame in judged(small(drive.pictures), drive.boxes)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=15, help="of one core")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worlds", type=int, default=1200, help="seeds of the world")
    parser.add_argument("--frames", type=int, default=10, help="of each, a second or so apart")
    parser.add_argument("--held-back", type=int, default=160, help="seeds of the world to be judged on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.process_time()
    drives = list(rendered(TRAIN, options.worlds, options.frames, KEYFRAME_FPS / 2))
    frames = labelled([p for d in drives for p in d.pictures], [b for d in drives for b in d.boxes])
    print(f"{len(frames)} frames of {len(drives)} worlds in {time.process_time() - begin:.0f} s", flush=True)
    begin = time.process_time()  # a clock, not a count of steps, sets the end: the file is made once
    network, steps = train(frames, options.seed, lambda _: (time.process_time() - begin) / (60 * options.minutes))
    tensors = {name: value.half() for name, value in network.state_dict().items()}
    weights.fill(network, {name: value.float() for name, value in tensors.items()}, options.out)  # as it is stored
    command = f"--minutes {options.minutes:g} --seed {options.seed} --worlds {options.worlds} --frames {options.frames}"
    header = weights.Header(
        "extractor",
        asdict(DetectorConfig()),
        size=SIZE,
        fps=str(KEYFRAME_FPS / 2),
        classes=list(CLASSES),
        ema=MEAN,
        train={
            "steps": steps,
            "seed": options.seed,
            "data": f"drivesim.world, seeds {TRAIN} to {TRAIN + len(drives) - 1}",
            "version": drivesim.__version__,
            "date": time.strftime("%Y-%m-%d"),
            "hours": round(options.minutes / 60, 2),
            "command": f"make_detector.py {command}",
        },
    )
    print("sha256", weights.save(options.out, tensors, header), options.out.stat().st_size, "bytes", flush=True)
    held, small = list(rendered(HELD, options.held_back, 12, KEYFRAME_FPS / 4)), detector.Small(network)
    for word, chosen in (
        ("all", held),
        ("day", [drive for drive in held if not drive.night]),
        ("night", [drive for drive in held if drive.night]),
        ("all, blurred by 1 pixel", [replace(d, pictures=blurred(d.pictures)) for d in held]),
    ):
        print(f"{word}: {table(watch(small, chosen))}", flush=True)


def blurred(pictures: np.ndarray) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(picture, (0, 0), 1) for picture in pictures])


if __name__ == "__main__":
    main()
