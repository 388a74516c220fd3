"""Simulated slices against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlasgs_bids.imaging.profile import read_slice_profile
from atlasgs_bids.study.simulation.degrade import (
    Degradation,
    rigid_motion,
    simulate_thick_slices,
    true_slice_profile,
    with_rician_noise,
)


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


@pytest.mark.parametrize(("kind", "blur"), [("paper", 1.0), ("box", 0.0)])
def test_degradations_by_name_are_those_simulations(kind, blur):
    data = np.random.default_rng(3).random((4, 9, 5))
    named = Degradation(kind, axis=1, factor=3).slices(data, np.diag([1.0, 2, 3, 1]))
    expected = simulate_thick_slices(data, np.diag([1.0, 2, 3, 1]), 1, 3, blur)
    np.testing.assert_array_equal(named[0], expected[0])
    np.testing.assert_array_equal(named[1], expected[1])


def test_gaussian_slices_weigh_voxels_by_hand():
    """Factor 2: the centre of slice 1 is voxel 2.5, σ = 2/2.3548 voxels, cut at 3 σ = 2.548 voxels."""
    data = np.zeros((1, 1, 8))
    data[0, 0, 3] = 1
    slices, _ = Degradation("gaussian", axis=2, factor=2).slices(data, np.eye(4))
    sigma = 2 / 2.354820045
    weights = np.exp(-0.5 * (np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]) / sigma) ** 2)
    assert slices[0, 0, 1] == pytest.approx(weights[3] / weights.sum(), rel=1e-5)
    assert slices[0, 0, 3] == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_degradation_has_its_slice_centres_in_the_affine(axis):
    """A ramp along the axis is the position itself, and a symmetric profile leaves it."""
    world_from_fine = np.diag([1.5, 1.5, 1.5, 1.0])
    shape = [3, 3, 3]
    shape[axis] = 20
    ramp = 1.5 * np.indices(shape)[axis]
    for kind in ("paper", "box", "gaussian"):
        slices, world_from_slices = Degradation(kind, axis, 4).slices(ramp, world_from_fine)
        inner = np.take(slices, [1, 2, 3], axis=axis).mean(axis=tuple(i for i in range(3) if i != axis))
        centres = [world_from_slices[axis, axis] * k + world_from_slices[axis, 3] for k in (1, 2, 3)]
        np.testing.assert_allclose(inner, centres, rtol=1e-5)


@pytest.mark.parametrize("kind", ["paper", "box", "gaussian"])
def test_the_app_is_told_the_profile_that_was_simulated(kind, tmp_path):
    """Variance of the profile file as the app reads it, against that of a simulated impulse."""
    factor = 6
    degradation = Degradation(kind, axis=2, factor=factor)
    np.savetxt(tmp_path / "profile.txt", np.column_stack(degradation.profile(1.0)))
    profile = read_slice_profile(tmp_path / "profile.txt")
    middles = (profile.offsets_mm[1:] + profile.offsets_mm[:-1]) / 2
    variance = (np.diff(profile.cumulative) * middles**2).sum()
    responses = []
    for voxel in range(36, 42):
        data = np.zeros((1, 1, 78))
        data[0, 0, voxel] = 1
        slices, affine = degradation.slices(data, np.eye(4))
        offsets = affine[2, 2] * np.arange(13) + affine[2, 3] - voxel
        responses.append((slices[0, 0] * offsets**2).sum())
    # A voxel is a point here: the box of its own width, of variance 1/12, is missing from the mean of a box.
    missing = 0.0 if kind == "gaussian" else 1 / 12
    assert np.sum(responses) + missing == pytest.approx(variance, rel=0.03)


def test_rician_noise_of_silence_is_rayleigh_and_none_is_none():
    silence = np.zeros((40, 40, 40), np.float32)
    noisy = with_rician_noise(silence, 2.0, np.random.default_rng(0))
    assert noisy.mean() == pytest.approx(2.0 * np.sqrt(np.pi / 2), rel=0.01)
    assert with_rician_noise(silence, 0.0, np.random.default_rng(0)) is silence


def test_motion_turns_about_the_centre_and_shifts_it_by_what_was_asked():
    centre = np.array([10.0, -20, 30])
    moved = rigid_motion(3.0, 5.0, centre, np.random.default_rng(1))
    assert np.linalg.norm(moved[:3, :3] @ centre + moved[:3, 3] - centre) == pytest.approx(3.0)
    cosine = (np.trace(moved[:3, :3]) - 1) / 2
    assert np.degrees(np.arccos(cosine)) == pytest.approx(5.0)
    np.testing.assert_allclose(moved[:3, :3] @ moved[:3, :3].T, np.eye(3), atol=1e-12)


def test_coarse_pixels_are_means_of_slices_and_lie_where_they_were():
    """2 x 2 voxels in slices of three; what fills no pixel or no slice is dropped."""
    truth = np.random.default_rng(0).random((6, 5, 7)).astype(np.float32)
    degradation = Degradation("box", axis=2, factor=3, in_plane=2)
    slices, affine = degradation.slices(truth, np.diag([1.0, 1, 2, 1]))
    expected = truth[:, :4, :6].reshape(3, 2, 2, 2, 2, 3).mean((1, 3, 5))
    np.testing.assert_allclose(slices, expected, rtol=1e-6)
    assert degradation.blocks == (2, 2, 3)
    np.testing.assert_allclose(affine, [[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 6, 2], [0, 0, 0, 1]])
