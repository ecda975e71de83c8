"""Scores for the terminal and for pasting: a table, a line of comparison, a Markdown row."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from drivesim.report.obedience import Obeyed


def table(found: list[dict[str, Any]]) -> Table:
    """The scores beside their floors and controls, for the terminal; obedience and words are told apart."""
    found = [score for score in found if not score.get("obedience") and not of_words(score)]
    receipt = found[0]["receipt"]
    taken = f"{receipt['frames']} frames at {receipt['fps']} fps"
    counted = f"{found[0]['n_generated']} generated clips, {found[0]['n_real']} real"
    grid = Table(title=f"protocol {escape(receipt['protocol'])}: {taken}; {counted}")
    for name in ("", *(score["metric"] for score in found)):
        grid.add_column(escape(name), justify="right" if name else "left")
    rows: dict[str, list[float | None]] = {"[bold]value[/]": [score["value"] for score in found]}
    rows["estimate without bias"] = [score["estimate"] for score in found]
    rows["  its standard error"] = [score["se"] for score in found]
    rows["floor: real against real"] = [score["floor"] for score in found]
    for word in found[0]["controls"]:
        rows[f"control: real, {word}"] = [score["controls"].get(word) for score in found]
    for name, values in rows.items():
        grid.add_row(name, *("" if value is None else f"{value:.4g}" for value in values))
    return grid


def obedience(score: dict[str, Any]) -> Table:
    """The numbers of an ``ap50`` beside those of true frames and of other boxes."""
    about = Obeyed(score, None)
    grid = Table(title=f"traffic where the boxes say: {escape(about.told)}")
    for name in ("", *(name for name, _ in about.sides)):
        grid.add_column(name, justify="right" if name else "left")
    for words, values in about.numbers:
        grid.add_row(words, *values)
    return grid


def of_words(score: dict[str, Any]) -> bool:
    return bool(score["receipt"].get("protocol") == "clipsim")


def wording(found: list[dict[str, Any]]) -> str:
    """How well video goes with its words, beside real video and the words of other videos, in a line a side."""
    lines = []
    for score in filter(of_words, found):
        side, own = ("real", "n_real") if score["metric"].endswith("[real]") else ("generated", "n_generated")
        count, chance = score[own], score["controls"].get("shuffled")
        what = f"{count} {side} videos and their words" if count > 1 else f"one {side} video and its words"
        line = f"CLIPSIM of {what}: {score['value']:.4f}"
        line += "" if score["se"] is None else f" ± {score['se']:.2g} (standard error over videos)"
        lines.append(line + ("" if chance is None else f"; with the words of other videos {chance:.4f}"))
    return "\n".join(lines)


def versus(now: dict[str, Any], before: dict[str, Any]) -> str:
    """One line: how far two comparable scores are apart, in standard errors where both have one."""
    change = now["value"] - before["value"]
    line = f"{now['metric']}: {now['value']:.4g} here, {before['value']:.4g} before, {change:+.4g}"
    if now["se"] and before["se"]:
        apart = (now["estimate"] - before["estimate"]) / (now["se"] ** 2 + before["se"] ** 2) ** 0.5
        line += f" ({apart:+.1f} standard errors of the estimates)"
    return line


def markdown(found: list[dict[str, Any]]) -> str:
    """Two lines to paste into a document: a header and a row."""
    receipt = found[0]["receipt"]
    cells = {
        "protocol": receipt["protocol"],
        "extractor": f"{receipt['extractor']['name']} {receipt['extractor']['sha'][:8]}",
    }
    cells |= {"clips real / generated": f"{found[0]['n_real']} / {found[0]['n_generated']}"}
    cells |= {"frames @ fps": f"{receipt['frames']} @ {receipt['fps']}"}
    for score in found:
        how = "bootstrap" if score.get("obedience") else "over videos" if of_words(score) else "jackknife"
        spread = "" if score["se"] is None else f" ({how} {score['estimate']:.4g} ± {score['se']:.2g})"
        cells[score["metric"]] = f"{score['value']:.4g}{spread}"
    return f"| {' | '.join(cells)} |\n{'|---' * len(cells)}|\n| {' | '.join(cells.values())} |"
