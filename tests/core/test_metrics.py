"""Measures against hand-computed cases and scikit-image."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from atlasgs_bids.core.metrics import (
    edge_agreement,
    gradient_magnitude,
    noise_sd,
    psnr_db,
    sharpness_ratio,
    ssim,
)

RNG = np.random.default_rng(3)


def test_against_scikit_image() -> None:
    truth = RNG.random((12, 13, 14))
    image = truth + 0.1 * RNG.standard_normal(truth.shape)
    everywhere = np.ones(truth.shape, bool)
    data_range = np.ptp(truth)
    assert psnr_db(truth, image, everywhere) == pytest.approx(
        peak_signal_noise_ratio(truth, image, data_range=data_range)
    )
    _, full = structural_similarity(truth, image, data_range=data_range, full=True)
    assert ssim(truth, image, everywhere) == pytest.approx(full.mean())
    assert psnr_db(truth, truth, everywhere) == math.inf


def test_noise_is_found_beside_anatomy() -> None:
    x, y, z = np.meshgrid(np.arange(60), np.arange(60), np.arange(8), indexing="ij")
    anatomy = 100 * (x > 30) + 50 * (y > 20) + 10 * z
    noisy = anatomy + 4 * RNG.standard_normal(anatomy.shape)
    everywhere = np.ones(noisy.shape, bool)
    assert noise_sd(noisy, 2, everywhere) == pytest.approx(4, rel=0.05)
    assert math.isnan(noise_sd(noisy, 2, ~everywhere))


def test_sharpness_of_isotropic_and_blurred_noise() -> None:
    image = RNG.standard_normal((30, 30, 30)).astype(np.float32)
    mask = np.ones(image.shape, bool)
    normal = np.array([0.0, 0.0, 2.0])
    assert sharpness_ratio(image, mask, normal) == pytest.approx(1, abs=0.05)
    thick = np.repeat(image[:, :, ::5], 5, axis=2)
    assert sharpness_ratio(thick, mask, normal) < 0.75
    assert math.isnan(sharpness_ratio(np.zeros_like(image), mask, normal))


def test_edges_agree_whatever_the_contrast() -> None:
    shape = np.zeros((20, 20, 20))
    shape[6:14, 6:14, 6:14] = 1
    mask = np.ones(shape.shape, bool)
    assert edge_agreement(500 - 3 * shape, shape, mask) == pytest.approx(1, abs=1e-6)
    assert edge_agreement(np.roll(shape, 5, axis=0), shape, mask) < 0.7
    assert math.isnan(edge_agreement(np.zeros_like(shape), shape, mask))


def test_gradient_magnitude_of_a_ramp() -> None:
    ramp = torch.arange(5.0)[:, None, None].expand(5, 4, 1) * 2
    torch.testing.assert_close(gradient_magnitude(ramp), torch.full((5, 4, 1), 2.0))
