"""``drivesim index --labels`` and ``drivesim scenario``: labels of real clips, edited, drawn, and written again."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivesim.data import video
from drivesim.data.index import Index
from drivesim.errors import Mistake
from drivesim.jobs import index, scenario
from drivesim.rollout import scenario as scenarios
from tests.data.numbered import write

CAMERA = "ftheta_camera_front_wide_120fov"
CLIP = "av_002b815b-7595-4d54-a9f4-4c62c83d3009_0"


@pytest.fixture
def bundle(shared: Path) -> Path:
    return shared / "data" / "permissive" / "cosmos_multiview"


def written(folder: Path, text: str) -> Path:
    file = folder / "cut-in.yaml"
    file.write_text(text)
    return file


def over_the_clip(bundle: Path, more: str = "") -> str:
    clip, labels = bundle / "videos" / CAMERA / f"{CLIP}.mp4", bundle / "box_tracks_derived" / CAMERA
    return f"opening: {{clip: '{clip}', labels: '{labels}', format: bdd100k}}\nseconds: 0.5\nboxes: tracks\n{more}"


def test_labels_join_an_index_by_name(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = index.run(bundle / "videos" / CAMERA, tmp_path / "index", labels=bundle / "box_tracks_derived" / CAMERA)
    made = Index.open(out)
    boxes = [made.boxes(entry.clip_id) for entry in made.entries]
    assert sum(map(len, (b for b in boxes if b is not None))) == 550 + 108
    assert all(entry.cars is not None and entry.labels and entry.labels.startswith("bdd100k") for entry in made.entries)
    assert "6 clips with 658 boxes" in capsys.readouterr().out.replace("\n", " ")


def test_labels_of_other_videos_are_refused_before_anything_is_written(bundle: Path, tmp_path: Path) -> None:
    labels = bundle / "box_tracks_derived" / CAMERA
    with pytest.raises(Mistake, match=r"none of its labels belongs to a clip .*\n.*the clips are called"):
        index.run(bundle.parent / "udacity_carnd", tmp_path / "index", labels=labels)
    assert not (tmp_path / "index").exists()
    with pytest.raises(Mistake, match=r"none of its labels .*\n.*that several clips have: narrow the recipe's include"):
        index.run(bundle / "videos", tmp_path / "index", labels=labels)
    with pytest.raises(Mistake, match="no label format 'bdd'\n.*bdd100k"):
        index.run(bundle / "videos" / CAMERA, tmp_path / "index", labels=labels, form="bdd")


def test_a_rendered_world_takes_no_labels(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[2] / "datasets" / "world" / "recipe.yaml"
    with pytest.raises(Mistake, match="exact boxes of its own"):
        index.run(recipe, tmp_path / "index", labels=tmp_path)


def test_boxes_are_drawn_over_the_clip(bundle: Path, tmp_path: Path) -> None:
    file = written(tmp_path, over_the_clip(bundle, "size: [270, 480]\n"))
    scenario.run("preview", file, tmp_path / "preview.mp4")
    info = video.probe(tmp_path / "preview.mp4")
    assert (info.height, info.width, info.frames) == (270, 480, 15)
    plain = video.read(bundle / "videos" / CAMERA / f"{CLIP}.mp4", frames=1, size=(270, 480)).frames[0]
    drawn = video.read(tmp_path / "preview.mp4", frames=1).frames[0]
    changed = np.abs(drawn.astype(int) - plain).max(axis=2) > 40
    assert 0.005 < changed.mean() < 0.2


def test_edits_are_written_as_labels(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edits = """edits:
- {op: insert, track: cut-in, class: truck,
   keys: [{t: 0, box: [0.1, 0.4, 0.3, 0.6]}, {t: 0.4, box: [0.4, 0.4, 0.6, 0.6]}]}
"""
    file = written(tmp_path, over_the_clip(bundle, edits))
    scenario.run("convert", file, tmp_path / "labels", "bdd100k")
    shown = written(tmp_path, f"opening: {{generate: {{}}}}\nseconds: 1\nboxes: tracks\n{edits}")
    scenario.run("check", shown)
    assert "1 edits" in capsys.readouterr().out
    from drivesim.data.annotations import Footage, Remarks
    from drivesim.data.formats.known import of

    remarks = Remarks()
    (read,) = of(tmp_path / "labels").read(tmp_path / "labels", lambda _: Footage(fps=Fraction(30)), remarks)
    (number,) = [n for n in set(read.boxes.track.tolist()) if read.id_of(n) == "cut-in"]
    rows = read.boxes.track == number
    assert rows.sum() == 13 and {read.boxes.cls[n] for n in np.flatnonzero(rows)} == {"truck"}
    assert read.boxes.box[rows][-1] == pytest.approx([0.4, 0.4, 0.6, 0.6], abs=1e-3)


@pytest.mark.parametrize(
    ("action", "form", "words"),
    [
        ("prevew", None, "'preview'"),
        ("convert", None, "is missing: convert needs it"),
        ("check", "kitti", "belongs to convert"),
        ("convert", "nuscenes", "only read\n.*kitti"),
    ],
)
def test_what_cannot_be_meant_is_said(tmp_path: Path, action: str, form: str | None, words: str) -> None:
    file = written(tmp_path, "boxes: none\n")
    with pytest.raises(Mistake, match=words):
        scenario.run(action, file, tmp_path / "out", form)


def test_an_edit_of_a_track_that_is_not_there_names_the_nearest(bundle: Path, tmp_path: Path) -> None:
    file = written(tmp_path, over_the_clip(bundle, "edits: [{op: delete, track: nobody}]\n"))
    with pytest.raises(Mistake, match=r"cut-in.yaml line 4: edits\[0\].track: there is no track 'nobody' to delete"):
        scenario.run("check", file)


def two_tracks(folder: Path, id: str = "b", cls: str = "car", t: float = 0, box: str = "[0.4, 0.4, 0.6, 0.6]") -> Path:
    first = "{id: a, class: car, keys: [{t: 0, box: [0.1, 0.1, 0.2, 0.2]}]}"
    second = f"{{id: {id}, class: {cls}, keys: [{{t: {t}, box: {box}}}]}}"
    return written(folder, f"boxes: tracks\nseconds: 1\ntracks:\n- {first}\n- {second}\n")


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"box": "[.nan, 0.4, 0.6, 0.6]"}, r"keys\[0\].box\[0\]: a number .*, not NaN"),
        ({"box": "[0.6, 0.4, 0.4, 0.6]"}, r"keys\[0\].box: .* has no area"),
        ({"box": "[0.4, 0.4, 0.4, 0.6]"}, r"keys\[0\].box: .* has no area"),
        ({"cls": "hovercraft"}, 'class: "hovercraft" is not known\n  known: bicycle'),
        ({"id": "a"}, "id: there is a track 'a' already\n  name it otherwise"),
        ({"box": "[0.4, 0.4, 0.2, 0.2]"}, r"keys\[0\].box: .* has no area\n.* right and lower edge"),
        ({"box": "[512, 288, 768, 432]"}, r"keys\[0\].box\[0\]: .*, not 512\n  box: .* fractions of the frame"),
    ],
    ids=["31 NaN", "32 inverted", "34 zero area", "35 unknown class", "36 duplicate id", "39 xywh", "40 pixels"],
)
def test_a_bad_box_is_one_mistake_with_its_line(tmp_path: Path, second: dict[str, str], words: str) -> None:
    """The defects of ``tests/data/formats/test_bad.py``; 38 has no place here, where frames have no size."""
    scenario.run("check", two_tracks(tmp_path))
    with pytest.raises(Mistake, match=rf"cut-in.yaml line 5: tracks\[1\].{words}") as caught:
        scenario.run("check", two_tracks(tmp_path, **second))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    "second", [{"box": "[1.1, 0.4, 1.3, 0.6]"}, {"t": 1}], ids=["33 outside the frame", "37 past the end"]
)
def test_a_track_that_no_frame_shows_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], second: dict[str, Any]
) -> None:
    scenario.run("check", two_tracks(tmp_path, **second))
    _, line = capsys.readouterr().out.splitlines()
    assert line.startswith("labels 1 x is never in the picture") and line.endswith("first track 'b'")


def test_labels_of_frames_of_another_shape_say_why_they_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "drive.mp4", 5, Fraction(10), size=(64, 128))
    row = "0,1,car,10,10,40,40,128,128"
    (tmp_path / "drive.csv").write_text(f"frame,track,class,x0,y0,x1,y1,frame_width,frame_height\n{row}\n")
    file = written(tmp_path, "{opening: {clip: drive.mp4, labels: drive.csv}, boxes: tracks}\n")
    with pytest.raises(Mistake, match="drive.csv: has no labels of 'drive'\n.*another shape .*128x128.*128x64"):
        scenario.run("check", file)


def test_the_schema_is_printed_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario.run("schema", None)
    printed = json.loads(capsys.readouterr().out)
    for _ in range(2):  # the second time in place of the first
        scenario.run("schema", None, tmp_path / "scenario.schema.json")
    with pytest.raises(Mistake, match="is a folder\n.*scenario.schema.json"):
        scenario.run("schema", None, tmp_path)
    assert printed == json.loads((tmp_path / "scenario.schema.json").read_text()) == scenarios.json_schema()
