"""Boxes drawn over frames, to be looked at."""

from collections.abc import Mapping

import cv2
import numpy as np

from drivesim.scene import CLASSES, Boxes

# RGB by class, apart for people with any colour vision: Okabe and Ito's palette, grey for the rest
COLOURS = dict(
    zip(
        CLASSES,
        [
            (86, 180, 233), (230, 159, 0), (213, 94, 0), (204, 121, 167), (240, 228, 66), (0, 158, 115), (0, 200, 200),
            (255, 80, 80), (160, 160, 160),
        ],
        strict=True,
    )
)  # fmt: skip


def draw(frame: np.ndarray, boxes: Boxes, ids: Mapping[int, str]) -> np.ndarray:
    """A copy of the frame, uint8 ``H W 3``, with every box, its class and its track; regions to ignore are grey.

    ``ids`` are the names of tracks that are not their numbers. What is hardly visible (under a half) is drawn thin, and
    a small box under a name that would hide its neighbours has none.
    """
    shown = frame.copy(order="C")
    height, width = shown.shape[:2]
    unit = max(1, round(height / 400))
    corners = np.rint(boxes.box * (width, height, width, height)).astype(int)
    names = []
    for n in np.argsort(-np.prod(corners[:, 2:] - corners[:, :2], axis=1), kind="stable"):  # small ones over large ones
        x0, y0, x1, y1 = corners[n].tolist()
        ignored, cls, track = boxes.ignored[n], boxes.cls[n], int(boxes.track[n])
        colour = (128, 128, 128) if ignored else COLOURS[cls]
        thin = ignored or boxes.visibility[n] < 0.5
        cv2.rectangle(shown, (x0, y0), (x1 - 1, y1 - 1), colour, unit if thin else 2 * unit)
        if ignored:
            cv2.line(shown, (x0, y0), (x1 - 1, y1 - 1), colour, unit)
        else:
            names.append((f"{cls} {ids.get(track, track)}", x0, y0, x1 - x0, colour))
    for text, x, y, wide, colour in names:
        _name(shown, text, x, y, wide, colour, unit)
    return shown


def _name(frame: np.ndarray, text: str, x: int, y: int, room: int, colour: tuple[int, int, int], unit: int) -> None:
    """On a plate above the box, or inside it where it begins at the top; none where it is wider than two boxes."""
    scale, face = 0.32 * unit, cv2.FONT_HERSHEY_SIMPLEX
    (wide, high), _ = cv2.getTextSize(text, face, scale, unit)
    if wide > 2 * room:
        return
    top = y - high - 2 * unit if y > high + 2 * unit else y
    cv2.rectangle(frame, (x, top), (x + wide + unit, top + high + 2 * unit), colour, cv2.FILLED)
    cv2.putText(frame, text, (x, top + high + unit), face, scale, (0, 0, 0), unit, cv2.LINE_AA)
