"""All that is too far to come nearer: sky, clouds, sun or moon, hills; a cylinder around the camera, painted once."""

import cv2
import numpy as np

from drivesim.randomness import generator
from drivesim.world.look import Look


class Sky:
    """The rows above the horizon for any heading.

    Args:
        focal: focal length in pixels.
        width, horizon: pixels; the horizon is the row ``horizon``.
    """

    def __init__(self, seed: int, look: Look, focal: float, width: int, horizon: int):
        x = (np.arange(width) + 0.5 - width / 2) / focal
        v = (horizon - np.arange(horizon) - 0.5) / focal
        self._half = float(np.arctan(x[-1])) + 0.01
        self._focal = focal
        azimuth = np.broadcast_to(np.arctan(x), (horizon, width))
        self._x = ((azimuth + self._half) * focal).astype(np.float32)
        self._y = (horizon - focal * v[:, None] / np.sqrt(1 + x * x) - 0.5).astype(np.float32)
        self._buffer = np.empty_like(self._x)
        turn = round(2 * np.pi * focal)
        around = paint_around(seed, look, turn, horizon, focal)
        self._around = np.concatenate([around, around[:, : int(2 * self._half * focal) + 4]], axis=1)

    def paint(self, heading: float, out: np.ndarray) -> None:
        """Fills ``out`` (``horizon W 3``); ``heading`` in radians to the left."""
        first = (-heading - self._half) % (2 * np.pi) * self._focal
        np.add(self._x, np.float32(first), out=self._buffer)
        cv2.remap(self._around, self._buffer, self._y, cv2.INTER_LINEAR, dst=out, borderMode=cv2.BORDER_REPLICATE)


def paint_around(seed: int, look: Look, turn: int, rows: int, focal: float) -> np.ndarray:
    """The whole circle as uint8 ``rows turn 3``; the last row stands on the horizon."""
    rng = generator("world", seed, "sky")
    height = np.linspace(rows / focal, 0, rows)[:, None]  # tangent of the elevation
    azimuth = np.linspace(0, 2 * np.pi, turn, endpoint=False)
    fade = np.exp(-height / 0.16)[..., None]
    image = np.broadcast_to((1 - fade) * look.zenith + fade * np.asarray(look.horizon), (rows, turn, 3)).copy()
    image += _sun(rng, look, azimuth, height)
    if look.clouds:
        cover = _clouds(rng, look, rows, turn, focal)[..., None]
        bright = np.minimum(np.asarray(look.horizon) * 0.35 + 168, 255)
        image = image * (1 - cover) + cover * bright
    for tall, mix in ((0.085, 0.62), (0.05, 0.3)):
        ridge = _ridge(rng, azimuth, tall)
        inside = np.clip((ridge - height) * focal + 0.5, 0, 1)[..., None]
        foot = np.clip(height / 0.05, 0, 1)[..., None]
        colour = np.asarray(look.hill) * (1 - mix) + np.asarray(look.haze) * mix
        shaded = colour * (0.55 + 0.45 * foot) + np.asarray(look.haze) * 0.45 * (1 - foot)
        image = image * (1 - inside) + shaded * inside
    return np.clip(image, 0, 255).astype(np.uint8)


def _sun(rng: np.random.Generator, look: Look, azimuth: np.ndarray, height: np.ndarray) -> np.ndarray:
    at, up = rng.uniform(-0.9, 0.9), rng.uniform(0.2, 0.32)
    if not look.sun:
        return np.zeros(3)
    around = (azimuth - at + np.pi) % (2 * np.pi) - np.pi
    distance = np.hypot(around, height - up)
    size, glow = (0.03, 14.0) if look.night else (0.035, 70.0)
    disc = np.clip((size - distance) * 150, 0, 1) * 190 + glow * np.exp(-((distance / 0.13) ** 2))
    return disc[..., None] * np.array([1.0, 0.96, 0.85])


def _clouds(rng: np.random.Generator, look: Look, rows: int, turn: int, focal: float) -> np.ndarray:
    """Cover in [0, 1], soft, with closed seams."""
    cover = np.zeros((rows, turn), np.float32)
    for _ in range(int(34 * look.clouds) + 4):
        x, elevation, size = rng.uniform(0, turn), rng.uniform(0.1, 0.42), rng.uniform(0.05, 0.12)
        for _ in range(4):
            cx, cy = x + rng.normal(0, size) * focal, rows - (elevation + rng.uniform(-0.015, 0.015)) * focal
            axes = (int(size * focal * rng.uniform(0.5, 1.0)), int(size * focal * rng.uniform(0.12, 0.28)) + 1)
            for wrap in (-turn, 0, turn):
                cv2.ellipse(cover, (int(cx + wrap), int(cy)), axes, 0, 0, 360, (0.85,), -1)
    return cv2.GaussianBlur(cover, (0, 0), 0.012 * focal)


def _ridge(rng: np.random.Generator, azimuth: np.ndarray, tall: float) -> np.ndarray:
    """Tangent of the hills' elevation around the circle."""
    orders = np.array([2, 3, 5, 8, 13, 21])
    waves = np.sin(np.multiply.outer(azimuth, orders) + rng.uniform(0, 2 * np.pi, len(orders)))
    return tall * np.clip(0.5 + (waves * np.array([0.18, 0.2, 0.2, 0.12, 0.08, 0.04])).sum(-1), 0.08, 1.2)
