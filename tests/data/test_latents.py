"""Windows of a latent cache at several rates: which is drawn, that frames fall on the cache's, what is too short."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.data.index import Entry
from drivesim.data.latent_windows import LatentData
from drivesim.data.latent_writer import LatentWriter
from drivesim.data.latents import About, LatentCache
from drivesim.errors import Mistake

RATES = (Fraction(15, 2), Fraction(30))
ABOUT = About("index", "a" * 64, (16, 32), "30", 1, "32", (2, 2, 4))


def written(folder: Path, lengths: list[int]) -> Path:
    """A cache at 30 fps. Every element of a frame is clip * 100 + frame."""
    values = dict(path="p", root="/", bytes=1, frames=2, width=4, height=4, rotation=0, fps_num=30, fps_den=1)
    folder.mkdir()
    with LatentWriter(folder, ABOUT) as writer:
        for n, length in enumerate(lengths):
            moments = np.tile((100 * n + np.arange(length, dtype=np.float32))[:, None, None, None], (1, *ABOUT.shape))
            row = Entry(clip_id=str(n), drive=str(n), fps_stated=False, seconds=9.0, split="train", **values)  # type: ignore[arg-type]
            writer.add(row, moments, Fraction(30), Fraction(0))
    return folder


def samples(folder: Path, count: int = 200, seed: int = 1, **more: object) -> list[tuple[float, list[float]]]:
    """fps and marks of the first ``count`` samples."""
    values: dict[str, object] = dict(frames=5, batch=4, steps=count // 4, seed=seed, rates=RATES)
    batches = LatentData(folder, **values | more).train_dataloader()  # type: ignore[arg-type]
    return [
        (float(fps), marks.tolist())
        for batch in batches
        for fps, marks in zip(batch["fps"], batch["moments"][:, :, 0, 0, 0], strict=True)
    ]


def test_every_rate_comes_up_by_seed_and_sample_and_its_frames_are_as_far_apart(tmp_path: Path) -> None:
    folder = written(tmp_path / "cache", [40, 90, 17])
    found = samples(folder)
    assert found == samples(folder, batch=2, steps=100) and found[80:] == samples(folder, start_step=20)
    assert [fps for fps, _ in found] != [fps for fps, _ in samples(folder, seed=2)]
    assert {fps for fps, _ in found} == {7.5, 30.0}
    assert 70 < sum(fps == 7.5 for fps, _ in found) < 130
    for fps, marks in found:
        np.testing.assert_array_equal(np.diff(marks), 30 / fps)
        assert marks[0] // 100 == marks[-1] // 100  # of one clip
    for rate in (7.5, 30.0):
        assert {marks[0] // 100 for fps, marks in found if fps == rate} == {0, 1, 2}


def test_a_clip_too_short_for_the_low_rate_gives_windows_at_the_high_one(tmp_path: Path) -> None:
    folder = written(tmp_path / "cache", [16, 60, 4])
    found = samples(folder)
    assert {marks[0] // 100 for fps, marks in found if fps == 30.0} == {0, 1}
    assert {marks[0] // 100 for fps, marks in found if fps == 7.5} == {1}
    assert LatentData(folder, frames=5, batch=1, steps=1, rates=RATES).left_out == {"shorter than a window": 1}


def test_one_rate_alone_is_its_windows_and_none_is_the_caches(tmp_path: Path) -> None:
    folder = written(tmp_path / "cache", [40, 90])
    assert {fps for fps, _ in samples(folder, rates=RATES[:1])} == {7.5}
    assert samples(folder, rates=RATES[1:]) == samples(folder, rates=())


def test_what_no_window_can_be_had_from_is_a_mistake(tmp_path: Path) -> None:
    folder = written(tmp_path / "cache", [16, 12])
    with pytest.raises(Mistake, match=r"no sequence has 17 frames at 30 fps, for windows at 15/2, the longest has 16"):
        samples(folder)
    with pytest.raises(Mistake, match=r"30 frames a second are no whole multiple of 20") as told:
        samples(folder, rates=(Fraction(20), Fraction(15, 2)))
    assert told.value.mend == "encode with --fps 60"
    cache = LatentCache.open(folder)
    with pytest.raises(ValueError, match="frames 0 to 17 of a sequence of 16"):
        cache.read(cache.sequences[0], 0, 5, 4)
    assert torch.tensor(cache.read(cache.sequences[0], 3, 4, 4))[:, 0, 0, 0].tolist() == [3, 7, 11, 15]
