"""How much memory this process has come to hold, and how much more it may.

On CUDA that is what torch has allocated. Elsewhere it is what the process has in memory, whose high-water mark Linux
keeps and lets a process set back (proc(5): ``clear_refs``), so that the peak of a piece can be known. Where neither can
be had the answer is None, never a guess.
"""

import ctypes
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)
UNLIMITED = 1 << 60  # cgroups write "no limit" as the largest multiple of a page
_highest: dict[str, int] = {}  # by device: the mark of before it was last set back


@dataclass
class Piece:
    """``peak``: the most bytes held while it ran, all that was there before included; None where it is not known."""

    peak: int | None = None


@contextmanager
def measured(device: torch.device) -> Iterator[Piece]:
    """The peak of its block."""
    piece, able = Piece(), _set_back(device)
    try:
        yield piece
    finally:
        piece.peak = _mark(device) if able else None


def peak_bytes(device: torch.device) -> int:
    """The most that this process has ever held on ``device``."""
    now = _mark(device)
    if now is None:
        unit = 1 if sys.platform == "darwin" else 1024
        now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return max(now, _highest.get(str(device), 0))


def within_reach(device: torch.device) -> int | None:
    """Bytes that this process may come to hold in all: what it holds, and what is free for it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    held = _field(PROC / "self" / "status", "VmRSS")
    free = _field(PROC / "meminfo", "MemAvailable")
    if device.type != "cpu" or held is None or free is None:
        return None
    return held + min([free, *_left_in_groups()])


def keep() -> None:
    """What is freed stays with this process, for the next call of a network, where the C library is glibc.

    It gives tensors of 32 MiB and more back at once, and the system then clears every page of the next one: a third of
    the time of a rollout at 512x1024. ``hand_back`` still does.
    """
    if (tune := getattr(LIBC, "mallopt", None)) is not None:
        tune(M_MMAP_MAX, 0)
        tune(M_TRIM_THRESHOLD, 2**31 - 1)


def hand_back() -> None:
    """Gives what is freed, but lies between pieces in use, back to the system, where the C library is glibc, which
    keeps it: without this the holes of long runs with several threads add up to a tenth of the memory."""
    if (trim := getattr(LIBC, "malloc_trim", None)) is not None:
        trim(0)


def _set_back(device: torch.device) -> bool:
    """Sets the high-water mark to what is in use now; False where that cannot be done."""
    before = _mark(device)
    hand_back()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        try:
            (PROC / "self" / "clear_refs").write_text("5")
        except OSError:
            return False
    _highest[str(device)] = max(before or 0, _highest.get(str(device), 0))
    return before is not None


def _mark(device: torch.device) -> int | None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return _field(PROC / "self" / "status", "VmHWM") if device.type == "cpu" else None


def _field(file: Path, name: str) -> int | None:
    """Bytes of a line ``name: N kB``."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _left_in_groups() -> Iterator[int]:
    """What the limits of the control groups that this process is in leave, version 1 and 2, their parents' too; files
    that the kernel can drop from its cache do not count as used."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = CGROUPS / "memory" if controllers else CGROUPS
        limit, used = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        )
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):  # a container may see its own group as the root
            if not folder.is_relative_to(root):
                break
            most, now = _number(folder / limit), _number(folder / used)
            if most is not None and now is not None and most < UNLIMITED:
                yield max(0, most - now + _cached(folder / "memory.stat"))


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max"
        return None


def _cached(file: Path) -> int:
    try:
        rows = dict(line.split() for line in file.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))
