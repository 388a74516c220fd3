"""Fine detail along each axis of an image: what tells one that was interpolated from a sharp one."""

import numpy as np
import numpy.typing as npt
from scipy import fft

from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm

_FINE, _COARSE = (0.5, 0.95), (0.1, 0.3)
"""Bands of frequency, over the Nyquist frequency of the longest voxel side."""
_LEAST_VOXELS = 48
"""Along an axis: with fewer, the bands hold too few frequencies to tell."""


def detail_by_axis(volume: Volume) -> npt.NDArray[np.float64] | None:
    """(3,) power of fine over that of coarse detail along each voxel axis, over the median of the three.

    Near 1 for an image that was acquired isotropic. None where the image is too small, or shows nothing.
    """
    if min(volume.data.shape) < _LEAST_VOXELS:
        return None
    sizes_mm = voxel_sizes_mm(volume.world_from_voxel)
    nyquist = 0.5 / float(sizes_mm.max())
    found = np.array(
        [_fine_over_coarse(volume.data, axis, float(sizes_mm[axis]), nyquist) for axis in range(3)]
    )
    middle = float(np.median(found))
    return found / middle if np.isfinite(found).all() and middle > 0 else None


def _fine_over_coarse(data: npt.NDArray[np.float32], axis: int, size_mm: float, nyquist: float) -> float:
    # Of differences, whose spectrum is nearly flat: that of the image would leak from its low frequencies.
    steps = np.moveaxis(np.diff(data, axis=axis), axis, -1)
    n = steps.shape[-1]
    power = np.zeros(n // 2 + 1)
    window = np.hanning(n).astype(np.float32)
    for plane in steps:  # one after the other: the spectrum of all is three times the image
        power += np.square(np.abs(fft.rfft(plane * window, axis=-1))).sum(0, dtype=np.float64)
    frequency = fft.rfftfreq(n)
    power /= np.square(2 * np.sin(np.pi * np.maximum(frequency, 1e-3)))  # of the image, not of its steps
    relative = frequency / size_mm / nyquist
    fine, coarse = (
        float(power[(relative > low) & (relative < high)].mean()) for low, high in (_FINE, _COARSE)
    )
    return fine / coarse if coarse > 0 else np.nan
