"""nuScenes' tables, and those of T4 datasets, which are the same with a few keys more. Read only.

A folder holds ``scene.json``, ``sample.json`` and the rest; it may lie in the place as ``v1.0-mini`` (nuScenes) or
``annotation`` (T4). Every scene is a video of one camera, ``CAM_FRONT`` unless ``read`` is told another channel, by the
scene's name; its first frame is the camera's first, sweeps included, and times are the frames' own to the microsecond.

Boxes are labelled in space at key-frames, 2 a second in nuScenes, and hold at the moment of the camera's own key-frame,
as in the dataset's own tools. At the camera's other frames they stand between the two keys beside it, if both have
them; before the first key and after the last nothing is known, and these frames do not count as labelled. The frame's
own pose of the vehicle is used throughout.

The pictures of all scenes lie in one folder, those of key-frames in ``samples``, the others in ``sweeps``; ``reels``
says which make a scene. Scenes that were cut from one log are one drive.

Visibility is the share seen in all cameras together, as a range, here its middle; T4 has other ranges, told apart by
``visibility.json``. A scene is at night if its description says so, as in nuScenes' own splits; otherwise unknown.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from drivesim.data.annotations import Footage, Known, Labelled, Remarks, Sheet
from drivesim.data.cuboids import Camera, Cuboids, Pose, between, cuboids
from drivesim.data.formats import Format, Reel
from drivesim.data.formats.document import Part, opened
from drivesim.data.frames import refuse_outside
from drivesim.errors import Mistake
from drivesim.scene import Labels

CAMERA = "CAM_FRONT"
FOLDERS = ("", "*", "*/annotation")  # of the tables, below the place that is named
NEEDED = ("scene.json", "sample_data.json", "sample_annotation.json")
# the first four are nuScenes' tokens where there is no visibility.json, and its levels; the others T4's levels
VISIBILITY = {"1": 0.2, "2": 0.5, "3": 0.7, "4": 0.9}
LEVELS = {"v0-40": 0.2, "v40-60": 0.5, "v60-80": 0.7, "v80-100": 0.9}
LEVELS |= {"none": 0.05, "partial": 0.3, "most": 0.75, "full": 1.0}  # hidden by 90-100 %, over 50 %, below it, not

BROKEN = "is a box in space that cannot be read"
NOWHEN = "is a box of no key moment"
NOT_SEEN = "is not in the camera's view"
DISTORTED = "is by a camera whose lens distorts; boxes are projected as if it did not"
INVALID = "is a frame that the tables call invalid"
NO_FRAMES = "is a scene without frames of the camera"
NO_BOXES = "is a scene that nobody labelled"


def claims(path: Path) -> bool:
    return bool(folders(path))


def folders(place: Path) -> list[Path]:
    """Those with tables: the place itself, or one or two below it."""
    try:
        for pattern in FOLDERS:
            found = sorted(place.glob(pattern)) if pattern else [place]
            tables = [folder for folder in found if all((folder / name).is_file() for name in NEEDED)]
            if tables:
                return tables
    except OSError:
        pass
    return []


def read(place: Path, known: Known, remarks: Remarks, camera: str = CAMERA) -> list[Labelled]:
    """Every scene, as seen by ``camera``.

    Raises:
        Mistake: a table is missing or broken, it knows no such camera, or two scenes have one name.
    """
    sheets = (_sheet(scene, tables, known(name), remarks) for name, scene, tables in _scenes(place, camera, remarks))
    read = (sheet.done() for sheet in sheets if sheet is not None)
    return [labelled for labelled in read if labelled is not None]


def reels(place: Path, camera: str = CAMERA) -> list[Reel]:
    """The pictures of every scene, sweeps included, whether they are there or not.

    Raises:
        Mistake: as in ``read``, or the tables do not name the pictures.
    """
    found = []
    for name, scene, tables in _scenes(place, camera, Remarks()):  # what is wrong is told when the labels are read
        frames = tables.frames.get(scene["token"].text(), [])
        if any(not frame.picture for frame in frames):
            where = tables.folder / "sample_data.json"
            raise Mistake(f"does not say where the pictures of '{name}' are", where=where)
        if frames:
            drive = tables.logs.get(scene["log_token"].text() if "log_token" in scene else "", name)
            pictures = tuple(tables.folder.parent / frame.picture for frame in frames)
            times = tuple(Fraction(frame.time - frames[0].time, 10**6) for frame in frames)
            found.append(Reel(name, drive, pictures, times))
    return found


def _scenes(place: Path, camera: str, remarks: Remarks) -> Iterator[tuple[str, Part, "Tables"]]:
    """The name of every scene, its row, and the tables that it is in."""
    found = folders(place)
    if not found:
        raise Mistake(
            f"no nuScenes tables: {', '.join(NEEDED)} are not in one folder", where=place, mend="name their folder"
        )
    names: set[str] = set()
    for folder in found:
        tables = Tables(folder, camera, remarks)
        for scene in tables.rows("scene"):
            name = scene["name"].text()
            if name in names:
                raise Mistake(f"has two scenes '{name}'", where=place, mend="name the folder of one set of tables")
            names.add(name)
            yield name, scene, tables


@dataclass(frozen=True)
class Frame:
    """One of the camera's.

    Args:
        time: microseconds.
        sample: the key moment that it belongs to; ``key`` if it is that moment's own.
        camera: key into ``Tables.cameras``.
        pose: key into ``Tables.poses``.
        picture: its file, below the folder that holds the tables' own; empty where the tables do not say.
    """

    time: int
    sample: str
    key: bool
    camera: str
    pose: str
    size: tuple[int, int]
    picture: str


@dataclass(frozen=True, eq=False)
class Keyed:
    """The boxes of a key moment, in the world: a row each."""

    tracks: list[str]
    words: list[str]
    visibility: np.ndarray
    cuboids: Cuboids

    def rows(self, tracks: list[str]) -> list[int]:
        number = {track: row for row, track in enumerate(self.tracks)}
        return [number[track] for track in tracks]


class Tables:
    """A folder's tables, as far as one camera needs them.

    Args:
        folder: it holds them.
        channel: of the camera.
        remarks: takes what is wrong with single rows.

    Raises:
        Mistake: as in ``read``.
    """

    def __init__(self, folder: Path, channel: str, remarks: Remarks):
        self.folder, self.channel, self.remarks = folder, channel, remarks

    def rows(self, table: str) -> list[Part]:
        file = self.folder / f"{table}.json"
        refuse_outside(file, self.folder)
        return opened(file).rows()

    @cached_property
    def sensors(self) -> dict[str, Part]:
        """Rows of ``calibrated_sensor`` of this camera, by token."""
        channels = {row["token"].text(): row["channel"].text() for row in self.rows("sensor")}
        if self.channel not in channels.values():
            raise Mistake(
                f"has no camera '{self.channel}'",
                where=self.folder / "sensor.json",
                mend=f"it has {', '.join(sorted(set(channels.values())))}",
            )
        mine = {token for token, channel in channels.items() if channel == self.channel}
        return {
            row["token"].text(): row for row in self.rows("calibrated_sensor") if row["sensor_token"].text() in mine
        }

    @cached_property
    def scenes(self) -> dict[str, str]:
        """The scene of every key moment."""
        return {row["token"].text(): row["scene_token"].text() for row in self.moments}

    @cached_property
    def moments(self) -> list[Part]:
        return self.rows("sample")

    @cached_property
    def keys(self) -> dict[str, list[tuple[int, str]]]:
        """The key moments of every scene, and when they are: at the camera's key-frame, else at the lidar's."""
        own = {frame.sample: frame.time for frames in self.frames.values() for frame in frames if frame.key}
        found = defaultdict(list)
        for row in self.moments:
            token = row["token"].text()
            found[self.scenes[token]].append((own.get(token, row["timestamp"].whole()), token))
        return {scene: sorted(keys) for scene, keys in found.items()}

    @cached_property
    def frames(self) -> dict[str, list[Frame]]:
        """The camera's, by scene, in order."""
        frames = defaultdict(list)
        for row in self.rows("sample_data"):
            if row["calibrated_sensor_token"].text() not in self.sensors:
                continue
            sample = row["sample_token"].text()
            if sample not in self.scenes:
                row["sample_token"].wrong("is in no row of sample.json")
            if "is_valid" in row and row["is_valid"].value is False:  # T4's
                self.remarks.add(INVALID, row["token"].text())
                continue
            frames[self.scenes[sample]].append(
                Frame(
                    row["timestamp"].whole(),
                    sample,
                    row["is_key_frame"].value is True,
                    row["calibrated_sensor_token"].text(),
                    row["ego_pose_token"].text(),
                    (_pixels(row, "height"), _pixels(row, "width")),
                    row["filename"].text() if "filename" in row else "",
                )
            )
        return {scene: sorted(found, key=lambda frame: frame.time) for scene, found in frames.items()}

    @cached_property
    def logs(self) -> dict[str, str]:
        """The name of the log that scenes were cut from."""
        if not (self.folder / "log.json").is_file():
            return {}
        return {row["token"].text(): name for row in self.rows("log") if (name := row["logfile"].text())}

    @cached_property
    def poses(self) -> dict[str, Pose]:
        """Of the vehicle, at the camera's frames."""
        wanted = {frame.pose for frames in self.frames.values() for frame in frames}
        poses = {row["token"].text(): row for row in self.rows("ego_pose") if row["token"].text() in wanted}
        if len(poses) < len(wanted):
            raise Mistake(
                f"has no '{min(wanted - set(poses))}', where a frame of {self.channel} was taken",
                where=self.folder / "ego_pose.json",
            )
        return {token: _pose(row) for token, row in poses.items()}

    @cached_property
    def words(self) -> dict[str, str]:
        """The class of every instance."""
        names = {row["token"].text(): row["name"].text() for row in self.rows("category")}
        return {
            row["token"].text(): names.get(row["category_token"].text(), "unknown") for row in self.rows("instance")
        }

    @cached_property
    def visibility(self) -> dict[str, float]:
        if not (self.folder / "visibility.json").is_file():
            return VISIBILITY
        rows = self.rows("visibility")
        return {row["token"].text(): LEVELS.get(row["level"].text(), math.nan) for row in rows}

    @cached_property
    def annotations(self) -> dict[str, list[Part]]:
        """By key moment."""
        found = defaultdict(list)
        for row in self.rows("sample_annotation"):
            sample = row["sample_token"].text()
            if sample not in self.scenes:
                self.remarks.add(NOWHEN, f"{row.file.name}: {row.at}")
            found[sample].append(row)
        return found

    def keyed(self, sample: str) -> Keyed:
        """What is known at a key moment; a box that cannot be read is a remark."""
        tracks, words, seen, numbers = [], [], [], []
        for row in self.annotations.get(sample, []):
            try:
                track = row["instance_token"].text()
                width, length, height = row["size"].numbers(3)
                pose = row["translation"].numbers(3), row["rotation"].numbers(4)
            except Mistake as mistake:
                self.remarks.add(BROKEN, f"{row.file.name}: {mistake.what}")
                continue
            one = (*pose[0], length, width, height, *pose[1])
            if not cuboids([one]).sound.all():
                self.remarks.add(BROKEN, f"{row.file.name}: {row.at}")
                continue
            tracks.append(track)
            words.append(self.words.get(track, "unknown"))
            token = row["visibility_token"].value if "visibility_token" in row else None
            seen.append(self.visibility.get(str(token), math.nan))
            numbers.append(one)
        return Keyed(tracks, words, np.array(seen, np.float64), cuboids(numbers))

    def camera(self, token: str, size: tuple[int, int]) -> Camera:
        row = self.sensors[token]
        matrix = np.array([line.numbers(3) for line in row["camera_intrinsic"].rows()])
        if "camera_distortion" in row and any(part.number() for part in row["camera_distortion"].rows()):
            self.remarks.add(DISTORTED, f"{row.file.name}: {row.at}")
        try:
            return Camera(_pose(row), matrix, size)
        except ValueError:
            row["camera_intrinsic"].wrong("is not the matrix of a camera")


def _pose(row: Part) -> Pose:
    try:
        return Pose(np.array(row["rotation"].numbers(4)), np.array(row["translation"].numbers(3)))
    except ValueError:
        row.wrong("is no pose")


def _pixels(row: Part, key: str) -> int:
    """0 where it is not known."""
    return row[key].whole() if key in row else 0


def _sheet(scene: Part, tables: Tables, footage: Footage, remarks: Remarks) -> Sheet | None:
    """The boxes of a scene; None, with a remark, where it has no frames or no labels."""
    name, token = scene["name"].text(), scene["token"].text()
    frames, keys = tables.frames.get(token, []), tables.keys.get(token, [])
    if not frames:
        remarks.add(f"{NO_FRAMES} {tables.channel}", name)
        return None
    if not any(sample in tables.annotations for _, sample in keys):
        remarks.add(NO_BOXES, name)
        return None
    size = _size(name, frames, tables, footage)
    sheet = Sheet(name, size, footage, remarks)
    if "description" in scene and "night" in scene["description"].text().lower():
        sheet.labels = Labels(night=True)
    cameras = {token: tables.camera(token, size) for token in sorted({frame.camera for frame in frames})}
    for frame, boxes in _labelled(frames, keys, tables):
        time = Fraction(frame.time - frames[0].time, 10**6)
        sheet.look(time)
        in_vehicle = tables.poses[frame.pose].into(boxes.cuboids.corners())
        pixels = cameras[frame.camera].boxes(in_vehicle)
        for track, word, (x0, y0, x1, y1), visibility in zip(
            boxes.tracks, boxes.words, pixels.tolist(), boxes.visibility.tolist(), strict=True
        ):
            where = f"{track} at {float(time):.6f} s"
            if math.isnan(x0):
                remarks.add(NOT_SEEN, f"{name}: {where}")
            else:
                sheet.add(time, track, word, (x0, y0, x1, y1), visibility, where=where)
    return sheet


def _labelled(frames: list[Frame], keys: list[tuple[int, str]], tables: Tables) -> Iterator[tuple[Frame, Keyed]]:
    """The frames of which boxes are known, and these boxes."""
    times = [time for time, _ in keys]
    known: dict[int, Keyed] = {}
    for frame in frames:
        at = bisect_right(times, frame.time) - 1
        exact = at >= 0 and frame.time == times[at]
        if at < 0 or (at + 1 == len(times) and not exact):
            continue
        known = {n: known[n] if n in known else tables.keyed(keys[n][1]) for n in (at, at + 1) if n < len(keys)}
        if exact:
            yield frame, known[at]
        else:
            share = (frame.time - times[at]) / (times[at + 1] - times[at])
            yield frame, _between(known[at], known[at + 1], share)


def _between(first: Keyed, second: Keyed, share: float) -> Keyed:
    """The boxes that both moments have, on their way."""
    both = set(first.tracks) & set(second.tracks)
    tracks = [track for track in first.tracks if track in both]
    a, b = first.rows(tracks), second.rows(tracks)
    words = [first.words[row] for row in a]
    visibility = first.visibility[a] + share * (second.visibility[b] - first.visibility[a])
    return Keyed(tracks, words, visibility, between(first.cuboids[a], second.cuboids[b], share))


def _size(name: str, frames: list[Frame], tables: Tables, footage: Footage) -> tuple[int, int]:
    sizes = {frame.size for frame in frames if min(frame.size) > 0}
    if len(sizes) > 1:
        raise Mistake(
            f"has frames of several sizes of {tables.channel} in '{name}'", where=tables.folder / "sample_data.json"
        )
    size = sizes.pop() if sizes else footage.size
    if size is None:
        raise Mistake(
            f"does not say how large the frames of '{name}' are",
            where=tables.folder / "sample_data.json",
            mend="index it together with its video",
        )
    return size


CARRIES = frozenset({"ids", "classes", "words", "visibility", "times", "empty frames", "size"})
FORMAT = Format("nuscenes", "nuScenes tables (also T4)", CARRIES, claims, read, reels=reels)
