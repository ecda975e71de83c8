"""Boxes in space: where they stand between two key poses, and the box that a camera sees of them.

Frames of reference: a camera looks along its z, x is to the right and y down; a box's x is along its length, y along
its width, z along its height. Rotations are quaternions ``w x y z``, of length 1 within what files round.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from einops import einsum, rearrange

NEAR = 0.1
"""Metres in front of the camera's centre at which boxes are cut off: behind it nothing has a place in the picture."""
FARTHEST = 1e9
"""Metres, or pixels; larger numbers are broken, and would overflow."""
CORNERS = np.array(list(product((-0.5, 0.5), repeat=3)))
# corners of each side, in order around it
SIDES = ((0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5))


@dataclass(frozen=True, eq=False)
class Pose:
    """How a frame of reference stands in an outer one.

    Args:
        rotation: ``4``.
        translation: ``3``, metres.

    Raises:
        ValueError: they are no pose.
    """

    rotation: np.ndarray
    translation: np.ndarray

    def __post_init__(self) -> None:
        if not (_turns(self.rotation) and (np.abs(self.translation) < FARTHEST).all()):
            raise ValueError(f"no pose: rotation {self.rotation}, translation {self.translation}")

    def into(self, points: np.ndarray) -> np.ndarray:
        """``... 3`` of the outer frame, in this one."""
        matrix = matrices(self.rotation[None])[0]
        return einsum(points - self.translation, matrix, "... out, out own -> ... own")


@dataclass(frozen=True, eq=False)
class Cuboids:
    """Boxes in one frame of reference.

    Args:
        centre: ``N 3`` metres.
        size: ``N 3``, length, width, height.
        rotation: ``N 4``.
    """

    centre: np.ndarray
    size: np.ndarray
    rotation: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.centre)
        if self.centre.shape != (n, 3) or self.size.shape != (n, 3) or self.rotation.shape != (n, 4):
            raise ValueError(f"cuboids disagree: {self.centre.shape} {self.size.shape} {self.rotation.shape}")

    def __len__(self) -> int:
        return len(self.centre)

    def __getitem__(self, rows: np.ndarray | list[int]) -> "Cuboids":
        """Those of ``rows``: a mask, or indices."""
        return Cuboids(self.centre[rows], self.size[rows], self.rotation[rows])

    @property
    def sound(self) -> np.ndarray:
        """``N`` bool: all numbers are finite, sizes are above 0, and the rotation is one."""
        numbers = np.abs(np.concatenate([self.centre, self.size], axis=1))
        return (numbers < FARTHEST).all(axis=1) & (self.size > 0).all(axis=1) & _turns(self.rotation)

    def corners(self) -> np.ndarray:
        """``N 8 3``."""
        own = CORNERS * rearrange(self.size, "n d -> n 1 d")
        turned = einsum(matrices(self.rotation), own, "n out own, n corner own -> n corner out")
        return turned + rearrange(self.centre, "n d -> n 1 d")


def cuboids(rows: list[tuple[float, ...]]) -> Cuboids:
    """Of rows of ten numbers: centre, size, rotation."""
    table = np.array(rows, np.float64).reshape(-1, 10)
    return Cuboids(table[:, :3], table[:, 3:6], table[:, 6:])


def between(first: Cuboids, second: Cuboids, share: float) -> Cuboids:
    """The boxes of ``first`` on their way to those of ``second``, row by row; ``share`` of it lies behind them."""
    return Cuboids(
        first.centre + share * (second.centre - first.centre),
        first.size + share * (second.size - first.size),
        slerp(first.rotation, second.rotation, share),
    )


def slerp(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """``N 4`` rotations on the shorter way from one to the other, evenly (Shoemake 1985)."""
    first, second = _unit(first), _unit(second)
    cosine = (first * second).sum(axis=1, keepdims=True)
    second = np.where(cosine < 0, -second, second)  # q and -q are one rotation
    angle = np.arccos(np.clip(np.abs(cosine), 0, 1))
    sine = np.sin(angle)
    straight = sine < 1e-6  # a chord, where the arc's formula would be 0 / 0
    divisor = np.where(straight, 1, sine)
    start = np.where(straight, 1 - share, np.sin((1 - share) * angle) / divisor)
    end = np.where(straight, share, np.sin(share * angle) / divisor)
    return _unit(start * first + end * second)


def matrices(rotation: np.ndarray) -> np.ndarray:
    """``N 4`` quaternions to ``N 3 3``."""
    w, x, y, z = rearrange(_unit(rotation), "n part -> part n")
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return rearrange(np.array(rows), "out own n -> n out own")


def _turns(rotation: np.ndarray) -> np.ndarray:
    """``...`` bool of ``... 4``: whether it is a rotation."""
    return (np.abs(rotation) < 2).all(axis=-1) & (np.abs(rotation) > 0.1).any(axis=-1)


def _unit(rotation: np.ndarray) -> np.ndarray:
    return rotation / np.linalg.norm(rotation, axis=-1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera on a vehicle.

    Args:
        pose: in the vehicle.
        matrix: ``3 3``, from camera to pixels; its last row is 0 0 1.
        size: height and width in pixels.

    Raises:
        ValueError: the matrix is none of a camera.
    """

    pose: Pose
    matrix: np.ndarray
    size: tuple[int, int]

    def __post_init__(self) -> None:
        fits = self.matrix.shape == (3, 3) and (np.abs(self.matrix) < FARTHEST).all()
        if not fits or self.matrix[2].tolist() != [0, 0, 1] or min(self.matrix[0, 0], self.matrix[1, 1]) <= 0:
            raise ValueError(f"no camera matrix: {self.matrix.tolist()}")

    def boxes(self, corners: np.ndarray) -> np.ndarray:
        """What is seen of cuboids.

        Args:
            corners: ``N 8 3`` in the vehicle's frame.

        Returns:
            ``N 4``, pixels ``x0 y0 x1 y1`` around the part of each that lies in the picture; NaN where none does.
        """
        return seen(self.pose.into(corners), self.matrix, self.size)


def seen(corners: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``Camera.boxes`` with corners in the camera's own frame.

    A box is cut by the planes through the edges of the picture and by the near plane before it is projected: what
    reaches behind the camera has no place in the picture, and what passes beside it must not widen the rest.
    """
    height, width = size
    scaled = einsum(corners, matrix, "n corner own, out own -> n corner out")  # x/z and y/z are pixels
    # each plane as factors of x, y, z and 1: not negative on the side that is kept
    planes = ((0, 0, 1, -NEAR), (1, 0, 0, 0), (-1, 0, width, 0), (0, 1, 0, 0), (0, -1, height, 0))
    factors = np.array(planes, np.float64)
    inside = einsum(scaled, factors[:, :3], "n corner d, plane d -> n corner plane") + factors[:, 3]
    whole = (inside >= 0).all(axis=(1, 2))
    beyond = (inside < 0).all(axis=1).any(axis=-1)
    boxes = np.full((len(scaled), 4), np.nan)
    pixels = scaled[whole, :, :2] / scaled[whole, :, 2:]
    boxes[whole] = np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)
    for row in np.flatnonzero(~whole & ~beyond):
        points = [tuple(point) for point in scaled[row].tolist()]
        left = [(x / z, y / z) for side in SIDES for x, y, z in _cut([points[i] for i in side], planes)]
        if left:
            columns, rows = zip(*left, strict=True)
            boxes[row] = min(columns), min(rows), max(columns), max(rows)
    return boxes


def _cut(polygon: list[tuple[float, ...]], planes: tuple[tuple[float, ...], ...]) -> list[tuple[float, ...]]:
    """What is left of a polygon on the kept side of all planes (Sutherland and Hodgman 1974)."""
    for a, b, c, d in planes:
        kept: list[tuple[float, ...]] = []
        above = [a * x + b * y + c * z + d for x, y, z in polygon]
        for i, (point, height) in enumerate(zip(polygon, above, strict=True)):
            before, height_before = polygon[i - 1], above[i - 1]
            if (height >= 0) != (height_before >= 0):
                share = height_before / (height_before - height)
                kept.append(tuple(p + share * (q - p) for p, q in zip(before, point, strict=True)))
            if height >= 0:
                kept.append(point)
        polygon = kept
    return polygon
