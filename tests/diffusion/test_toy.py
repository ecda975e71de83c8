"""The toy picture's training in a short form: aligned after it, no frame's distribution lost, alpha = 1 undoes it."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from drivesim.models.video import VideoUNet
from drivesim.randomness import normal

TOOL = Path(__file__).resolve().parents[2] / "tools" / "toy_alignment.py"
FRAMES, STEPS = 3, 20


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy_alignment", TOOL)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def network(toy: ModuleType) -> Iterator[VideoUNet]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors this small lose by a second one, and the training has its bits by one
    yield toy.trained(toy.Toy(FRAMES, 48, toy.Training(150, 64, 3e-3), toy.Training(250, 32, 6e-3)))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return normal(("test", "start"), (256, FRAMES, 1, 1, 1))


def test_true_sequences_are_smooth_and_every_frame_has_the_mixture(toy: ModuleType) -> None:
    x = toy.sequences(("test", "true"), 4000, FRAMES)[..., 0, 0, 0]
    found = toy.measure(x)
    step = 2 * toy.WIDTH**2 * (1 - torch.exp(torch.tensor(-1 / (2 * toy.MEMORY**2))).item())
    assert found.neighbours == pytest.approx(step, rel=0.05) and found.together > 0.95
    assert found.shares == pytest.approx(toy.WEIGHTS, abs=0.03)
    for frame in range(FRAMES):
        assert toy.measure(x[:, frame : frame + 1].expand(-1, 2)).distance < 0.05


def test_neighbours_align_and_the_marginal_stays(toy: ModuleType, network: VideoUNet, noise: Tensor) -> None:
    before, after = (toy.measure(toy.sampled(n, noise, STEPS)[-1]) for n in (toy.images(network), network))
    assert after.neighbours < before.neighbours / 3
    assert before.together < 0.25 and after.together > 0.5
    for found in (before, after):  # one mode of three gone would be a distance of 0.3 and more
        assert found.shares == pytest.approx(toy.WEIGHTS, abs=0.12) and found.distance < 0.27


def test_alpha_one_gives_the_image_model_back_bit_for_bit(toy: ModuleType, network: VideoUNet, noise: Tensor) -> None:
    image = toy.sampled(toy.images(network), noise[:16], STEPS)
    assert torch.equal(toy.sampled(toy.at_alpha_one(network), noise[:16], STEPS), image)
    assert not torch.allclose(toy.sampled(network, noise[:16], STEPS), image)


def test_the_image_model_stays_frozen(toy: ModuleType) -> None:
    settings = [toy.Toy(FRAMES, 8, toy.Training(2, 4, 1e-2), toy.Training(n, 4, 1e-2)) for n in (2, 5)]
    short, long = (toy.trained(each) for each in settings)
    pairs = zip(short.spatial.state_dict().values(), long.spatial.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
