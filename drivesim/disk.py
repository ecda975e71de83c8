"""Files on the disk: whole or not there, by name what is not whole yet, and their hash."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from drivesim.errors import Mistake

PART = re.compile(r"\.(?P<of>.+?)(\.(?P<pid>\d+))?\.part")  # a file, or a folder, that is not whole yet


@contextmanager
def writing(file: str | Path) -> Iterator[None]:
    """Says of an error of the system in its block that ``file`` could not be written: a full disk is no defect.

    Raises:
        Mistake: the file and the system's words, one line.
    """
    try:
        yield
    except OSError as problem:
        what = os.strerror(problem.errno) if problem.errno else str(problem)
        raise Mistake(f"cannot be written: {what}", where=file) from problem


@contextmanager
def replacing(file: str | Path) -> Iterator[Path]:
    """A temporary file beside ``file`` to be written, which becomes ``file`` whole once the block ends: flushed to the
    disk, then put in its place, so that what was there stays until then, also when the machine dies in between. After
    an error it is removed; after ``kill -9`` ``sweep`` finds it.

    Raises:
        Mistake: it cannot be written.
    """
    file = Path(file)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            with open(part, "rb") as written:
                os.fsync(written.fileno())
            os.replace(part, file)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomic(file: str | Path, data: bytes) -> None:
    """``data`` becomes ``file`` whole or not at all; see ``replacing``."""
    with replacing(file) as part:
        part.write_bytes(data)


def copy_atomic(source: Path, file: Path) -> None:
    """As ``write_atomic``, of the bytes of ``source``, which may be many."""
    with open(source, "rb") as opened, replacing(file) as part, open(part, "wb") as out:
        shutil.copyfileobj(opened, out, 1 << 20)


def append(file: Path, text: str, sync: bool = False) -> None:
    """Puts whole lines behind those of ``file``, all of them or none.

    Args:
        sync: they are on the disk when this returns.

    Raises:
        Mistake: they cannot be written.
    """
    data = text.encode()
    with writing(file):
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(handle).st_size
            try:
                while data:
                    data = data[os.write(handle, data) :]
                if sync:
                    os.fsync(handle)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)


def sweep(*folders: Path, of: str | None = None) -> list[Path]:
    """Removes what processes that are gone left half-written in ``folders``, of a file or folder with the name ``of``
    alone where one is given; returns what it was."""
    found = [entry for folder in folders if folder.is_dir() for entry in folder.iterdir() if _orphan(entry.name, of)]
    for entry in found:
        with writing(entry):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
    return found


def _orphan(name: str, of: str | None) -> bool:
    match = PART.fullmatch(name)
    if match is None or match["of"] != (of or match["of"]):
        return False
    pid = int(match["pid"] or 0)  # 0: versions before named no process
    if pid in (0, os.getpid()):  # in a container the process before had our number; we have written nothing yet
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


class Hashed:
    """A file that is being written: its bytes are counted and hashed on their way."""

    def __init__(self, out: IO[bytes]):
        self.out, self.digest, self.size = out, hashlib.sha256(), 0
        self.problem: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self.out.write(data)
        except OSError as problem:
            self.problem = problem
            raise
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self.out.flush()


def sha256(file: str | Path) -> str:
    """Of the file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
