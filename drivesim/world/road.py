"""The road and the way the camera goes along it, in closed form, so that any moment can be asked for by itself.

Road coordinates are ``s``, metres along the centre line, and ``lateral``, metres to its right. Camera coordinates are
``right`` and ``forward`` metres from the camera, which looks along the road's tangent. Curvature and yaw are positive
to the left.
"""

from dataclasses import dataclass

import numpy as np

from drivesim.randomness import generator

LANE = 3.5  # metres
CAMERA_HEIGHT = 1.4  # metres above the road
REACH = 700.0  # metres of road that are laid out ahead
_OFFSETS = np.concatenate([np.arange(-24.0, 160.0, 2.0), np.geomspace(160.0, REACH, 24)])
_ORIGIN = 12  # where _OFFSETS is 0


@dataclass(frozen=True)
class Waves:
    """``mean + sum a sin(q x + p)`` and its integral from 0, both exact."""

    mean: float
    a: np.ndarray
    q: np.ndarray
    p: np.ndarray

    def value(self, x: float | np.ndarray) -> np.ndarray:
        return self.mean + (self.a * np.sin(np.multiply.outer(x, self.q) + self.p)).sum(-1)

    def integral(self, x: float | np.ndarray) -> np.ndarray:
        swing = np.cos(self.p) - np.cos(np.multiply.outer(x, self.q) + self.p)
        return self.mean * np.asarray(x) + (self.a / self.q * swing).sum(-1)


class Course:
    """One seed's road, lanes and ego motion.

    ``speed`` is a function of seconds (its integral is ``s``), ``curvature`` of ``s`` (its integral is the heading).
    """

    def __init__(self, seed: int):
        rng = generator("world", seed, "course")
        mean = rng.uniform(5.8, 8.4)
        self.speed = Waves(
            mean,
            a=np.array([rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.35)]),
            q=2 * np.pi / np.array([rng.uniform(22, 45), rng.uniform(9, 14)]),
            p=rng.uniform(0, 2 * np.pi, 2),
        )
        bend = rng.uniform(0.35, 1.0)
        self.curvature = Waves(
            0.0,
            a=bend * np.array([rng.uniform(0.004, 0.0075), rng.uniform(0.002, 0.004)]),
            q=2 * np.pi / np.array([rng.uniform(130, 210), rng.uniform(280, 460)]),
            p=rng.uniform(0, 2 * np.pi, 2),
        )
        self.lanes = 2 if rng.random() < 0.35 else 1  # in each direction
        self.half = self.lanes * LANE + 0.4  # metres from the centre line to the end of the asphalt
        outer = self.lanes == 1 or rng.random() < 0.6
        self.ego_lane = LANE * (self.lanes - 0.5) if outer else LANE / 2  # lateral of the camera


class View:
    """The road as the camera sees it at ``t`` seconds: from road coordinates to camera coordinates."""

    def __init__(self, course: Course, t: float):
        self.s = float(course.speed.integral(t))
        self.heading = float(course.curvature.integral(self.s))
        self.lateral = course.ego_lane
        self._psi = course.curvature.integral(self.s + _OFFSETS) - self.heading
        middle, step = (self._psi[1:] + self._psi[:-1]) / 2, np.diff(_OFFSETS)
        ahead = np.concatenate([[0.0], np.cumsum(np.cos(middle) * step)])
        left = np.concatenate([[0.0], np.cumsum(np.sin(middle) * step)])
        self._ahead, self._left = ahead - ahead[_ORIGIN], left - left[_ORIGIN]

    def place(self, s: np.ndarray, lateral: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``right``, ``forward`` and the road's direction (radians left of the camera's) at ``s`` and ``lateral``."""
        offset = s - self.s
        psi = np.interp(offset, _OFFSETS, self._psi)
        right = lateral * np.cos(psi) - np.interp(offset, _OFFSETS, self._left) - self.lateral
        forward = lateral * np.sin(psi) + np.interp(offset, _OFFSETS, self._ahead)
        return right, forward, psi
