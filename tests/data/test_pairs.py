"""Clips paired by name or at random: never a stretch twice, always long enough, the same for a seed."""

from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from drivesim.data import video
from drivesim.data.gather import gather
from drivesim.data.pairs import names, pair_clips
from drivesim.errors import Mistake


def film(file: Path, frames: int, fps: int = 5, size: tuple[int, int] = (32, 64)) -> None:
    with video.Writer(file, size, Fraction(fps)) as writer:
        writer.write(np.full((frames, *size, 3), 99, np.uint8))


def paired(a: Path, b: Path, count: int = 100, seconds: int = 2, **settings):
    return pair_clips((a, gather(a)), (b, gather(b)), count, Fraction(seconds), **settings)


@pytest.fixture
def sides(tmp_path):
    for side in ("a", "b"):
        for n in range(4):
            film(tmp_path / side / f"seed-{n}" / "video.mp4", 10 * (n + 1) + 3)
    return tmp_path / "a", tmp_path / "b"


def test_videos_of_one_name_go_together_at_the_same_second(sides):
    plan = paired(*sides)
    assert plan.by_name and (plan.frames, plan.fps, plan.size, plan.slow) == (10, 5, (32, 64), 0)
    assert len(plan.pairs) == 1 + 2 + 3 + 4 and len({pair.group for pair in plan.pairs}) == 4
    for pair in plan.pairs:
        assert pair.a.source.file.parent.name == pair.b.source.file.parent.name and pair.a.start == pair.b.start
    assert len({pair.group for pair in plan.pairs[:4]}) == 4, "a second clip before all videos gave one"
    assert paired(*sides).pairs == plan.pairs != paired(*sides, seed=1).pairs


def test_others_are_paired_at_random_without_reuse(sides):
    a, b = sides
    for n in range(4):
        (b / f"seed-{n}").rename(b / f"drive-{n}")
    plan = paired(a, b)
    assert not plan.by_name and len(plan.pairs) == 10
    for side in ("a", "b"):
        starts = defaultdict(list)
        for pair in plan.pairs:
            cut = getattr(pair, side)
            starts[cut.source.file].append(cut.start)
        for file, found in starts.items():
            found = sorted(found)
            assert all(later - earlier >= 2 for earlier, later in zip(found, found[1:], strict=False))
            assert found[-1] + 2 <= video.probe(file).seconds
    orders = {tuple(pair.b.source.file.parent.name for pair in paired(a, b, seed=s).pairs[:4]) for s in range(8)}
    assert len(orders) > 3


def test_pairs_that_share_a_video_are_of_one_group(tmp_path):
    film(tmp_path / "a" / "long.mp4", 63)
    for n in range(6):
        film(tmp_path / "b" / f"{n}.mp4", 12)
    plan = paired(tmp_path / "a", tmp_path / "b")
    assert len(plan.pairs) == 6 and {pair.group for pair in plan.pairs} == {0}


def test_the_smallest_size_and_rate_are_taken_and_slower_video_is_counted(sides):
    film(sides[0] / "seed-0" / "video.mp4", 40, fps=10, size=(40, 64))
    film(sides[1] / "seed-1" / "video.mp4", 40, fps=4, size=(36, 50))
    plan = paired(*sides)
    assert (plan.fps, plan.size, plan.frames) == (4, (32, 50), 8)
    assert paired(*sides, fps=Fraction(10)).slow == 7


def test_openings_are_paired_by_name_alone_and_cut_at_their_start(sides):
    a, b = sides
    for n in range(1, 4):
        (b / f"seed-{n}").rename(b / f"drive-{n}")
    plan = paired(a, b, opening=True)
    assert len(plan.pairs) == 1 and plan.by_name and plan.pairs[0].a.start == plan.pairs[0].b.start == 0
    (b / "seed-0").rename(b / "drive-0")
    with pytest.raises(Mistake, match="no video of A has the name"):
        paired(a, b, opening=True)


def test_short_and_broken_video_is_left_out_with_a_reason(sides):
    a, b = sides
    (a / "seed-3" / "video.mp4").write_text("no video")
    film(b / "seed-0" / "video.mp4", 4)
    plan = paired(a, b)
    assert {pair.a.source.file.parent.name for pair in plan.pairs} == {"seed-1", "seed-2"}
    assert {(p.where.parts[-3], p.where.parts[-2], p.what) for p in plan.left_out} == {
        ("a", "seed-3", "is text, not a video"), ("b", "seed-0", "is 0.80 s long, shorter than a clip"),
    }  # fmt: skip


def test_no_clip_that_long_names_the_side(sides):
    film(sides[1] / "extra.mp4", 90)
    with pytest.raises(Mistake, match=r"gives no clip of 9 s \(video.mp4 is .* s long, shorter than a clip; 3 others"):
        paired(*sides, seconds=9)
    for n in range(4):
        (sides[0] / f"seed-{n}").rename(sides[0] / f"drive-{n}")
        film(sides[0] / f"drive-{n}" / "video.mp4", 90)
        film(sides[1] / f"seed-{n}" / "video.mp4", 30)
    (sides[1] / "extra.mp4").unlink()
    with pytest.raises(Mistake) as caught:
        paired(*sides, seconds=9)
    assert caught.value.where == sides[1]


def test_only_as_many_videos_are_opened_as_pairs_are_wanted(sides):
    opened = []

    def progress(rows):
        for row in rows:
            opened.append(row)
            yield row

    assert len(paired(*sides, count=2, progress=progress).pairs) >= 2
    assert len(opened) == 3  # the third is looked at only to see that two are enough


def test_names_are_paths_below_the_place(sides):
    a, _ = sides
    assert sorted(names(a, gather(a))) == [f"seed-{n}/video" for n in range(4)]
    assert list(names(a / "seed-1" / "video.mp4", gather(a / "seed-1" / "video.mp4"))) == ["video"]
