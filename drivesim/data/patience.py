"""Calls into FFmpeg that are waited for, but not for ever: a disk may never answer, and a file may be made so that its
decoder does not come back.

A call cannot be ended from outside. So each opened file has a thread for it; where a call takes longer than the
patience, its thread is given up, with what it holds, and the file is a ``Mistake``. FFmpeg is told the same time, and
ends its own reading where it can.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from drivesim.errors import Mistake

T = TypeVar("T")
VARIABLE, USUAL = "DRIVESIM_PATIENCE", 60.0  # seconds without a packet or a picture
AT_ONCE = 0.005  # seconds: pictures that come quicker are handed over together, for each handing over takes some 50 us


def patience() -> float:
    """Raises:
    Mistake: the variable is no number of seconds.
    """
    told = os.environ.get(VARIABLE, "")
    try:
        seconds = float(told or USUAL)
        if 0 < seconds < 1e6:
            return seconds
    except ValueError:
        pass
    raise Mistake(f"'{told[:40]}' is not a number of seconds", where=VARIABLE, mend=f"leave it out for {USUAL:g}")


class Patient:
    """Runs the calls of one file one after the other; ``stuck`` once one of them has not come back in time."""

    def __init__(self, path: Path):
        self.path, self.seconds, self.stuck = path, patience(), False
        self._asked: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread = Thread(target=self._work, name=f"reads {path.name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (call := self._asked.get()) is not None:
            try:
                self._answers.put((call(), None))
            except BaseException as problem:
                self._answers.put((None, problem))
            del call  # and with it what it holds: nobody may ask again

    def call(self, ask: Callable[[], T]) -> T:
        """What ``ask`` returns or raises.

        Raises:
            Mistake: it has not come back in time.
        """
        self._asked.put(ask)
        try:
            value, problem = self._answers.get(timeout=self.seconds)
        except Empty:
            self.stuck = True
            self._asked.put(None)  # should it come back after all
            what = "takes longer to be read than anything that can be meant"
            mend = f"nothing came for {self.seconds:g} s; a slow disk? {VARIABLE}=SECONDS waits longer"
            raise Mistake(what, where=self.path, mend=mend) from None
        if problem is not None:
            raise problem
        return value

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items, each waited for."""
        waiting = iter(items)
        while True:
            some, problem = self.call(lambda: _some(waiting))
            yield from some
            if problem is not None:
                if isinstance(problem, StopIteration):
                    return
                raise problem

    def end(self) -> None:
        self._asked.put(None)
        self._thread.join(self.seconds)


def _some(waiting: Iterator[T]) -> tuple[list[T], BaseException | None]:
    """Items that come within ``AT_ONCE``, at least one, and what ended them, if anything did."""
    found, until = [], time.monotonic() + AT_ONCE
    try:
        found.append(next(waiting))
        while time.monotonic() < until:
            found.append(next(waiting))
    except BaseException as problem:
        return found, problem
    return found, None
