"""Which way the edges of an image run: ellipsoids from its structure tensor."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm

_SLOPE_SIGMA_VOX = 0.7
_WINDOW_SIGMA_VOX = 1.0


def edge_ellipsoids(
    volume: Volume, slope_per_voxel: float, points_vox: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Covariances (n, 6) at points (n, 3): long along a sheet, short across its edge, as large as a ball.

    Σ ∝ (I + J/c²)⁻¹ with det Σ = 1, packed as xx, xy, xz, yy, yz, zz in world axes, without unit. J is the
    mean of ∇I ∇Iᵀ around the point (structure tensor, Bigün 1987) and c is ``slope_per_voxel``, intensity per
    voxel of mean size: where the image is as steep, the ellipsoid is √2 thinner across than along.
    """
    (xx, xy, xz, yy, yz, zz) = _structure_tensors(volume, slope_per_voxel, points_vox)
    xx, yy, zz = 1 + xx, 1 + yy, 1 + zz
    cofactors = np.stack(
        [
            yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy,
            xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy,
        ], axis=1,
    )  # fmt: skip
    determinant = xx * cofactors[:, 0] + xy * cofactors[:, 1] + xz * cofactors[:, 2]
    ellipsoids: npt.NDArray[np.float32] = cofactors / np.cbrt(determinant * determinant)[:, None]
    return ellipsoids


def _structure_tensors(
    volume: Volume, slope_per_voxel: float, points_vox: npt.NDArray[np.float32]
) -> list[npt.NDArray[np.float32]]:
    """J/c² at the points, world axes, as six arrays (n,); computed where there are points alone."""
    reach = int(np.ceil(4 * (_SLOPE_SIGMA_VOX + _WINDOW_SIGMA_VOX))) + 1
    last = np.array(volume.data.shape) - 1
    low = np.clip(np.floor(points_vox.min(axis=0)).astype(int) - reach, 0, last)
    high = np.clip(np.ceil(points_vox.max(axis=0)).astype(int) + reach, 0, last)
    part = volume.data[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
    # ∇ in the world is M⁻ᵀ ∇ in voxels, for M the linear part of world_from_voxel.
    voxel_mm = float(np.prod(voxel_sizes_mm(volume.world_from_voxel))) ** (1 / 3)
    voxel_from_world = np.linalg.inv(volume.world_from_voxel[:3, :3]) * (voxel_mm / slope_per_voxel)
    in_voxels = [
        ndimage.gaussian_filter(part, _SLOPE_SIGMA_VOX, order=[int(axis == i) for i in range(3)])
        for axis in range(3)
    ]
    slopes = [
        sum(np.float32(w) * slope for w, slope in zip(column, in_voxels, strict=True))
        for column in voxel_from_world.T
    ]
    places = (points_vox - low.astype(np.float32)).T
    return [
        ndimage.map_coordinates(
            ndimage.gaussian_filter(slopes[i] * slopes[j], _WINDOW_SIGMA_VOX), places, order=1, mode="nearest"
        )
        for i in range(3)
        for j in range(i, 3)
    ]
