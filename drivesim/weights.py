"""Safetensors in and out, with the configuration and the provenance in the header. The only module that reads weights.

Nothing is unpickled. The metadata key ``drivesim`` holds one JSON (``Header``); names of tensors are diffusers'.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivesim.errors import Mistake

STAGES = ("autoencoder", "image", "keyframes", "interpolation", "decoder", "upsampler", "extractor")
FORMAT = 1


@dataclass(frozen=True)
class Header:
    """What a weight file says of itself.

    Args:
        stage: one of ``STAGES``.
        config: the values of the network's own configuration dataclass.
        parents: SHA-256 of the files that these weights were trained on, by stage.
        interface: hash of the shapes at the seam to the parents.
        latent: ``{f, channels, mean, std, regularizer}``.
        schedule: ``{kind, betas, target, ...}``.
        train: ``{steps, seed, data, version, date, hours}``.
    """

    stage: str
    config: dict[str, Any]
    parents: dict[str, str] = field(default_factory=dict)
    interface: str = ""
    size: tuple[int, int] = (0, 0)
    frames: int = 1
    fps: str = ""
    latent: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    alpha: str = "frame"
    norm: str = "frame"
    ema: float = 0.0
    train: dict[str, Any] = field(default_factory=dict)
    licence: str = "Apache-2.0"
    format: int = FORMAT


def save(file: str | Path, tensors: Mapping[str, Tensor], header: Header) -> str:
    """Writes atomically (temporary file in the same folder, fsync, replace); returns the SHA-256 of the file."""
    from safetensors.torch import save as serialise

    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = serialise(content, metadata={"drivesim": json.dumps(asdict(header), sort_keys=True)})
    write_atomic(file, data)
    return hashlib.sha256(data).hexdigest()


def write_atomic(file: str | Path, data: bytes) -> None:
    """``data`` becomes ``file`` whole or not at all, also when the machine dies in between."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def header(file: str | Path, stage: str | Iterable[str] | None = None) -> Header:
    """Reads and checks the header alone.

    Raises:
        Mistake: no such file, not safetensors, not ours, of another stage or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(file).is_file():
        raise Mistake(
            "no such weight file", where=file, mend="'drivesim train' writes it to RUN/weights/STAGE.safetensors"
        )
    try:
        with safe_open(str(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as problem:
        raise Mistake(f"not a whole safetensors file ({problem})", where=file) from None
    if "drivesim" not in metadata:
        raise Mistake("safetensors without a drivesim header", where=file, mend="weights of drivesim are expected here")
    try:
        values = json.loads(metadata["drivesim"])
        found = Header(**{**values, "size": tuple(values.get("size", (0, 0)))})
    except (TypeError, ValueError, AttributeError) as problem:
        raise Mistake(f"its drivesim header cannot be read ({problem})", where=file) from None
    if found.format != FORMAT:
        raise Mistake(f"its format is {found.format}, this version reads {FORMAT}", where=file)
    wanted = (stage,) if isinstance(stage, str) else tuple(stage or ())
    if wanted and found.stage not in wanted:
        raise Mistake(f"weights of stage '{found.stage}', not '{' or '.join(wanted)}'", where=file)
    return found


def load(file: str | Path, stage: str | Iterable[str] | None = None) -> tuple[dict[str, Tensor], Header]:
    """Tensors (as float32) and header; see ``header`` for what is refused."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found = header(file, stage)
    try:
        tensors = load_file(str(file))
    except (SafetensorError, OSError) as problem:
        raise Mistake(f"not a whole safetensors file ({problem})", where=file) from None
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}, found


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: object) -> None:
    """Loads ``tensors`` into ``module``; a missing, extra or misshapen one is an error that names it.

    Raises:
        Mistake: the tensors are not those of ``module``.
    """
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    bent = [n for n in wanted.keys() & tensors.keys() if wanted[n].shape != tensors[n].shape]
    for kind, names in (("missing", missing), ("unknown", extra), ("of another shape", sorted(bent))):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise Mistake(f"tensors {kind}: {', '.join(names[:3])}{more}", where=where)
    module.load_state_dict(dict(tensors), strict=True)


def sha256(file: str | Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def halve(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float tensors as bfloat16, for files that travel."""
    return {n: t.to(torch.bfloat16) if t.is_floating_point() else t for n, t in tensors.items()}
