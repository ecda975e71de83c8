"""``drivesim weights check | convert``: what a file or folder is and whether it fits; a pickle to safetensors, a
pipeline in the diffusers layout to a folder of weights.

Checking builds the model on the meta device and reads the headers of the files: any size, in seconds.
"""

from pathlib import Path
from typing import NoReturn

import torch
from torch import nn

from drivesim import disk, pickled, weights
from drivesim.errors import Mistake, nearest
from drivesim.jobs import pipelines, tiny
from drivesim.models import pretrained
from drivesim.models.autoencoder import Autoencoder, config_of
from drivesim.models.temporal import TemporalLayers
from drivesim.models.text import TOKENIZER, TextEncoder
from drivesim.models.unet import UNet
from drivesim.models.video import ImageModel, WholeModel, interface, temporal_config, unet_config

ACTIONS = ("check", "convert")
LAYERS = ("keyframes", "interpolation")  # stages whose files are temporal layers of the image model beside them


def run(action: str, path: Path, out: Path | None = None) -> list[str]:
    """Prints a line for each model and returns the lines.

    Raises:
        Mistake: what is there is not weights, or does not fit what it says it is.
    """
    if action not in ACTIONS:
        raise Mistake(f"no action '{action}'", where="weights", mend=nearest(action, ACTIONS))
    path = tiny.named(path)
    if not path.exists():
        raise Mistake("no such file or folder", where=path)
    if (out is not None) != (action == "convert"):
        raise Mistake("'convert' takes --out, 'check' does not", where="weights")
    if out is not None and path.is_dir():
        lines = pipelines.convert(path, out)
    else:
        lines = check(path) if out is None else [convert(path, out)]
    print("\n".join(lines))
    return lines


def check(path: Path) -> list[str]:
    """A line for every model in ``path``: a file, a folder of one public model, a pipeline of several, or our own."""
    if path.is_file():
        return [_file(path)]
    if (path / "config.json").is_file():
        return [_said(path, pretrained.check(path))]
    parts = sorted(file.parent for file in path.glob("*/config.json"))
    own = sorted(path.glob("*.safetensors"))
    if not parts and not own:
        _nothing(path)
    return [*map(_file, own), *map(_part, parts)]


def convert(file: Path, out: Path) -> str:
    """The tensors of a pickle as safetensors under the same names; nothing in it is run.

    Raises:
        Mistake: not a pickle, one that needs code, none with tensors, or ``out`` is there already.
    """
    if out.suffix != ".safetensors" or out.exists():
        what = "is there already" if out.exists() else "must end in .safetensors"
        raise Mistake(what, where=out, mend="choose another --out")
    if file.suffix == ".safetensors":
        raise Mistake("a pickle is expected (.bin, .ckpt, .pt, .pth)", where=file)
    tensors = pickled.read(file)
    inside = {n.removeprefix("state_dict."): t for n, t in tensors.items() if n.startswith("state_dict.")}
    tensors = inside or tensors
    if not tensors:
        raise Mistake("holds no tensors", where=file)
    weights.save_public(out, tensors)
    return f"{out}: {len(tensors)} tensors, sha256 {disk.sha256(out)}"


def _part(folder: Path) -> str:
    """One folder of a pipeline, which also holds what others read; or our own text encoder with its tokenizer."""
    if (folder / TOKENIZER[0]).is_file():
        words = TextEncoder.load(folder)
        return f"{folder}: text encoder, {words.length} tokens of {words.width}, every tensor fits"
    kind = pretrained.architecture(weights.settings(folder))
    if kind not in pretrained.ARCHITECTURES:
        return f"{folder}: {kind}, which drivesim does not read"
    return _said(folder, pretrained.check(folder))


def _file(file: Path) -> str:
    if file.suffix in weights.PICKLES:
        weights.refuse_pickle(file)
    weights.shapes([file])  # whole, whatever it is
    if not weights.is_ours(file) and (file.parent / "config.json").is_file():
        return _said(file, pretrained.check(file.parent, [file]))
    header = weights.header(file)
    count = sum(torch.Size(shape).numel() for shape in weights.shapes([file]).values())
    head = f"{file}: stage {header.stage}, {count:,} parameters"
    model = _own(file, header)
    if model is None:
        return f"{head}; its tensors are not compared: {_without(header)}"
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights.compare(wanted, weights.shapes([file]), file)
    return f"{head} in {len(wanted)} tensors, every one fits"


def _own(file: Path, header: weights.Header) -> nn.Module | None:
    """The model of one of our own files, on the meta device; None where this file alone does not say enough."""
    beside = file.with_name("image.safetensors")
    try:
        with torch.device("meta"):
            if header.stage == "autoencoder":
                return Autoencoder(config_of(header))
            if header.stage == "image":
                return ImageModel(unet_config(header.config))
            if header.stage in LAYERS and "model" in header.config:
                return WholeModel(unet_config(header.config["model"]), temporal_config(header.config["temporal"]))
            if header.stage not in LAYERS or not beside.is_file():
                return None
            spatial = unet_config(weights.header(beside, "image").config)
            if interface(spatial) != header.interface:
                raise Mistake(f"temporal layers of an image model of other shapes than {beside.name}", where=file)
            return TemporalLayers(temporal_config(header.config), UNet(spatial))
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, ArithmeticError, RuntimeError) as problem:
        raise Mistake(f"its configuration builds nothing ({problem})", where=file) from None


def _without(header: weights.Header) -> str:
    return "image.safetensors is not beside it" if header.stage in LAYERS else "they belong to another room"


def _said(where: Path, public: pretrained.Public) -> str:
    count = sum(parameter.numel() for parameter in public.model.parameters())
    return f"{where}: {public.architecture}, {count:,} parameters in {len(public.names)} tensors, every one fits"


def _nothing(folder: Path) -> NoReturn:
    pickles = sorted(file for file in folder.iterdir() if file.suffix in weights.PICKLES)
    if pickles:
        weights.refuse_pickle(pickles[0])
    mend = "a file, a folder with config.json, or a folder of such folders is expected"
    raise Mistake("holds no weights", where=folder, mend=mend)
