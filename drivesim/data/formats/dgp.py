"""TRI's DGP scenes: the boxes that the provider drew (or projected) in every camera's images. Read only.

A scene is a folder with ``scene_HASH.json``, ``ontology`` and ``bounding_box_2d/CAMERA``; the place is its file, its
folder, a folder of such, or a ``scene_dataset.json`` that names some. Every camera is a video. Where there is one scene
it has the camera's name, ``CAMERA_01``, as the folder of its images; where there are several, ``SCENE_CAMERA_01``.

Times are the images' own, from the camera's first; one within a millisecond of a frame of the video is that frame's. An
image without boxes in the plane, though it may have some in space, does not count as labelled. A crowd is a region to
ignore. How much of a box is seen is not said.
"""

import re
from collections import defaultdict
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

from drivesim.data.annotations import Known, Labelled, Remarks, Sheet
from drivesim.data.formats import Format, counted
from drivesim.data.formats.document import Part, opened
from drivesim.data.frames import refuse_outside
from drivesim.errors import Mistake

PLANE = "0"  # the key of boxes in the plane among annotations and ontologies; "1" is boxes in space
HEAD = 4096  # bytes of a file that tell what it is
BROKEN = "is a box that cannot be read"
NO_BOXES = "is an image without boxes in the plane"
NO_SCENE = "is a scene that the data set names and that is not there"


def claims(path: Path) -> bool:
    try:
        if path.is_file():
            if path.suffix != ".json":
                return False
            with path.open("rb") as stream:
                head = stream.read(HEAD)
            return (path.name.startswith("scene_") and b'"datum"' in head) or b'"scene_splits"' in head
        return bool(_scenes_below(path))
    except OSError:
        return False


def read(place: Path, known: Known, remarks: Remarks) -> list[Labelled]:
    """Every camera of every scene, in the order of their names.

    Raises:
        Mistake: no scene, or a file that is broken.
    """
    scenes = _scenes(place, remarks)
    if not scenes:
        raise Mistake("no DGP scene: no scene_HASH.json", where=place, mend="name the folder of a scene")
    read = []
    for file in scenes:
        refuse_outside(file, place if place.is_dir() else place.parent)
        scene = opened(file)
        words = _words(scene)
        cameras = defaultdict(list)
        for datum in scene["data"].rows():
            if "image" in datum["datum"]:
                cameras[datum["id"]["name"].text()].append(datum)
        for camera in sorted(cameras):
            video = camera if len(scenes) == 1 else f"{file.parent.name}_{camera}"
            labelled = _camera(video, cameras[camera], words, known, remarks)
            if labelled is not None:
                read.append(labelled)
    return read


def _scenes(place: Path, remarks: Remarks) -> list[Path]:
    """The files of scenes at ``place``."""
    if place.is_dir():
        return _scenes_below(place)
    top = opened(place)
    if "scene_splits" not in top:
        return [place]
    named = set()
    for split in top["scene_splits"].names():
        named |= {_below(place.parent, name) for name in top["scene_splits"][split]["filenames"].rows()}
    for file in sorted(named):
        if not file.is_file():
            remarks.add(NO_SCENE, str(file.relative_to(place.parent)))
    return sorted(file for file in named if file.is_file())


def _scenes_below(folder: Path) -> list[Path]:
    """Those of the folder itself, else of those in it, else of one further down."""
    for pattern in ("scene_*.json", "*/scene_*.json", "*/*/scene_*.json"):
        found = sorted(file for file in folder.glob(pattern) if (file.parent / "ontology").is_dir())
        if found:
            return found
    return []


def _words(scene: Part) -> dict[int, str]:
    """The names of classes by number."""
    file = scene.file.parent / "ontology" / f"{scene['ontologies'][PLANE].text()}.json"
    if not file.resolve().is_relative_to(scene.file.parent.resolve()):
        scene["ontologies"][PLANE].wrong("leads out of the scene's folder")
    return {item["id"].whole(): item["name"].text() for item in opened(file)["items"].rows()}


def _camera(video: str, images: list[Part], words: dict[int, str], known: Known, remarks: Remarks) -> Labelled | None:
    footage = known(video)
    sizes = {(part["height"].whole(), part["width"].whole()) for part in (image["datum"]["image"] for image in images)}
    if len(sizes) > 1:
        raise Mistake(f"has images of several sizes of {video}", where=images[0].file)
    size = sizes.pop()
    if min(size) < 1:
        if footage.size is None:
            raise Mistake(
                f"does not say how large the images of {video} are",
                where=images[0].file,
                mend="index it together with its video",
            )
        size = footage.size
    sheet = Sheet(video, size, footage, remarks)
    timed = sorted(((_time(image["id"]["timestamp"]), image) for image in images), key=lambda pair: pair[0])
    labelled = False
    for time, image in timed:
        known_of = image["datum"]["image"]
        if "annotations" not in known_of or PLANE not in known_of["annotations"]:
            remarks.add(NO_BOXES, f"{video}: {image['id']['timestamp'].text()}")
            continue
        labelled = True
        own = time - timed[0][0]
        shown = counted.near(own, footage)
        moment = own if shown is None else shown
        sheet.look(moment)
        for part in opened(_below(image.file.parent, known_of["annotations"][PLANE]))["annotations"].rows():
            where = f"{part.file.name} {part.at}"
            try:
                x, y, w, h = (part["box"][key].number() for key in "xywh")
                number, track = part["class_id"].whole(), part["instance_id"].whole()
                crowd = "iscrowd" in part and part["iscrowd"].value is True
            except Mistake as mistake:
                remarks.add(BROKEN, f"{part.file.name}: {mistake.what}")
                continue
            word = words.get(number, f"class {number}")
            sheet.add(moment, track, word, (x, y, x + w, y + h), ignore=crowd, where=where)
    return sheet.done() if labelled else None


def _below(folder: Path, name: Part) -> Path:
    """A file that a scene names, which must lie in its folder."""
    file = folder / name.text()
    if not file.resolve().is_relative_to(folder.resolve()):
        name.wrong("leads out of the folder")
    return file


def _time(stamp: Part) -> Fraction:
    """Seconds of an RFC 3339 time, exact: ``datetime`` alone would cut nanoseconds off."""
    parts = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", stamp.text(), re.ASCII)
    try:
        whole = datetime.fromisoformat(parts[1]).replace(tzinfo=UTC) if parts else None
    except ValueError:
        whole = None
    if parts is None or whole is None:
        stamp.wrong("is not a time such as 2019-05-15T00:38:58.415230Z")
    seconds = whole - datetime(1970, 1, 1, tzinfo=UTC)
    fraction = parts[2] or "0"
    return Fraction(seconds.days * 86400 + seconds.seconds) + Fraction(int(fraction), 10 ** len(fraction))


CARRIES = frozenset({"ids", "classes", "words", "ignore", "times", "empty frames", "size"})
FORMAT = Format("dgp", "DGP scenes of TRI", CARRIES, claims, read)
