"""Work that is done behind the caller's back, in a thread of its own, in the order in which it is given."""

import threading
import time
from collections.abc import Callable, Iterator
from queue import Queue
from types import TracebackType
from typing import Generic, TypeVar, cast

T = TypeVar("T")
WAITING = 1  # items between the one in work and the one that the caller makes: each may be many frames
_END, _BROKEN = object(), object()


class Broken(Exception):
    """What ``work`` gets instead of a next item, where the caller has failed."""


class Behind(Generic[T]):
    """Calls ``work`` with an iterator of what it is given, while the caller makes more.

    ::

        with Behind(work) as behind:
            for item in items:
                behind.give(item)  # waits where ``work`` is too far behind

    Behind the block all is done. An error of ``work`` comes out of the next ``give``, or of the end of the block; where
    the block itself fails, ``work`` does what it has been given, and then gets ``Broken``.

    ``busy`` are the seconds in which ``work`` did not wait.
    """

    def __init__(self, work: Callable[[Iterator[T]], None]):
        self.busy = 0.0
        self._items: Queue[object] = Queue(WAITING)
        self._ended = False
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._do, args=(work,), name="behind", daemon=True)

    def give(self, item: T) -> None:
        self._items.put(item)
        if self._problem is not None:
            raise self._problem

    def _do(self, work: Callable[[Iterator[T]], None]) -> None:
        try:
            work(self._given())
        except Broken:
            pass
        except BaseException as problem:
            self._problem = problem
        while not self._ended:  # the caller must not wait for ever
            self._ended = self._items.get() in (_END, _BROKEN)

    def _given(self) -> Iterator[T]:
        while (item := self._items.get()) not in (_END, _BROKEN):
            begin = time.perf_counter()
            yield cast(T, item)  # neither of the two ends
            self.busy += time.perf_counter() - begin
            del item  # it may be large
        self._ended = True
        if item is _BROKEN:
            raise Broken

    def __enter__(self) -> "Behind[T]":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._items.put(_END if error is None else _BROKEN)
        self._thread.join()
        if error is None and self._problem is not None:
            raise self._problem
