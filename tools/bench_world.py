"""Frames a second of the driving world on one core: ``python tools/bench_world.py [H W] [SEEDS]``."""

import sys
import time
from fractions import Fraction

from drivesim.world import drive


def main(height: int = 128, width: int = 256, seeds: int = 12) -> None:
    rates = []
    for seed in range(seeds):
        start = time.process_time()
        clip, _ = drive(seed, 4, Fraction(30), (height, width))
        rates.append(len(clip.frames) / (time.process_time() - start))
        print(f"seed {seed:3d}  night {clip.labels.night!s:5}  cars {clip.labels.cars:2d}  {rates[-1]:6.0f} frames/s")
    mean = len(rates) / sum(1 / rate for rate in rates)
    print(f"{height}x{width}: mean {mean:.0f}, slowest {min(rates):.0f} frames/s of processor time, set-up included")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
