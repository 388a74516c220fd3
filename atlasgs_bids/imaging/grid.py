"""Grids, masks and resampling between them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from atlasgs_bids.errors import ConfigurationError
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm

_SAME_SIZE_RATIO = 1.001
_MAX_VOXELS = 1_000_000_000
_SAME_GRID = 1e-6
"""Voxels between grids that are one: their affines may have been rounded."""

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


def parts_of(grid: Grid, cell_mm: npt.ArrayLike) -> tuple[int, int, int]:
    """Into how many parts each axis of a voxel falls, so that none is much longer than a cell; at least 1.

    ``cell_mm`` (3, 3): the edges of a cell of a lattice, mm, in columns; it may be turned and oblong.

    >>> parts_of(Grid((4, 4, 4), np.eye(4)), np.diag([0.5, 0.5, 1.0]))
    (2, 2, 1)
    """
    edges_in_cells = np.linalg.inv(np.asarray(cell_mm, dtype=np.float64)) @ grid.world_from_voxel[:3, :3]
    i, j, k = np.maximum(1, np.round(np.linalg.norm(edges_in_cells, axis=0))).astype(int).tolist()
    return i, j, k


def divided(grid: Grid, parts: tuple[int, int, int]) -> Grid:
    """The grid whose voxels are those parts of the other's: ``Volume.averaged`` leads back."""
    whole_from_part = np.diag([*(1 / np.array(parts)), 1.0])
    whole_from_part[:3, 3] = (1 / np.array(parts) - 1) / 2
    n_i, n_j, n_k = (n * part for n, part in zip(grid.shape, parts, strict=True))
    return Grid((n_i, n_j, n_k), grid.world_from_voxel @ whole_from_part)


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
