"""Agents count more in a loss: where, how much, and what batches must hold for it."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.data.loader import ClipData
from drivesim.jobs import index
from drivesim.models.boxes import coverage
from drivesim.scene import CLASSES, EMPTY, FrameBoxes
from drivesim.training.autoencoder import gradient_loss
from drivesim.world import render

WORLD = "kind: world\nclips: 2\nseconds: 4\nfps: 15/8\nsize: [32, 64]\nval: 0.0\n"


def told(*boxes: tuple[float, float, float, float], known: bool = True) -> FrameBoxes:
    rows = boxes or ((0.0, 0.0, 0.0, 0.0),)
    cls = CLASSES.index("car") if boxes else EMPTY
    classes = torch.full((1, 1, len(rows)), cls)
    return FrameBoxes(torch.tensor([[rows]]), classes, torch.zeros_like(classes), torch.tensor([[known]]))


def test_coverage_is_the_share_of_a_cell_that_one_box_covers():
    expected = torch.zeros(4, 8)
    expected[1:3, 2:4], expected[1:3, 4] = 1.0, 0.5
    box = (2 / 8, 1 / 4, 4.5 / 8, 3 / 4)
    assert torch.equal(coverage(told(box), 4, 8), expected[None, None, None])
    assert torch.equal(coverage(told(box, box), 4, 8), expected[None, None, None])  # two at one place count once
    assert not coverage(told(), 4, 8).any() and not coverage(told(box, known=False), 4, 8).any()


def test_small_agents_count_more_and_wholly_so_all_alike():
    boxes = ((0.0, 0.0, 1 / 8, 1 / 4), (2 / 8, 0.0, 6 / 8, 1.0), (7 / 8, 3 / 4, 7.5 / 8, 1.0))  # of 1, 16 and 1/2 cells
    half = coverage(told(*boxes), 4, 8, small=0.5)[0, 0, 0]
    assert (half[0, 0], half[0, 3], half[3, 7]) == (4.0, 1.0, 2.0)
    alike = coverage(told(*boxes), 4, 8, small=1.0)[0, 0, 0]
    assert alike[0, 0] == alike[:, 2:6].sum() == 16.0


def test_a_weight_of_one_is_none_and_of_two_doubles():
    x, y = torch.rand(2, 3, 16, 32), torch.rand(2, 3, 16, 32)
    one = torch.ones(2, 1, 16, 32)
    plain = float(gradient_loss(x, y))
    assert float(gradient_loss(x, y, one)) == pytest.approx(plain)
    assert float(gradient_loss(x, y, 2 * one)) == pytest.approx(2 * plain)


def test_an_error_counts_by_the_weight_where_it_is():
    x = torch.zeros(1, 3, 16, 32)
    y, weight = x.clone(), torch.ones(1, 1, 16, 32)
    y[..., 8, 16] = 1.0
    weight[..., 24:] = 5.0  # elsewhere, at all three sizes
    assert float(gradient_loss(x, y, weight)) == pytest.approx(float(gradient_loss(x, y)))
    weight[:] = 5.0
    assert float(gradient_loss(x, y, weight)) == pytest.approx(5 * float(gradient_loss(x, y)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    (folder / "recipe.yaml").write_text(WORLD)
    return index.run(folder / "recipe.yaml", folder / "index") or folder / "index"


def test_the_boxes_of_a_batch_are_those_of_its_frames(world: Path):
    """Every start falls between two frames; the boxes are the world's at the frame that is shown."""
    data = ClipData(
        world, frames=3, fps=Fraction(15, 8), size=(32, 64), batch=2, steps=3, boxes=True
    )  # fmt: skip
    truth = {}
    for seed in range(2):
        clip = render(seed, 4, Fraction(15, 8), (32, 64))
        assert clip.boxes is not None
        for n in range(len(clip.frames)):
            there = clip.boxes.at(n * Fraction(8, 15))
            truth[seed, n] = {
                (int(track), tuple(np.round(box, 4))) for track, box in zip(there.track, there.box, strict=True)
            }
    windows = [tuple(truth[seed, n + k] for k in range(3)) for seed in range(2) for n in range(6)]
    seen = 0
    for batch in data.train_dataloader():
        boxes = FrameBoxes.of(batch)
        assert boxes is not None and bool(boxes.known.all())
        for b in range(2):
            found = tuple(
                {
                    (int(boxes.track[b, t, n]), tuple(np.round(boxes.box[b, t, n].double().numpy(), 4)))
                    for n in torch.nonzero(boxes.cls[b, t] != EMPTY)[:, 0].tolist()
                }
                for t in range(3)
            )
            assert found in windows
            seen += sum(map(len, found))
    assert seen
