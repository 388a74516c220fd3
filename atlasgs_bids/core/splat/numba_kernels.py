"""Multi-threaded CPU kernels of the normalised splat (numba); cpu.py calls them.

Two ways through the same pairs (Gaussian i, voxel x): *scatter* sums into voxels, each thread owning whole
slabs of the grid; *gather* sums into Gaussians, each thread owning whole Gaussians. Neither needs atomics,
so the same input gives the same bits on any number of threads.

Arrays: means (n, 3) and half_extents (n, 3) in voxels, precisions (n, 6) in voxel⁻² packed as
xx, xy, xz, yy, yz, zz. Pairs with a squared Mahalanobis distance above CUTOFF² have no weight: along a line
of voxels those are its two ends, found from the roots of a quadratic.

Longer than 300 lines: scatter and gather share their helpers, which the compiler inlines from one module.
"""

import math

import numba
import numpy as np

from atlasgs_bids.core.gaussians import CUTOFF, SCALE_FLOOR

_SLAB = 4
_FASTMATH = {"contract", "nsz", "arcp", "reassoc"}
_jit = numba.njit(cache=True, fastmath=_FASTMATH, boundscheck=False)
_pjit = numba.njit(cache=True, parallel=True, fastmath=_FASTMATH, boundscheck=False)
_inline = numba.njit(cache=True, fastmath=_FASTMATH, boundscheck=False, inline="always")


@_inline
def _range(centre, half_extent, size):
    low = max(0, math.ceil(centre - half_extent))
    high = min(size - 1, math.floor(centre + half_extent))
    return low, high


@_inline
def _line(precision, dx, dy, centre_z, nz):
    """Of the line of voxels at (dx, dy): first and last index, and q = c + dz (b + pzz dz) on it."""
    c = precision[0] * dx * dx + 2 * precision[1] * dx * dy + precision[3] * dy * dy
    b = 2 * (precision[2] * dx + precision[4] * dy)
    half_b = np.float64(0.5) * b
    discriminant = half_b * half_b - precision[5] * (np.float64(c) - CUTOFF * CUTOFF)
    if not discriminant >= 0:
        return 0, -1, b, c
    root = math.sqrt(discriminant)
    low = max(0, math.ceil(centre_z + (-half_b - root) / precision[5]))
    high = min(nz - 1, math.floor(centre_z + (-half_b + root) / precision[5]))
    return low, high, b, c


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
            precision = precisions[i]
            pzz = precision[5]
            a = amplitudes[i]
            low_x, high_x = _range(means[i, 0], half_extents[i, 0], nx)
            low_y, high_y = _range(means[i, 1], half_extents[i, 1], ny)
            for x in range(max(low_x, x0), min(high_x, x1) + 1):
                dx = x - means[i, 0]
                for y in range(low_y, high_y + 1):
                    low, high, b, c = _line(precision, dx, y - means[i, 1], means[i, 2], nz)
                    for z in range(low, high + 1):
                        dz = z - means[i, 2]
                        w = math.exp(np.float32(-0.5) * (c + (b + pzz * dz) * dz))
                        numerator[x, y, z] += w * a
                        denominator[x, y, z] += w


@_pjit
def adjoint(means, precisions, half_extents, residual, sums):
    """sums[i] = Σ_x w_i(x) residual(x)."""
    nx, ny, nz = residual.shape
    for i in numba.prange(means.shape[0]):
        precision = precisions[i]
        pzz = precision[5]
        low_x, high_x = _range(means[i, 0], half_extents[i, 0], nx)
        low_y, high_y = _range(means[i, 1], half_extents[i, 1], ny)
        total = 0 * pzz
        for x in range(low_x, high_x + 1):
            dx = x - means[i, 0]
            for y in range(low_y, high_y + 1):
                low, high, b, c = _line(precision, dx, y - means[i, 1], means[i, 2], nz)
                for z in range(low, high + 1):
                    dz = z - means[i, 2]
                    total += math.exp(np.float32(-0.5) * (c + (b + pzz * dz) * dz)) * residual[x, y, z]
        sums[i] = total


@_pjit
def gather(
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
        precision = precisions[i]
        pxx, pxy, pxz, pyy, pyz, pzz = precision
        a = amplitudes[i]
        low_x, high_x = _range(means[i, 0], half_extents[i, 0], nx)
        low_y, high_y = _range(means[i, 1], half_extents[i, 1], ny)
        zero = 0 * pzz
        ga = zero
        gx, gy, gz = zero, zero, zero
        gxx, gxy, gxz, gyy, gyz, gzz = zero, zero, zero, zero, zero, zero
        for x in range(low_x, high_x + 1):
            dx = x - means[i, 0]
            for y in range(low_y, high_y + 1):
                dy = y - means[i, 1]
                low, high, b, c = _line(precision, dx, dy, means[i, 2], nz)
                line, line_z, line_zz = zero, zero, zero
                for z in range(low, high + 1):
                    dz = z - means[i, 2]
                    weighted = math.exp(np.float32(-0.5) * (c + (b + pzz * dz) * dz)) * residual[x, y, z]
                    ga += weighted
                    slope = weighted * (a - rendered[x, y, z])
                    line += slope
                    line_z += slope * dz
                    line_zz += slope * dz * dz
                gx += line * dx
                gy += line * dy
                gz += line_z
                gxx += line * dx * dx
                gxy += line * dx * dy
                gxz += line_z * dx
                gyy += line * dy * dy
                gyz += line_z * dy
                gzz += line_zz
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
        low_x, high_x = _range(means[i, 0], half_extents[i, 0], nx)
        low_y, high_y = _range(means[i, 1], half_extents[i, 1], ny)
        count = 0
        for x in range(low_x, high_x + 1):
            for y in range(low_y, high_y + 1):
                low, high, _, _ = _line(precisions[i], x - means[i, 0], y - means[i, 1], means[i, 2], nz)
                for z in range(low, high + 1):
                    count += row_of_voxel[x, y, z] >= 0
        counts[i] = count


@_pjit
def fill_pairs(means, precisions, half_extents, row_of_voxel, starts, rows, weights):
    """Rows and weights of each Gaussian, at starts[i]:starts[i + 1]."""
    nx, ny, nz = row_of_voxel.shape
    for i in numba.prange(means.shape[0]):
        precision = precisions[i]
        pzz = precision[5]
        low_x, high_x = _range(means[i, 0], half_extents[i, 0], nx)
        low_y, high_y = _range(means[i, 1], half_extents[i, 1], ny)
        cursor = starts[i]
        for x in range(low_x, high_x + 1):
            for y in range(low_y, high_y + 1):
                low, high, b, c = _line(precision, x - means[i, 0], y - means[i, 1], means[i, 2], nz)
                for z in range(low, high + 1):
                    if row_of_voxel[x, y, z] >= 0:
                        dz = z - means[i, 2]
                        rows[cursor] = row_of_voxel[x, y, z]
                        weights[cursor] = math.exp(np.float32(-0.5) * (c + (b + pzz * dz) * dz))
                        cursor += 1


@_inline
def _columns(quaternion, columns):
    """Columns of the rotation of a quaternion into ``columns`` (3, 3), by rows; the unit quaternion."""
    norm = max(math.sqrt((quaternion * quaternion).sum()), 1e-12)
    w, x, y, z = quaternion[0] / norm, quaternion[1] / norm, quaternion[2] / norm, quaternion[3] / norm
    columns[0, 0], columns[0, 1], columns[0, 2] = (
        1 - 2 * (y * y + z * z),
        2 * (x * y + w * z),
        2 * (x * z - w * y),
    )
    columns[1, 0], columns[1, 1], columns[1, 2] = (
        2 * (x * y - w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z + w * x),
    )
    columns[2, 0], columns[2, 1], columns[2, 2] = (
        2 * (x * z + w * y),
        2 * (y * z - w * x),
        1 - 2 * (x * x + y * y),
    )
    return w, x, y, z, norm


@_pjit
def project_backward(
    scales,
    quaternions,
    linear,
    inverse,
    grad_means_vox,
    grad_precisions,
    grad_means,
    grad_scales,
    grad_quaternions,
):
    """Gradients of project's means and precisions with respect to its inputs."""
    for i in numba.prange(scales.shape[0]):
        for k in range(3):
            grad_means[i, k] = (
                linear[0, k] * grad_means_vox[i, 0]
                + linear[1, k] * grad_means_vox[i, 1]
                + linear[2, k] * grad_means_vox[i, 2]
            )
        columns = np.empty((3, 3), scales.dtype)
        w, x, y, z, norm = _columns(quaternions[i], columns)
        gxx, gxy, gxz, gyy, gyz, gzz = grad_precisions[i]
        # The packed off-diagonals stand for two entries each.
        gxy, gxz, gyz = gxy / 2, gxz / 2, gyz / 2
        g = np.empty((3, 3), scales.dtype)
        for k in range(3):
            s = max(scales[i, k], SCALE_FLOOR)
            rx, ry, rz = columns[k, 0] / s, columns[k, 1] / s, columns[k, 2] / s
            hx = inverse[0, 0] * rx + inverse[1, 0] * ry + inverse[2, 0] * rz
            hy = inverse[0, 1] * rx + inverse[1, 1] * ry + inverse[2, 1] * rz
            hz = inverse[0, 2] * rx + inverse[1, 2] * ry + inverse[2, 2] * rz
            vx = gxx * hx + gxy * hy + gxz * hz
            vy = gxy * hx + gyy * hy + gyz * hz
            vz = gxz * hx + gyz * hy + gzz * hz
            grad_scales[i, k] = -2 * (hx * vx + hy * vy + hz * vz) / s if scales[i, k] > SCALE_FLOOR else 0.0
            for row in range(3):
                g[k, row] = 2 * (inverse[row, 0] * vx + inverse[row, 1] * vy + inverse[row, 2] * vz) / s
        gw = 2 * (z * (g[0, 1] - g[1, 0]) + y * (g[2, 0] - g[0, 2]) + x * (g[1, 2] - g[2, 1]))
        gx = 2 * (
            y * (g[0, 1] + g[1, 0]) + z * (g[0, 2] + g[2, 0]) + w * (g[1, 2] - g[2, 1])
            - 2 * x * (g[1, 1] + g[2, 2])
        )  # fmt: skip
        gy = 2 * (
            x * (g[0, 1] + g[1, 0]) + z * (g[1, 2] + g[2, 1]) + w * (g[2, 0] - g[0, 2])
            - 2 * y * (g[0, 0] + g[2, 2])
        )  # fmt: skip
        gz = 2 * (
            x * (g[0, 2] + g[2, 0]) + y * (g[1, 2] + g[2, 1]) + w * (g[0, 1] - g[1, 0])
            - 2 * z * (g[0, 0] + g[1, 1])
        )  # fmt: skip
        along = w * gw + x * gx + y * gy + z * gz
        grad_quaternions[i, 0] = (gw - w * along) / norm
        grad_quaternions[i, 1] = (gx - x * along) / norm
        grad_quaternions[i, 2] = (gy - y * along) / norm
        grad_quaternions[i, 3] = (gz - z * along) / norm


@_pjit
def project(means, scales, quaternions, linear, shift, inverse, means_vox, precisions, half_extents):
    """gaussians.project without its graph."""
    for i in numba.prange(means.shape[0]):
        columns = np.empty((3, 3), means.dtype)
        _columns(quaternions[i], columns)
        precisions[i] = 0
        half_extents[i] = 0
        for k in range(3):
            means_vox[i, k] = (
                linear[k, 0] * means[i, 0]
                + linear[k, 1] * means[i, 1]
                + linear[k, 2] * means[i, 2]
                + shift[k]
            )
            s = max(scales[i, k], SCALE_FLOOR)
            rx, ry, rz = columns[k, 0], columns[k, 1], columns[k, 2]
            for row in range(3):
                f = s * (linear[row, 0] * rx + linear[row, 1] * ry + linear[row, 2] * rz)
                half_extents[i, row] += f * f
            hx = (inverse[0, 0] * rx + inverse[1, 0] * ry + inverse[2, 0] * rz) / s
            hy = (inverse[0, 1] * rx + inverse[1, 1] * ry + inverse[2, 1] * rz) / s
            hz = (inverse[0, 2] * rx + inverse[1, 2] * ry + inverse[2, 2] * rz) / s
            precisions[i, 0] += hx * hx
            precisions[i, 1] += hx * hy
            precisions[i, 2] += hx * hz
            precisions[i, 3] += hy * hy
            precisions[i, 4] += hy * hz
            precisions[i, 5] += hz * hz
        for k in range(3):
            half_extents[i, k] = CUTOFF * math.sqrt(half_extents[i, k])
