"""``drivesim encode``: the clips of an index through the autoencoder, once, for all trainings that follow."""

import math
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from drivesim import weights
from drivesim.data import video
from drivesim.data.annotations import Labelled
from drivesim.data.index import Entry, Index, whole_folder
from drivesim.data.latents import BOX, SHARD_BYTES, About, LatentCache, LatentWriter
from drivesim.errors import Mistake
from drivesim.jobs.preflight import Estimate, Law, Part, Room, check_disk, check_memory
from drivesim.models.autoencoder import Autoencoder
from drivesim.rollout import memory
from drivesim.rollout.tracks import from_labelled
from drivesim.scene import KEYFRAME_FPS, MOST_BOXES, Boxes, FrameBoxes, frame_boxes, joined, to_model

TRIED = 1.0  # seconds of encoding that the preflight measures


@torch.inference_mode()
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
    dry_run: bool = False,
) -> Path:
    """Encodes every clip of ``index`` into the cache ``out``; says before what that will take.

    Args:
        weights_folder: holds ``autoencoder.safetensors``, or is that file.
        fps: of the sequences; clips with fewer frames a second are left out.
        phases: sequences taken from each clip, ``1 / (phases * fps)`` apart, so that 30 fps gives several at 15/8.
        size: ``(H, W)``, a multiple of the autoencoder's f.
        precision: ``32`` or ``bf16``. batch: frames at a time.
        dry_run: stops after that, and writes nothing.

    Raises:
        Mistake: no index, no autoencoder, a size that does not divide, no clip with a frame; too little memory or disk.
    """
    opened, file = Index.open(index), Path(weights_folder)
    file = file / "autoencoder.safetensors" if file.is_dir() else file
    model = Autoencoder.load(file).to(device)
    if size[0] % model.config.f or size[1] % model.config.f:
        raise Mistake(f"{size[0]}x{size[1]} does not divide by the autoencoder's {model.config.f}", where="--size")
    shape = (2 * model.config.latent, size[0] // model.config.f, size[1] // model.config.f)
    fast = [entry for entry in opened.entries if entry.fps >= fps * video.FULL_RATE]
    if not fast:
        raise Mistake(f"no clip has {fps} frames a second or more", where=index, mend="ask for a lower --fps")

    fullest = max(_fullest(opened.boxes(entry.clip_id)) for entry in fast)
    places = min(MOST_BOXES, fullest)
    about = About(opened.digest, weights.sha256(file), size, str(fps), phases, precision, shape, places)

    def encoded(entry: Entry, start: Fraction, most: int = batch) -> Iterator[np.ndarray]:
        for clip in video.stream(entry.file, fps=fps, size=size, chunk=batch, start=start, rate=entry.rate):
            yield _encode(model, clip.frames[:most], device, precision)

    sequences = [(entry, start) for entry in fast for start in _starts(entry, fps, phases)]
    room = Room.at(Path(out), device)
    _estimate(sequences, encoded, about, batch, Path(out), torch.device(device), room).show(room)
    if dry_run:
        return Path(out)
    with whole_folder(Path(out)) as part, LatentWriter(part, about) as writer:
        for entry, start in track(sequences, "encoding", transient=True):
            entry.check()
            moments = list(encoded(entry, start))
            if moments:
                sequence = np.concatenate(moments)
                times = [start + n / fps for n in range(len(sequence))]
                writer.add(entry, sequence, fps, start, _boxes(opened, entry, times, places, size))
    cache = LatentCache.open(out)
    frames = sum(sequence.frames for sequence in cache.sequences)
    say = Console(highlight=False).print
    say(f"{out}: {frames} frames in {len(cache.sequences)} sequences, moments {shape}")
    if fullest > places:
        say(f"of frames with more than {places} boxes, up to {fullest}, the smallest boxes are left out")
    if len(fast) < len(opened.entries):
        say(f"{len(opened.entries) - len(fast)} clips left out: fewer than {fps} frames a second")
    return Path(out)


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


def _estimate(
    sequences: list[tuple[Entry, Fraction]],
    encoded: Callable[..., Iterator[np.ndarray]],
    about: About,
    batch: int,
    out: Path,
    device: torch.device,
    room: Room,
) -> Estimate:
    """From the first frames of the index: one, two, and for a second as many as are asked for.

    Raises:
        Mistake: memory or disk do not suffice.
    """
    fps, cell = Fraction(about.fps), 2 * math.prod(about.shape)  # bytes of a frame's float16 moments
    counts = [video.frames_in(Fraction(entry.seconds) - start, fps) for entry, start in sequences]
    disk = sum(counts) * (cell + about.boxes * BOX.itemsize)
    check_disk(disk, room, out, "name an --out on another disk, or ask for fewer --phases or a lower --fps")
    # what waits to be written: a shard and its parts, a sequence in float32 and its parts
    held, peaks = 2 * min(disk, SHARD_BYTES) + 4 * max(counts) * cell, dict[int, int]()

    def check() -> None:
        if peaks and room.memory is not None:
            law = Law(peaks)
            largest = law.largest(room.memory - held)
            mend = f"--batch {largest} fits" if largest else "not even one frame fits: ask for a smaller --size"
            check_memory(law.at(batch) + held, room, "encode", mend)

    sequences[0][0].check()
    for tried in sorted({1, 2, batch}):
        if tried > batch:
            break
        check()
        with memory.measured(device) as piece:
            next(encoded(*sequences[0], tried), None)
        if piece.peak is not None:
            peaks[tried] = piece.peak
    check()
    law, seconds = Law(peaks), _seconds(sequences, encoded)
    largest = law.largest(room.memory - held) if peaks and room.memory is not None else None
    return Estimate(
        "encode",
        (Part("frames", sum(counts), seconds),),
        law.at(batch) + held if peaks else None,
        disk,
        f"{sum(counts)} frames of moments {about.shape}",
        f"--batch {largest}" if largest else "",
    )


def _seconds(sequences: list[tuple[Entry, Fraction]], encoded: Callable[..., Iterator[np.ndarray]]) -> float:
    """Of a frame, reading included, over the first sequences."""
    begin, frames = time.perf_counter(), 0
    for entry, start in sequences:
        entry.check()
        for part in encoded(entry, start):
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
