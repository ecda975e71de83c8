"""The picture of docs/labels.md: real clips under their own tracks, as ``drivesim scenario preview`` draws them.

    python -m tools.label_pictures ../shared/data/permissive --out docs/labels.jpg

Two drives whose owners let their pictures be shown: one whose boxes lie 0.2 s before its frames, as they are and after
an edit of every track, and one as two cameras see it.
"""

import argparse
import tempfile
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from drivesim.data import video
from drivesim.jobs import scenario
from drivesim.report.sheet import contact_sheet

SIZE = (360, 640)
CLIP = "videos/ftheta_camera_front_wide_120fov/av_002b815b-7595-4d54-a9f4-4c62c83d3009_0.mp4"
TRACKS = (0, 1, 2, 3, 4, 5, 7, 8, 9)


def own(root: Path) -> str:
    labels = root / "cosmos_multiview" / "box_tracks_derived" / "ftheta_camera_front_wide_120fov"
    return _scenario(f"clip: '{root / 'cosmos_multiview' / CLIP}', labels: '{labels}'")


def later(root: Path) -> str:
    edits = "".join(f"- {{op: retime, track: {track}, by: [0.2]}}\n" for track in TRACKS)
    return f"{own(root)}edits:\n{edits}"


def camera(root: Path, number: int) -> str:
    scene = root / "dgp" / "test_scene" / "scene_01"
    return _scenario(f"clip: '{scene / 'rgb' / f'CAMERA_0{number}'}', fps: 1, labels: '{scene}'")


def _scenario(opening: str) -> str:
    return f"opening: {{{opening}, frames: 1}}\nseconds: 1\nsize: [{SIZE[0]}, {SIZE[1]}]\nboxes: tracks\n"


def shown(text: str, at: Fraction, folder: Path) -> np.ndarray:
    """The frame at second ``at`` of the preview of the scenario ``text``, uint8 ``H W 3``."""
    file, preview = folder / "scenario.yaml", folder / "preview.mp4"
    file.write_text(text, encoding="utf-8")
    preview.unlink(missing_ok=True)
    scenario.run("preview", file, preview)
    return video.read(preview, start=at, frames=1).frames[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", type=Path, help="shared/data/permissive")
    parser.add_argument("--out", type=Path, default=Path("docs/labels.jpg"))
    args = parser.parse_args()
    root, half = args.clips.resolve(), Fraction(1, 2)
    views = (
        (own(root), half, "the clip's own tracks at 0.5 s: the boxes lie ahead of the frames"),
        (later(root), half, "every track retimed by 0.2 s"),
        (camera(root, 1), Fraction(0), "DGP, CAMERA_01: projected from boxes in space"),
        (camera(root, 6), Fraction(0), "DGP, CAMERA_06, at the same moment"),
    )
    with tempfile.TemporaryDirectory() as folder:
        frames = np.stack([shown(text, at, Path(folder)) for text, at, _ in views])
    sheet = contact_sheet(frames, 2, [caption for _, _, caption in views])
    cv2.imwrite(str(args.out), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
