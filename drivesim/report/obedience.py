"""Whether traffic is where its boxes say, for the page and the terminal: curves over time, and tables by class and
size, each number beside that of true frames."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from drivesim.report import drift
from drivesim.report.drawing import GREEN, ORANGE, STONE, as_svg, empty, quiet, styled
from drivesim.report.words import clock, digits, known

Plain = dict[str, Any]
CURVES = {
    "ap50": "AP50: higher is better",
    "iou": "overlap of what is found (IoU): higher is better",
    "missing": "told but not found: lower is better",
    "hallucinated": "found but not told: lower is better",
}
NUMBERS = {
    "ap50": "AP50, mean of classes",
    "ap": "AP50:95",
    "any50": "AP50, any class",
    "missing": "missing, of the boxes",
    "hallucinated": "hallucinated, of what is found",
    "hallucinated_per_frame": "hallucinated in a frame",
    "iou": "overlap of what is found (IoU)",
    "centre": "centre off, of the diagonal",
    "centre_pixels": "centre off, in pixels",
    "confused": "found as another class",
    "switches": "identity switches in 100 found",
}
COLUMNS = {
    "ap50": "AP50",
    "missing": "missing",
    "hallucinated": "hallucinated",
    "iou": "IoU",
    "centre": "centre off",
    "switches": "switches",
}
SIZES = {"small": "small, 8 to 16 px", "middle": "middle, 16 to 32 px", "large": "large, 32 px on"}
HIGH = {"iou": 0.45}  # where an axis begins, if not at 0: what is found overlaps by half


def draw(score: Plain, name: str, end: drift.End | None, size: tuple[float, float]) -> str:
    """One of ``CURVES`` as SVG, a mark a stretch, with what true frames and other boxes have; "" without a value.

    Args:
        end: until when the video is usable, of the curve that decides it.
        size: width and height in inches.
    """
    about = score["obedience"]
    rows = [
        {"t0": row["t0"], "t1": row["t1"], "value": row[name], "lo": bounds[0], "hi": bounds[1]}
        for row in about["by_second"]
        if known(row[name])
        for bounds in [(row.get("interval") or {}).get(name) or (None, None)]
    ]
    if not rows:
        return ""
    with styled():
        figure = empty(*size)
        axes = figure.add_subplot()
        axes.set_xlim(0, max(row["t1"] for row in about["by_second"]))
        axes.set_ylim(HIGH.get(name, -0.01), 1.02)
        lines = []
        for side, words, colour in (("true", "true", GREEN), ("shuffled", "chance", STONE)):
            value = (about.get(side) or {}).get(name)
            if known(value):
                dashes = "solid" if side == "true" else (0, (4, 2))
                axes.axhline(value, color=colour, linewidth=1, linestyle=dashes)
                lines.append((value, f"{words} {_short(value, 2)}", colour))
        limit = (score.get("band") or {}).get("limit")
        if name == score["metric"] and known(limit):
            axes.axhline(limit, color=ORANGE, linewidth=1)
            lines.append((limit, f"limit {_short(limit, 2)}", ORANGE))
        drift.named(axes, lines)
        drift.stretches(axes, rows)
        if end is not None:
            drift.mark(axes, end)
        quiet(axes)
        return as_svg(figure)


@dataclass(frozen=True)
class Obeyed:
    """The part of a page that belongs to an ``ap50``.

    Args:
        score: as in ``scores.json``.
        end: until when it is usable.
    """

    score: Plain
    end: drift.End | None

    @property
    def about(self) -> Plain:
        return self.score["obedience"]

    @cached_property
    def curves(self) -> list[tuple[str, Markup]]:
        """Title and drawing."""
        metric = self.score["metric"]
        drawn = [(words, draw(self.score, name, self.end if name == metric else None, (3.9, 2.3)))
                 for name, words in CURVES.items()]  # fmt: skip
        return [(words, Markup(svg)) for words, svg in drawn if svg] if len(self.about["by_second"]) > 1 else []

    @property
    def stretch(self) -> str:
        """Seconds of a stretch."""
        first = self.about["by_second"][0]
        return clock(first["t1"] - first["t0"])

    @property
    def sides(self) -> list[tuple[str, Plain]]:
        """What is shown side by side: generated, true frames where they were looked at, and chance."""
        found = (("generated", "whole"), ("true frames", "true"), ("other boxes", "shuffled"))
        return [(words, self.about[name]) for words, name in found if self.about.get(name)]

    @property
    def numbers(self) -> list[tuple[str, list[str]]]:
        """Each of ``NUMBERS`` and its values, a side each."""
        return [(words, [_short(side.get(key), 3) for _, side in self.sides]) for key, words in NUMBERS.items()]

    @property
    def tables(self) -> list[tuple[str, list[tuple[str, str, list[tuple[str, str]]]]]]:
        """By class and by size: the name, how many boxes, and of each of ``COLUMNS`` the value and that of true
        frames, empty where there is none."""
        made = []
        for head, name in (("class", "by_class"), ("size", "by_size")):
            others = self.about.get(f"true_{name}") or {}
            rows = []
            for each, part in self.about[name].items():
                pairs = [(_short(part[key], 2), _beside(others.get(each), key)) for key in COLUMNS]
                rows.append((SIZES.get(each, each), f"{part['boxes']:,}", pairs))
            made.append((head, rows))
        return made

    @property
    def columns(self) -> list[str]:
        return list(COLUMNS.values())

    @property
    def told(self) -> str:
        """What was looked at, in a sentence or two."""
        whole, detector = self.about["whole"], self.score["receipt"]["extractor"]["name"]
        counted = f"{whole['boxes']:,} boxes in {whole['frames']:,} frames of {whole['videos']} videos"
        return f"{detector} looked for {counted}; the truth is {self.about['truth']}."


def _beside(part: Plain | None, key: str) -> str:
    value = None if part is None else part[key]
    return _short(value, 2) if known(value) else ""


def _short(value: float | None, count: int) -> str:
    """``digits``, and shares that are next to nothing without their exponent."""
    least = 10.0**-count
    return f"< {least:g}" if value is not None and 0 < value < least else digits(value, count)
