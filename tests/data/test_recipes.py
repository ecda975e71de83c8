"""The recipes of ``datasets/``: every card says what it must, and a small imitation of each layout is indexed."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from drivesim.data import index, sources, video
from drivesim.data.annotations import Remarks
from drivesim.data.formats import kitti
from drivesim.data.index import Entry, Index
from drivesim.data.sources import Recipe, load_recipe
from drivesim.errors import Mistake
from drivesim.jobs import index as job

from .formats import tracks
from .numbered import numbers, picture, write

RECIPES = Path(__file__).resolve().parents[2] / "datasets"


def recipe(name: str) -> Path:
    return RECIPES / name / "recipe.yaml"


def indexed(root: Path, name: str) -> Index:
    """``root`` by the recipe ``name``, as the command does it."""
    return Index.open(job.run(root, root.parent / "index", recipe(name)))


def by_path(made: Index) -> dict[str, Entry]:
    return {entry.path: entry for entry in made.entries}


def quarantined(made: Index) -> dict[str, str]:
    lines = (made.folder / index.QUARANTINE).read_text().splitlines()
    return {line["path"]: line["reason"] for line in map(json.loads, lines)}


def on_one_side(made: Index) -> bool:
    """No drive is on both sides of the split, and both sides hold some."""
    sides = [{entry.drive for entry in made.split(name)} for name in ("train", "val")]
    return all(sides) and not sides[0] & sides[1]


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*/recipe.yaml")), ids=lambda file: file.parent.name)
def test_every_recipe_has_a_card_with_its_licence_and_its_command(file: Path) -> None:
    rules, card = load_recipe(file), (file.parent / "README.md").read_text(encoding="utf-8")
    assert rules.licence and all(part in card for part in rules.licence.split(" (")[0].split(", "))
    (command,) = re.findall(r"drivesim index .*", file.read_text(encoding="utf-8"))
    assert f"datasets/{file.parent.name}/recipe.yaml" in command and f"\n{command}\n" in card
    assert {path.name for path in file.parent.iterdir()} == {"README.md", "recipe.yaml"}


# bdd100k: 30 frames a second, 5 of them labelled


def bdd100k_frames(name: str, count: int) -> list[dict[str, Any]]:
    """As MOT 2020 has them; the car moves by 10 pixels a labelled frame."""
    return [
        {
            "name": f"{name}-{n + 1:07d}.jpg",
            "videoName": name,
            "frameIndex": n,
            "labels": [
                {
                    "id": "00091078",
                    "category": "car",
                    "attributes": {"occluded": False, "truncated": False, "crowd": False},
                    "box2d": {"x1": 10.0 * n, "y1": 20.0, "x2": 10.0 * n + 31, "y2": 51.0},
                }
            ],
        }
        for n in range(count)
    ]


def bdd100k_labels(root: Path, side: str, name: str, count: int) -> None:
    file = root / "labels" / "box_track_20" / side / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(bdd100k_frames(name, count)))


def assert_bdd100k_boxes(made: Index, entry: Entry) -> None:
    boxes = made.boxes(entry.clip_id)
    assert boxes is not None and boxes.time == tuple(Fraction(n, 5) for n in range(8))
    width, height = entry.width, entry.height
    assert boxes.box * (width, height, width, height) == pytest.approx(
        np.array([[10 * n, 20, 10 * n + 32, 52] for n in range(8)])  # corners are inclusive
    )
    assert (entry.cars, set(boxes.cls), set(boxes.visibility)) == (1, {"car"}, {1.0})


def test_bdd100k(tmp_path: Path) -> None:
    root, size = tmp_path / "bdd100k", (72, 128)
    names = {"train": ["0000f77c-6257be58", "0000f77c-62c2a288", "0001542f-5ce3cf52"], "val": ["b1c66a42-6f7d68ca"]}
    for n, (side, name) in enumerate((side, name) for side, own in names.items() for name in own):
        write(root / "videos" / side / f"{name}.mov", 45, Fraction(30), size, first=50 * n)
    bdd100k_labels(root, "train", "0000f77c-6257be58", 8)
    bdd100k_labels(root, "val", "b1c66a42-6f7d68ca", 8)
    bdd100k_labels(root, "val", "c0000000-00000000", 8)  # of an archive that is not there
    made = indexed(root, "bdd100k")
    found = by_path(made)
    assert {path: entry.drive for path, entry in found.items()} == {
        "videos/train/0000f77c-6257be58.mov": "bdd100k/0000f77c",
        "videos/train/0000f77c-62c2a288.mov": "bdd100k/0000f77c",
        "videos/train/0001542f-5ce3cf52.mov": "bdd100k/0001542f",
        "videos/val/b1c66a42-6f7d68ca.mov": "bdd100k/b1c66a42",
    }
    assert {(entry.fps, entry.rate, entry.seconds) for entry in found.values()} == {(30, None, 1.5)}
    assert on_one_side(made)
    for path in ("videos/train/0000f77c-6257be58.mov", "videos/val/b1c66a42-6f7d68ca.mov"):
        assert_bdd100k_boxes(made, found[path])
    unlabelled = found["videos/train/0001542f-5ce3cf52.mov"]
    assert made.boxes(unlabelled.clip_id) is None and unlabelled.cars is None


def test_bdd100ks_labelled_clips_as_pictures(tmp_path: Path) -> None:
    """The three lines that the card changes."""
    root = tmp_path / "bdd100k"
    for n, name in enumerate(["0000f77c-6257be58", "b1c66a42-6f7d68ca"]):
        pictures(root / "images/track/train" / name, [f"{name}-{k + 1:07d}.jpg" for k in range(8)], first=9 * n)
        bdd100k_labels(root, "train", name, 8)
    rules = replace(load_recipe(recipe("bdd100k")), kind="images", fps=5, include=("images/track/*",))
    made = sources.build(root, tmp_path / "index", rules)
    assert [(entry.drive, entry.fps, entry.frames) for entry in made.entries] == [
        ("bdd100k/0000f77c", 5, 8), ("bdd100k/b1c66a42", 5, 8)
    ]  # fmt: skip
    for entry in made.entries:
        assert_bdd100k_boxes(made, entry)


# kitti: folders of numbered pictures, a label file each


def pictures(folder: Path, names: list[str], size: tuple[int, int] = (72, 128), first: int = 0) -> None:
    folder.mkdir(parents=True)
    for n, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), picture(first + n, size))


def test_kitti(tmp_path: Path) -> None:
    root, names = tmp_path / "KITTI", [f"{n:06d}.png" for n in range(12)]
    sizes = {"0000": (37, 124), "0013": (36, 122)}  # not of one size from day to day, and odd
    for n, (name, size) in enumerate(sizes.items()):
        pictures(root / "training" / "image_02" / name, names, size, first=20 * n)
        pictures(root / "testing" / "image_02" / name, names, size, first=60 + 20 * n)
    rows: list[tracks.Box] = [(n, 3, "Car", (100.0 + 40 * n, 300, 200.0 + 40 * n, 360), 0.7, False) for n in range(12)]
    rows.append((4, -1, "DontCare", (0, 0, 64, 36), float("nan"), True))
    labelled = [tracks.video(rows, range(12), Fraction(10), name) for name in sizes]
    kitti.write([replace(one, size=sizes[one.video]) for one in labelled], root / "training", Fraction(10), Remarks())
    made = indexed(root, "kitti")
    assert [(entry.path, entry.drive, (entry.height, entry.width)) for entry in made.entries] == [
        (f"training/image_02/{name}", f"kitti/training/image_02/{name}", size) for name, size in sizes.items()
    ]
    assert on_one_side(made)
    for entry in made.entries:
        boxes = made.boxes(entry.clip_id)
        assert boxes is not None and (entry.fps, entry.rate, entry.frames, entry.cars) == (10, 10, 12, 1)
        cars = ~boxes.ignored
        assert [time for time, car in zip(boxes.time, cars, strict=True) if car] == [Fraction(n, 10) for n in range(12)]
        assert boxes.box[cars] == pytest.approx(
            np.array([row[3] for row in rows[:-1]]) / (1280, 720, 1280, 720), abs=1e-5
        )
        assert boxes.track[cars].tolist() == [3] * 12 and (~cars).sum() == 1


def test_genuine_kitti(shared: Path, tmp_path: Path) -> None:
    made = Index.open(
        job.run(shared / "data" / "noncommercial" / "kitti_tracking", tmp_path / "index", recipe("kitti"))
    )
    (entry,) = made.entries
    boxes = made.boxes(entry.clip_id)
    assert boxes is not None and entry.path == "training/image_02/0001"
    assert (entry.fps, entry.frames, entry.height, entry.width, entry.night) == (10, 5, 375, 1242, False)
    seen = ~boxes.ignored
    assert (seen.sum(), len(set(boxes.track[seen].tolist()))) == (42, 14)
    assert set(boxes.time) == {Fraction(n, 10) for n in range(5)}  # of 20 frames five are there, one after the other


def test_the_card_of_kitti_names_the_sequences_that_are_held_back() -> None:
    drives = {f"kitti/training/image_02/{n:04d}": f"{n:04d}" for n in range(21)}
    held_back = sorted(drives[drive] for drive in index.val_drives(set(drives), load_recipe(recipe("kitti")).val))
    assert f"{' and '.join(held_back)} are held back" in (RECIPES / "kitti" / "README.md").read_text(encoding="utf-8")


# comma2k19: H.265 without a container, a folder a segment


def bare_hevc(file: Path, count: int, first: int) -> None:
    file.parent.mkdir(parents=True)
    with av.open(str(file), "w", format="hevc") as container:
        stream = container.add_stream("libx265", rate=20, options={"x265-params": "log-level=none:keyint=20:pools=1"})
        stream.height, stream.width = 64, 128
        stream.pix_fmt = "yuv420p"
        for n in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(first + n), format="rgb24")))
        container.mux(stream.encode(None))


def test_comma(tmp_path: Path) -> None:
    root = tmp_path / "comma2k19"
    routes = {
        "Chunk_1/b0c9d2329ad1606b|2018-08-02--08-34-47": ["39", "40"],
        "Chunk_3/99c94dc769b5d96e|2018-05-01--08-13-53": ["3"],
        "Chunk_3/99c94dc769b5d96e_2018-08-17--12-07-08": ["12"],  # as unpacked on Windows
    }
    segments = [f"{route}/{segment}" for route, own in routes.items() for segment in own]
    for n, segment in enumerate(segments):
        bare_hevc(root / segment / "video.hevc", 50, first=60 * n)
        assert cv2.imwrite(str(root / segment / "preview.png"), picture(n))
    made = indexed(root, "comma")
    assert {entry.path: entry.drive for entry in made.entries} == {
        f"{route}/{segment}/video.hevc": f"comma2k19/{route.partition('/')[2]}"
        for route, own in routes.items()
        for segment in own
    }
    assert {(entry.fps, entry.rate, entry.frames, entry.seconds) for entry in made.entries} == {(20, 20, 50, 2.5)}
    assert on_one_side(made) and all(made.boxes(entry.clip_id) is None for entry in made.entries)
    entry = by_path(made)[f"{segments[1]}/video.hevc"]
    clip = video.read(entry.file, fps=Fraction(20), start=Fraction(1), frames=30, rate=entry.rate)
    assert numbers(clip.frames) == list(range(80, 110))
    with pytest.raises(Mistake, match="30 frames"):
        video.read(entry.file, fps=Fraction(20), start=Fraction(1), frames=31, rate=entry.rate)


# nuScenes: the pictures of all scenes in two folders, and tables

SIZE = (90, 160)
START = 1_532_402_927_612_460  # microseconds
LOOKING_AHEAD = [0.5, -0.5, 0.5, -0.5]
TURNS = [0, 2, 3, 5, 7, 8, 10, 12, 13, 15, 17, 18, 20]  # of a lidar, 50 ms each, that the camera looks at
KEYS = (0, 6, 12)
FIRST = 192  # of the pictures' numbers: from here on they are not dark
Tables = dict[str, list[dict[str, Any]]]


def nuscenes_scene(tables: Tables, number: int, name: str, log: str, description: str = "Parked cars") -> None:
    """Adds a second of a vehicle that drives along x at 10 m/s, a car 20 m before it, to the tables.

    The camera has 100 pixels of focal length and sits at the vehicle's origin, 2 m up; the car is a cube of 2 m.
    """

    def add(table: str, **row: Any) -> None:
        tables.setdefault(table, []).append(row)

    add("scene", token=name, name=name, description=description, log_token=log)
    add("instance", token=f"{name}-car", category_token="c")
    for n, turn in enumerate(TURNS):
        key = n in KEYS
        time, x = START + 10**9 * number + 50_000 * turn, 10 * turn / 20
        sample = f"{name}-{next(k for k in KEYS if k >= n)}"
        add("ego_pose", token=f"{name}-{n}", translation=[x, 0, 0], rotation=[1, 0, 0, 0])
        add(
            "sample_data", token=f"{name}-{n}", sample_token=sample, ego_pose_token=f"{name}-{n}",
            calibrated_sensor_token="front", timestamp=time, is_key_frame=key, height=SIZE[0], width=SIZE[1],
            filename=f"{'samples' if key else 'sweeps'}/CAM_FRONT/{log}__CAM_FRONT__{time}.jpg",
        )  # fmt: skip
        if key:
            add("sample", token=sample, scene_token=name, timestamp=time + 1)
            add(
                "sample_annotation", token=f"{name}-{n}", sample_token=sample, instance_token=f"{name}-car",
                translation=[x + 21, 0, 2], size=[2, 2, 2], rotation=[1, 0, 0, 0], visibility_token="4",
            )  # fmt: skip


@pytest.fixture
def nuscenes_set(tmp_path: Path) -> tuple[Path, Tables]:
    """Three scenes of two logs, the pictures numbered through from ``FIRST`` on; the first two are of one log."""
    tables: Tables = {
        "sensor": [{"token": "cam", "channel": "CAM_FRONT"}, {"token": "back", "channel": "CAM_BACK"}],
        "calibrated_sensor": [
            {
                "token": "front", "sensor_token": "cam", "translation": [0, 0, 2], "rotation": LOOKING_AHEAD,
                "camera_intrinsic": [[100, 0, 80], [0, 100, 45], [0, 0, 1]],
            }
        ],
        "category": [{"token": "c", "name": "vehicle.car"}],
        "log": [{"token": name, "logfile": f"{name}-2018-07-24-11-22-45+0800"} for name in ("n015", "n008")],
    }  # fmt: skip
    nuscenes_scene(tables, 0, "scene-0061", "n015")
    nuscenes_scene(tables, 1, "scene-0062", "n015")
    nuscenes_scene(tables, 2, "scene-1077", "n008", "Night, arrive at busstop")
    root = tmp_path / "nuscenes"
    for n, row in enumerate(tables["sample_data"]):
        (root / row["filename"]).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / row["filename"]), picture(FIRST + n, SIZE), [cv2.IMWRITE_JPEG_QUALITY, 98])
    write_tables(root, tables)
    return root, tables


def write_tables(root: Path, tables: Tables) -> None:
    (root / "v1.0-mini").mkdir(exist_ok=True)
    for name, rows in tables.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))


def test_nuscenes(nuscenes_set: tuple[Path, Tables]) -> None:
    root, _ = nuscenes_set
    made = indexed(root, "nuscenes")
    assert [(entry.path, entry.drive, entry.night) for entry in made.entries] == [
        ("videos/scene-0061.mp4", "nuscenes/n015-2018-07-24-11-22-45+0800", False),
        ("videos/scene-0062.mp4", "nuscenes/n015-2018-07-24-11-22-45+0800", False),
        ("videos/scene-1077.mp4", "nuscenes/n008-2018-07-24-11-22-45+0800", True),
    ]
    assert on_one_side(made) and not quarantined(made)
    times = tuple(Fraction(turn, 20) for turn in TURNS)
    for n, entry in enumerate(made.entries):
        assert (entry.frames, entry.rate) == (13, None) and float(entry.fps) == pytest.approx(12, abs=1e-5)
        recording = video.record(entry.file, rate=entry.rate)
        assert recording.times == times and numbers(recording.frames) == [FIRST + 13 * n + k for k in range(13)]
        boxes = made.boxes(entry.clip_id)
        assert boxes is not None and boxes.time == times and entry.cars == 1
        pixels = boxes.box * (160, 90, 160, 90)  # the near side of the car stays 20 m before the camera
        assert pixels == pytest.approx(np.tile([75, 40, 85, 50], (13, 1)))
    moved = root.parent / "moved"
    made.folder.rename(moved)
    for entry in Index.open(moved).entries:
        entry.verify()


def test_nuscenes_pictures_are_not_coded_anew(nuscenes_set: tuple[Path, Tables]) -> None:
    root, tables = nuscenes_set
    made = indexed(root, "nuscenes")
    content = made.entries[0].file.read_bytes()
    assert all((root / row["filename"]).read_bytes() in content for row in tables["sample_data"][:13])
    again = sources.build(root, root.parent / "again", load_recipe(recipe("nuscenes")))
    assert again.digest == made.digest


def test_nuscenes_key_frames_alone(nuscenes_set: tuple[Path, Tables]) -> None:
    """Of the smaller archives there are two pictures a second, which keep their times."""
    root, _ = nuscenes_set
    for file in (root / "sweeps" / "CAM_FRONT").iterdir():
        file.unlink()
    remarks = Remarks()
    made = sources.build(root, root.parent / "index", load_recipe(recipe("nuscenes")), remarks=remarks)
    assert [(entry.frames, entry.fps) for entry in made.entries] == [(3, 2)] * 3
    assert remarks.count == {sources.NO_PICTURE: 30}
    recording = video.record(made.entries[1].file)
    assert recording.times == (0, Fraction(1, 2), 1) and numbers(recording.frames) == [FIRST + 13 + n for n in KEYS]
    boxes = made.boxes(made.entries[1].clip_id)
    assert boxes is not None and {Fraction(0), Fraction(1, 2), Fraction(1)} <= set(boxes.time)


def spoil(root: Path, tables: Tables, change: Callable[[dict[str, Any], Path], object]) -> None:
    """Changes the first picture's row, or its file, of the second scene."""
    row = tables["sample_data"][13]
    change(row, root / row["filename"])
    write_tables(root, tables)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda row, file: file.unlink(), "its first picture is not there"),
        (lambda row, file: file.write_bytes(b"GIF89a" * 9), "is not a PNG or JPEG"),
        (lambda row, file: cv2.imwrite(str(file.with_suffix(".png")), picture(1)) and row.update(
            filename=row["filename"].replace(".jpg", ".png")), "is not a JPEG"),
        (lambda row, file: row.update(filename="../secret.jpg"), "has pictures that lead out of the folder"),
        (lambda row, file: row.update(timestamp=row["timestamp"] + 100_000), "has two pictures of one time"),
    ],
)  # fmt: skip
def test_a_scene_that_cannot_be_used_is_left_out(
    nuscenes_set: tuple[Path, Tables], change: Callable[[dict[str, Any], Path], object], reason: str
) -> None:
    root, tables = nuscenes_set
    assert cv2.imwrite(str(root.parent / "secret.jpg"), picture(1, SIZE))
    spoil(root, tables, change)
    made = indexed(root, "nuscenes")
    assert [entry.path for entry in made.entries] == ["videos/scene-0061.mp4", "videos/scene-1077.mp4"]
    assert quarantined(made) == {"scene-0062": reason}
    assert Counter(path.suffix for path in (made.folder / "videos").iterdir()) == {".mp4": 2}


def test_a_scene_whose_name_would_leave_the_index_is_left_out(nuscenes_set: tuple[Path, Tables]) -> None:
    root, tables = nuscenes_set
    tables["scene"][1]["name"] = "../../scene"
    write_tables(root, tables)
    assert quarantined(indexed(root, "nuscenes")) == {"../../scene": "has a name that a file cannot have"}
    assert not list(root.parent.glob("scene*"))


def test_genuine_t4_tables_by_the_recipe_of_nuscenes(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "permissive" / "labels" / "t4_devkit" / "tests" / "sample"
    (entry,) = Index.open(job.run(root, tmp_path / "index", recipe("nuscenes"))).entries
    assert (entry.path, entry.drive) == ("videos/minimal_test_scene.mp4", "nuscenes/minimal_test_log.bag")
    assert (entry.frames, entry.fps, entry.height, entry.width) == (3, 1, 600, 800)


def test_scenes_are_chosen_by_name(nuscenes_set: tuple[Path, Tables]) -> None:
    root, _ = nuscenes_set
    rules = replace(load_recipe(recipe("nuscenes")), include=("scene-0*",), exclude=("*61",), drive=r"scene-\d\d")
    (entry,) = sources.build(root, root.parent / "index", rules).entries
    assert (entry.path, entry.drive) == ("videos/scene-0062.mp4", "nuscenes/scene-00")
    with pytest.raises(Mistake, match="holds no video\n.*include and exclude"):
        sources.build(root, root.parent / "none", replace(rules, include=("scene-2*",)))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("kind: tables", "line 1: kind: tables are needed"),
        ("kind: tables\nlabels: .\nfps: 12", "line 3: fps: .* own times"),
    ],
)
def test_wrong_recipes_of_tables_are_named(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(Mistake, match=line):
        load_recipe(tmp_path / "recipe.yaml")


def test_labels_without_pictures_make_no_clips(tmp_path: Path) -> None:
    (tmp_path / "clips" / "label_02").mkdir(parents=True)
    (tmp_path / "clips" / "label_02" / "0000.txt").write_text("0 3 Car 0 1 -1.57 100.5 150 300 250 1 1 3 1 2 3 -1\n")
    with pytest.raises(Mistake, match="KITTI tracking does not say which pictures make a video"):
        sources.build(tmp_path / "clips", tmp_path / "index", Recipe(kind="tables", labels="."))
