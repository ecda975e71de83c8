"""What a hostile file reaches for, and how it is noticed that it did: a canary, a loopback server, files outside."""

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.data.numbered import write

OPENED = 0x20 | 0x01  # inotify's IN_OPEN and IN_ACCESS
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn", "ctypes.dlopen")
CALLS = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
NETWORK = os.environ.get("NO_NETWORK") != "1"  # in a namespace without one, not even the loopback is up
heard: list[tuple[str, str]] | None = None  # what the hook below hears, while a trap is set


def _hear(event: str, details: tuple[Any, ...]) -> None:
    if event == "ctypes.dlopen" and details == (None,):
        return  # the process itself: nothing is loaded
    if heard is not None and (event in RUNS or event in CALLS):
        heard.append((event, repr(details)[:200]))


sys.addaudithook(_hear)  # it stays for good, and does nothing while no trap is set


@dataclass
class Trap:
    """
    Args:
        inside: the folder that a command is pointed to.
        outside: a folder beside it that no command may read from.
        canary: what a payload makes if it runs.
        url: of a loopback server.
    """

    inside: Path
    outside: Path
    canary: Path
    url: str
    server: socket.socket
    watch: int
    sprung: list[str] = field(default_factory=list)

    @property
    def video(self) -> Path:
        return self.outside / "secret.mp4"

    @property
    def text(self) -> Path:
        return self.outside / "secret.json"

    def look(self) -> None:
        """Collects what has happened since the trap was set."""
        if self.canary.exists():
            self.sprung.append("executed: the canary is there")
        if NETWORK:
            try:
                _, peer = self.server.accept()
                self.sprung.append(f"connected: {peer}")
            except BlockingIOError:
                pass
        try:
            events = os.read(self.watch, 1 << 16)
        except BlockingIOError:
            events = b""
        while events:
            _, _, _, length = struct.unpack("iIII", events[:16])
            self.sprung.append(f"read outside: {events[16 : 16 + length].rstrip(bytes(1)).decode() or 'the folder'}")
            events = events[16 + length :]


@contextmanager
def trap(folder: Path) -> Iterator[Trap]:
    """The folders, the server and the watch; ``set_off`` is what follows."""
    inside, outside = folder / "inside", folder / "outside"
    inside.mkdir()
    outside.mkdir()
    write(outside / "secret.mp4", 20, Fraction(10))
    (outside / "secret.json").write_text('{"secret": 1}')
    (outside / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    server = socket.socket()
    if NETWORK:
        server.bind(("127.0.0.1", 0))
        server.listen()
    server.setblocking(False)
    port = server.getsockname()[1] or 9
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    try:
        yield Trap(inside, outside, folder / "canary", f"http://127.0.0.1:{port}", server, watch)
    finally:
        server.close()
        os.close(watch)


@contextmanager
def armed(set_up: Trap) -> Iterator[None]:
    """From here on everything that is opened outside, run or called counts."""
    global heard
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.inotify_add_watch(set_up.watch, os.fsencode(set_up.outside), OPENED) < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch")
    heard = []
    try:
        yield
    finally:
        set_up.sprung += [f"{event}: {details}" for event, details in heard]
        heard = None
        set_up.look()
