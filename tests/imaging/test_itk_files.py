"""ITK files as other pipelines write them: text, binary, composite, bent or not, chained, backwards."""

import numpy as np
import pytest
import SimpleITK

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.itk import itk_affine
from atlasgs_bids.imaging.registration.itk_files import (
    TransformStep,
    chained,
    read_itk_transform,
    read_point_map,
)
from tests.imaging.phantom import rigid

FIRST = rigid([4, -3, 5], [3, -4, 2], np.zeros(3))
SECOND = rigid([-10, 2, 0], [0, 20, 1], np.ones(3))
LPS = np.array([-1.0, -1, 1])


def bent(peak_mm=4.0, width_mm=15.0, inside_mm=40.0):
    """A bump along y (RAS) around the origin, on voxels of 4 mm whose axes are not the world's."""
    n = int(2 * inside_mm / 4) + 1
    k, j, i = np.indices((n, n, n)) * 4.0 - inside_mm
    vectors_lps = np.zeros((n, n, n, 3))
    vectors_lps[..., 1] = -peak_mm * np.exp(-(i**2 + j**2 + k**2) / (2 * width_mm**2))
    field = SimpleITK.GetImageFromArray(vectors_lps, isVector=True)
    field.SetSpacing((4.0,) * 3)
    field.SetDirection([0, -1, 0, 1, 0, 0, 0, 0, 1])
    field.SetOrigin((inside_mm, -inside_mm, -inside_mm))
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
    np.testing.assert_allclose(read_point_map(tmp_path / name).affine, FIRST @ SECOND, atol=1e-9)


@pytest.mark.parametrize("bent_first", [True, False])
def test_points_go_through_a_composite_as_itk_sends_them(tmp_path, bent_first):
    """And back by the inverse."""
    parts = [itk_affine(FIRST), bent()]
    composite = SimpleITK.CompositeTransform(parts if bent_first else parts[::-1])
    SimpleITK.WriteTransform(composite, str(tmp_path / "xfm.h5"))
    found = read_point_map(tmp_path / "xfm.h5")
    assert found.affine is None
    points = np.random.default_rng(0).uniform(-20, 20, (50, 3))
    moved, known = found.moved(points)
    expected = [composite.TransformPoint((point * LPS).tolist()) for point in points]
    np.testing.assert_allclose(moved, np.array(expected) * LPS, atol=1e-5)
    assert known.all()
    back, known = found.inverse().moved(moved)
    np.testing.assert_allclose(back, points, atol=5e-3)
    assert known.all()
    again, _ = found.inverse().inverse().moved(points)
    np.testing.assert_allclose(again, moved, atol=1e-9)


def test_a_field_that_is_an_image_is_the_same(tmp_path):
    transform = bent()
    SimpleITK.WriteImage(transform.GetDisplacementField(), str(tmp_path / "xfm.nii.gz"))
    SimpleITK.WriteTransform(transform, str(tmp_path / "xfm.h5"))
    points = np.random.default_rng(0).uniform(-20, 20, (50, 3))
    (of_image, _), (of_transform, _) = (
        read_point_map(tmp_path / name).moved(points) for name in ("xfm.nii.gz", "xfm.h5")
    )
    np.testing.assert_allclose(of_image, of_transform, atol=1e-5)
    assert np.abs(of_image - points).max() > 2


def test_where_a_field_ends_or_folds_nothing_is_known(tmp_path):
    SimpleITK.WriteTransform(bent(), str(tmp_path / "xfm.h5"))
    found = read_point_map(tmp_path / "xfm.h5")
    beyond = np.array([[0.0, 0, 41], [0, 0, 43], [41, 0, 0], [43, 0, 0]])
    for way in (found, found.inverse()):
        np.testing.assert_array_equal(way.moved(beyond)[1], [True, False, True, False])
    SimpleITK.WriteTransform(bent(peak_mm=30), str(tmp_path / "folded.h5"))
    _, known = read_point_map(tmp_path / "folded.h5").inverse().moved(np.array([[0.0, 33, 0], [0, -33, 0]]))
    np.testing.assert_array_equal(known, [False, True])


def test_a_strong_stretch_is_gone_backwards(tmp_path):
    """Where space is stretched more than twofold, steps as long as what is missed would part."""
    SimpleITK.WriteTransform(bent(peak_mm=17, width_mm=8), str(tmp_path / "xfm.h5"))
    found = read_point_map(tmp_path / "xfm.h5")
    points = np.array([[0.0, y, 0.0] for y in np.linspace(-20, -5, 40)])
    moved, _ = found.moved(points)
    steepest = np.diff(moved[:, 1]).max() / np.diff(points[:, 1]).max()
    assert 2 < steepest < 2.6
    back, known = found.inverse().moved(moved)
    np.testing.assert_allclose(back, points, atol=5e-3)
    assert known.all()


def test_another_kind_of_transform_is_refused_with_the_remedy(tmp_path):
    spline = SimpleITK.BSplineTransformInitializer(SimpleITK.Image(8, 8, 8, SimpleITK.sitkFloat32), [2, 2, 2])
    SimpleITK.WriteTransform(spline, str(tmp_path / "xfm.txt"))
    with pytest.raises(InputError, match=r"xfm.txt: holds a BSplineTransform.*write it as a field"):
        read_point_map(tmp_path / "xfm.txt")


def test_what_has_to_be_linear_is_refused_where_it_bends(tmp_path):
    SimpleITK.WriteTransform(bent(), str(tmp_path / "xfm.h5"))
    with pytest.raises(InputError, match=r"xfm.h5: holds a displacement field, expected a linear"):
        read_itk_transform(tmp_path / "xfm.h5")


def test_steps_are_chained_and_gone_backwards(tmp_path):
    for name, affine in (("a.txt", FIRST), ("b.txt", SECOND)):
        SimpleITK.WriteTransform(itk_affine(affine), str(tmp_path / name))
    steps = [TransformStep(tmp_path / "a.txt"), TransformStep(tmp_path / "b.txt", inverted=True)]
    np.testing.assert_allclose(chained(steps).affine, FIRST @ np.linalg.inv(SECOND), atol=1e-9)


def test_a_transform_of_the_plane_is_refused(tmp_path):
    SimpleITK.WriteTransform(SimpleITK.AffineTransform(2), str(tmp_path / "xfm.txt"))
    with pytest.raises(InputError, match=r"in 2 dimensions, expected 3"):
        read_itk_transform(tmp_path / "xfm.txt")
