"""The forty bad inputs, each at every door where it can enter: index, train, generate, evaluate and scenario.

Files are made by ``bad.py`` (1 to 30, videos) and ``formats/test_bad.py`` (31 to 40, boxes). Each door gets the real
command, in this process; ``generate`` has models without networks. Of every input the table says what is told of it at
which door; what can be used there is told nothing, and is used.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from io import StringIO
from pathlib import Path

import pytest

from drivesim import cli
from drivesim.data import annotations
from drivesim.data.index import Index
from drivesim.data.loader import ClipData
from drivesim.data.sources import build
from drivesim.errors import Mistake
from tests.rollout.mock import stack

from .bad import BAD, Bad, as_user, change
from .formats.test_bad import BOX, FRAMES, GOOD, HEIGHT, WIDTH, WRITERS, Row, changed, one
from .numbered import write

USED = ""
CHANGED, GONE = "has changed since it was indexed", "is gone since it was indexed"
DOORS = ("index", "train", "generate", "evaluate", "scenario")
RATE = Fraction(25)


@dataclass(frozen=True)
class Input:
    """
    Args:
        name: as in ``bad.py``.
        told: by door, the words that are told of it there; ``USED``: nothing is wrong with it there.
    """

    number: int
    name: str
    told: dict[str, str]


def _video(bad: Bad, **otherwise: str) -> Input:
    """Refused, or used, with the same words at every door; in training, an indexed file that was replaced by it."""
    told = dict.fromkeys(DOORS, bad.refused) | {"train": CHANGED}
    return Input(bad.number, bad.name, told | otherwise)


# What differs from door to door; else the same is told everywhere. Clips of 16 frames at 25 a second are scored; an
# opening takes 8/15 s.
OTHERWISE = {
    9: {"index": "is damaged", "evaluate": "is damaged"},  # behind the opening
    14: {"evaluate": "runs slower than"},
    23: {"index": USED, "evaluate": USED, "train": GONE},  # what is not there is not found in a folder
    25: {"train": GONE},
    27: {"index": "has the same bytes as", "evaluate": "has the same bytes as"},
    28: {"generate": "has", "evaluate": "is shorter than a clip"},
    29: {"evaluate": "runs slower than"},
    30: {"evaluate": CHANGED},
}
BOXES = {
    31: ("NaN", annotations.NOT_A_NUMBER),
    32: ("inverted", annotations.INVERTED),
    33: ("outside the frame", annotations.OUTSIDE),
    34: ("zero area", annotations.FLAT),
    35: ("unknown class", annotations.UNKNOWN_CLASS),
    36: ("duplicate track id", annotations.TWICE),
    37: ("frame past the end", annotations.TOO_LATE),
    38: ("wrong image size", annotations.OTHER_SIZE),
    39: ("xywh taken for xyxy", annotations.LIKE_SIZES),
    40: ("normalised taken for pixels", annotations.LIKE_FRACTIONS),
}
NAN = float("nan")
ROWS: dict[int, tuple[Row, ...]] = {
    31: one((NAN, 300.0, 560.0, 360.0)),
    32: one((560.0, 300.0, 500.0, 360.0)),
    33: one((1300.0, 300.0, 1360.0, 360.0)),
    34: one((500.0, 300.0, 500.0, 360.0)),
    35: one(BOX, word="hovercraft"),
    36: one(BOX, track=1),
    37: one(BOX, frame=FRAMES),
    38: GOOD,
    39: changed(lambda x0, y0, x1, y1: (x0, y0, x1 - x0, y1 - y0)),
    40: changed(lambda x0, y0, x1, y1: (x0 / WIDTH, y0 / HEIGHT, x1 / WIDTH, y1 / HEIGHT)),
}
# Boxes enter with an index and with a scenario; training has them from the index, and no score looks at them.
FORTY = (
    *(_video(bad, **OTHERWISE.get(bad.number, {})) for bad in BAD),
    *(Input(n, name, {"index": why, "generate": why, "scenario": why}) for n, (name, why) in BOXES.items()),
)


def test_forty() -> None:
    assert [each.number for each in FORTY] == list(range(1, 41)) == [*(b.number for b in BAD), *ROWS]
    assert all(set(each.told) == set(DOORS) for each in FORTY[:30])


def command(*words: object) -> tuple[int, str]:
    """The status, and all that is said."""
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said), as_user():
        status = cli.main([str(word) for word in words])
    return status, " ".join(said.getvalue().split())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The thirty videos, a folder each."""
    place = tmp_path_factory.mktemp("forty")
    made = {}
    for bad in BAD:
        (folder := place / "clips" / f"{bad.number:02d}").mkdir(parents=True)
        made[bad.number] = bad.make(folder)
    for n in range(4):
        write(place / "clips" / f"good-{n}" / "good.mp4", 40, RATE, first=n)
        write(place / "made" / f"{n}.mp4", 40, RATE, first=100 + n)
    return made


@pytest.fixture(scope="module")
def indexed(inputs: dict[int, Path]) -> tuple[dict[str, str], set[str]]:
    """Why a file was left out by ``index``, and those that were taken, by their folders."""
    place = inputs[1].parents[2]
    status, said = command("index", place / "clips", "--out", place / "index")
    assert status == 0 and "files left out" in said
    lines = map(json.loads, (place / "index" / "quarantine.jsonl").read_text().splitlines())
    reasons = {line["path"][:2]: line["reason"] for line in lines if "pool" not in line["path"]}
    return reasons, {entry.path[:2] for entry in Index.open(place / "index").entries}


@pytest.fixture(scope="module")
def scored(inputs: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Why ``evaluate`` left out a file, by its folder."""
    place = inputs[1].parents[2]
    out = tmp_path_factory.mktemp("scored")
    more = ["--fps", "25", "--no-controls", "--device", "cpu", "--cache", out / "cache", "--out", out / "scores"]
    status, said = command("evaluate", place / "clips", place / "made", *more)
    assert status == 0, said
    left_out = json.loads((out / "scores" / "scores.json").read_text())[0]["left_out"]
    files = {Path(file): row["reason"] for row in left_out for file in row["examples"]}
    assert sum(row["count"] for row in left_out) >= 20
    return {file.parent.name: reason for file, reason in files.items() if file.name != "pool.mp4"}


@pytest.fixture
def mocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from drivesim.jobs import generate

    boxed = stack(boxed=lambda boxes, cells, condition: condition)
    monkeypatch.setattr(generate.stacks, "load", lambda *weights: boxed)
    yield


def by_number(number: int) -> Input:
    return FORTY[number - 1]


@pytest.mark.parametrize("number", range(1, 31))
def test_an_index_leaves_it_out_or_takes_it(indexed: tuple[dict[str, str], set[str]], number: int) -> None:
    reasons, taken = indexed
    name, words = f"{number:02d}", by_number(number).told["index"]
    if number in (27, 30):  # two clips that are alike: one of the three stands for all
        assert "has the same bytes as" in reasons.get(name, reasons["27"])
    elif words:
        assert words in reasons[name] and (name not in taken or number == 21)  # beside the playlist lies a video
    else:
        assert name not in reasons and (name in taken) == (number != 23)


@pytest.mark.parametrize("number", range(1, 31))
def test_a_score_leaves_it_out_or_takes_it(
    scored: dict[str, str], inputs: dict[int, Path], tmp_path: Path, number: int
) -> None:
    words = by_number(number).told["evaluate"]
    if number == 30:
        write(tmp_path / "clips" / "a.mp4", 40, RATE)
        build(tmp_path / "clips", tmp_path / "index")
        change(tmp_path / "clips" / "a.mp4")
        status, said = command("evaluate", tmp_path / "index", inputs[1].parents[2] / "made", "--device", "cpu")
        assert status == 2 and words in said
    elif number == 27:
        assert any(words in reason for reason in scored.values())
    elif words:  # a score names five files of a reason
        assert words in scored.get(f"{number:02d}", words)
    else:
        assert f"{number:02d}" not in scored


@pytest.mark.parametrize("number", range(1, 31))
@pytest.mark.usefixtures("mocked")
def test_an_opening_of_it_is_refused_or_taken(inputs: dict[int, Path], tmp_path: Path, number: int) -> None:
    words, clip = by_number(number).told["generate"], inputs[number]
    more = ["--device", "cpu", "--minutes", "0.02", "--size", "32x64", "sampler.steps=1", "--out", tmp_path / "run"]
    status, said = command(
        "generate", "--weights", tmp_path, "--opening", os.fsencode(clip).decode(errors="surrogateescape"), *more
    )
    if words:
        assert status == 2 and words in said and not (tmp_path / "run").exists()
    else:
        assert status == 0, said


@pytest.mark.parametrize("number", range(1, 31))
def test_a_scenario_with_it_is_refused_or_taken(inputs: dict[int, Path], tmp_path: Path, number: int) -> None:
    words = by_number(number).told["scenario"]
    name = json.dumps(str(inputs[number]))  # YAML knows JSON's escapes, but for the halves of characters
    (tmp_path / "s.yaml").write_text(f"seconds: 2\nopening: {{clip: {name}}}\n")
    status, said = command("scenario", "check", tmp_path / "s.yaml")
    if number == 26:
        assert status == 2 and "write it in UTF-8" in said
    elif words:
        assert status == 2 and words in said
    else:
        assert status == 0, said


@pytest.mark.parametrize("number", range(1, 31))
def test_a_training_notices_that_it_took_the_place_of_a_clip(
    inputs: dict[int, Path], tmp_path: Path, number: int
) -> None:
    file = write(tmp_path / "clips" / "a.mp4", 40, RATE)
    build(tmp_path / "clips", tmp_path / "index")
    bad = inputs[number]
    if number == 30:
        change(file)
    else:
        file.unlink()
        if bad.is_symlink():
            file.symlink_to(file.name)
        elif bad.is_dir():
            shutil.copytree(bad, file)
        elif bad.exists():
            file.write_bytes(bad.read_bytes())
    with pytest.raises(Mistake) as caught:
        ClipData(tmp_path / "index", frames=1, fps=Fraction(1), size=(64, 128), batch=1, steps=1)
    assert caught.value.what == by_number(number).told["train"] and caught.value.where == file


@pytest.mark.parametrize("number", range(31, 41))
@pytest.mark.parametrize("door", ["index", "generate", "scenario"])
@pytest.mark.usefixtures("mocked")
def test_boxes_are_told_in_one_line(tmp_path: Path, number: int, door: str) -> None:
    size = (HEIGHT // 10 * 8, WIDTH) if number == 38 else (HEIGHT, WIDTH)
    write(tmp_path / "clips" / "drive.mp4", FRAMES, Fraction(5), size=size)
    (tmp_path / "labels").mkdir()
    WRITERS["cvat"](ROWS[number], tmp_path / "labels")
    opening = "opening: {clip: clips/drive.mp4, frames: 1, labels: labels, format: cvat}"
    (tmp_path / "s.yaml").write_text(f"seconds: 1\nfps: 15/8\nboxes: tracks\n{opening}\n")
    words = {
        "index": ("index", tmp_path / "clips", "--labels", tmp_path / "labels", "--out", tmp_path / "index"),
        "scenario": ("scenario", "check", tmp_path / "s.yaml"),
        "generate": (
            "generate",
            tmp_path / "s.yaml",
            "--weights",
            tmp_path,
            "--out",
            tmp_path / "run",
            "--device",
            "cpu",
            "sampler.steps=1",
        ),
    }[door]
    status, said = command(*words)
    told = by_number(number).told[door]
    assert f"x {told}" in said, said
    whole = told in (annotations.OTHER_SIZE, annotations.LIKE_SIZES, annotations.LIKE_FRACTIONS)
    assert status == (2 if whole else 0)  # a file of which nothing is left holds no labels of the clip


@pytest.mark.slow
def test_a_training_of_which_a_tenth_of_the_clips_is_bad_finishes(tmp_path: Path) -> None:
    """Of thirty files three cannot be read: ``index`` names them. Two of the rest go bad before the training."""
    for n in range(27):
        write(tmp_path / "clips" / f"{n:02d}.mp4", 40, RATE, first=n)
    for n, number in enumerate((1, 5, 20)):
        (folder := tmp_path / "clips" / f"bad-{n}").mkdir()
        BAD[number - 1].make(folder)
    status, said = command("index", tmp_path / "clips", "--out", tmp_path / "index")
    assert status == 0 and "27 clips" in said and "3 files left out" in said
    entries = Index.open(tmp_path / "index").split("train")
    change(entries[0].file)
    entries[1].file.unlink()
    model = "model={channels: [32], blocks: 1, latent: 4, attention: false, groups: 8, patch: 4}"
    quick = ["size=[64, 128]", model, "loop={steps: 3, batch: 2, ema: 0, precision: 32-true}", "statistics=4"]
    words = [
        "train",
        "autoencoder",
        f"index={tmp_path / 'index'}",
        *quick,
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
    ]
    status, said = command(*words)
    assert status == 0, said
    assert f"1 clip left out: {CHANGED}" in said and f"1 clip left out: {GONE}" in said
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["status"] == "done" and facts["left_out"] == {CHANGED: 1, GONE: 1}
