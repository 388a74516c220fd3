"""Multi-threaded CPU kernels of the normalised splat (numba).

Two ways through the same pairs (Gaussian i, voxel x): *scatter* sums into voxels, each thread owning whole
slabs of the grid; *gather* sums into Gaussians, each thread owning whole Gaussians. Neither needs atomics,
so the same input gives the same bits on any number of threads.

Arrays: means (n, 3) and half_extents (n, 3) in voxels, precisions (n, 6) in voxel⁻² packed as
xx, xy, xz, yy, yz, zz. Pairs with a squared Mahalanobis distance above CUTOFF² have no weight.
"""

import math

import numba
import numpy as np

from atlasgs_bids.core.gaussians import CUTOFF

_CUTOFF2 = np.float32(CUTOFF * CUTOFF)
_SLAB = 4
_jit = numba.njit(cache=True, fastmath={"contract", "nsz", "arcp", "reassoc"}, boundscheck=False)
_pjit = numba.njit(
    cache=True, parallel=True, fastmath={"contract", "nsz", "arcp", "reassoc"}, boundscheck=False
)


@_jit
def _range(centre, half_extent, size):
    low = max(0, math.ceil(centre - half_extent))
    high = min(size - 1, math.floor(centre + half_extent))
    return low, high


@_jit
def slab_lists(means, half_extents, nx):
    """Gaussians that touch each slab of the first axis, as (starts, members)."""
    n_slabs = (nx + _SLAB - 1) // _SLAB
    starts = np.zeros(n_slabs + 1, np.int64)
    for i in range(means.shape[0]):
        low, high = _range(means[i, 0], half_extents[i, 0], nx)
        if low <= high:
            for slab in range(low // _SLAB, high // _SLAB + 1):
                starts[slab + 1] += 1
    for slab in range(n_slabs):
        starts[slab + 1] += starts[slab]
    members = np.empty(starts[n_slabs], np.int32)
    cursor = starts[:-1].copy()
    for i in range(means.shape[0]):
        low, high = _range(means[i, 0], half_extents[i, 0], nx)
        if low <= high:
            for slab in range(low // _SLAB, high // _SLAB + 1):
                members[cursor[slab]] = i
                cursor[slab] += 1
    return starts, members


@_pjit
def scatter(means, precisions, half_extents, amplitudes, starts, members, numerator, denominator):
    """numerator[x] = Σ_i w_i(x) a_i and denominator[x] = Σ_i w_i(x); both (nx, ny, nz), overwritten."""
    nx, ny, nz = denominator.shape
    for slab in numba.prange(starts.shape[0] - 1):
        x0 = slab * _SLAB
        x1 = min(nx, x0 + _SLAB) - 1
        numerator[x0 : x1 + 1] = 0.0
        denominator[x0 : x1 + 1] = 0.0
        for m in range(starts[slab], starts[slab + 1]):
            i = members[m]
            pxx, pxy, pxz, pyy, pyz, pzz = precisions[i]
            a = amplitudes[i]
            low_x, high_x = _range(means[i, 0], half_extents[i, 0], nx)
            low_y, high_y = _range(means[i, 1], half_extents[i, 1], ny)
            low_z, high_z = _range(means[i, 2], half_extents[i, 2], nz)
            for x in range(max(low_x, x0), min(high_x, x1) + 1):
                dx = x - means[i, 0]
                for y in range(low_y, high_y + 1):
                    dy = y - means[i, 1]
                    base = pxx * dx * dx + 2 * pxy * dx * dy + pyy * dy * dy
                    slope = 2 * (pxz * dx + pyz * dy)
                    for z in range(low_z, high_z + 1):
                        dz = z - means[i, 2]
                        q = base + (slope + pzz * dz) * dz
                        if q <= _CUTOFF2:
                            w = math.exp(np.float32(-0.5) * q)
                            numerator[x, y, z] += w * a
                            denominator[x, y, z] += w


@_pjit
def gather(  # noqa: PLR0913, PLR0917 - plain arrays are what numba compiles well
    means,
    precisions,
    half_extents,
    amplitudes,
    residual,
    rendered,
    grad_amplitudes,
    grad_means,
    grad_precisions,
):
    """Gradients of a loss with respect to amplitudes, means and precisions.

    ``residual`` is ∂loss/∂f divided by (Σw + δ), ``rendered`` is f; both (nx, ny, nz).
    """
    nx, ny, nz = residual.shape
    for i in numba.prange(means.shape[0]):
        pxx, pxy, pxz, pyy, pyz, pzz = precisions[i]
        a = amplitudes[i]
        low_x, high_x = _range(means[i, 0], half_extents[i, 0], nx)
        low_y, high_y = _range(means[i, 1], half_extents[i, 1], ny)
        low_z, high_z = _range(means[i, 2], half_extents[i, 2], nz)
        zero = np.float32(0.0)
        ga = zero
        gx = zero
        gy = zero
        gz = zero
        gxx = zero
        gxy = zero
        gxz = zero
        gyy = zero
        gyz = zero
        gzz = zero
        for x in range(low_x, high_x + 1):
            dx = x - means[i, 0]
            for y in range(low_y, high_y + 1):
                dy = y - means[i, 1]
                base = pxx * dx * dx + 2 * pxy * dx * dy + pyy * dy * dy
                slope = 2 * (pxz * dx + pyz * dy)
                for z in range(low_z, high_z + 1):
                    dz = z - means[i, 2]
                    q = base + (slope + pzz * dz) * dz
                    if q <= _CUTOFF2:
                        w = math.exp(np.float32(-0.5) * q)
                        r = residual[x, y, z]
                        ga += w * r
                        g = w * r * (a - rendered[x, y, z])
                        gx += g * dx
                        gy += g * dy
                        gz += g * dz
                        gxx += g * dx * dx
                        gxy += g * dx * dy
                        gxz += g * dx * dz
                        gyy += g * dy * dy
                        gyz += g * dy * dz
                        gzz += g * dz * dz
        grad_amplitudes[i] = ga
        grad_means[i, 0] = pxx * gx + pxy * gy + pxz * gz
        grad_means[i, 1] = pxy * gx + pyy * gy + pyz * gz
        grad_means[i, 2] = pxz * gx + pyz * gy + pzz * gz
        grad_precisions[i, 0] = np.float32(-0.5) * gxx
        grad_precisions[i, 1] = -gxy
        grad_precisions[i, 2] = -gxz
        grad_precisions[i, 3] = np.float32(-0.5) * gyy
        grad_precisions[i, 4] = -gyz
        grad_precisions[i, 5] = np.float32(-0.5) * gzz


@_pjit
def count_pairs(means, precisions, half_extents, row_of_voxel, counts):
    """counts[i] = number of voxels with a row (row_of_voxel >= 0) in which Gaussian i has weight."""
    nx, ny, nz = row_of_voxel.shape
    for i in numba.prange(means.shape[0]):
        pxx, pxy, pxz, pyy, pyz, pzz = precisions[i]
        low_x, high_x = _range(means[i, 0], half_extents[i, 0], nx)
        low_y, high_y = _range(means[i, 1], half_extents[i, 1], ny)
        low_z, high_z = _range(means[i, 2], half_extents[i, 2], nz)
        count = 0
        for x in range(low_x, high_x + 1):
            dx = x - means[i, 0]
            for y in range(low_y, high_y + 1):
                dy = y - means[i, 1]
                base = pxx * dx * dx + 2 * pxy * dx * dy + pyy * dy * dy
                slope = 2 * (pxz * dx + pyz * dy)
                for z in range(low_z, high_z + 1):
                    dz = z - means[i, 2]
                    if row_of_voxel[x, y, z] >= 0 and base + (slope + pzz * dz) * dz <= _CUTOFF2:
                        count += 1
        counts[i] = count


@_pjit
def fill_pairs(means, precisions, half_extents, row_of_voxel, starts, rows, weights):
    """Rows and weights of each Gaussian, at starts[i]:starts[i + 1]."""
    nx, ny, nz = row_of_voxel.shape
    for i in numba.prange(means.shape[0]):
        pxx, pxy, pxz, pyy, pyz, pzz = precisions[i]
        low_x, high_x = _range(means[i, 0], half_extents[i, 0], nx)
        low_y, high_y = _range(means[i, 1], half_extents[i, 1], ny)
        low_z, high_z = _range(means[i, 2], half_extents[i, 2], nz)
        cursor = starts[i]
        for x in range(low_x, high_x + 1):
            dx = x - means[i, 0]
            for y in range(low_y, high_y + 1):
                dy = y - means[i, 1]
                base = pxx * dx * dx + 2 * pxy * dx * dy + pyy * dy * dy
                slope = 2 * (pxz * dx + pyz * dy)
                for z in range(low_z, high_z + 1):
                    dz = z - means[i, 2]
                    q = base + (slope + pzz * dz) * dz
                    if row_of_voxel[x, y, z] >= 0 and q <= _CUTOFF2:
                        rows[cursor] = row_of_voxel[x, y, z]
                        weights[cursor] = math.exp(np.float32(-0.5) * q)
                        cursor += 1
