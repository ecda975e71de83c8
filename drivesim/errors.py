"""The errors that a user can cause or must hear of. The command prints them as one to three lines, without a
traceback."""

import difflib
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_DEFECT = 1
EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 75


class Mistake(Exception):
    """Something that the user can mend; the command ends with status 2.

    Args:
        what: what is wrong, one sentence.
        where: the file, key or option that it is wrong in.
        mend: what to do about it.
    """

    def __init__(self, what: str, *, where: object = None, mend: str | None = None):
        self.what, self.where, self.mend = what, where, mend
        super().__init__(what)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where is not None else self.what
        return f"{head}\n  {self.mend}" if self.mend else head


class Interrupted(Exception):
    """The run was asked to stop and can be resumed; the command ends with status 75."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?``, or the list of known words where none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
