"""Features and statistics on disk: safetensors with one JSON in the header. Nothing is ever pickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from drivesim.disk import write_atomic
from drivesim.errors import Mistake

KEY = "drivesim.features"


def write(file: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Tensors and what they are about, whole or not at all."""
    from safetensors.torch import save

    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(file, save(content, metadata={KEY: json.dumps(about, sort_keys=True)}))


def read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``write`` wrote.

    Raises:
        Mistake: no such file, cut off, or not written by ``write``.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise Mistake("no such file of features", where=file)
    try:
        with safe_open(str(file), framework="pt") as opened:
            about = json.loads((opened.metadata() or {})[KEY])
            return {name: opened.get_tensor(name) for name in opened.keys()}, about
    except (SafetensorError, OSError, KeyError, ValueError) as problem:
        raise Mistake(f"not a whole file of features ({problem})", where=file, mend="remove it") from None
