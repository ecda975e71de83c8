"""Previews of real clips with their own tracks: every box is drawn where its label says, in the frame that it is of."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from drivesim.data import video
from drivesim.data.annotations import Footage, Labelled, Remarks
from drivesim.data.formats import known
from drivesim.errors import Mistake
from drivesim.jobs import scenario

KITTI, DGP, COSMOS = "noncommercial/kitti_tracking/training", "permissive/dgp/test_scene", "permissive/cosmos_multiview"
DRIVE = "ftheta_camera_front_wide_120fov/av_002b815b-7595-4d54-a9f4-4c62c83d3009_0"
# clip, its labels, its rate, frames that are looked at, boxes in them
SETS = {
    "kitti": (f"{KITTI}/image_02/0001", f"{KITTI}/label_02/0001.txt", 10, 5, 42),
    "dgp": (f"{DGP}/scene_01/rgb/CAMERA_01", DGP, 1, 3, 71),
    "cosmos": (f"{COSMOS}/videos/{DRIVE}.mp4", f"{COSMOS}/box_tracks_derived/{DRIVE}.json", 30, 8, 48),
}


def preview(folder: Path, clip: Path, labels: Path, more: str, seconds: float) -> np.ndarray:
    file = folder / "own.yaml"
    opening = f"clip: '{clip}', labels: '{labels}', frames: 1{more}"
    file.write_text(f"opening: {{{opening}}}\nseconds: {seconds}\nboxes: tracks\n")
    scenario.run("preview", file, folder / "preview.mp4")
    return next(video.stream(folder / "preview.mp4")).frames


def told(clip: Path, labels: Path, footage: Footage) -> Labelled:
    read = known.of(labels).read(labels, lambda name: footage, Remarks())
    return next(labelled for labelled in read if labelled.video == clip.stem)


@pytest.mark.parametrize("name", SETS)
def test_every_box_is_drawn_where_its_label_says(shared: Path, tmp_path: Path, name: str) -> None:
    clip, labels, rate, count, boxes_in_them = SETS[name]
    clip, labels = shared / "data" / clip, shared / "data" / labels
    drawn = preview(tmp_path, clip, labels, f", fps: {rate}", count / rate)
    info = video.probe(clip, rate=Fraction(rate))
    boxes = told(clip, labels, Footage((info.height, info.width), info.fps, info.frames)).boxes
    height, width = drawn.shape[1:3]
    seen = [n for n, time in enumerate(boxes.time) if time * rate < count and not boxes.ignored[n]]
    assert (len(drawn), len(seen)) == (count, boxes_in_them)
    plain = next(video.stream(clip, size=(height, width), chunk=count, rate=Fraction(rate))).frames
    changed = (np.maximum(drawn, plain) - np.minimum(drawn, plain)).max(axis=3) > 40
    missed = []
    for n in seen:
        frame = int(boxes.time[n] * rate)
        x0, _, x1, y1 = np.rint(boxes.box[n] * (width, height, width, height)).astype(int)
        edge = changed[frame, max(y1 - 3, 0) : y1 + 2, x0:x1]  # the lower one, which no name hides
        if edge.any(axis=0).mean() < 0.8:
            missed.append((frame, n))
    assert not missed and changed.mean() < 0.1


def test_pictures_need_their_rate(shared: Path, tmp_path: Path) -> None:
    clip, labels = (shared / "data" / KITTI / place for place in ("image_02/0001", "label_02/0001.txt"))
    with pytest.raises(Mistake, match="no frame rate\n.*fps: 10 .*opening"):
        preview(tmp_path, clip, labels, "", 0.5)
    for wrong in ("0", "-10", "quick", "10/0"):
        with pytest.raises(Mistake, match=r"opening\.fps: a (rate above 0|number greater than 0)"):
            preview(tmp_path, clip, labels, f", fps: {wrong}", 0.5)
    (tmp_path / "made.yaml").write_text("opening: {fps: 10}\n")
    with pytest.raises(Mistake, match="only a clip has a rate"):
        scenario.run("check", tmp_path / "made.yaml")
