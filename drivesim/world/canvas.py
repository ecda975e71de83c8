"""The camera's picture plane: metres to pixels, polygons, lights, and whose silhouette covers what.

Painted larger than asked for and averaged down where the frame is small, so that edges move by parts of a pixel.
Corners are fixed-point: ``int32`` in units of 1/16 pixel of the painted picture.
"""

import math

import cv2
import numpy as np

from drivesim.world.road import CAMERA_HEIGHT

FOCAL = 0.85  # focal length in frame widths: a horizontal field of view of 61 degrees
HORIZON = 0.45  # the horizon's row in frame heights
NEAR = 0.6  # metres: nothing nearer is painted
_SHIFT = 4
_UNIT = 1 << _SHIFT
_MIN_ROWS = 256  # frames with fewer rows are painted larger

Paint = tuple | list


class Canvas:
    """A picture of ``size`` (``H W``) while it is painted.

    ``image`` is the painted picture; ``owner``, half as large, holds the number of the silhouette that is seen there.
    """

    def __init__(self, size: tuple[int, int]):
        self.size = size
        self.scale = max(1, -(-_MIN_ROWS // size[0]))
        self.height, self.width = size[0] * self.scale, size[1] * self.scale
        self.focal, self.middle = FOCAL * self.width, self.width / 2
        self.horizon = round(HORIZON * self.height)
        self.edges = cv2.LINE_AA if self.scale == 1 else cv2.LINE_8
        self.image = np.empty((self.height, self.width, 3), np.uint8)
        self.owner = np.zeros((-(-self.height // 2), -(-self.width // 2)), np.uint8)
        self._glows: dict[tuple[int, Paint], np.ndarray] = {}

    @property
    def ground(self) -> np.ndarray:
        """The rows below the horizon."""
        return self.image[self.horizon :]

    def corners(self, right: np.ndarray, forward: np.ndarray | float, up: np.ndarray | float) -> np.ndarray:
        """Camera metres (``forward`` at least ``NEAR``) to fixed-point corners ``... 2``."""
        scale = self.focal * _UNIT / forward
        fixed = np.empty((*right.shape, 2))
        fixed[..., 0] = right * scale
        fixed[..., 1] = (CAMERA_HEIGHT - up) * scale
        fixed += ((self.middle - 0.5) * _UNIT, (self.horizon - 0.5) * _UNIT)  # pixel centres are at whole numbers
        return np.rint(fixed, out=fixed).astype(np.int32)

    def inside(self, corners: np.ndarray) -> bool:
        x0, y0 = corners.min(0).tolist()
        x1, y1 = corners.max(0).tolist()
        return x1 > 0 and y1 > 0 and x0 < self.width * _UNIT and y0 < self.height * _UNIT

    def fill(self, corners: np.ndarray, colour: Paint) -> None:
        """A convex polygon."""
        cv2.fillConvexPoly(self.image, corners, colour, self.edges, _SHIFT)

    def fill_any(self, corners: np.ndarray, colour: Paint) -> None:
        """A polygon of any shape."""
        cv2.fillPoly(self.image, [corners], colour, self.edges, _SHIFT)

    def fill_small(self, small: np.ndarray, corners: np.ndarray, colour: Paint, halvings: int) -> None:
        """A convex polygon on a picture that is ``halvings`` times halved."""
        cv2.fillConvexPoly(small, corners, colour, cv2.LINE_8, _SHIFT + halvings)

    def cover(self, corners: np.ndarray, number: int) -> int:
        """Writes ``number`` over the hull of ``corners``; gives its area in the picture, in owner's cells."""
        hull = cv2.convexHull(corners)[:, 0]
        self.fill_small(self.owner, hull, (number,), 1)
        if not number:
            return 0
        (x0, y0), (x1, y1) = np.maximum(hull.min(0) // (2 * _UNIT) - 1, 0), hull.max(0) // (2 * _UNIT) + 3
        return int(np.count_nonzero(self.owner[y0:y1, x0:x1] == number)) if x0 < x1 and y0 < y1 else 0

    def box(self, polygons: list[np.ndarray]) -> np.ndarray | None:
        """``x0 y0 x1 y1`` around what is in the frame of convex polygons, as fractions of it; None where nothing is."""
        corners = np.concatenate(polygons)
        low, high = corners.min(0), corners.max(0)
        size = np.array([self.width, self.height])
        if (low < -_UNIT // 2).any() or (high > size * _UNIT - _UNIT // 2).any():
            corners = np.concatenate([self._in_frame(polygon) for polygon in polygons])
            if not len(corners):
                return None
            low, high = corners.min(0), corners.max(0)
        return np.clip(np.concatenate([(low / _UNIT + 0.5) / size, (high / _UNIT + 0.5) / size]), 0.0, 1.0)

    def _in_frame(self, polygon: np.ndarray) -> np.ndarray:
        for axis, end in ((0, self.width), (1, self.height)):
            for at, sign in ((-_UNIT / 2, 1), ((end - 0.5) * _UNIT, -1)):
                polygon = one_side(polygon, axis, at, sign)
        return polygon

    def glow(self, corners: np.ndarray, radius: float, colour: Paint) -> None:
        """Adds a soft light of ``radius`` pixels at the mean of ``corners``."""
        r = min(max(round(radius), 2), self.height // 5)
        light = self._glows.get((r, colour))
        if light is None:
            grid = np.arange(-r, r + 1) / r
            disc = np.exp(-4.0 * (grid[:, None] ** 2 + grid**2)) - math.exp(-4.0)
            light = (np.clip(disc, 0, 1)[..., None] * np.asarray(colour) * 0.8).astype(np.uint8)
            self._glows[r, colour] = light
        x, y = (corners.mean(0) / _UNIT + 0.5).astype(int).tolist()
        x0, y0, x1, y1 = max(x - r, 0), max(y - r, 0), min(x + r + 1, self.width), min(y + r + 1, self.height)
        if x0 < x1 and y0 < y1:
            part = self.image[y0:y1, x0:x1]
            self.image[y0:y1, x0:x1] = cv2.add(part, light[y0 - y + r : y1 - y + r, x0 - x + r : x1 - x + r])

    def frame(self) -> np.ndarray:
        """The finished picture at the size asked for, uint8 ``H W 3``, a copy."""
        if self.scale == 1:
            return self.image.copy()
        return cv2.resize(self.image, (self.size[1], self.size[0]), interpolation=cv2.INTER_AREA)


def one_side(points: np.ndarray, axis: int, at: float, sign: int) -> np.ndarray:
    """The part of a convex polygon (``N D``) where its ``axis`` is at least (``sign`` 1) or at most (-1) ``at``."""
    kept = ((points[:, axis] - at) * sign >= 0).tolist()
    if all(kept):
        return points
    corners = []
    for n, here in enumerate(kept):
        a, b = points[n - 1], points[n]
        if kept[n - 1] != here:
            cut = a + (b - a) * ((at - a[axis]) / (b[axis] - a[axis]))
            cut[axis] = at
            corners.append(cut)
        if here:
            corners.append(b)
    return np.array(corners).reshape(-1, points.shape[1])
