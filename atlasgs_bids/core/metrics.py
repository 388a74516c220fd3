"""Measures of an image: against a truth, and without one."""

import math

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

Image = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
_NEIGHBOURHOOD_VOX = 2.5
"""σ, within slices."""


def psnr_db(truth: Image, image: Image, mask: Mask) -> float:
    """Peak signal-to-noise ratio in the mask, dB; the range is max − min of the truth in the mask.

    >>> round(psnr_db(np.array([0.0, 10.0]), np.array([1.0, 9.0]), np.array([True, True])), 3)
    20.0
    """
    inside = truth[mask].astype(np.float64)
    error = float(np.mean((image[mask] - inside) ** 2))
    return decibels(error, float(np.ptp(inside)))


def decibels(mean_square: float, peak: float) -> float:
    """Peak signal-to-noise ratio 20 log₁₀ peak − 10 log₁₀ mean square error, dB; infinite without error."""
    return math.inf if mean_square == 0 else 20 * math.log10(peak) - 10 * math.log10(mean_square)


def ssim(truth: Image, image: Image, mask: Mask) -> float:
    """Structural similarity (Wang 2004): scikit-image's default map averaged over the mask."""
    from skimage.metrics import structural_similarity  # noqa: PLC0415 - only where a truth is at hand

    data_range = float(np.ptp(truth[mask]))
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        truth.astype(np.float64), image.astype(np.float64), data_range=data_range, full=True
    )
    return float(np.asarray(similarity)[mask].mean())


def mae(truth: Image, image: Image, mask: Mask) -> float:
    """Mean absolute error in the mask, intensity units.

    >>> mae(np.array([1.0, 2.0, 9.0]), np.array([2.0, 2.0, 0.0]), np.array([True, True, False]))
    0.5
    """
    return float(np.mean(np.abs(image[mask].astype(np.float64) - truth[mask])))


def noise_sd(slices: Image, slice_axis: int, observed: Mask) -> float:
    """Standard deviation of the noise within slices, intensity units.

    Median absolute deviation of the diagonal difference x₀₀ − x₀₁ − x₁₀ + x₁₁ over 2 (Donoho 1994), which
    takes out edges along either axis. NaN where fewer than 100 differences are observed.
    """
    planes = np.moveaxis(slices, slice_axis, 0)
    seen = np.moveaxis(observed, slice_axis, 0)
    valid = seen[:, :-1, :-1] & seen[:, :-1, 1:] & seen[:, 1:, :-1] & seen[:, 1:, 1:]
    detail = (planes[:, :-1, :-1] - planes[:, :-1, 1:] - planes[:, 1:, :-1] + planes[:, 1:, 1:]) / 2
    values = detail[valid]
    return float(np.median(np.abs(values)) / 0.6745) if len(values) >= 100 else math.nan


def misfit_beyond_noise(residual: Image, slice_axis: int, observed: Mask, noise_sd: float) -> Mask:
    """Where the RMS of a neighbourhood within the slice is more than twice the noise.

    The neighbourhood holds some 80 voxels, of whose noise alone the RMS is within 10 % of ``noise_sd``.
    """
    window = [_NEIGHBOURHOOD_VOX] * 3
    window[slice_axis] = 0.0
    seen = observed.astype(np.float32)
    squares = ndimage.gaussian_filter((residual * seen).astype(np.float32) ** 2, window)
    share = ndimage.gaussian_filter(seen, window)
    return np.asarray(observed & (squares > (2 * noise_sd) ** 2 * np.maximum(share, 1e-3)))


def sharpness_ratio(image: Image, mask: Mask, normal_vox: npt.NDArray[np.float64]) -> float:
    """RMS slope through the slices over RMS slope within them; near 1 for an isotropic image of a brain.

    ``normal_vox`` is the slice normal in the index coordinates of a grid of cubic voxels.
    """
    slopes = np.stack([np.gradient(image.astype(np.float32), axis=axis)[mask] for axis in range(3)])
    normal = (normal_vox / np.linalg.norm(normal_vox)).astype(np.float32)
    through = np.tensordot(normal, slopes, axes=1)
    total = float(np.mean((slopes**2).sum(axis=0)))
    through_power = float(np.mean(through**2))
    in_plane_power = (total - through_power) / 2
    return math.sqrt(through_power / in_plane_power) if in_plane_power > 0 else math.nan


def edge_agreement(image: Image, anchor: Image, mask: Mask) -> float:
    """Normalised cross-correlation of the gradient magnitudes of two images in the mask, −1 to 1."""
    edges = [ndimage.gaussian_gradient_magnitude(x.astype(np.float32), 1.0)[mask] for x in (image, anchor)]
    centred = [x - x.mean(dtype=np.float64) for x in edges]
    norm = float(np.linalg.norm(centred[0]) * np.linalg.norm(centred[1]))
    return float(np.dot(centred[0], centred[1])) / norm if norm > 0 else math.nan


def gradient_magnitude(image: Float[Tensor, "x y z"]) -> Float[Tensor, "x y z"]:
    """Length of the central-difference gradient, intensity per voxel."""
    squares = torch.zeros_like(image)
    for axis in range(3):
        if image.shape[axis] > 1:
            squares += torch.gradient(image, dim=axis)[0] ** 2
    return squares.sqrt()
