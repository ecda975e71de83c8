"""A drive through one seed's world: frames, boxes, labels and truth."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np

from drivesim.errors import Mistake
from drivesim.scene import CARS, Boxes, Clip, Labels
from drivesim.world.look import look_of
from drivesim.world.paint import MIN_BOX, Painter
from drivesim.world.road import Course, View
from drivesim.world.roadside import Roadside
from drivesim.world.traffic import Traffic

MIN_VISIBLE = 0.1  # boxes of which less than this share is seen are left out
_COUNTED = 0.25  # a vehicle counts for the label where at least this share of it is seen


@dataclass(frozen=True, eq=False)
class Truth:
    """What the world knows of each frame of a clip, ``T`` each.

    Args:
        speed: metres a second of the camera.
        curvature: 1/m of the camera's path, positive to the left.
        yaw_rate: radians a second, positive to the left; ``speed * curvature``.
    """

    speed: np.ndarray
    curvature: np.ndarray
    yaw_rate: np.ndarray


@dataclass(frozen=True, eq=False)
class Seen:
    """One agent's box in one frame."""

    track: int
    cls: str
    box: np.ndarray
    visibility: float


class World:
    """One seed's world. ``frame(t, size)`` is a function of (seed, t, size) alone."""

    def __init__(self, seed: int):
        self.seed = seed
        self.look = look_of(seed)
        self.course = Course(seed)
        self.traffic = Traffic(seed, self.course)
        self.roadside = Roadside(seed, self.look, self.traffic.edge)
        self._painters: dict[tuple[int, int], Painter] = {}

    def frame(self, t: Fraction | float, size: tuple[int, int]) -> tuple[np.ndarray, list[Seen]]:
        """The frame at ``t`` seconds, uint8 ``H W 3``, and the boxes in it."""
        view = View(self.course, float(t))
        things, fields = self.roadside.at(view.s)
        agents = self.traffic.at(float(t), view.s)
        frame, boxes = self._painter(size).paint(view, things, fields, agents)
        seen = [Seen(agent.track, agent.cls, box, float(visibility)) for agent, box, visibility in boxes]
        return frame, [s for s in seen if s.box[3] - s.box[1] >= MIN_BOX and s.visibility >= MIN_VISIBLE]

    def truth(self, times: np.ndarray) -> Truth:
        """Speed, curvature and yaw rate of the camera at ``times`` (seconds)."""
        along, bend = self.course.speed.value(times), self.course.curvature.value(self.course.speed.integral(times))
        stretch = 1 + bend * self.course.ego_lane  # the camera's lane is on the outside of a bend to the left
        return Truth(along * stretch, bend / stretch, along * bend)

    def _painter(self, size: tuple[int, int]) -> Painter:
        if size not in self._painters:
            self._painters[size] = Painter(self.seed, self.look, self.course, self.roadside, size)
        return self._painters[size]


def drive(seed: int, seconds: Fraction | float, fps: Fraction, size: tuple[int, int]) -> tuple[Clip, Truth]:
    """Renders a drive, with what the world knows of it.

    Args:
        seed: which world; all else follows from it.
        seconds: frames are at ``n / fps`` for all ``n`` with ``n / fps < seconds``.
        fps: frames a second; the frame at a time is the same at any rate.
        size: ``H W``.

    Returns:
        A clip with boxes and labels, and its truth. The label ``cars`` is the mean number of vehicles of ``CARS`` seen
        in a frame (at least a quarter of each), rounded.

    Raises:
        Mistake: no frame is asked for, or the size is below 16 pixels.
    """
    fps, seconds = Fraction(fps), Fraction(seconds)
    if seconds <= 0 or fps <= 0:
        raise Mistake(f"{float(seconds):g} seconds at {fps} frames a second is no drive", mend="give positive numbers")
    if min(size) < 16:
        raise Mistake(f"{size[0]}x{size[1]} is too small", mend="ask for 16 pixels or more each way")
    world = World(seed)
    times = [n / fps for n in range(-int(-seconds * fps // 1))]
    frames = np.empty((len(times), *size, 3), np.uint8)
    seen = []
    with one_thread():
        for n, t in enumerate(times):
            frames[n], boxes = world.frame(t, size)
            seen.append(boxes)
    clip = Clip(
        frames=frames,
        fps=fps,
        clip_id=f"world-{seed}",
        labels=Labels(night=world.look.night, cars=_count(seen)),
        boxes=_boxes(times, seen),
    )
    return clip, world.truth(np.array([float(t) for t in times]))


def render(seed: int, seconds: Fraction | float, fps: Fraction, size: tuple[int, int]) -> Clip:
    """The clip of :func:`drive`."""
    return drive(seed, seconds, fps, size)[0]


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread: polygons are too small to share, and workers render side by side."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _count(frames: list[list[Seen]]) -> int:
    return round(float(np.mean([sum(s.cls in CARS and s.visibility >= _COUNTED for s in seen) for seen in frames])))


def _boxes(times: list[Fraction], frames: list[list[Seen]]) -> Boxes:
    rows = [(t, s) for t, seen in zip(times, frames, strict=True) for s in seen]
    return Boxes(
        time=tuple(t for t, _ in rows),
        track=np.array([s.track for _, s in rows], np.int64),
        cls=tuple(s.cls for _, s in rows),
        box=np.array([s.box for _, s in rows]).reshape(-1, 4),
        visibility=np.array([s.visibility for _, s in rows]),
    )
