"""KITTI's tracking labels: ``label_02/SEQUENCE.txt``, a line a box and 17 columns a line.

    frame track type truncated occluded alpha  left top right bottom  height width length  x y z  rotation

Frames count from 0, at 10 frames a second where the video is not known. ``DontCare`` is a region that was not
labelled, and has no track. A file knows neither its frame size nor its length: they come from the video or from the
images beside it, ``image_02/SEQUENCE``. Written files leave the columns in space unknown (-1, -1000, -10).
Source: the readme of KITTI's tracking development kit.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from re import findall

from drivesim.data.annotations import Footage, Known, Labelled, Remarks, Sheet
from drivesim.data.formats import Format, counted
from drivesim.data.frames import image, image_folder, refuse_outside
from drivesim.disk import write_atomic
from drivesim.errors import Mistake

FPS = Fraction(10)
SIZE = (375, 1242)
COLUMNS = 17  # results have an 18th, the score
VISIBLE = (1.0, 0.7, 0.3, math.nan)  # by "occluded": fully visible, partly, largely, unknown
REGION = "DontCare"
PLACES = ("training/label_02/*.txt", "label_02/*.txt", "*.txt")
UNKNOWN_SPACE = "-1 -1 -1 -1000 -1000 -1000 -10"  # height, width, length, x, y, z, rotation

# reasons, as they are told
USUAL_SIZE = f"has a frame size that is not known, and KITTI's usual {SIZE[1]}x{SIZE[0]} was taken"
NO_IMAGE = "is a box of a frame whose image is not in the folder"
STEPS = "has a visibility that becomes one of four steps"
NAME = "has an id that is not a number, and became one"
REGION_ALONE = "is a region to ignore, whose class, word and id become DontCare without a track"
NO_RATE = "has no frame rate in a KITTI file, and its readers take 10"
NO_SIZE = "has no frame size in a KITTI file"
NO_END = "is a frame without boxes behind the last box, where a KITTI file ends"


def claims(path: Path) -> bool:
    return counted.claimed(path, PLACES, _looks)


def _looks(file: Path) -> bool:
    if file.suffix.lower() != ".txt":
        return False
    cells = next((line for line in counted.head(file).splitlines() if line.strip()), "").split()
    return (
        len(cells) in (COLUMNS, COLUMNS + 1)
        and counted.number(cells[2]) is None
        and all(counted.number(cell) is not None for cell in cells[:2] + cells[3:])
    )


def read(place: Path, known: Known, remarks: Remarks) -> list[Labelled]:
    """Raises:
    Mistake: no files, or a line that is not KITTI's.
    """
    found = [_sequence(file, known(file.stem), remarks) for file in counted.listed(place, PLACES)]
    return [labelled for labelled in found if labelled is not None]


def _sequence(file: Path, footage: Footage, remarks: Remarks) -> Labelled | None:
    fps = footage.fps or FPS
    lines = [(n, _cells(line, file, n)) for n, line in enumerate(counted.text(file).splitlines(), 1) if line.strip()]
    images = _images(file)
    place = _places(images, footage)
    sheet = Sheet(file.stem, _size(file, footage, images, remarks), footage, remarks)
    last = -1
    for n, (frame, track, word, occluded, box) in lines:
        where = f"line {n}"
        if not 0 <= frame <= counted.MOST_FRAMES:
            remarks.add(counted.FAR_FRAME, f"{file.stem}: {where}")
            continue
        if place is not None and frame not in place:
            remarks.add(NO_IMAGE, f"{file.stem}: {where}")
            continue
        frame = frame if place is None else place[frame]
        last = max(last, frame)
        visibility = VISIBLE[occluded] if 0 <= occluded < len(VISIBLE) else math.nan
        ignore = word == REGION
        sheet.add(frame / fps, None if track < 0 else track, word, box, visibility, ignore, where)
    whole = len(images) if place is None and _numbers(images) == list(range(len(images))) else 0
    for frame in range(footage.frames or max(last + 1, whole)):
        sheet.look(frame / fps)
    return sheet.done()


def _cells(line: str, file: Path, n: int) -> tuple[int, int, str, int, tuple[float, float, float, float]]:
    """Frame, track, type, occluded, box."""
    where = f"{file}, line {n}"
    cells = line.split()
    if len(cells) not in (COLUMNS, COLUMNS + 1):
        raise Mistake(f"has {len(cells)} columns, not KITTI tracking's {COLUMNS}", where=where)
    frame, track, occluded = (counted.whole(cells[i]) for i in (0, 1, 4))
    if frame is None or track is None or occluded is None:
        raise Mistake("the frame, the track and 'occluded' are to be whole numbers", where=where)
    values = [counted.number(cell) for cell in cells[5:]]
    numbers = [value for value in values if value is not None]
    if len(numbers) != len(values) or counted.number(cells[3]) is None:
        raise Mistake("has a word where a number belongs", where=where)
    x0, y0, x1, y1 = numbers[1:5]
    return frame, track, cells[2], occluded, (x0, y0, x1, y1)


def _images(file: Path) -> list[Path]:
    folder = file.parent.parent / "image_02" / file.stem
    if file.parent.name != "label_02" or not folder.is_dir():
        return []
    refuse_outside(folder, file.parent.parent)
    return image_folder(folder)


def _numbers(images: list[Path]) -> list[int]:
    return [int(findall(r"\d+", file.stem)[-1]) for file in images]


def _places(images: list[Path], footage: Footage) -> dict[int, int] | None:
    """Where frames are missing among the images, and these are the video: the place of each frame in it."""
    numbers = _numbers(images)
    if footage.frames != len(images) or numbers == list(range(len(numbers))):
        return None
    return {number: n for n, number in enumerate(numbers)}


def _size(file: Path, footage: Footage, images: list[Path], remarks: Remarks) -> tuple[int, int]:
    if footage.size is not None:
        return footage.size
    if images:
        height, width = image(images[0]).shape[:2]
        return height, width
    remarks.add(USUAL_SIZE, file.stem)
    return SIZE


def write(labelled: Sequence[Labelled], folder: Path, fps: Fraction, remarks: Remarks) -> None:
    """``folder/label_02/VIDEO.txt``."""
    for name, video in counted.filed(labelled, remarks):
        content = "".join(f"{line}\n" for line in _lines(video, fps, remarks))
        write_atomic(folder / "label_02" / f"{name}.txt", content.encode())


def _lines(labelled: Labelled, fps: Fraction, remarks: Remarks) -> list[str]:
    boxes, pixels, tracks = labelled.boxes, counted.pixels(labelled), counted.numbers(labelled)
    words = counted.words(labelled, remarks, legal=r"[^\s\x00-\x1f\x7f\ud800-\udfff]")
    grid = counted.grid(labelled, fps, remarks)
    _tell(labelled, grid, fps, remarks)
    lines = []
    for frame, n in grid.rows:
        track, word, visibility = int(boxes.track[n]), words[n], float(boxes.visibility[n])
        number, occluded = tracks[track], _step(visibility)
        if boxes.ignored[n]:
            if track >= 0 or word != REGION or not math.isnan(visibility):
                remarks.add(REGION_ALONE, f"{labelled.video}: frame {frame}")
            number, word, occluded = -1, REGION, -1
        elif occluded < 3 and visibility != VISIBLE[occluded]:
            remarks.add(STEPS, f"{labelled.video}: frame {frame}, track {labelled.id_of(track)}")
        corners = " ".join(f"{value:.6f}" for value in pixels[n])
        lines.append(f"{frame} {number} {word} -1 {occluded} -10 {corners} {UNKNOWN_SPACE}")
    return lines


def _step(visibility: float) -> int:
    """The nearest of ``VISIBLE``."""
    return 3 if math.isnan(visibility) else min(range(3), key=lambda step: abs(VISIBLE[step] - visibility))


def _tell(labelled: Labelled, grid: counted.Grid, fps: Fraction, remarks: Remarks) -> None:
    """What a file of boxes alone does not say."""
    video = labelled.video
    for track in sorted(set(labelled.boxes.track.tolist())):
        if track >= 0 and not counted.PLAIN.fullmatch(labelled.id_of(track)):
            remarks.add(NAME, f"{video}: track {labelled.id_of(track)}")
    last = grid.rows[-1][0] if grid.rows else -1
    behind = [frame for frame in grid.frames if frame > last]
    if behind:
        remarks.add(NO_END, f"{video}: frame {behind[0]}", len(behind))
    counted.tell_unlabelled(grid.frames, range(last + 1), video, remarks)
    counted.tell_labels(labelled, remarks)
    if fps != FPS:
        remarks.add(NO_RATE, f"{video}: {fps} frames a second")
    if labelled.size != SIZE:
        remarks.add(NO_SIZE, f"{video}: {labelled.size[1]}x{labelled.size[0]}")


# Ids that are numbers survive; others do not, so "ids" is not claimed. Words lose their blanks.
FORMAT = Format("kitti", "KITTI tracking", frozenset({"classes", "ignore"}), claims, read, write)
