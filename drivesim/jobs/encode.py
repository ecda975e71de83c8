"""``drivesim encode``: the clips of an index through the autoencoder, once, for all trainings that follow.

Which sequences make a shard is a function of the index. Shards are made by themselves, in any order, by one process or
many; those that a run left which was killed are kept.
"""

import json
import math
import time
from bisect import bisect
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from drivesim import disk, weights
from drivesim.data import video
from drivesim.data.annotations import Labelled
from drivesim.data.index import Entry, Index
from drivesim.data.latent_writer import SHARD_BYTES, LatentWriter, is_whole, seal
from drivesim.data.latents import ABOUT, BOX, About, LatentCache
from drivesim.errors import Mistake
from drivesim.jobs import tiny
from drivesim.jobs.fanout import Engine
from drivesim.jobs.preflight import Estimate, Law, Part, Room, check_disk, check_memory
from drivesim.models.autoencoder import Autoencoder, config_of
from drivesim.rollout import memory
from drivesim.rollout.journal import LOCK, owned
from drivesim.rollout.tracks import from_labelled
from drivesim.scene import KEYFRAME_FPS, MOST_BOXES, Boxes, FrameBoxes, frame_boxes, joined, to_model

TRIED = 1.0  # seconds of encoding that the preflight measures
SHARDS = 64  # of a small cache, so that there is something to share
BEGUN = "encoding.json"  # from what a cache is made that is not whole yet
ANOTHER = "remove it, or choose another --out"


@dataclass(frozen=True)
class Place:
    """A sequence: of ``entry``, its number in the index, from second ``start``; ``frames``, as the index has it."""

    entry: int
    start: Fraction
    frames: int


@dataclass(frozen=True)
class Shard:
    """What one file of the cache holds."""

    number: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Encoder:
    """What makes shards, in this process or another.

    Args:
        index: folder. file: the autoencoder's weights, those that ``about`` names.
        device: of the model. batch: frames at a time. out: folder of the cache.
    """

    index: Path
    file: Path
    about: About
    device: str
    batch: int
    out: Path

    @cached_property
    def model(self) -> Autoencoder:
        return Autoencoder.load(self.file).to(self.device)

    @cached_property
    def opened(self) -> Index:
        return Index.open(self.index)

    @torch.inference_mode()
    def moments(self, place: Place, most: int | None = None) -> Iterator[np.ndarray]:
        """Of a sequence, ``t 2C h w`` after ``t 2C h w``; of the first ``most`` frames of each batch alone."""
        entry, fps = self.opened.entries[place.entry], Fraction(self.about.fps)
        read = video.stream(
            entry.file, fps=fps, size=self.about.size, chunk=self.batch, start=place.start, rate=entry.rate
        )
        for clip in read:
            yield _encode(self.model, clip.frames[:most], self.device, self.about.precision)

    def __call__(self, shard: Shard) -> None:
        """Writes one shard, whatever of it is there.

        Raises:
            Mistake: a clip is gone, altered or cannot be read; values that are not finite; it cannot be written.
        """
        fps, about = Fraction(self.about.fps), self.about
        with LatentWriter(self.out, about, shard.number) as writer:
            for place in shard.places:
                entry = self.opened.entries[place.entry]
                entry.check()
                if moments := list(self.moments(place)):
                    sequence = np.concatenate(moments)
                    times = [place.start + n / fps for n in range(len(sequence))]
                    boxes = _boxes(self.opened, entry, times, about.boxes, about.size)
                    writer.add(entry, sequence, fps, place.start, boxes)


def run(
    index: Path,
    weights_folder: Path,
    out: Path,
    fps: Fraction = KEYFRAME_FPS,
    size: tuple[int, int] = (128, 256),
    device: str = "cpu",
    *,
    phases: int = 1,
    precision: str = "32",
    batch: int = 16,
    resume: bool = False,
    dry_run: bool = False,
    engine: Engine | None = None,
) -> Path:
    """Encodes every clip of ``index`` into the cache ``out``; says before what that will take.

    Args:
        weights_folder: holds ``autoencoder.safetensors``, or is that file.
        fps: of the sequences; clips with fewer frames a second are left out.
        phases: sequences taken from each clip, ``1 / (phases * fps)`` apart, so that 30 fps gives several at 15/8.
        size: ``(H, W)``, a multiple of the autoencoder's f.
        precision: ``32`` or ``bf16``. batch: frames at a time.
        resume: goes on with the shards that an encoding which was stopped left in ``out``.
        dry_run: stops after that, and writes nothing.
        engine: who makes the shards; None: this process. The bytes are the same, whoever does.

    Raises:
        Mistake: no index, no autoencoder, a size that does not divide, no clip with a frame; ``out`` holds something
            else; too little memory or disk.
        Interrupted: SIGTERM or SIGUSR1, after the shard that it came into; ``resume`` goes on.
    """
    out, opened, file = Path(out), Index.open(index), tiny.named(Path(weights_folder))
    file = file / "autoencoder.safetensors" if file.is_dir() else file
    model = config_of(weights.header(file, "autoencoder"))
    if size[0] % model.f or size[1] % model.f:
        raise Mistake(f"{size[0]}x{size[1]} does not divide by the autoencoder's {model.f}", where="--size")
    shape = (2 * model.latent, size[0] // model.f, size[1] // model.f)
    fast = [n for n, entry in enumerate(opened.entries) if entry.fps >= fps * video.FULL_RATE]
    if not fast:
        raise Mistake(f"no clip has {fps} frames a second or more", where=index, mend="ask for a lower --fps")

    fullest = max(_fullest(opened.boxes(opened.entries[n].clip_id)) for n in fast)
    places = min(MOST_BOXES, fullest)
    about = About(opened.digest, disk.sha256(file), size, str(fps), phases, precision, shape, places)
    sequences = [
        Place(n, start, video.frames_in(Fraction(opened.entries[n].seconds) - start, fps))
        for n in fast
        for start in _starts(opened.entries[n], fps, phases)
    ]
    shards = cut(sequences, _bytes(about))
    if _is_done(out, about, resume):
        print(f"{out}: nothing is left to encode")
        return out
    work = Encoder(Path(index), file, about, device, batch, out)
    with (engine or Engine()).crew(device) as crew:
        todo = [shard for shard in shards if not is_whole(out, shard.number)]
        if todo:
            room = Room.at(out, device)
            estimate = _estimate(todo, work, room)
            crew.shared(estimate, room).show(room)
        if dry_run:
            return out
        with _begun(out, about):
            work = replace(work, device=torch.device(device).type) if crew.far else work  # loaded again over there
            for _ in crew.map(work, todo, "encoding", lambda shard: f"shard {shard.number}"):
                pass
            seal(out, about, len(shards))
    cache = LatentCache.open(out)
    frames = sum(sequence.frames for sequence in cache.sequences)
    say = Console(highlight=False).print
    say(f"{out}: {frames} frames in {len(cache.sequences)} sequences, moments {shape}")
    if fullest > places:
        say(f"of frames with more than {places} boxes, up to {fullest}, the smallest boxes are left out")
    if len(fast) < len(opened.entries):
        say(f"{len(opened.entries) - len(fast)} clips left out: fewer than {fps} frames a second")
    return out


def cut(sequences: list[Place], cell: int) -> list[Shard]:
    """Sequences side by side into shards of about equal bytes: at least about ``SHARDS``, of ``SHARD_BYTES`` at most
    and what the last sequence has beyond. A function of the index, not of who encodes.

    Args:
        cell: bytes of a frame.
    """
    most = min(SHARD_BYTES, sum(place.frames for place in sequences) * cell // SHARDS)
    shards, held = list[list[Place]](), most
    for place in sequences:
        if held >= most:
            shards.append([])
            held = 0
        shards[-1].append(place)
        held += place.frames * cell
    return [Shard(number, tuple(places)) for number, places in enumerate(shards)]


def _bytes(about: About) -> int:
    """Of a frame: float16 moments, and boxes."""
    return 2 * math.prod(about.shape) + about.boxes * BOX.itemsize


def _told(about: About) -> dict[str, Any]:
    return {**asdict(about), "shards": [SHARDS, SHARD_BYTES]}


def _is_done(out: Path, about: About, resume: bool) -> bool:
    """Whether ``out`` holds the cache already; where it does not, it is free, or holds a part of it.

    Raises:
        Mistake: it holds something else, or a part and ``resume`` is not asked for.
    """
    if not out.exists() or (out.is_dir() and {file.name for file in out.iterdir()} <= {LOCK}):
        return False
    if resume and (out / ABOUT).is_file() and not (out / BEGUN).exists():
        if LatentCache.open(out).fingerprint == about.fingerprint:
            return True
        raise Mistake("holds another cache", where=out, mend=ANOTHER)
    if not (out / BEGUN).is_file():
        raise Mistake("exists already and is not empty", where=out, mend=ANOTHER)
    if not resume:
        raise Mistake("holds a part of a cache", where=out, mend=f"--resume goes on with it; or {ANOTHER}")
    try:
        found = json.loads((out / BEGUN).read_bytes())
        asked = json.loads(json.dumps(_told(about)))
        differs = [name for name in asked if found.get(name) != asked[name]]
    except (OSError, ValueError, AttributeError):
        raise Mistake("cannot be read", where=out / BEGUN, mend=ANOTHER) from None
    if differs:
        raise Mistake(f"was begun with another {', '.join(differs)}", where=out, mend=ANOTHER)
    return False


@contextmanager
def _begun(out: Path, about: About) -> Iterator[None]:
    """``out`` is ours, and says from what it is made until it is whole. Where nothing comes of it, it goes again."""
    with owned(out):
        disk.write_atomic(out / BEGUN, json.dumps(_told(about), indent=1).encode())
        try:
            yield
        except BaseException:
            if not any(out.glob("*.npy")):
                (out / BEGUN).unlink(missing_ok=True)
            raise
        for file in (out / BEGUN, *out.glob(".*.part")):  # what a worker that died had half-written, on any machine
            file.unlink(missing_ok=True)


def _fullest(boxes: Boxes | None) -> int:
    """The most boxes at a moment; 1 for a clip that is known to have none, 0 where they are unknown."""
    return 0 if boxes is None else max(Counter(boxes.time).values(), default=1)


def _boxes(index: Index, entry: Entry, times: list[Fraction], most: int, size: tuple[int, int]) -> FrameBoxes | None:
    """Those of the frames at ``times``, as these are cut to ``size``; between labelled moments a box moves evenly."""
    if (own := index.boxes(entry.clip_id)) is None or not most:
        return None
    own = replace(own, box=video.fit_boxes(own.box, (entry.height, entry.width), size))
    labelled = Labelled(entry.path, own, (entry.height, entry.width), tuple(sorted(set(own.time))))
    return frame_boxes(_with_ignored(from_labelled(labelled).identified(times), own, times), times, most)


def _with_ignored(boxes: Boxes, own: Boxes, times: list[Fraction]) -> Boxes:
    """``boxes`` with the ignored regions of ``own``, each of which holds from its moment to the next labelled one."""
    rows: dict[Fraction, list[int]] = {time: [] for time in sorted(set(own.time))}
    for row in np.flatnonzero(own.ignored).tolist():
        rows[own.time[row]].append(row)
    moments = list(rows)
    held = [(t, row) for t in times if moments for row in rows[moments[max(0, bisect(moments, t) - 1)]]]
    regions = own.rows([row for _, row in held])
    return joined(boxes, replace(regions, time=tuple(time for time, _ in held)))


def _estimate(todo: list[Shard], encoder: Encoder, room: Room) -> Estimate:
    """From the first frames of what is left: one, two, and for a second as many as are asked for.

    Raises:
        Mistake: memory or disk do not suffice.
    """
    about, batch, device = encoder.about, encoder.batch, torch.device(encoder.device)
    cell, counts = 2 * math.prod(about.shape), [sum(place.frames for place in shard.places) for shard in todo]
    disk = sum(counts) * _bytes(about)
    check_disk(disk, room, encoder.out, "name an --out on another disk, or ask for fewer --phases or a lower --fps")
    # what waits to be written: a shard and its parts, a sequence in float32 and its parts
    longest = max(place.frames for shard in todo for place in shard.places)
    held, peaks = 2 * max(counts) * _bytes(about) + 4 * longest * cell, dict[int, int]()

    def check() -> None:
        if peaks and room.memory is not None:
            law = Law(peaks)
            largest = law.largest(room.memory - held)
            mend = f"--batch {largest} fits" if largest else "not even one frame fits: ask for a smaller --size"
            check_memory(law.at(batch) + held, room, "encode", mend)

    first = todo[0].places[0]
    encoder.opened.entries[first.entry].check()
    for tried in sorted({1, 2, batch}):
        if tried > batch:
            break
        check()
        with memory.measured(device) as piece:
            next(encoder.moments(first, tried), None)
        if piece.peak is not None:
            peaks[tried] = piece.peak
    check()
    law, seconds = Law(peaks), _seconds([place for shard in todo for place in shard.places], encoder)
    largest = law.largest(room.memory - held) if peaks and room.memory is not None else None
    return Estimate(
        "encode",
        (Part("frames", sum(counts), seconds),),
        law.at(batch) + held if peaks else None,
        disk,
        f"{sum(counts)} frames of moments {about.shape}",
        f"--batch {largest}" if largest else "",
    )


def _seconds(places: list[Place], encoder: Encoder) -> float:
    """Of a frame, reading included, over the first sequences."""
    begin, frames = time.perf_counter(), 0
    for place in places:
        encoder.opened.entries[place.entry].check()
        for part in encoder.moments(place):
            frames += len(part)
            if time.perf_counter() - begin > TRIED:
                return (time.perf_counter() - begin) / frames
    return (time.perf_counter() - begin) / max(1, frames)


def _starts(entry: Entry, fps: Fraction, phases: int) -> Iterator[Fraction]:
    """Phases that a clip's own rate can tell apart, those that fall inside it."""
    for n in range(min(phases, max(1, int(entry.fps / fps)))):
        if (start := n / (phases * fps)) < entry.seconds:
            yield start


def _encode(model: Autoencoder, frames: np.ndarray, device: str, precision: str) -> np.ndarray:
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16) if precision == "bf16" else nullcontext():
        moments: Tensor = model.encode(to_model(frames).to(device))
    return moments.float().cpu().numpy()
