"""The distance grows with five distortions of real clips, in builtin-v1; tools/distortions.py draws it, with I3D."""

import importlib.util
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from drivesim.metrics.builtin import SIZE, Builtin

FILE = Path(__file__).parents[2] / "tools" / "distortions.py"
SPEC = importlib.util.spec_from_file_location("distortions", FILE)
distortions = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(distortions)

FEW = ("solidWhiteRight.mp4", "av_0.mp4")
STRENGTHS = {  # in pixels of SIZE, four times as large as the tool's
    "blur": (1, 2, 4),
    "noise": (8, 16, 32),
    "frame shuffle": (4, 8, 12),
    "frame freeze": (5, 10, 15),
    "local warp": (0.5, 1, 2),
}


@pytest.fixture(scope="module")
def clips(shared):
    """(A, B): 18 clips and 15, of two drives."""
    return distortions.halves([file for file in distortions.footage(shared) if file.name in FEW], SIZE)


@pytest.fixture(scope="module")
def others(clips):
    return distortions.seen([distortions.Looker(Builtin())], clips[1])[0]


@pytest.mark.parametrize("distortion", distortions.DISTORTIONS, ids=lambda distortion: distortion.name)
def test_the_distance_grows_with_the_distortion(clips, others, distortion):
    looker, values = distortions.Looker(Builtin()), []
    for strength in (0, *STRENGTHS[distortion.name]):
        bent = [distortion(clip, strength, n) if strength else clip for n, clip in enumerate(clips[0])]
        values.append(others.distance(distortions.seen([looker], bent)[0]))
    assert all(after > before for before, after in pairwise(values)), values
    assert values[-1] > 2 * values[0], values


def test_no_frame_is_in_both_halves(clips):
    def frames(half):
        return {frame.tobytes() for clip in half for frame in clip}

    assert [len(half) for half in clips] == [18, 15]
    assert not frames(clips[0]) & frames(clips[1])


@pytest.mark.parametrize("distortion", distortions.DISTORTIONS, ids=lambda distortion: distortion.name)
def test_a_distortion_is_of_the_strength_that_it_says(clips, distortion):
    clip = np.ascontiguousarray(clips[0][0])
    before = clip.copy()
    for strength in STRENGTHS[distortion.name]:
        bent = distortion(clip, strength, 0)
        assert bent.dtype == np.uint8 and bent.shape == clip.shape and np.array_equal(clip, before)
        assert np.array_equal(bent, distortion(clip, strength, 0))
        if distortion.name == "frame shuffle":
            assert sorted(frame.tobytes() for frame in bent) == sorted(frame.tobytes() for frame in clip)
            assert (bent != clip).any((1, 2, 3)).sum() == strength
        if distortion.name == "frame freeze":
            assert (np.diff(bent.astype(int), axis=0) == 0).all((1, 2, 3)).sum() == strength
        if distortion.name == "noise" and strength == 8:
            middle = (clip > 60) & (clip < 195)
            assert (bent.astype(float) - clip)[middle].std() == pytest.approx(strength, rel=0.02)
