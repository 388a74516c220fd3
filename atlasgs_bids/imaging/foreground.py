"""Where the head is, or the brain, in an image: what everything is fitted to and scored in."""

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.grid import BoolArray
from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm

_CLOSING_MM = 5.0
_SHELL_MM = 10.0
_SILENT_FRACTION = 0.02
_EXTREME_VOXELS = 200_000


def foreground_mask(anchor: Volume) -> BoolArray:
    """Voxels of the head, or of the brain where everything else was already set to zero.

    The head is the largest component above the noise of the air, closed and with its holes filled. Where
    the air is silent (set to zero by the scanner or by a brain extraction), every voxel above it counts.
    Raises InputError where nothing stands out from the background.
    """
    data = anchor.data if anchor.observed is None else np.where(anchor.observed, anchor.data, 0)
    sizes_mm = voxel_sizes_mm(anchor.world_from_voxel)
    floor = float(np.percentile(_thinned(data), 1))
    ceiling = float(np.percentile(_thinned(data), 99.5))
    if ceiling <= floor:
        floor, ceiling = float(data.min()), float(data.max())
    bright = np.clip(data, floor, ceiling)
    bright = bright - np.float32(floor)
    otsu = float(threshold_otsu(_thinned(bright)))
    # A blur of 1 mm takes the spikes out of noisy air and leaves the edge of the head where it is.
    smooth = ndimage.gaussian_filter(bright, 1.0 / sizes_mm)
    tissue = _main_components(smooth > otsu)
    if not tissue.any():
        raise InputError(
            "no foreground found in the anchor, expected a head or brain brighter than its background; "
            "check the image"
        )
    air = smooth[~ndimage.maximum_filter(tissue, _box_size(_SHELL_MM, sizes_mm))]
    threshold = 0.35 * otsu
    if air.size:
        median = float(np.median(air))
        spread = 1.4826 * float(np.median(np.abs(air - median)))
        threshold = min(otsu, max(threshold, median + 4 * spread))
        if np.percentile(air, 95) < _SILENT_FRACTION * otsu:
            smooth, threshold = bright, _SILENT_FRACTION * otsu
    return whole_head(smooth > threshold, sizes_mm)


def whole_head(mask: BoolArray, sizes_mm: npt.NDArray[np.float64]) -> BoolArray:
    """The largest component of a mask, closed and with its holes filled."""
    return _filled(_closed(_main_components(mask), sizes_mm))


def _thinned(data: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """About ``_EXTREME_VOXELS`` of the values, evenly spread: enough for a histogram, the same every time."""
    return data.ravel()[:: max(1, data.size // _EXTREME_VOXELS)]


def _main_components(mask: BoolArray) -> BoolArray:
    """The largest connected component and every other that has at least a tenth of its voxels."""
    labels, n_labels = ndimage.label(mask)
    if n_labels == 0:
        return np.zeros(mask.shape, dtype=bool)
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    return (counts >= 0.1 * counts.max())[labels]


def _closed(mask: BoolArray, sizes_mm: npt.NDArray[np.float64]) -> BoolArray:
    """The mask dilated and then eroded by a box that reaches ``_CLOSING_MM`` to each side."""
    size = _box_size(_CLOSING_MM, sizes_mm)
    # Continued beyond the border where it touches it, and only there: the erosion neither eats a neck that
    # the image cuts, nor leaves the air between a vertex and the border.
    padded = np.pad(mask, [(n, n) for n in size], mode="edge")
    dilated = ndimage.maximum_filter(padded, size, mode="constant", cval=0)
    eroded = ndimage.minimum_filter(dilated, size, mode="constant", cval=0)
    return np.asarray(eroded[tuple(slice(n, -n) for n in size)])


def _box_size(reach_mm: float, sizes_mm: npt.NDArray[np.float64]) -> list[int]:
    return [2 * math.ceil(reach_mm / size_mm) + 1 for size_mm in sizes_mm]


def _filled(mask: BoolArray) -> BoolArray:
    """Holes filled plane by plane along each axis: a head is open where the image ends at the neck."""
    for axis in range(mask.ndim):
        planes = [ndimage.binary_fill_holes(plane) for plane in np.moveaxis(mask, axis, 0)]
        mask = mask | np.moveaxis(np.stack(planes), 0, axis)
    return mask
