"""What lies beside a generated video: ``labels.parquet``, a row a frame, and ``boxes.parquet``, a row a box.

Frames say what they are and what the models were told; boxes have the schema of an index's, so that a folder of runs is
indexed with its boxes (``sources``). Where boxes are unknown, there is no second table.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drivesim.data import index
from drivesim.data.annotations import Labelled
from drivesim.disk import sha256, write_atomic
from drivesim.errors import Mistake
from drivesim.scene import Labels, joined

VIDEO, FRAMES, BOXES = "video.mp4", "labels.parquet", index.BOXES
SOURCE = "generated"  # where the boxes are from
FRAMES_SCHEMA = pa.schema(
    [
        ("frame", pa.int64()), ("time_num", pa.int64()), ("time_den", pa.int64()), ("kind", pa.string()),
        ("night", pa.bool_()), ("cars", pa.int32()), ("boxes", pa.int32()), ("prompt", pa.string()),
        ("made_num", pa.int64()), ("made_den", pa.int64()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Frames:
    """The frames of a video.

    Args:
        kinds: what each is: real, key, interpolated, blended, repeated.
        fps: at which the video is played; ``made``: at which the models made it, None where that is the same.
        labels: what the models were told, frame by frame.
    """

    kinds: Sequence[str]
    fps: Fraction
    labels: Sequence[Labels]
    made: Fraction | None = None


def save(folder: Path, frames: Frames, labelled: Labelled | None) -> None:
    """Writes the tables beside ``folder/video.mp4``, which is whole.

    Args:
        labelled: its boxes, at times of the video; None where they are unknown.
    """
    count = {} if labelled is None else {time: 0 for time in labelled.times}
    for time in labelled.boxes.time if labelled else ():
        count[time] += 1
    times, made = ([n / fps for n in range(len(frames.kinds))] for fps in (frames.fps, frames.made or frames.fps))
    columns = {
        "frame": list(range(len(times))),
        "time_num": [time.numerator for time in times],
        "time_den": [time.denominator for time in times],
        "kind": list(frames.kinds),
        "night": [labels.night for labels in frames.labels],
        "cars": [labels.cars for labels in frames.labels],
        "boxes": [count.get(time) for time in times],
        "prompt": [labels.prompt for labels in frames.labels],
        "made_num": [time.numerator for time in made],
        "made_den": [time.denominator for time in made],
    }
    if labelled is not None:
        clip_id = sha256(folder / VIDEO)
        about = {"clip_id": clip_id, "size": labelled.size, "ids": {str(n): id for n, id in labelled.ids.items()}}
        rows = index.box_table((clip_id, labelled.boxes, SOURCE))
        _write(folder / BOXES, rows.replace_schema_metadata({"drivesim": json.dumps(about)}))
    _write(folder / FRAMES, pa.table(columns, schema=FRAMES_SCHEMA))


def _write(file: Path, table: pa.Table) -> None:
    out = pa.BufferOutputStream()
    pq.write_table(table, out)
    write_atomic(file, out.getvalue().to_pybytes())


def with_past(frames: Frames, labelled: Labelled | None, parent: Path, count: int) -> tuple[Frames, Labelled | None]:
    """What is known of a branch: of its first ``count`` frames what the tables of the video ``parent`` say, which they
    are taken from."""
    rows = pq.read_table(parent.with_name(FRAMES)).slice(0, count).to_pylist()
    labels = [Labels(row["night"], row["cars"], row.get("prompt")) for row in rows]
    past = read(parent)
    frames = replace(frames, labels=[*labels, *frames.labels[count:]])
    if (known := labelled or past) is None:
        return frames, None
    sides = (past, lambda time: time < count / frames.fps), (labelled, lambda time: time >= count / frames.fps)
    ids: dict[str, int] = {}
    boxes, times = [], []
    for side, own in sides:
        if side is not None:
            kept = side.boxes.rows([row for row, time in enumerate(side.boxes.time) if own(time)])
            numbers = [ids.setdefault(side.id_of(int(track)), len(ids)) for track in kept.track]
            boxes.append(replace(kept, track=np.array(numbers, np.int64)))
            times += [time for time in side.times if own(time)]
    named = {number: name for name, number in ids.items() if name != str(number)}
    return frames, replace(known, boxes=joined(*boxes), times=tuple(times), ids=named)


def is_segment(file: Path) -> bool:
    """Whether a rollout's ``video.mp4`` holds it as a part."""
    return file.parent.name == "segments" and (file.parents[1] / "journal.jsonl").is_file()


def first_made(video: Path) -> Fraction | None:
    """The second of the first frame of ``video`` that is not real; None where no table lies beside it, or all are.

    Raises:
        Mistake: the table is broken.
    """
    table = video.with_name(FRAMES)
    if video.name != VIDEO or not table.is_file():
        return None
    try:
        rows = pq.read_table(table, columns=["time_num", "time_den", "kind"]).to_pylist()
    except (pa.ArrowException, OSError) as problem:
        raise Mistake(f"cannot be read ({' '.join(str(problem).split())[:100]})", where=table) from None
    return next((Fraction(row["time_num"], row["time_den"]) for row in rows if row["kind"] != "real"), None)


def read(video: Path, clip_id: str | None = None) -> Labelled | None:
    """The boxes of a video, at its own times; None where no tables lie beside it, or those of another video.

    Args:
        clip_id: SHA-256 of the video's bytes, where it is known already.

    Raises:
        Mistake: the tables are broken.
    """
    boxes, frames = video.with_name(BOXES), video.with_name(FRAMES)
    if video.name != VIDEO or not boxes.is_file() or not frames.is_file():
        return None
    try:
        table, rows = pq.read_table(boxes), pq.read_table(frames).to_pylist()
        about = json.loads((table.schema.metadata or {})[b"drivesim"])
        ids, (height, width) = {int(n): str(id) for n, id in about["ids"].items()}, about["size"]
        if about["clip_id"] != (clip_id or sha256(video)):
            return None
        times = tuple(Fraction(row["time_num"], row["time_den"]) for row in rows if row["boxes"] is not None)
        labels = Labels(rows[0]["night"], rows[0]["cars"])
        return Labelled(video.stem, index.as_boxes(table.to_pylist()), (height, width), times, ids, labels)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as problem:
        raise Mistake(f"cannot be read ({' '.join(str(problem).split())[:100]})", where=boxes) from None
