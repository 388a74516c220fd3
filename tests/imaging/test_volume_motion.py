"""The movement of a series: its framewise displacement, what volumes say of each other, and lost slices."""

import numpy as np
import pytest

from atlasgs_bids.imaging.slice_motion import AT_REST, SlicePosition
from atlasgs_bids.imaging.volume_motion import SeriesMotion, leave_one_out, lost_slices

SHIFTED = SlicePosition((1.0, -2.0, 0.5), (0.0, 0.0, 0.0), 1.0)
TURNED = SlicePosition((0.0, 0.0, 0.0), (1.0, 0.0, -2.0), 1.0)


def test_framewise_displacement_by_hand():
    motion = SeriesMotion(
        (AT_REST, SHIFTED, AT_REST, TURNED), (0.1,) * 4, ((), (3,), (), ()), (0.0, 0.0, 0.0)
    )
    on_sphere = 50 * np.radians(3.0)
    assert motion.framewise_displacement_mm[0] is None
    np.testing.assert_allclose(motion.framewise_displacement_mm[1:], [3.5, 3.5, on_sphere])
    assert motion.mean_displacement_mm == pytest.approx((7 + on_sphere) / 3)
    assert motion.moved == [1, 3]
    assert [motion.as_reference(v) for v in range(4)] == [True, False, True, False]
    assert motion.n_lost == 1


def test_a_position_turns_about_the_heads_centre():
    motion = SeriesMotion((TURNED,), (0.1,), ((),), (10.0, 20.0, 30.0))
    reference = np.eye(4)
    reference[:3, 3] = 5.0
    own = motion.target_from_anchor(0, reference)
    np.testing.assert_allclose(own @ [5.0, 15.0, 25.0, 1.0], [10.0, 20.0, 30.0, 1.0], atol=1e-12)
    again = SlicePosition.of(own @ np.linalg.inv(reference), np.array(motion.centre_world))
    np.testing.assert_allclose(again.rotation_deg, TURNED.rotation_deg, atol=1e-12)
    np.testing.assert_allclose(again.translation_mm, 0, atol=1e-12)


def directions(n, seed=0):
    found = np.random.default_rng(seed).normal(size=(n, 3))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_without_directions_the_others_say_their_mean():
    weights = leave_one_out(np.zeros((4, 3)), 1.0)
    np.testing.assert_allclose(weights, (1 - np.eye(4)) / 3)


def test_what_directions_say_is_the_ridge_fit_to_the_others():
    """Against the fit that leaves each volume out, done one by one."""
    g, ridge = directions(9), 0.7
    weights = leave_one_out(g, ridge)
    assert not np.diag(weights).any()
    x, y, z = g.T
    basis = np.column_stack(
        [np.ones(9), 2 * x * y, 2 * x * z, 2 * y * z, x * x - y * y, (3 * z * z - 1) / np.sqrt(3)]
    )
    signal = np.random.default_rng(1).normal(size=9)
    for v in range(9):
        others = np.arange(9) != v
        own = basis[others]
        normal = own.T @ own + np.diag([0.0, *[ridge] * 5])
        expected = basis[v] @ np.linalg.solve(normal, own.T @ signal[others])
        assert weights[v] @ signal == pytest.approx(expected)


def test_a_tensor_is_foreseen_from_many_directions():
    g = directions(30)
    tensor = np.array([[1.0, 0.2, 0.0], [0.2, 0.5, 0.1], [0.0, 0.1, 0.3]])
    signal = np.einsum("vi,ij,vj->v", g, tensor, g)
    off = leave_one_out(g, 1e-6) @ signal - signal
    assert np.abs(off).max() < 1e-4
    of_mean = leave_one_out(np.zeros_like(g), 1.0) @ signal - signal
    assert np.abs(of_mean).max() > 0.3


@pytest.mark.parametrize("n_volumes", [2, 12])
def test_slices_that_lost_their_signal_are_named_and_no_other(n_volumes):
    rng = np.random.default_rng(0)
    ratios = 1 + rng.normal(0, 0.02, (n_volumes, 30))
    ratios *= 1 + 0.1 * rng.random((n_volumes, 1))  # gains of volumes
    known = np.broadcast_to(np.arange(30) > 3, ratios.shape)
    ratios[~known] = 0.1  # too little of the head to tell
    assert not lost_slices(ratios, known, 4.0, 0.1).any()
    ratios[1, [10, 17]] *= [0.3, 0.8]
    assert np.argwhere(lost_slices(ratios, known, 4.0, 0.1)).tolist() == [[1, 10], [1, 17]]
