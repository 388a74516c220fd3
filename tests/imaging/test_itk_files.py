"""ITK files as other pipelines write them: text, binary, composite, linear or not, chained and inverted."""

import numpy as np
import pytest
import SimpleITK

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.itk import itk_affine
from atlasgs_bids.imaging.registration.itk_files import (
    TransformStep,
    chained,
    read_itk_position,
    read_itk_transform,
)
from atlasgs_bids.imaging.volume import Grid
from tests.imaging.phantom import rigid

FIRST = rigid([4, -3, 5], [3, -4, 2], np.zeros(3))
SECOND = rigid([-10, 2, 0], [0, 20, 1], np.ones(3))
GRID = Grid((5, 6, 7), np.array([[-4, 0, 0, 10], [0, 4, 0, -12], [0, 0, 4, -14], [0, 0, 0, 1.0]]))


def bent(shift_ras, inside_mm=40.0):
    """A displacement field of one vector around the origin, none far from it."""
    n = int(2 * inside_mm / 8) + 1
    shift_lps = np.array(shift_ras) * [-1, -1, 1]
    field = SimpleITK.GetImageFromArray(np.tile(shift_lps.astype(float), (n, n, n, 1)), isVector=True)
    field.SetSpacing((8.0,) * 3)
    field.SetOrigin((-inside_mm,) * 3)
    return SimpleITK.DisplacementFieldTransform(field)


@pytest.mark.parametrize("name", ["xfm.txt", "xfm.mat", "xfm.h5"])
def test_an_affine_is_read_from_every_format(tmp_path, name):
    SimpleITK.WriteTransform(itk_affine(FIRST), str(tmp_path / name))
    np.testing.assert_allclose(read_itk_transform(tmp_path / name), FIRST, atol=1e-6)


@pytest.mark.parametrize("name", ["xfm.txt", "xfm.h5"])
def test_a_composite_of_affines_is_their_product(tmp_path, name):
    """ANTs adds the transform that a point meets first last."""
    both = SimpleITK.CompositeTransform([itk_affine(FIRST), itk_affine(SECOND)])
    SimpleITK.WriteTransform(both, str(tmp_path / name))
    found = read_itk_position(tmp_path / name)
    np.testing.assert_allclose(found.target_from_source, FIRST @ SECOND, atol=1e-9)
    assert found.nonlinear_parts == []
    assert found.displacement_mm(GRID) is None


@pytest.mark.parametrize("bent_first", [True, False])
def test_a_composite_with_a_field_is_its_affine_part_and_a_displacement(tmp_path, bent_first):
    """Worked out by hand: x goes to A (x + u) where it is bent first, and to A x + u = A (x + A⁻¹ u) else."""
    shift = np.array([3.0, -2.0, 1.5])
    parts = [itk_affine(FIRST), bent(shift)]
    SimpleITK.WriteTransform(
        SimpleITK.CompositeTransform(parts if bent_first else parts[::-1]), str(tmp_path / "xfm.h5")
    )
    found = read_itk_position(tmp_path / "xfm.h5")
    np.testing.assert_allclose(found.target_from_source, FIRST, atol=1e-9)
    assert found.nonlinear_parts == ["DisplacementFieldTransform"]
    expected = shift if bent_first else np.linalg.inv(FIRST[:3, :3]) @ shift
    displacement = found.displacement_mm(GRID)
    assert displacement.shape == (5, 6, 7, 3)
    np.testing.assert_allclose(displacement, np.broadcast_to(expected, displacement.shape), atol=1e-6)


def test_a_displacement_lies_where_its_voxel_does(tmp_path):
    """A field that ends at 10 mm: voxels beyond it stay where they are."""
    SimpleITK.WriteTransform(bent([2.0, 0, 0], inside_mm=8.0), str(tmp_path / "xfm.h5"))
    displacement = read_itk_position(tmp_path / "xfm.h5").displacement_mm(GRID)
    indices = np.stack(np.meshgrid(*map(np.arange, GRID.shape), indexing="ij"), axis=-1)
    world = indices @ GRID.world_from_voxel[:3, :3].T + GRID.world_from_voxel[:3, 3]
    inside = (np.abs(world) <= 8).all(axis=-1)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_allclose(displacement[inside], np.broadcast_to([2.0, 0, 0], (inside.sum(), 3)))
    assert np.abs(displacement[(np.abs(world) > 12).any(axis=-1)]).max() == 0


def test_a_field_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "sub-01_from-FLAIR_to-T1w_mode-image_xfm.h5"
    SimpleITK.WriteTransform(SimpleITK.CompositeTransform([itk_affine(FIRST), bent([1, 0, 0])]), str(path))
    with pytest.raises(InputError, match=r"T1w.*xfm.h5: holds a DisplacementFieldTransform.*affine part"):
        chained([TransformStep(path)])


def test_steps_are_chained_and_gone_backwards(tmp_path):
    for name, affine in (("a.txt", FIRST), ("b.txt", SECOND)):
        SimpleITK.WriteTransform(itk_affine(affine), str(tmp_path / name))
    steps = [TransformStep(tmp_path / "a.txt"), TransformStep(tmp_path / "b.txt", inverted=True)]
    np.testing.assert_allclose(chained(steps), FIRST @ np.linalg.inv(SECOND), atol=1e-9)


def test_a_transform_of_the_plane_is_refused(tmp_path):
    SimpleITK.WriteTransform(SimpleITK.AffineTransform(2), str(tmp_path / "xfm.txt"))
    with pytest.raises(InputError, match=r"in 2 dimensions, expected 3"):
        read_itk_transform(tmp_path / "xfm.txt")
