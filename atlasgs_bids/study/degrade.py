"""Thick slices simulated from an isotropic scan, so that a result can be scored against the truth."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage, special


def simulate_thick_slices(
    data: npt.NDArray[np.floating],
    world_from_voxel: npt.NDArray[np.floating],
    axis: int,
    factor: int,
    blur_sigma_voxels: float = 1.0,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Slices of ``factor`` voxels along ``axis`` (Gaussian blur, then mean), and their world_from_voxel (mm).

    Slice k averages the fine voxels k f ... (k + 1) f - 1, so its centre lies at (k + ½) f - ½ fine voxels,
    which the returned affine says. Trailing voxels that do not fill a slice are dropped. The blur stands for
    the smooth flanks of a real slice profile.

    >>> ramp = np.arange(7.0).reshape(1, 1, 7)
    >>> slices, _ = simulate_thick_slices(ramp, np.eye(4), axis=2, factor=3, blur_sigma_voxels=0)
    >>> slices.ravel().tolist()
    [1.0, 4.0]
    """
    if not 1 <= factor <= data.shape[axis]:
        raise ValueError(f"factor {factor} on an axis of {data.shape[axis]} voxels; expected 1 to its length")
    n_slices = data.shape[axis] // factor
    fine = np.asarray(data, dtype=np.float64)
    if blur_sigma_voxels > 0:
        fine = ndimage.gaussian_filter1d(fine, blur_sigma_voxels, axis=axis, mode="nearest")
    filled = np.moveaxis(fine, axis, -1)[..., : n_slices * factor]
    slices = filled.reshape(*filled.shape[:-1], n_slices, factor).mean(axis=-1)

    fine_from_slice = np.eye(4)
    fine_from_slice[axis, axis] = factor
    fine_from_slice[axis, 3] = (factor - 1) / 2
    return np.moveaxis(slices, -1, axis).astype(np.float32), world_from_voxel @ fine_from_slice


def true_slice_profile(
    thickness_mm: float, blur_sigma_mm: float, step_mm: float = 0.05
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Offsets (mm) and weights (1/mm, integral 1) of a box convolved with a Gaussian, to 4 σ past the box.

    What ``simulate_thick_slices`` does to a continuous object: box of the thickness, blurred by the Gaussian.
    """
    reach_mm = thickness_mm / 2 + 4 * blur_sigma_mm
    n_steps = int(np.ceil(reach_mm / step_mm))
    offsets_mm = np.linspace(-reach_mm, reach_mm, 2 * n_steps + 1)
    edges = (offsets_mm[:, None] + np.array([-1, 1]) * thickness_mm / 2) / (blur_sigma_mm * np.sqrt(2))
    lower, upper = special.erf(edges).T
    return offsets_mm, (upper - lower) / (2 * thickness_mm)
