"""Frames of several videos as one picture: a row a video, evenly over its length or at the seconds asked for.

    python tools/sheet.py runs/day runs/night --out docs/gallery.jpg [--frames 8] [--at 0 10 30] [--boxes] [--wrap 12]

A run folder stands for its video. ``--boxes`` draws those that are known of it; ``--wrap`` breaks a long row into rows
of so many frames.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from drivesim.data import generated, video
from drivesim.report.boxes import draw

QUALITY = 88


def frames_of(file: Path, count: int, at: list[float], boxes: bool) -> list[np.ndarray]:
    info = video.probe(file)
    places = [float(t * info.fps) for t in at] or np.linspace(0, info.frames - 1, count).tolist()
    every = np.concatenate([clip.frames for clip in video.stream(file, chunk=64)])
    known = generated.read(file) if boxes else None
    found = []
    for place in (min(round(place), len(every) - 1) for place in places):
        frame = every[place]
        if known is not None:
            frame = draw(frame, known.boxes.at(known.times[place]), known.ids)
        found.append(frame)
    return found


def sheet(rows: list[list[np.ndarray]], wrap: int) -> np.ndarray:
    """Rows of frames, which all are of one size, broken after ``wrap`` frames; empty places are white."""
    broken = [row[n : n + wrap] for row in rows for n in range(0, len(row), wrap)]
    width = max(map(len, broken))
    white = np.full_like(rows[0][0], 255)
    return np.concatenate([np.concatenate([*row, *[white] * (width - len(row))], axis=1) for row in broken])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--at", type=float, nargs="+", default=[])
    parser.add_argument("--boxes", action="store_true")
    parser.add_argument("--wrap", type=int, default=1000)
    args = parser.parse_args()
    files = [place / "video.mp4" if place.is_dir() else place for place in args.videos]
    rows = [frames_of(file, args.frames, args.at, args.boxes) for file in files]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(args.out), sheet(rows, args.wrap)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY]):
        raise SystemExit(f"{args.out} cannot be written")


if __name__ == "__main__":
    main()
