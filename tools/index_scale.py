"""What an index and a latent cache of very many clips take, by made-up rows without files behind them:

    python tools/index_scale.py --clips 10000 100000 1000000

For each number: an index is written, opened, cut to windows, sampled and asked for boxes; then the table of a latent
cache is written beside shards that are holes, opened, and read at random. A row tells the seconds by the clock and on
the CPU, the memory that came on top while it ran, and the bytes on the disk. Every number runs in a process of its own.
"""

import argparse
import hashlib
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from drivesim.data.index import BOXES, FILES, GROUP, Entries, Entry, Index, Writer, val_drives
from drivesim.data.latent_windows import LatentData
from drivesim.data.latents import ABOUT, FORMAT, SCHEMA, SEQUENCES, About
from drivesim.data.loader import ClipData
from drivesim.rollout import memory
from drivesim.scene import Boxes

CPU = torch.device("cpu")
A_DRIVE, SAMPLES = 50, 2000  # clips of a drive; samples that are timed
PER_SHARD, FRAMES = 128, 16  # sequences of a shard, frames of a sequence: 256 MiB of moments
RATE = Fraction(15, 8)
LOOKS = About("made up", "0" * 64, (512, 1024), str(RATE), 1, "32", (8, 64, 128))


class Clips(ClipData):
    """Without a look at the files, of which there are none."""

    def _there(self, opened: Index, entries: Entries) -> Entries:
        self.unseen = None
        return entries


def entry(n: int, held_back: set[str]) -> Entry:
    drive = f"made-up/drive-{n // A_DRIVE:06d}"
    frames = 200 + n * 7919 % 101
    return Entry(
        hashlib.sha256(str(n).encode()).hexdigest(), f"{drive}/clip-{n:08d}.mp4", "/videos", 4_000_000 + n, drive,
        frames, 1024, 512, 0, 30, 1, False, frames / 30, n % 3 == 0, n % 20, None, "made up", "made up", "none",
        "val" if drive in held_back else "train",
    )  # fmt: skip


def write_index(folder: Path, clips: int, boxes: int) -> None:
    held_back = val_drives({f"made-up/drive-{n:06d}" for n in range(-(-clips // A_DRIVE))}, 0.1)
    draw = np.random.default_rng(0)
    time_of = tuple(Fraction(n // 4, 2) for n in range(boxes))
    some = Boxes(time_of, np.arange(boxes) % 4, ("car",) * boxes, np.zeros((boxes, 4)), np.full(boxes, np.nan))
    with Writer(folder) as writer:
        for n in range(clips):
            writer.add(entry(n, held_back), replace(some, box=draw.random((boxes, 4))))


def write_cache(folder: Path, clips: int) -> None:
    frame = int(np.prod(LOOKS.shape)) * 2
    for shard in range(-(-clips // PER_SHARD)):
        count = min(PER_SHARD, clips - shard * PER_SHARD) * FRAMES
        with open(folder / f"{shard:06d}.npy", "wb") as file:
            about = {"descr": "<f2", "fortran_order": False, "shape": (count, *LOOKS.shape)}
            np.lib.format.write_array_header_1_0(file, about)
            file.truncate(file.tell() + count * frame)  # a hole, which takes no place on the disk
    with pq.ParquetWriter(folder / SEQUENCES, SCHEMA) as writer:
        for first in range(0, clips, GROUP):
            numbers = range(first, min(clips, first + GROUP))
            rows = [
                {
                    "clip_id": hashlib.sha256(str(n).encode()).hexdigest(), "night": n % 3 == 0, "cars": n % 20,
                    "split": "val" if n % 10 == 0 else "train", "shard": n // PER_SHARD,
                    "offset": n % PER_SHARD * FRAMES, "frames": FRAMES, "fps_num": RATE.numerator,
                    "fps_den": RATE.denominator, "start_num": 0, "start_den": 1,
                }
                for n in numbers
            ]  # fmt: skip
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    about = {"format": FORMAT, "fingerprint": LOOKS.fingerprint, **asdict(LOOKS)}
    (folder / ABOUT).write_text(json.dumps(about))


def row(clips: int, what: str, do: Callable[[], Any], times: int = 1, disk: Callable[[], int] | None = None) -> Any:
    """Runs ``do`` and prints its row: wall time, CPU time, memory, disk; with ``times``, of one of them."""
    with memory.measured(CPU) as before:
        pass
    begun, worked = time.perf_counter(), time.process_time()
    with memory.measured(CPU) as during:
        made = do()
    took = time.perf_counter() - begun, time.process_time() - worked
    unit, factor = ("s ", 1) if times == 1 else ("ms", 1000 / times)
    seconds = " ".join(f"{each * factor:9.3f} {unit}" for each in took)
    on_top = "unknown" if during.peak is None or before.peak is None else f"{(during.peak - before.peak) / 2**20:.0f}"
    on_disk = f"{disk() / 1e6:9.1f} MB" if disk else ""
    print(f"{clips:>9} {what:<34} {seconds} {on_top:>7} MiB {on_disk}".rstrip(), flush=True)
    return made


def measure(clips: int, boxes: int, place: Path) -> None:
    torch.set_num_threads(1)
    index, cache = place / "index", place / "cache"
    index.mkdir()
    cache.mkdir()
    in_index, in_cache = partial(size, index), partial(size, cache)
    row(clips, f"index written, {boxes} boxes a clip", lambda: write_index(index, clips, boxes), disk=in_index)
    opened = row(clips, "index opened", lambda: Index.open(index), disk=lambda: in_index(FILES))
    which = np.random.default_rng(1).integers(0, clips, SAMPLES).tolist()
    row(clips, "a row at random", lambda: [opened.entries[n] for n in which], SAMPLES)
    row(clips, "digest", lambda: opened.digest)
    ids = [opened.entries[n].clip_id for n in which]
    row(clips, "boxes of the first clip", lambda: opened.boxes(ids[0]), disk=lambda: in_index(BOXES))
    row(clips, "boxes of a clip at random", lambda: [opened.boxes(clip) for clip in ids], SAMPLES)
    make = partial(Clips, index, frames=16, fps=Fraction(10), size=(128, 256), batch=8, steps=1)
    data = row(clips, "index opened, windows counted", make)
    order, windows = data._order, data._train
    row(clips, f"first of {len(windows)} windows", lambda: windows[order.window(0)])
    row(clips, "a window in order", lambda: [windows[order.window(n)] for n in range(SAMPLES)], SAMPLES)
    row(clips, "cache written, shards are holes", lambda: write_cache(cache, clips), disk=lambda: in_cache(SEQUENCES))
    latents = row(clips, "cache opened", lambda: LatentData(cache, frames=8, batch=8, steps=1)).training()
    row(clips, f"first of {len(latents)} windows", lambda: latents[0])
    row(clips, "latents of 1 MiB in order", lambda: [latents[n] and None for n in range(SAMPLES)], SAMPLES)


def size(folder: Path, name: str = "*.parquet") -> int:
    return sum(file.stat().st_size for file in folder.glob(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--boxes", type=int, default=20, help="of each clip")
    parser.add_argument("--folder", type=Path, help="where the files lie while it runs")
    args = parser.parse_args()
    for clips in args.clips:
        place = Path(tempfile.mkdtemp(prefix="index-scale-", dir=args.folder))
        try:
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(clips, args.boxes, place))
            process.start()
            process.join()
        finally:
            shutil.rmtree(place)
        if process.exitcode:
            raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
