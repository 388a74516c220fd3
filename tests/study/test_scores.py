"""Scores against cases worked out by hand, and against scikit-image."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from atlasgs_bids.study.results.scores import (
    Reference,
    consistency_rms,
    lesion_contrast,
    lesion_ring,
    pooled,
    score_regions,
)


@pytest.fixture
def reference():
    rng = np.random.default_rng(5)
    truth = rng.uniform(10, 90, (14, 12, 13))
    mask = np.zeros(truth.shape, bool)
    mask[2:12, 2:11, 1:12] = True
    roi = np.zeros_like(mask)
    roi[3:7, 3:7, 2:8] = True
    return Reference(truth, rng.random(truth.shape), mask, {"lesion": roi}, np.eye(4), axis=2, factor=3)


@pytest.fixture
def image(reference):
    return reference.truth + np.random.default_rng(6).normal(0, 5, reference.truth.shape)


def test_psnr_and_mae_by_hand():
    truth = np.zeros((7, 7, 8))
    truth[3, 3, 3], truth[3, 3, 4] = 10.0, 4.0
    mask = np.zeros(truth.shape, bool)
    mask[3, 3, 2:6] = True  # truth 0, 10, 4, 0: range 10
    off = truth.copy()
    off[3, 3, 2:6] += [1, -2, 0, 1]  # squares 1, 4, 0, 1
    off[0, 0, 0] = 99  # outside
    values = score_regions(off, Reference(truth, truth, mask, {}, np.eye(4), 2, 2))["mask"].values
    assert values["mae"] == pytest.approx(1.0)
    assert values["psnr"] == pytest.approx(10 * np.log10(100 / 1.5))


def test_both_ssim_are_scikit_images(reference, image):
    values = score_regions(image, reference)["mask"].values
    mask = reference.mask
    truth, inside = np.where(mask, reference.truth, 0), np.where(mask, image, 0)
    mean, full = structural_similarity(truth, inside, data_range=np.ptp(reference.truth[mask]), full=True)
    assert values["ssim_volume"] == pytest.approx(mean, rel=1e-9)
    assert values["ssim_mask"] == pytest.approx(full[mask].mean(), rel=1e-9)
    assert values["ssim_mask"] != pytest.approx(values["ssim_volume"], abs=1e-3)


def test_a_region_has_the_range_of_the_mask(reference, image):
    found = score_regions(image, reference)
    roi = reference.rois["lesion"]
    error = np.mean((image[roi] - reference.truth[roi]) ** 2)
    expected = 10 * np.log10(np.ptp(reference.truth[reference.mask]) ** 2 / error)
    assert found["lesion"].values["psnr"] == pytest.approx(expected)
    assert "ssim_volume" not in found["lesion"].values


def test_slices_add_up_to_the_whole_and_the_rest_goes_to_the_last(reference, image):
    found = score_regions(image, reference)["mask"]
    units = found.units
    # 13 planes in slices of 3: four units, the mask spans planes 1 to 11.
    assert units["n_voxels"].tolist() == [90 * 2, 90 * 3, 90 * 3, 90 * 3]
    again = pooled(units, reference.range)
    assert again["psnr"] == pytest.approx(found.values["psnr"])
    assert again["ssim_mask"] == pytest.approx(found.values["ssim_mask"])
    first = reference.mask.copy()
    first[:, :, 3:] = False
    assert units["absolute"][0] == pytest.approx(np.abs(image - reference.truth)[first].sum())


def test_the_truth_itself_is_perfect(reference):
    values = score_regions(reference.truth, reference)["mask"].values
    assert values["psnr"] == np.inf
    assert values["mae"] == 0
    assert values["edge_ncc"] == values["edge_ncc_truth"]
    assert values["ssim_mask"] == pytest.approx(1)


def test_lesion_contrast_by_hand():
    truth = np.full((30, 9, 9), 50.0)
    lesion = np.zeros(truth.shape, bool)
    lesion[10:14, 3:6, 3:6] = True
    truth[lesion] = 80
    mask = np.ones_like(lesion)
    reference = Reference(truth, truth, mask, {"lesion": lesion}, np.eye(4), 0, 3)
    image = np.where(lesion, 71.0, 50.0)
    assert lesion_contrast(truth, image, lesion, reference) == pytest.approx(0.7)
    ring = lesion_ring(lesion, mask, np.eye(4))
    # Along the first axis the lesion ends at voxel 13: 3 mm off is too near, 4 to 8 mm belong to the ring.
    assert ring[13 + 3 : 13 + 10, 4, 4].tolist() == [False, True, True, True, True, True, False]


def test_consistency_is_the_rms_in_the_mask():
    acquired, mask = np.zeros((2, 2, 1)), np.array([[[True], [True]], [[False], [False]]])
    simulated = np.array([[[3.0], [4.0]], [[99.0], [99.0]]])
    assert consistency_rms(simulated, acquired, mask) == pytest.approx(np.sqrt(12.5))
