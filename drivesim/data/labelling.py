"""Label files join an index: by the name that they give each video; with them come its boxes, its night, its cars."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats import Format
from drivesim.data.index import Entry, Rows
from drivesim.errors import Mistake
from drivesim.scene import CARS, Boxes

NO_CLIP = "labels of a video that is not in the folder"
SEVERAL = "labels of a name that several clips have: narrow the recipe's include to one of them"


def join(rows: Rows, place: Path, form: Format, remarks: Remarks) -> int:
    """Reads the labels at ``place`` and gives them to the clips of ``rows`` that have their names.

    Returns:
        How many clips have labels now.

    Raises:
        Mistake: the labels cannot be read, or none of them belongs to a clip.
    """
    named = defaultdict(list)
    for number, entry in enumerate(rows.entries):
        named[Path(entry.path).stem].append(number)

    def known(video: str) -> Footage:
        found = named.get(video, [])
        return footage(rows.entries[found[0]]) if len(found) == 1 else Footage()

    read = form.read(place, known, remarks)
    taken = 0
    for labelled in read:
        found = named.get(labelled.video, [])
        if len(found) != 1:
            remarks.add(SEVERAL if found else NO_CLIP, labelled.video)
            continue
        entry = rows.entries[found[0]]
        rows.entries[found[0]] = with_labels(entry, labelled, f"{form.name}: {place.name}")
        rows.boxes[entry.clip_id] = labelled.boxes
        taken += 1
    if not taken:
        names = ", ".join(f"'{labelled.video}'" for labelled in read[:3]) or "no video"
        clips = ", ".join(f"'{name}'" for name in list(named)[:3])
        mend = f"the clips are called {clips}"
        if not read or any(labelled.video in named for labelled in read):  # of several clips, then
            mend = "; ".join(remarks.lines())
        raise Mistake(f"none of its labels belongs to a clip (it names {names})", where=place, mend=mend)
    return taken


def footage(entry: Entry) -> Footage:
    return Footage((entry.height, entry.width), entry.fps, entry.frames)


def with_labels(entry: Entry, labelled: Labelled, source: str) -> Entry:
    """The row with what the labels know: they go before the measured night."""
    night = entry.night if labelled.labels.night is None else labelled.labels.night
    return replace(entry, night=night, cars=cars(labelled.boxes, len(labelled.times)), labels=source)


def cars(boxes: Boxes, moments: int) -> int | None:
    """The paper's label: how many vehicles of ``CARS`` are seen, on average of the moments that were labelled."""
    if not moments:
        return None
    return round(int((np.isin(boxes.cls, CARS) & ~boxes.ignored).sum()) / moments)
