"""What a bound is made of: every weight is read once a call, and more steps are a line through one and two."""

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import nn

from drivesim.rollout.probe import Probe

from . import TOOLS, loaded


@pytest.fixture
def roofline() -> Iterator[ModuleType]:
    sys.path.insert(0, str(TOOLS))  # it takes the machine of its neighbour
    yield loaded("roofline")
    sys.path.remove(str(TOOLS))


def test_weights_are_read_once_a_call_and_steps_are_a_line(roofline: ModuleType) -> None:
    read = roofline.Read()
    with roofline.META:
        layer, x = nn.Linear(4, 4), torch.zeros(3, 4)
    network, unread = read.watch(nn.Sequential(layer, layer)), nn.Linear(9, 9, device="meta")
    network.add_module("unread", nn.Identity())
    network[2].beside = unread

    def run(steps: int) -> None:
        network(x)  # whatever the number of steps
        for _ in range(steps):
            network(x)

    spent = roofline.spent(Probe("keyframes", 5, 7, run), read)
    assert spent.bytes == 5 * (1 + 7) * 2 * (4 * 4 + 4)
    assert spent.flop == 5 * (1 + 7) * 2 * (2 * 3 * 4 * 4)
    machine = roofline.Machine(peak=spent.flop, bandwidth=spent.bytes / 3)
    assert spent.seconds(machine) == 3
