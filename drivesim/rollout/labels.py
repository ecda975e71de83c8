"""labels.parquet: what every frame of a rollout's video is, and what the models were told of it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from drivesim.rollout.plan import Plan
from drivesim.scene import Labels

SCHEMA = pa.schema(
    [
        ("frame", pa.int64()), ("time_num", pa.int64()), ("time_den", pa.int64()), ("kind", pa.string()),
        ("night", pa.bool_()), ("cars", pa.int32()),
    ]
)  # fmt: skip


def save(file: Path, plan: Plan, filled: str, labels: Labels, front: int, real: int) -> None:
    """A row a frame of video.mp4.

    Args:
        filled: what frames are called that no model made.
        front: real frames before the output's frame 0.
        real: frames of the output itself that are real, 0 or 1.
    """
    made = (plan.kind(n) for n in range(real, plan.total))
    kinds = ["real"] * (front + real) + [filled if kind == "filled" else kind for kind in made]
    times = [n / plan.fps for n in range(len(kinds))]
    columns = {
        "frame": list(range(len(kinds))),
        "time_num": [time.numerator for time in times],
        "time_den": [time.denominator for time in times],
        "kind": kinds,
        "night": [labels.night] * len(kinds),
        "cars": [labels.cars] * len(kinds),
    }
    part = file.with_name(f".{file.name}.part")
    pq.write_table(pa.table(columns, schema=SCHEMA), part)
    part.replace(file)
