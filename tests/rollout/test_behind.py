"""Work behind the caller's back: in order, never far behind, and no error of either side is lost."""

import threading
import time
from collections.abc import Iterator

import pytest

from drivesim.rollout.behind import Behind, Broken


def test_all_is_done_in_order_and_in_another_thread() -> None:
    seen: list[tuple[int, bool]] = []

    def work(items: Iterator[int]) -> None:
        seen.extend((item, threading.current_thread() is threading.main_thread()) for item in items)

    with Behind(work) as behind:
        for n in range(20):
            behind.give(n)
    assert seen == [(n, False) for n in range(20)]


def test_the_caller_goes_on_and_is_at_most_two_ahead() -> None:
    """One in work and one that waits."""
    begun, free, given = threading.Event(), threading.Event(), list[int]()

    def work(items: Iterator[int]) -> None:
        for _ in items:
            begun.set()
            free.wait()

    def give(behind: Behind[int]) -> None:
        for n in range(4):
            behind.give(n)
            given.append(n)

    with Behind(work) as behind:
        caller = threading.Thread(target=give, args=(behind,))
        caller.start()
        begun.wait()
        deadline = time.monotonic() + 5
        while given != [0, 1] and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert given == [0, 1]
        free.set()
        caller.join()
    assert given == [0, 1, 2, 3]


def test_waiting_is_not_being_busy() -> None:
    def work(items: Iterator[float]) -> None:
        for item in items:
            time.sleep(item)

    behind = Behind(work)
    with behind:
        behind.give(0.05)
        time.sleep(0.3)
        behind.give(0.05)
    assert 0.1 <= behind.busy < 0.25


@pytest.mark.parametrize("more", [0, 1, 50])
def test_an_error_of_the_work_comes_out(more: int) -> None:
    def work(items: Iterator[int]) -> None:
        next(items)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"), Behind(work) as behind:
        for n in range(1 + more):
            behind.give(n)


def test_where_the_caller_fails_what_was_given_is_done_and_no_end_is_seen() -> None:
    seen: list[int | str] = []

    def work(items: Iterator[int]) -> None:
        try:
            for item in items:
                seen.append(item)
            seen.append("ended")
        except Broken:
            seen.append("broken")
            raise

    with pytest.raises(ValueError, match="mine"), Behind(work) as behind:
        behind.give(1)
        behind.give(2)
        raise ValueError("mine")
    assert seen == [1, 2, "broken"]
    assert not any(thread.name == "behind" for thread in threading.enumerate())
