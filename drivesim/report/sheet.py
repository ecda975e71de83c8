"""Contact sheets: frames side by side, each with its time, so that a video can be judged at a glance and on paper."""

from collections.abc import Sequence

import cv2
import numpy as np

PAPER = 250
INK = (70, 70, 70)
GAP = 6
LINE = 18


def contact_sheet(frames: np.ndarray, columns: int, stamps: Sequence[str], width: int | None = None) -> np.ndarray:
    """Frames in rows of ``columns``, the stamp under each.

    Args:
        frames: uint8 ``T H W 3``.
        stamps: ``T`` short words, for example ``1.07 s``.
        width: of a frame on the sheet; None = as it is.

    Returns:
        uint8 ``H' W' 3`` on light paper.

    Raises:
        ValueError: no frames, or not a stamp for each.
    """
    if not len(frames) or len(frames) != len(stamps):
        raise ValueError(f"{len(frames)} frames and {len(stamps)} stamps")
    frames = np.stack([_scaled(frame, width) for frame in frames])
    t, h, w, _ = frames.shape
    columns = min(columns, t)
    rows = -(-t // columns)
    sheet = np.full((rows * (h + LINE + GAP) + GAP, columns * (w + GAP) + GAP, 3), PAPER, np.uint8)
    for n, (frame, stamp) in enumerate(zip(frames, stamps, strict=True)):
        top, left = GAP + n // columns * (h + LINE + GAP), GAP + n % columns * (w + GAP)
        sheet[top : top + h, left : left + w] = frame
        cv2.putText(sheet, stamp, (left + 2, top + h + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, INK, 1, cv2.LINE_AA)
    return sheet


def _scaled(frame: np.ndarray, width: int | None) -> np.ndarray:
    h, w, _ = frame.shape
    if width is None or width == w:
        return frame
    smaller = width < w
    return cv2.resize(
        frame, (width, round(h * width / w)), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    )
