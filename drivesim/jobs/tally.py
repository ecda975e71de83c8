"""``drivesim compare --tally``: the votes on a study of ``compare``, joined with its key and counted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import drivesim
from drivesim import disk
from drivesim.errors import Mistake
from drivesim.jobs.compare import KEY
from drivesim.metrics import preference
from drivesim.report import study

TALLY = "drivesim.tally/1"
ANSWERS = ("A", "equal", "B")
FEW = 10  # groups of videos below which pairs are taken for independent, with a warning
PARTIAL = 0.001  # probability by chance below which a rater is said to prefer a side of the screen
LARGEST = 16 * 2**20  # bytes of a file of votes


def run(folder: Path, votes: Sequence[Path] = ()) -> dict[str, Any]:
    """Joins votes with the key of the study in ``folder``; writes ``tally.json`` and ``tally.md`` there.

    Shares carry the interval of ``metrics.preference``; its units are pairs, or groups of pairs where pairs share
    videos. The sign test is over units: for whom most of those who decided voted.

    Args:
        votes: files from the page; by default ``votes*.json`` in ``folder``.

    Raises:
        Mistake: no key or votes, votes of another study, on an unknown pair, given twice, or of another form.
    """
    folder = Path(folder)
    key = _key(folder / "key.json")
    files = [Path(file) for file in votes] or sorted(folder.glob("votes*.json"))
    if not files:
        raise Mistake("no votes", where=folder, mend="put the votes-NAME.json of the raters there, or name them")
    known = {row["pair"]: n for n, row in enumerate(key["pairs"])}
    ballots: dict[str, np.ndarray] = {}
    sides: dict[str, tuple[int, int]] = {}
    read: dict[str, Path] = {}
    for file in files:
        rater, given = _votes(file, key["study"], known)
        if rater.casefold() in read:
            mend = f"{read[rater.casefold()]} is theirs too: give the newer one alone"
            raise Mistake(f"is a second file of rater '{rater}'", where=file, mend=mend)
        read[rater.casefold()] = file
        ballots[rater] = np.zeros((len(known), len(ANSWERS)), int)
        for pair, answer in given.items():
            ballots[rater][known[pair], _column(answer, key["pairs"][known[pair]]["a"])] += 1
        words = list(given.values())
        sides[rater] = words.count("left"), words.count("right")
    result = _result(key, ballots, sides, list(read.values()))
    disk.write_atomic(folder / "tally.json", json.dumps(result, indent=1).encode())
    disk.write_atomic(folder / "tally.md", markdown(result).encode())
    _show(result, folder)
    return result


def _column(answer: str, a: str) -> int:
    return ANSWERS.index("equal" if answer == "equal" else "A" if answer == a else "B")


def _result(
    key: dict[str, Any], ballots: dict[str, np.ndarray], sides: dict[str, tuple[int, int]], files: list[Path]
) -> dict[str, Any]:
    counts = np.stack(list(ballots.values())).sum(0)
    groups = np.unique([row["group"] for row in key["pairs"]], return_inverse=True)[1]
    voted = counts.sum(1) > 0
    grouped = len(np.unique(groups[voted])) >= FEW
    units = groups if grouped else np.arange(len(groups))
    agree = preference.agreement(counts)
    names = _names(key["a"], key["b"])
    return {
        "schema": TALLY,
        "study": key["study"],
        "version": drivesim.__version__,
        "a": key["a"],
        "b": key["b"],
        "names": names,
        "unit": "group of videos" if grouped and len(set(groups)) < len(groups) else "pair",
        "interval": "95 %, Wilson at the effective number of votes, its variance that between units",
        "pairs": int(voted.sum()),
        "raters": len(ballots),
        "all": _shares(counts, units),
        "by_rater": {
            rater: {**_shares(own, units), "left": sides[rater][0], "right": sides[rater][1]}
            for rater, own in ballots.items()
        },
        "agreement": {"same": agree.same, "alpha": agree.alpha},
        "warnings": _warnings(key, ballots, sides, groups[voted], grouped),
        "votes": {file.name: disk.sha256(file) for file in files},
        "by_pair": [
            {"pair": row["pair"], **{answer: int(n) for answer, n in zip(ANSWERS, own, strict=True)},
             "clip_a": row["clip_a"], "clip_b": row["clip_b"]}
            for row, own in zip(key["pairs"], counts, strict=True)
        ],
    }  # fmt: skip


def _shares(counts: np.ndarray, units: np.ndarray) -> dict[str, Any]:
    """Shares of the answers, of A among those who decided, and the sign test, from counts ``pairs answers``."""
    per_unit = np.stack([np.bincount(units, column) for column in counts.T], axis=1)
    a, _, b = per_unit.T
    votes = per_unit.sum(1)
    found: dict[str, Any] = {"votes": int(votes.sum())}
    for answer, hits in zip(ANSWERS, per_unit.T, strict=True):
        found[answer] = _plain(preference.share(hits, votes))
    found["decided"] = _plain(preference.share(a, a + b))
    wins, losses = int((a > b).sum()), int((a < b).sum())
    found["sign_test"] = {"for_a": wins, "for_b": losses, "p": preference.sign_test(wins, losses)}
    return found


def _plain(share: preference.Share | None) -> dict[str, float] | None:
    if share is None:
        return None
    percent = {name: round(100 * getattr(share, name), 2) for name in ("value", "low", "high")}
    return {**percent, "votes": share.votes, "effective": round(share.effective, 1)}


def _warnings(
    key: dict[str, Any],
    ballots: dict[str, np.ndarray],
    sides: dict[str, tuple[int, int]],
    groups: np.ndarray,
    grouped: bool,
) -> list[str]:
    found = []
    for rater, own in ballots.items():
        if own.sum() < len(own):
            found.append(f"{rater} voted on {own.sum()} of {len(own)} pairs")
        if preference.sign_test(*sides[rater]) < PARTIAL:
            found.append(
                f"{rater} chose the left video {sides[rater][0]} times and the right one {sides[rater][1]} times"
            )
    number = len(np.unique(groups))
    if not grouped and number < len(groups):
        found.append(
            f"the pairs are of {number} independent groups of videos: the intervals hold for these videos alone"
        )
    elif len(groups) < FEW:
        found.append(f"only {len(groups)} pairs were voted on")
    return found


def _names(a: str, b: str) -> list[str]:
    """The shortest ends of the two paths that tell them apart."""
    parts = [Path(place).absolute().parts for place in (a, b)]
    for n in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(part[-n:]) for part in parts]
        if ends[0] != ends[1]:
            return ends
    return [f"{ends[0]} (A)", f"{ends[1]} (B)"]


def markdown(result: dict[str, Any]) -> str:
    """A table of one row: that of the paper, with intervals."""
    whole, names = result["all"], [name.replace("|", "\\|") for name in result["names"]]
    head = ["A", "B", "prefer A", "equal", "prefer B", "A among decided", "sign test", "pairs", "raters", "votes"]
    cells = [*names, *(_cell(whole[word]) for word in (*ANSWERS, "decided"))]
    cells += [f"p = {whole['sign_test']['p']:.2g}", *map(str, (result["pairs"], result["raters"], whole["votes"]))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), cells)) + "\n"


def _cell(share: dict[str, float] | None) -> str:
    return f"{share['value']:.1f} % [{share['low']:.1f}, {share['high']:.1f}]" if share else "none"


def _show(result: dict[str, Any], folder: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    a, b = map(escape, result["names"])
    grid = Table(title=f"A {a}, B {b}: percent of votes with 95 % interval", box=box.SIMPLE)
    for column in ("", "prefer A", "equal", "prefer B", "votes"):
        grid.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
    for name, row in [*result["by_rater"].items(), ("all", result["all"])]:
        shares = [escape(_cell(row[word]).replace(" %", "")) for word in ANSWERS]
        grid.add_row(escape(name), *shares, str(row["votes"]))
    console.print(grid)
    whole, test = result["all"], result["all"]["sign_test"]
    console.print(
        f"of the votes that decided, {escape(_cell(whole['decided']))} are for A; by majority, {result['unit']}s are "
        f"{test['for_a']} for A and {test['for_b']} for B, sign test p = {test['p']:.2g}"
    )
    agree = result["agreement"]
    if agree["same"] is not None:
        alpha = f", Krippendorff's alpha {agree['alpha']:.2f}" if agree["alpha"] is not None else ""
        console.print(f"two raters agree on {100 * agree['same']:.0f} % of the pairs that both saw{alpha}")
    console.print(f"interval: {result['interval']}; unit: {result['unit']}")
    for warning in result["warnings"]:
        console.print(f"[yellow]warning[/] {escape(warning)}")
    console.print(
        f"{escape(str(folder / 'tally.md'))} is a row to paste, tally.json has everything by rater and by pair"
    )


# --- files that come in -----------------------------------------------------------------------------------------------


def _key(file: Path) -> dict[str, Any]:
    key = _json(file, KEY, "'drivesim compare A B --out DIR' makes a study")
    rows = key.get("pairs")
    whole = isinstance(rows, list) and all(
        isinstance(row, dict) and isinstance(row.get("pair"), str) and row.get("a") in ("left", "right")
        and isinstance(row.get("group"), int) and {"clip_a", "clip_b"} <= row.keys()
        for row in rows
    )  # fmt: skip
    if not whole or not rows or not all(isinstance(key.get(word), str) for word in ("study", "a", "b")):
        raise Mistake("is not whole", where=file, mend="make the study again, with the same --seed")
    return key


def _votes(file: Path, name: str, known: dict[str, int]) -> tuple[str, dict[str, str]]:
    """The rater and the answer to each pair, checked."""
    content = _json(file, study.VOTES, "a votes-NAME.json that the study's page made is expected")
    if content.get("study") != name:
        raise Mistake(f"is of study {str(content.get('study'))[:40]}, not {name}", where=file)
    rater, rows = content.get("rater"), content.get("votes")
    if not isinstance(rater, str) or not rater.strip() or len(rater) > 80 or not rater.isprintable():
        raise Mistake("names no rater", where=file)
    if not isinstance(rows, list) or not rows:
        raise Mistake("holds no vote", where=file)
    given: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        pair, answer = (row.get("pair"), row.get("answer")) if isinstance(row, dict) else (None, None)
        if not isinstance(pair, str) or pair not in known:
            raise Mistake(f"vote {number} is on pair {str(pair)[:40]!r}, which the study does not have", where=file)
        if answer not in study.ANSWERS:
            expected = f"one of {', '.join(study.ANSWERS)} is expected"
            raise Mistake(f"vote {number} says {str(answer)[:40]!r}", where=file, mend=expected)
        if pair in given:
            raise Mistake(f"votes twice on pair {pair}", where=file)
        given[pair] = answer
    return rater.strip(), given


def _json(file: Path, schema: str, mend: str) -> dict[str, Any]:
    try:
        if file.stat().st_size > LARGEST:
            raise Mistake("is too large", where=file, mend=mend)
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as problem:
        raise Mistake(f"cannot be read: {problem.strerror}", where=file, mend=mend) from None
    except (ValueError, RecursionError):
        raise Mistake("is not JSON", where=file, mend=mend) from None
    if not isinstance(content, dict) or content.get("schema") != schema:
        raise Mistake(f"is not of schema {schema}", where=file, mend=mend)
    return content
