"""Logs of Argoverse 2 (``annotations.feather``) and Argoverse 1 (``per_sweep_annotations_amodal``). Read only.

The place is a log's folder, or a folder of logs, or of splits of logs. Every log is a video of one camera,
``ring_front_center`` unless ``read`` is told another, by the log's name.

Boxes are labelled in space at the sweeps of the lidar, 10 a second, in the vehicle's frame at that moment; there they
are projected, through the calibration beside them, without the pose in the city: the camera's own frames are up to half
a frame away. Time counts from the camera's first image where the images lie in the log, else from the first sweep, to
the nanosecond. Images are free of distortion (so the datasets' own tools take them). How much of a box is seen is not
said.

Argoverse 1 does not say how large its images are: those of its ring are 1920x1200, those of its stereo pair 2464x2056.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import feather

from drivesim.data.annotations import Footage, Known, Labelled, Remarks, Sheet
from drivesim.data.cuboids import Camera, Cuboids, Pose, cuboids
from drivesim.data.formats import Format
from drivesim.data.formats.document import opened
from drivesim.data.frames import refuse_outside
from drivesim.errors import Mistake

CAMERA = "ring_front_center"
SECOND, FIRST = "annotations.feather", "per_sweep_annotations_amodal"
INTRINSICS, EXTRINSICS = "calibration/intrinsics.feather", "calibration/egovehicle_SE3_sensor.feather"
CALIBRATION = "vehicle_calibration_info.json"
RING, STEREO = (1200, 1920), (2056, 2464)  # of Argoverse 1, height and width
ROTATION, PLACE = ("qw", "qx", "qy", "qz"), ("tx_m", "ty_m", "tz_m")
SPACE = (*PLACE, "length_m", "width_m", "height_m", *ROTATION)

BROKEN = "is a box in space that cannot be read"
NOT_SEEN = "is not in the camera's view"
EARLY = "is a sweep before the camera's first image"


@dataclass(frozen=True, eq=False)
class Log:
    """What was labelled in space.

    Args:
        folder: of the log.
        sweeps: nanoseconds of all that were labelled, in order, with boxes in them or none.
        times: ``N`` nanoseconds, ``tracks``, ``words``: of every box.
        cuboids: ``N``, in the vehicle's frame at that time.
    """

    folder: Path
    sweeps: tuple[int, ...]
    times: tuple[int, ...]
    tracks: tuple[str, ...]
    words: tuple[str, ...]
    cuboids: Cuboids


def claims(path: Path) -> bool:
    return bool(folders(path))


def folders(place: Path) -> list[Path]:
    """Of logs: the place itself, or those one or two below it."""
    try:
        if place.is_file():
            return [place.parent] if place.name == SECOND else []
        for depth in ("", "*/", "*/*/"):
            found = {file.parent for name in (SECOND, FIRST) for file in place.glob(depth + name)}
            if found:
                return sorted(found)
    except OSError:
        pass
    return []


def read(place: Path, known: Known, remarks: Remarks, camera: str = CAMERA) -> list[Labelled]:
    """Every log, as seen by ``camera``.

    Raises:
        Mistake: no log, a broken file, or no calibration beside the boxes.
    """
    found = folders(place)
    if not found:
        raise Mistake(f"no Argoverse log: neither {SECOND} nor {FIRST}/", where=place, mend="name the folder of a log")
    read = []
    for folder in found:
        log = parse(folder, remarks)
        labelled = _labelled(log, camera, known(folder.name), remarks)
        if labelled is not None:
            read.append(labelled)
    return read


def parse(folder: Path, remarks: Remarks) -> Log:
    """The boxes in space of a log; one that is broken is a remark.

    Raises:
        Mistake: a file cannot be read as a whole, or is a link that leads out of the folder.
    """
    for file in folder.rglob("*"):
        if file.is_symlink():
            refuse_outside(file, folder)
    return _second(folder, remarks) if (folder / SECOND).is_file() else _first(folder, remarks)


def _second(folder: Path, remarks: Remarks) -> Log:
    texts, numbers = _table(folder / SECOND, ("track_uuid", "category"), ("timestamp_ns", *SPACE))
    times = numbers["timestamp_ns"]
    if not all(isinstance(time, int) for time in times):
        raise Mistake("timestamp_ns is not a column of whole numbers", where=folder / SECOND)
    rows = list(zip(*(numbers[name] for name in SPACE), strict=True))
    return _log(folder, set(times), times, texts["track_uuid"], texts["category"], rows, remarks)


def _first(folder: Path, remarks: Remarks) -> Log:
    times, tracks, words, numbers = [], [], [], []
    sweeps = set()
    for file in sorted((folder / FIRST).glob("tracked_object_labels_*.json")):
        stamp = re.fullmatch(r"tracked_object_labels_(\d{1,19})", file.stem, re.ASCII)
        if stamp is None:
            raise Mistake("its name does not end in a time in nanoseconds", where=file)
        sweeps.add(int(stamp[1]))
        for part in opened(file).rows():
            try:
                word = part["label_class"]
                words_of = (word["name"] if "name" in word else word).text()  # an object in early files
                track = part["track_label_uuid"].text()
                centre = [part["center"][key].number() for key in "xyz"]
                size = [part[key].number() for key in ("length", "width", "height")]
                rotation = [part["rotation"][key].number() for key in "wxyz"]
            except Mistake as mistake:
                remarks.add(BROKEN, f"{folder.name}: {file.name}: {mistake.what}")
                continue
            times.append(int(stamp[1]))
            tracks.append(track)
            words.append(words_of)
            numbers.append((*centre, *size, *rotation))
    return _log(folder, sweeps, times, tracks, words, numbers, remarks)


def _log(
    folder: Path,
    sweeps: Iterable[int],
    times: list[int],
    tracks: list[Any],
    words: list[Any],
    numbers: list[tuple[float, ...]],
    remarks: Remarks,
) -> Log:
    """Of columns, without the rows that are no boxes."""
    boxes = cuboids(numbers)
    kept = []
    for row, sound in enumerate(boxes.sound.tolist()):
        if sound and isinstance(tracks[row], str) and isinstance(words[row], str):
            kept.append(row)
        else:
            remarks.add(BROKEN, f"{folder.name}: row {row} ({tracks[row]} at {times[row]})")
    return Log(
        folder,
        tuple(sorted(sweeps)),
        tuple(times[row] for row in kept),
        tuple(tracks[row] for row in kept),
        tuple(words[row] for row in kept),
        boxes[kept],
    )


def _labelled(log: Log, name: str, footage: Footage, remarks: Remarks) -> Labelled | None:
    """The log as a camera sees it."""
    camera = _camera(log, name)
    sheet = Sheet(log.folder.name, camera.size, footage, remarks)
    start = _first_image(log.folder, name)
    if start is None:
        start = log.sweeps[0] if log.sweeps else 0
    early = [sweep for sweep in log.sweeps if sweep < start]
    for sweep in early:
        remarks.add(EARLY, f"{log.folder.name}: {sweep}")
    for sweep in log.sweeps[len(early) :]:
        sheet.look(Fraction(sweep - start, 10**9))
    pixels = camera.boxes(log.cuboids.corners())
    for time, track, word, (x0, y0, x1, y1) in zip(log.times, log.tracks, log.words, pixels.tolist(), strict=True):
        where = f"{track} at {time}"
        if time < start:
            continue  # its sweep is told already
        if math.isnan(x0):
            remarks.add(NOT_SEEN, f"{log.folder.name}: {where}")
        else:
            sheet.add(Fraction(time - start, 10**9), track, word, (x0, y0, x1, y1), where=where)
    return sheet.done()


def _first_image(folder: Path, camera: str) -> int | None:
    """Nanoseconds of the camera's first image; None where the images are elsewhere."""
    stamps = []
    for file in [*folder.glob(f"sensors/cameras/{camera}/*.jpg"), *folder.glob(f"{camera}/{camera}_*.jpg")]:
        stamp = re.fullmatch(r"(?:.*_)?(\d{1,19})", file.stem, re.ASCII)
        if stamp is not None:
            stamps.append(int(stamp[1]))
    return min(stamps, default=None)


def _camera(log: Log, name: str) -> Camera:
    """Raises:
    Mistake: no calibration, which says what was read all the same; or it is broken.
    """
    for file in (INTRINSICS, EXTRINSICS) if (log.folder / SECOND).is_file() else (CALIBRATION,):
        if not (log.folder / file).is_file():
            read = f"{len(log.times)} boxes in space of {len(set(log.tracks))} tracks at {len(log.sweeps)} moments"
            raise Mistake(
                f"{read} were read, but boxes in the picture need the camera's {file}, which is missing",
                where=log.folder,
                mend=f"fetch {file} of the same log",
            )
    try:
        return (
            _camera_of_second(log.folder, name)
            if (log.folder / SECOND).is_file()
            else _camera_of_first(log.folder, name)
        )
    except ValueError as problem:
        raise Mistake(f"the calibration of {name} is broken: {problem}", where=log.folder) from None


def _camera_of_second(folder: Path, name: str) -> Camera:
    lens = _row(folder / INTRINSICS, name, ("fx_px", "fy_px", "cx_px", "cy_px", "height_px", "width_px"))
    stand = _row(folder / EXTRINSICS, name, (*ROTATION, *PLACE))
    fx, fy, cx, cy, height, width = lens
    if height < 1 or width < 1 or height % 1 or width % 1:
        raise ValueError(f"images of {width}x{height}")
    pose = Pose(np.array(stand[:4]), np.array(stand[4:]))
    return Camera(pose, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), (int(height), int(width)))


def _row(file: Path, sensor: str, names: tuple[str, ...]) -> list[float]:
    """A sensor's numbers in a table of calibration."""
    texts, numbers = _table(file, ("sensor_name",), names)
    sensors = texts["sensor_name"]
    if sensor not in sensors:
        raise Mistake(f"has no camera '{sensor}'", where=file, mend=f"it has {', '.join(sorted(map(str, sensors)))}")
    row = [numbers[name][sensors.index(sensor)] for name in names]
    if not all(value is not None and math.isfinite(value) for value in row):
        raise Mistake(f"has a number of {sensor} that is none", where=file)
    return [float(value) for value in row]


def _camera_of_first(folder: Path, name: str) -> Camera:
    top = opened(folder / CALIBRATION)
    cameras = {row["key"].text().removeprefix("image_raw_"): row["value"] for row in top["camera_data_"].rows()}
    if name not in cameras:
        raise Mistake(f"has no camera '{name}'", where=top.file, mend=f"it has {', '.join(sorted(cameras))}")
    lens = cameras[name]
    stand = lens["vehicle_SE3_camera_"]
    pose = Pose(np.array(stand["rotation"]["coefficients"].numbers(4)), np.array(stand["translation"].numbers(3)))
    fx, fy = lens["focal_length_x_px_"].number(), lens["focal_length_y_px_"].number()
    cx, cy = lens["focal_center_x_px_"].number(), lens["focal_center_y_px_"].number()
    matrix = np.array([[fx, lens["skew_"].number(), cx], [0, fy, cy], [0, 0, 1]])
    return Camera(pose, matrix, STEREO if name.startswith("stereo") else RING)


def _table(
    file: Path, texts: tuple[str, ...], numbers: tuple[str, ...]
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Columns of a Feather file, by name; None where a row has no value.

    Raises:
        Mistake: it is none, or a column is missing or of another kind.
    """
    try:
        table = feather.read_table(str(file), memory_map=False, use_threads=False)
        table.validate(full=True)
        columns = {name: table.column(name).to_pylist() for name in (*texts, *numbers) if name in table.column_names}
        kinds = {name: table.schema.field(name).type for name in columns}
    except (pa.ArrowException, OSError, ValueError, KeyError) as problem:
        raise Mistake(f"is not a Feather file ({' '.join(str(problem).split())[:100]})", where=file) from None
    for name in (*texts, *numbers):
        if name not in columns:
            raise Mistake(f"has no column '{name}'", where=file)
    for name in numbers:
        if not (pa.types.is_floating(kinds[name]) or pa.types.is_integer(kinds[name])):
            raise Mistake(f"{name} is not a column of numbers", where=file)
    return {name: columns[name] for name in texts}, {name: columns[name] for name in numbers}


CARRIES = frozenset({"ids", "classes", "words", "times", "empty frames", "size"})
FORMAT = Format("argoverse", "Argoverse 2 and 1 logs", CARRIES, claims, read)
