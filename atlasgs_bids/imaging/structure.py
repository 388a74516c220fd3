"""Which way the edges of an image run: ellipsoids from its structure tensor."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm

_SLOPE_SIGMA_VOX = 0.7
_WINDOW_SIGMA_VOX = 1.0
_PACKED = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def edge_ellipsoids(
    volume: Volume, slope_per_voxel: float, points_vox: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Covariances (n, 6) at points (n, 3): long along a sheet, short across its edge, as large as a ball.

    Σ ∝ (I + J/c²)⁻¹ with det Σ = 1, packed as xx, xy, xz, yy, yz, zz in world axes, without unit. J is the
    mean of ∇I ∇Iᵀ around the point (structure tensor, Bigün 1987) and c is ``slope_per_voxel``, intensity per
    voxel of mean size: where the image is as steep, the ellipsoid is √2 thinner across than along.
    """
    tensors = _structure_tensors(volume.data, points_vox)
    # ∇ in the world is M⁻ᵀ ∇ in voxels, for M the linear part of world_from_voxel.
    voxel_mm = float(np.prod(voxel_sizes_mm(volume.world_from_voxel))) ** (1 / 3)
    scaled = np.linalg.inv(volume.world_from_voxel[:3, :3]) * (voxel_mm / slope_per_voxel)
    voxel_from_world = scaled.astype(np.float32)
    steepness = np.eye(3, dtype=np.float32) + voxel_from_world.T @ tensors @ voxel_from_world
    ellipsoids = np.linalg.inv(steepness) * np.cbrt(np.linalg.det(steepness))[:, None, None]
    return np.stack([ellipsoids[:, i, j] for i, j in _PACKED], axis=1)


def _structure_tensors(
    data: npt.NDArray[np.float32], points_vox: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Mean of ∇I ∇Iᵀ around each point, (n, 3, 3), voxel axes; computed where there are points alone."""
    reach = int(np.ceil(4 * (_SLOPE_SIGMA_VOX + _WINDOW_SIGMA_VOX))) + 1
    last = np.array(data.shape) - 1
    low = np.clip(np.floor(points_vox.min(axis=0)).astype(int) - reach, 0, last)
    high = np.clip(np.ceil(points_vox.max(axis=0)).astype(int) + reach, 0, last)
    part = data[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
    slopes = [
        ndimage.gaussian_filter(part, _SLOPE_SIGMA_VOX, order=[int(axis == i) for i in range(3)])
        for axis in range(3)
    ]
    tensors = np.empty((len(points_vox), 3, 3), np.float32)
    places = (points_vox - low.astype(np.float32)).T
    for i, j in _PACKED:
        mean = ndimage.gaussian_filter(slopes[i] * slopes[j], _WINDOW_SIGMA_VOX)
        tensors[:, i, j] = tensors[:, j, i] = ndimage.map_coordinates(mean, places, order=1, mode="nearest")
    return tensors
