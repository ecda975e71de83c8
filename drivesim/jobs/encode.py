"""``drivesim encode``: the clips of an index through the autoencoder, once, for all trainings that follow."""

from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from drivesim import weights
from drivesim.data import video
from drivesim.data.index import Entry, Index, whole_folder
from drivesim.data.latents import About, LatentCache, LatentWriter
from drivesim.errors import Mistake
from drivesim.models.autoencoder import Autoencoder
from drivesim.scene import KEYFRAME_FPS, to_model


@torch.inference_mode()
def run(
    index: Path,
    weights_folder: Path,
    out: Path,
    fps: Fraction = KEYFRAME_FPS,
    size: tuple[int, int] = (128, 256),
    device: str = "cpu",
    *,
    phases: int = 1,
    precision: str = "32",
    batch: int = 16,
) -> Path:
    """Encodes every clip of ``index`` into the cache ``out``.

    Args:
        weights_folder: holds ``autoencoder.safetensors``, or is that file.
        fps: of the sequences; clips with fewer frames a second are left out.
        phases: sequences taken from each clip, ``1 / (phases * fps)`` apart, so that 30 fps gives several at 15/8.
        size: ``(H, W)``, a multiple of the autoencoder's f.
        precision: ``32`` or ``bf16``. batch: frames at a time.

    Raises:
        Mistake: no index, no autoencoder, a size that does not divide, no clip with a frame.
    """
    opened, file = Index.open(index), Path(weights_folder)
    file = file / "autoencoder.safetensors" if file.is_dir() else file
    model = Autoencoder.load(file).to(device)
    if size[0] % model.config.f or size[1] % model.config.f:
        raise Mistake(f"{size[0]}x{size[1]} does not divide by the autoencoder's {model.config.f}", where="--size")
    shape = (2 * model.config.latent, size[0] // model.config.f, size[1] // model.config.f)
    about = About(opened.digest, weights.sha256(file), size, str(fps), phases, precision, shape)
    with whole_folder(Path(out)) as part, LatentWriter(part, about) as writer:
        fast = [entry for entry in opened.entries if entry.fps >= fps * video.FULL_RATE]
        if not fast:
            raise Mistake(f"no clip has {fps} frames a second or more", where=index, mend="ask for a lower --fps")
        for entry in track(fast, "encoding", transient=True):
            entry.check()
            for start in _starts(entry, fps, phases):
                clips = video.stream(entry.file, fps=fps, size=size, chunk=batch, start=start, rate=entry.rate)
                moments = [_encode(model, clip.frames, device, precision) for clip in clips]
                if moments:
                    writer.add(entry, np.concatenate(moments), fps, start)
    cache = LatentCache.open(out)
    frames = sum(sequence.frames for sequence in cache.sequences)
    say = Console(highlight=False).print
    say(f"{out}: {frames} frames in {len(cache.sequences)} sequences, moments {shape}")
    if len(fast) < len(opened.entries):
        say(f"{len(opened.entries) - len(fast)} clips left out: fewer than {fps} frames a second")
    return Path(out)


def _starts(entry: Entry, fps: Fraction, phases: int) -> Iterator[Fraction]:
    """Phases that a clip's own rate can tell apart, those that fall inside it."""
    for n in range(min(phases, max(1, int(entry.fps / fps)))):
        if (start := n / (phases * fps)) < entry.seconds:
            yield start


def _encode(model: Autoencoder, frames: np.ndarray, device: str, precision: str) -> np.ndarray:
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16) if precision == "bf16" else nullcontext():
        moments: Tensor = model.encode(to_model(frames).to(device))
    return moments.float().cpu().numpy()
