"""Triton kernels of the normalised splat; cuda.py launches them.

Two ways through the same pairs (Gaussian i, voxel x). *Scatter* sums into voxels: one program for each brick
of voxels runs through the list of the Gaussians that touch it. *Gather* sums into Gaussians: each lane
walks the box of one Gaussian. Neither needs atomics, so the same input gives the same bits; why not one of
the two both ways is counted out in decision 0005.

Layouts as in cpu.py: means (n, 3), precisions (n, 6) as xx, xy, xz, yy, yz, zz, half extents (n, 3), voxels.
``frame`` holds the 9 entries of the linear part M of voxel_from_world by rows, its 3 translations, and the
9 entries of M⁻¹ by rows.

Longer than 300 lines: scatter and gather share their helpers, which the compiler inlines from one module.
"""

import triton
import triton.language as tl


@triton.jit
def _load3(pointer, index, mask):
    base = pointer + 3 * index
    return (
        tl.load(base, mask=mask, other=0.0),
        tl.load(base + 1, mask=mask, other=0.0),
        tl.load(base + 2, mask=mask, other=0.0),
    )


@triton.jit
def _load6(pointer, index, mask):
    base = pointer + 6 * index
    return (
        tl.load(base, mask=mask, other=0.0),
        tl.load(base + 1, mask=mask, other=0.0),
        tl.load(base + 2, mask=mask, other=0.0),
        tl.load(base + 3, mask=mask, other=0.0),
        tl.load(base + 4, mask=mask, other=0.0),
        tl.load(base + 5, mask=mask, other=0.0),
    )


@triton.jit
def _store3(pointer, index, x, y, z, mask):
    base = pointer + 3 * index
    tl.store(base, x, mask=mask)
    tl.store(base + 1, y, mask=mask)
    tl.store(base + 2, z, mask=mask)


@triton.jit
def _store6(pointer, index, a, b, c, d, e, f, mask):
    _store3(pointer, 2 * index, a, b, c, mask)
    _store3(pointer, 2 * index + 1, d, e, f, mask)


@triton.jit
def _product(matrix, x, y, z):
    """A 3x3 matrix, by rows behind a pointer, times a vector."""
    return (
        tl.load(matrix) * x + tl.load(matrix + 1) * y + tl.load(matrix + 2) * z,
        tl.load(matrix + 3) * x + tl.load(matrix + 4) * y + tl.load(matrix + 5) * z,
        tl.load(matrix + 6) * x + tl.load(matrix + 7) * y + tl.load(matrix + 8) * z,
    )


@triton.jit
def _transposed_product(matrix, x, y, z):
    return (
        tl.load(matrix) * x + tl.load(matrix + 3) * y + tl.load(matrix + 6) * z,
        tl.load(matrix + 1) * x + tl.load(matrix + 4) * y + tl.load(matrix + 7) * z,
        tl.load(matrix + 2) * x + tl.load(matrix + 5) * y + tl.load(matrix + 8) * z,
    )


@triton.jit
def _unit_quaternion(pointer, index, mask):
    base = pointer + 4 * index
    w = tl.load(base, mask=mask, other=1.0)
    x = tl.load(base + 1, mask=mask, other=0.0)
    y = tl.load(base + 2, mask=mask, other=0.0)
    z = tl.load(base + 3, mask=mask, other=0.0)
    norm = tl.maximum(tl.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    return w / norm, x / norm, y / norm, z / norm, norm


@triton.jit
def _columns(w, x, y, z):
    """Columns of the rotation matrix of a unit quaternion."""
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y),
        2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x),
        2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip


@triton.jit
def project(
    means,
    scales,
    quaternions,
    frame,
    means_vox,
    precisions,
    half_extents,
    n,
    cutoff,
    floor,
    BLOCK: tl.constexpr,
):
    """gaussians.project without its graph."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    x, y, z = _load3(means, i, mask)
    x, y, z = _product(frame, x, y, z)
    _store3(means_vox, i, x + tl.load(frame + 9), y + tl.load(frame + 10), z + tl.load(frame + 11), mask)
    qw, qx, qy, qz, _ = _unit_quaternion(quaternions, i, mask)
    ax, ay, az, bx, by, bz, cx, cy, cz = _columns(qw, qx, qy, qz)
    sa, sb, sc = _load3(scales, i, mask)
    sa = tl.maximum(sa, floor)
    sb = tl.maximum(sb, floor)
    sc = tl.maximum(sc, floor)
    # Half extents: the rows of M R diag(s).
    fax, fay, faz = _product(frame, ax * sa, ay * sa, az * sa)
    fbx, fby, fbz = _product(frame, bx * sb, by * sb, bz * sb)
    fcx, fcy, fcz = _product(frame, cx * sc, cy * sc, cz * sc)
    _store3(
        half_extents, i,
        cutoff * tl.sqrt(fax * fax + fbx * fbx + fcx * fcx),
        cutoff * tl.sqrt(fay * fay + fby * fby + fcy * fcy),
        cutoff * tl.sqrt(faz * faz + fbz * fbz + fcz * fcz),
        mask,
    )  # fmt: skip
    gax, gay, gaz = _transposed_product(frame + 12, ax / sa, ay / sa, az / sa)
    gbx, gby, gbz = _transposed_product(frame + 12, bx / sb, by / sb, bz / sb)
    gcx, gcy, gcz = _transposed_product(frame + 12, cx / sc, cy / sc, cz / sc)
    _store6(
        precisions, i,
        gax * gax + gbx * gbx + gcx * gcx,
        gax * gay + gbx * gby + gcx * gcy,
        gax * gaz + gbx * gbz + gcx * gcz,
        gay * gay + gby * gby + gcy * gcy,
        gay * gaz + gby * gbz + gcy * gcz,
        gaz * gaz + gbz * gbz + gcz * gcz,
        mask,
    )  # fmt: skip


@triton.jit
def _axis_gradient(inverse, rx, ry, rz, s, dxx, dxy, dxz, dyy, dyz, dzz):
    """Gradients with respect to one column r of the rotation and its scale s.

    The precision is the sum over the columns of h hᵀ / s² with h = M⁻ᵀ r; D is the symmetric gradient.
    """
    hx, hy, hz = _transposed_product(inverse, rx / s, ry / s, rz / s)
    vx = dxx * hx + dxy * hy + dxz * hz
    vy = dxy * hx + dyy * hy + dyz * hz
    vz = dxz * hx + dyz * hy + dzz * hz
    grad_s = -2 * (hx * vx + hy * vy + hz * vz) / s
    gx, gy, gz = _product(inverse, 2 * vx / s, 2 * vy / s, 2 * vz / s)
    return gx, gy, gz, grad_s


@triton.jit
def project_backward(
    scales, quaternions, frame, grad_means_vox, grad_precisions, grad_means, grad_scales, grad_quaternions,
    n, floor, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of project's means and precisions with respect to its inputs."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    x, y, z = _load3(grad_means_vox, i, mask)
    x, y, z = _transposed_product(frame, x, y, z)
    _store3(grad_means, i, x, y, z, mask)
    dxx, dxy, dxz, dyy, dyz, dzz = _load6(grad_precisions, i, mask)
    # The packed off-diagonals stand for two entries each.
    dxy *= 0.5
    dxz *= 0.5
    dyz *= 0.5
    w, x, y, z, norm = _unit_quaternion(quaternions, i, mask)
    ax, ay, az, bx, by, bz, cx, cy, cz = _columns(w, x, y, z)
    sa, sb, sc = _load3(scales, i, mask)
    inverse = frame + 12
    ga0, ga1, ga2, gsa = _axis_gradient(
        inverse, ax, ay, az, tl.maximum(sa, floor), dxx, dxy, dxz, dyy, dyz, dzz
    )
    gb0, gb1, gb2, gsb = _axis_gradient(
        inverse, bx, by, bz, tl.maximum(sb, floor), dxx, dxy, dxz, dyy, dyz, dzz
    )
    gc0, gc1, gc2, gsc = _axis_gradient(
        inverse, cx, cy, cz, tl.maximum(sc, floor), dxx, dxy, dxz, dyy, dyz, dzz
    )
    _store3(
        grad_scales, i,
        tl.where(sa > floor, gsa, 0.0), tl.where(sb > floor, gsb, 0.0), tl.where(sc > floor, gsc, 0.0),
        mask,
    )  # fmt: skip
    gw = 2 * (z * ga1 - y * ga2 - z * gb0 + x * gb2 + y * gc0 - x * gc1)
    gx = 2 * (y * ga1 + z * ga2 + y * gb0 - 2 * x * gb1 + w * gb2 + z * gc0 - w * gc1 - 2 * x * gc2)
    gy = 2 * (-2 * y * ga0 + x * ga1 - w * ga2 + x * gb0 + z * gb2 + w * gc0 + z * gc1 - 2 * y * gc2)
    gz = 2 * (-2 * z * ga0 + w * ga1 + x * ga2 - w * gb0 - 2 * z * gb1 + y * gb2 + x * gc0 + y * gc1)
    along = w * gw + x * gx + y * gy + z * gz
    base = grad_quaternions + 4 * i
    tl.store(base, (gw - w * along) / norm, mask=mask)
    tl.store(base + 1, (gx - x * along) / norm, mask=mask)
    tl.store(base + 2, (gy - y * along) / norm, mask=mask)
    tl.store(base + 3, (gz - z * along) / norm, mask=mask)


@triton.jit
def _range(centre, half_extent, size):
    """First and last index inside the grid; clamped as floats, since a huge one has no integer."""
    low = tl.maximum(tl.ceil(centre - half_extent), 0.0)
    high = tl.minimum(tl.floor(centre + half_extent), size - 1.0)
    return tl.minimum(low, size * 1.0).to(tl.int32), tl.maximum(high, -1.0).to(tl.int32)


@triton.jit
def _box(means, half_extents, i, mask, nx, ny, nz):
    mx, my, mz = _load3(means, i, mask)
    hx, hy, hz = _load3(half_extents, i, mask)
    x0, x1 = _range(mx, hx, nx)
    y0, y1 = _range(my, hy, ny)
    z0, z1 = _range(mz, hz, nz)
    inside = mask & (x0 <= x1) & (y0 <= y1) & (z0 <= z1)
    return mx, my, mz, x0, x1, y0, y1, z0, z1, inside


@triton.jit
def _brick_box(
    means, half_extents, i, mask, nx, ny, nz, BX: tl.constexpr, BY: tl.constexpr, BZ: tl.constexpr
):
    """First brick and number of bricks along each axis; 0 bricks outside the grid."""
    _, _, _, x0, x1, y0, y1, z0, z1, inside = _box(means, half_extents, i, mask, nx, ny, nz)
    x0 //= BX
    y0 //= BY
    z0 //= BZ
    return (
        x0, y0, z0,
        tl.where(inside, x1 // BX - x0 + 1, 0), y1 // BY - y0 + 1, z1 // BZ - z0 + 1,
    )  # fmt: skip


@triton.jit
def count_bricks(
    means, half_extents, counts, n, nx, ny, nz,
    BX: tl.constexpr, BY: tl.constexpr, BZ: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """counts[i] = number of bricks that the box of Gaussian i touches."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    _, _, _, wx, wy, wz = _brick_box(means, half_extents, i, mask, nx, ny, nz, BX, BY, BZ)
    tl.store(counts + i, wx * wy * wz, mask=mask)


@triton.jit
def list_bricks(
    means, half_extents, ends, bricks, members, n, nx, ny, nz, nby, nbz,
    BX: tl.constexpr, BY: tl.constexpr, BZ: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(brick, Gaussian) for each of those bricks, behind the ones of Gaussian i − 1."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    x0, y0, z0, wx, wy, wz = _brick_box(means, half_extents, i, mask, nx, ny, nz, BX, BY, BZ)
    count = wx * wy * wz
    begin = tl.load(ends + i, mask=mask, other=0) - count
    wy = tl.maximum(wy, 1)
    wz = tl.maximum(wz, 1)
    for k in range(tl.max(count, axis=0)):
        z = k % wz
        y = (k // wz) % wy
        x = k // (wz * wy)
        brick = ((x0 + x) * nby + y0 + y) * nbz + z0 + z
        tl.store(bricks + begin + k, brick, mask=k < count)
        tl.store(members + begin + k, i, mask=k < count)


@triton.jit
def scatter(
    means, precisions, amplitudes, starts, members, numerator, denominator,
    nx, ny, nz, nby, nbz, cutoff2,
    BX: tl.constexpr, BY: tl.constexpr, BZ: tl.constexpr,
):  # fmt: skip
    """numerator[x] = Σ_i w_i(x) a_i and denominator[x] = Σ_i w_i(x) over one brick."""
    brick = tl.program_id(0)
    voxel = tl.arange(0, BX * BY * BZ)
    x = (brick // (nby * nbz)) * BX + voxel // (BY * BZ)
    y = ((brick // nbz) % nby) * BY + (voxel // BZ) % BY
    z = (brick % nbz) * BZ + voxel % BZ
    fx = x.to(tl.float32)
    fy = y.to(tl.float32)
    fz = z.to(tl.float32)
    top = tl.zeros([BX * BY * BZ], tl.float32)
    bottom = tl.zeros([BX * BY * BZ], tl.float32)
    for k in range(tl.load(starts + brick), tl.load(starts + brick + 1)):
        i = tl.load(members + k).to(tl.int64)
        dx = fx - tl.load(means + 3 * i)
        dy = fy - tl.load(means + 3 * i + 1)
        dz = fz - tl.load(means + 3 * i + 2)
        pxx = tl.load(precisions + 6 * i)
        pxy = tl.load(precisions + 6 * i + 1)
        pxz = tl.load(precisions + 6 * i + 2)
        pyy = tl.load(precisions + 6 * i + 3)
        pyz = tl.load(precisions + 6 * i + 4)
        pzz = tl.load(precisions + 6 * i + 5)
        q = dx * (pxx * dx + 2 * (pxy * dy + pxz * dz)) + dy * (pyy * dy + 2 * pyz * dz) + pzz * dz * dz
        weight = tl.where(q <= cutoff2, tl.exp(-0.5 * q), 0.0)
        bottom += weight
        top += weight * tl.load(amplitudes + i)
    inside = (x < nx) & (y < ny) & (z < nz)
    offset = (x * ny + y) * nz + z
    tl.store(numerator + offset, top, mask=inside)
    tl.store(denominator + offset, bottom, mask=inside)


@triton.jit
def _next(x, y, z, y0, y1, z0, z1):
    """The next voxel of a box, z fastest."""
    z += 1
    over = z > z1
    z = tl.where(over, z0, z)
    y = tl.where(over, y + 1, y)
    over = y > y1
    y = tl.where(over, y0, y)
    return tl.where(over, x + 1, x), y, z


@triton.jit
def gather(
    means, precisions, half_extents, amplitudes, residual, rendered,
    grad_amplitudes, grad_means, grad_precisions, n, nx, ny, nz, cutoff2,
    GEOMETRY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_amplitudes[i] = Σ_x w_i(x) residual(x); with GEOMETRY also those of means and precisions.

    ``residual`` is ∂loss/∂f divided by (Σw + δ), ``rendered`` is f.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    mx, my, mz, x0, x1, y0, y1, z0, z1, inside = _box(means, half_extents, i, mask, nx, ny, nz)
    pxx, pxy, pxz, pyy, pyz, pzz = _load6(precisions, i, mask)
    count = tl.where(inside, (x1 - x0 + 1) * (y1 - y0 + 1) * (z1 - z0 + 1), 0)
    ga = tl.zeros([BLOCK], tl.float32)
    if GEOMETRY:
        a = tl.load(amplitudes + i, mask=mask, other=0.0)
        gx = tl.zeros([BLOCK], tl.float32)
        gy = tl.zeros([BLOCK], tl.float32)
        gz = tl.zeros([BLOCK], tl.float32)
        gxx = tl.zeros([BLOCK], tl.float32)
        gxy = tl.zeros([BLOCK], tl.float32)
        gxz = tl.zeros([BLOCK], tl.float32)
        gyy = tl.zeros([BLOCK], tl.float32)
        gyz = tl.zeros([BLOCK], tl.float32)
        gzz = tl.zeros([BLOCK], tl.float32)
    x = x0
    y = y0
    z = z0
    for k in range(tl.max(count, axis=0)):
        dx = x.to(tl.float32) - mx
        dy = y.to(tl.float32) - my
        dz = z.to(tl.float32) - mz
        q = dx * (pxx * dx + 2 * (pxy * dy + pxz * dz)) + dy * (pyy * dy + 2 * pyz * dz) + pzz * dz * dz
        use = (k < count) & (q <= cutoff2)
        offset = (x * ny + y) * nz + z
        weighted = tl.exp(-0.5 * q) * tl.load(residual + offset, mask=use, other=0.0)
        weighted = tl.where(use, weighted, 0.0)
        ga += weighted
        if GEOMETRY:
            slope = weighted * (a - tl.load(rendered + offset, mask=use, other=0.0))
            gx += slope * dx
            gy += slope * dy
            gz += slope * dz
            gxx += slope * dx * dx
            gxy += slope * dx * dy
            gxz += slope * dx * dz
            gyy += slope * dy * dy
            gyz += slope * dy * dz
            gzz += slope * dz * dz
        x, y, z = _next(x, y, z, y0, y1, z0, z1)
    tl.store(grad_amplitudes + i, ga, mask=mask)
    if GEOMETRY:
        _store3(
            grad_means, i,
            pxx * gx + pxy * gy + pxz * gz, pxy * gx + pyy * gy + pyz * gz, pxz * gx + pyz * gy + pzz * gz,
            mask,
        )  # fmt: skip
        _store6(grad_precisions, i, -0.5 * gxx, -gxy, -gxz, -0.5 * gyy, -gyz, -0.5 * gzz, mask)


@triton.jit
def pairs(
    means, precisions, half_extents, row_of_voxel, starts, counts, rows, weights, n, nx, ny, nz, cutoff2,
    FILL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The pairs whose voxel has a row: how many each Gaussian has, or (FILL) their rows and weights."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    mx, my, mz, x0, x1, y0, y1, z0, z1, inside = _box(means, half_extents, i, mask, nx, ny, nz)
    pxx, pxy, pxz, pyy, pyz, pzz = _load6(precisions, i, mask)
    count = tl.where(inside, (x1 - x0 + 1) * (y1 - y0 + 1) * (z1 - z0 + 1), 0)
    found = tl.zeros([BLOCK], tl.int32)
    if FILL:
        begin = tl.load(starts + i, mask=mask, other=0)
    x = x0
    y = y0
    z = z0
    for k in range(tl.max(count, axis=0)):
        dx = x.to(tl.float32) - mx
        dy = y.to(tl.float32) - my
        dz = z.to(tl.float32) - mz
        q = dx * (pxx * dx + 2 * (pxy * dy + pxz * dz)) + dy * (pyy * dy + 2 * pyz * dz) + pzz * dz * dz
        use = (k < count) & (q <= cutoff2)
        row = tl.load(row_of_voxel + (x * ny + y) * nz + z, mask=use, other=-1)
        use = use & (row >= 0)
        if FILL:
            tl.store(rows + begin + found, row, mask=use)
            tl.store(weights + begin + found, tl.exp(-0.5 * q), mask=use)
        found += use.to(tl.int32)
        x, y, z = _next(x, y, z, y0, y1, z0, z1)
    if not FILL:
        tl.store(counts + i, found, mask=mask)
