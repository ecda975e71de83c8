"""The closed forms agree with sums over small steps; the truth is what the camera does."""

import numpy as np
import pytest

from drivesim.world import World
from drivesim.world.road import Course, View


@pytest.mark.parametrize("seed", [0, 7, 23])
def test_waves_integrate(seed: int) -> None:
    course = Course(seed)
    for waves, end in ((course.speed, 40.0), (course.curvature, 300.0)):
        x = np.linspace(0, end, 20001)
        assert np.trapezoid(waves.value(x), x) == pytest.approx(float(waves.integral(end)), abs=1e-5)
        assert float(waves.integral(0.0)) == pytest.approx(0.0, abs=1e-12)


def test_never_stands_still() -> None:
    for seed in range(50):
        speed = World(seed).truth(np.arange(0, 120, 0.5)).speed
        assert 4.0 < speed.min() and speed.max() < 11.0


@pytest.mark.parametrize("seed", [1, 4, 9])
def test_truth_is_the_camera_s_motion(seed: int) -> None:
    """Speed and yaw rate from where the camera is 2 ms later, seen from where it is now."""
    world, step = World(seed), 2e-3
    for t in (0.0, 3.7, 61.0):
        now, then = View(world.course, t), View(world.course, t + step)
        right, forward, _ = now.place(np.array([then.s]), world.course.ego_lane)
        truth = world.truth(np.array([t + step / 2]))
        assert np.hypot(right[0], forward[0]) / step == pytest.approx(truth.speed[0], rel=2e-3)
        assert (then.heading - now.heading) / step == pytest.approx(truth.yaw_rate[0], abs=1e-5)
        assert truth.curvature[0] * truth.speed[0] == pytest.approx(truth.yaw_rate[0], abs=1e-12)


def test_places_on_a_circle() -> None:
    """A road of constant curvature is a circle."""
    course, radius = Course(3), 120.0
    course.curvature = type(course.curvature)(1 / radius, np.zeros(1), np.ones(1), np.zeros(1))
    course.ego_lane = 0.0
    right, forward, psi = View(course, 5.0).place(View(course, 5.0).s + np.array([0.0, 30.0, 90.0]), 2.0)
    angle = np.array([0.0, 30.0, 90.0]) / radius
    assert psi == pytest.approx(angle, abs=1e-9)
    assert forward == pytest.approx((radius + 2.0) * np.sin(angle), abs=2e-2)
    assert right == pytest.approx((radius + 2.0) * np.cos(angle) - radius, abs=2e-2)
