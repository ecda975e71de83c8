"""What every room's tests share: the real clips, two cores, and a global random state that nobody may move."""

import builtins
import fnmatch
import io
import os
import signal
import subprocess
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

# Two cores overall: two workers of one thread each, or one process of two; OMP_NUM_THREADS=1 is for when something else
# runs beside the tests. Set before torch is imported; subprocesses inherit it.
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else int(os.environ.get("OMP_NUM_THREADS", "2"))
os.environ["OMP_NUM_THREADS"] = str(THREADS)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from drivesim.data import writer  # noqa: E402

torch.set_num_threads(THREADS)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background, and so would be what tests stop by it
    signal.signal(signal.SIGINT, signal.default_int_handler)
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real clips: DRIVESIM_SHARED, or ``../shared`` beside the repository.

    Absent, the test is skipped with a warning in the summary; with DRIVESIM_REQUIRE_SHARED=1 it fails.
    """
    folder = Path(os.environ.get("DRIVESIM_SHARED", REPOSITORY.parent / "shared"))
    if (folder / "data" / "permissive").is_dir():
        return folder
    message = f"NO REAL CLIPS: {folder}/data/permissive is absent; what needs it is NOT tested (set DRIVESIM_SHARED)"
    if os.environ.get("DRIVESIM_REQUIRE_SHARED") == "1":
        pytest.fail(message)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn(message, stacklevel=1)
    pytest.skip(message)


@pytest.fixture(autouse=True)
def no_leaking_randomness(request: pytest.FixtureRequest) -> Iterator[None]:
    """Seeds torch by the test's name, so that networks are initialised alike in any order of tests, and fails where the
    test, or what it called, seeded torch globally or moved numpy's global state."""
    seed = zlib.crc32(request.node.nodeid.encode())
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    numpy_before = np.random.get_state()  # noqa: NPY002
    yield
    moved = []
    if torch.initial_seed() != seed:
        moved.append("torch was seeded globally (a test is seeded already; else torch.random.fork_rng)")
    if not all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_before, strict=True)):  # noqa: NPY002
        moved.append("numpy's global state moved (use drivesim.randomness.generator)")
    torch.set_rng_state(before)
    np.random.set_state(numpy_before)  # noqa: NPY002
    if moved:
        pytest.fail("random state leaks: " + "; ".join(moved))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; skipped where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here: a full disk is injected alone")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


class Obstacle:
    """From ``put`` on, files whose names fit ``pattern`` cannot be written: opening them for it is an error of the
    system; or, with a ``disk``, just then that becomes full, and what follows is real. ``met``: it has come to that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.monkeypatch, self.met = monkeypatch, False

    def put(self, code: int, pattern: str, disk: Path | None = None) -> None:
        def check(path: object) -> None:
            if isinstance(path, str | bytes | os.PathLike) and fnmatch.fnmatch(Path(os.fsdecode(path)).name, pattern):
                self.met = True
                if disk is None:
                    raise OSError(code, os.strerror(code), os.fsdecode(path))
                self.fill(disk)

        def opened(path: object, mode: str = "r", *args: object, **kwargs: object) -> object:
            if set(mode) & set("wax+"):
                check(path)
            return real(path, mode, *args, **kwargs)  # type: ignore[call-overload]

        def handle(path: object, flags: int, *args: object, **kwargs: object) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR):
                check(path)
            return low(path, flags, *args, **kwargs)  # type: ignore[arg-type]

        def container(part: Path, *args: object) -> object:
            check(part)
            return film(part, *args)  # type: ignore[arg-type]

        real, low, film = io.open, os.open, writer._new_mp4
        for owner, name, replacement in ((io, "open", opened), (builtins, "open", opened), (os, "open", handle)):
            self.monkeypatch.setattr(owner, name, replacement)
        self.monkeypatch.setattr(writer, "_new_mp4", container)

    def remove(self) -> None:
        self.monkeypatch.undo()

    @staticmethod
    def fill(disk: Path) -> None:
        handle = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            while os.write(handle, bytes(4096)):
                pass
        except OSError:
            pass
        finally:
            os.close(handle)


@pytest.fixture
def obstacle() -> Iterator[Obstacle]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Obstacle(monkeypatch)
