"""Positions of other pipelines that bend: what is rigid in them, the rest, and what cannot be used."""

import numpy as np
import pytest
import SimpleITK

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.itk import itk_affine
from atlasgs_bids.imaging.registration.given import given_registration
from atlasgs_bids.imaging.registration.itk_files import TransformStep
from atlasgs_bids.imaging.volume import Volume
from tests.imaging.phantom import rigid

POSE = rigid([4.0, -6.0, 3.0], [2.0, -5.0, 3.0], np.zeros(3))
SCALED = np.diag([1.02, 0.99, 1.0, 1.0])
LPS = np.array([-1.0, -1, 1])


def grid_image(n, voxel_mm):
    affine = np.diag([voxel_mm] * 3 + [1.0])
    affine[:3, 3] = -voxel_mm * (n - 1) / 2
    return Volume(np.zeros((n, n, n), np.float32), affine)


ANCHOR = grid_image(30, 3.0)
TARGET = Volume(ANCHOR.data, POSE @ ANCHOR.world_from_voxel)
WORLD = np.moveaxis(np.indices(ANCHOR.data.shape), 0, -1) * 3.0 + ANCHOR.world_from_voxel[:3, 3]
HEAD = np.linalg.norm(WORLD, axis=-1) < 36


def shift_mm(points, peak_mm=5.0):
    """Along y."""
    return np.array([0.0, 1, 0]) * (peak_mm * np.exp(-(points**2).sum(-1) / (2 * 12.0**2)))[..., None]


def field(n=30, **known):
    image = grid_image(n, 3.0)
    points = np.moveaxis(np.indices((n, n, n)), 0, -1) * 3.0 + image.world_from_voxel[:3, 3]
    vectors_lps = (shift_mm(points, **known) * LPS).transpose(2, 1, 0, 3)
    made = SimpleITK.GetImageFromArray(vectors_lps, isVector=True)
    made.SetSpacing((3.0,) * 3)
    made.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
    made.SetOrigin((image.world_from_voxel[:3, 3] * LPS).tolist())
    return SimpleITK.DisplacementFieldTransform(made)


def written(path, *transforms):
    SimpleITK.WriteTransform(SimpleITK.CompositeTransform(list(transforms)), str(path))
    return path


def found(*steps):
    return given_registration(ANCHOR, HEAD, TARGET, steps)


@pytest.mark.parametrize("affine", [POSE, POSE @ SCALED])
def test_position_and_displacement_are_the_map_together(tmp_path, affine):
    """Also where the pipeline's affine part scales: that is no position, so it is displacement."""
    path = written(tmp_path / "from-dwi_to-T1w_xfm.h5", itk_affine(affine), field())
    registration, displacement = found(TransformStep(path))
    position = registration.target_from_anchor
    assert registration.method == "derivative"
    np.testing.assert_allclose(position[:3, :3] @ position[:3, :3].T, np.eye(3), atol=1e-9)
    points = WORLD[HEAD]
    seen = points + displacement.at(points)
    seen = seen @ position[:3, :3].T + position[:3, 3]
    truth = (points + shift_mm(points)) @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(seen, truth, atol=0.01)


def test_a_field_that_goes_the_other_way_is_undone(tmp_path):
    """Through two files: a scan that lies elsewhere than the one the field belongs to."""
    scan_from_reference = rigid([3.0, 0, 0], [0, 2.0, 0], np.zeros(3))
    own = written(tmp_path / "from-m0scan_to-aslref_xfm.txt", itk_affine(scan_from_reference))
    back = written(
        tmp_path / "from-T1w_to-aslref_xfm.h5", field(), itk_affine(np.linalg.inv(POSE))
    )  # of a point of aslref: first out of its position, then bent
    registration, displacement = given_registration(
        ANCHOR,
        HEAD,
        Volume(TARGET.data, scan_from_reference @ TARGET.world_from_voxel),
        [TransformStep(own), TransformStep(back, inverted=True)],
    )
    points = WORLD[HEAD]
    there = points + displacement.at(points)
    position = np.linalg.inv(scan_from_reference @ POSE) @ registration.target_from_anchor
    there = there @ position[:3, :3].T + position[:3, 3]
    assert np.abs(there - points).max() > 3
    # What is shown at q = p - u(q) belongs to p. The field's inverse is found on the anchor's voxels.
    np.testing.assert_allclose(there + shift_mm(there), points, atol=0.15)


def test_a_linear_file_is_a_position_alone(tmp_path):
    path = written(tmp_path / "xfm.txt", itk_affine(POSE))
    registration, displacement = found(TransformStep(path))
    assert displacement is None
    np.testing.assert_allclose(registration.target_from_anchor, POSE, atol=1e-9)
    path = written(tmp_path / "xfm.txt", itk_affine(POSE @ SCALED))
    with pytest.raises(InputError, match="scales or mirrors, expected a rigid transform"):
        found(TransformStep(path))


def test_a_field_that_ends_inside_the_head_is_refused(tmp_path):
    path = written(tmp_path / "xfm.h5", itk_affine(POSE), field(n=20))
    with pytest.raises(InputError, match=r"xfm.h5: of \d+.\d% of the head .* expected at most 1%; write"):
        found(TransformStep(path))


def test_a_field_without_an_inverse_is_refused_backwards(tmp_path):
    path = written(tmp_path / "xfm.h5", field(peak_mm=-30.0), itk_affine(np.linalg.inv(POSE)))
    with pytest.raises(InputError, match=r"xfm.h5: of \d+.\d% of the head .*folds and has no inverse"):
        found(TransformStep(path, inverted=True))
