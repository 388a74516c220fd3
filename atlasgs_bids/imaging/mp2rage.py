"""The UNIT1 of an MP2RAGE: a quotient of two images, so that its air is noise as bright as any tissue."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from atlasgs_bids.imaging.foreground import foreground_mask, whole_head
from atlasgs_bids.imaging.grid import BoolArray
from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm

_WINDOW_MM = 2.0
_NOISY = 0.15
"""Mean step between neighbours, of the range: in air 1/3, in tissue 0.06 at most (noise of 5 %)."""
_CONSTANT = 1e-3
_LEAST_NOISY = 0.05
"""Part of the image: below it the air was made silent before."""


def silent_air(unit1: Volume, magnitude: Volume | None = None) -> Volume:
    """The image from 0 upwards, with 0 for air.

    The head is taken from ``magnitude``, the second inversion on the same grid, else from the image itself:
    in air Re(S₁* S₂) / (|S₁|² + |S₂|²) of independent noise is uniform over the whole range (Marques 2010),
    so that neighbours differ by a third of it along every axis. Air that is already silent stays as it is.
    """
    data = unit1.data - unit1.data.min()
    head = _smooth_part(data, unit1) if magnitude is None else foreground_mask(magnitude)
    return replace(unit1, data=data if head is None else np.where(head, data, np.float32(0)))


def _smooth_part(data: npt.NDArray[np.float32], unit1: Volume) -> BoolArray | None:
    """Where neighbours along some axis are alike, and all that they enclose; None: there is no noise."""
    sizes_mm = voxel_sizes_mm(unit1.world_from_voxel)
    low, high = np.percentile(data, [1, 99])
    sigma = np.maximum(_WINDOW_MM / sizes_mm, 1.0)
    roughness = np.full(data.shape, np.inf, np.float32)
    for axis in range(3):
        step = np.abs(np.diff(data, axis=axis))
        step = np.concatenate([step, np.take(step, [-1], axis=axis)], axis=axis)
        # The least of three: an edge of the head is one across an axis or two, noise is one along all.
        roughness = np.minimum(roughness, ndimage.gaussian_filter(step, sigma))
    noisy = roughness > _NOISY * (high - low)
    if noisy.mean() < _LEAST_NOISY:
        return None
    # Where nothing was measured (a border, a face that was cut off) the image is constant.
    return whole_head(~noisy & (roughness > _CONSTANT * (high - low)), sizes_mm)
