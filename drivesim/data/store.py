"""The files of a folder, on a disk or in a store behind a URL: their sizes, and ranges of their bytes in any order.

A URL is what fsspec takes: ``s3://``, ``gs://``, ``memory://``, or several joined by ``::``, as ``filecache::s3://``,
which keeps a copy of what has been read. The library that speaks to a store (s3fs, gcsfs, adlfs) is asked for when a
URL names it; it knows its own credentials.
"""

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from drivesim.errors import Mistake


class Files(Protocol):
    """Raises of all: OSError where a file is not there or cannot be read."""

    def sizes(self) -> dict[str, int]:
        """Bytes of every file by its name, of folders of the like too; none where there is no such folder."""

    def read(self, name: str) -> bytes:
        """A whole file."""

    def source(self, name: str) -> Any:
        """A file as Arrow reads it, at any place."""

    def fill(self, name: str, start: int, out: np.ndarray) -> None:
        """Reads the bytes from ``start`` on into the whole of ``out``."""


def of(place: str | Path) -> Files:
    """The files at ``place``, a folder or a URL.

    Raises:
        Mistake: a URL of a store that cannot be spoken to here.
    """
    return Store(str(place)) if remote(place) else Disk(Path(place))


def remote(place: str | Path) -> bool:
    """Whether ``place`` is a URL."""
    return "://" in str(place)


class Disk:
    """Nothing stays open between two calls: there may be thousands of files."""

    def __init__(self, folder: Path):
        self.folder = folder

    def sizes(self) -> dict[str, int]:
        if not self.folder.is_dir():
            return {}
        with os.scandir(self.folder) as found:
            return {entry.name: entry.stat().st_size for entry in found}

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def source(self, name: str) -> str:
        return str(self.folder / name)

    def fill(self, name: str, start: int, out: np.ndarray) -> None:
        left = out.reshape(-1).view(np.uint8).data
        with open(self.folder / name, "rb", buffering=0) as file:
            while len(left):
                got = os.preadv(file.fileno(), [left], start)
                if not got:
                    raise OSError(f"{name} ends early")
                left, start = left[got:], start + got


class Store:
    """Below ``url``. A process that was forked asks for a connection of its own."""

    def __init__(self, url: str):
        self.url = url
        self._pid = 0
        self._connected()

    def sizes(self) -> dict[str, int]:
        system, root = self._connected()
        try:
            found = system.ls(root, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry["size"] or 0 for entry in found}

    def read(self, name: str) -> bytes:
        system, root = self._connected()
        return bytes(system.cat_file(f"{root}/{name}"))

    def source(self, name: str) -> pa.BufferReader:
        return pa.BufferReader(self.read(name))  # whole: a table of many small groups would be many requests

    def fill(self, name: str, start: int, out: np.ndarray) -> None:
        system, root = self._connected()
        data = system.cat_file(f"{root}/{name}", start=start, end=start + out.nbytes)
        if len(data) != out.nbytes:
            raise OSError(f"{name} ends early")
        out.reshape(-1).view(np.uint8)[:] = np.frombuffer(data, np.uint8)

    def _connected(self) -> tuple[Any, str]:
        if self._pid != os.getpid():
            from fsspec.core import url_to_fs

            try:
                system, root = url_to_fs(self.url)
            except (ImportError, ValueError) as problem:
                what = " ".join(str(problem).split())[:120]
                raise Mistake(f"is a store that cannot be spoken to here ({what})", where=self.url) from None
            self._pid, self._system, self._root = os.getpid(), system, root.rstrip("/")
        return self._system, self._root

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_pid": 0}
