"""Checkpoints on the disk: ``step-00001000.ckpt``, whole or not at all, and its SHA-256 beside it.

Lightning's own writer stages in $TMPDIR and moves, which is no single step from one file system to another, and keeps
silent about a folder that it may not write to. Here a file is put in its place once it is flushed, is read back from
the disk, and only then are its hash written and older ones removed. A resumed run takes the newest that is what its
hash says.

Sharded, a checkpoint is a folder of that name: safetensors files that torch.distributed.checkpoint writes, one a
process, and ``rest.pt`` with what is no tensor. Any number of processes reads it, as it reads the single file.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from lightning_fabric.plugins.io import CheckpointIO
from torch import Tensor
from torch.distributed import checkpoint as distributed
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from drivesim import disk, weights
from drivesim.errors import Mistake
from drivesim.training import together
from drivesim.training.together import Agreed

FOLDER, NAMES = "checkpoints", "step-*.ckpt"
REST = "rest.pt"  # of a sharded checkpoint: what is no tensor, numbers, and the shapes of the tensors


class Store(CheckpointIO):
    """How Lightning writes and reads checkpoints; called by all processes.

    Args:
        sharded: every process writes a part.
    """

    def __init__(self, sharded: bool = False):
        self.sharded = sharded

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        _check_finite(checkpoint, Path(path))
        if self.sharded:
            save_sharded(checkpoint, Path(path))
            return
        content = together.whole(checkpoint)
        if together.rank() == 0:
            save(content, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        content = read(Path(path))
        content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = (
            False  # there may be more steps now
        )
        return content

    def remove_checkpoint(self, path: Any) -> None:
        remove(Path(path))


def named(out: Path, step: int) -> Path:
    return out / FOLDER / f"step-{step:08d}.ckpt"


def steps_in(file: Path) -> int:
    """How many steps a checkpoint has behind it, so that the loader can go on behind them."""
    return int(file.stem.removeprefix("step-"))


def hash_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def save(content: Mapping[str, Any], file: Path) -> None:
    """Raises:
    Mistake: a tensor in it is not finite, it cannot be written, or the disk gives back other bytes; what was there
        stays, or is gone in the last case.
    """
    weights.check_finite(dict(tensors(content)), file)
    with disk.replacing(file) as part:
        with open(part, "wb") as out:
            sink = write(content, out)
        hash_file(file).unlink(missing_ok=True)  # of the file that is replaced: a wrong hash is worse than none
    if file.stat().st_size != sink.size or _read_back(file) != sink.digest.hexdigest():
        file.unlink()
        raise Mistake("the disk gives back other bytes than were written", where=file, mend="--out on another disk")
    disk.write_atomic(hash_file(file), f"{sink.digest.hexdigest()}  {file.name}\n".encode())


def write(content: Mapping[str, Any], out: IO[bytes]) -> disk.Hashed:
    """Into an open file, without a copy of it in memory.

    Raises:
        OSError: the system's, of the file.
    """
    sink = disk.Hashed(out)
    try:
        torch.save(content, sink)  # type: ignore[arg-type]  # a sink is all that it asks for
    except RuntimeError:  # torch's own words of a full disk are "unexpected pos"
        if sink.problem is None:
            raise
        raise sink.problem from None
    return sink


def save_sharded(content: Mapping[str, Any], folder: Path) -> None:
    """By all processes, on a disk that all of them see: a tensor that all hold is written by one of them.

    Raises:
        Mistake: it cannot be written; what was there stays.
    """
    part, first = folder.with_name(f".{folder.name}.part"), together.rank() == 0
    held = {name: tensor.detach().contiguous() for name, tensor in tensors(content) if tensor.ndim}
    with disk.writing(folder):
        if first:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        together.everyones([])  # the folder is there
        writer = HuggingFaceStorageWriter(str(part), save_distributed=True)
        with _unwarned():
            distributed.save(held, storage_writer=writer, no_dist=together.alone())
        own = sorted(part.glob(f"shard-{together.rank() + 1:05d}-*"))
        lines = together.everyones([f"{_read_back(file)}  {folder.name}/{file.name}" for file in own])
        rest = _without_data(content)
        if first:
            torch.save(rest, part / REST)
            lines.append(f"{_read_back(part / REST)}  {folder.name}/{REST}")
            remove(folder)
            os.replace(part, folder)
            disk.write_atomic(hash_file(folder), "".join(f"{line}\n" for line in lines).encode())
        together.everyones([])  # nobody goes on before it is there


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without torch's guess that a single process is meant, where one is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled, unavailable or uninitialized.*")
        yield


def _check_finite(content: Mapping[str, Any], file: Path) -> None:
    """Raises:
    Mistake: in all processes, where one of them holds a value that is not finite.
    """
    found = list[str]()
    try:
        local = {name: t.to_local() if isinstance(t, DTensor) else t for name, t in tensors(content)}
        weights.check_finite(local, file)
    except Mistake as mistake:
        found = [mistake.what]
    if found := together.everyones(found):
        raise Agreed(found[0], where=file)


def _without_data(content: Any) -> Any:
    """``content`` with empty tensors of the same shapes; numbers stay. By all processes."""
    if isinstance(content, Tensor):
        return (
            torch.empty(content.shape, dtype=content.dtype, device="meta") if content.ndim else together.whole(content)
        )
    if isinstance(content, Mapping):
        return {key: _without_data(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_without_data(value) for value in content)
    return content


def _filled(content: Any, held: Mapping[str, Tensor], name: str = "") -> Any:
    """The empty tensors of ``content`` out of ``held``, by their paths."""
    if isinstance(content, Tensor):
        return held.get(name, content)
    if isinstance(content, Mapping):
        return {key: _filled(value, held, f"{name}.{key}" if name else str(key)) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_filled(value, held, f"{name}[{n}]") for n, value in enumerate(content))
    return content


def _read_sharded(folder: Path) -> dict[str, Any]:
    rest = torch.load(folder / REST, weights_only=True)
    held = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors(rest) if tensor.is_meta}
    with _unwarned():
        distributed.load(held, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return dict(_filled(rest, held))


def rotate(newest: Path, kept: int) -> None:
    """Removes what is older than the ``kept`` newest up to ``newest``, which has been verified; 0 keeps all."""
    older = [file for file in sorted(newest.parent.glob(NAMES)) if file.name < newest.name]
    for file in older[: max(0, len(older) + 1 - kept)] if kept else []:
        remove(file)


def remove(file: Path) -> None:
    with disk.writing(file):
        if file.is_dir():
            shutil.rmtree(file)
        file.unlink(missing_ok=True)  # first: a hash without a file is nobody's, a file without its hash might be taken
        hash_file(file).unlink(missing_ok=True)


def latest(out: Path, tell: Callable[[str], None] = lambda line: None) -> Path:
    """The newest checkpoint of a run that is whole; ``tell`` hears of each that is passed over, and why.

    Raises:
        Mistake: there is none.
    """
    found = sorted((out / FOLDER).glob(NAMES), reverse=True)
    if not found:
        raise Mistake("no checkpoint to resume from", where=out, mend="leave --resume away to begin")
    for file in found:
        why = flaw(file)
        if why is None:
            return file
        tell(f"{file} is passed over: {why}")
    mend = "begin again in another --out"
    raise Mistake(f"none of its {len(found)} checkpoints is whole", where=out / FOLDER, mend=mend)


def flaw(file: Path) -> str | None:
    """What is wrong with a checkpoint, None where nothing is. One without a hash, of a version before or of a process
    that was killed between the two, is read instead."""
    try:
        if hash_file(file).is_file():
            told = hash_file(file).read_text(encoding="ascii", errors="replace").splitlines()
            if not told or any(_differs(line, file) for line in told):
                return f"{_bytes(file)} bytes that are not what {hash_file(file).name} says"
            return None
    except OSError as problem:
        return f"cannot be read: {problem.strerror}"
    try:
        read(file)
    except Mistake as mistake:
        return f"{mistake.what}, and has no {hash_file(file).name}"
    return None


def read(file: Path) -> dict[str, Any]:
    """Raises:
    Mistake: not a whole checkpoint of ours.
    """
    try:
        content = _read_sharded(file) if file.is_dir() else torch.load(file, map_location="cpu", weights_only=True)
        int(content["drivesim"]["steps_done"])
    except Exception:  # torch has a dozen kinds for a file that is not whole
        mend = "remove it: --resume then takes the one before"
        raise Mistake("not a whole checkpoint", where=file, mend=mend) from None
    return content


def settle(newest: Path, kept: int) -> None:
    """Does what a process that was killed behind writing ``newest``, which has been verified, had still to do: its hash
    is there, hashes whose checkpoint is gone go, and of the older ones all but ``kept`` in all."""
    with disk.writing(newest):
        if not hash_file(newest).exists():
            names = [f"{newest.name}/{part.name}" for part in sorted(newest.iterdir())] if newest.is_dir() else []
            lines = [f"{disk.sha256(newest.parent / name)}  {name}\n" for name in names or [newest.name]]
            disk.write_atomic(hash_file(newest), "".join(lines).encode())
        for file in newest.parent.glob(f"{NAMES}.sha256"):
            if not file.with_suffix("").exists():
                file.unlink()
    rotate(newest, kept)


def _differs(line: str, file: Path) -> bool:
    """Whether a line of a hash file does not tell what lies on the disk: ``sha256  name``, or of a folder's part
    ``sha256  folder/name``."""
    told, _, name = line.partition("  ")
    part = file / Path(name).name if file.is_dir() else file
    return not part.is_file() or told != disk.sha256(part)


def _bytes(file: Path) -> int:
    return sum(part.stat().st_size for part in (file.iterdir() if file.is_dir() else [file]))


def _read_back(file: Path) -> str:
    """The hash of what is on the disk, not of what the system still has in memory, where it can be told to forget."""
    if hasattr(os, "posix_fadvise"):
        with open(file, "rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return disk.sha256(file)


def tensors(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor within mappings and lists, by its path."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for n, value in enumerate(content):
            yield from tensors(value, f"{name}[{n}]")
