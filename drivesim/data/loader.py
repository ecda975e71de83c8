"""Windows of video for training, in an order that depends on the seed and the sample's number alone."""

import json
import math
import signal
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader, Dataset

from drivesim.data import video
from drivesim.data.index import AGAIN, NONE, Entries, Entry, Index
from drivesim.data.order import Batches, Order
from drivesim.errors import Mistake
from drivesim.scene import BATCHED, MOST_BOXES, frame_boxes, to_model

MOST_BAD = Fraction(1, 10)  # of the clips: more is no accident
LOOKED_AT = 10_000  # clips whose files are looked at before a training begins: a second on a disk of one's own
START_STEPS = 1 << 20  # the drawn start falls on a grid of exact fractions
Item = dict[str, Any]  # tensors by name, and "caption": text
HELD = Fraction(1, 2)  # seconds that a label holds at most, where the next is later


@dataclass(frozen=True)
class Window:
    """``frames`` frames of a clip that start at second ``first`` or up to ``slack`` seconds later."""

    entry: Entry
    first: Fraction
    slack: Fraction


def window(entry: Entry, n: int, frames: int, fps: Fraction) -> Window:
    """Window ``n`` of a clip. They lie side by side; each may start later by up to its own length, as long as the clip
    lasts.

    ::

        clip      |--------------------------------------|
        windows   |0....|1....|2....|3....|4....|5.. (too short)
        starts    ^^^^^^ ^^^^^ ^^^^^ ^^^^^ ^^^^
    """
    length = frames / fps
    last = _exact(entry.seconds) - video.GRACE - (frames - 1) / fps  # a start before it leaves the last frame inside
    return Window(entry, n * length, min(length, last - n * length))


def count_windows(seconds: float, frames: int, fps: Fraction) -> int:
    """How many windows a clip of ``seconds`` gives."""
    return video.frames_in(_exact(seconds), fps) // frames


def _exact(seconds: float) -> Fraction:
    return Fraction(seconds).limit_denominator(1_000_000)


class Numbered:
    """Windows numbered through, clip by clip.

    Args:
        counts: how many each clip gives.
    """

    def __init__(self, counts: np.ndarray):
        self.clips = np.flatnonzero(counts).astype(np.int32)  # those that give any
        self._ends = np.cumsum(counts[self.clips], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def find(self, number: int) -> tuple[int, int]:
        """The place in ``clips`` of window ``number``, and which of its clip's windows it is."""
        if not 0 <= number < len(self):
            raise IndexError(f"window {number} of {len(self)}")
        place = int(np.searchsorted(self._ends, number, side="right"))
        return place, number - (int(self._ends[place - 1]) if place else 0)


class Windows:
    """The windows of ``entries``, each made when it is asked for: 12 bytes a clip are held.

    Args:
        counts: how many each clip gives.
    """

    def __init__(self, entries: Entries, counts: np.ndarray, frames: int, fps: Fraction):
        self._numbered, self.frames, self.fps = Numbered(counts), frames, fps
        self.entries = entries.where(self._numbered.clips)

    def __len__(self) -> int:
        return len(self._numbered)

    def __getitem__(self, number: int) -> Window:
        place, n = self._numbered.find(number)
        return window(self.entries[place], n, self.frames, self.fps)


class Clips(Dataset[Item]):
    """Map from global sample number to item; short clips are decoded once and kept, up to ``keep`` bytes.

    Args:
        boxes: the index that knows the boxes to give; None: none are given.
        unseen: the index that looks at each file before it is read, where that was not done for all beforehand.
    """

    def __init__(
        self,
        held: Windows,
        size: video.Size,
        order: Order,
        keep: int,
        crop: video.Size | None = None,
        boxes: Index | None = None,
        captioned: bool = False,
        unseen: Index | None = None,
    ):
        self.held, self.frames, self.fps = held, held.frames, held.fps
        self.size, self.order, self.crop = size, order, crop
        self.quarantine: Path | None = None
        self._bad: set[str] = set()
        self.boxes, self.captioned, self.unseen = boxes, captioned, unseen
        self._keep = _that_fit(held.entries, size, keep)
        self._kept: dict[str, video.Recording] = {}

    def kept(self) -> tuple[int, int]:
        """How many clips stay decoded once they have been read, and the bytes that all of them take."""
        return len(self._keep), sum(self._keep.values())

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
        if len(self._bad) > len(self.held.entries) * MOST_BAD:
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
        if self.unseen is not None:
            self.unseen.check(entry)
        if entry.clip_id not in self._keep:
            clip = video.read(
                entry.file, fps=self.fps, start=start, frames=self.frames, size=self.size, rate=entry.rate
            )
            return clip.frames
        if entry.clip_id not in self._kept:
            self._kept[entry.clip_id] = video.record(entry.file, size=self.size, rate=entry.rate)
        return self._kept[entry.clip_id].read(self.fps, start, self.frames)


def labels(night: bool | None, cars: int | None, sample: int) -> Item:
    """The part of an item that every loader gives; -1 is unknown."""
    values = {"night": -1 if night is None else int(night), "cars": -1 if cars is None else cars, "sample": sample}
    return {name: torch.tensor(value, dtype=torch.long) for name, value in values.items()}


def _of_each(values: np.ndarray, of: Callable[[Any], int]) -> np.ndarray:
    """``of`` of every row, int64; computed once for those that are alike, so that fractions can be exact."""
    found, which = np.unique(values, axis=0, return_inverse=True)
    return np.array([of(value) for value in found.tolist()], np.int64)[which.ravel()]


def _that_fit(entries: Entries, size: video.Size, budget: int) -> dict[str, int]:
    """The first clips whose resized frames fit into ``budget`` bytes, and the bytes of each. They stay: evicting under
    a random order is no gain."""
    chosen: dict[str, int] = {}
    needs = entries.column("frames") * (size[0] * size[1] * 3)
    least = needs.min(initial=np.iinfo(np.int64).max)
    for place, need in enumerate(needs.tolist()):
        if budget < least:
            break
        if need <= budget and (clip_id := entries[place].clip_id) not in chosen:
            chosen[clip_id] = need
            budget -= need
    return chosen


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
        batches = Batches(self.batch // world, self.start_step, self.steps, rank, world)
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
        batch: clips a step, of all processes together.
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
        if boxes and not opened.entries.know("labels"):
            raise Mistake("has no boxes, which the loss is to weigh", where=index, mend="index with --labels")
        self.keep, self.digest = keep // max(1, workers), opened.digest
        self.captioned = opened.entries.know("caption")
        self.left_out = Counter()
        self._train = self._windows(self._there(opened, opened.split("train")))
        if not self._train:
            raise Mistake(
                f"no clip gives {frames} frames at {fps} fps ({_told(self.left_out)})",
                where=index,
                mend="ask for fewer or smaller frames, or index other clips",
            )

    def _there(self, opened: Index, entries: Entries) -> Entries:
        """``entries`` without those whose file is gone or has changed, which may be a tenth. Of very many, some spread
        evenly are looked at, and the others when their turn comes."""
        looked_at = np.linspace(0, len(entries) - 1, min(len(entries), LOOKED_AT)).astype(np.int64)
        self.unseen = opened if len(looked_at) < len(entries) else None
        there, wrong = np.ones(len(entries), bool), list[Mistake]()
        for place, entry in zip(looked_at.tolist(), entries.where(looked_at), strict=True):
            try:
                opened.check(entry)
            except Mistake as problem:
                wrong.append(problem)
                there[place] = False
                self.left_out[problem.what] += 1
        if len(wrong) > len(looked_at) * MOST_BAD:
            raise wrong[0]
        return entries if there.all() else entries.where(there)

    def _windows(self, entries: Entries) -> Windows:
        """Columns alone are read: of a million clips no row is made."""
        slow, small = np.zeros(len(entries), bool), np.zeros(len(entries), bool)
        if self.frames > 1:
            rates = np.stack([entries.column("fps_num"), entries.column("fps_den")], axis=1)
            slow = _of_each(rates, lambda rate: Fraction(*rate) < self.fps * video.FULL_RATE) > 0
        if not self.enlarge:
            small = (entries.column("height") < self.size[0]) | (entries.column("width") < self.size[1])
        counts = _of_each(entries.column("seconds"), lambda length: count_windows(length, self.frames, self.fps))
        fits = ~slow & ~small
        reasons = {
            f"fewer than {self.fps} frames a second": slow,
            f"smaller than {self.size[0]}x{self.size[1]}": small & ~slow,
            "shorter than a window": fits & (counts == 0),
        }
        self.left_out.update({reason: int(which.sum()) for reason, which in reasons.items() if which.any()})
        return Windows(entries, np.where(fits, counts, 0), self.frames, self.fps)

    def training(self) -> Clips:
        order, crop, boxes = self._order, self.crop, self.boxes
        clips = Clips(self._train, self.size, order, self.keep, crop, boxes, self.captioned, self.unseen)
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
