"""All formats at once: from one to another and back, what each says that it carries, which claims what."""

from fractions import Fraction
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats import Format
from drivesim.data.formats.known import FORMATS, of
from drivesim.errors import Mistake
from tests.data.formats.tracks import FPS, SIZE, video

WRITTEN = [form for form in FORMATS.values() if form.write]
FOOTAGE = Footage(SIZE, FPS, 100)


def drive() -> Labelled:
    """Ten frames: a car that passes, a person who hides for a while."""
    rows = [(n, 3, "car", (100.25 + 20 * n, 300.0, 200.5 + 22 * n, 380.75), 1.0, False) for n in range(10)]
    rows += [(n, 8, "pedestrian", (900.0, 310.5, 930.0, 400.0), 1.0, False) for n in (0, 1, 2, 6, 7)]
    return video(rows, range(10))


def through(name: str, labelled: Labelled, folder: Path) -> Labelled:
    form = FORMATS[name]
    assert form.write is not None
    form.write([labelled], folder, FPS, Remarks())
    (found,) = form.read(folder, lambda _: FOOTAGE, Remarks())
    return found


@pytest.mark.parametrize(("first", "second"), list(permutations([form.name for form in WRITTEN], 2)))
def test_from_one_to_another_no_corner_moves_by_half_a_pixel(tmp_path: Path, first: str, second: str) -> None:
    before = drive()
    after = through(second, through(first, before, tmp_path / "first"), tmp_path / "second")
    assert after.boxes.time == before.boxes.time and after.boxes.cls == before.boxes.cls
    assert np.abs((after.boxes.box - before.boxes.box) * (1280, 720, 1280, 720)).max() < 0.5
    names = [[one.id_of(int(track)) for track in one.boxes.track] for one in (before, after)]
    assert names[0] == names[1]
    assert after.boxes.visibility.tolist() == before.boxes.visibility.tolist()


@pytest.mark.parametrize("form", WRITTEN, ids=lambda form: form.name)
def test_what_a_format_writes_it_alone_claims(tmp_path: Path, form: Format) -> None:
    assert form.write is not None
    form.write([drive()], tmp_path / "labels", FPS, Remarks())
    assert of(tmp_path / "labels") is form


def test_what_is_of_no_format_lists_all(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a car, I think\n")
    with pytest.raises(Mistake, match="no format that is known\n.*bdd100k"):
        of(tmp_path)


@pytest.mark.parametrize("form", WRITTEN, ids=lambda form: form.name)
def test_times_off_the_grid_are_told(tmp_path: Path, form: Format) -> None:
    assert form.write is not None
    remarks = Remarks()
    form.write([drive()], tmp_path, Fraction(7), remarks)
    assert bool(remarks.lines()) == ("times" not in form.carries)
