"""The drift curve as SVG: what each stretch of a long video scores, beside what real, frozen and just bearable do.

```
        │ · · · · · · · · · · ┊· · · · · · ▄▄▄  frozen    real clips, their first frame held
        │                  usable       ▄▄▄
        │─────────────────────┊▄▄▄▄▄───────────  limit     the top of the band
        │ ▄▄▄▄ ▄▄▄▄      ▄▄▄▄▄                  (no mark: too few clips in this stretch)
        │▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒  floor     real against real: mean to 95th percentile
        └──────────────────────────────────── seconds
```
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from drivesim.report.drawing import BLUE, GREEN, GREY, ORANGE, STONE, as_svg, empty, logarithmic, quiet, styled
from drivesim.report.words import digits, known

STEEP = 8  # a curve that climbs to so many times the highest reference gets a logarithmic axis
APART = 0.1  # of the height between two labels


@dataclass(frozen=True)
class End:
    """The second at which a curve leaves its band, or to which it ``held``; ``words`` say so."""

    until: float
    held: bool
    words: str


def draw(
    curve: Sequence[dict[str, Any]],
    band: dict[str, float] | None,
    end: End | None,
    size: tuple[float, float],
) -> str:
    """A mark a stretch, with its interval where it has one; "" where no stretch has a value.

    Args:
        curve: ``{t0, t1, clips, value, lo, hi}`` a stretch, of ``drivesim.score/1``; null leaves a gap.
        band: ``{floor, floor_high, frozen, limit}``.
        end: how long it stays in the band; None where it has none.
        size: width and height in inches.
    """
    shown = [window for window in curve if known(window.get("value"))]
    if not shown:
        return ""
    band = {name: value for name, value in (band or {}).items() if known(value)}
    with styled():
        figure = empty(*size)
        axes = figure.add_subplot()
        axes.set_xlim(0, max(window["t1"] for window in curve))
        _scale(axes, shown, band)
        _references(axes, band)
        stretches(axes, shown)
        if end is not None:
            mark(axes, end)
        axes.set_xlabel("seconds", color=GREY, fontsize=7)
        quiet(axes)
        return as_svg(figure)


def _scale(axes: Axes, shown: Sequence[dict[str, Any]], band: dict[str, float]) -> None:
    """From 0, where a distance begins, or around the values of what has no band. Intervals may be cut, values never."""
    values = [window["value"] for window in shown]
    if not band:
        axes.margins(y=0.1)
        return
    highs = [window["hi"] for window in shown if known(window.get("hi"))]
    top, lowest = max([*values, *band.values()]), min([*values, *band.values()])
    if top > STEEP * max(band.values()) and lowest > 0:
        logarithmic(axes)
        axes.set_ylim(lowest / 1.6, 1.6 * top)
    else:
        axes.set_ylim(min(0, *values), 1.08 * min(max([top, *highs]), 1.3 * top) or 1)


def _references(axes: Axes, band: dict[str, float]) -> None:
    """Horizontal lines, each named at its right end."""
    labels: list[tuple[float, str, str]] = []
    if "limit" in band:
        axes.axhspan(axes.get_ylim()[0], band["limit"], color=GREEN, alpha=0.07, linewidth=0)
        axes.axhline(band["limit"], color=ORANGE, linewidth=1)
        labels.append((band["limit"], f"limit {digits(band['limit'], 3)}", ORANGE))
    if "frozen" in band:
        axes.axhline(band["frozen"], color=STONE, linewidth=1, linestyle=(0, (4, 2)))
        labels.append((band["frozen"], f"frozen {digits(band['frozen'], 3)}", STONE))
    if "floor" in band:
        axes.axhspan(band["floor"], band.get("floor_high", band["floor"]), color=GREEN, alpha=0.35, linewidth=0)
        axes.axhline(band["floor"], color=GREEN, linewidth=1)
        labels.append((band["floor"], f"floor {digits(band['floor'], 3)}", GREEN))
    named(axes, labels)


def named(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Words beside the right end, a height, a text and a colour each, moved apart where they would touch."""
    labels = sorted(labels)
    for place, (_, words, colour) in zip(spread([_height(axes, y) for y, _, _ in labels]), labels, strict=True):
        axes.annotate(
            words, (1, place), (4, 0), xycoords="axes fraction", textcoords="offset points", va="center", color=colour
        )


def _height(axes: Axes, value: float) -> float:
    """Of a value, as a fraction of the axes."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((0, value)))[1])


def spread(places: Sequence[float]) -> list[float]:
    """Rising places, moved as little as it takes to be ``APART`` and to stay below the top."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + APART) if found else place)
    ceiling = 1.0
    for n in reversed(range(len(found))):
        found[n] = min(found[n], ceiling)
        ceiling = found[n] - APART
    return found


def stretches(axes: Axes, shown: Sequence[dict[str, Any]]) -> None:
    """A mark a stretch, and a shade for its interval."""
    sure = [window for window in shown if known(window.get("lo")) and known(window.get("hi"))]
    axes.bar(
        [window["t0"] for window in sure],
        [window["hi"] - window["lo"] for window in sure],
        [window["t1"] - window["t0"] for window in sure],
        [window["lo"] for window in sure],
        align="edge",
        color=BLUE,
        alpha=0.25,
        linewidth=0,
    )
    starts, ends = [window["t0"] for window in shown], [window["t1"] for window in shown]
    axes.hlines([window["value"] for window in shown], starts, ends, color=BLUE, linewidth=2)


def mark(axes: Axes, end: End) -> None:
    """A line where the curve leaves the band, and the words above."""
    at, colour = end.until / axes.get_xlim()[1], GREEN if end.held else ORANGE
    if not end.held:
        axes.axvline(end.until, color=colour, linewidth=1.2, linestyle=(0, (1, 1)))
    side = "left" if at < 0.3 else "right" if at > 0.7 else "center"
    axes.annotate(
        end.words,
        (min(at, 1), 1),
        (0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        ha=side,
        color=colour,
        fontweight="bold",
    )
