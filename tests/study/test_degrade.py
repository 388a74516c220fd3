"""Simulated slices against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlasgs_bids.study.degrade import simulate_thick_slices, true_slice_profile


def test_each_slice_is_the_mean_of_its_voxels_and_the_rest_is_dropped():
    data = np.array([[[1.0, 2, 6, 10, 0, 2, 99]]])
    slices, _ = simulate_thick_slices(data, np.eye(4), axis=2, factor=3, blur_sigma_voxels=0)
    assert slices.tolist() == [[[3.0, 4.0]]]


def test_blur_spreads_a_bright_voxel_over_neighbouring_slices():
    data = np.zeros((1, 9, 1))
    data[0, 4] = 1
    slices, _ = simulate_thick_slices(data, np.eye(4), axis=1, factor=3, blur_sigma_voxels=1.0)
    weights = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    weights /= weights.sum()
    expected = weights.reshape(3, 3).sum(axis=1) / 3
    np.testing.assert_allclose(slices.ravel(), expected, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("factor", [2, 5])
def test_affine_places_slice_centres_between_their_fine_voxels(axis, factor):
    world_from_fine = np.array(
        [[0.0, -1.5, 0.2, 10], [2.0, 0.1, 0.0, -20], [0.1, 0.0, -1.2, 30], [0.0, 0.0, 0.0, 1.0]]
    )
    slices, world_from_slices = simulate_thick_slices(np.ones((12, 12, 12)), world_from_fine, axis, factor)
    for index in range(slices.shape[axis]):
        slice_voxel = np.array([3.0, 3, 3, 1])
        slice_voxel[axis] = index
        fine_voxel = np.array([3.0, 3, 3, 1])
        fine_voxel[axis] = (index + 0.5) * factor - 0.5
        np.testing.assert_allclose(world_from_slices @ slice_voxel, world_from_fine @ fine_voxel)


def test_a_linear_ramp_in_world_keeps_its_values_at_the_slice_centres():
    """The affine and the averaging agree: a ramp is unchanged by a symmetric profile."""
    world_from_fine = np.diag([1.0, 1.0, -0.8, 1.0])
    world_from_fine[2, 3] = 7
    ramp = np.broadcast_to(7 - 0.8 * np.arange(20), (2, 2, 20))
    slices, world_from_slices = simulate_thick_slices(
        ramp, world_from_fine, axis=2, factor=5, blur_sigma_voxels=0
    )
    centres_mm = (world_from_slices @ np.stack([[0, 0, k, 1] for k in range(4)], axis=1))[2]
    np.testing.assert_allclose(slices[0, 0], centres_mm, rtol=1e-6)


@given(factor=st.integers(1, 6), n_slices=st.integers(1, 5), seed=st.integers(0, 99))
def test_whole_slices_conserve_the_mean(factor, n_slices, seed):
    data = np.random.default_rng(seed).random((2, n_slices * factor, 3))
    slices, _ = simulate_thick_slices(data, np.eye(4), axis=1, factor=factor, blur_sigma_voxels=0)
    assert slices.shape == (2, n_slices, 3)
    assert slices.mean() == pytest.approx(data.mean(), rel=1e-5)


@pytest.mark.parametrize("factor", [0, 8])
def test_a_factor_that_leaves_no_slice_is_refused(factor):
    with pytest.raises(ValueError, match="factor"):
        simulate_thick_slices(np.ones((7, 7, 7)), np.eye(4), axis=0, factor=factor)


def test_true_profile_has_unit_area_and_the_variance_of_box_plus_gaussian():
    offsets_mm, weights = true_slice_profile(thickness_mm=5.0, blur_sigma_mm=1.0)
    step_mm = offsets_mm[1] - offsets_mm[0]
    assert weights.sum() * step_mm == pytest.approx(1, abs=1e-4)
    variance_mm2 = (weights * offsets_mm**2).sum() * step_mm
    assert variance_mm2 == pytest.approx(5.0**2 / 12 + 1.0, rel=1e-3)
    np.testing.assert_allclose(weights, weights[::-1], atol=1e-12)


def test_true_profile_is_the_response_of_the_simulation():
    """A fine impulse, seen by every slice that it touches, traces the profile."""
    factor, fine_mm = 50, 0.1
    data = np.zeros((1, 1, 50 * 9))
    impulse = 4 * 50 + 17
    data[0, 0, impulse] = 1 / fine_mm
    slices, world_from_slices = simulate_thick_slices(
        data, np.diag([1, 1, fine_mm, 1.0]), axis=2, factor=factor, blur_sigma_voxels=1.0 / fine_mm
    )
    centres_mm = world_from_slices[2, 3] + world_from_slices[2, 2] * np.arange(9)
    offsets_mm, weights = true_slice_profile(factor * fine_mm, 1.0)
    expected = np.interp(impulse * fine_mm - centres_mm, offsets_mm, weights, left=0, right=0)
    np.testing.assert_allclose(slices.ravel(), expected, atol=2e-4)
