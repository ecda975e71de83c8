"""Before anything is measured: which videos a side has, which are left out and why, and which clips are taken.

A video that cannot be scored is never replaced by another, repeated or padded; it is left out, counted and named.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from drivesim.data import video
from drivesim.data.gather import Source
from drivesim.data.index import identity as identify
from drivesim.errors import Mistake
from drivesim.metrics.measure import Wanted, count_clips, plan
from drivesim.metrics.protocols import Protocol
from drivesim.metrics.receipt import LeftOut

EXAMPLES = 5  # names that a score carries
BLOCK = 64
ALIKE = Fraction(1, 200)  # 30000/1001 passes for 30


@dataclass
class Tally:
    """Files by what is said of them."""

    files: dict[str, list[str]] = field(default_factory=dict)

    def add(self, words: str, file: Path) -> None:
        self.files.setdefault(words, []).append(str(file).encode(errors="replace").decode())

    def __len__(self) -> int:
        return sum(map(len, self.files.values()))

    def counted(self, of: str) -> list[LeftOut]:
        """As a score carries it, said of the side ``of``."""
        return [LeftOut(f"{of}: {what}", len(files), sorted(files)[:EXAMPLES]) for what, files in self.files.items()]


@dataclass
class Side:
    """One side of a comparison: the videos with the clips to take, the rate they run at, what was left out, and what is
    remarkable about videos that were not."""

    videos: list[Wanted]
    fps: Fraction
    left_out: Tally
    remarks: Tally

    @property
    def clips(self) -> int:
        return sum(len(wanted.clips) for wanted in self.videos)


class Probes:
    """What ``video.probe`` found, by content: a line a video, appended, so that it is never asked twice.

    Args:
        kept: False leaves the file as it is.
    """

    def __init__(self, folder: Path, kept: bool = True):
        self.file, self.kept = folder / "videos.jsonl", kept
        self.known: dict[str, dict[str, Any]] = {}
        if self.file.is_file():
            for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                    self.known[row["key"]] = row["info"]
                except (ValueError, KeyError, TypeError):
                    continue  # cut off by a crash
        self.new: list[str] = []

    def probe(self, source: Source, clip_id: str) -> video.VideoInfo:
        """Raises:
        Mistake: see ``video.probe``; a video that cannot be used is probed every time.
        """
        key = f"{clip_id} {source.rate}"
        if key in self.known:
            try:
                return video.VideoInfo.from_plain({**self.known[key], "path": str(source.file)})
            except (KeyError, TypeError, ValueError):
                pass  # written by another version
        info = video.probe(source.file, rate=source.rate)
        self.new.append(json.dumps({"key": key, "info": info.plain()}))
        return info

    def keep(self) -> None:
        if self.new and self.kept:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a", encoding="utf-8") as opened:
                opened.write("\n".join(self.new) + "\n")
            self.new = []


def survey(
    sources: list[Source],
    protocol: Protocol,
    probes: Probes,
    readers: int,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Side:
    """Hashes and probes every video, and decides what is taken of it.

    Raises:
        Mistake: the only video of a side cannot be used.
    """
    left_out, remarks = Tally(), Tally()
    usable: dict[str, tuple[Source, video.VideoInfo]] = {}

    def look(source: Source) -> tuple[str, video.VideoInfo] | Mistake:
        try:
            clip_id = identity(source)
            return clip_id, probes.probe(source, clip_id)
        except Mistake as problem:
            return problem

    with ThreadPoolExecutor(readers) as pool:
        # some at a time: what a pool has been given all at once it also holds all at once
        found_ones = chain.from_iterable(
            pool.map(look, sources[begin : begin + BLOCK]) for begin in range(0, len(sources), BLOCK)
        )
        for source, found in zip(sources, progress(found_ones), strict=True):
            if isinstance(found, Mistake):
                if len(sources) == 1:
                    raise found
                left_out.add(found.what, source.file)
            elif found[0] in usable:
                left_out.add("has the same bytes as another of its side", source.file)
            else:
                usable[found[0]] = (source, found[1])
    probes.keep()
    fps = protocol.fps or _usual(info.fps for _, info in usable.values())
    counts: dict[str, int] = {}
    for clip_id, (source, info) in usable.items():
        count = count_clips(info, protocol)
        reason = _unfit(info, fps, count, protocol)
        if reason is None:
            counts[clip_id] = count
            for remark in info.remarks:
                remarks.add(remark, source.file)
        else:
            left_out.add(reason, source.file)
    taken = plan(counts, protocol.clips)
    videos = [Wanted(*usable[clip_id][:1], clip_id, usable[clip_id][1], clips) for clip_id, clips in taken.items()]
    return Side(sorted(videos, key=lambda wanted: wanted.clip_id), fps, left_out, remarks)


def identity(source: Source) -> str:
    """SHA-256 of the bytes, which must be what an index has seen, with the rate that it states, if it states one.

    Raises:
        Mistake: no such file, one that may not be read, or one that changed since it was indexed.
    """
    try:
        source.check()
        str(source.file).encode()
        if not source.file.is_dir() and not source.file.is_file():  # a pipe would never end
            raise OSError("is not a regular file")
        found = identify(source.file)
    except (OSError, UnicodeEncodeError) as problem:
        video.probe(source.file, rate=source.rate)  # says what is the matter
        raise Mistake(f"cannot be read: {problem}", where=source.file) from None
    if source.clip_id and found != source.clip_id:
        raise Mistake("has changed since it was indexed", where=source.file, mend="index the folder again")
    if source.rate is None:
        return found
    # the same bytes at another rate are other clips
    return hashlib.sha256(f"{found} {source.rate}".encode()).hexdigest()


def check_rates(real: Side, generated: Side) -> None:
    """At their own rates, both sides must run alike.

    Raises:
        Mistake: they do not.
    """
    if real.fps and generated.fps and abs(real.fps - generated.fps) > ALIKE * real.fps:
        raise Mistake(
            f"real video runs at {real.fps} frames a second, generated at {generated.fps}",
            mend=f"--fps {min(real.fps, generated.fps)} takes both at one rate",
        )


def _usual(rates: Iterable[Fraction]) -> Fraction:
    """The rate that most are like, the more frequent and then the lowest of equals; 0 of none."""
    counted = Counter(rates)

    def like(rate: Fraction) -> int:
        return sum(n for other, n in counted.items() if abs(other - rate) <= ALIKE * rate)

    return min(counted, key=lambda rate: (-like(rate), -counted[rate], rate)) if counted else Fraction(0)


def _unfit(info: video.VideoInfo, fps: Fraction, count: int, protocol: Protocol) -> str | None:
    """Why no clip is taken of a video that can be read."""
    if protocol.fps is None and abs(info.fps - fps) > ALIKE * fps:
        return f"runs at another rate than most, {fps} frames a second"
    if protocol.fps is not None and info.fps < fps * (1 - ALIKE):
        return f"runs slower than the {fps} frames a second that are taken"
    if count == 0:
        every = f", one in {protocol.every}" if protocol.every > 1 else ""
        return f"is shorter than a clip of {protocol.frames} frames{every} at {fps} fps"
    return None
