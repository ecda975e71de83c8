"""The tasks of a command: one after another in this process, or on many workers by Ray.

Ray is the scheduler: it starts the workers, hands out the tasks and repeats those of a worker that died. Here is only
what a command needs beside it. Ray is imported when it is asked for, and is an extra: ``pip install 'drivesim[ray]'``.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from drivesim import __version__
from drivesim.errors import Interrupted, Mistake
from drivesim.jobs.preflight import Estimate, Room, check_memory
from drivesim.jobs.processes import cores
from drivesim.rollout import memory
from drivesim.signals import Stop

T = TypeVar("T")
R = TypeVar("R")
RETRIES = 5  # of a task whose worker died
LOOK_EVERY = 0.5  # seconds between two looks at what is done
GRACE = 10.0  # seconds for tasks to note that they were stopped
STORE = 100 << 20  # bytes of shared memory for what tasks are told and give back, which is little


@dataclass(frozen=True)
class Engine:
    """Who does the tasks.

    Args:
        name: ``process``, this one, or ``ray``.
        workers: processes that Ray starts on this machine; None: as many as fit, by ``threads`` or by GPUs.
        address: of a Ray cluster that runs already, and has workers of its own; "" = Ray is started here.
        threads: of each process on a CPU. None: of this process, all cores; of a worker one, so that the number of
            workers changes no bit.

    Raises:
        Mistake: an option of Ray without it, or Ray is not installed.
    """

    name: str = "process"
    workers: int | None = None
    address: str = ""
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.far:
            for option, value in (("--workers", self.workers), ("--ray-address", self.address)):
                if value:
                    raise Mistake("has a meaning with --engine ray alone", where=option)
        elif find_spec("ray") is None:
            raise Mistake("ray is not installed", where="--engine ray", mend="pip install 'drivesim[ray]'")
        elif self.workers and self.joined:
            what = f"the cluster at {self.joined} has workers of its own"
            raise Mistake(what, where="--workers", mend="leave it out, or unset RAY_ADDRESS")

    @property
    def far(self) -> bool:
        """Whether tasks are done in other processes."""
        return self.name != "process"

    def count(self, device: str) -> int:
        """How many tasks will be under way at a time on this machine; of a cluster, which has not been asked, one."""
        if not self.far or self.joined:
            return 1
        fitting = torch.cuda.device_count() if torch.device(device).type == "cuda" else cores() // (self.threads or 1)
        return self.workers or max(1, fitting)

    @property
    def joined(self) -> str:
        """The cluster that is joined; "" for none."""
        return self.address or os.environ.get("RAY_ADDRESS", "")

    @contextmanager
    def crew(self, device: str) -> Iterator["Crew"]:
        """Those who do the tasks, on devices of the kind of ``device``, until the end of the block.

        Raises:
            Mistake: the cluster cannot be reached.
        """
        if not self.far:
            if self.threads:
                torch.set_num_threads(self.threads)
            yield Crew(1, 1)
            return
        threads, kind = self.threads or 1, torch.device(device).type
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is told to anyone
        import ray

        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if self.joined:
                ray.init(address=self.joined, log_to_driver=False, logging_level=logging.ERROR)
            else:
                ray.init(address="local", num_cpus=self.count(device) * threads, object_store_memory=STORE, **quiet)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError, ray.exceptions.RayError) as problem:
            what = f"Ray cannot be used: {' '.join(str(problem).split())[:200]}"
            if not self.joined:
                raise Mistake(what, where="--engine ray") from None
            mend = "does 'ray status' answer there? A cluster with a token is joined with RAY_AUTH_MODE=token"
            raise Mistake(what, where=f"--ray-address {self.joined}", mend=mend) from None
        try:
            there = ray.cluster_resources()
            fits = int(there.get("CPU", 0)) // threads
            fits = min(fits, int(there.get("GPU", 0))) if kind == "cuda" else fits
            if fits < 1:
                what = f"no worker has {threads} core{'s' * (threads > 1)}{' and a GPU' * (kind == 'cuda')}"
                raise Mistake(what, where="--engine ray", mend="'ray status' shows what the cluster has")
            yield RayCrew(fits, 1 if self.joined or kind != "cpu" else fits, threads, kind)
        finally:
            ray.shutdown()


@dataclass(frozen=True)
class Crew:
    """This process alone.

    Args:
        size: how many tasks are under way at a time.
        together: how many of these share the memory of this machine.
    """

    size: int
    together: int

    @property
    def far(self) -> bool:
        """Whether tasks are done in other processes, to which what they need is sent."""
        return False

    def map(self, work: Callable[[T], R], items: Sequence[T], title: str, name: Callable[[T], object]) -> Iterator[R]:
        """What ``work`` gives of each of ``items``, in their order.

        Args:
            work: where it goes to other processes, a frozen dataclass of plain values; what it keeps of a task in
                cached properties is there for the next one of the same process.
            name: of an item, for messages.

        Raises:
            Mistake: of the first task that has one; no other is begun then. Or a worker died at the same task again
                and again.
            Interrupted: SIGTERM, SIGUSR1; those under way end first in this process, and are stopped in others.
        """
        with progress() as bar, Stop("piece", signal.SIGTERM, signal.SIGUSR1) as stop:
            for item in bar.track(items, description=title):
                if stop.asked:
                    raise Interrupted
                yield work(item)

    def shared(self, estimate: Estimate, room: Room) -> Estimate:
        """``estimate``, which is of one process, for all of them.

        Raises:
            Mistake: their memory does not suffice.
        """
        peak = None if estimate.peak is None else estimate.peak * self.together
        if self.together > 1 and estimate.peak and room.memory is not None:
            fit = room.memory // estimate.peak
            check_memory(peak, room, estimate.title, f"--workers {fit} fits" if fit else "take smaller models")
        parts = tuple(replace(part, calls=part.calls / self.size) for part in estimate.parts)
        return replace(estimate, parts=parts, peak=peak)


@dataclass(frozen=True)
class RayCrew(Crew):
    """Workers of Ray.

    Args:
        threads: of each; ``kind``: of its device. A GPU is one worker's alone.
    """

    threads: int
    kind: str

    @property
    def far(self) -> bool:
        return True

    def map(self, work: Callable[[T], R], items: Sequence[T], title: str, name: Callable[[T], object]) -> Iterator[R]:
        import ray

        place = Place(os.getcwd(), tuple(sys.argv), self.threads, self.kind, __version__)
        gpus = 1 if self.kind == "cuda" else 0
        if gpus:
            torch.cuda.empty_cache()  # what an estimate took is a worker's now
        task = ray.remote(num_cpus=self.threads, num_gpus=gpus, max_retries=RETRIES)(_task)
        task = task.options(name=f"drivesim {title}")
        told = ray.put((work, place))
        waiting = {task.remote(told, item): number for number, item in enumerate(items)}
        done, begin = dict[int, R](), 0
        with progress() as bar, Stop("moment", signal.SIGTERM, signal.SIGUSR1) as stop:
            row = bar.add_task(title, total=len(items))
            try:
                while waiting:
                    ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=LOOK_EVERY, fetch_local=False)
                    if stop.asked:
                        raise Interrupted
                    for ref in ready:
                        number = waiting.pop(ref)
                        done[number] = _outcome(ref, name(items[number]))
                        bar.advance(row)
                    while begin in done:
                        yield done.pop(begin)
                        begin += 1
            except BaseException:
                _stop(list(waiting))
                raise


def _outcome(ref: Any, name: object) -> Any:
    """What a task gave.

    Raises:
        Mistake: its own, or its worker died again and again. Any other exception is the task's.
    """
    import ray

    try:
        outcome = ray.get(ref)
    except ray.exceptions.RayTaskError as problem:
        raise problem.cause from None
    except ray.exceptions.RayError as problem:
        words = str(problem).split("\n")[0][:200]
        mend = "mostly for want of memory: take fewer --workers"
        raise Mistake(f"its worker died {RETRIES + 1} times ({words})", where=name, mend=mend) from None
    if isinstance(outcome, Mistake | Interrupted):
        raise outcome
    return outcome


def _stop(waiting: list[Any]) -> None:
    """Those that have begun get a KeyboardInterrupt, and time to note it."""
    import ray

    with suppress(ray.exceptions.RayError):
        for ref in waiting:
            ray.cancel(ref)
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=GRACE, fetch_local=False)


@dataclass(frozen=True)
class Place:
    """Where the command was called and how: a worker stands in the same folder, with the same words."""

    folder: str
    argv: tuple[str, ...]
    threads: int
    kind: str
    version: str

    def enter(self) -> None:
        """Raises:
        Mistake: this machine has another version, or no such folder.
        """
        if self.version != __version__:
            what = f"a worker has drivesim {__version__}, the command is of {self.version}"
            raise Mistake(what, where="--engine ray", mend="install the same version on all machines")
        if not Path(self.folder).is_dir():
            mend = "all machines need the same folders, by the same paths"
            raise Mistake("is not there on a worker's machine", where=self.folder, mend=mend)
        os.chdir(self.folder)
        sys.argv = list(self.argv)
        torch.set_num_threads(self.threads)
        if self.kind == "cpu":
            memory.keep()


def _task(told: tuple[Callable[[Any], Any], Place], item: Any) -> Any:
    """In a worker. What the user must hear is given back, as Ray would wrap what is raised."""
    work, place = told
    try:
        place.enter()
        return _kept(work)(item)
    except (Mistake, Interrupted) as problem:
        return problem


@lru_cache(maxsize=1)
def _kept(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The first that is equal to ``work``, with all that it has loaded."""
    return work


def progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        transient=True,
    )  # fmt: skip
