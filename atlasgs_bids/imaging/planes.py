"""Grids of planes in any orientation: by point and normal, in stacks, about an axis."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from atlasgs_bids.errors import ConfigurationError
from atlasgs_bids.imaging.header import MOST_VOXELS
from atlasgs_bids.imaging.volume import Grid, voxel_sizes_mm

Array = npt.NDArray[np.float64]

Layout = tuple[bool, tuple[int, int]]
"""How a slice (i, j) is shown: transposed or not, and then the steps, 1 or -1, to right and up."""

_SEEN_FROM = (-1, 1, -1)
"""Radiological convention: sagittal from the left, coronal from the front, axial from below."""
_SHORTEST = 1e-6
"""Length of a direction, below which it is none."""
_PARALLEL = 1e-3
"""Sine of the angle between two directions, below which they are one."""


def plane_axes(normal: npt.ArrayLike, up: npt.ArrayLike | None = None) -> Array:
    """(3, 3) unit vectors in columns: across and up in the plane, and the normal; world RAS.

    ``up`` (None: the head's superior, in a plane that is nearest to axial its anterior) is turned into the
    plane. Across points to the patient's right, in a plane that is nearest to sagittal to anterior.

    >>> plane_axes([0, 0, 2]).astype(int).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    across_plane = _direction(normal, "the normal")
    nearest = int(np.abs(across_plane).argmax())
    wanted = _direction(np.eye(3)[1 if nearest == 2 else 2] if up is None else up, "the upward direction")
    upward = wanted - (wanted @ across_plane) * across_plane
    if np.linalg.norm(upward) < _PARALLEL:
        raise ConfigurationError(
            f"upward direction {_text(wanted)} along the normal {_text(across_plane)}, expected one in the "
            "plane; choose another"
        )
    upward /= np.linalg.norm(upward)
    across = np.cross(upward, across_plane)
    across *= 1.0 if across[1 if nearest == 0 else 0] >= 0 else -1.0
    return np.stack([across, upward, across_plane], axis=1)


def plane_grid(
    point_mm: npt.ArrayLike,
    axes: Array,
    around_mm: tuple[npt.ArrayLike, npt.ArrayLike],
    spacing_mm: float,
    *,
    n_slices: int = 1,
    distance_mm: float | None = None,
    fov_mm: float | None = None,
) -> Grid:
    """A stack of planes with the point in its middle, its third axis along the normal.

    ``axes`` as of ``plane_axes``; ``around_mm``: the lowest and the highest corner of a box, in the axes'
    coordinates, that the planes cover; ``fov_mm``: the side of a square around the point instead.
    ``distance_mm`` lies between slice centres (None: the spacing). The point is the centre of a pixel.
    """
    point = np.asarray(point_mm, dtype=np.float64)
    centre = point @ axes[:, :2]
    if fov_mm is None:
        low, high = (np.asarray(corner, dtype=np.float64)[:2] for corner in around_mm)
    else:
        low, high = centre - fov_mm / 2, centre + fov_mm / 2
    # Rounded outwards, but for what is rounding itself.
    first = np.floor((low - centre) / spacing_mm + 0.5 + 1e-6).astype(int)
    last = np.ceil((high - centre) / spacing_mm - 0.5 - 1e-6).astype(int)
    n_across, n_up = (int(n) for n in np.maximum(last - first + 1, 1))
    _check_size(n_across, n_up, n_slices, spacing_mm)
    steps_mm = np.array([spacing_mm, spacing_mm, spacing_mm if distance_mm is None else distance_mm])
    world_from_voxel = np.eye(4)
    world_from_voxel[:3, :3] = axes * steps_mm
    start = np.array([*first, -(n_slices - 1) / 2])
    world_from_voxel[:3, 3] = point + world_from_voxel[:3, :3] @ start
    return Grid((n_across, n_up, n_slices), world_from_voxel)


def radial_axes(axis: npt.ArrayLike, n_planes: int) -> list[Array]:
    """Axes of planes with ``axis`` as their upward direction, each turned by 180° / n from the one before.

    >>> [a[:, 0].round(3).tolist() for a in radial_axes([0, 0, 1], 2)]
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    first, second, upward = plane_axes(axis).T
    planes = []
    for angle in np.arange(n_planes) * math.pi / n_planes:
        across = math.cos(angle) * first + math.sin(angle) * second
        planes.append(np.stack([across, upward, np.cross(across, upward)], axis=1))
    return planes


def shown_upright(grid: Grid) -> Layout:
    """A slice whose second axis is up, whatever that is; in radiological convention as to left and right."""
    directions = grid.world_from_voxel[:3, :3] / voxel_sizes_mm(grid.world_from_voxel)
    normal = np.cross(directions[:, 0], directions[:, 1])
    nearest = int(np.abs(normal).argmax())
    to_viewer = normal * _SEEN_FROM[nearest] * np.sign(normal[nearest])
    right = np.cross(directions[:, 1], to_viewer)
    return False, (1 if right @ directions[:, 0] >= 0 else -1, 1)


def shown_as(grid: Grid) -> Layout:
    """A slice of any grid in radiological convention, with superior at the top.

    The patient's right is on the left, and in a plane that is nearest to sagittal the face; in one that is
    nearest to axial, anterior is at the top.
    """
    directions = grid.world_from_voxel[:3, :3] / voxel_sizes_mm(grid.world_from_voxel)
    across, upward, _ = plane_axes(np.cross(directions[:, 0], directions[:, 1])).T
    along = np.stack([-across, upward]) @ directions[:, :2]
    is_transposed = bool(np.abs(along[[0, 1], [0, 1]]).sum() < np.abs(along[[0, 1], [1, 0]]).sum())
    right, up = (along[0, 1], along[1, 0]) if is_transposed else (along[0, 0], along[1, 1])
    return is_transposed, (1 if right >= 0 else -1, 1 if up >= 0 else -1)


def _direction(vector: npt.ArrayLike, name: str) -> Array:
    values = np.asarray(vector, dtype=np.float64)
    length = float(np.linalg.norm(values))
    if not (np.isfinite(values).all() and length > _SHORTEST):
        raise ConfigurationError(f"{name} is {_text(values)}, expected three numbers that are not all 0")
    return np.asarray(values / length)


def _check_size(n_across: int, n_up: int, n_slices: int, spacing_mm: float) -> None:
    if n_across * n_up * n_slices > MOST_VOXELS:
        raise ConfigurationError(
            f"spacing {spacing_mm:g} mm gives {n_across} x {n_up} x {n_slices} voxels, expected at most "
            f"{MOST_VOXELS:.0e}; choose a larger spacing, fewer slices or a smaller field of view"
        )


def _text(vector: Array) -> str:
    return "(" + ", ".join(f"{x:g}" for x in vector) + ")"
