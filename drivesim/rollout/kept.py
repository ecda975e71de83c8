"""What a branch keeps of its run besides the past: all that lies outside of the places whose boxes it changes.

    run's window n, made again   ──> its key-frames ─┐
    boxes of the run, of the branch ──> places ──────┴──> Held: outside of the places, every prediction is the run's

The run's windows follow from its states, its noise and what it was told, bit for bit; nothing more had to be stored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from drivesim.rollout.plan import Window, video_frame
from drivesim.rollout.tracks import Track, Tracks
from drivesim.scene import VIDEO_FPS

LEAST = 0.25  # of a cell's side, that a box has to reach into it: the decoder spreads a cell over its neighbours


@dataclass(frozen=True, eq=False)
class Held:
    """What is known of a window beside its given frames.

    Args:
        frames: ``T C h w``, unscaled.
        where: ``T 1 h w`` bool, the cells in which they hold.
    """

    frames: Tensor
    where: Tensor


@dataclass(frozen=True, eq=False)
class Kept:
    """
    Args:
        predict: ``(window, context)`` to the key-frames of the run's window, as it made them.
        context: the given key-frames of the run's window n.
        before, after: what the run was told, and what the branch is.
    """

    predict: Callable[[Window, Tensor], Tensor]
    context: Callable[[int], Tensor]
    before: Tracks
    after: Tracks

    def __call__(self, window: Window) -> Held:
        frames = self.predict(window, self.context(window.n))
        times = [Fraction(video_frame(k)) / VIDEO_FPS for k in range(window.start, window.start + len(frames))]
        touched = places(self.before, self.after, times, (frames.shape[-2], frames.shape[-1]))
        return Held(frames, ~torch.from_numpy(touched)[:, None].to(frames.device))


def places(before: Tracks, after: Tracks, times: Sequence[Fraction], cells: tuple[int, int]) -> np.ndarray:
    """``T h w`` bool: the cells touched by a box that is not the same in both."""
    (h, w), sides = cells, [{track.id: track for track in tracks.tracks} for tracks in (before, after)]
    touched = np.zeros((len(times), h, w), bool)
    for id in dict.fromkeys([*sides[0], *sides[1]]):
        one, other = (side.get(id) for side in sides)
        for n, time in enumerate(times):
            poses = _pose(one, time), _pose(other, time)
            if poses[0] == poses[1]:
                continue
            for pose in filter(None, poses):
                x0, y0, x1, y1 = pose[1]
                touched[n, _cells(y0, y1, h), _cells(x0, x1, w)] = True
    return touched


def _cells(low: float, high: float, count: int) -> slice:
    """Those that a side reaches into by ``LEAST``; one at least, of a side that is inside of the frame."""
    first, last = int(np.floor(low * count + LEAST)), int(np.ceil(high * count - LEAST))
    first, last = (first, last) if last > first else (int(low * count), int(low * count) + 1)
    return slice(max(0, first), max(0, last))


def _pose(track: Track | None, time: Fraction) -> tuple[str, tuple[float, float, float, float]] | None:
    """Class and box at ``time``; None where it is not there."""
    pose = None if track is None else track.at(float(time))
    return None if track is None or pose is None else (track.cls, pose.box)
