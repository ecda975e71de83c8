"""CLIPSIM: how well video goes with its words, as CLIP sees both [Wu et al., GODIVA, arXiv 2104.14806].

Of every frame the cosine between its embedding and that of the video's words; the mean over a video's frames, and then
over videos, each counting once. The cosine is plain, as GODIVA and Video LDM print it: neither clipped at 0 nor
multiplied by 100.

The networks are transformers' (the extra ``[text]``, imported in functions alone); weights come from a folder on disk
in their layout. Frames are brought to CLIP's size as its image processor does: the short side by a bicubic with
antialiasing, in bytes, then the middle.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

import drivesim
from drivesim import disk, weights
from drivesim.data import video
from drivesim.data.gather import Source
from drivesim.errors import Mistake
from drivesim.metrics import store
from drivesim.metrics.receipt import LeftOut, Receipt, Score
from drivesim.models.text import STEM, TOKENIZER, tokenizer_of

METRIC = "clipsim"
FORMAT = 1  # of what is kept; a change of it makes everything anew
PROCESSOR = "preprocessor_config.json"
BICUBIC = 3  # as Pillow counts resamplings
BATCH = 16  # frames at a time, always as many


@dataclass(frozen=True)
class Preparation:
    """How frames become what CLIP takes, from ``preprocessor_config.json``.

    Args:
        short: pixels of the short side after resizing. ``crop``: height and width of the middle.
        mean, std: of each colour, in 0..1.
    """

    short: int
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, folder: Path) -> "Preparation":
        """Raises:
        Mistake: no such file, or one of another make.
        """
        values, where = weights.settings(folder, PROCESSOR), folder / PROCESSOR
        size, crop = values.get("size", 224), values.get("crop_size", 224)
        short = size.get("shortest_edge") if isinstance(size, dict) else size
        sides = (crop.get("height"), crop.get("width")) if isinstance(crop, dict) else (crop, crop)
        mean, std = (tuple(values.get(f"image_{name}") or ()) for name in ("mean", "std"))
        steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
        usual = values.get("resample", BICUBIC) == BICUBIC and all(values.get(step, True) for step in steps)
        lengths = [side for side in (short, *sides) if isinstance(side, int) and side > 0]
        if not usual or len(lengths) < 3 or lengths[0] < max(lengths) or (len(mean), len(std)) != (3, 3):
            mend = "CLIP's resizes the short side by a bicubic, takes the middle, and has mean and std of three colours"
            raise Mistake("is no image processor of CLIP", where=where, mend=mend)
        return cls(lengths[0], (lengths[1], lengths[2]), mean, std)

    def cut(self, frames: np.ndarray) -> Tensor:
        """uint8 ``T H W 3`` to uint8 ``T 3 h w``: resized, and the middle of it."""
        height, width = frames.shape[1:3]
        short, long = min(height, width), max(height, width)
        other = int(self.short * long / short)
        to = (self.short, other) if height <= width else (other, self.short)
        x = rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "t h w c -> t c h w")
        x = F.interpolate(x, to, mode="bicubic", antialias=True)
        top, left = (to[0] - self.crop[0]) // 2, (to[1] - self.crop[1]) // 2
        return x[..., top : top + self.crop[0], left : left + self.crop[1]]

    def levels(self, cut: Tensor) -> Tensor:
        """The same as the network takes it."""
        mean, std = (torch.tensor(values, device=cut.device)[:, None, None] for values in (self.mean, self.std))
        return (cut.float() / 255 - mean) / std


class Clip:
    """CLIP from a folder in transformers' layout: ``config.json``, ``model.safetensors``, the tokenizer's
    ``vocab.json`` and ``merges.txt``, ``preprocessor_config.json``.

    Attributes:
        sha: over all of these that decide what it computes. ``name`` has its first eight digits.
        length: tokens of its words; longer ones are cut off.

    Raises:
        Mistake: transformers is not installed, a file is missing, or is not CLIP's.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu"):
        folder, self.device = Path(folder), torch.device(device)
        if not folder.is_dir():
            mend = "a folder with config.json, model.safetensors, the tokenizer and preprocessor_config.json"
            raise Mistake("no such folder of CLIP weights", where=folder, mend=mend)
        self.preparation = Preparation.of(folder)
        self.tokenizer = tokenizer_of(folder)
        self.network = _network(folder).to(self.device)
        config: Any = self.network.config
        side = config.vision_config.image_size
        if self.preparation.crop != (side, side):
            cut = "x".join(map(str, self.preparation.crop))
            raise Mistake(f"cuts frames to {cut}, the network looks at {side}x{side}", where=folder / PROCESSOR)
        self.length, self.size = int(config.text_config.max_position_embeddings), self.preparation.crop
        files = [*weights.public(folder, STEM), *(folder / n for n in (*TOKENIZER, "config.json", PROCESSOR))]
        parts = "\n".join(disk.sha256(file) for file in files)
        self.sha = hashlib.sha256(parts.encode()).hexdigest()
        self.name = f"clip-{self.sha[:8]}"

    @torch.inference_mode()
    def images(self, cut: Tensor) -> Tensor:
        """uint8 ``T 3 h w`` as ``Preparation.cut`` gives them to unit vectors ``T d``, on the CPU."""
        found = []
        for part in cut.split(BATCH):
            filled = torch.cat([part, part[-1:].expand(BATCH - len(part), -1, -1, -1)])
            seen = self.network.vision_model(pixel_values=self.preparation.levels(filled.to(self.device)))
            found.append(self.network.visual_projection(seen.pooler_output)[: len(part)])
        return F.normalize(torch.cat(found).float(), dim=-1).cpu()

    @torch.inference_mode()
    def texts(self, words: Sequence[str]) -> Tensor:
        """Unit vectors ``N d``, on the CPU; every text by itself."""
        found = []
        for text in words:
            ids = self.tokenizer([text], truncation=True, max_length=self.length, return_tensors="pt").to(self.device)
            read = self.network.text_model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"])
            found.append(self.network.text_projection(read.pooler_output))
        return F.normalize(torch.cat(found).float(), dim=-1).cpu()

    def is_long(self, text: str) -> bool:
        """Whether its end is cut off."""
        return len(self.tokenizer(text)["input_ids"]) > self.length


def _network(folder: Path) -> Any:
    from transformers import CLIPConfig, CLIPModel

    values = weights.settings(folder)
    found = (values.get("architectures") or ["unnamed"])[0]
    if found != "CLIPModel":
        mend = "the whole of CLIP is wanted, with both its encoders"
        raise Mistake(f"'{found}' is not read", where=folder / "config.json", mend=mend)
    try:
        model = CLIPModel(CLIPConfig.from_dict(values))
    except Exception as problem:  # transformers has errors of its own kinds
        what = " ".join(str(problem).split())[:120]
        raise Mistake(f"builds no CLIP ({what})", where=folder / "config.json") from None
    tensors = {name: tensor.float() for name, tensor in weights.read(weights.public(folder, STEM))}
    weights.fill(model, {n: t for n, t in tensors.items() if not n.endswith("position_ids")}, folder)
    return model.eval().requires_grad_(False)


# --- videos -----------------------------------------------------------------------------------------------------------


class Kept:
    """The embeddings of videos' frames, by content: a file a video; other weights or another rate have a folder of
    their own."""

    def __init__(self, folder: Path, clip: Clip, rate: Fraction | None):
        text = json.dumps([METRIC, FORMAT, clip.sha, str(rate), clip.device.type])
        self.folder = folder / f"{METRIC}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def holds(self, clip_id: str) -> bool:
        return self._file(clip_id).is_file()

    def _file(self, clip_id: str) -> Path:
        return self.folder / clip_id[:2] / f"{clip_id}.safetensors"

    def mean(self, source: Source, clip_id: str, clip: Clip, rate: Fraction | None) -> Tensor:
        """``d`` float64, the mean over frames: its product with a text's vector is the mean of their cosines.

        Raises:
            Mistake: the video cannot be read, or has no frame.
        """
        file = self._file(clip_id)
        try:
            found = store.read(file)[0]["frames"]
        except (Mistake, KeyError):  # none, or one that a crash cut off
            found = embedded(source, clip, rate)
            store.write(file, {"frames": found}, {"clip": clip.name})
        return found.double().mean(0)


def embedded(source: Source, clip: Clip, rate: Fraction | None) -> Tensor:
    """Unit vectors ``T d`` of a video's frames.

    Args:
        rate: frames a second that are taken; None: all.

    Raises:
        Mistake: it cannot be read, or has no frame.
    """
    info = video.probe(source.file, rate=source.rate)
    half = Fraction(0) if rate else 1 / info.fps / 2  # the middle of a frame's time: stamps that shiver give it once
    stream = video.stream(source.file, fps=rate or info.fps, chunk=BATCH, start=half, rate=source.rate)
    found = [clip.images(clip.preparation.cut(part.frames)) for part in stream]
    if not found:
        raise Mistake("holds no frame", where=source.file)
    return torch.cat(found)


@dataclass(frozen=True, eq=False)
class Side:
    """Videos with their words.

    Args:
        words: of each video.
        frames: ``N d``, the mean over each video's frames.
        hash: of the list of videos.
    """

    words: list[str]
    frames: Tensor
    hash: str


@dataclass(frozen=True)
class Agreement:
    """The mean cosine, its standard error over videos (None for one), and what words of the other videos score (None
    where all have the same words)."""

    value: float
    se: float | None
    shuffled: float | None


def agreement(frames: Tensor, words: Sequence[str], clip: Clip) -> Agreement:
    """Of videos' mean frames ``N d`` and their words.

    Each video is also held against the words of every other, each once: what chance scores.
    """
    known = sorted(set(words))
    cosines = frames.double() @ clip.texts(known).double().T
    place = torch.tensor([known.index(text) for text in words])
    own = cosines.gather(1, place[:, None])[:, 0]
    others = (cosines.sum(1) - own) / (len(known) - 1) if len(known) > 1 else None
    se = float(own.std() / len(own) ** 0.5) if len(own) > 1 else None
    return Agreement(float(own.mean()), se, None if others is None else float(others.mean()))


def scores(
    clip: Clip, made: Side, real: Side | None, rate: Fraction | None, left_out: list[LeftOut], notes: list[LeftOut]
) -> list[Score]:
    """``clipsim`` of generated videos and, where real ones have words, ``clipsim[real]``.

    Args:
        rate: frames a second that were taken; None: all.
    """
    sides = [(METRIC, made), *([(f"{METRIC}[real]", real)] if real else [])]
    found = [(name, agreement(side.frames, side.words, clip)) for name, side in sides]
    true = found[1][1].value if real else None
    receipt = Receipt(
        protocol=METRIC,
        extractor={"name": clip.name, "sha": clip.sha},
        frames=1,
        fps=str(rate) if rate else "all frames",
        every=1,
        stride=1,
        size=clip.size,
        resize=f"short side to {clip.preparation.short}, antialiased bicubic in bytes; centre crop",
        range="uint8, then CLIP's mean and deviation",
        epsilon=0.0,
        cov="",
        dtype="float32 features, float64 sums",
        clips_real=real.hash if real else "",
        clips_generated=made.hash,
        version=drivesim.__version__,
        rules="mean of cosines over frames, then over videos; not clipped",
    )
    rows = []
    for name, own in found:
        references = {"shuffled": own.shuffled, "true": true if name == METRIC else None}
        rows.append(
            Score(
                metric=name,
                value=own.value,
                n_real=len(real.words) if real else 0,
                n_generated=len(made.words),
                floor=None,
                controls={word: value for word, value in references.items() if value is not None},
                receipt=receipt,
                left_out=left_out,
                notes=notes,
                estimate=None if own.se is None else own.value,
                se=own.se,
            )
        )
    return rows
