"""``drivesim evaluate``: a folder of generated video against a folder of real video, as a score with its receipt."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

import drivesim
from drivesim import randomness, weights
from drivesim.data import index, video
from drivesim.errors import Mistake, nearest
from drivesim.metrics import fvd
from drivesim.metrics.builtin import NAME as BUILTIN
from drivesim.metrics.builtin import Builtin
from drivesim.metrics.features import Extractor, extract
from drivesim.metrics.frechet import Statistics, distance
from drivesim.metrics.receipt import LeftOut, Receipt, Score, clips_hash, warnings_for
from drivesim.scene import KEYFRAME_FPS

EXAMPLES = 5


@dataclass(frozen=True)
class Protocol:
    """How clips are taken from video; ``ddof`` 1 is a covariance over N-1."""

    frames: int
    fps: Fraction
    ddof: int


PROTOCOLS = {"builtin-v1": Protocol(frames=16, fps=KEYFRAME_FPS, ddof=1)}


@dataclass(frozen=True)
class Source:
    """A video to take clips from; ``rate`` and ``clip_id`` where an index knows them, see ``data.index.Entry``."""

    file: Path
    rate: Fraction | None = None
    clip_id: str = ""


@dataclass
class Found:
    """What one side gave: clips, what was left out, and features by name: ``true``, and of the real side its copies."""

    features: dict[str, torch.Tensor]
    clips: list[tuple[str, Fraction]] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def run(
    real: Path,
    generated: Path,
    out: Path | None = None,
    json_file: Path | None = None,
    protocol: str = "builtin-v1",
    extractor: str = BUILTIN,
    device: str = "cpu",
    fps: Fraction | None = None,
) -> dict[str, Any]:
    """Scores ``generated`` against ``real``; each is a video, a folder of videos, an index or a run folder.

    Args:
        out: folder that ``scores.json`` is written to; by default ``generated`` where that is a run folder, else
        nowhere.
        json_file: the same list of scores in a file of the caller's choice.
        fps: rate that clips are taken at, in place of the protocol's; it is stated in the receipt.

    Returns:
        The score, ``drivesim.score/1``, as plain values. ``scores.json`` is a list of such.

    Raises:
        Mistake: an unknown protocol or extractor, no video, or too few clips for a covariance.
    """
    rules = _protocol(protocol, fps)
    network = _extractor(extractor, device)
    made = _features(Path(generated), network, rules, "generated", controls=False)
    true = _features(Path(real), network, rules, "real", controls=True)
    score = _score(protocol, rules, network, true, made)
    console = Console()
    console.print(table(score.plain()))
    for warning in score.warnings:
        console.print(f"[yellow]warning[/] {warning}", highlight=False)
    content = json.dumps([score.plain()], indent=1).encode()
    folder = out or (Path(generated) if (Path(generated) / "run.json").is_file() else None)
    for file in (folder / "scores.json" if folder else None, json_file):
        if file is not None:
            weights.write_atomic(file, content)
    return score.plain()


def table(score: dict[str, Any]) -> Table:
    """The score beside its floor and controls, for the terminal."""
    receipt = score["receipt"]
    taken = f"{receipt['frames']} frames at {receipt['fps']} fps"
    grid = Table(title=f"{escape(score['metric'])}  {taken}, {score['n_real']} real clips")
    grid.add_column("what is compared with the real clips")
    grid.add_column("distance", justify="right")
    grid.add_column("clips", justify="right")
    n = min(score["n_generated"], score["n_real"])
    grid.add_row("[bold]generated[/]", f"[bold]{score['value']:.2f}[/]", str(score["n_generated"]))
    if score["floor"] is not None:
        grid.add_row("floor: one half of them with the other", f"{score['floor']:.2f}", str(score["n_real"] // 2))
    for word, value in score["controls"].items():
        grid.add_row(f"control: they themselves, {word}", f"{value:.2f}", str(n))
    return grid


def _protocol(name: str, fps: Fraction | None) -> Protocol:
    if name not in PROTOCOLS:
        raise Mistake(f"unknown protocol '{name}'", where="--protocol", mend=nearest(name, PROTOCOLS))
    rules = PROTOCOLS[name]
    if fps is not None and fps <= 0:
        raise Mistake(f"{fps} frames a second is not a rate", where="--fps")
    return Protocol(rules.frames, Fraction(fps), rules.ddof) if fps else rules


def _extractor(name: str, device: str) -> Extractor:
    if name != BUILTIN:
        raise Mistake(f"unknown extractor '{name}'", where="--extractor", mend=nearest(name, [BUILTIN]))
    try:
        return Builtin(device)
    except (RuntimeError, AssertionError) as problem:
        raise Mistake(
            f"the device cannot be used: {str(problem).splitlines()[0]}", where=f"--device {device}"
        ) from None


def sources(place: Path) -> list[Source]:
    """The videos that ``place`` stands for.

    A run folder gives its ``video.mp4``; a folder of run folders one of each; an index the clips of its split ``val``,
    or all where that is empty; any other folder every video below it.

    Raises:
        Mistake: there is none.
    """
    if place.is_file():
        return [Source(place)]
    if not place.is_dir():
        raise Mistake("no such file or folder", where=place)
    if (place / "files.parquet").is_file():
        opened = index.Index.open(place)
        return [Source(e.file, e.rate, e.clip_id) for e in opened.split("val") or opened.entries]
    runs = sorted(file.parent for file in place.rglob("run.json"))
    found = [run / "video.mp4" for run in runs if (run / "video.mp4").is_file()]
    if not found:
        files = (file for file in place.rglob("*") if file.suffix.lower() in video.VIDEOS)
        found = sorted(file for file in files if not file.name.startswith("."))
    if not found:
        mend = f"{', '.join(video.VIDEOS[:4])} and others are looked for, also in its folders"
        raise Mistake("holds no video", where=place, mend=mend)
    return [Source(file) for file in found]


def altered(clip: np.ndarray, clip_id: str, start: Fraction) -> dict[str, np.ndarray]:
    """The controls of a clip ``T H W 3``: its first frame held, and its frames shuffled (by its id and start)."""
    order = randomness.generator("evaluate", "shuffled", clip_id, str(start)).permutation(len(clip))
    return {"frozen": np.repeat(clip[:1], len(clip), axis=0), "shuffled": clip[order]}


def _features(place: Path, network: Extractor, rules: Protocol, side: str, controls: bool) -> Found:
    files = sources(place)
    found = Found({})
    parts: dict[str, list[torch.Tensor]] = {}
    for source in track(files, f"{side} video", transient=True):
        try:
            for clip_id, start, clip in _clips(source, network, rules):
                copies = {"true": clip} | (altered(clip, clip_id, start) if controls else {})
                vectors = extract(network, list(copies.values()))
                for word, vector in zip(copies, vectors, strict=True):
                    parts.setdefault(word, []).append(vector)
                found.clips.append((clip_id, start))
        except Mistake as problem:
            if len(files) == 1:
                raise
            found.left_out.setdefault(f"{side}: {problem.what}", []).append(str(source.file))
    if len(found.clips) < 2:
        raise Mistake(
            _too_few(found, rules, len(files)), where=place, mend="longer or more video is needed, or another --fps"
        )
    found.features = {word: torch.stack(vectors) for word, vectors in parts.items()}
    return found


def _clips(source: Source, network: Extractor, rules: Protocol) -> Iterator[tuple[str, Fraction, np.ndarray]]:
    """(hash of the file, second, uint8 ``T H W 3``): clips side by side; what is left at the end is no clip."""
    video.probe(source.file, rate=source.rate)  # notices a file that was cut off
    clip_id, count = source.clip_id or weights.sha256(source.file), 0
    frames, size = rules.frames, network.size
    for clip in video.stream(source.file, fps=rules.fps, size=size, chunk=frames, rate=source.rate):
        if len(clip.frames) == frames:
            yield clip_id, clip.start, clip.frames
            count += 1
    if not count:
        raise Mistake(f"shorter than a clip of {frames} frames at {rules.fps} fps", where=source.file)


def _too_few(found: Found, rules: Protocol, files: int) -> str:
    gave = f"{files} video{'s' * (files != 1)} gave {len(found.clips)} clip{'s' * (len(found.clips) != 1)}"
    reasons = Counter({reason: len(names) for reason, names in found.left_out.items()}).most_common(1)
    why = f"; {reasons[0][1]} left out ({reasons[0][0]})" if reasons else ""
    return f"{gave} of {rules.frames} frames at {rules.fps} fps, 2 are the least{why}"


def _score(protocol: str, rules: Protocol, network: Extractor, true: Found, made: Found) -> Score:
    real, generated = true.features.pop("true"), made.features["true"]
    order = torch.from_numpy(randomness.generator("evaluate", "floor").permutation(len(real)))
    left_out = [
        LeftOut(reason, len(names), names[:EXAMPLES])
        for found in (true, made)
        for reason, names in found.left_out.items()
    ]
    warnings = warnings_for(len(real), len(generated), network.dim)
    if left_out:
        why = "; ".join(item.reason for item in left_out)
        warnings.append(f"{sum(item.count for item in left_out)} videos were left out: {why}")
    shared = set(true.clips) & set(made.clips)
    if shared:
        warnings.append(f"{len(shared)} clips stand on both sides")
    receipt = Receipt(
        protocol=protocol,
        extractor={"name": network.name, "sha": network.sha},
        frames=rules.frames,
        fps=f"{rules.fps.numerator}/{rules.fps.denominator}",
        stride=rules.frames,
        size=network.size,
        resize="centre crop to the aspect, area when smaller, bilinear when larger",
        range="uint8 to [-1, 1]",
        cov="N-1" if rules.ddof else "N",
        dtype="float32 features, float64 sums",
        clips_real=clips_hash(true.clips),
        clips_generated=clips_hash(made.clips),
        version=drivesim.__version__,
    )
    return Score(
        metric=fvd.name(network),
        value=distance(Statistics.of(real), Statistics.of(generated), rules.ddof),
        n_real=len(real),
        n_generated=len(generated),
        floor=fvd.floor(real, order, rules.ddof),
        controls=fvd.controls(real, true.features, len(generated), rules.ddof),
        receipt=receipt,
        warnings=warnings,
        left_out=left_out,
    )
