"""Branches that change nothing but where boxes change, under a model that changes everything with any box."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.errors import Mistake
from drivesim.jobs import generate
from drivesim.models.boxes import coverage
from drivesim.rollout.branch import part
from drivesim.rollout.journal import Journal
from drivesim.rollout.kept import Around, places, shares
from drivesim.rollout.plan import Window
from drivesim.rollout.stack import Stack
from drivesim.rollout.stages import Chunk
from drivesim.rollout.tracks import Edit, Key, Track, Tracks
from drivesim.scene import Condition, FrameBoxes, Level, to_pixels
from tests.rollout.mock import LATENT, Mock, stack

QUICK = ["sampler.steps=2", "start.steps=2"]
AT = Fraction(7)
SCENARIO = """
seconds: 14
fps: 15/8
boxes: tracks
tracks:
- {id: a, class: car, keys: [{t: 0, box: [0.05, 0.3, 0.2, 0.7]}, {t: 14, box: [0.05, 0.3, 0.2, 0.7]}]}
- {id: b, class: car, keys: [{t: 0, box: [0.6, 0.3, 0.7, 0.7]}, {t: 14, box: [0.6, 0.3, 0.7, 0.7]}]}
"""
MOVE = "edits: [{op: shift, track: a, by: [0.1, 0.0]}]\n"


class Easily(Mock):
    """Shifts every pixel of a frame by what its boxes cover and where."""

    def __call__(self, x: torch.Tensor, level: Level, condition: Condition) -> torch.Tensor:
        made = super().__call__(x, level, condition)
        if condition.planes is None:
            return made
        ramp = torch.arange(condition.planes.shape[-1]) / 8
        return made + (condition.planes * ramp).mean((2, 3, 4), keepdim=True)


def told(boxes: FrameBoxes | None, cells: tuple[int, int], condition: Condition) -> Condition:
    return condition if boxes is None else replace(condition, planes=coverage(boxes, *cells))


def models() -> Stack:
    return stack(keyframes=Easily(), boxed=told)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(generate.stacks, "load", lambda *_: models())
    (tmp_path / "s.yaml").write_text(SCENARIO)
    (tmp_path / "move.yaml").write_text(MOVE)
    return generate.run(tmp_path / "s.yaml", Path("weights"), tmp_path / "run", settings=QUICK, seeds=[1])[0]


def branch(run: Path, name: str, **options: object) -> Path:
    made: dict = {"parent": run, "at": AT, "edit": run.parent / "move.yaml", **options}
    return generate.run(None, Path("weights"), run.parent / name, **made)[0]


def states(run: Path) -> dict[int, np.ndarray]:
    """The last key-frames of every window whose state is there."""
    journal = Journal(run, json.loads((run / "plan.json").read_text())["hash"])
    found = {n: journal.state(n) for n in range(len(journal.ends()))}
    return {n: state["latents"].numpy() for n, state in found.items() if state is not None}


def test_all_but_the_places_stays_bit_for_bit(run: Path) -> None:
    free, kept = branch(run, "free"), branch(run, "kept", keep=True)
    first = part(run, AT).window
    ours = states(run)
    assert len(ours) > first + 2
    for n in range(first, len(ours)):
        changed = (states(kept)[n] != ours[n]).any((0, 1))
        assert changed[1:3, 1:3].any() and not changed[:, 3:].any(), "the car's two places are columns 0 to 2"
        assert (states(free)[n] != ours[n]).any((0, 1))[:, 3:].all()
    assert json.loads((kept / "run.json").read_text())["from"]["keep"] is True


def test_it_goes_on_where_it_was_cut_off(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, made, commit = branch(run, "whole", keep=True), [], Journal.commit

    def dies(journal: Journal, segment: object) -> None:
        if made:
            raise RuntimeError("the machine died")
        made.append(segment)
        commit(journal, segment)

    with monkeypatch.context() as broken, pytest.raises(RuntimeError):
        broken.setattr(Journal, "commit", dies)
        branch(run, "cut", keep=True)
    again = branch(run, "cut", keep=True, resume=True)
    assert (again / "video.mp4").read_bytes() == (whole / "video.mp4").read_bytes()


def test_what_cannot_be_kept(run: Path, tmp_path: Path) -> None:
    kept = branch(run, "kept", keep=True)

    def refused(what: str, do: Callable[[], object]) -> None:
        with pytest.raises(Mistake, match=what):
            do()

    refused("is a branch itself", lambda: branch(kept, "no", keep=True, edit=tmp_path / "move.yaml"))
    refused("none does", lambda: branch(run, "no", keep=True, edit=None, seeds=[5]))
    (tmp_path / "longer.yaml").write_text(MOVE + "seconds: 30\n")
    (tmp_path / "night.yaml").write_text("labels: {night: true}\n")
    refused("none does", lambda: branch(run, "no", keep=True, edit=tmp_path / "night.yaml"))
    refused("kept no state", lambda: branch(run, "no", keep=True, edit=tmp_path / "longer.yaml"))
    assert not (tmp_path / "no").exists(), "before anything is made"
    refused("belongs to a branch", lambda: generate.run(None, Path("weights"), tmp_path / "no", keep=True))
    (tmp_path / "bare.yaml").write_text("seconds: 14\nfps: 15/8\n")
    (bare,) = generate.run(tmp_path / "bare.yaml", Path("weights"), tmp_path / "bare", settings=QUICK)
    refused("told no boxes", lambda: branch(bare, "no", keep=True))


def test_pixels_are_made_anew_in_a_box_and_fade_out_around_it() -> None:
    a = Track("a", "car", (Key(0, (0.25, 0.25, 0.75, 0.75)), Key(10, (0.25, 0.25, 0.75, 0.75))))
    before, times = Tracks((a,)), [Fraction(1), Fraction(11)]
    assert not shares(before, before, times, (80, 80)).any()
    share = shares(before, Tracks(), times, (80, 80))
    row = share[0, 40]
    assert (row[20:60] == 1).all() and not row[:16].any() and not row[64:].any()
    assert row[16:20] == pytest.approx([0.125, 0.375, 0.625, 0.875]) and np.array_equal(row, row[::-1])
    assert np.array_equal(share[0], share[0].T) and not share[1].any()


def test_pixels_outside_of_the_places_are_the_runs() -> None:
    a = Track("a", "car", (Key(0, (0.0, 0.0, 0.5, 0.5)), Key(10, (0.0, 0.0, 0.5, 0.5))))
    own = [np.full((8, 16, 3), 51 * n, np.uint8) for n in range(4)]  # of the run's video, which ends before the branch
    window, made = Window(1, 0, 2, 2, 8), torch.full((3, 3, 8, 16), 0.5)
    chunks = [Chunk(window, made), Chunk(window, made[:0]), Chunk(window, made, {}, True)]
    around = Around(iter(own), 3, Fraction(15, 8), Tracks((a,)), Tracks())
    shown = torch.cat([chunk.frames for chunk in around(chunks)])
    assert [chunk.last for chunk in chunks] == [False, False, True] and len(shown) == 6
    assert (shown[:, :, :4, :8] == 0.5).all(), "the car's place, from second 1.6 to 4.3"
    assert np.array_equal(to_pixels(shown[:4])[:, 5:], np.stack(own)[:, 5:])
    assert (shown[4:] == 0.5).all()


def test_places() -> None:
    a = Track("a", "car", (Key(0, (0.0, 0.0, 0.25, 0.5)), Key(10, (0.0, 0.0, 0.25, 0.5))))
    b = Track("b", "car", (Key(0, (0.5, 0.5, 0.76, 0.8)), Key(10, (0.5, 0.5, 0.76, 0.8))))
    before, cells, times = Tracks((a, b)), (4, 8), [Fraction(1), Fraction(11)]
    assert not places(before, before, times, cells).any()
    gone = places(before, before.edited([Edit("delete", "b")]), times, cells)
    expected = np.zeros((4, 8), bool)
    expected[1:4, 3:7] = True  # what it reaches into and what lies within half a cell
    assert np.array_equal(gone[0], expected) and not gone[1].any()
    truck = places(before, before.edited([Edit("class", "a", to="truck")]), times, cells)[0]
    assert truck[:3, :3].all() and truck.sum() == 9
    small = Track("c", "car", (Key(0, (0.99, 0.49, 0.999, 0.51)), Key(10, (0.99, 0.49, 0.999, 0.51))))
    one = places(Tracks((small,)), Tracks(), times, cells)[0]
    assert one.sum() == 2 and one[1:3, 7].all()
    apart = Tracks((replace(a, keys=tuple(replace(k, box=(9.0, 0.0, 9.5, 1.0)) for k in a.keys)),))
    assert not places(apart, Tracks(), times, LATENT[1:]).any(), "outside of the frame"
