"""Units of length and time, the meaning of the forms, and grids that no head is scanned on."""

import nibabel as nib
import numpy as np
import pytest

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.header import affine_mm, form_code, forms_mm, grid_problem, seconds_per_volume
from atlasgs_bids.imaging.nifti import load_series, load_volume

_QUATERN_B, _SROW_X = 256, 280
"""Offsets of the quaternion and of the sform's first row in the header, bytes."""
AFFINE_MM = np.array([[-3, 0, 0.5, 40], [0, 3, 0, -50], [0.2, 0, 6, 10], [0, 0, 0, 1.0]])


def image(unit="mm", per_mm=1.0, shape=(8, 9, 10), time_unit="sec", repetition=2.0):
    """An image whose header states ``AFFINE_MM`` in another unit."""
    affine = AFFINE_MM.copy()
    affine[:3] *= per_mm
    data = np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)
    made = nib.Nifti1Image(data, affine)
    made.set_sform(affine, 1)
    made.set_qform(affine, 1)
    if len(shape) == 4:
        made.header.set_zooms((*made.header.get_zooms()[:3], repetition))
    made.header.set_xyzt_units(unit, time_unit)
    return made


@pytest.mark.parametrize(("unit", "per_mm"), [("mm", 1), ("meter", 1e-3), ("micron", 1e3), ("unknown", 1)])
def test_lengths_are_mm_whatever_the_unit(tmp_path, unit, per_mm):
    made = image(unit, per_mm)
    np.testing.assert_allclose(affine_mm(made), AFFINE_MM, atol=1e-4)
    sform, qform = forms_mm(made)
    np.testing.assert_allclose(sform, AFFINE_MM, atol=1e-4)
    assert np.linalg.norm(qform[:3, 0]) == pytest.approx(np.linalg.norm(AFFINE_MM[:3, 0]), rel=1e-4)
    nib.save(made, tmp_path / "image.nii.gz")
    np.testing.assert_allclose(load_volume(tmp_path / "image.nii.gz").world_from_voxel, AFFINE_MM, atol=1e-4)


@pytest.mark.parametrize(
    ("unit", "stated"), [("sec", 4.5), ("msec", 4500), ("usec", 4.5e6), ("unknown", 4.5)]
)
def test_times_are_seconds_whatever_the_unit(tmp_path, unit, stated):
    made = image(shape=(8, 9, 10, 3), time_unit=unit, repetition=stated)
    assert seconds_per_volume(made) == pytest.approx(4.5, rel=1e-6)
    nib.save(made, tmp_path / "series.nii.gz")
    assert load_series(tmp_path / "series.nii.gz").seconds_per_volume == pytest.approx(4.5, rel=1e-6)


def test_a_three_dimensional_image_has_no_time():
    assert seconds_per_volume(image()) == 0


@pytest.mark.parametrize(
    ("sform_code", "qform_code", "expected"), [(4, 1, 4), (0, 2, 2), (0, 0, 0), (7, 1, 2), (-1, 1, 1)]
)
def test_the_code_is_that_of_the_form_that_is_used(sform_code, qform_code, expected):
    made = image()
    made.header["sform_code"], made.header["qform_code"] = sform_code, qform_code
    assert form_code(made) == expected


@pytest.mark.parametrize(
    ("unit", "per_mm", "said"),
    [("mm", 1000, "voxels of 3.01e+03"), ("meter", 1, "the header's unit of length is the metre"),
     ("micron", 1, "the header's unit of length is the micron")],
)  # fmt: skip
def test_voxels_that_no_scanner_has_are_refused_with_the_unit(tmp_path, unit, per_mm, said):
    made = image(unit, per_mm)
    assert said in grid_problem(made)
    nib.save(made, tmp_path / "image.nii.gz")
    with pytest.raises(InputError, match=r"image\.nii\.gz: voxels of .* expected sides of 0\.05 to 50 mm"):
        load_volume(tmp_path / "image.nii.gz")


def test_a_field_of_view_that_no_head_needs_is_refused():
    made = image(shape=(700, 2, 2))
    assert "expected at most 2000 mm along an axis" in grid_problem(made)


def test_an_ordinary_grid_has_no_problem():
    assert grid_problem(image()) is None
    assert grid_problem(image("micron", 1e3)) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_an_affine_that_is_none(tmp_path, value):
    path = tmp_path / "image.nii"
    nib.save(image(), path)
    content = bytearray(path.read_bytes())
    content[_SROW_X : _SROW_X + 16] = np.full(4, value, np.float32).tobytes()
    path.write_bytes(content)
    assert "singular or not finite" in grid_problem(nib.load(path))


def test_a_quaternion_that_rounding_made_too_long_is_taken(tmp_path):
    made = image()
    made.set_sform(None, 0)
    path = tmp_path / "image.nii"
    nib.save(made, path)
    content = bytearray(path.read_bytes())
    content[_QUATERN_B : _QUATERN_B + 12] = np.array([1 + 5e-6, 0, 0], np.float32).tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match="w2 should be positive"):
        nib.load(path)
    np.testing.assert_allclose(load_volume(path).world_from_voxel[:3, :3], np.diag([3.0, -3, 6]), atol=0.05)
