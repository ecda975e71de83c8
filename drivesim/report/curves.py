"""Training curves from Lightning's ``metrics.csv`` as SVG, drawn without a display."""

import csv
import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from drivesim.report.drawing import BLUE, GREY, ORANGE, as_svg, empty, logarithmic, quiet, styled

SKIP = ("epoch", "step")
MANY = 400
ACROSS = 3

Series = dict[str, tuple[np.ndarray, np.ndarray]]


def read(file: Path) -> Series:
    """Column name -> (steps, values), finite values only; a line cut off by a crash is passed over."""
    found: dict[str, list[tuple[float, float]]] = {}
    with open(file, newline="", encoding="utf-8", errors="replace") as opened:
        for row in csv.DictReader(opened):
            step = _number(row.get("step"))
            for name, text in row.items():
                value = _number(text)
                if name and name not in SKIP and step is not None and value is not None:
                    found.setdefault(name, []).append((step, value))
    return {name: (np.array([s for s, _ in pairs]), np.array([v for _, v in pairs])) for name, pairs in found.items()}


def draw(series: Series) -> str:
    """Small axes side by side, one a series; "" where there is nothing to draw.

    Long series are thinned to means of equal stretches. Values that span more than a factor of 20 get a logarithmic
    axis.
    """
    shown = {name: pair for name, pair in sorted(series.items()) if len(pair[0]) > 1}
    if not shown:
        return ""
    columns = min(ACROSS, len(shown))
    rows = -(-len(shown) // columns)
    with styled():
        figure = empty(3.3 * columns, 2.0 * rows)
        for n, (name, (steps, values)) in enumerate(shown.items()):
            _axes(figure.add_subplot(rows, columns, n + 1), name, steps, values)
        return as_svg(figure)


def _axes(axes: Axes, name: str, steps: np.ndarray, values: np.ndarray) -> None:
    x, y = thinned(steps, values)
    axes.plot(x, y, color=ORANGE if "val" in name else BLUE, linewidth=1.2)
    axes.set_title(name, color=GREY, fontsize=8)
    if y.min() > 0 and y.max() > 20 * y.min():
        logarithmic(axes)
    quiet(axes)


def thinned(x: np.ndarray, y: np.ndarray, most: int = MANY) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` points, each the mean of a stretch."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most + 1).astype(int)
    counts = np.diff(edges)
    return np.add.reduceat(x, edges[:-1]) / counts, np.add.reduceat(y, edges[:-1]) / counts


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
