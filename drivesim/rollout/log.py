"""log.txt: what the terminal said, with times, line by line on the disk, so that it is there after whatever came."""

import re
import shlex
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from drivesim import disk
from drivesim.errors import Mistake

NAME = "log.txt"
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
IN_PLACE = 10.0  # seconds between the lines that are kept of one that a terminal shows in the place of the last


class Log:
    """Hears the terminal from its context's begin on; ``to`` names the folder whose log.txt it goes into.

    ::

        with Log() as log:
            print("what will be taken")     # kept
            log.to(out)                     # written, behind the command, and from here on as it is said
    """

    def __init__(self) -> None:
        self._file: Path | None = None
        self._before: list[str] = []
        self._begun = False
        self._streams: tuple[TextIO, TextIO] | None = None
        self._lock = threading.RLock()

    def __enter__(self) -> "Log":
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Heard(sys.stdout, self), _Heard(sys.stderr, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._streams is not None
        if error is not None and not isinstance(error, SystemExit):
            with suppress(Mistake):  # what ended the work may be the disk
                self.line(f"{type(error).__name__}: {' '.join(str(error).split())}")
        sys.stdout, sys.stderr = self._streams

    def to(self, folder: Path | None) -> None:
        """From now on into ``folder``, behind what was said before the first; None: nowhere.

        Raises:
            Mistake: log.txt cannot be written.
        """
        self._file, self._begun = folder and folder / NAME, True
        if self._file is not None:
            if self._file.exists() and not self._file.read_bytes().endswith(b"\n"):
                disk.append(self._file, "\n")  # behind the line that a crash cut off
            disk.append(self._file, _dated(f"$ {shlex.join(sys.argv)}"))
            disk.append(self._file, "".join(self._before))

    def line(self, text: str) -> None:
        """Raises:
        Mistake: log.txt cannot be written.
        """
        if text.strip():
            with self._lock:
                if self._file is not None:
                    disk.append(self._file, _dated(text))
                elif not self._begun:
                    self._before.append(_dated(text))


def _dated(text: str) -> str:
    return f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n"


class _Heard:
    """A stream whose lines go into a log as well."""

    def __init__(self, stream: TextIO, log: Log):
        self.stream, self.log = stream, log
        self.rest = self.shown = ""
        self.at = time.monotonic()

    def write(self, text: str) -> int:
        self.stream.write(text)
        *lines, self.rest = f"{self.rest}{text}".split("\n")
        for line in lines:
            self.log.line(_last(line) or self.shown)
            self.shown = ""
        if "\r" in self.rest:  # shown in the place of what was there
            self.shown = _last(self.rest) or self.shown
            self.rest = self.rest[self.rest.rindex("\r") + 1 :]
            if self.shown and time.monotonic() - self.at > IN_PLACE:
                self.at = time.monotonic()
                self.log.line(self.shown)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _last(line: str) -> str:
    """What a terminal shows in the end of a line that went back to its begin: plain text."""
    parts = [part for part in COLOURS.sub("", line).split("\r") if part.strip()]
    return parts[-1].rstrip() if parts else ""
