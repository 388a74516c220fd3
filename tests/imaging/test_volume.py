import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.nifti import load_volume, to_nifti
from atlasgs_bids.imaging.orientation import check_orientation
from atlasgs_bids.imaging.volume import voxel_sizes_mm

OBLIQUE = np.array([[-1.9, 0.2, 0.4, 12], [0.3, 1.8, -0.9, -40], [0.5, 0.6, 4.8, 7], [0, 0, 0, 1.0]])
PLAIN = np.diag([1.0, 1.0, 5.0, 1.0])


def values(shape=(4, 5, 6)):
    return np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)


def write(path, data, affine=OBLIQUE):
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def test_values_and_affine_come_back(tmp_path):
    volume = load_volume(write(tmp_path / "with space.nii.gz", values()))
    np.testing.assert_array_equal(volume.data, values())
    np.testing.assert_allclose(volume.world_from_voxel, OBLIQUE, atol=1e-5)
    assert volume.data.dtype == np.float32
    assert volume.observed is None
    assert volume.grid.shape == (4, 5, 6)


def test_voxel_sizes_are_the_lengths_of_the_columns():
    np.testing.assert_allclose(
        voxel_sizes_mm([[0, 0, 3, 9], [-2, 0, 0, 9], [0, 1, 4, 9], [0, 0, 0, 1]]), [2, 1, 5]
    )


def test_scaled_integers_come_in_their_units(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), PLAIN)
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "scaled.nii")
    # nibabel keeps what is stored and writes the scaling beside it
    stored = nib.load(tmp_path / "scaled.nii")
    assert stored.dataobj.slope == 0.5
    expected = np.asarray(stored.dataobj.get_unscaled()) * 0.5 - 3
    np.testing.assert_array_equal(load_volume(tmp_path / "scaled.nii").data, expected.astype(np.float32))


def test_4d_with_one_volume_is_3d(tmp_path):
    volume = load_volume(write(tmp_path / "one.nii.gz", values()[..., None]))
    np.testing.assert_array_equal(volume.data, values())


@pytest.mark.parametrize("shape", [(4, 5, 6, 2), (4, 5), (4, 5, 6, 1, 3)])
def test_another_shape_is_refused(tmp_path, shape):
    with pytest.raises(InputError, match=r"bad\.nii\.gz: shape .* expected one 3-D volume"):
        load_volume(write(tmp_path / "bad.nii.gz", values(shape)))


def test_not_finite_voxels_are_marked(tmp_path):
    data = values()
    data[1, 2, 3], data[0, 0, 0], data[3, 4, 5] = np.nan, np.inf, -np.inf
    volume = load_volume(write(tmp_path / "nan.nii.gz", data))
    assert volume.observed is not None
    np.testing.assert_array_equal(volume.observed, np.isfinite(data))
    np.testing.assert_array_equal(volume.data, np.where(np.isfinite(data), data, 0))


def test_values_beyond_float32_are_marked(tmp_path):
    data = values().astype(np.float64)
    data[0, 0, 0] = 1e300
    volume = load_volume(write(tmp_path / "huge.nii.gz", data))
    assert volume.observed is not None
    assert volume.observed.sum() == data.size - 1


@pytest.mark.parametrize(("value", "seen"), [(np.nan, "NaN"), (7.0, "every voxel is 7")])
def test_an_image_without_content_is_refused(tmp_path, value, seen):
    path = write(tmp_path / "flat.nii.gz", np.full((3, 3, 3), value, dtype=np.float32))
    with pytest.raises(InputError, match=seen):
        load_volume(path)


def test_constant_where_finite_is_refused(tmp_path):
    data = np.zeros((3, 3, 3), dtype=np.float32)
    data[0] = np.nan
    with pytest.raises(InputError, match="every voxel is 0"):
        load_volume(write(tmp_path / "flat.nii.gz", data))


def test_truncated_gz_says_to_copy_it_again(tmp_path):
    path = write(tmp_path / "cut.nii.gz", values((30, 30, 30)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"truncated or damaged; copy it again"):
        load_volume(path)


def test_damaged_gz_says_to_copy_it_again(tmp_path):
    path = tmp_path / "flipped.nii.gz"
    content = bytearray(write(path, values((30, 30, 30))).read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(InputError, match="copy it again"):
        load_volume(path)


@pytest.mark.parametrize("content", [b"", b"not an image at all", gzip.compress(b"neither", mtime=0)])
def test_no_image_at_all(tmp_path, content):
    path = tmp_path / "T1w.nii.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"T1w\.nii\.gz: not a readable NIfTI image"):
        load_volume(path)


def test_broken_link_says_how_to_fetch_it(tmp_path):
    link = tmp_path / "T1w.nii.gz"
    link.symlink_to(tmp_path / ".git" / "annex" / "objects" / "gone")
    with pytest.raises(InputError, match="datalad get"):
        load_volume(link)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_volume(tmp_path / "T1w.nii.gz")


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_values_that_are_no_real_numbers(tmp_path, dtype):
    path = write(tmp_path / "colour.nii.gz", np.zeros((3, 3, 3), dtype=dtype))
    with pytest.raises(InputError, match="expected real numbers"):
        load_volume(path)


def test_singular_affine_is_refused(tmp_path):
    image = nib.Nifti1Image(values(), None)
    image.header["sform_code"] = 1
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = [1, 0, 0, 0], [0, 1, 0, 0], 0
    nib.save(image, tmp_path / "singular.nii.gz")
    with pytest.raises(InputError, match="singular"):
        load_volume(tmp_path / "singular.nii.gz")


def test_other_formats_are_refused(tmp_path):
    nib.save(nib.MGHImage(values(), PLAIN), tmp_path / "T1.mgz")
    with pytest.raises(InputError, match="expected NIfTI"):
        load_volume(tmp_path / "T1.mgz")


@pytest.mark.parametrize("flip", [1, -1])
def test_written_forms_agree_and_hold_the_affine(tmp_path, flip):
    rotation = Rotation.from_euler("xyz", [8, -20, 31], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation @ np.diag([flip, 2, 4.4]), [-3, 50, 8]
    nib.save(to_nifti(values(), affine), tmp_path / "out.nii.gz")
    image = nib.load(tmp_path / "out.nii.gz")
    sform, sform_code = image.get_sform(coded=True)
    qform, qform_code = image.get_qform(coded=True)
    assert (sform_code, qform_code) == (1, 1)
    np.testing.assert_allclose(sform, affine, atol=1e-5)
    np.testing.assert_allclose(qform, affine, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(image.dataobj), values())
    np.testing.assert_allclose(image.header.get_zooms(), [1, 2, 4.4], rtol=1e-6)


def test_shear_stays_in_the_sform():
    affine = OBLIQUE.copy()
    affine[0, 2] += 1.5
    np.testing.assert_allclose(to_nifti(values(), affine).get_sform(), affine, atol=1e-5)


@pytest.mark.parametrize("code", [0, 1, 2, 4])
def test_both_forms_have_the_code_that_is_asked_for(tmp_path, code):
    stored = nib.Nifti1Image(values(), None)
    stored.header.set_zooms((1.0, 2.0, 5.0))
    affine = stored.header.get_base_affine()
    nib.save(to_nifti(values(), affine, form_code=code), tmp_path / "image.nii.gz")
    image = nib.load(tmp_path / "image.nii.gz")
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (code, code)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)


def test_integers_are_rounded_and_not_scaled(tmp_path):
    nib.save(to_nifti(np.array([[[0.4, 0.6, 2.0]]]), PLAIN, np.uint8), tmp_path / "mask.nii.gz")
    image = nib.load(tmp_path / "mask.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(image.dataobj.get_unscaled(), [[[0, 1, 2]]])
    np.testing.assert_array_equal(np.asarray(image.dataobj), [[[0, 1, 2]]])


def test_bool_masks_can_be_written():
    image = to_nifti(np.eye(3, dtype=bool)[None], PLAIN, np.uint8)
    assert image.get_fdata().sum() == 3


@pytest.mark.parametrize(("sform_code", "qform_code"), [(0, 1), (1, 0)])
def test_one_form_alone_cannot_disagree(sform_code, qform_code):
    assert check_orientation(OBLIQUE, sform_code, np.diag([-1, 1, 1, 1]), qform_code) is None
    assert check_orientation(None, 1, OBLIQUE, 1) is None


def test_without_any_form_the_orientation_is_unknown():
    message = check_orientation(None, 0, None, 0)
    assert message is not None
    assert "left and right may be swapped" in message


def test_equal_forms_agree():
    assert check_orientation(PLAIN, 1, PLAIN + 1e-5, 1) is None


def test_shifted_form_is_told_with_its_distance():
    shifted = PLAIN.copy()
    shifted[1, 3] += 5.0
    message = check_orientation(shifted, 2, PLAIN, 1)
    assert message is not None
    assert "5.0 mm and 0.0 degrees" in message
    assert "sform is used" in message


def test_small_turn_is_told_with_its_angle():
    turned = PLAIN.copy()
    turned[:3, :3] = Rotation.from_euler("z", 2, degrees=True).as_matrix() @ PLAIN[:3, :3]
    message = check_orientation(turned, 1, PLAIN, 1, shape=(100, 100, 20))
    assert message is not None
    # sqrt(99² + 99²) mm from the origin, turned by 2 degrees: chord of 4.89 mm
    assert "4.9 mm and 2.0 degrees" in message


def test_turn_below_the_bound_in_a_small_image_passes():
    turned = PLAIN.copy()
    turned[:3, :3] = Rotation.from_euler("z", 0.05, degrees=True).as_matrix() @ PLAIN[:3, :3]
    assert check_orientation(turned, 1, PLAIN, 1, shape=(10, 10, 3)) is None
    assert check_orientation(turned, 1, PLAIN, 1, shape=(256, 256, 30)) is not None


@pytest.mark.parametrize("axis", range(3))
def test_opposite_handedness_is_refused(axis):
    flipped = PLAIN.copy()
    flipped[:, axis] *= -1
    with pytest.raises(InputError, match="left and right are uncertain"):
        check_orientation(flipped, 1, PLAIN, 1)


def test_other_voxel_sizes_are_refused():
    with pytest.raises(InputError, match="1 x 1 x 4 and 1 x 1 x 5 mm"):
        check_orientation(np.diag([1, 1, 4, 1]), 4, PLAIN, 1)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_a_singular_form_is_refused(order):
    singular = np.eye(4)[[*order, 3]]
    singular[0] = 0
    with pytest.raises(InputError, match="singular"):
        check_orientation(singular, 1, PLAIN, 1)
