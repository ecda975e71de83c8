"""Weight files that others publish: how to know them, where their owner has them, and whether their tensors fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from drivesim import disk
from drivesim.errors import Mistake


@dataclass(frozen=True)
class Published:
    """A public file: its size and SHA-256, and ``where`` its owner publishes it, with the licence if it is stated."""

    bytes: int
    sha256: str
    where: str


def wanted(known: Mapping[str, Published]) -> str:
    """One line: which file is wanted, and where its owner publishes it."""
    each = (f"{name}, {it.bytes:,} bytes, SHA-256 {it.sha256}, published at {it.where}" for name, it in known.items())
    return f"wanted: {' or '.join(each)}"


def verify(file: Path, known: Mapping[str, Published]) -> str:
    """The SHA-256 of ``file``, which is one of ``known`` by its content, whatever it is called.

    Raises:
        Mistake: no such file, or none of ``known``; says which file is wanted, and where its owner publishes it.
    """
    mend = wanted(known)
    if not file.is_file():
        raise Mistake("no such weight file", where=file, mend=mend)
    size = file.stat().st_size
    if size not in {it.bytes for it in known.values()}:  # gigabytes need no hashing to be told apart
        raise Mistake(f"not a known weight file, by its {size:,} bytes", where=file, mend=mend)
    sha = disk.sha256(file)
    if sha not in {it.sha256 for it in known.values()}:
        raise Mistake(f"not a known weight file, by its SHA-256 {sha}", where=file, mend=mend)
    return sha


def fit(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], where: object) -> None:
    """Whether ``tensors`` are those of a network.

    Raises:
        Mistake: some are missing, unknown or of another shape; they are named.
    """
    bent = {name for name in wanted.keys() & tensors.keys() if tuple(tensors[name].shape) != wanted[name]}
    wrong = {"missing": wanted.keys() - tensors.keys(), "unknown": tensors.keys() - wanted.keys(), "misshapen": bent}
    for kind, names in wrong.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise Mistake(f"tensors {kind}: {', '.join(sorted(names)[:3])}{more}", where=where)
