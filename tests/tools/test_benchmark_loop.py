"""The measurements of the loop measure what they say: calls are counted, readers agree, exponents are exponents."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from drivesim.data import video
from tests.data.numbered import numbers, picture

from . import loaded

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))  # it takes the peak's size from benchmark.py
        yield loaded("benchmark_loop")


def test_a_ratio_is_of_medians_and_knows_which_way_is_better(tool: ModuleType) -> None:
    pairs = [(2.0, 1.0), (3.0, 2.0), (9.0, 3.0)]
    row = tool.ratio("a", "a", pairs, 1.5, True, "")
    assert row.value == 1.5 and row.met and row.low <= 2.0 <= row.high
    assert not tool.ratio("a", "a", pairs, 1.4, False, "").met and not tool.ratio("a", "a", pairs, 1.6, True, "").met
    assert tool.ratio("a", "a", pairs[:1], 2.0, False, "").low == 2.0


def test_exponents_are_those_of_a_power(tool: ModuleType) -> None:
    x = (1.0, 2.0, 4.0, 8.0)
    row = tool.Growth("a", x, tuple(3 * n**2 for n in x), tuple(7.0 for _ in x))
    assert row.exponents() == pytest.approx((2.0, 0.0), abs=1e-9)


def test_the_plot_is_written(tool: ModuleType, tmp_path: Path) -> None:
    rows = [tool.Growth(name, (1.0, 2.0), (1.0, 2.0), (2e6, 4e6)) for name in ("a", "b")]
    tool.plotted(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_calls_are_counted_and_the_first_can_be_repeated(tool: ModuleType) -> None:
    counted = tool.Counted(lambda x, factor: x * factor)
    assert [float(counted(torch.tensor(n), 2)) for n in (3.0, 5.0)] == [6.0, 10.0]
    assert counted.calls == 2 and float(counted.bare()) == 6.0 and counted.calls == 2


def test_seconds_are_the_processors_within_the_block(tool: ModuleType) -> None:
    import time

    with tool.processor_seconds():
        begin = time.perf_counter()
        time.sleep(0.2)
        assert time.perf_counter() - begin < 0.1
    begin = time.perf_counter()
    time.sleep(0.05)
    assert time.perf_counter() - begin >= 0.05


def test_every_reader_gives_the_same_clip(tool: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    tool.footage(file, 12, np.stack([picture(n) for n in range(60)]))
    whole = video.read(file, frames=60).frames
    for first in (0, 1, 11, 12, 30, 44):
        for reader in (tool.ours, tool.plain):
            assert np.array_equal(reader(file, first), whole[first : first + tool.CLIP])
        assert numbers(tool.opencv(file, first)) == list(range(first, first + tool.CLIP))


def test_footage_has_b_frames_some_of_which_others_refer_to(tool: ModuleType, tmp_path: Path) -> None:
    import av

    tool.footage(tmp_path / "a.mp4", 30, np.stack([picture(n) for n in range(60)]))
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert any(packet.pts != packet.dts for packet in packets)
        assert [n for n, packet in enumerate(packets) if packet.is_keyframe] == [0, 30]
    assert video.probe(tmp_path / "a.mp4").fps == Fraction(30)


@pytest.mark.slow
def test_a_killed_writer_leaves_what_it_has_written(tool: ModuleType) -> None:
    (killed,) = tool.killed(1)
    assert killed.met
