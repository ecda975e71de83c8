"""The errors that a user can cause or must hear of. The command prints them as one to three lines, without a
traceback."""

import difflib
from collections.abc import Iterable
from pathlib import Path

EXIT_DONE = 0
EXIT_DEFECT = 1
EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 75
LONGEST = 4200  # characters of a part of a message: a path has up to 4096


def printable(text: object) -> str:
    """``text`` on one line, its control characters as escapes: a file's name must not steer the terminal. Of what is
    longer than any name, the beginning."""
    text = str(text)
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


class Mistake(Exception):
    """Something that the user can mend; the command ends with status 2.

    Args:
        what: what is wrong, one sentence.
        where: the file, key or option that it is wrong in.
        mend: what to do about it.
        field: the path of a value in a configuration file, as it is written there: ``edits[1].op``. Checks of values
            give it and no ``where``: who has loaded the file knows the line (``config.located``).
    """

    def __init__(self, what: str, *, where: object = None, mend: str | None = None, field: str | None = None):
        self.what, self.where, self.mend, self.field = what, where, mend, field
        super().__init__(what)

    def __str__(self) -> str:
        head = ": ".join(printable(part) for part in (self.where, self.field, self.what) if part is not None)
        return f"{head}\n  {printable(self.mend)}" if self.mend else head


class Interrupted(Exception):
    """The run was asked to stop and can be resumed; the command ends with status 75."""


def out_of_memory(problem: BaseException) -> bool:
    """Whether an error says that memory could not be had: Python's, torch's on a device, or torch's on the CPU, which
    is a RuntimeError like many others."""
    told = type(problem).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(problem)
    return isinstance(problem, MemoryError) or told


def beside(path: str | Path) -> str | None:
    """``did you mean 'x'?`` for a file or folder that is not there; None where nothing there is called alike."""
    path = Path(path)
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.name != path.name]
    except OSError:
        return None
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"did you mean '{path.with_name(close[0])}'?" if close else None


def nearest(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?``, or the list of known words where none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word[:100], known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
