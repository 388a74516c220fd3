"""Displacements of a head: their inverse, their stretch, ITK's files of them, what is rigid in them."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.displacement import (
    Displacement,
    anchor_from_target_field,
    centres_mm,
    parted,
    read_displacement,
    target_from_anchor_field,
    unwarped,
)
from atlasgs_bids.imaging.volume import Grid, Volume
from tests.imaging.phantom import rigid

AFFINE = np.array([[0.0, 2.5, 0, -30], [3, 0, 0, -20], [0, 0, 3, -25], [0, 0, 0, 1]])
GRID = Grid((18, 24, 17), AFFINE)
CENTRE = np.array([0.0, 5.0, 0.0])
POSE = rigid([4.0, -6.0, 3.0], [2.0, -5.0, 3.0], CENTRE)


def bump(points):
    """4 mm at the centre, along an oblique axis."""
    length = 4 * np.exp(-((points - CENTRE) ** 2).sum(1) / (2 * 10.0**2))
    return length[:, None] * np.array([0.0, 0.8, 0.6])


@pytest.fixture
def displacement():
    return Displacement(bump(centres_mm(GRID)).astype(np.float32).reshape(*GRID.shape, 3), GRID)


def points_inside(n=200):
    return CENTRE + np.random.default_rng(0).uniform(-12, 12, (n, 3))


def test_it_is_that_of_its_grid_and_can_be_undone(displacement):
    points = points_inside()
    np.testing.assert_allclose(displacement.at(points), bump(points), atol=0.15)
    np.testing.assert_allclose(displacement.undone(points + displacement.at(points)), points, atol=2e-3)


def test_its_stretch_is_the_change_of_volume(displacement):
    """Of small tetrahedra, on the voxel axes' own scale."""
    points, step = points_inside(50), 3.0
    moved = [points + bump(points)]
    for axis in range(3):
        for sign in (-1, 1):
            there = points + sign * step * np.eye(3)[axis]
            moved.append(there + bump(there))
    columns = [(moved[2 * a + 2] - moved[2 * a + 1]) / (2 * step) for a in range(3)]
    volumes = np.linalg.det(np.stack(columns, axis=2))
    assert np.ptp(volumes) > 0.3
    np.testing.assert_allclose(displacement.stretch_at(points), volumes, atol=0.06)


def test_itk_takes_the_files_to_the_same_points_and_back(displacement, tmp_path):
    target = Grid(
        (30, 30, 20), POSE @ np.diag([2.5, 2.5, 4.0, 1.0]) @ rigid(np.zeros(3), [-15, -13, -10], np.zeros(3))
    )
    fields = {
        "there": target_from_anchor_field(displacement, POSE, GRID),
        "back": anchor_from_target_field(displacement, POSE, target),
    }
    transforms = {}
    for name, image in fields.items():
        nib.save(image, tmp_path / f"{name}.nii.gz")
        field = SimpleITK.ReadImage(str(tmp_path / f"{name}.nii.gz"), SimpleITK.sitkVectorFloat64)
        transforms[name] = SimpleITK.DisplacementFieldTransform(field)
    lps = np.array([-1.0, -1.0, 1.0])
    for point in CENTRE + np.random.default_rng(1).uniform(-8, 8, (50, 3)):
        there = np.array(transforms["there"].TransformPoint((point * lps).tolist())) * lps
        expected = POSE @ [*(point + bump(point[None])[0]), 1]
        np.testing.assert_allclose(there, expected[:3], atol=0.3)
        back = np.array(transforms["back"].TransformPoint((there * lps).tolist())) * lps
        np.testing.assert_allclose(back, point, atol=0.3)
    again = read_displacement(tmp_path / "there.nii.gz")
    points = points_inside()
    whole = (points + bump(points)) @ POSE[:3, :3].T + POSE[:3, 3] - points
    np.testing.assert_allclose(again.at(points), whole, atol=0.3)


def test_every_second_voxel_of_it_lies_where_it_did(displacement):
    np.testing.assert_array_equal(displacement.thinned(4.0).vectors_mm, displacement.vectors_mm)
    # Voxels of 3, 2.5 and 3 mm along its axes.
    thinned = displacement.thinned(5.5)
    assert thinned.grid.shape == (18, 12, 17)
    nodes = centres_mm(thinned.grid)
    np.testing.assert_allclose(thinned.at(nodes), displacement.at(nodes), atol=1e-5)


def test_what_is_rigid_in_it_is_told_apart(displacement):
    nodes = centres_mm(GRID)
    whole = (nodes + bump(nodes)) @ POSE[:3, :3].T + POSE[:3, 3] - nodes
    far = nodes[np.linalg.norm(bump(nodes), axis=1) < 0.01]
    given = Displacement(whole.astype(np.float32).reshape(*GRID.shape, 3), GRID)
    pose, rest = parted(given, far)
    np.testing.assert_allclose(pose, POSE, atol=1e-2)
    np.testing.assert_allclose(rest.at(nodes), bump(nodes), atol=0.05)


def test_signal_is_kept_when_an_image_is_unwarped(displacement):
    """A blob that is displaced whole comes back to where it was, with its sum."""
    grid = Grid((48, 48, 48), np.diag([1.0, 1.0, 1.0, 1.0]) + np.array([[0, 0, 0, -24]] * 3 + [[0, 0, 0, 0]]))
    points = centres_mm(grid)
    centre = CENTRE + np.array([5.0, 4.0, 0.0])
    blob = np.exp(-((points - centre) ** 2).sum(1) / (2 * 3.0**2))
    source = displacement.undone(points)
    seen = np.exp(-((source - centre) ** 2).sum(1) / (2 * 3.0**2)) / displacement.stretch_at(source)
    image = Volume(seen.astype(np.float32).reshape(grid.shape), grid.world_from_voxel)
    assert seen.sum() == pytest.approx(blob.sum(), rel=0.01)
    assert np.abs(seen - blob).max() > 0.3
    back = unwarped(image, grid, np.eye(4), displacement).ravel()
    np.testing.assert_allclose(back, blob, atol=0.03)


def test_another_image_is_no_displacement(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "x.nii.gz")
    with pytest.raises(
        InputError, match=r"x.nii.gz: an image of 4 x 4 x 4 x 3, expected a displacement field"
    ):
        read_displacement(tmp_path / "x.nii.gz")
