"""Boxes in space and what a camera sees of them, against numbers computed by hand."""

import numpy as np
import pytest

from drivesim.data.cuboids import Camera, Cuboids, Pose, between, cuboids, matrices, seen, slerp

HALF = 0.5**0.5
UPRIGHT = (1.0, 0.0, 0.0, 0.0)
LOOKING_AHEAD = np.array([0.5, -0.5, 0.5, -0.5])  # z of the camera is x of the vehicle, x is -y, y is -z
MATRIX = np.array([[50.0, 0, 50], [0, 50, 100], [0, 0, 1]])
SIZE = (200, 100)


def box(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> np.ndarray:
    """``1 8 3`` corners of a box between two planes of each axis."""
    low, high = np.array([x, y, z]).T
    return cuboids([(*(low + high) / 2, *(high - low), *UPRIGHT)]).corners()


def test_a_box_in_front_is_as_large_as_its_near_side() -> None:
    # 2 x 2 metres at 10 m and a focal length of 50 pixels are 10 x 10 pixels, around 50, 100
    assert seen(box((-1, 1), (-1, 1), (10, 12)), MATRIX, SIZE).tolist() == [[45, 95, 55, 105]]


def test_a_box_beside_the_camera_is_cut_by_the_edge_of_the_picture_first() -> None:
    # The right edge is x = z. The box reaches from 5 m behind the camera to 10 m before it: it enters the picture at
    # z = 1, where 1 m of height is 50 pixels, and its far inner edge is at 50 + 50 / 10.
    # Projected first and cut then, it would be as high as the picture.
    found = seen(box((1, 2), (-1, 1), (-5, 10)), MATRIX, SIZE)
    assert found == pytest.approx(np.array([[55, 50, 100, 150]]))


@pytest.mark.parametrize(
    "corners",
    [
        box((-1, 1), (-1, 1), (-12, -10)),  # behind
        box((20, 22), (-1, 1), (10, 12)),  # to the right
        box((-1, 1), (-60, -50), (10, 12)),  # above
        box((-1, 1), (-1, 1), (-2, 0.05)),  # not yet at the near plane
    ],
)
def test_what_is_not_in_the_picture_has_no_box(corners: np.ndarray) -> None:
    assert np.isnan(seen(corners, MATRIX, SIZE)).all()


def test_a_camera_within_a_box_sees_it_everywhere() -> None:
    assert seen(box((-9, 9), (-9, 9), (-9, 9)), MATRIX, SIZE) == pytest.approx(np.array([[0, 0, 100, 200]]))


def test_a_box_through_the_near_plane_reaches_the_bottom() -> None:
    # A plate under the camera, 1 m below: its far edge at 10 m is 5 pixels below the centre.
    found = seen(box((-0.5, 0.5), (1, 1.5), (-10, 10)), MATRIX, SIZE)
    assert found[0, [1, 3]] == pytest.approx([105, 200])
    # Its top leaves the picture at 100 + 50 / z = 200, half a metre ahead, where its 1 m is as wide as the picture
    assert found[0, [0, 2]] == pytest.approx([0, 100])


def test_a_box_whose_corners_all_miss_the_picture_is_seen_through_it() -> None:
    assert seen(box((-100, 100), (-1, 1), (10, 12)), MATRIX, SIZE) == pytest.approx(np.array([[0, 95, 100, 105]]))


def test_the_vehicle_and_the_camera_have_their_own_axes() -> None:
    camera = Camera(Pose(LOOKING_AHEAD, np.array([1.0, 0, 2])), MATRIX, SIZE)
    # 10 m before the camera, 3 m to its left, 1 m below it: x = -3, y = 1, z = 10
    found = camera.boxes(cuboids([(11.5, 3, 1, 1, 2, 2, *UPRIGHT)]).corners())
    assert found == pytest.approx(np.array([[50 - 50 * 4 / 10, 100, 50 - 50 * 2 / 11, 100 + 50 * 2 / 10]]))


def test_a_turned_box_is_as_long_as_it_was_wide() -> None:
    turned = cuboids([(5, 6, 7, 4, 2, 1, HALF, 0, 0, HALF)]).corners()[0]  # a quarter around z
    assert turned.min(axis=0) == pytest.approx([4, 4, 6.5])
    assert turned.max(axis=0) == pytest.approx([6, 8, 7.5])


def test_a_pose_takes_points_into_itself() -> None:
    vehicle = Pose(np.array([HALF, 0, 0, HALF]), np.array([10.0, 20, 0]))  # looks along y
    assert vehicle.into(np.array([10.0, 25, 1])) == pytest.approx([5, 0, 1])
    assert vehicle.into(np.array([7.0, 20, 0])) == pytest.approx([0, 3, 0])


def test_between_two_keys() -> None:
    first = cuboids([(0, 0, 0, 4, 2, 1, *UPRIGHT)])
    second = cuboids([(8, 4, -2, 5, 2, 2, -HALF, 0, 0, -HALF)])  # a quarter around z, by its other quaternion
    quarter = between(first, second, 0.25)
    eighth = np.pi / 8  # a quarter of a quarter turn, of which a quaternion holds the half
    assert quarter.centre.tolist() == [[2, 1, -0.5]]
    assert quarter.size.tolist() == [[4.25, 2, 1.25]]
    assert quarter.rotation == pytest.approx(np.array([[np.cos(eighth / 2), 0, 0, np.sin(eighth / 2)]]))
    for share, key in ((0.0, first), (1.0, second)):
        assert between(first, second, share).corners() == pytest.approx(key.corners())


def test_slerp_of_the_same_rotation_is_it() -> None:
    turn = np.array([[0.2, 0.4, 0.4, 0.8]])
    assert slerp(turn, -1.01 * turn, 0.3) == pytest.approx(turn)


def test_rotations_keep_lengths_and_hands() -> None:
    found = matrices(np.array([[0.3, -0.1, 0.7, 0.2], [1.0, 0, 0.5, 0]]))
    for matrix in found:
        assert matrix @ matrix.T == pytest.approx(np.eye(3))
        assert np.linalg.det(matrix) == pytest.approx(1)


def test_random_boxes_against_many_points_on_them() -> None:
    """What points on the sides of a box, projected one by one, span."""
    draws = np.random.Generator(np.random.Philox(7))
    compared = 0
    for _ in range(60):
        numbers = (*draws.uniform(-6, 6, 2), draws.uniform(0, 12), *draws.uniform(1, 8, 3), *draws.normal(size=4))
        corners = cuboids([numbers]).corners()
        grid = draws.uniform(size=(40000, 3))
        grid[np.arange(40000), draws.integers(0, 3, 40000)] = draws.integers(0, 2, 40000)
        origin, axes = corners[0, 0], corners[0, [4, 2, 1]] - corners[0, 0]
        x, y, z = (origin + grid @ axes).T
        front = z >= 0.1
        pixels = np.stack([50 * x[front] / z[front] + 50, 50 * y[front] / z[front] + 100], axis=1)
        pixels = pixels[((pixels >= 0) & (pixels <= (100, 200))).all(axis=1)]
        found = seen(corners, MATRIX, SIZE)[0]
        if len(pixels) < 500:
            continue
        compared += 1
        spanned = np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])
        assert (found[:2] <= spanned[:2] + 1e-9).all() and (found[2:] >= spanned[2:] - 1e-9).all()
        assert found == pytest.approx(spanned, abs=6)  # points are some pixels apart
    assert compared > 20


def test_what_is_no_box_no_pose_no_camera() -> None:
    good = (0.0, 0, 0, 1, 1, 1, *UPRIGHT)
    rows = [good, (np.nan, *good[1:]), (*good[:3], 0.0, *good[4:]), (*good[:6], 0, 0, 0, 0), (1e300, *good[1:])]
    assert cuboids(rows).sound.tolist() == [True, False, False, False, False]
    assert len(cuboids([])) == 0 and cuboids([]).corners().shape == (0, 8, 3)
    assert seen(cuboids([]).corners(), MATRIX, SIZE).shape == (0, 4)
    with pytest.raises(ValueError, match="no pose"):
        Pose(np.zeros(4), np.zeros(3))
    with pytest.raises(ValueError, match="no camera matrix"):
        Camera(Pose(np.array(UPRIGHT), np.zeros(3)), np.zeros((3, 3)), SIZE)
    with pytest.raises(ValueError, match="disagree"):
        Cuboids(np.zeros((2, 3)), np.ones((1, 3)), np.ones((2, 4)))
