"""A stack without networks: every frame is a function of the context and of the noise, so that all of it shows."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drivesim.data import video
from drivesim.diffusion.noise import Schedule, ScheduleConfig
from drivesim.rollout.stack import Interpolation, Stack, TemporalDecoder, Upsampler
from drivesim.scene import Condition, Labels, Level

SIZE, LATENT, FRAMES = (32, 64), (3, 4, 8), 6
LARGE = (2 * SIZE[0], 2 * SIZE[1])


@dataclass(eq=False)
class Mock:
    """A denoiser whose frames wander away from the last given one, each by its own noise and by the labels."""

    schedule: Schedule = field(default_factory=lambda: Schedule(ScheduleConfig()))
    steps: int | None = None
    fail_at_call: int = -1
    seen: list[tuple[Tensor, Condition]] = field(default_factory=list)
    calls: int = 0
    remember: bool = False

    def __call__(self, x: Tensor, level: Level, condition: Condition) -> Tensor:
        if self.calls == self.fail_at_call:
            raise RuntimeError("the machine died")
        self.calls += 1
        if self.remember:
            self.seen.append((x.clone(), condition))
        unit = x / (1 + level.of(x) ** 2).sqrt()
        if condition.low is not None:
            return (condition.low + 0.1 * unit).clamp(-1, 1)
        drift = 0.0 if condition.tokens is None else float(condition.tokens.mean())
        if condition.context is None or condition.given is None:
            return 0.5 * unit + drift
        last = condition.context[:, int(condition.given[0]) - 1][:, None]
        return (0.9 * last + 0.2 * unit + drift).clamp(-2, 2)


def decode(latents: Tensor) -> Tensor:
    return F.interpolate(torch.tanh(latents), scale_factor=8, mode="bilinear")


def encode(frames: Tensor) -> Tensor:
    return torch.atanh(F.avg_pool2d(frames, 8).clamp(-0.99, 0.99))


def tokens(labels: list[Labels]) -> Tensor:
    return torch.tensor([[[0.1 if label.night else 0.0]] for label in labels])


def stack(keyframes: Mock | None = None, image: Mock | None = None, **changes: object) -> Stack:
    values = {
        "image": image or Mock(),
        "keyframes": keyframes or Mock(),
        "tokens": tokens,
        "null_tokens": torch.zeros(1, 1),
        "mean": torch.tensor([0.1, -0.2, 0.3]),
        "std": torch.tensor([0.5, 0.7, 0.9]),
        "encode": encode,
        "decode": decode,
        "frames": FRAMES,
        "size": SIZE,
        "latent_shape": LATENT,
        "weights": {"keyframes": "0" * 64},
        "device": torch.device("cpu"),
    }
    return Stack(**{**values, **changes})  # type: ignore[arg-type]


def decode_video(latents: Tensor) -> Tensor:
    """Every frame by itself, but for a trace of its neighbours."""
    alone = torch.stack([decode(clip) for clip in latents])
    return 0.9 * alone + 0.05 * (torch.roll(alone, 1, dims=1) + torch.roll(alone, -1, dims=1))


def cascade(
    keyframes: Mock | None = None, between: Mock | None = None, above: Mock | None = None, **changes: object
) -> Stack:
    """All stages: two passes of interpolation, a decoder of neighbouring frames, an upsampler of 8 frames."""
    upsampler = Upsampler(above or Mock(), 8, 2, 250, tokens, torch.zeros(1, 1))
    further = {
        "interpolation": Interpolation(between or Mock(), (7.5, 30.0)),  # type: ignore[arg-type]
        "temporal_decoder": TemporalDecoder(decode_video, 6, Fraction(30)),
        "upsampler": upsampler,
    }
    return stack(keyframes, **(further | changes))


def brightening(file: Path, size: tuple[int, int], fps: int) -> Path:
    """Two seconds of video whose brightness grows with time."""
    ramp = np.linspace(20, 230, 2 * fps).astype(np.uint8)[:, None, None, None]
    with video.Writer(file, size, Fraction(fps)) as writer:
        writer.write(np.ascontiguousarray(np.broadcast_to(ramp, (2 * fps, *size, 3))))
    return file
