"""Safetensors in and out, with the configuration and the provenance in the header. The only module that reads weights.

Nothing is unpickled. The metadata key ``drivesim`` holds one JSON (``Header``); names of tensors are diffusers'. Files
of others have no such header: ``public`` finds them in a folder of the diffusers layout, described by its
``config.json``.
"""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from drivesim import disk
from drivesim.errors import Mistake

STAGES = ("autoencoder", "image", "keyframes", "interpolation", "decoder", "upsampler", "extractor")
FORMAT = 1
KINDS = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""What safetensors calls them, in the order in which it writes them."""
PUBLIC = "diffusion_pytorch_model"
Shape = tuple[int, ...]
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


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
    """Writes whole or not at all (see ``replacing``), a tensor after the other; returns the SHA-256 of the file.

    Raises:
        Mistake: a tensor holds values that are not finite, or the file cannot be written; what was there stays.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    check_finite(content, file)
    with disk.replacing(file) as part, open(part, "wb") as out:
        sink = disk.Hashed(out)
        _write(sink, content, {"drivesim": json.dumps(asdict(header), sort_keys=True)})
    return sink.digest.hexdigest()


def _write(sink: disk.Hashed, tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> None:
    """A safetensors file, byte for byte the library's. That one either has all of it in memory, or opens a file of its
    own beside: then a full disk is no error of the system's, and ``kill -9`` leaves what nobody sweeps."""
    begin, rows = 0, dict[str, Any]({"__metadata__": dict(told)})
    order = sorted(tensors, key=lambda name: (list(KINDS).index(tensors[name].dtype), name))
    for name in order:
        tensor = tensors[name]
        end = begin + tensor.numel() * tensor.element_size()
        rows[name] = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    head = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    sink.write(len(head).to_bytes(8, "little") + head)
    for name in order:
        sink.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)


def check_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Raises:
    Mistake: one of ``tensors`` holds a value that is not finite, by name.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise Mistake(f"{name} holds values that are not finite: it is not written", where=where)


def save_public(file: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """As ``save``, without a header of ours: as other programs write them.

    Raises:
        Mistake: the file cannot be written; what was there stays.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with disk.replacing(file) as part, open(part, "wb") as out:
        _write(disk.Hashed(out), content, {"format": "pt"})


def header(file: str | Path, stage: str | Iterable[str] | None = None) -> Header:
    """Reads and checks the header alone.

    Raises:
        Mistake: no such file, not safetensors, not ours, of another stage or of a newer format.
    """
    if not Path(file).is_file():
        raise Mistake(
            "no such weight file", where=file, mend="'drivesim train' writes it to RUN/weights/STAGE.safetensors"
        )
    with _opened(file) as opened:
        metadata = opened.metadata() or {}
    if "drivesim" not in metadata:
        raise Mistake("safetensors without a drivesim header", where=file, mend="weights of drivesim are expected here")
    try:
        values = json.loads(metadata["drivesim"])
        found = Header(**{**values, "size": tuple(values.get("size", (0, 0)))})
        _check_types(found)
    except (TypeError, ValueError, AttributeError, RecursionError) as problem:
        raise Mistake(f"its drivesim header cannot be read ({problem})", where=file) from None
    if found.format != FORMAT:
        raise Mistake(f"its format is {found.format}, this version reads {FORMAT}", where=file)
    wanted = (stage,) if isinstance(stage, str) else tuple(stage or ())
    if wanted and found.stage not in wanted:
        raise Mistake(f"weights of stage '{found.stage}', not '{' or '.join(wanted)}'", where=file)
    return found


def _check_types(found: Header) -> None:
    """Raises:
    TypeError: a field holds another kind of value than ``Header`` says.
    """
    like = Header(stage="", config={})
    for each in fields(Header):
        value, kind = getattr(found, each.name), type(getattr(like, each.name))
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise TypeError(f"{each.name} is no {kind.__name__}")
    if len(found.size) != 2 or not all(type(side) is int for side in found.size):
        raise TypeError("size is no height and width")


def is_ours(file: str | Path) -> bool:
    """Whether safetensors carry a header of drivesim.

    Raises:
        Mistake: not whole safetensors.
    """
    with _opened(file) as opened:
        return "drivesim" in (opened.metadata() or {})


def load(file: str | Path, stage: str | Iterable[str] | None = None) -> tuple[dict[str, Tensor], Header]:
    """Tensors (as float32) and header; see ``header`` for what is refused."""
    found = header(file, stage)
    tensors = dict(read([Path(file)]))
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}, found


def load_frozen(file: Path, name: str, sha: str) -> tuple[dict[str, Tensor], Header]:
    """A network that comes with the package, whose hash stands in the code.

    Raises:
        Mistake: the file is not that.
    """
    if not file.is_file() or disk.sha256(file) != sha:
        what = f"this is not {name}: the file's hash differs from the one in the code"
        raise Mistake(what, where=file, mend="install drivesim again")
    return load(file, "extractor")


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: object) -> None:
    """Loads ``tensors`` into ``module``; a missing, extra or misshapen one is an error that names it.

    Raises:
        Mistake: the tensors are not those of ``module``.
    """
    wanted, found = ({n: tuple(t.shape) for n, t in held.items()} for held in (module.state_dict(), tensors))
    compare(wanted, found, where)
    module.load_state_dict(dict(tensors), strict=True)


def compare(wanted: Mapping[str, Shape], found: Mapping[str, Shape], where: object) -> None:
    """Raises:
    Mistake: a shape in ``found`` that is missing, unknown or not as in ``wanted``, by name.
    """
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    bent = [f"{n} {found[n]}, not {wanted[n]}" for n in wanted.keys() & found.keys() if wanted[n] != found[n]]
    for kind, names in (("missing", missing), ("unknown", extra), ("of another shape", sorted(bent))):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise Mistake(f"tensors {kind}: {', '.join(names[:3])}{more}", where=where)


def public(folder: str | Path, stem: str = PUBLIC) -> list[Path]:
    """The safetensors of a folder in the diffusers layout: one file or its shards, in full or half precision.

    Args:
        stem: of their names; transformers' is ``model``.

    Raises:
        Mistake: there are none, only pickles, or a shard that the index names is missing.
    """
    folder = Path(folder)
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            return [folder / name]
    for name in (f"{stem}.safetensors.index.json", f"{stem}.safetensors.index.fp16.json"):
        if (folder / name).is_file():
            return _shards(folder / name)
    pickles = sorted(file for file in folder.glob("*") if file.suffix in PICKLES)
    if pickles:
        refuse_pickle(pickles[0], folder / f"{stem}.safetensors")
    raise Mistake(f"holds no {stem}.safetensors", where=folder, mend="a folder in the diffusers layout is expected")


def refuse_pickle(file: Path, out: Path | None = None) -> NoReturn:
    """Raises:
    Mistake: always, with the command that converts ``file``.
    """
    paths = [shlex.quote(str(path)) for path in (file, out or file.with_suffix(".safetensors"))]
    mend = f"convert it once: drivesim weights convert {paths[0]} --out {paths[1]}"
    raise Mistake("a pickle, which can run code when it is opened; only safetensors are", where=file, mend=mend)


def _shards(index: Path) -> list[Path]:
    held = _json(index).get("weight_map")
    names = sorted(set(held.values())) if isinstance(held, dict) and held else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise Mistake("not an index of shards: weight_map names files beside it", where=index)
    for name in names:
        if not (index.parent / name).is_file():
            raise Mistake(f"the shard {name} is missing", where=index, mend="copy the folder again")
    return [index.parent / name for name in names]


def settings(folder: str | Path, name: str = "config.json") -> dict[str, Any]:
    """The ``config.json`` of a folder in the diffusers layout, or the file that is its like there.

    Raises:
        Mistake: it is not there, or not a mapping.
    """
    file = Path(folder) / name
    if not file.is_file():
        raise Mistake(f"no {name} beside the weights: what they are cannot be told", where=folder)
    return _json(file)


def _json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise Mistake(f"cannot be read as JSON ({problem})", where=file) from None
    if not isinstance(values, dict):
        raise Mistake("a JSON mapping is expected", where=file)
    return values


def shapes(files: Iterable[Path]) -> dict[str, Shape]:
    """The shape of every tensor in ``files``, from their headers alone.

    Raises:
        Mistake: a file that is not whole safetensors, or a name that stands in two files.
    """
    found: dict[str, Shape] = {}
    for file in files:
        with _opened(file) as opened:
            own = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
        if twice := sorted(found.keys() & own.keys()):
            raise Mistake(f"holds {twice[0]}, which another shard holds too", where=file)
        found |= own
    return found


def read(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in ``files`` as it is stored, one after the other."""
    for file in files:
        with _opened(file) as opened:
            for name in opened.keys():  # it is no mapping
                yield name, opened.get_tensor(name)


@contextmanager
def _opened(file: str | Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as problem:
        raise Mistake(f"not a whole safetensors file ({problem})", where=file) from None


def halve(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float tensors as bfloat16, for files that travel."""
    return {n: t.to(torch.bfloat16) if t.is_floating_point() else t for n, t in tensors.items()}
