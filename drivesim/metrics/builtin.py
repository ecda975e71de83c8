"""``builtin-v1``: a small frozen network that stands in where the Kinetics or LPIPS weights are not at hand.

It was trained by ``tools/make_builtin.py`` on what the procedural world knows of its clips (displacement, curvature,
yaw, agents, night) and on how far true clips had been distorted (blur, noise, shuffled and frozen frames, warp),
never on generated video. The file is frozen: its hash stands here, and a better network is builtin-v2. Scores in its
features are named ``fvd[builtin-v1]``, never ``fvd``.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivesim import config, weights
from drivesim.data.video import fit
from drivesim.metrics.features import check_prepared
from drivesim.scene import to_model

NAME = "builtin-v1"
FILE = Path(__file__).with_name("builtin-v1.safetensors")
SHA256 = "70130f4af9502415b29e06419564739fed8ecd389e80143b0d8be3a1e1b62eea"
SIZE = (64, 128)
FRAMES = 16
MIN_FRAMES = 8
PERCEPTUAL_STAGES = 3


@dataclass(frozen=True)
class BuiltinConfig:
    """Shape of the network.

    Args:
        channels: of each stage; every stage halves height and width.
        strides: over time, of each stage; 0 = it has no temporal convolution.
        features: length of the vector.
    """

    channels: tuple[int, ...] = (16, 48, 96, 192)
    strides: tuple[int, ...] = (0, 1, 2, 2)
    features: int = 64


class Stage(nn.Module):
    """A spatial convolution (1,3,3), strided in space, and a temporal one (3,1,1) beside a skip, strided in time.

    Both run as 2-D convolutions: a 3-D one gives other last bits for other batch sizes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.spatial = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        if stride:
            self.temporal = nn.Conv2d(outputs, outputs, (3, 1), stride=(stride, 1), padding=(1, 0))
        self.stride = stride

    def forward(self, x: Tensor, frames: int) -> tuple[Tensor, Tensor | None]:
        """``(B T) C H W`` to ``(B T/stride) C' H/2 W/2``, and the temporal response's mean ``B C'``."""
        x = F.relu(self.spatial(x))
        if not self.stride:
            return x, None
        h = x.shape[-2]
        x = rearrange(x, "(b t) c h w -> b c t (h w)", t=frames)
        moved = F.relu(self.temporal(x))
        x = x[:, :, :: self.stride] + moved
        return rearrange(x, "b c t (h w) -> (b t) c h w", h=h), moved.float().mean((-2, -1))


class Network(nn.Module):
    """Frames and their coordinates through strided stages; means over time and space; a linear map to the features.

    The temporal responses of every stage are read out beside the last stage, since motion shows at every scale.
    """

    def __init__(self, config: BuiltinConfig):
        super().__init__()
        widths = (5, *config.channels)
        self.stages = nn.ModuleList(Stage(a, b, s) for a, b, s in zip(widths, widths[1:], config.strides, strict=False))
        moving = sum(c for c, s in zip(config.channels, config.strides, strict=True) if s)
        self.head = nn.Linear(config.channels[-1] + moving, config.features)

    def forward(self, video: Tensor) -> Tensor:
        """float ``B T 3 H W`` in [-1, 1] to ``B d``."""
        b, t = video.shape[:2]
        x, means = with_coordinates(rearrange(video, "b t c h w -> (b t) c h w")), []
        for stage in self._stages():
            x, moved = stage(x, t)
            means += [] if moved is None else [moved]
            t = -(-t // max(stage.stride, 1))
        pooled = rearrange(x.float().mean((-2, -1)), "(b t) c -> b t c", b=b).mean(1)
        return self.head(torch.cat([pooled, *means], 1))

    def spatial_features(self, x: Tensor, stages: int) -> list[Tensor]:
        """What the first ``stages`` see in single frames ``b 3 H W``: the spatial convolutions alone."""
        x, found = with_coordinates(x), []
        for stage in self._stages()[:stages]:
            x = F.relu(stage.spatial(x))
            found.append(x)
        return found

    def _stages(self) -> list[Stage]:
        return [stage for stage in self.stages if isinstance(stage, Stage)]


def with_coordinates(x: Tensor) -> Tensor:
    """``b 3 H W`` with row and column in [-1, 1] beside the colours, so that a mean over space keeps places."""
    b, _, h, w = x.shape
    row = torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype)[:, None].expand(b, 1, h, w)
    column = torch.linspace(-1, 1, w, device=x.device, dtype=x.dtype).expand(b, 1, h, w)
    return torch.cat([x, row, column], 1)


def load(file: Path = FILE, device: str | torch.device = "cpu") -> Network:
    """The frozen network.

    Raises:
        Mistake: the file is not the one whose hash stands in this module.
    """
    tensors, header = weights.load_frozen(file, NAME, SHA256)
    network = Network(config.build(BuiltinConfig, header.config, file))
    weights.fill(network, tensors, file)
    return network.to(device).eval().requires_grad_(False)


class Builtin:
    """The extractor ``builtin-v1``; see ``features.Extractor``. Made for 16 frames of 64x128 at any frame rate."""

    name, sha, size, min_frames, dim = NAME, SHA256, SIZE, MIN_FRAMES, BuiltinConfig.features

    def __init__(self, device: str | torch.device = "cpu"):
        self.network, self.device = load(device=device), device

    def prepare(self, frames: np.ndarray) -> np.ndarray:
        """uint8 ``T H W 3`` to uint8 ``T 64 128 3``: a centre crop to 1:2, by areas when smaller."""
        return np.stack([fit(frame, SIZE) for frame in frames])

    @torch.inference_mode()
    def __call__(self, prepared: Tensor) -> Tensor:
        check_prepared(prepared, self.min_frames, self.size)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 has three digits
            return self.network(to_model(prepared.to(self.device))).float().cpu()


class BuiltinFrames(Builtin):
    """Single frames in the same network's spatial convolutions, where Inception's weights are not at hand: the mean
    over space of every stage's channels."""

    min_frames, dim = 1, sum(BuiltinConfig.channels)

    @torch.inference_mode()
    def __call__(self, prepared: Tensor) -> Tensor:
        check_prepared(prepared, self.min_frames, self.size)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            stages = self.network.spatial_features(to_model(prepared.to(self.device))[:, 0], len(self.network.stages))
        return torch.cat([stage.float().mean((2, 3)) for stage in stages], 1).cpu()


def perceptual(x: Tensor, y: Tensor) -> Tensor:
    """How unlike two sets of frames look to ``builtin-v1``: LPIPS' distance [Zhang 2018] in its first spatial layers.

    Args:
        x, y: ``b 3 H W`` in [-1, 1]; gradients flow to both.

    Returns:
        A scalar: the squared difference of channel-normalised features, mean over space, batch and layers. Not LPIPS:
        its own name.
    """
    network = _shared(x.device)
    ours, theirs = (network.spatial_features(frames, PERCEPTUAL_STAGES) for frames in (x, y))
    layers = [(_unit(a) - _unit(b)).square().sum(1).mean() for a, b in zip(ours, theirs, strict=True)]
    return torch.stack(layers).mean()


def _unit(x: Tensor) -> Tensor:
    x = x.float()
    # the constant stands inside the root, so that the gradient of an empty cell is finite
    return x * (x.square().sum(1, keepdim=True) + 1e-6).rsqrt()


@lru_cache(maxsize=4)
def _shared(device: torch.device) -> Network:
    with torch.inference_mode(False):  # whoever asks first: others want gradients through it
        return load(device=device)
