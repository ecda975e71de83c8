"""Generated video against the very video that it should have become, frame by frame: PSNR, SSIM and LPIPS.

Meant for reconstructions, interpolations and predictions, where a file of one side has its truth, by name, on the
other. The sums are torchmetrics'; LPIPS is used where torchvision and the published AlexNet lie on this machine, and
otherwise ``builtin-v1``'s features stand in under their own name. Nothing is downloaded.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivesim.data import video
from drivesim.data.gather import Source
from drivesim.errors import Mistake
from drivesim.metrics import builtin
from drivesim.metrics.receipt import Receipt, Score
from drivesim.scene import to_model

CHUNK = 16
ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's file of LPIPS' backbone, in torch.hub's folder of checkpoints
PERFECT = 100.0  # decibels that frames without any difference count as, so that a mean is finite

Perceptual = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Paired:
    """What every frame of one pair scored: seconds ``n``, and ``n`` values by metric."""

    file: Path
    times: np.ndarray
    values: dict[str, np.ndarray]


def perceptual(device: torch.device) -> tuple[str, Perceptual]:
    """The perceptual distance that is at hand, ``b 3 H W`` in [-1, 1] twice to ``b``, and its name."""
    checkpoint = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    if importlib.util.find_spec("torchvision") is not None and checkpoint.is_file():
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        lpips = LearnedPerceptualImagePatchSimilarity("alex").to(device).eval()
        return "lpips", lambda x, y: torch.stack([lpips(a[None], b[None]) for a, b in zip(x, y, strict=True)])
    return f"perceptual[{builtin.NAME}]", lambda x, y: torch.stack(
        [builtin.perceptual(a[None], b[None]) for a, b in zip(x, y, strict=True)]
    )


@torch.inference_mode()
def compare(real: Source, generated: Source, fps: Fraction | None, device: torch.device, look: Perceptual) -> Paired:
    """Every frame of ``generated`` against the frame of ``real`` that is shown at the same time.

    The true video is cropped and resized to the generated one's size; ``fps`` None is the generated one's own rate.

    Raises:
        Mistake: one of them cannot be read, or the truth ends before the generated video.
    """
    # here, since torchmetrics takes a second to import
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    info = video.probe(generated.file, rate=generated.rate)
    rate = fps or info.fps
    times: list[float] = []
    values: dict[str, list[Tensor]] = {"psnr": [], "ssim": [], "perceptual": []}
    for x, y in _chunks(real, generated, rate, (info.height, info.width)):
        times += [float((len(times) + n) / rate) for n in range(len(x))]
        a, b = to_model(x).to(device), to_model(y).to(device)
        square = (torch.from_numpy(x).float() - torch.from_numpy(y).float()).square().flatten(1).mean(1)
        psnr = peak_signal_noise_ratio(b, a, data_range=(-1.0, 1.0), reduction="none", dim=(1, 2, 3))
        values["psnr"].append(torch.where(square > 0, psnr.cpu(), PERFECT))
        ssim = structural_similarity_index_measure(b, a, data_range=2.0, reduction="none")
        assert isinstance(ssim, Tensor)
        values["ssim"].append(ssim.cpu())
        values["perceptual"].append(look(b, a).cpu())
    found = {name: torch.cat(parts).double().numpy() for name, parts in values.items()}
    return Paired(generated.file, np.array(times), found)


def _chunks(
    real: Source, generated: Source, fps: Fraction, size: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    truth = video.stream(real.file, fps=fps, size=size, chunk=CHUNK, rate=real.rate)
    for made in video.stream(generated.file, fps=fps, chunk=CHUNK, rate=generated.rate):
        true = next(truth, None)
        if true is None or len(true.frames) < len(made.frames):
            raise Mistake("is longer than the video that it is held against", where=generated.file)
        yield true.frames[: len(made.frames)], made.frames


def scores(pairs: list[Paired], perceptual: str, receipt: Receipt, width: Fraction) -> list[Score]:
    """PSNR, SSIM and a perceptual distance: means over videos of their frames' means, with the error of that mean.

    Args:
        perceptual: name of the distance that was at hand.
        receipt: of the distances beside them. ``width``: seconds of a stretch of the curve.
    """
    own = replace(
        receipt,
        protocol="pairs",
        extractor={"name": "pixels", "sha": ""},
        frames=1,
        every=1,
        stride=1,
        size=(0, 0),
        resize="truth to the generated size: centre crop, area when smaller, bilinear when larger",
        epsilon=0.0,
        cov="",
        dtype="float32",
    )
    found = []
    for name in pairs[0].values:
        means = np.array([pair.values[name].mean() for pair in pairs])
        curve = _over_time([(pair.times, pair.values[name]) for pair in pairs], float(width))
        found.append(
            Score(
                metric=perceptual if name == "perceptual" else name,
                value=float(means.mean()),
                n_real=len(pairs),
                n_generated=len(pairs),
                floor=None,
                controls={},
                receipt=own,
                se=float(means.std(ddof=1) / len(means) ** 0.5) if len(means) > 1 else None,
                estimate=float(means.mean()) if len(means) > 1 else None,
                curve=curve if len(curve) > 1 else None,
            )
        )
    return found


def _over_time(rows: list[tuple[np.ndarray, np.ndarray]], width: float) -> list[dict[str, Any]]:
    """The mean over videos in each stretch of time, with 1.96 standard errors where there are several videos."""
    places: dict[int, list[float]] = {}
    for times, values in rows:
        for n in np.unique((times // width).astype(int)):
            places.setdefault(int(n), []).append(float(values[(times // width).astype(int) == n].mean()))
    windows = []
    for n, means in sorted(places.items()):
        reach = 1.96 * float(np.std(means, ddof=1)) / len(means) ** 0.5 if len(means) > 1 else None
        value = float(np.mean(means))
        low, high = (None, None) if reach is None else (value - reach, value + reach)
        windows.append(
            {"t0": n * width, "t1": (n + 1) * width, "clips": len(means), "value": value, "lo": low, "hi": high}
        )
    return windows
