"""Sharpness, unlike patches, tissues and oblique planes: each has to be failed by a wrong image."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.study.methods.protocol import Restored
from atlasgs_bids.study.results.detail import sharpness, unlike_patches
from atlasgs_bids.study.results.oblique import oblique_grids, oblique_scores
from atlasgs_bids.study.results.scores import Reference
from atlasgs_bids.study.results.tissues import tissue_scores
from atlasgs_bids.study.simulation.degrade import simulate_thick_slices
from atlasgs_bids.study.simulation.phantom import Structure, make_phantom

SHAPE = (48, 44, 45)
AXIS, FACTOR = 2, 5
PLAIN = Structure((24.0, 22.0, 22.0), 13.0)
"""White matter, in which a blob would be seen."""
BLOB = Structure((24.0, 22.0, 22.0), 4.0)


@pytest.fixture(scope="module")
def truth():
    return make_phantom(3, "FLAIR", SHAPE, plain=[PLAIN]).truth


@pytest.fixture(scope="module")
def mask():
    return np.ones(SHAPE, bool)


@pytest.fixture(scope="module")
def cubic(truth):
    slices, affine = simulate_thick_slices(truth, np.eye(4), AXIS, FACTOR)
    return resample(Volume(slices, affine), Grid(SHAPE, np.eye(4)), order=3)


def test_cubic_interpolation_is_not_sharp(truth, cubic, mask):
    assert sharpness(truth, truth, mask, AXIS) == 1
    assert sharpness(truth, cubic, mask, AXIS) < 0.5


def test_sharpness_is_that_along_the_slice_axis(truth, cubic, mask):
    """What interpolation between slices takes away within the slices is little beside that."""
    assert sharpness(truth, cubic, mask, 0) > 1.5 * sharpness(truth, cubic, mask, AXIS)


def test_noise_makes_nothing_sharp(truth, mask):
    """2 % of the brightest tissue adds less than a tenth to an image of a tissue's folds."""
    noisy = truth + np.random.default_rng(0).normal(0, 0.02 * truth.max(), SHAPE)
    assert 1 < sharpness(truth, noisy, mask, AXIS) < 1.1


def test_sharpness_by_hand():
    """A ramp of half the slope; voxels outside the mask do not count."""
    ramp = np.broadcast_to(np.arange(8.0), (3, 3, 8))
    half, mask = 0.5 * ramp, np.ones(ramp.shape, bool)
    half[..., 0], mask[..., 0] = 99.0, False
    assert sharpness(ramp, half, mask, 2) == pytest.approx(0.5)
    assert np.isnan(sharpness(np.zeros_like(ramp), ramp, mask, 2))


def test_the_truth_has_no_unlike_patch(truth, mask):
    noisy = truth + np.random.default_rng(0).normal(0, 0.01 * truth.max(), SHAPE)
    for image in (truth, 1.1 * truth + 20, noisy):
        found = unlike_patches(truth, image, mask)
        assert (found.n, found.n_invented, found.n_erased) == (5 * 4 * 4, 0, 0)


def test_a_blob_that_is_drawn_in_is_invented(truth, mask):
    drawn = truth + 400 * BLOB.fraction(SHAPE)
    found = unlike_patches(truth, drawn, mask)
    assert found.n_invented >= 1
    assert found.n_erased == 0


def test_a_blob_that_is_left_out_is_erased(truth, mask):
    found = unlike_patches(truth + 400 * BLOB.fraction(SHAPE), truth, mask)
    assert found.n_erased >= 1
    assert found.n_invented == 0


def test_blurred_patches_are_erased(truth, mask):
    for image in (ndimage.gaussian_filter(truth, 5.0), np.full(SHAPE, truth.mean())):
        found = unlike_patches(truth, image, mask)
        assert found.n_erased > 0.9 * found.n
        assert found.n_invented == 0


def test_interpolation_between_thick_slices_has_unlike_patches(truth, cubic, mask):
    """More of them the thicker the slices; folds that are seen twice are invented."""
    slices, affine = simulate_thick_slices(truth, np.eye(4), AXIS, 9)
    thicker = resample(Volume(slices, affine), Grid(SHAPE, np.eye(4)), order=3)
    few, many = (unlike_patches(truth, image, mask) for image in (cubic, thicker))
    assert 0 < few.n_invented + few.n_erased < 0.5 * (many.n_invented + many.n_erased)


def test_another_head_is_invented_and_erased(truth, mask):
    other = make_phantom(4, "FLAIR", SHAPE).truth
    found = unlike_patches(truth, other, mask)
    assert found.n_invented + found.n_erased == found.n
    assert min(found.n_invented, found.n_erased) > 0


def test_patches_lie_in_the_mask(truth):
    mask = np.zeros(SHAPE, bool)
    mask[:20, :20, :20] = True
    assert unlike_patches(truth, truth, mask).n == 1
    assert unlike_patches(truth, truth, np.zeros(SHAPE, bool)).n == 0


def test_tissues_by_hand():
    """Of 30 dark, 30 middle and 30 bright voxels, 10 dark ones are taken for middle ones."""
    truth = np.repeat([0.0, 50.0, 100.0], 30).reshape(9, 10, 1)
    image = truth.copy()
    image.flat[:10] = 50.0
    scores = tissue_scores(truth, image, np.ones(truth.shape, bool))
    assert scores["dice_dark"] == pytest.approx(2 * 20 / 50)
    assert scores["dice_middle"] == pytest.approx(2 * 30 / 70)
    assert scores["dice_bright"] == 1
    assert scores["bias_dark"] == pytest.approx(-1 / 3)
    assert scores["bias_middle"] == pytest.approx(1 / 3)
    assert scores["bias_bright"] == 0


def test_tissues_of_other_units_are_the_same_and_of_cubic_are_not(truth, cubic, mask):
    same, worse = (tissue_scores(truth, image, mask) for image in (3 * truth + 7, cubic))
    for name in ("dark", "middle", "bright"):
        assert same[f"dice_{name}"] > 0.99
        assert worse[f"dice_{name}"] < 0.85
    flat = tissue_scores(truth, np.zeros_like(truth), mask)
    assert (flat["dice_bright"], flat["bias_bright"]) == (0, -1)


def reference(truth):
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    return Reference(truth, truth, np.ones(SHAPE, bool), {}, affine, AXIS, FACTOR)


@pytest.mark.parametrize("angle", [30, 45])
def test_planes_stand_at_their_angle(truth, angle):
    for grid in oblique_grids(reference(truth), angle):
        normal = grid.world_from_voxel[:3, 2] / np.linalg.norm(grid.world_from_voxel[:3, 2])
        assert abs(normal[AXIS]) == pytest.approx(np.cos(np.radians(angle)))
        assert grid.shape[2] == 3


def test_an_error_that_is_everywhere_is_that_of_every_plane(truth, cubic):
    own = reference(truth)
    off = oblique_scores(Restored(truth + np.float32(5)), own)
    expected = 20 * np.log10(own.range / 5)
    assert list(off) == ["oblique_30", "oblique_45"]
    assert list(off.values()) == pytest.approx([expected] * 2, abs=0.05)
    assert max(oblique_scores(Restored(cubic), own).values()) < expected - 10


def test_what_can_render_is_not_interpolated(truth):
    class Constant:
        """A model of 7 everywhere."""

        def render(self, view):
            return np.full(view.grid.shape, 7.0, np.float32)

    own = reference(np.where(truth > 300, truth, np.float32(7)))
    shown = oblique_scores(Restored(truth, model=Constant()), own)
    flat = oblique_scores(Restored(np.full(SHAPE, 7.0, np.float32)), own)
    assert list(shown.values()) == pytest.approx(list(flat.values()), abs=0.2)
    assert shown["oblique_30"] < oblique_scores(Restored(truth), replace(own))["oblique_30"] - 5
