"""Position and slice profile of the phantom, found from thick slices that say neither."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from atlasgs_bids.core.rigid import RigidFrame, UncertainPosition
from atlasgs_bids.imaging.profile import profile_with_sd
from atlasgs_bids.imaging.registration.itk_files import TransformStep
from atlasgs_bids.imaging.registration.register import register, write_itk_transform
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.calibration import aligned, calibrated
from atlasgs_bids.restoration.error import position_variance
from atlasgs_bids.restoration.guides import Guides
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, StackInput, place
from atlasgs_bids.runtime.progress import Progress
from tests.imaging.phantom import FLAIR, T1W, T2W, head, rigid, stack_affine

SIZE_MM = 3
SETTINGS = RestorationSettings(device="cpu", slice_profile="box")
QUIET = Progress.quiet()
CENTRE = np.array([0.0, -20.0, 10.0])
MOTIONS = [([2.0, -3.0, 1.0], [1.3, -2.2, 0.7]), ([-3.5, 1.0, 2.0], [-0.6, 2.9, 1.7])]
"""Degrees and mm, off the grid."""


@pytest.fixture(scope="module")
def anchor():
    return anchor_of(head(T1W, SIZE_MM, with_scalp=False))


@pytest.fixture(scope="module")
def guides(anchor):
    return Guides(anchor)


def slices(contrast, factor, motion=None, *, blur_mm=0.0, change=None, stated=1.0, noise=0.0, axis=2):
    """A stack of the phantom's own voxels: means of ``factor`` after a blur, moved with the head."""
    image = head(contrast, SIZE_MM, with_scalp=False)
    data = image.data.astype(np.float64)
    if change is not None:
        data = change(data)
    if blur_mm:
        data = ndimage.gaussian_filter1d(data, blur_mm / SIZE_MM, axis=axis)
    n = data.shape[axis] // factor
    moved = np.moveaxis(data, axis, 2)[:, :, : n * factor]
    means = moved.reshape(*moved.shape[:2], n, factor).mean(3)
    means += np.random.default_rng(0).normal(0, noise * np.percentile(means, 99), means.shape)
    affine = image.world_from_voxel.copy()
    affine[:3, 3] += affine[:3, axis] * (factor - 1) / 2
    affine[:3, axis] *= factor
    affine = (np.eye(4) if motion is None else motion) @ affine
    volume = Volume(np.moveaxis(means, 2, axis).astype(np.float32), affine)
    sidecar = {"SliceThickness": stated * factor * SIZE_MM}
    return StackInput("stack", slice_geometry(volume.data.shape, affine, sidecar)), volume


def at(anchor, stack, target_from_anchor):
    """The stack where somebody says that it lies."""
    source, acquired = stack
    here = register(anchor.volume, anchor.foreground, acquired, "header")
    return PlacedStack(source, acquired, replace(here, target_from_anchor=target_from_anchor))


def error_mm(found, truth, guides):
    difference = found - truth
    return np.linalg.norm(guides.points_mm @ difference[:3, :3].T + difference[:3, 3], axis=1).mean()


def nearby(truth):
    """About a millimetre off the truth."""
    turn = Rotation.from_rotvec(np.radians([0.5, -0.4, 0.6])).as_matrix()
    beside = np.eye(4)
    beside[:3, :3] = turn
    beside[:3, 3] = CENTRE - turn @ CENTRE + [0.6, -0.5, 0.4]
    return beside @ truth


@pytest.mark.parametrize(
    ("contrast", "factor", "most_mm"),
    [(FLAIR, 2, 0.12), pytest.param(T2W, 2, 0.1, marks=pytest.mark.slow), (T2W, 3, 0.1)],
    ids=["FLAIR 6 mm", "T2w 6 mm", "T2w 9 mm"],
)
def test_a_position_is_found_to_a_fraction_of_a_voxel(anchor, guides, contrast, factor, most_mm):
    """Voxels of 3 mm; from a millimetre off."""
    truth = rigid(*MOTIONS[0], CENTRE)
    stack = at(anchor, slices(contrast, factor, truth), nearby(truth))
    before = error_mm(stack.registration.target_from_anchor, truth, guides)
    (found,) = calibrated([stack], guides, SETTINGS, QUIET)
    after = error_mm(found.registration.target_from_anchor, truth, guides)
    assert before > 0.9
    assert after < most_mm
    assert after < 3 * found.calibration.position_error_mm < 0.5
    assert found.registration.method == "rigid"


def lesion(data):
    changed = data.copy()
    changed[27:31, 40:44, 27:31] = 1.6 * data.max()
    return changed


def shading(data):
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in data.shape], indexing="ij", sparse=True)
    return data * (1 + 0.15 * x + 0.15 * y)


@pytest.mark.parametrize(
    ("changes", "anchor_changes"),
    [
        pytest.param({"noise": 0.03}, {}, marks=pytest.mark.slow),
        pytest.param({"change": shading}, {}, marks=pytest.mark.slow),
        pytest.param({"change": lesion}, {}, marks=pytest.mark.slow),
        ({}, {"inverted": True}),
    ],
    ids=["3 % noise", "30 % shading", "lesion", "anchor of inverted contrast"],
)
def test_what_disturbs_a_comparison_of_intensities_leads_nowhere(anchor, guides, changes, anchor_changes):
    if anchor_changes:
        data = np.where(anchor.support, anchor.volume.data.max() - anchor.volume.data, np.float32(0))
        inverted = replace(anchor.volume, data=data.astype(np.float32) * anchor.foreground)
        anchor = replace(anchor, volume=inverted)
        guides = Guides(anchor)
    truth = rigid(*MOTIONS[1], CENTRE)
    stack = at(anchor, slices(FLAIR, 2, truth, **changes), nearby(truth))
    (found,) = calibrated([stack], guides, SETTINGS, QUIET)
    assert error_mm(found.registration.target_from_anchor, truth, guides) < 0.25


@pytest.mark.slow
def test_two_stacks_are_found_together(anchor, guides):
    truths = [rigid(*motion, CENTRE) for motion in MOTIONS]
    stacks = [
        at(anchor, slices(T2W, 3, truth, axis=axis), nearby(truth))
        for truth, axis in zip(truths, (2, 0), strict=True)
    ]
    found = calibrated(stacks, guides, SETTINGS, QUIET)
    for own, truth in zip(found, truths, strict=True):
        assert error_mm(own.registration.target_from_anchor, truth, guides) < 0.1


def test_the_whole_way_from_the_headers(anchor, guides):
    """10 mm and 10 degrees away: mutual information for the way, evidence for the rest."""
    truth = rigid([6, -6, 5], [6, 6, -5], CENTRE)
    source, volume = slices(T2W, 2, truth)
    in_place = Volume(volume.data, volume.world_from_voxel)
    (found,) = calibrated([place(source, in_place, anchor, SETTINGS, QUIET)], guides, SETTINGS, QUIET)
    assert error_mm(found.registration.target_from_anchor, truth, guides) < 0.1
    assert found.registration.metric_before is not None


@pytest.mark.parametrize(("blur_mm", "stated"), [(3.0, 1.0), (0.0, 1.0), (3.0, 0.7), (0.0, 1.3)])
def test_a_profile_is_found_whatever_the_sidecar_says(anchor, guides, blur_mm, stated, caplog):
    factor = 3
    stack = at(anchor, slices(T2W, factor, blur_mm=blur_mm, stated=stated), np.eye(4))
    settings = replace(SETTINGS, slice_profile="auto", registration="header")
    with caplog.at_level(logging.INFO):
        (found,) = calibrated([stack], guides, settings, QUIET)
    true_sd_mm = np.hypot(factor * SIZE_MM / np.sqrt(12), blur_mm)
    stated_sd_mm = stated * factor * SIZE_MM / np.sqrt(12)
    told = found.calibration.found_profile
    assert abs(np.log(told.sd_mm / true_sd_mm)) < 0.2
    assert found.profile(settings).sd_mm == pytest.approx(told.sd_mm, rel=0.02)
    wrong = abs(np.log(stated_sd_mm / true_sd_mm)) > 0.2
    assert bool(found.calibration.warnings) == wrong
    if wrong:
        assert abs(np.log(told.sd_mm / true_sd_mm)) < abs(np.log(stated_sd_mm / true_sd_mm))
        assert "mm standard deviation" in found.calibration.warnings[0]
    np.testing.assert_array_equal(found.registration.target_from_anchor, np.eye(4))


def test_where_the_slices_do_not_tell_the_stated_thickness_stands(anchor, guides, caplog):
    source, volume = slices(T2W, 3)
    affine = volume.world_from_voxel.copy()
    affine[:3, 3] += 8 * affine[:3, 2]
    few = Volume(volume.data[:, :, 8:12], affine)
    stack = at(anchor, (source, few), np.eye(4))
    settings = replace(SETTINGS, slice_profile="auto", registration="header")
    with caplog.at_level(logging.INFO):
        (found,) = calibrated([stack], guides, settings, QUIET)
    assert found.profile(settings).sd_mm == pytest.approx(9 / np.sqrt(12))
    assert "the slices do not tell their profile: a box of 9 mm is assumed" in caplog.text


def test_headers_and_transforms_of_others_are_taken_at_their_word(anchor, guides, tmp_path):
    truth = rigid(*MOTIONS[0], CENTRE)
    source, volume = slices(FLAIR, 3, truth)
    elsewhere = at(anchor, (source, volume), nearby(truth))
    by_header = replace(SETTINGS, registration="header")
    assert calibrated([elsewhere], guides, by_header, QUIET) == [elsewhere]
    path = tmp_path / "xfm.txt"
    write_itk_transform(path, elsewhere.registration)
    given = replace(elsewhere, source=replace(source, transforms=(TransformStep(path),)))
    assert calibrated([given], guides, SETTINGS, QUIET) == [given]


def test_an_image_without_contrast_stays_where_it_was(anchor, guides):
    source, volume = slices(FLAIR, 3)
    flat = at(anchor, (source, replace(volume, data=np.full_like(volume.data, 7.0))), np.eye(4))
    (found,) = calibrated([flat], guides, replace(SETTINGS, slice_profile="auto"), QUIET)
    np.testing.assert_array_equal(found.registration.target_from_anchor, np.eye(4))


def test_an_uncertain_position_is_an_uncertain_image():
    """Against the spread of images that were moved by draws of the position."""
    rng = np.random.default_rng(0)
    shape = (24, 22, 20)
    image = ndimage.gaussian_filter(rng.normal(size=shape), 3.0).astype(np.float32)
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -6], [0, 0, 1.8, 7], [0, 0, 0, 1]])
    grid = Grid(shape, affine)
    frame = RigidFrame(torch.tensor(affine[:3] @ [12, 11, 10, 1]), 15.0)
    root = 0.15 * rng.normal(size=(6, 6))
    inside = np.zeros(shape, bool)
    inside[6:-6, 6:-6, 6:-6] = True
    variance = position_variance(image, grid, inside, [UncertainPosition(frame, root @ root.T)])
    moved = []
    for draw in (root @ rng.normal(size=(6, 300))).T:
        motion = frame.motion(draw).numpy()
        voxel_map = np.linalg.inv(affine) @ motion @ affine
        moved.append(ndimage.affine_transform(image, voxel_map[:3, :3], voxel_map[:3, 3], order=3)[inside])
    spread = np.var(moved, axis=0)
    assert np.corrcoef(spread, variance)[0, 1] > 0.9
    assert variance.mean() == pytest.approx(spread.mean(), rel=0.15)
    assert not position_variance(image, grid, inside, []).any()


@pytest.mark.slow
def test_a_target_without_anatomy_does_not_pass_in_silence(anchor, guides):
    """Mutual information finds a place for noise; the evidence says that it does not know one."""
    shape, world_from_voxel = stack_affine(anchor.volume, 2, 3.0, 10.0)
    noise = np.random.default_rng(3).normal(100, 10, shape).astype(np.float32)
    source = StackInput("noise", slice_geometry(shape, world_from_voxel, {"SliceThickness": 10.0}))
    stack = place(source, Volume(noise, world_from_voxel), anchor, SETTINGS, QUIET)
    (found,) = calibrated([stack], guides, SETTINGS, QUIET)
    assert found.calibration.position_error_mm > 0.5
    assert "tell their position to" in found.registration.warnings[-1]


def test_profiles_of_the_family_have_the_standard_deviation_that_was_asked_for():
    for sd_mm in (0.5, 0.86, 1.0, 2.0):
        assert profile_with_sd(sd_mm, 3.0).sd_mm == pytest.approx(sd_mm, rel=0.02)


@pytest.mark.slow
def test_another_session_is_aligned_by_evidence(anchor):
    class Scaffold:
        guides = Guides(anchor)

    Scaffold.anchor = anchor
    truth = rigid(*MOTIONS[1], CENTRE)
    image = head(T1W, SIZE_MM, with_scalp=False)
    moved = Volume(image.data, truth @ image.world_from_voxel)
    found = aligned(moved, "other", Scaffold, SETTINGS)
    assert error_mm(found.registration.target_from_anchor, truth, Scaffold.guides) < 0.1
