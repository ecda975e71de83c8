"""Scores as a reader meets them: how long the video is usable, the values beside what they are held against, and why
they may be believed."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from drivesim.report import drift
from drivesim.report.obedience import Obeyed
from drivesim.report.terminal import of_words
from drivesim.report.words import clock, digits, known, plus_minus

Plain = dict[str, Any]
OPEN = 12  # videos whose rows are seen at once
MOST = 200  # rows of a table: more are counted, not shown
WIDE, SMALL, THIRD = (6.1, 2.9), (3.9, 2.9), (3.2, 2.4)  # inches; SMALL is also what a telephone shows
HASH = 16  # digits of a hash that tell it apart
TRAFFIC = {"true": ("true frames", "floor"), "shuffled": ("control: boxes of another video", "control")}
WORDS = {"true": ("real video and its words", "floor"), "shuffled": ("control: words of other videos", "control")}
HIGHER = ("psnr", "ssim", "ap50", "clipsim", "clipsim[real]")  # are better when higher; all else is a distance


@dataclass(frozen=True)
class Stamp:
    """How long a video is usable.

    Args:
        until, end: seconds; equal where it held to its end.
        because: what gave way, or what did not.
        reached: last second that was judged.
    """

    until: float
    end: float
    because: str
    reached: float | None = None

    @property
    def held(self) -> bool:
        """Nothing gave way."""
        return self.until >= (self.end if self.reached is None else self.reached)

    @property
    def share(self) -> float:
        """Of the whole length, 0 to 1."""
        return min(1.0, self.until / self.end) if self.end else 0.0

    @property
    def words(self) -> str:
        """``Usable until 42 s of 60 s``."""
        how = "Held to" if self.until >= self.end else "Held for" if self.held else "Usable until"
        return f"{how} {self.times}"

    @property
    def times(self) -> str:
        """``42 s of 60 s``, or ``its end, 60 s``."""
        if self.until >= self.end:
            return f"its end, {clock(self.end)}"
        return f"{clock(self.until)} of {clock(self.end)}"


@dataclass(frozen=True)
class Bar:
    """A value as a bar, ``percent`` of the longest; ``kind`` is ``own``, ``floor`` or ``control``."""

    what: str
    value: float
    percent: float
    kind: str


def stamp(score: Plain) -> Stamp | None:
    """Of a score with a curve over time; None without one."""
    until, curve = score.get("usable_until"), score.get("curve") or []
    measured = [window for window in curve if known(window.get("value"))]
    if not known(until) or not measured:
        return None
    last, metric = curve[-1]["t1"], score["metric"]
    leaves, stays = f"{metric} leaves the band", f"{metric} stays in the band"
    if score.get("obedience"):
        leaves, stays = f"traffic leaves its boxes ({metric})", f"traffic keeps to its boxes ({metric})"
    end = min(last, max((row["seconds"] for row in score.get("videos") or []), default=last))
    if until < min(end, measured[-1]["t1"]):
        return Stamp(until, end, leaves)
    if measured[-1] is curve[-1]:
        return Stamp(end, end, stays)
    reached = min(end, measured[-1]["t1"])
    return Stamp(reached, end, f"{stays}; later stretches have too few clips", reached)


def video_stamp(row: Plain) -> Stamp:
    """Of one video, by its cheap statistics."""
    until, end = row["usable_until"], row["seconds"]
    return Stamp(until, end, row.get("because") or ("no statistic leaves the band" if until >= end else ""))


@dataclass(frozen=True)
class Scores:
    """The scores of one evaluation as ``drivesim.score/1``: FVD, then what stands beside it. Those of older versions,
    without intervals and curves, are shown as far as they go."""

    scores: list[Plain]
    caption: str = ""
    kind: str = "scores"

    @cached_property
    def stamp(self) -> Stamp | None:
        """The earliest of all scores that have a curve and a band, and when the others leave theirs."""
        stamps = [(score["metric"], found) for score in self.scores if (found := stamp(score))]
        if not stamps:
            return None
        metric, first = min(stamps, key=lambda pair: (pair[1].held, pair[1].until))
        others = [(name, other) for name, other in stamps if name != metric]
        if first.held:
            return replace(first, because="; ".join([first.because, *(other.because for _, other in others)]))
        later = [f"; {name} {'does not' if other.held else f'does at {clock(other.until)}'}" for name, other in others]
        return replace(first, because=first.because + "".join(later))

    @property
    def lead(self) -> str:
        """The first score in a sentence."""
        score = self.scores[0]
        (name, estimate), floor = self.estimate(score), score.get("floor")
        control = min(filter(known, (score.get("controls") or {}).values()), default=None)
        words = f"{score['metric']} is {digits(score['value'])}"
        words += f" ({name} {estimate})" if estimate else ""
        marks = [f"real video scores {digits(floor)} against itself"] if known(floor) else []
        marks += [f"the better control {digits(control)}"] if control is not None else []
        return f"{words}; {', '.join(marks)}." if marks else f"{words}."

    def bars(self, score: Plain) -> list[Bar]:
        """Best first, where there is something to hold the value against; one below 0 has no length."""
        found = [("generated", score["value"], "own")]
        if known(score.get("floor")):
            found.append(("floor: real against real", score["floor"], "floor"))
        for word, value in (score.get("controls") or {}).items():
            told = TRAFFIC if score.get("obedience") else WORDS if of_words(score) else {}
            words, kind = told.get(word, (f"control: {word}", "control"))
            found.append((words, value, kind))
        found = sorted((bar for bar in found if known(bar[1])), key=lambda bar: bar[1])
        if score.get("metric") in HIGHER:
            found.reverse()
        if len(found) < 2:
            return []
        largest = max(value for _, value, _ in found)
        return [
            Bar(what, value, 100 * max(0.0, value) / largest if largest > 0 else 0.0, kind)
            for what, value, kind in found
        ]

    def estimate(self, score: Plain) -> tuple[str, str]:
        """What it is and ``9.13 ± 0.82``, empty where there was too little for an error."""
        value, error = score.get("estimate"), score.get("se")
        words = "mean over videos" if _paired(score) or of_words(score) else "estimate without bias"
        words = "with its standard error" if score.get("obedience") else words
        return words, plus_minus(value, error) if known(value) and known(error) else ""

    def counted(self, score: Plain) -> str:
        """How many of what against how many, where the first score does not say it already."""
        receipt, first = score["receipt"], self.scores[0]
        if _paired(score):
            better = "higher" if score["metric"] in HIGHER else "lower"
            return f"{score['n_generated']:,} pairs of videos, frame by frame; {better} is better."
        if score.get("obedience"):
            whole = score["obedience"]["whole"]
            return f"{whole['boxes']:,} boxes in {whole['frames']:,} generated frames; higher is better."
        if of_words(score):
            real = score["metric"].endswith("[real]")
            count, side = score["n_real" if real else "n_generated"], "real" if real else "generated"
            return f"{count:,} {side} videos that have words, as CLIP sees both; higher is better."
        if score is not first and all(score[key] == first[key] for key in ("n_real", "n_generated", "receipt")):
            return ""
        made, real = f"{score['n_generated']:,}", f"{score['n_real']:,}"
        if receipt.get("frames") == 1:
            return f"{made} generated frames against {real} real."
        return f"{made} generated clips against {real} real, {receipt.get('frames')} frames at {_rate(receipt)} each."

    @cached_property
    def warnings(self) -> list[str]:
        return list(dict.fromkeys(words for score in self.scores for words in score.get("warnings") or []))

    def listed(self, name: str) -> list[tuple[int, str, str]]:
        """``left_out`` or ``notes``: how many, why, and which; most first."""
        found: dict[str, Plain] = {}
        for score in self.scores:
            for item in score.get(name) or []:
                found.setdefault(item["reason"], item)
        rows = sorted(found.values(), key=lambda item: -item["count"])
        return [(item["count"], item["reason"], _examples(item)) for item in rows]

    @cached_property
    def curves(self) -> list[tuple[str, Markup, Markup | str]]:
        """Metric, and its curve; the first is the largest, and is drawn for a narrow page as well."""
        found: list[tuple[str, Markup, Markup | str]] = []
        for score in self.scores:
            if score.get("obedience"):  # is better when higher: it has curves of its own
                continue
            size = THIRD if _paired(score) else SMALL if found else WIDE
            wide, small = _drawn(score, size), "" if found else _drawn(score, SMALL)
            if wide:
                found.append((score["metric"], wide, small))
        return found

    @cached_property
    def traffic(self) -> list[Obeyed]:
        """Of every score that says whether traffic is where its boxes are."""
        return [Obeyed(score, _end(score)) for score in self.scores if score.get("obedience")]

    @cached_property
    def stretch(self) -> str:
        """Seconds of a stretch of the first curve, and clips in the usual one."""
        curve = next(score["curve"] for score in self.scores if score.get("curve") and not score.get("obedience"))
        counts = sorted(window["clips"] for window in curve)
        return f"{clock(curve[0]['t1'] - curve[0]['t0'])}, mostly {counts[len(counts) // 2]:,} clips"

    @cached_property
    def videos(self) -> list[tuple[str, Stamp]]:
        """Each long video with its stamp, the worst first; names without what is common to all."""
        rows = self.rows
        names = _shortened([row["video"] for row in rows])
        pairs = [(name, video_stamp(row)) for name, row in zip(names, rows, strict=True)]
        return sorted(pairs, key=lambda pair: (pair[1].share, pair[0]))

    @property
    def opened(self) -> int:
        return OPEN

    @property
    def most(self) -> int:
        return MOST

    @cached_property
    def summary(self) -> str:
        """Of all long videos in a sentence or two."""
        rows = self.rows
        held = sum(row["usable_until"] >= row["seconds"] for row in rows)
        half = sorted((row["usable_until"] for row in rows), reverse=True)[(len(rows) - 1) // 2]
        reasons = Counter(row["because"] for row in rows if row["usable_until"] < row["seconds"])
        words = f"{held} of {len(rows)} videos hold to their end; half of all are usable for {clock(half)} or longer."
        why = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        return f"{words} What gives way first: {why}." if why else words

    @property
    def rows(self) -> list[Plain]:
        """``{video, seconds, usable_until, because}`` of each long video."""
        return next((score["videos"] for score in self.scores if score.get("videos")), [])

    @cached_property
    def receipt(self) -> tuple[list[str], list[tuple[str, list[str]]]]:
        """Heads and rows of a table: a column for all scores of one receipt, one cell where all columns agree."""
        columns: list[tuple[list[str], Plain]] = []
        for score in self.scores:
            same = next((names for names, receipt in columns if receipt == score["receipt"]), None)
            if same is None:
                columns.append(([score["metric"]], score["receipt"]))
            else:
                same.append(score["metric"])
        keys = dict.fromkeys(key for _, receipt in columns for key, value in receipt.items() if value is not None)
        rows = [(key, [_cell(key, receipt.get(key)) for _, receipt in columns]) for key in keys]
        return (
            [", ".join(names) for names, _ in columns],
            [(key, cells[:1] if len(set(cells)) == 1 else cells) for key, cells in rows],
        )


def _drawn(score: Plain, size: tuple[float, float]) -> Markup:
    return Markup(drift.draw(score.get("curve") or [], score.get("band"), _end(score), size))


def _end(score: Plain) -> drift.End | None:
    """As a curve is marked with it."""
    mark = stamp(score)
    if mark is None:
        return None
    words = mark.words if mark.held else f"usable until {clock(mark.until)}"
    return drift.End(mark.until, mark.held, words[0].lower() + words[1:])


def _paired(score: Plain) -> bool:
    """Frame by frame against the truth, not of distributions."""
    return score["receipt"].get("protocol") == "pairs"


def _rate(receipt: Plain) -> str:
    top, _, bottom = str(receipt.get("fps", "?")).partition("/")
    return f"{top if bottom in ('', '1') else f'{top}/{bottom}'} frames a second"


def _cell(key: str, value: Any) -> str:
    if key == "extractor" and isinstance(value, dict):
        return f"{value.get('name', '')} {str(value.get('sha', ''))[:HASH]}"
    if key == "fps":
        return str(value).removesuffix("/1")
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else "-" if value is None else str(value)


def _examples(item: Plain) -> str:
    shown = item.get("examples") or []
    more = item["count"] - len(shown)
    return ", ".join(map(str, shown)) + (f" and {more} more" if shown and more > 0 else "")


def _shortened(names: Sequence[str]) -> list[str]:
    """Paths below what they have in common."""
    try:
        common = os.path.commonpath([str(Path(name).parent) for name in names])
    except ValueError:  # on several drives, or some absolute and some not
        return list(names)
    return [os.path.relpath(name, common) if common else name for name in names]
