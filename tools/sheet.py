"""Frames of several videos as one picture: a row a video, evenly over its length or at the seconds asked for.

    python tools/sheet.py runs/day runs/night --out docs/gallery.jpg [--frames 8] [--at 0 10 30] [--boxes]

A run folder stands for its video. ``--boxes`` draws those that are known of it; ``--columns`` breaks rows elsewhere
than after a video.
"""

import argparse
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from drivesim.data import generated, video
from drivesim.report.boxes import draw
from drivesim.report.sheet import contact_sheet


def frames_of(file: Path, count: int, at: list[float], boxes: bool) -> tuple[list[np.ndarray], list[str]]:
    """Frames, uint8 ``H W 3``, and the second that each is shown at."""
    info = video.probe(file)
    every = np.concatenate([clip.frames for clip in video.stream(file, chunk=64)])
    asked = [float(t * info.fps) for t in at] or np.linspace(0, len(every) - 1, count).tolist()
    places = [min(round(place), len(every) - 1) for place in asked]
    known = generated.read(file) if boxes else None
    frames = [every[n] if known is None else draw(every[n], known.boxes.at(known.times[n]), known.ids) for n in places]
    return frames, [f"{float(n / info.fps):.2f} s" for n in places]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--at", type=float, nargs="+", default=[])
    parser.add_argument("--boxes", action="store_true")
    parser.add_argument("--columns", type=int)
    args = parser.parse_args()
    files = [place / "video.mp4" if place.is_dir() else place for place in args.videos]
    rows = [frames_of(file, args.frames, args.at, args.boxes) for file in files]
    frames, stamps = (list(chain(*parts)) for parts in zip(*rows, strict=True))
    picture = contact_sheet(np.stack(frames), args.columns or len(rows[0][0]), stamps)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(args.out), picture[..., ::-1]):
        raise SystemExit(f"{args.out} cannot be written")


if __name__ == "__main__":
    main()
