"""Boxes are where the pixels are, and visibility is what is left uncovered."""

from itertools import pairwise

import numpy as np
import pytest

from drivesim.world import World, shapes
from drivesim.world.canvas import FOCAL, HORIZON, one_side
from drivesim.world.paint import Painter
from drivesim.world.road import CAMERA_HEIGHT, View
from drivesim.world.traffic import Agent, Traffic

SIZE = (128, 256)
CAR = shapes.car((214, 40, 40), length=4.0, width=1.8, height=1.5, boot=0.5)
BUS = shapes.bus((40, 110, 190), length=10.0, width=2.5, height=3.1)


@pytest.fixture
def straight() -> tuple[Painter, View]:
    """A straight, empty road by day, with the camera over the centre line."""
    world = World(next(seed for seed in range(99) if not World(seed).look.night))
    world.course.curvature = type(world.course.curvature)(0.0, np.zeros(1), np.ones(1), np.zeros(1))
    world.course.ego_lane = 0.0
    return Painter(world.seed, world.look, world.course, world.roadside, SIZE), View(world.course, 0.0)


def seen(painter: Painter, view: View, *agents: Agent) -> dict[int, tuple[np.ndarray, float]]:
    return {agent.track: (box, share) for agent, box, share in painter.paint(view, [], [], list(agents))[1]}


def test_a_known_car_is_where_geometry_says(straight: tuple[Painter, View]) -> None:
    painter, view = straight
    box, visibility = seen(painter, view, Agent(5, "car", view.s + 20.0, 1.5, True, CAR))[5]
    focal, horizon = FOCAL * SIZE[1], HORIZON * SIZE[0]
    points = CAR.points + np.array([20.0, 1.5, 0.0])
    u = (SIZE[1] / 2 + focal * points[:, 1] / points[:, 0]) / SIZE[1]
    v = (horizon + focal * (CAMERA_HEIGHT - points[:, 2]) / points[:, 0]) / SIZE[0]
    assert box == pytest.approx([u.min(), v.min(), u.max(), v.max()], abs=0.004)
    assert visibility == 1.0


@pytest.mark.parametrize(("ahead", "lateral"), [(12.0, 3.5), (30.0, -3.5), (5.5, -3.5), (2.0, 3.0), (60.0, 0.0)])
@pytest.mark.parametrize("mesh", [CAR, BUS])
def test_the_box_is_the_pixels(straight: tuple[Painter, View], mesh: shapes.Mesh, ahead: float, lateral: float) -> None:
    """Half a pixel of the frame apart at most, also where a vehicle reaches behind the camera."""
    painter, _ = straight
    canvas = painter.canvas
    canvas.image[:] = (1, 2, 3)
    polygons = painter._agent(Agent(1, "car", 0.0, lateral, True, mesh), lateral, ahead, 0.0)
    rows, columns = np.nonzero((canvas.image != (1, 2, 3)).any(-1))
    box = canvas.box(polygons) if polygons else None
    if box is None:
        assert not len(rows)
        return
    pixels = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert box * np.array([canvas.width, canvas.height] * 2) == pytest.approx(pixels, abs=0.5 * canvas.scale)


def test_visibility_is_what_is_not_covered(straight: tuple[Painter, View]) -> None:
    painter, view = straight
    car, bus = Agent(1, "car", view.s + 30, 0.0, True, CAR), Agent(2, "bus", view.s + 12, 0.0, True, BUS)
    assert seen(painter, view, car)[1][1] == 1.0
    both = seen(painter, view, car, bus)
    assert both[1][1] == 0.0 and both[2][1] == 1.0
    shifted = seen(painter, view, car, Agent(2, "bus", view.s + 20, 1.25, True, BUS))
    assert 0.2 < shifted[1][1] < 0.8


def test_one_side_cuts_a_square() -> None:
    square = np.array([(0.0, 0.0, 0.0), (0.0, 2.0, 0.0), (1.0, 2.0, 0.0), (1.0, 0.0, 0.0)])
    assert {tuple(p) for p in one_side(square, 1, 0.5, 1)} == {(0, 0.5, 0), (0, 2, 0), (1, 2, 0), (1, 0.5, 0)}
    assert {tuple(p) for p in one_side(square, 0, 0.25, -1)} == {(0, 0, 0), (0, 2, 0), (0.25, 2, 0), (0.25, 0, 0)}
    assert len(one_side(square, 1, 3.0, 1)) == 0 and one_side(square, 1, 3.0, -1) is square


@pytest.mark.parametrize("seed", range(12))
def test_nobody_drives_through_anybody(seed: int) -> None:
    world = World(seed)
    for t in np.linspace(0, 200, 21):
        view = View(world.course, float(t))
        lanes: dict[float, list[tuple[float, float]]] = {}
        for agent in world.traffic.at(float(t), view.s):
            if agent.mesh is None:
                continue
            half = float(np.ptp(agent.mesh.points[:, 0])) / 2
            lanes.setdefault(round(agent.lateral / 3.5 - 0.5), []).append((agent.s, half))
            if abs(agent.lateral - world.course.ego_lane) < 1:
                assert agent.s - view.s - half > 4.0
        for lane in lanes.values():
            lane.sort()
            assert all(b[0] - a[0] > a[1] + b[1] for a, b in pairwise(lane))


def test_nobody_appears_nearby() -> None:
    world = World(11)
    known: set[int] = set()
    for n in range(300):
        view = View(world.course, n / 30)
        agents = {agent.track: agent for agent in world.traffic.at(n / 30, view.s)}
        for track in set(agents) - known if n else ():
            assert not -5 < agents[track].s - view.s < 140
        known = set(agents)


def test_tracks_keep_their_class() -> None:
    traffic = Traffic(10, World(10).course)
    kinds: dict[int, str] = {}
    for t in range(0, 60, 2):
        for agent in traffic.at(t, 7.0 * t):
            assert kinds.setdefault(agent.track, agent.cls) == agent.cls
