"""Scenarios of clips that an index knows: their first frames open a rollout, which is told what the clip is labelled
with."""

from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

from drivesim import config, disk
from drivesim.data.annotations import Labelled, Remarks
from drivesim.data.formats import known
from drivesim.data.index import Entry
from drivesim.scene import Boxes, Labels

FORM = "mot"  # of the clip's boxes: a file a clip, at the clip's own rate


def write(
    entry: Entry,
    boxes: Boxes | None,
    folder: Path,
    name: str,
    seconds: float,
    fps: Fraction,
    seed: int = 0,
    at: float = 0.0,
) -> Path:
    """``folder/name.yaml``: the clip from second ``at`` on, and its boxes, where they are known, beside it."""
    labels = Labels(entry.night, entry.cars)
    opening: dict[str, Any] = {"clip": str(entry.file.resolve()), "at": at, "frames": 2}
    scenario: dict[str, Any] = {
        "version": 1,
        "opening": opening,
        "seconds": seconds,
        "fps": str(fps),
        "seeds": [seed],
        "labels": {key: value for key, value in asdict(labels).items() if key in ("night", "cars")},
    }
    if boxes is not None:
        form = known.written(FORM)
        assert form.write is not None
        place, size = folder / "labels" / name, (entry.height, entry.width)
        times = tuple(n / entry.fps for n in range(entry.frames))
        form.write([Labelled(entry.file.stem, boxes, size, times, {}, labels)], place, entry.fps, Remarks())
        opening |= {"labels": f"labels/{name}", "format": FORM}
        scenario["boxes"] = "tracks"
    file = folder / f"{name}.yaml"
    disk.write_atomic(file, config.to_yaml(scenario).encode())
    return file
