"""What a branch keeps of its run besides the past: all that lies outside of the places whose boxes it changes.

    run's window n, made again ──> its key-frames ─┐
    boxes of the run, of the branch ──> places ────┴──> Held: outside of the places, every prediction is the run's
                                          │
    frames of the run's video ────────────┴──> Around: outside of the places, so is every pixel

The run's windows follow from its states, its noise and what it was told, bit for bit; nothing more had to be stored.
Pixels are put together, too, since cells are larger than boxes and the decoder spreads them over their neighbours.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from drivesim.rollout.plan import Window, video_frame
from drivesim.rollout.stages import Chunk
from drivesim.rollout.tracks import Track, Tracks
from drivesim.scene import VIDEO_FPS, to_model

MARGIN = 0.1  # of a box's sides, within which what is made anew fades into what is kept
BESIDE = 0.5  # of a cell's side, within which cells beside a box are made anew: what was in it shows in them, too
Corners = tuple[float, float, float, float]


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


@dataclass(frozen=True, eq=False)
class Around:
    """
    Args:
        frames: uint8 ``H W 3`` of the run's video, from output frame ``first`` on.
        fps: output frames a second of the scenario's time.
        before, after: see ``Kept``.
    """

    frames: Iterator[np.ndarray]
    first: int
    fps: Fraction
    before: Tracks
    after: Tracks

    def __call__(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """The same with the run's pixels outside of the places; behind the run's end they stay as they are."""
        place = self.first
        for chunk in chunks:
            made = [self._joined(frame, (place + n) / self.fps) for n, frame in enumerate(chunk.frames)]
            place += len(made)
            yield replace(chunk, frames=torch.stack(made)) if made else chunk

    def _joined(self, made: Tensor, time: Fraction) -> Tensor:
        own = next(self.frames, None)
        if own is None:
            return made
        share = torch.from_numpy(shares(self.before, self.after, [time], (made.shape[-2], made.shape[-1])))
        return torch.lerp(to_model(own[None])[0].to(made), made, share.to(made))


def shares(before: Tracks, after: Tracks, times: Sequence[Fraction], size: tuple[int, int]) -> np.ndarray:
    """``T H W`` float32, how much of each pixel is made anew: all of it in a box that is not the same in both, less and
    less within ``MARGIN`` around it, nothing elsewhere."""
    share = np.zeros((len(times), *size), np.float32)
    for n, (x0, y0, x1, y1) in _changed(before, after, times):
        down, across = _ramp(y0, y1, size[0]), _ramp(x0, x1, size[1])
        share[n] = np.maximum(share[n], down[:, None] * across)
    return share


def _ramp(low: float, high: float, count: int) -> np.ndarray:
    """``count``: 1 where the middle of a pixel lies within a side, falling to 0 at ``MARGIN`` of its length around."""
    middles, fade = (np.arange(count) + 0.5) / count, max(MARGIN * (high - low), 1e-6)
    return np.clip(1 - np.maximum(low - middles, middles - high) / fade, 0, 1)


def places(before: Tracks, after: Tracks, times: Sequence[Fraction], cells: tuple[int, int]) -> np.ndarray:
    """``T h w`` bool: the cells at a box that is not the same in both."""
    (h, w), touched = cells, np.zeros((len(times), *cells), bool)
    for n, (x0, y0, x1, y1) in _changed(before, after, times):
        touched[n, _cells(y0, y1, h), _cells(x0, x1, w)] = True
    return touched


def _changed(before: Tracks, after: Tracks, times: Sequence[Fraction]) -> Iterator[tuple[int, Corners]]:
    """Of every box that is not the same in both: the number of its time, and where it is; twice where it moved."""
    sides = [{track.id: track for track in tracks.tracks} for tracks in (before, after)]
    for id in dict.fromkeys([*sides[0], *sides[1]]):
        one, other = (side.get(id) for side in sides)
        for n, time in enumerate(times):
            poses = _pose(one, time), _pose(other, time)
            if poses[0] != poses[1]:
                yield from ((n, pose[1]) for pose in poses if pose)


def _cells(low: float, high: float, count: int) -> slice:
    """Those that lie within ``BESIDE`` of a side."""
    first, last = np.floor(low * count - BESIDE), np.ceil(high * count + BESIDE)
    return slice(max(0, int(first)), max(0, int(last)))


def _pose(track: Track | None, time: Fraction) -> tuple[str, Corners] | None:
    """Class and box at ``time``; None where it is not there."""
    pose = None if track is None else track.at(float(time))
    return None if track is None or pose is None else (track.cls, pose.box)
