"""``drivesim compare A B``: a blind study of two sides, as in [Blattmann et al. 2023, Table 2]; ``tally`` counts it.

The folder that is written::

    study/study.html     what raters are given, with study/pairs/0001-left.mp4 ...: nothing in it tells the sides apart
    key.json             which video of a pair is A's; read by the tally, kept from the raters
    run.json             how it was made
    tally.json tally.md  once there are votes
"""

import hashlib
import json
import os
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from drivesim import disk, randomness
from drivesim.data import video
from drivesim.data.gather import gather
from drivesim.data.index import whole_folder
from drivesim.data.pairs import Cut, Plan, pair_clips
from drivesim.errors import Mistake
from drivesim.jobs.run import recorded
from drivesim.report import study

KEY = "drivesim.study/1"
PAIRS, SECONDS = 100, Fraction(4)  # the paper's
CRF = 14  # finer than usual: the second encoding must not become what is judged


def run(
    a: Path,
    b: Path,
    out: Path,
    pairs: int = PAIRS,
    seconds: Fraction = SECONDS,
    size: tuple[int, int] | None = None,
    fps: Fraction | None = None,
    seed: int = 0,
    conditioned: bool = False,
) -> Path:
    """Writes the study of ``a`` against ``b`` into ``out``; each is what ``gather`` takes.

    All clips are cropped, resized, resampled and encoded alike, carry no metadata, and the two files of a pair are of
    one length, so that no picture size, rate, container or file size tells whose they are.

    Args:
        pairs: at most. seconds: of each clip.
        size, fps: of the clips; None = the smallest of the videos that are used.
        seed: of the pairs, the places they are cut at, their order and their sides.
        conditioned: both sides go on from the same openings: pairs of one name only, cut at second 0.

    Raises:
        Mistake: a side without video of ``seconds``, an odd size, ``out`` is taken.
    """
    a, b, out = Path(a), Path(b), Path(out)
    _check(out, size, seconds, fps)
    sides = (a, gather(a)), (b, gather(b))
    plan = pair_clips(
        *sides, pairs, seconds, size=size, fps=fps, seed=seed, opening=conditioned,
        progress=lambda rows: track(rows, "measuring", transient=True),
    )  # fmt: skip
    facts = {"a": str(a), "b": str(b), "seed": seed, "fps": str(plan.fps), "size": list(plan.size)}
    with whole_folder(out) as part, recorded(part, "cpu", "compare", facts) as record:
        with record.timing("clips"):
            rows, refused = _clips(plan, part / "study", pairs, seed)
        if not rows:
            raise refused[0]
        name = _digest(part / "study", rows)
        page = study.Study(name, [row["pair"] for row in rows], float(plan.frames / plan.fps), plan.size, conditioned)
        study.write(page, part / "study")
        key = {
            "schema": KEY, "study": name, **facts, "frames": plan.frames, "conditioned": conditioned,
            "paired": "by name" if plan.by_name else "at random", "pairs": rows,
        }  # fmt: skip
        disk.write_atomic(part / "key.json", json.dumps(key, indent=1).encode())
        left_out = [*plan.left_out, *refused]
        record.facts |= {"pairs": len(rows), "left_out": [str(problem).splitlines()[0] for problem in left_out]}
    _tell(out, plan, key, pairs, left_out, _same(*sides))
    return out


def _check(out: Path, size: tuple[int, int] | None, seconds: Fraction, fps: Fraction | None) -> None:
    if size and (size[0] % 2 or size[1] % 2):
        raise Mistake(f"{size[0]}x{size[1]} is odd", where="--size", mend="H.264 in 4:2:0 needs even height and width")
    if fps and int(seconds * fps) < 2:
        raise Mistake(f"{float(seconds):g} s at {fps} frames a second is no video", where="--seconds")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Mistake("exists already and is not empty", where=out, mend="remove it, or choose another --out")


def _clips(plan: Plan, folder: Path, count: int, seed: int) -> tuple[list[dict[str, Any]], list[Mistake]]:
    """Writes the clips of the first ``count`` pairs that can be read; the key's rows, and what could not."""
    wanted = min(count, len(plan.pairs))
    a_is_left = a_left_of(wanted, seed)
    rows: list[dict[str, Any]] = []
    refused: list[Mistake] = []
    for pair in track(plan.pairs, "cutting", total=wanted, transient=True):
        if len(rows) == wanted:
            break
        name, a_left = f"{len(rows) + 1:04d}", a_is_left[len(rows)]
        cuts = (pair.a, pair.b) if a_left else (pair.b, pair.a)
        left, right = (folder / study.clip(name, side) for side in ("left", "right"))
        try:
            _cut(cuts[0], left, plan)
            _cut(cuts[1], right, plan)
        except Mistake as problem:
            refused.append(problem)
            left.unlink(missing_ok=True)
            continue
        _one_length(left, right)
        rows.append({"pair": name, "a": "left" if a_left else "right", "group": pair.group, **_told(pair.a, pair.b)})
    return rows, refused


def a_left_of(count: int, seed: int) -> list[bool]:
    """Whether A is left, for each pair: in half of them, and where their number is odd in one more or less."""
    draw = randomness.generator("compare", "sides", seed)
    half = (count + int(draw.integers(2))) // 2
    return [bool(place < half) for place in draw.permutation(count)]


def _told(a: Cut, b: Cut) -> dict[str, Any]:
    return {word: {"file": str(c.source.file), "start": str(c.start)} for word, c in (("clip_a", a), ("clip_b", b))}


def _cut(cut: Cut, file: Path, plan: Plan) -> None:
    left = plan.frames
    with video.Writer(file, plan.size, plan.fps, crf=CRF) as writer:
        source = cut.source
        chunks = video.stream(source.file, fps=plan.fps, size=plan.size, start=cut.start, rate=source.rate)
        for chunk in chunks:
            writer.write(chunk.frames[:left])
            left -= len(chunk.frames[:left])
            if not left:
                return
        raise Mistake(f"ends {left} frames early", where=source.file)


def _one_length(left: Path, right: Path) -> None:
    """Lengthens both files to one size by an mp4 box ``free``, which players pass over."""
    whole = max(left.stat().st_size, right.stat().st_size) + 8  # a box is 8 bytes or more
    for file in (left, right):
        gap = whole - file.stat().st_size
        with open(file, "ab") as opened:
            opened.write(struct.pack(">I4s", gap, b"free") + bytes(gap - 8))


def _digest(folder: Path, rows: list[dict[str, Any]]) -> str:
    """The study's name: what is shown decides it, and it tells nothing else."""
    files = [folder / study.clip(row["pair"], side) for row in rows for side in ("left", "right")]
    return hashlib.sha256("".join(map(disk.sha256, files)).encode()).hexdigest()[:16]


def _same(a: tuple[Path, list[Any]], b: tuple[Path, list[Any]]) -> bool:
    return {os.path.realpath(s.file) for s in a[1]} == {os.path.realpath(s.file) for s in b[1]}


def _tell(out: Path, plan: Plan, key: dict[str, Any], count: int, left_out: list[Mistake], same: bool) -> None:
    say = Console(highlight=False, soft_wrap=True, markup=False).print
    made, groups = len(key["pairs"]), len({row["group"] for row in key["pairs"]})
    shape = f"{float(plan.frames / plan.fps):.4g} s, {plan.size[0]}x{plan.size[1]} at {float(plan.fps):.4g} fps"
    say(f"{out}: {made} pairs of {shape}, paired {key['paired']}, study {key['study']}")
    warnings = []
    if same:
        warnings.append("A and B are the same videos: a control, in which no side should be preferred")
    if made < count:
        warnings.append(f"there is video for {made} pairs only, as no stretch is shown twice")
    if groups < made:
        warnings.append(f"the pairs are of {groups} independent groups of videos, which makes intervals wider")
    if plan.slow:
        warnings.append(f"{plan.slow} videos have fewer than {plan.fps} frames a second: repeated frames may be seen")
    if left_out:
        first = str(left_out[0]).splitlines()[0]
        warnings.append(f"left out: {len(left_out)} of the videos, all in run.json; the first: {first}")
    for warning in warnings:
        say(f"warning: {warning}")
    say(f"give raters {out / 'study'} and nothing else; study.html opens from disk, and gives back votes-NAME.json")
    say(f"then: drivesim compare --tally {out} votes-*.json")
