"""Who is who from frame to frame: video gives its agents no identity, so detections are tied to tracks by overlap."""

from collections.abc import Sequence

import numpy as np

from drivesim.metrics.matching import overlap

SAME = 0.3  # overlap with a track's last box from which a detection goes on with it
PATIENCE = 1.0  # seconds that a track waits for its next detection


def tracks(boxes: Sequence[np.ndarray], times: Sequence[float]) -> list[np.ndarray]:
    """A track's number for every detection, frame by frame.

    Pairs of a live track's last box and a detection are joined in the order of their overlap, the largest first; a
    detection without one begins a track. Nothing is predicted: between two frames traffic moves less than its size.

    Args:
        boxes: of every frame ``N 4``.
        times: seconds of every frame, rising.
    """
    last: dict[int, tuple[np.ndarray, float]] = {}
    begun, found = 0, []
    for box, time in zip(boxes, times, strict=True):
        last = {number: (place, at) for number, (place, at) in last.items() if time - at <= PATIENCE}
        alive = list(last)
        number = np.full(len(box), -1)
        for row, which in pairs(overlap(box, np.array([last[n][0] for n in alive]).reshape(-1, 4)), SAME):
            number[row] = alive[which]
        fresh = number < 0
        number[fresh] = begun + np.arange(fresh.sum())
        begun += int(fresh.sum())
        last |= {int(n): (box[row], time) for row, n in enumerate(number)}
        found.append(number)
    return found


def pairs(shared: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Rows and columns that go together, the largest overlap first, each at most once, none below ``least``."""
    made: list[tuple[int, int]] = []
    rows, columns = set[int](), set[int]()
    for place in np.argsort(-shared, axis=None, kind="stable"):
        row, column = divmod(int(place), shared.shape[1])
        if shared[row, column] < least:
            break
        if row not in rows and column not in columns:
            made.append((row, column))
            rows.add(row)
            columns.add(column)
    return made


def switches(told: Sequence[int], own: Sequence[int]) -> np.ndarray:
    """Where a told track, found again, is another track of the video than when it was last found: ``N`` bool [MOT].

    Args:
        told, own: of every pair, in order of time, the told track and the video's.
    """
    before: dict[int, int] = {}
    found = np.zeros(len(told), bool)
    for n, (track, number) in enumerate(zip(told, own, strict=True)):
        found[n] = before.get(track, number) != number
        before[track] = number
    return found
