"""The flat ground: fields, verges, asphalt, lines, shadows, and at night the light of street lamps on it."""

import cv2
import numpy as np

from drivesim.world.canvas import NEAR, Canvas
from drivesim.world.light import Light
from drivesim.world.look import Colour, scaled
from drivesim.world.road import CAMERA_HEIGHT, LANE, Course, View
from drivesim.world.roadside import Field, Roadside, ring

DASH, DASH_EVERY = 6.0, 12.0  # metres
_DASHES_TO = 130.0  # metres; further away a dash is lower than a pixel
_POOL = ring(0, 0, 1, 1, 20)
_POOLS = ((6.5, 40), (5.0, 72), (3.4, 100), (1.8, 120))  # metres, brightness


class Ground:
    """Paints the ground of one world on one canvas."""

    def __init__(self, course: Course, roadside: Roadside, light: Light, canvas: Canvas):
        self.light, self.canvas = light, canvas
        look = light.look
        nearest = CAMERA_HEIGHT * canvas.focal / (canvas.height - canvas.horizon)
        self.first = 0.7 * nearest  # metres ahead where the painted ground begins
        self._along = np.concatenate([np.geomspace(self.first, 150, 34), np.geomspace(170, 690, 9)])
        verge, shoulder, stripe = roadside.edge + (2.6 if roadside.town > 0.45 else 2.1), course.half - 0.3, 0.1
        side: Colour = (172, 168, 160) if roadside.town > 0.45 else (150, 134, 104)
        bands: list[tuple[float, float, Colour]] = [(-verge, verge, side)]
        if roadside.edge > course.half:
            bands.append((-roadside.edge, roadside.edge, scaled(look.asphalt, 0.88)))
        bands.append((-course.half, course.half, look.asphalt))
        bands += [(at - stripe, at + stripe, look.line) for at in (-shoulder, shoulder)]
        if course.lanes > 1:
            bands += [(middle - 0.09, middle + 0.09, look.middle) for middle in (-0.22, 0.22)]
        self._bands = np.array([(l0, l1) for l0, l1, _ in bands])
        self._band_colours = [colour for *_, colour in bands]
        dashed = [lane * LANE for lane in range(-course.lanes + 1, course.lanes) if course.lanes == 1 or lane]
        self._dashed = np.array(dashed)
        self._dash_colours = [look.middle if lateral == 0 else look.line for lateral in dashed]
        self._shade = {True: scaled(look.asphalt, 0.42), False: scaled(look.grass, 0.62)}

    def paint(self, view: View, fields: list[Field], shadows: list[tuple[np.ndarray, bool]], lamps: np.ndarray) -> None:
        """Paints everything below the horizon.

        Args:
            shadows: polygons ``N 2`` (right, forward), and whether they fall on asphalt.
            lamps: ``L 2`` the places under street lamps.
        """
        ground = self.canvas.ground
        ground[:] = self.light.look.grass
        self._fields(view, fields)
        self._strips(view)
        self._dashes(view)
        for polygon, paved in shadows:
            if polygon[:, 1].min() > NEAR:
                self.canvas.fill(self.canvas.corners(polygon[:, 0], polygon[:, 1], 0.0), self._shade[paved])
        gain = self.light.ground_gain
        if self.light.look.night and len(lamps):
            gain = cv2.add(gain, self._pools(lamps))
        cv2.multiply(ground, gain, dst=ground, scale=1 / 255)
        cv2.add(ground, self.light.ground_veil, dst=ground)

    def _fields(self, view: View, fields: list[Field]) -> None:
        for field in fields:
            s = np.linspace(max(field.s0, view.s + self.first), field.s1, 4)
            if s[0] < s[-1]:
                right, forward, _ = view.place(np.concatenate([s, s[::-1]]), np.repeat([field.l0, field.l1], 4))
                if forward.min() > NEAR:
                    self.canvas.fill_any(self.canvas.corners(right, forward, 0.0), field.colour)

    def _strips(self, view: View) -> None:
        """Bands along the road from the camera to the horizon."""
        there_and_back = np.concatenate([self._along, self._along[::-1]])
        lateral = np.repeat(self._bands, len(self._along), axis=1)
        right, forward, _ = view.place(view.s + there_and_back, lateral)
        corners = self.canvas.corners(right, np.maximum(forward, NEAR), 0.0)
        for band, colour in zip(corners, self._band_colours, strict=True):
            self.canvas.fill_any(band, colour)

    def _dashes(self, view: View) -> None:
        numbers = np.arange(
            int((view.s + self.first - DASH) // DASH_EVERY), int((view.s + _DASHES_TO) // DASH_EVERY) + 1
        )
        begin = np.maximum(numbers * DASH_EVERY, view.s + self.first)
        end = numbers * DASH_EVERY + DASH
        begin, end = begin[end > begin], end[end > begin]
        s = np.stack([begin, (begin + end) / 2, end, end, (begin + end) / 2, begin], axis=1)
        lateral = self._dashed[:, None, None] + np.repeat([-0.12, 0.12], 3)
        right, forward, _ = view.place(s, lateral)
        corners = self.canvas.corners(right, np.maximum(forward, NEAR), 0.0)
        for lane, colour in zip(corners, self._dash_colours, strict=True):
            for dash in lane:
                self.canvas.fill_any(dash, colour)

    def _pools(self, lamps: np.ndarray) -> np.ndarray:
        """The lamps' light on the ground, painted small and blurred."""
        canvas = self.canvas
        small = np.zeros((-(-canvas.height // 4), -(-canvas.width // 4), 3), np.uint8)
        for right, forward in lamps:
            clear = self.light.clear(forward)
            for radius, bright in _POOLS:
                circle = _POOL * radius + (right, forward)
                circle[:, 1] = np.maximum(circle[:, 1], NEAR)
                colour = (bright * clear, 0.88 * bright * clear, 0.62 * bright * clear)
                canvas.fill_small(small, canvas.corners(circle[:, 0], circle[:, 1], 0.0), colour, 2)
        soft = cv2.resize(cv2.blur(small, (5, 3)), (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR)
        return soft[canvas.horizon :]
