"""Where real video ends and the made one begins: how far the first made frame lies from the last real one."""

from collections.abc import Iterator

import numpy as np

from drivesim.rollout.stages import Chunk
from drivesim.scene import to_pixels

LOOKED_AT = 16  # frames behind the hand-over, whose own changes are the measure


class Handover:
    """Looks at the first frames that pass.

    Args:
        real: uint8 ``H W 3``, the last real frame. first: the first frame that is made, 0 or 1.
    """

    def __init__(self, real: np.ndarray, first: int):
        self.first, self.seen = first, 0
        self.before = real.astype(np.int16)
        self.changes: list[float] = []

    def watch(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            for frame in chunk.frames[: max(0, self.first + LOOKED_AT - self.seen)]:
                if self.seen >= self.first:
                    now = to_pixels(frame[None])[0].astype(np.int16)
                    self.changes.append(float(np.abs(now - self.before).mean()))
                    self.before = now
                self.seen += 1
            yield chunk

    def told(self) -> dict[str, float] | None:
        """Mean change, in levels of 255, at the hand-over and from frame to frame behind it, and their ratio."""
        if len(self.changes) < 2:
            return None
        jump, inside = self.changes[0], float(np.mean(self.changes[1:]))
        return {"jump": round(jump, 3), "inside": round(inside, 3), "ratio": round(jump / max(inside, 1e-6), 3)}
