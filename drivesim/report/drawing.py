"""The look of every drawing: SVG that takes its colours from the page, so that it is legible by day and by night."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter

GREY, BLUE, ORANGE, GREEN, STONE = "#626b76", "#3b7dd8", "#c9701a", "#4f8f63", "#8b929b"
THEMED = {GREY: "--soft", BLUE: "--own", ORANGE: "--limit", GREEN: "--floor", STONE: "--stone"}


@contextmanager
def styled() -> Iterator[None]:
    """Figures are made and turned into SVG within it, without a display; the same data give the same text."""
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "drivesim", "text.parse_math": False}
    with matplotlib.rc_context({**style, "font.family": "sans-serif", "font.size": 8}):
        yield


def empty(width: float, height: float) -> Figure:
    """A transparent figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def quiet(axes: Axes) -> None:
    """Only the left and the lower axis, and a faint grid."""
    axes.patch.set_alpha(0)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.tick_params(colors=GREY, which="both", labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)


def logarithmic(axes: Axes) -> None:
    """The upright axis by decades, its ticks in plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))


def as_svg(figure: Figure) -> str:
    """As text to put into HTML; outside of the page its colours are those of a light one."""
    opened = io.StringIO()
    figure.savefig(opened, format="svg", metadata={"Date": None, "Creator": None})
    text = opened.getvalue()
    text = text[text.index("<svg") :]
    for colour, name in THEMED.items():
        text = text.replace(colour, f"var({name}, {colour})")
    return text
