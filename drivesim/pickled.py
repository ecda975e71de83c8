"""Tensors out of other people's ``.pt``, ``.pth`` and ``.bin`` files, without running anything that is in them.

A pickle is read by torch's ``weights_only``, which knows tensors and containers. A TorchScript archive is a program; it
is also a zip whose ``data.pkl`` names the tensors. That part alone is read, every class of the program standing for an
empty box of attributes, and its code is not looked at.
"""

import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drivesim.errors import Mistake


def read(file: str | Path) -> dict[str, Tensor]:
    """Every tensor in ``file`` by its dotted name.

    Raises:
        Mistake: no such file, cut off, or one that needs code to be run.
    """
    file = Path(file)
    if not file.is_file():
        raise Mistake("no such weight file", where=file)
    try:
        _refuse_bomb(file)
        if _is_archive(file):
            content = _archive(file)
        else:  # mapped where it can be, so that gigabytes are not held twice
            content = _load(file, mapped=zipfile.is_zipfile(file))
    except Mistake:
        raise
    except Exception as problem:  # pickle, zip and torch raise many kinds; each is a file that cannot be read
        what = " ".join(str(problem).split())[:120]
        unsafe = "Unsupported" in what or "weights_only" in what or "Weights only" in what
        words = "holds more than tensors, and is not run" if unsafe else f"is damaged or not a weight file ({what})"
        raise Mistake(words, where=file, mend="copy it again, or ask its owner for safetensors") from None
    return dict(_named(content, ""))


def _refuse_bomb(file: Path) -> None:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as opened:
            if sum(entry.file_size for entry in opened.infolist()) > 2 * file.stat().st_size:
                raise Mistake("unpacks to more than twice its size, which weights never do", where=file)


def _is_archive(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as opened:
        return any(name.endswith("/constants.pkl") for name in opened.namelist())


def _archive(file: Path) -> Any:
    """The tree of modules of a TorchScript archive; what makes it a program is left out of a copy in memory."""
    copy = BytesIO()
    with zipfile.ZipFile(file) as opened, zipfile.ZipFile(copy, "w") as kept:
        records = [entry for entry in opened.infolist() if _is_data(entry.filename)]
        for entry in records:
            kept.writestr(entry.filename, opened.read(entry))
        pickle = next(opened.read(entry) for entry in records if entry.filename.endswith("/data.pkl"))
    copy.seek(0)
    boxes: list[Any] = [(type("Box", (), {}), name) for name in _classes(pickle)]
    with torch.serialization.safe_globals(boxes):
        return _load(copy)


def _load(file: Path | BytesIO, mapped: bool | None = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on versions of the format: what cannot be read is an error anyway
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)


def _is_data(name: str) -> bool:
    inside = name.partition("/")[2]
    return inside in ("data.pkl", "version", "byteorder") or inside.startswith("data/")


def _classes(pickle: bytes) -> set[str]:
    """The program's own classes that a pickle names, found by reading its opcodes; all others stay forbidden."""
    named = (str(argument) for opcode, argument, _ in pickletools.genops(pickle) if opcode.name == "GLOBAL")
    return {".".join(words.split(" ")) for words in named if words.startswith("__torch__.")}


def _named(content: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield prefix, content.detach()
    elif isinstance(content, dict) or type(content).__name__ == "Box":
        for name, value in (content if isinstance(content, dict) else vars(content)).items():
            yield from _named(value, f"{prefix}.{name}" if prefix else str(name))
