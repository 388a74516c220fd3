"""bvec rotation against examples worked by hand, and against the way through the world."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from atlasgs_bids.imaging.directions import rotated_directions
from tests.acquisitions import fsl_directions, world_directions

LAS = np.diag([-2.0, 2, 3, 1])
RAS = np.diag([1.0, 1, 1, 1])


def test_the_same_axes_change_nothing():
    directions = np.array([[0.0, 0, 0], [0.6, 0, 0.8]])
    np.testing.assert_allclose(rotated_directions(directions, LAS, np.eye(4), LAS), directions, atol=1e-12)


def test_las_and_ras_have_the_same_numbers_in_fsls_convention():
    """By hand: x = +1 in LAS (negative determinant, no flip) is world −x; in RAS −1, flipped to +1."""
    np.testing.assert_allclose(rotated_directions(np.array([[1.0, 0, 0]]), LAS, np.eye(4), RAS), [[1, 0, 0]])


def test_a_quarter_turn_of_the_head():
    """By hand: the head turned by +90° about z between T1w and DWI (x to y).

    A direction along world y at DWI time lay along world x of the T1w. In LAS, world y is +y; in RAS with
    the flip, world x is −x.
    """
    dwi_from_t1w = np.eye(4)
    dwi_from_t1w[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    turned = rotated_directions(np.array([[0.0, 1, 0]]), LAS, dwi_from_t1w, RAS)
    np.testing.assert_allclose(turned, [[-1, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_any_axes_by_way_of_the_world(flips, seed):
    rng = np.random.default_rng(seed)
    source, output, motion = np.eye(4), np.eye(4), np.eye(4)
    source[:3, :3] = Rotation.random(rng=rng).as_matrix() @ np.diag(np.array(flips) * [2, 2, 4])
    output[:3, :3] = Rotation.random(rng=rng).as_matrix() @ np.diag([1, 1, -1])
    motion[:3, :3] = Rotation.random(rng=rng).as_matrix()
    motion[:3, 3] = 7
    directions = rng.normal(size=(5, 3))
    in_head = world_directions(directions, source) @ motion[:3, :3]
    expected = fsl_directions(in_head, output)
    np.testing.assert_allclose(rotated_directions(directions, source, motion, output), expected, atol=1e-10)
