"""From videos to feature vectors, each clip once and for all: read, prepared, through the networks, into the cache.

::

    readers (threads)             queue            one thread                       disk
    video -> clip -> prepared --> a few clips --> batches of one shape --> vectors --> a file a video

Batches always have the same shape, the last one padded, since the last bits of a convolution depend on its shape; they
do not depend on what else is in the batch or where in it a clip stands. So a clip's vector is its own: whichever
process computed it, in whatever order, before or after a crash. Memory does not grow with the number of videos.
"""

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drivesim import randomness
from drivesim.data import video
from drivesim.data.gather import Source
from drivesim.errors import Mistake
from drivesim.metrics import drift, store
from drivesim.metrics.features import Extractor
from drivesim.metrics.protocols import Protocol

FORMAT = 2  # of what is kept; a change of it makes everything anew
FRAMES = 4  # single frames of each clip for FID, evenly spaced
BATCH_FRAMES = 16
KEPT_EVERY = 64  # clips of a long video after which what is done goes to disk
CONTROLS = ("frozen", "shuffled")


@dataclass(frozen=True, eq=False)
class Ruler:
    """How clips are turned into vectors.

    Args:
        protocol: how they are taken.
        clip, frame: the networks for clips and for single frames.
        controls: the clips' copies that are made worthless are measured, too.
        batch: clips in a batch.
        about: what else the vectors depend on (precision, kind of device).
    """

    protocol: Protocol
    clip: Extractor
    frame: Extractor
    controls: bool
    batch: int
    about: str = ""

    @property
    def key(self) -> str:
        """Changes when a vector would."""
        rules = {k: str(v) for k, v in asdict(self.protocol).items() if k not in ("name", "ddof", "sums", "clips")}
        networks = [(e.name, e.sha, e.size) for e in (self.clip, self.frame)]
        text = json.dumps([FORMAT, rules, networks, self.batch, self.about], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def words(self) -> tuple[str, ...]:
        """Names of the tensors of a clip."""
        return ("features", *(CONTROLS if self.controls else ()), "frames", "statistics")


@dataclass(frozen=True)
class Wanted:
    """A video, and which of its clips (counted side by side from 0) are to be measured."""

    source: Source
    clip_id: str
    info: video.VideoInfo
    clips: tuple[int, ...]


@dataclass
class Vectors:
    """What is known of a video: tensors with a row a clip, by name, and which clips these are."""

    clips: list[int] = field(default_factory=list)
    rows: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, clip: int, rows: dict[str, Tensor]) -> None:
        self.clips.append(clip)
        for word, row in rows.items():
            self.rows.setdefault(word, []).append(row)

    def of(self, clip: int) -> dict[str, Tensor]:
        place = self.clips.index(clip)
        return {word: rows[place] for word, rows in self.rows.items()}


class Cache:
    """Vectors by the content of the video and the ruler, a file a video; another ruler has a folder of its own."""

    def __init__(self, folder: Path, ruler: Ruler):
        # with and without controls apart, so that neither side overwrites what the other has
        self.folder, self.words = folder / ruler.key / ("controlled" if ruler.controls else "plain"), ruler.words

    def load(self, clip_id: str) -> Vectors:
        """What is kept of a video: nothing where there is no whole file."""
        file = self._file(clip_id)
        if not file.is_file():
            return Vectors()
        try:
            tensors, about = store.read(file)
        except Mistake:
            return Vectors()  # cut off by a crash of the machine: it is measured again
        clips = about.get("clips", [])
        if set(self.words) != tensors.keys() or any(len(rows) != len(clips) for rows in tensors.values()):
            return Vectors()
        return Vectors(clips, {word: list(rows) for word, rows in tensors.items()})

    def save(self, clip_id: str, vectors: Vectors) -> None:
        tensors = {word: torch.stack(rows) for word, rows in vectors.rows.items()}
        store.write(self._file(clip_id), tensors, {"clips": vectors.clips})

    def _file(self, clip_id: str) -> Path:
        return self.folder / clip_id[:2] / f"{clip_id}.safetensors"


def plan(counts: dict[str, int], most: int | None) -> dict[str, tuple[int, ...]]:
    """Which clips of which video are taken: every one, or ``most``, drawn so that each video gives one before any gives
    two. A function of the videos' contents, not of their names or order.

    Args:
        counts: how many clips each video has, by its hash.
    """
    if most is None or sum(counts.values()) <= most:
        return {clip_id: tuple(range(count)) for clip_id, count in counts.items()}
    drawn = []
    for clip_id, count in counts.items():
        order = randomness.generator("evaluate", "clips", clip_id).permutation(count)
        drawn += [(turn, clip_id, int(clip)) for turn, clip in enumerate(order)]
    taken: dict[str, list[int]] = {}
    # within a turn by hash, so that the videos that give one more are a draw as well
    for _, clip_id, clip in sorted(drawn)[:most]:
        taken.setdefault(clip_id, []).append(clip)
    return {clip_id: tuple(sorted(taken.get(clip_id, ()))) for clip_id in counts}


def count_clips(info: video.VideoInfo, protocol: Protocol) -> int:
    """How many clips side by side a video gives."""
    rate, half = _pace(info, protocol)
    return video.frames_in(info.seconds - half, rate) // protocol.span


def _pace(info: video.VideoInfo, protocol: Protocol) -> tuple[Fraction, Fraction]:
    """Frames a second that are taken, and where in a frame's time.

    At the video's own rate that is the middle, so that time stamps which shiver by less give every frame once, and a
    clip has the same frames whether it is read alone or after the one before it.
    """
    return (protocol.fps, Fraction(0)) if protocol.fps else (info.fps, 1 / info.fps / 2)


def span_seconds(info: video.VideoInfo, protocol: Protocol) -> Fraction:
    """Seconds from one clip to the next."""
    return protocol.span / (protocol.fps or info.fps)


def missing(wanted: Wanted, cache: Cache) -> Wanted:
    """What of ``wanted`` is not in the cache yet."""
    known = set(cache.load(wanted.clip_id).clips)
    return Wanted(wanted.source, wanted.clip_id, wanted.info, tuple(c for c in wanted.clips if c not in known))


def measure(
    videos: Iterable[Wanted], ruler: Ruler, cache: Cache, readers: int, done: Callable[[int], None]
) -> dict[str, str]:
    """Measures the clips of ``videos`` into the cache.

    Args:
        readers: threads that read and prepare.
        done: is told of every few clips that are finished.

    Returns:
        Why a video could not be read to its end, by its hash; nothing is kept of what such a video gave.
    """
    failed: dict[str, str] = {}
    held: dict[str, tuple[Vectors, int]] = {}  # what of a video is finished, and how many of its clips are under way

    def settle(clip_id: str, clip: int, rows: dict[str, Tensor]) -> None:
        vectors, left = held[clip_id]
        vectors.add(clip, rows)
        held[clip_id] = (vectors, left - 1)
        if left == 1 or len(vectors.clips) % KEPT_EVERY == 0:
            cache.save(clip_id, vectors)
        if left == 1:
            del held[clip_id]
        done(1)

    desk = Desk(ruler, settle)
    for item in _read(list(videos), ruler, readers, ruler.batch):
        clip_id = item.wanted.clip_id
        if item.problem:
            failed[clip_id] = item.problem
            desk.drop(clip_id)
            held.pop(clip_id, None)
        elif clip_id not in failed:
            if clip_id not in held:
                held[clip_id] = (cache.load(clip_id), len(item.wanted.clips))
            desk.put(item)
    desk.flush()
    return failed


@dataclass(frozen=True, eq=False)
class Item:
    """A clip on its way: prepared for both networks; or why its video could not be read."""

    wanted: Wanted
    clip: int = -1
    prepared: np.ndarray | None = None
    frames: np.ndarray | None = None
    statistics: Tensor | None = None
    problem: str = ""


class Desk:
    """Collects clips into batches of one shape and hands out the rows of each clip when all of them are there."""

    def __init__(self, ruler: Ruler, settle: Callable[[str, int, dict[str, Tensor]], None]):
        self.ruler, self.settle = ruler, settle
        self.clips: list[tuple[tuple[str, int], str, np.ndarray]] = []
        self.frames: list[tuple[tuple[str, int], str, np.ndarray]] = []
        self.rows: dict[tuple[str, int], dict[str, Tensor]] = {}

    def put(self, item: Item) -> None:
        assert item.prepared is not None and item.frames is not None and item.statistics is not None
        name = (item.wanted.clip_id, item.clip)
        self.rows[name] = {"statistics": item.statistics}
        for word, copy in _copies(item.prepared, name, self.ruler.controls).items():
            self.clips.append((name, word, copy))
        self.frames += [(name, f"frames {n}", frame[None]) for n, frame in enumerate(item.frames)]
        while len(self.clips) >= self.ruler.batch:
            self._run(self.clips, self.ruler.clip, self.ruler.batch)
        while len(self.frames) >= BATCH_FRAMES:
            self._run(self.frames, self.ruler.frame, BATCH_FRAMES)

    def drop(self, clip_id: str) -> None:
        """Forgets the clips of a video that turned out to be damaged."""
        self.clips = [row for row in self.clips if row[0][0] != clip_id]
        self.frames = [row for row in self.frames if row[0][0] != clip_id]
        self.rows = {name: rows for name, rows in self.rows.items() if name[0] != clip_id}

    def flush(self) -> None:
        while self.clips:
            self._run(self.clips, self.ruler.clip, self.ruler.batch)
        while self.frames:
            self._run(self.frames, self.ruler.frame, BATCH_FRAMES)

    def _run(self, waiting: list[tuple[tuple[str, int], str, np.ndarray]], network: Extractor, size: int) -> None:
        group, waiting[:] = waiting[:size], waiting[size:]
        padded = [row[2] for row in group] + [group[0][2]] * (size - len(group))
        vectors = network(torch.from_numpy(np.stack(padded)))
        for (name, word, _), vector in zip(group, vectors, strict=False):
            self.rows[name][word] = vector
            self._settle(name)

    def _settle(self, name: tuple[str, int]) -> None:
        rows = self.rows[name]
        frames = [rows[word] for n in range(FRAMES) if (word := f"frames {n}") in rows]
        words = [word for word in self.ruler.words if word != "frames"]
        if len(frames) == FRAMES and all(word in rows for word in words):
            del self.rows[name]
            self.settle(*name, {word: rows[word] for word in words} | {"frames": torch.stack(frames)})


def _copies(prepared: np.ndarray, name: tuple[str, int], controls: bool) -> dict[str, np.ndarray]:
    """A clip ``T h w 3``, and as controls its first frame held and its frames shuffled, by its name alone."""
    if not controls:
        return {"features": prepared}
    order = randomness.generator("evaluate", "shuffled", *name).permutation(len(prepared))
    return {
        "features": prepared,
        "frozen": np.repeat(prepared[:1], len(prepared), axis=0),
        "shuffled": prepared[order],
    }


# --- reading ----------------------------------------------------------------------------------------------------------


def _read(videos: list[Wanted], ruler: Ruler, readers: int, ahead: int) -> Iterator[Item]:
    """The clips of all videos as they are ready, a video's own in order; an error outside of a video is raised here."""
    todo: Iterator[Wanted] = iter([wanted for wanted in videos if wanted.clips])
    lock, stop = threading.Lock(), threading.Event()
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(maxsize=max(2, ahead))

    def put(item: Item | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def work() -> None:
        try:
            while not stop.is_set():
                with lock:
                    wanted = next(todo, None)
                if wanted is None:
                    return
                try:
                    for clip, frames in clips(wanted, ruler.protocol):
                        put(prepared(wanted, clip, frames, ruler))
                        if stop.is_set():
                            return
                except Mistake as problem:
                    put(Item(wanted, problem=problem.what))
        except BaseException as defect:  # handed on to the one who waits
            put(defect)
        finally:
            put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(readers)]
    for thread in threads:
        thread.start()
    try:
        running = len(threads)
        while running:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        stop.set()


def prepared(wanted: Wanted, clip: int, frames: np.ndarray, ruler: Ruler) -> Item:
    """A clip uint8 ``T H W 3`` as both networks take it."""
    chosen = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    return Item(wanted, clip, ruler.clip.prepare(frames), ruler.frame.prepare(frames[chosen]), drift.statistics(frames))


def clips(wanted: Wanted, protocol: Protocol) -> Iterator[tuple[int, np.ndarray]]:
    """(number, uint8 ``T H W 3``) of the wanted clips of a video.

    Raises:
        Mistake: it cannot be decoded as far.
    """
    length = span_seconds(wanted.info, protocol)
    rate, half = _pace(wanted.info, protocol)
    for first, last in runs(wanted.clips):
        stream = video.stream(
            wanted.source.file,
            fps=rate / protocol.every,
            chunk=protocol.frames,
            start=first * length + half,
            rate=wanted.source.rate,
        )
        for clip in range(first, last + 1):
            part = next(stream, None)
            if part is None or len(part.frames) < protocol.frames:
                raise Mistake("ends before the frames that it promises", where=wanted.source.file)
            yield clip, part.frames
        stream.close()  # type: ignore[attr-defined]  # a generator: its file is closed now


def runs(numbers: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """First and last of every stretch of consecutive numbers, in order."""
    begin = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            yield numbers[begin], numbers[place - 1]
            begin = place
