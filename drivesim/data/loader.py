"""Windows of video for training, in an order that depends on the seed and the sample's number alone."""

import json
import math
import signal
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader, Dataset

from drivesim.data import video
from drivesim.data.index import AGAIN, Entry, Index
from drivesim.data.order import Batches, Order
from drivesim.errors import Mistake
from drivesim.scene import BATCHED, MOST_BOXES, Boxes, frame_boxes, to_model

MOST_BAD = Fraction(1, 10)  # of the clips: more is no accident
START_STEPS = 1 << 20  # the drawn start falls on a grid of exact fractions
Item = dict[str, Any]  # tensors by name, and "caption": text
HELD = Fraction(1, 2)  # seconds that a label holds at most, where the next is later
NONE = Boxes((), np.empty(0, np.int64), (), np.empty((0, 4)), np.empty(0))


@dataclass(frozen=True)
class Window:
    """``frames`` frames of a clip that start at second ``first`` or up to ``slack`` seconds later."""

    entry: Entry
    first: Fraction
    slack: Fraction


def windows(entry: Entry, frames: int, fps: Fraction) -> list[Window]:
    """Side by side in the clip; each may start later by up to its own length, as long as the clip lasts.

    ::

        clip      |--------------------------------------|
        windows   |0....|1....|2....|3....|4....|5.. (too short)
        starts    ^^^^^^ ^^^^^ ^^^^^ ^^^^^ ^^^^
    """
    seconds = Fraction(entry.seconds).limit_denominator(1_000_000)
    length = frames / fps
    last = seconds - video.GRACE - (frames - 1) / fps  # a start before it leaves the last frame inside
    count = video.frames_in(seconds, fps) // frames
    return [Window(entry, n * length, min(length, last - n * length)) for n in range(count)]


class Clips(Dataset[Item]):
    """Map from global sample number to item; short clips are decoded once and kept, up to ``keep`` bytes."""

    def __init__(
        self,
        held: list[Window],
        frames: int,
        fps: Fraction,
        size: video.Size,
        order: Order,
        keep: int,
        crop: video.Size | None = None,
        boxes: Index | None = None,
        captioned: bool = False,
    ):
        self.held, self.frames, self.fps, self.size, self.order, self.crop = held, frames, fps, size, order, crop
        self.quarantine: Path | None = None
        self._bad: set[str] = set()
        self.boxes, self.captioned = boxes, captioned
        self._keep = _that_fit([window.entry for window in held], size, keep)
        self._kept: dict[str, video.Recording] = {}

    def kept(self) -> tuple[int, int]:
        """How many clips stay decoded once they have been read, and the bytes that all of them take."""
        entries = {window.entry.clip_id: window.entry for window in self.held}
        return len(self._keep), sum(_bytes(entries[clip_id], self.size) for clip_id in self._keep)

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, sample: int) -> Item:
        entry, start, frames = self._readable(sample)
        return {
            "video": to_model(self._cropped(frames, sample)),
            **(self._boxes(entry, start) if self.boxes else {}),
            **({"caption": entry.caption or ""} if self.captioned else {}),
            **labels(entry.night, entry.cars, sample),
        }

    def _readable(self, sample: int) -> tuple[Entry, Fraction, np.ndarray]:
        """The clip, the start and the frames of ``sample``; where they cannot be read, those of the first window behind
        it that can: a function of the sample and of the files alone.

        Raises:
            Mistake: more than a tenth of the clips cannot be read.
        """
        place, step = self.order.window(sample), math.floor(self.order.uniform(sample) * START_STEPS)
        failed = set[str]()  # its other windows would fail as slowly
        for n in range(len(self.held)):
            window = self.held[(place + n) % len(self.held)]
            if window.entry.clip_id in failed:
                continue
            start = window.first + window.slack * Fraction(step, START_STEPS)
            try:
                return window.entry, start, self._read(window.entry, start)
            except Mistake as problem:
                failed.add(window.entry.clip_id)
                self._leave_out(window.entry, problem)
        raise AssertionError("more than a tenth cannot be read, and nothing was raised")

    def _leave_out(self, entry: Entry, problem: Mistake) -> None:
        if entry.clip_id not in self._bad:
            self._bad.add(entry.clip_id)
            if self.quarantine is not None:
                with open(self.quarantine, "a", encoding="utf-8") as out:  # a line at a time, by every worker
                    out.write(json.dumps({"path": entry.path, "reason": problem.what}) + "\n")
        clips = len({window.entry.clip_id for window in self.held})
        if len(self._bad) > clips * MOST_BAD:
            what = f"{problem.what}, and with it more than a tenth of the clips cannot be read"
            raise Mistake(what, where=problem.where, mend=problem.mend or AGAIN)

    def _boxes(self, entry: Entry, start: Fraction) -> Item:
        """Those of the frames that are shown: of the last labelled moment, at most ``HELD`` before; a clip without
        labels has none."""
        assert self.boxes is not None
        own = self.boxes.boxes(entry.clip_id) or NONE
        own = replace(own, box=video.fit_boxes(own.box, (entry.height, entry.width), self.size))
        moments, times = sorted(set(own.time)), list[Fraction]()
        for due in (start + n / self.fps + video.GRACE for n in range(self.frames)):
            shown = math.floor(due * entry.fps) / entry.fps
            last = bisect_right(moments, due) - 1
            times.append(moments[last] if last >= 0 and shown - moments[last] <= HELD else shown)
        told = frame_boxes(own, times, MOST_BOXES)
        fields = (told.box, told.cls, told.track, told.known)
        return {name: field[0] for name, field in zip(BATCHED, fields, strict=True)}

    def _cropped(self, frames: np.ndarray, sample: int) -> np.ndarray:
        """The same part of all frames ``T H W 3``, before they become floats, which take four times the memory."""
        if self.crop is None:
            return frames
        (height, width), (whole_height, whole_width) = self.crop, self.size
        top, left = self.order.place(sample, whole_height - height, whole_width - width)
        return frames[:, top : top + height, left : left + width]

    def _read(self, entry: Entry, start: Fraction) -> np.ndarray:
        if entry.clip_id not in self._keep:
            clip = video.read(
                entry.file, fps=self.fps, start=start, frames=self.frames, size=self.size, rate=entry.rate
            )
            return clip.frames
        if entry.clip_id not in self._kept:
            self._kept[entry.clip_id] = video.record(entry.file, size=self.size, rate=entry.rate)
        return self._kept[entry.clip_id].read(self.fps, start, self.frames)


def _bytes(entry: Entry, size: video.Size) -> int:
    return entry.frames * size[0] * size[1] * 3


def labels(night: bool | None, cars: int | None, sample: int) -> Item:
    """The part of an item that every loader gives; -1 is unknown."""
    values = {"night": -1 if night is None else int(night), "cars": -1 if cars is None else cars, "sample": sample}
    return {name: torch.tensor(value, dtype=torch.long) for name, value in values.items()}


def _that_fit(entries: list[Entry], size: video.Size, budget: int) -> frozenset[str]:
    """The first clips whose resized frames fit into ``budget`` bytes. They stay: evicting under a random order is no
    gain."""
    chosen: set[str] = set()
    for entry in entries:
        need = _bytes(entry, size)
        if entry.clip_id not in chosen and need <= budget:
            chosen.add(entry.clip_id)
            budget -= need
    return frozenset(chosen)


class Ordered(lightning.LightningDataModule, ABC):
    """A training loader over an endless dataset, cut to the steps asked for.

    ``left_out`` counts the clips that give it nothing, by reason; ``quarantine`` is a file that takes a line for each
    that cannot be read when its turn comes.
    """

    left_out: dict[str, int]
    quarantine: Path | None = None

    def __init__(self, batch: int, steps: int, start_step: int, workers: int):
        super().__init__()
        self.batch, self.steps, self.start_step, self.workers = batch, steps, start_step, workers

    @abstractmethod
    def training(self) -> Dataset[Item]:
        """All samples, by their number."""

    @abstractmethod
    def clip(self, sample: int) -> str:
        """What is said of the clip that a sample is of, when something is wrong with it."""

    def train_dataloader(self) -> DataLoader[Item]:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        batches = Batches(self.batch, self.start_step, self.steps, rank, world)
        return DataLoader(self.training(), batch_sampler=batches, **self._settings())

    def _settings(self) -> dict[str, Any]:
        own = torch.Generator().manual_seed(0)  # else every new iterator takes a number from torch's global state
        return {
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "generator": own,
            "worker_init_fn": _unasked,
        }


def _unasked(worker: int) -> None:
    """Signals that ask a training to stop reach its workers, too; it ends them itself, once it has no use for them."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class ClipData(Ordered):
    """Clips of an index as batches ``{"video": B T 3 H W in [-1, 1], "night": B, "cars": B, "sample": B}``, where the
    index has captions with ``"caption"``, a list of text; "" is unknown.

    Args:
        index: its folder.
        frames: ``T`` of a window; 1 gives single frames.
        fps: of the window; a clip with fewer frames a second is left out (not for single frames).
        size: ``(H, W)``.
        batch: clips a step on each process.
        steps: the training loader ends before this step; it begins at ``start_step``.
        keep: bytes of decoded frames that all workers together may hold.
        crop: ``(H, W)`` of a part of the frames to give instead of the whole, the same part of all frames of a window,
            anywhere in ``size``.
        enlarge: False leaves out clips whose frames would have to be enlarged: there is no fine detail in them.

        boxes: True adds the fields of ``FrameBoxes``; not together with ``crop``.

    ``digest`` names the data. A clip that cannot be decoded is passed over, and told in the file ``quarantine``, where
    that is set.

    Raises:
        Mistake: no index, more than a tenth of the clips gone or changed, or none that gives a window.
    """

    def __init__(
        self,
        index: str | Path,
        *,
        frames: int,
        fps: Fraction,
        size: tuple[int, int],
        batch: int,
        steps: int,
        start_step: int = 0,
        seed: int = 0,
        workers: int = 0,
        keep: int = 1 << 30,
        crop: tuple[int, int] | None = None,
        enlarge: bool = True,
        boxes: bool = False,
    ):
        super().__init__(batch, steps, start_step, workers)
        opened = Index.open(index)
        self.frames, self.fps, self.size, self.seed = frames, fps, (size[0], size[1]), seed
        self.crop = None if crop is None else (crop[0], crop[1])
        if crop is not None and (min(crop) < 1 or crop[0] > size[0] or crop[1] > size[1]):
            raise Mistake(f"{crop[0]}x{crop[1]} is no part of {size[0]}x{size[1]}", where="crop")
        self.enlarge, self.boxes = enlarge, opened if boxes else None
        if boxes and all(entry.labels is None for entry in opened.entries):
            raise Mistake("has no boxes, which the loss is to weigh", where=index, mend="index with --labels")
        self.keep, self.digest = keep // max(1, workers), opened.digest
        self.captioned = any(entry.caption for entry in opened.entries)
        self.left_out = Counter()
        self._train = self._windows(self._there(opened, opened.split("train")))
        if not self._train:
            raise Mistake(
                f"no clip gives {frames} frames at {fps} fps ({_told(self.left_out)})",
                where=index,
                mend="ask for fewer or smaller frames, or index other clips",
            )

    def _there(self, opened: Index, entries: list[Entry]) -> list[Entry]:
        """``entries`` without those whose file is gone or has changed, which may be a tenth."""
        found, wrong = [], list[Mistake]()
        for entry in entries:
            try:
                opened.check(entry)
                found.append(entry)
            except Mistake as problem:
                wrong.append(problem)
                self.left_out[problem.what] += 1
        if len(wrong) > len(entries) * MOST_BAD:
            raise wrong[0]
        return found

    def _windows(self, entries: list[Entry]) -> list[Window]:
        found = []
        for entry in entries:
            if self.frames > 1 and entry.fps < self.fps * video.FULL_RATE:
                self.left_out[f"fewer than {self.fps} frames a second"] += 1
                continue
            if not self.enlarge and (entry.height < self.size[0] or entry.width < self.size[1]):
                self.left_out[f"smaller than {self.size[0]}x{self.size[1]}"] += 1
                continue
            here = windows(entry, self.frames, self.fps)
            self.left_out["shorter than a window"] += not here
            found += here
        return found

    def training(self) -> Clips:
        order, crop, boxes = self._order, self.crop, self.boxes
        clips = Clips(self._train, self.frames, self.fps, self.size, order, self.keep, crop, boxes, self.captioned)
        clips.quarantine = self.quarantine
        return clips

    @property
    def _order(self) -> Order:
        return Order(self.seed, len(self._train))

    def clip(self, sample: int) -> str:
        return str(self._train[self._order.window(sample)].entry.file)


def _told(left_out: dict[str, int]) -> str:
    return (
        ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count) or "it holds no clip to train on"
    )
