"""Grids, masks and resampling between them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu

from atlasgs_bids.errors import ConfigurationError, InputError
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm

_SAME_SIZE_RATIO = 1.001
_MAX_VOXELS = 1_000_000_000
_CLOSING_MM = 5.0
_SHELL_MM = 10.0
_SAME_GRID = 1e-6
"""Voxels between grids that are one: their affines may have been rounded."""
_SILENT_FRACTION = 0.02
_EXTREME_VOXELS = 200_000

BoolArray = npt.NDArray[np.bool_]
Affine = npt.NDArray[np.float64]


def output_grid(anchor: Grid, resolution: str | float) -> Grid:
    """Grid of the results: orientation, centre and field of view of the anchor at the asked voxel size.

    ``iso``: the anchor's smallest voxel side; ``anchor``: the anchor's own grid; a number: that many mm.
    The field of view is covered whole, so it may grow by less than a voxel.
    """
    if resolution == "anchor":
        return anchor
    sizes_mm = voxel_sizes_mm(anchor.world_from_voxel)
    size_mm = float(sizes_mm.min()) if resolution == "iso" else _size_mm(resolution)
    if np.maximum(sizes_mm / size_mm, size_mm / sizes_mm).max() < _SAME_SIZE_RATIO:
        return anchor
    extent_mm = np.array(anchor.shape) * sizes_mm
    shape = np.maximum(1, np.ceil(extent_mm / size_mm - 0.01)).astype(int)
    if math.prod(int(n) for n in shape) > _MAX_VOXELS:
        raise ConfigurationError(
            f"resolution {size_mm:g} mm gives {' x '.join(str(n) for n in shape)} voxels, "
            f"expected at most {_MAX_VOXELS:.0e}; choose a larger voxel size"
        )
    world_from_voxel = np.eye(4)
    world_from_voxel[:3, :3] = anchor.world_from_voxel[:3, :3] * (size_mm / sizes_mm)
    anchor_centre_world = _apply(anchor.world_from_voxel, (np.array(anchor.shape) - 1) / 2)
    world_from_voxel[:3, 3] = anchor_centre_world - world_from_voxel[:3, :3] @ ((shape - 1) / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), world_from_voxel)


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
            "check the T1w image"
        )
    air = smooth[~ndimage.maximum_filter(tissue, _box_size(_SHELL_MM, sizes_mm))]
    threshold = 0.35 * otsu
    if air.size:
        median = float(np.median(air))
        spread = 1.4826 * float(np.median(np.abs(air - median)))
        threshold = min(otsu, max(threshold, median + 4 * spread))
        if np.percentile(air, 95) < _SILENT_FRACTION * otsu:
            smooth, threshold = bright, _SILENT_FRACTION * otsu
    mask = _main_components(smooth > threshold)
    mask = _closed(mask, sizes_mm)
    return _filled(mask)


def resample(
    volume: Volume, grid: Grid, volume_from_grid_world: npt.ArrayLike | None = None, order: int = 3
) -> npt.NDArray[np.float32]:
    """Values of the volume at the voxel centres of the grid, by B-spline interpolation of the given order.

    ``volume_from_grid_world`` is the 4x4 point map from the grid's world to the volume's (None: identity).
    The outermost half voxel extends the border; beyond it the result is 0, as where the nearest voxel of
    the volume was not observed.
    """
    volume_from_grid_vox = _voxel_map(volume.grid, grid, volume_from_grid_world)
    data, inside = volume.data, fov_mask(volume.grid, grid, volume_from_grid_world)
    if volume.observed is not None and not volume.observed.all():
        nearest = ndimage.distance_transform_edt(
            ~volume.observed, return_distances=False, return_indices=True
        )
        # Zeros among the samples would ring into their neighbours.
        data = data[tuple(nearest)]
        inside &= _affine_sample(volume.observed.astype(np.float32), volume_from_grid_vox, grid, 0) > 0.5
    return np.where(inside, _affine_sample(data, volume_from_grid_vox, grid, order), np.float32(0))


def resample_mask(mask: Volume, grid: Grid, volume_from_grid_world: npt.ArrayLike | None = None) -> BoolArray:
    """True where the linearly interpolated mask (non-zero is inside) reaches one half."""
    binary = Volume((mask.data > 0).astype(np.float32), mask.world_from_voxel)
    return resample(binary, grid, volume_from_grid_world, order=1) >= 0.5


def continued_mask(mask: Volume, grid: Grid) -> BoolArray:
    """The mask on the grid (nearest voxel), its border continued outwards without end."""
    binary = (mask.data > 0).astype(np.float32)
    return _affine_sample(binary, _voxel_map(mask.grid, grid, None), grid, 0) > 0.5


def fov_mask(
    volume_grid: Grid,
    grid: Grid,
    volume_from_grid_world: npt.ArrayLike | None = None,
    reach_voxels: tuple[float, float, float] = (0.5, 0.5, 0.5),
) -> BoolArray:
    """True at the grid's voxel centres that lie inside a voxel of ``volume_grid``.

    ``reach_voxels``: how far the field of view reaches beyond the outermost voxel centres along each axis.
    """
    volume_from_grid_vox = _voxel_map(volume_grid, grid, volume_from_grid_world)
    inside = np.ones(grid.shape, dtype=bool)
    i, j, k = np.ogrid[: grid.shape[0], : grid.shape[1], : grid.shape[2]]
    for row, n_voxels, reach in zip(volume_from_grid_vox[:3], volume_grid.shape, reach_voxels, strict=True):
        index = (row[0] * i + row[3]) + row[1] * j + row[2] * k
        # A centre on the border belongs to the volume whatever the rounding of its coordinates.
        inside &= (index >= -reach - 1e-6) & (index <= n_voxels - 1 + reach + 1e-6)
    return inside


def _size_mm(resolution: str | float) -> float:
    try:
        size_mm = float(resolution)
    except ValueError:
        size_mm = math.nan
    if not (math.isfinite(size_mm) and size_mm > 0):
        raise ConfigurationError(
            f"resolution {resolution!r}, expected 'iso', 'anchor' or a voxel size in mm above 0"
        )
    return size_mm


def _apply(target_from_source: Affine, point: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return target_from_source[:3, :3] @ np.asarray(point, dtype=np.float64) + target_from_source[:3, 3]


def _voxel_map(volume_grid: Grid, grid: Grid, volume_from_grid_world: npt.ArrayLike | None) -> Affine:
    world_map = np.eye(4) if volume_from_grid_world is None else np.asarray(volume_from_grid_world, float)
    return np.linalg.inv(volume_grid.world_from_voxel) @ world_map @ grid.world_from_voxel


def _affine_sample(
    data: npt.NDArray[np.float32], data_from_grid_vox: Affine, grid: Grid, order: int
) -> npt.NDArray[np.float32]:
    if grid.shape == data.shape and np.abs(data_from_grid_vox - np.eye(4)).max() < _SAME_GRID:
        return data.astype(np.float32)
    return np.asarray(
        ndimage.affine_transform(
            data,
            data_from_grid_vox[:3, :3],
            data_from_grid_vox[:3, 3],
            output_shape=grid.shape,
            output=np.float32,
            order=order,
            mode="nearest",
        )
    )


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
