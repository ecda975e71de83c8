"""``detector-v1``: a small frozen network that finds traffic in frames of the rendered world, or of models of it.

It was trained by ``tools/make_detector.py`` on true frames of the world alone, softened as generated ones are, never on
generated video. The file is frozen: its hash stands here, and a better network is detector-v2. One stage, no anchors
[FCOS, Tian 2019; CenterNet, Zhou 2019]: every cell of 4x4 pixels says how likely the middle of a box of each class is
here, and where that box is. The likelihood is learned as the overlap that the told box has with the true one
[Generalized Focal Loss, Li 2020], so that of several boxes of one thing the best placed is kept.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivesim import config, weights
from drivesim.metrics.builtin import with_coordinates
from drivesim.metrics.detection import Found, distinct
from drivesim.scene import to_model

NAME = "detector-v1"
FILE = Path(__file__).with_name("detector-v1.safetensors")
SHA256 = "ff07b5a81a532ebbb48e9c3d05e48f80a552660d4ef7fa306df9d3760ec8fb5c"
SIZE = (128, 256)
CELL = 4  # pixels of a cell's side
CLASSES = ("car", "truck", "bus", "pedestrian")  # what the world knows
CHUNK = 8  # frames that the network sees at once, always: convolutions of other shapes have other last bits
LEAST = 0.05  # score below which nothing is told
THRESHOLD = 0.5  # score from which a box counts as found, where one score must do
SAME = 0.6  # overlap from which two boxes of a class are one thing
LOOKED_AT = 400  # cells of a frame, the most certain ones


@dataclass(frozen=True)
class DetectorConfig:
    """Shape of the network.

    Args:
        channels: at cells of 4, 8 and 16 pixels.
        blocks: residual blocks at each.
    """

    channels: tuple[int, int, int] = (40, 64, 96)
    blocks: tuple[int, int, int] = (1, 1, 1)


class Block(nn.Module):
    """Two convolutions beside a skip."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class Point(nn.Conv2d):
    """A 1x1 convolution as a product of matrices: run as a convolution, its last bits depend on the threads."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 1), self.weight[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)


class Network(nn.Module):
    """Down to cells of 16 pixels and back up to 4, with skips; every cell tells classes and a box.

    Pixels are folded into channels first, so that no convolution runs at full size.
    """

    def __init__(self, config: DetectorConfig):
        super().__init__()
        fine, middle, coarse = config.channels
        self.stem = nn.Conv2d(3 * CELL**2 + 2, fine, 3, padding=1)
        self.fine = nn.Sequential(*(Block(fine) for _ in range(config.blocks[0])))
        self.down = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.middle = nn.Sequential(*(Block(middle) for _ in range(config.blocks[1])))
        self.deeper = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(*(Block(coarse) for _ in range(config.blocks[2])))
        self.up = Point(coarse, middle, 1)
        self.join = nn.Conv2d(middle, middle, 3, padding=1)
        self.higher = Point(middle, fine, 1)
        self.head = Block(fine)
        self.tell = Point(fine, len(CLASSES) + 4, 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """float ``B 3 H W`` in [-1, 1] to logits of classes ``B K h w`` and ``B 4 h w``, which ``boxes_of`` reads."""
        folded = rearrange(frames, "b c (h p) (w q) -> b (c p q) h w", p=CELL, q=CELL)
        fine = self.fine(F.relu(self.stem(with_coordinates(folded))))
        middle = self.middle(F.relu(self.down(fine)))
        coarse = self.coarse(F.relu(self.deeper(middle)))
        middle = F.relu(self.join(middle + F.interpolate(self.up(coarse), scale_factor=2.0)))
        told = self.tell(self.head(fine + F.interpolate(self.higher(middle), scale_factor=2.0))).float()
        return told[:, :-4], told[:, -4:]


def boxes_of(told: Tensor) -> Tensor:
    """``B 4 h w`` to ``B h w 4``, ``x0 y0 x1 y1`` in cells.

    A cell tells how far from its own the middle of the box is and the logarithms of width and height, not distances to
    four sides: boxes narrower than a cell need not hold a cell's middle.
    """
    _, _, h, w = told.shape
    row = torch.arange(h, device=told.device, dtype=told.dtype)[:, None] + 0.5
    column = torch.arange(w, device=told.device, dtype=told.dtype) + 0.5
    x, y = column + told[:, 0], row + told[:, 1]
    half = told[:, 2:].clamp(-4, 5).exp() / 2
    return torch.stack([x - half[:, 0], y - half[:, 1], x + half[:, 0], y + half[:, 1]], -1)


class Small:
    """A network as a ``detection.Detector``: frames of any size, seen at 128x256; ``load()`` is ``detector-v1``."""

    name, sha, classes, threshold = NAME, SHA256, frozenset(CLASSES), THRESHOLD

    def __init__(self, network: Network, device: str | torch.device = "cpu"):
        self.network, self.device = network.to(device).eval().requires_grad_(False), device

    def __call__(self, frames: np.ndarray) -> list[Found]:
        """uint8 ``T H W 3`` of any size to what it sees in each; a frame's answer does not depend on the others."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(f"frames are uint8 T H W 3, not {frames.dtype} {frames.shape}")
        found: list[Found] = []
        for first in range(0, len(frames), CHUNK):
            part = np.zeros((CHUNK, *SIZE, 3), np.uint8)
            count = len(frames[first : first + CHUNK])
            for n in range(count):
                part[n] = resized(frames[first + n])
            found += self._chunk(part)[:count]
        return found

    @torch.inference_mode()
    def _chunk(self, frames: np.ndarray) -> list[Found]:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):  # TF32 has three digits
            logits, told = self.network(to_model(frames).to(self.device).contiguous(memory_format=torch.channels_last))
        score, kind = logits.sigmoid().flatten(2).max(1)
        box = boxes_of(told).flatten(1, 2)
        return [suppressed(*(each.cpu().numpy() for each in parts)) for parts in zip(box, kind, score, strict=True)]


def resized(frame: np.ndarray) -> np.ndarray:
    """``H W 3`` at 128x256, whatever its aspect, since boxes are fractions: smaller by areas, larger linearly."""
    height, width = frame.shape[:2]
    smaller = height >= SIZE[0] and width >= SIZE[1]
    return cv2.resize(frame, SIZE[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def suppressed(box: np.ndarray, kind: np.ndarray, score: np.ndarray) -> Found:
    """Of all cells' boxes ``n 4`` (in cells), places in ``CLASSES`` and scores ``n``: each thing once, best first."""
    likely = np.flatnonzero(score >= LEAST)
    likely = likely[np.argsort(-score[likely], kind="stable")][:LOOKED_AT]
    height, width = SIZE[0] / CELL, SIZE[1] / CELL
    box = (box[likely] / (width, height, width, height)).clip(0, 1).astype(np.float64)
    kind, score = kind[likely], score[likely].astype(np.float64)
    best = distinct(box, kind, score, LEAST, SAME)
    return Found(box[best], tuple(CLASSES[n] for n in kind[best]), score[best])


def load(device: str | torch.device = "cpu", file: Path = FILE) -> Small:
    """``detector-v1``.

    Raises:
        Mistake: the file is not the one whose hash stands in this module.
    """
    tensors, header = weights.load_frozen(file, NAME, SHA256)
    network = Network(config.build(DetectorConfig, header.config, file))
    weights.fill(network, tensors, file)
    return Small(network, device)
