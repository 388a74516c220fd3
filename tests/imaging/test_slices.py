import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from atlasgs_bids.errors import ConfigurationError, InputError
from atlasgs_bids.imaging.profile import read_slice_profile, slice_profile, truncation_profile
from atlasgs_bids.imaging.slices import slice_geometry, slice_normal

AXIAL = np.diag([0.9, 0.9, 5.0, 1.0])
SHAPE = (230, 256, 30)
GOOD = {"SliceThickness": 4.5, "SpacingBetweenSlices": 5.0}


def mean_and_variance(profile):
    mass = np.diff(profile.cumulative)
    middles = (profile.offsets_mm[1:] + profile.offsets_mm[:-1]) / 2
    widths = np.diff(profile.offsets_mm)
    mean = (mass * middles).sum()
    return mean, (mass * ((middles - mean) ** 2 + widths**2 / 12)).sum()


@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    axis=st.integers(0, 2),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    in_plane=st.tuples(*[st.floats(0.5, 1.2)] * 2),
    spacing=st.floats(2, 8),
    ratio=st.floats(0.5, 1.5),
)
def test_any_orientation(angles, axis, flips, in_plane, spacing, ratio):
    sizes = list(in_plane)
    sizes.insert(axis, spacing)
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = rotation @ np.diag(np.array(sizes) * flips)
    affine[:3, 3] = 17
    geometry = slice_geometry((40, 40, 40), affine, {"SliceThickness": ratio * spacing})
    assert geometry.axis == axis
    assert geometry.spacing_mm == pytest.approx(spacing)
    assert geometry.thickness_mm == pytest.approx(ratio * spacing)
    assert geometry.thickness_source == "SliceThickness"
    assert geometry.in_plane_mm == pytest.approx(in_plane)
    assert geometry.warnings == ()
    np.testing.assert_allclose(slice_normal(affine, axis), affine[:3, axis] / spacing, atol=1e-6)


def test_gantry_tilt_brings_the_planes_closer():
    sheared = AXIAL.copy()
    sheared[1, 2] = 5 * math.tan(math.radians(20))
    geometry = slice_geometry(SHAPE, sheared, {"SliceThickness": 5.0})
    assert geometry.axis == 2
    assert geometry.spacing_mm == pytest.approx(5.0)
    np.testing.assert_allclose(slice_normal(sheared, 2), [0, 0, 1], atol=1e-12)


def test_no_thickness_falls_back_with_a_warning():
    geometry = slice_geometry(SHAPE, AXIAL, {})
    assert (geometry.thickness_mm, geometry.thickness_source) == (5.0, "voxel size")
    assert len(geometry.warnings) == 1
    assert "no SliceThickness" in geometry.warnings[0]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (0, "SliceThickness is 0, expected 0.25 to 10 mm"),
        (-5.0, "SliceThickness is -5"),
        (10.5, "SliceThickness is 10.5"),
        (0.005, "looks like metres"),
        (0.2, "SliceThickness is 0.2, expected"),
        ("5.0", "'5.0', expected a number in mm"),
        (True, "True, expected a number"),
        (float("nan"), "nan, expected a number"),
        ([5.0], r"[5.0], expected a number"),
    ],
)
def test_impossible_thickness_falls_back_with_a_warning(value, seen):
    geometry = slice_geometry(SHAPE, AXIAL, {"SliceThickness": value})
    assert (geometry.thickness_mm, geometry.thickness_source) == (5.0, "voxel size")
    assert len(geometry.warnings) == 1
    assert seen in geometry.warnings[0]
    assert "the slice spacing, 5 mm, is used" in geometry.warnings[0]


def test_overlapping_slices_are_believed():
    geometry = slice_geometry(SHAPE, AXIAL, {"SliceThickness": 8.0})
    assert (geometry.thickness_mm, geometry.spacing_mm) == (8.0, 5.0)
    assert geometry.warnings == ()


def test_the_given_thickness_comes_first():
    geometry = slice_geometry(SHAPE, AXIAL, {"SliceThickness": 4.5}, 3.0)
    assert (geometry.thickness_mm, geometry.thickness_source) == (3.0, "--slice-thickness")
    assert slice_geometry(SHAPE, AXIAL, {}, 3.0).warnings == ()


def test_an_impossible_given_thickness_is_refused():
    with pytest.raises(InputError, match=r"--slice-thickness 0.1 mm, expected 0.25 to 10 mm"):
        slice_geometry(SHAPE, AXIAL, GOOD, 0.1)


MATRIX = {"AcquisitionMatrixPE": 128, "ReconMatrixPE": 256}


@pytest.mark.parametrize(
    ("sidecar", "acquired_mm"),
    [
        ({}, (0.9, 0.9)),
        ({**MATRIX, "PhaseEncodingDirection": "j-"}, (0.9, 1.8)),
        ({**MATRIX, "InPlanePhaseEncodingDirectionDICOM": "ROW", "BaseResolution": 160}, (1.8, 1.44)),
        # The phase axis is not known, or lies through the slices; the numbers cannot be; nothing was filled.
        (MATRIX, (0.9, 0.9)),
        ({**MATRIX, "PhaseEncodingDirection": "k"}, (0.9, 0.9)),
        ({**MATRIX, "PhaseEncodingDirection": "j", "AcquisitionMatrixPE": 0}, (0.9, 0.9)),
        ({**MATRIX, "PhaseEncodingDirection": "j", "AcquisitionMatrixPE": 10}, (0.9, 0.9)),
        ({**MATRIX, "PhaseEncodingDirection": "j", "AcquisitionMatrixPE": 256}, (0.9, 0.9)),
        ({"AcquisitionVoxelSize": [1.8, 0.9, 4.5], **MATRIX, "PhaseEncodingDirection": "j"}, (1.8, 0.9)),
        ({"AcquisitionVoxelSize": "1.8"}, (0.9, 0.9)),
    ],
)
def test_voxels_before_zero_filling(sidecar, acquired_mm):
    geometry = slice_geometry(SHAPE, AXIAL, {**GOOD, **sidecar})
    assert geometry.in_plane_mm == pytest.approx((0.9, 0.9))
    assert geometry.acquired_in_plane_mm == pytest.approx(acquired_mm)


def test_the_point_spread_of_zero_filling_has_the_width_of_the_sinc():
    """Half maximum of sin(πx)/(πx) at x = 0.6034."""
    profile = truncation_profile(2.0)
    density = np.diff(profile.cumulative) / np.diff(profile.offsets_mm)
    middles = (profile.offsets_mm[1:] + profile.offsets_mm[:-1]) / 2
    half = middles[density >= density.max() / 2].max()
    assert np.sinc(half / 2.0) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("spacing", "n_warnings"), [(5.2, 0), (4.8, 0), (5.3, 1), (0.5, 1), ("5", 1)])
def test_spacing_is_checked_against_the_affine(spacing, n_warnings):
    geometry = slice_geometry(SHAPE, AXIAL, {**GOOD, "SpacingBetweenSlices": spacing})
    assert geometry.spacing_mm == 5.0
    assert len(geometry.warnings) == n_warnings
    assert all("SpacingBetweenSlices" in warning for warning in geometry.warnings)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_of_two_thick_axes_the_one_with_fewer_voxels(order):
    sizes, shape = np.array([1.0, 4.0, 4.0])[list(order)], np.array([200, 60, 25])[list(order)]
    geometry = slice_geometry(tuple(shape), np.diag([*sizes, 1]), {"SliceThickness": 4.0})
    assert shape[geometry.axis] == 25
    assert "no single thick axis" in geometry.warnings[0]


def test_isotropic_images_have_an_axis_without_a_warning():
    assert slice_geometry((20, 20, 20), np.eye(4), {"SliceThickness": 1.0}).warnings == ()


def test_a_single_slice_is_refused():
    with pytest.raises(InputError, match="1 slice in an image of shape"):
        slice_geometry((200, 200, 1), AXIAL, GOOD)


@pytest.mark.parametrize("broken", [np.diag([1.0, 1.0, 0.0, 1.0]), np.full((4, 4), np.nan)])
def test_broken_affine_is_refused(broken):
    with pytest.raises(InputError, match="singular or not finite"):
        slice_geometry(SHAPE, broken, GOOD)


def test_box_is_exact():
    profile = slice_profile("box", 4.5)
    np.testing.assert_array_equal(profile.offsets_mm, [-2.25, 2.25])
    np.testing.assert_array_equal(profile.cumulative, [0, 1])


def test_gaussian_is_half_as_high_at_half_its_thickness():
    profile = slice_profile("gaussian", 5.0)
    density = np.gradient(profile.cumulative, profile.offsets_mm)
    assert np.interp(2.5, profile.offsets_mm, density) == pytest.approx(density.max() / 2, rel=2e-3)
    assert profile.offsets_mm[-1] == pytest.approx(3 * 5.0 / 2.3548, rel=1e-4)
    assert (profile.cumulative[0], profile.cumulative[-1]) == (0, 1)
    mean, variance = mean_and_variance(profile)
    assert mean == pytest.approx(0, abs=1e-12)
    # A normal distribution cut at 3 sigma keeps 97.3 % of its variance.
    assert variance == pytest.approx(0.9733 * (5.0 / 2.3548) ** 2, rel=1e-3)


@pytest.mark.parametrize("thickness", [0.0, -1.0, float("nan")])
def test_no_profile_without_a_thickness(thickness):
    with pytest.raises(ConfigurationError, match="expected a positive number"):
        slice_profile("box", thickness)


def test_file_with_a_triangle(tmp_path):
    path = tmp_path / "my profile.txt"
    path.write_text("# offset weight\n-1  0\n0, 7\n\n1\t0  # end\n")
    profile = read_slice_profile(path)
    offsets = np.linspace(-1, 1, 21)
    expected = np.where(offsets < 0, (1 + offsets) ** 2 / 2, 1 - (1 - offsets) ** 2 / 2)
    np.testing.assert_allclose(
        np.interp(offsets, profile.offsets_mm, profile.cumulative), expected, atol=2e-4
    )
    assert (profile.cumulative[0], profile.cumulative[-1]) == (0, 1)
    assert (np.diff(profile.offsets_mm) > 0).all()


def test_file_is_used_where_it_lies(tmp_path):
    path = tmp_path / "profile.txt"
    path.write_text("1 2\n3 2\n")
    profile = slice_profile(read_slice_profile(path), 5.0)
    mean, variance = mean_and_variance(profile)
    assert mean == pytest.approx(2.0)
    assert variance == pytest.approx(4 / 12)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("", "0 lines of numbers"),
        ("0 1\n", "1 lines of numbers"),
        ("0 1 2\n1 1 2\n", "line 1: '0 1 2', expected two numbers"),
        ("0 1\nx 1\n", "line 2: 'x 1', expected two numbers"),
        ("0 1\n1 inf\n", "line 2: '1 inf'"),
        ("1 1\n0 1\n", "do not ascend"),
        ("0 1\n0 1\n", "do not ascend"),
        ("0 1\n1 -1\n", "weight of -1"),
        ("0 0\n1 0\n", "all weights are 0"),
        ("0 1\n0.001 1\n", "are they in mm"),
        ("0 1\n5000 1\n", "are they in mm"),
    ],
)
def test_bad_files_are_named_with_what_is_wrong(tmp_path, text, seen):
    path = tmp_path / "profile.txt"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"profile\.txt") as error:
        read_slice_profile(path)
    assert seen in str(error.value)


def test_unknown_profile_name():
    with pytest.raises(ConfigurationError, match="'boxx', expected auto, box, gaussian or a SliceProfile"):
        slice_profile("boxx", 5.0)


def test_binary_file_is_no_profile(tmp_path):
    path = tmp_path / "profile.txt"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ConfigurationError, match="not a readable text file"):
        read_slice_profile(path)
