"""Multi-threaded CPU kernel of neighbours along ellipsoids (numba); neighbours.py calls it.

Each thread has whole points, and equal distances are told apart by the index, so that the same input
gives the same bits on any number of threads.
"""

import math

import numba
import numpy as np

_FAST = {"contract", "nsz", "arcp", "reassoc"}
_jit = numba.njit(cache=True, fastmath=_FAST, boundscheck=False)
_POINTS_OF_A_TURN = 1024
"""That share their buffers, which take longer to allocate than a point takes."""


@numba.njit(cache=True, fastmath=_FAST, boundscheck=False, inline="always")
def _before(key, index, other_key, other_index):
    return key < other_key or (key == other_key and index < other_index)


@_jit
def _least_first(keys, indices, n, k):
    """Put the k least of the first n keys, by key, then index, in front (quickselect, Hoare 1961)."""
    low, high = 0, n - 1
    while low < high:
        middle = (low + high) // 2
        pivot_key, pivot_index = keys[middle], indices[middle]
        i, j = low, high
        while i <= j:
            while _before(keys[i], indices[i], pivot_key, pivot_index):
                i += 1
            while _before(pivot_key, pivot_index, keys[j], indices[j]):
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                indices[i], indices[j] = indices[j], indices[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            return


@_jit
def _within_reach(points, starts, n_cells, size, i, n_wanted, keys, indices):
    """Points around the i-th up to where all are known: at least n_wanted of them if there are as many.

    Squared distances and indices into the buffers, which are made longer where they are too short.
    """
    nx, ny, nz = n_cells
    px, py, pz = points[i, 0], points[i, 1], points[i, 2]
    cx, cy, cz = int(px / size), int(py / size), int(pz / size)
    inner = min(
        px - cx * size, (cx + 1) * size - px, py - cy * size, (cy + 1) * size - py, pz - cz * size,
        (cz + 1) * size - pz,
    )  # fmt: skip
    # So many rings of cells reach as many points where these lie as densely as in most cells.
    n_rings = 3
    while True:
        everything = n_rings >= max(nx, ny, nz)
        reach = inner + n_rings * size
        reach2 = np.inf if everything else reach * reach
        n = 0
        for x in range(max(0, cx - n_rings), min(nx, cx + n_rings + 1)):
            for y in range(max(0, cy - n_rings), min(ny, cy + n_rings + 1)):
                column = (x * ny + y) * nz
                first = starts[column + max(0, cz - n_rings)]
                last = starts[column + min(nz, cz + n_rings + 1)]
                for j in range(first, last):
                    dx, dy, dz = points[j, 0] - px, points[j, 1] - py, points[j, 2] - pz
                    key = dx * dx + dy * dy + dz * dz
                    if key <= reach2 and j != i:
                        if n == keys.shape[0]:
                            keys = np.concatenate((keys, np.empty_like(keys)))
                            indices = np.concatenate((indices, np.empty_like(indices)))
                        keys[n] = key
                        indices[n] = j
                        n += 1
        if n >= n_wanted or everything:
            return n, keys, indices
        n_rings += 1 if n_rings < 6 else n_rings


@_jit
def _mahalanobis2(points, covariances, i, j):
    """dᵀ (Σi + Σj)⁻¹ d, from the cofactors."""
    dx, dy, dz = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
    xx, xy = covariances[i, 0] + covariances[j, 0], covariances[i, 1] + covariances[j, 1]
    xz, yy = covariances[i, 2] + covariances[j, 2], covariances[i, 3] + covariances[j, 3]
    yz, zz = covariances[i, 4] + covariances[j, 4], covariances[i, 5] + covariances[j, 5]
    axx, axy, axz = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    ayy, ayz, azz = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    determinant = xx * axx + xy * axy + xz * axz
    square = dx * dx * axx + dy * dy * ayy + dz * dz * azz
    return (square + 2 * (dx * dy * axy + dx * dz * axz + dy * dz * ayz)) / determinant


@numba.njit(cache=True, parallel=True, fastmath=_FAST, boundscheck=False)
def aligned_neighbours(
    points, covariances, order, starts, n_cells, size, n_candidates, distances, neighbours, radii
):
    """See neighbours.aligned_neighbours, whose results the last three arrays take.

    points (n, 3), from 0, and covariances (n, 6) by cells; order: the index of each point in the results;
    starts: the first point of each of the n_cells, the last axis fastest.
    """
    n, n_neighbours = neighbours.shape
    for turn in numba.prange((n + _POINTS_OF_A_TURN - 1) // _POINTS_OF_A_TURN):
        keys = np.empty(8 * n_candidates, points.dtype)
        indices = np.empty(8 * n_candidates, np.int32)
        for i in range(turn * _POINTS_OF_A_TURN, min(n, (turn + 1) * _POINTS_OF_A_TURN)):
            n_found, keys, indices = _within_reach(
                points, starts, n_cells, size, i, n_candidates, keys, indices
            )
            _least_first(keys, indices, n_found, n_candidates)
            largest = keys[0]
            for c in range(n_candidates):
                largest = max(largest, keys[c])
                keys[c] = _mahalanobis2(points, covariances, i, indices[c])
            own = order[i]
            radii[own] = math.sqrt(largest)
            _least_first(keys, indices, n_candidates, n_neighbours)
            for c in range(n_neighbours):
                distances[own, c] = math.sqrt(max(2 * keys[c], 0))
                neighbours[own, c] = order[indices[c]]
