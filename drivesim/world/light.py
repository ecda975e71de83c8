"""How light and haze change colours with the place of what is seen."""

import math

import numpy as np

from drivesim.world.canvas import Canvas
from drivesim.world.look import Look
from drivesim.world.road import CAMERA_HEIGHT

_BEAM = 30.0  # metres over which the headlamps' light falls to a third


def headlight(right: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """The light of the camera's own headlamps on the ground before it, 0..1."""
    across = np.exp(-((right / (1.6 + 0.27 * forward)) ** 2))
    return across * (1 - np.exp(-((forward / 4.0) ** 2))) * np.exp(-forward / _BEAM)


class Light:
    """One look's light for one canvas."""

    def __init__(self, look: Look, canvas: Canvas):
        self.look = look
        self.haze = np.asarray(look.haze, float)
        rows = np.arange(canvas.height - canvas.horizon)[:, None] + 0.5
        forward = CAMERA_HEIGHT * canvas.focal / rows
        right = (np.arange(canvas.width) + 0.5 - canvas.middle) / canvas.focal * forward
        light = np.full(right.shape, look.ambient)
        if look.night:
            light = light + 1.2 * headlight(right, forward)
        clear = np.exp(-((forward / look.haze_at) ** 1.5))
        tint = np.array([1.0, 0.98, 0.9]) if look.night else np.ones(3)
        gain = (light * clear)[..., None] * tint * 255
        veil = np.broadcast_to((1 - clear)[..., None] * self.haze, gain.shape)
        self.ground_gain = np.clip(gain, 0, 255).astype(np.uint8)  # h W 3; 255 leaves the ground's albedo as it is
        self.ground_veil = np.clip(veil, 0, 255).astype(np.uint8)  # h W 3, added after it

    def clear(self, forward: float) -> float:
        """The share of an object's colour that haze leaves at ``forward`` metres."""
        return math.exp(-((max(forward, 0.0) / self.look.haze_at) ** 1.5))

    def on(
        self, albedo: np.ndarray, right: float, forward: float, reach: float, glows: np.ndarray | None
    ) -> list[list[float]]:
        """Colours of upright faces at a place.

        Args:
            albedo: ``F 3``, 0..255.
            reach: metres at which they have faded away, so that nothing appears at once.
            glows: ``F`` bool, which of them shine at night.
        """
        fade = min(1.0, max(0.0, (reach - forward) / (0.3 * reach)))
        light, clear = self.look.ambient, self.clear(forward) * fade
        if self.look.night:
            ahead = max(forward, 1.0)
            light += 0.95 * math.exp(-((right / (2.2 + 0.27 * ahead)) ** 2) - ahead / _BEAM)
        colours = albedo * (light * clear)
        if glows is not None and self.look.night:
            colours[glows] = albedo[glows] * fade
        colours += self.haze * (1 - clear)
        return colours.tolist()
