"""Large tensors that are freed and made again do not cost new pages once they are kept."""

import subprocess
import sys

import pytest
import torch

from drivesim.rollout import memory

SCRIPT = """
import resource, sys, torch
from drivesim.rollout import memory
if sys.argv[1] == "keep":
    memory.keep()
def made():
    return float(torch.ones(12 << 20)[0])  # 48 MiB
for _ in range(20):  # aligned, a tensor fits into the hole of its like only once the holes have grown together
    made()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    made()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is meant")
def test_kept_pages_are_not_cleared_again() -> None:
    pages = 5 * (48 << 20) // 4096
    assert faults("keep") < pages // 10
    assert faults("not") > pages // 2


def test_what_is_kept_does_not_hide_the_peak_of_a_piece() -> None:
    device = torch.device("cpu")
    memory.keep()
    torch.ones(64 << 20)  # 256 MiB, freed at once
    with memory.measured(device) as small:
        torch.ones(4 << 20)
    with memory.measured(device) as large:
        torch.ones(32 << 20)
    if small.peak is None or large.peak is None:
        pytest.skip("peaks cannot be measured here")
    assert large.peak - small.peak > 90 << 20
