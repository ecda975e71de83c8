"""A queue of small experiments: every row with every seed, at equal settings; what is done is not done again.

    python tools/sweep.py configs/sweeps/boxes.yaml cache=runs/latents ... --out runs/sweep [--cells 2] [--table]

A cell is a row with a seed: its commands run one after the other in a folder of its own, and the last one leaves
``scores.json``. What several rows take is ``shared``: made once a seed, by the first cell that names it. A command
that ended is noted, so a queue that was stopped goes on where it was; a training that was stopped goes on from its
checkpoint. Start it several times, and the processes share the cells. Seeds come before rows: stopped early, it has
compared all rows once. The table is printed at the end, or alone by ``--table``: means over seeds, ``±`` half of what
lies between the lowest and the highest, cells that are missing empty; minutes with those of what is shared.
"""

import argparse
import fcntl
import hashlib
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from drivesim import config
from drivesim.disk import write_atomic
from drivesim.errors import Mistake

SCORES, DONE = "scores.json", "done.jsonl"


@dataclass(frozen=True)
class Sweep:
    """
    Args:
        rows: what is compared: a name, and the words that stand for ``{row}`` in the commands.
        seeds: every row is made with each.
        commands: of a cell. ``{cell}`` is its folder, ``{seed}`` its seed, ``{row}`` its row's words, and each of
            ``given`` what the command line says it is. ``drivesim`` and ``python`` are those that run this.
        columns: numbers of ``scores.json``, and what they are called in the table; ``a/b`` is b of what a holds.
        given: names that the command line must set.
        shared: what rows have in common, by name: a command, of which ``{cell}`` is its own folder; a training
            takes one within it. Rows, commands and what follows here say ``{name}`` for it; what no cell says is not
            made.
    """

    rows: dict[str, str]
    seeds: tuple[int, ...]
    commands: tuple[str, ...]
    columns: dict[str, str]
    given: tuple[str, ...] = ()
    shared: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.shared:
            if name in {*self.rows, *self.given, "cell", "seed", "row"}:
                raise Mistake(f"'{name}' is something else, too", field="shared", mend="call it otherwise")


@dataclass(frozen=True)
class Cell:
    """Args:
    needs: what is shared and made before it, in order.
    """

    row: str
    seed: int
    folder: Path
    commands: tuple[tuple[str, ...], ...]
    needs: tuple["Cell", ...] = ()

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.commands).encode()).hexdigest()[:16]

    @property
    def scores(self) -> dict[str, Any] | None:
        """Of a cell that is done."""
        file = self.folder / SCORES
        return json.loads(file.read_text()) if file.is_file() and self.ended else None

    @property
    def ended(self) -> bool:
        return len(self.done()) == len(self.commands)

    @property
    def minutes(self) -> float:
        """Of its commands, and of those that it needs."""
        own = sum(note["seconds"] for note in self.done()) / 60
        return own + sum(sum(note["seconds"] for note in need.done()) / 60 for need in self.needs)

    def done(self) -> list[dict[str, float]]:
        """What is noted of the commands that ended.

        Raises:
            Mistake: the cell was made by other commands.
        """
        file = self.folder / DONE
        if not file.is_file():
            return []
        notes = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        if any(note["commands"] != self.digest for note in notes):
            raise Mistake("was made by other commands", where=self.folder, mend="choose another --out")
        return notes


def cells(sweep: Sweep, out: Path, given: dict[str, str]) -> Iterator[Cell]:
    for seed in sweep.seeds:
        names, shared = {**given, "seed": str(seed)}, dict[str, Cell]()
        for name, command in sweep.shared.items():
            folder = out / f"{name}-{seed}"
            words = (_words(command, {**names, "cell": str(folder)}),)
            shared[name] = Cell(name, seed, folder, words, _needed([command], shared))
            names[name] = str(folder)
        for row, told in sweep.rows.items():
            folder, needs = out / f"{row}-{seed}", _needed([told, *sweep.commands], shared)
            own = {**names, "cell": str(folder), "row": shlex.join(_words(told, names))}
            yield Cell(row, seed, folder, tuple(_words(command, own) for command in sweep.commands), needs)


def _needed(commands: Iterable[str], shared: dict[str, Cell]) -> tuple[Cell, ...]:
    """What ``commands`` name of it, each behind what it needs itself."""
    named = [cell for name, cell in shared.items() if any(f"{{{name}}}" in command for command in commands)]
    every = [each for cell in named for each in (*cell.needs, cell)]
    return tuple({cell.row: cell for cell in every}.values())


def _words(command: str, names: dict[str, str]) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command.format(**names)))
    except (KeyError, IndexError) as problem:
        raise Mistake(f"{problem} is not known", where=command, mend="name it under given") from None


@contextmanager
def held(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether the cell is ours: no other process works at it, and none will meanwhile; ``wait``: once that one ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def make(cell: Cell) -> bool:
    """Runs what is left of a cell and of what it needs; False where a command failed, whose output is in its
    ``log.txt``."""
    for need in cell.needs:
        with held(need.folder, wait=True):
            if not need.ended and not make(replace(need, needs=())):
                return False
    with (cell.folder / "log.txt").open("a") as log:
        for command in cell.commands[len(cell.done()) :]:
            begin = time.monotonic()
            print(f"{cell.row}, seed {cell.seed}: {shlex.join(command)}", flush=True)
            if ended(_started(command), log):
                print(f"{cell.row}, seed {cell.seed}: failed, see {cell.folder / 'log.txt'}", flush=True)
                return False
            note = {"commands": cell.digest, "seconds": round(time.monotonic() - begin, 1)}
            lines = [json.dumps(each) for each in (*cell.done(), note)]
            write_atomic(cell.folder / DONE, ("\n".join(lines) + "\n").encode())
    return True


def ended(command: list[str], log: IO[str]) -> int:
    """The exit status of ``command``, which is asked to stop where we are, and waited for: a training leaves a
    checkpoint.

    Raises:
        KeyboardInterrupt: we were.
    """
    asked: list[int] = []
    child = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def stop(number: int, _: object) -> None:
        asked.append(number)
        child.send_signal(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt
    return status


def _started(command: tuple[str, ...]) -> list[str]:
    """As it is run here; a training or a rollout goes on where its run is there already."""
    first, *rest = command
    if first == "drivesim":
        out = Path(rest[rest.index("--out") + 1]) if "--out" in rest[:-1] else None
        begun = out is not None and rest[0] in ("train", "generate") and any(out.glob("**/run.json"))
        going = ["--resume"] if begun else []
        return [sys.executable, "-m", "drivesim.cli", *rest, *going]
    return [sys.executable if first == "python" else first, *rest]


def table(sweep: Sweep, made: list[Cell]) -> str:
    """Markdown: a line a row, with the seeds that are done and the minutes of a cell."""
    lines = ["| | " + " | ".join(sweep.columns.values()) + " | seeds | minutes |"]
    lines.append("|---" + "|---:" * (len(sweep.columns) + 2) + "|")
    for row in sweep.rows:
        done = [cell for cell in made if cell.row == row and cell.scores is not None]
        scores = [[_number(cell.scores, column) for cell in done] for column in sweep.columns]
        shown = [_spread([value for value in values if value is not None]) for values in scores]
        shown += [str(len(done)) if done else "", f"{max(cell.minutes for cell in done):.1f}" if done else ""]
        lines.append(f"| {row} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _number(scores: Any, column: str) -> float | None:
    for name in column.split("/"):
        scores = scores.get(name) if isinstance(scores, dict) else None
    return scores


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("given", nargs="*", metavar="name=value")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, help="stop after so many")
    parser.add_argument("--table", action="store_true", help="print what there is, and run nothing")
    args = parser.parse_intermixed_args()
    try:
        return run(args.sweep, args.given, args.out, 0 if args.table else args.cells)
    except Mistake as mistake:
        print(f"sweep: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sweep: stopped; the same command goes on", file=sys.stderr)
        return 75


def run(file: Path, given: list[str], out: Path, most: int | None = None) -> int:
    """Makes up to ``most`` cells that are not made yet, and prints the table; 1 where one failed.

    Raises:
        Mistake: a name that is not given, or not known; a cell that was made by other commands.
    """
    sweep = config.load(Sweep, file)
    if wrong := [each for each in given if "=" not in each]:
        raise Mistake(f"'{wrong[0]}' is not name=value", where=file)
    names = dict(each.split("=", 1) for each in given)
    if names.keys() != set(sweep.given):
        raise Mistake(f"{', '.join(sorted(names.keys() ^ set(sweep.given)))}: given, or wanted, in vain", where=file)
    everything, failed, count = list(cells(sweep, out, names)), False, 0
    for cell in everything:
        if (most is not None and count >= most) or cell.scores is not None:
            continue
        with held(cell.folder) as ours:
            if ours and cell.scores is None:
                count += 1
                failed |= not make(cell)
    print(table(sweep, everything))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
