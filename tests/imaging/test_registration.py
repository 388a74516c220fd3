import dataclasses

import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.foreground import foreground_mask
from atlasgs_bids.imaging.itk import itk_image
from atlasgs_bids.imaging.registration.given import given_registration
from atlasgs_bids.imaging.registration.itk_files import TransformStep, read_itk_transform
from atlasgs_bids.imaging.registration.register import (
    Registration,
    _problem,
    register,
    write_itk_transform,
)
from atlasgs_bids.imaging.volume import Volume
from tests.acquisitions import B0, M0
from tests.imaging.phantom import FLAIR, T1W, T2W, Contrast, acquire, head, rigid, stack_affine

CENTRE = np.array([0.0, -20.0, 5.0])
POINTS = CENTRE + 60 * np.array([[x, y, z] for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)])
NOISE = 3.0


@pytest.fixture(scope="module")
def anchor():
    """Coarse and quick, for everything but the accuracy."""
    return head(T1W, 3, noise=NOISE)


@pytest.fixture(scope="module")
def foreground(anchor):
    return foreground_mask(anchor)


def scan(contrast, target_from_anchor, axis=2, size_mm=3):
    """A tilted, noisy stack of 10 mm slices of the head after it has moved by ``target_from_anchor``."""
    image = head(contrast, size_mm)
    tilt = Rotation.from_euler("xyz", (8, 5, -6), degrees=True).as_matrix()
    shape, world_from_voxel = stack_affine(image, axis, size_mm, 10.0, tilt)
    # The stack is planned on the head, so it lies where the head lies.
    world_from_voxel = target_from_anchor @ world_from_voxel
    return acquire(image, shape, world_from_voxel, np.linalg.inv(target_from_anchor), noise=NOISE)


def errors(found, truth):
    """(mean mm over the points, degrees)."""
    apart = found @ np.linalg.inv(truth)
    moved = [POINTS @ m[:3, :3].T + m[:3, 3] for m in (found, truth)]
    angle = Rotation.from_matrix(apart[:3, :3]).magnitude()
    return np.linalg.norm(moved[0] - moved[1], axis=1).mean(), np.degrees(angle)


def of_length_15(direction):
    return 15 * np.array(direction) / np.linalg.norm(direction)


@pytest.mark.parametrize(
    ("contrast", "axis", "size_mm", "turn", "shift"),
    [
        (FLAIR, 2, 2, (1, 1, -1), (-1, 2, 1)),
        (T2W, 2, 2, (-1, 0.2, 0.5), (1, 0.3, -2)),
        (T2W, 0, 3, (0, 1, 1), (1, 1, 1)),
        (FLAIR, 1, 3, (0.3, -1, 1), (0, -1, 1)),
        (B0, 2, 2, (1, -0.5, 1), (1, 1, -1)),
        (M0, 2, 2, (-1, 1, 0.5), (0.5, -1, 1)),
    ],
    ids=["axial FLAIR", "axial T2w", "sagittal T2w", "coronal FLAIR", "axial b0", "axial M0 of ASL"],
)
def test_a_head_15_mm_and_15_degrees_away_is_found(contrast, axis, size_mm, turn, shift):
    anchor = head(T1W, size_mm, noise=NOISE)
    truth = rigid(of_length_15(turn), of_length_15(shift), CENTRE)
    found = register(anchor, foreground_mask(anchor), scan(contrast, truth, axis, size_mm), "rigid")
    error_mm, error_deg = errors(found.target_from_anchor, truth)
    assert found.method == "rigid"
    assert found.warnings == ()
    assert error_mm < 0.3
    assert error_deg < 0.3
    assert found.rotation_deg == pytest.approx(15, abs=0.3)
    assert found.displacement_mm > 10
    assert found.metric_before is not None
    assert found.metric_after > 2 * found.metric_before


def test_an_extracted_brain_is_found_in_a_whole_head_and_stays_where_it_is():
    brain = head(T1W, 3, with_scalp=False)
    found = register(brain, foreground_mask(brain), scan(T2W, np.eye(4)), "rigid")
    assert found.method == "rigid"
    assert max(errors(found.target_from_anchor, np.eye(4))) < 0.3


def test_left_handed_axes_and_unobserved_voxels(anchor, foreground):
    truth = rigid([3, -2, 4], [2, -3, 4], CENTRE)
    target = scan(FLAIR, truth)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = target.data.shape[0] - 1
    observed = np.ones(target.data.shape, dtype=bool)
    observed[20:35, 25:40] = False
    data = np.where(observed, target.data[::-1], 0)
    found = register(anchor, foreground, Volume(data, target.world_from_voxel @ flip, observed), "rigid")
    assert found.method == "rigid"
    assert max(errors(found.target_from_anchor, truth)) < 0.3


def test_the_number_of_threads_changes_nothing(anchor, foreground):
    target = scan(FLAIR, rigid([4, 0, 0], [0, 4, 0], CENTRE))
    n_before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for n_threads in (1, 2):
            SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(n_threads)
            found.append(register(anchor, foreground, target, "rigid"))
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(n_before)
    np.testing.assert_array_equal(found[0].target_from_anchor, found[1].target_from_anchor)
    assert found[0].metric_after == found[1].metric_after


def test_headers_that_share_no_world_are_found_with_a_warning(anchor, foreground):
    truth = rigid([0, 0, 5], [0, 0, 140], CENTRE)
    found = register(anchor, foreground, scan(FLAIR, truth), "rigid")
    assert found.method == "rigid"
    assert max(errors(found.target_from_anchor, truth)) < 0.3
    assert "more than expected within a session" in found.warnings[0]


def test_header_takes_the_header(anchor, foreground):
    found = register(anchor, foreground, scan(FLAIR, rigid([9, 0, 0], [9, 0, 0], CENTRE)), "header")
    np.testing.assert_array_equal(found.target_from_anchor, np.eye(4))
    assert (found.method, found.rotation_deg, found.translation_mm, found.displacement_mm) == (
        "header",
        0,
        0,
        0,
    )
    assert (found.metric_before, found.metric_after, found.warnings) == (None, None, ())


def test_headers_that_do_not_overlap_set_no_limit(anchor, foreground):
    """An origin that was reset: where the head lies by its header then says nothing."""
    truth = rigid([0, 3, 0], [120, 0, 400], CENTRE)
    found = register(anchor, foreground, scan(FLAIR, truth), "rigid")
    assert found.method == "rigid"
    assert max(errors(found.target_from_anchor, truth)) < 0.3
    assert "moved by 41" in found.warnings[0]


def test_a_target_that_covers_nothing_of_the_head_is_refused(anchor, foreground, tmp_path):
    target = scan(FLAIR, rigid([0, 0, 0], [0, 0, 400], CENTRE))
    with pytest.raises(InputError, match=r"cover 0\.0% of the anchor's head \(header position\)"):
        register(anchor, foreground, target, "header")
    write_itk_transform(tmp_path / "xfm.txt", registration(np.eye(4)))
    with pytest.raises(InputError, match="derivative position"):
        given_registration(anchor, foreground, target, [TransformStep(tmp_path / "xfm.txt")])


def mirrored(volume):
    return Volume(np.ascontiguousarray(volume.data[::-1]), volume.world_from_voxel)


def with_cyst(contrast):
    """A head that is not symmetric: fluid takes the place of a part of the left hemisphere."""
    image, label = head(contrast, 3), head(Contrast(1, 1, 1, 0), 3)
    points = np.stack(np.indices(image.data.shape), -1) @ image.world_from_voxel[:3, :3].T
    points += image.world_from_voxel[:3, 3]
    inside = np.linalg.norm((points - [-35, -20, 15]) / [22, 40, 30], axis=-1) < 1
    data = np.where(inside & (label.data > 0.5), np.float32(contrast.fluid), image.data)
    return Volume(data, image.world_from_voxel)


def test_a_mirrored_target_is_refused():
    anchor, image = with_cyst(T1W), with_cyst(T2W)
    foreground = foreground_mask(anchor)
    shape, world_from_voxel = stack_affine(image, 2, 3, 10.0)
    target = acquire(image, shape, world_from_voxel, np.eye(4), noise=NOISE)
    found = register(anchor, foreground, target, "rigid")
    assert found.method == "rigid"
    assert found.warnings == ()
    with pytest.raises(InputError, match="left and right are swapped in one of the two headers"):
        register(anchor, foreground, mirrored(target), "rigid")


def test_a_nearly_symmetric_head_that_fits_a_little_better_mirrored_is_named(anchor, foreground):
    found = register(anchor, foreground, mirrored(scan(FLAIR, np.eye(4))), "rigid")
    assert "left and right may be swapped" in found.warnings[-1]


def test_too_little_to_compare_falls_back_to_the_header(anchor, foreground):
    speck = np.zeros_like(foreground)
    speck[38:40, 44:46, 36:38] = True
    found = register(anchor, speck, scan(FLAIR, np.eye(4)), "rigid")
    assert found.method == "header"
    assert found.warnings
    assert "the position in the headers is used instead" in found.warnings[0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"metric_after": 0.199}, None),  # lower by less than the metric is worth
        ({"metric_before": None}, None),  # the headers have no overlap: nothing to be better than
        ({"metric_after": 0.19}, "lowered the mutual information from 0.2000 to 0.1900"),
        ({"metric_after": None}, "off the anchor's foreground"),
        ({"rotation_deg": 46.0}, "46 degrees, expected at most"),
        ({"displacement_mm": 151.0}, "151 mm and 5 degrees"),
    ],
)
def test_what_is_not_believed(changes, problem):
    believable = Registration(np.eye(4), 5.0, 5.0, 5.0, "rigid", 0.2, 0.4)
    seen = _problem(dataclasses.replace(believable, **changes))
    assert seen is None if problem is None else problem in seen


def test_an_empty_foreground_is_refused(anchor, foreground):
    with pytest.raises(InputError, match="foreground mask is empty"):
        register(anchor, np.zeros_like(foreground), anchor, "rigid")


def test_an_unknown_method_is_refused(anchor, foreground):
    with pytest.raises(ValueError, match="expected 'rigid' or 'header'"):
        register(anchor, foreground, anchor, "affine")


def registration(target_from_anchor):
    return Registration(target_from_anchor, 0.0, 0.0, 0.0, "rigid", None, None)


def test_itk_file_holds_the_point_map_in_lps(tmp_path):
    """Worked by hand: 90 degrees about z (x to y), then 10 mm right, 20 mm anterior, 30 mm up, in RAS."""
    target_from_anchor = np.array([[0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1.0]])
    path = tmp_path / "sub-01_from-FLAIR_to-T1w_mode-image_xfm.txt"
    write_itk_transform(path, registration(target_from_anchor))
    # RAS (1, 2, 3) goes to RAS (-2 + 10, 1 + 20, 3 + 30) = (8, 21, 33); in LPS (-1, -2, 3) to (-8, -21, 33).
    moved = SimpleITK.ReadTransform(str(path)).TransformPoint((-1.0, -2.0, 3.0))
    np.testing.assert_allclose(moved, (-8, -21, 33), atol=1e-12)
    assert path.read_text().startswith("#Insight Transform File V1.0")
    np.testing.assert_allclose(read_itk_transform(path), target_from_anchor, atol=1e-12)


def test_itk_file_brings_the_target_onto_the_anchor(tmp_path, anchor):
    truth = rigid([10, -5, 8], [6, -9, 12], CENTRE)
    image = head(FLAIR, 3)
    target = Volume(image.data, truth @ image.world_from_voxel)
    path = tmp_path / "xfm.txt"
    write_itk_transform(path, registration(truth))
    transform = SimpleITK.ReadTransform(str(path))
    brought = SimpleITK.Resample(itk_image(target), itk_image(anchor), transform, SimpleITK.sitkLinear)
    np.testing.assert_allclose(SimpleITK.GetArrayFromImage(brought).T, image.data, atol=0.05)


def test_transforms_of_other_programs_with_a_centre_are_read(tmp_path):
    euler = SimpleITK.Euler3DTransform((10.0, 20.0, 30.0), 0.1, -0.2, 0.3, (1.0, 2.0, 3.0))
    SimpleITK.WriteTransform(euler, str(tmp_path / "other.tfm"))
    target_from_anchor = read_itk_transform(tmp_path / "other.tfm")
    expected_lps = euler.TransformPoint((7.0, -8.0, 9.0))
    moved_ras = target_from_anchor @ [-7.0, 8.0, 9.0, 1.0]
    np.testing.assert_allclose(moved_ras[:3] * [-1, -1, 1], expected_lps, atol=1e-9)


def test_a_file_that_is_no_transform(tmp_path):
    (tmp_path / "xfm.txt").write_text("nothing of the kind")
    with pytest.raises(InputError, match=r"xfm\.txt: not readable, expected an ITK transform"):
        read_itk_transform(tmp_path / "xfm.txt")
