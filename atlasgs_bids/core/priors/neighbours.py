"""Nearest neighbours in space, or along ellipsoids: threads on the CPU, a grid of cells on a GPU."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from atlasgs_bids.core.priors import neighbour_kernels

_POINTS_PER_CELL = 8.0
"""At this density 27 cells hold the 32 nearest neighbours of nearly every point."""
_POINTS_PER_SMALL_CELL = 1.0
"""For the numba kernel, which takes rings of cells as it needs them."""


def nearest_neighbours(
    points: Float[Tensor, "n 3"], n_neighbours: int, chunk_elements: int = 2**24
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Distances, ascending, and indices of each point's nearest others, ``n_neighbours`` < n of them."""
    if points.device.type == "cpu":
        # The nearest of all is the point itself, or one at the same place.
        n_threads = torch.get_num_threads()
        distances, neighbours = cKDTree(points.numpy()).query(
            points.numpy(), k=n_neighbours + 1, workers=n_threads
        )
        return (
            torch.from_numpy(distances[:, 1:].astype(np.float32)),
            torch.from_numpy(neighbours[:, 1:].astype(np.int32)),
        )
    return grid_neighbours(points, n_neighbours, chunk_elements)


def aligned_neighbours(
    points: Float[Tensor, "n 3"],
    ellipsoids: Float[Tensor, "n 6"],
    n_neighbours: int,
    n_candidates: int,
    chunk_elements: int = 2**24,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"], Float[Tensor, " n"]]:
    """Of each point's ``n_candidates`` nearest others those that lie along its ellipsoid and their own.

    ``ellipsoids`` are covariances Σ, packed as xx, xy, xz, yy, yz, zz. The ``n_neighbours`` with the least
    dᵀ (Σi + Σj)⁻¹ d are taken. Returns √2 times its root, which is the distance where both are unit balls,
    the indices, and the distance of the last candidate; neighbours are in no order.
    """
    if points.device.type != "cpu":
        return _aligned_on_gpu(points, ellipsoids, n_neighbours, n_candidates, chunk_elements)
    cells, n = _Cells(points, _POINTS_PER_SMALL_CELL), len(points)
    distances, radii = points.new_empty(n, n_neighbours), points.new_empty(n)
    neighbours = torch.empty(n, n_neighbours, dtype=torch.int32)
    neighbour_kernels.aligned_neighbours(
        cells.points.numpy(), ellipsoids[cells.order].contiguous().numpy(), cells.order.int().numpy(),
        cells.starts.numpy(), cells.n_cells, np.float32(cells.size), n_candidates, distances.numpy(),
        neighbours.numpy(), radii.numpy(),
    )  # fmt: skip
    return distances, neighbours, radii


def _aligned_on_gpu(
    points: Tensor, ellipsoids: Tensor, n_neighbours: int, n_candidates: int, chunk_elements: int
) -> tuple[Tensor, Tensor, Tensor]:
    away, candidates = grid_neighbours(points, n_candidates, chunk_elements)
    radii = away[:, -1].clone()
    del away
    distances = points.new_empty(len(points), n_neighbours)
    neighbours = torch.empty(len(points), n_neighbours, dtype=torch.int32, device=points.device)
    everyone = torch.arange(len(points), device=points.device)
    # Ellipsoids and offsets of a pair are some twenty numbers.
    for part in torch.split(everyone, max(1, chunk_elements // (20 * n_candidates))):
        nearby = candidates[part].long()
        squares = _squared_mahalanobis(
            points[nearby] - points[part, None], ellipsoids[nearby] + ellipsoids[part, None]
        )
        found, places = torch.topk(squares, n_neighbours, dim=1, largest=False)
        distances[part] = (2 * found).clamp_min(0).sqrt()
        neighbours[part] = candidates[part].gather(1, places)
    return distances, neighbours, radii


def _squared_mahalanobis(
    offsets: Float[Tensor, "n k 3"], packed: Float[Tensor, "n k 6"]
) -> Float[Tensor, "n k"]:
    """dᵀ Σ⁻¹ d, from the cofactors."""
    dx, dy, dz = offsets.unbind(-1)
    xx, xy, xz, yy, yz, zz = packed.unbind(-1)
    axx, axy, axz = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    ayy, ayz, azz = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    square = dx * dx * axx + dy * dy * ayy + dz * dz * azz
    square = square + 2 * (dx * dy * axy + dx * dz * axz + dy * dz * ayz)
    return square / (xx * axx + xy * axy + xz * axz)


def grid_neighbours(
    points: Float[Tensor, "n 3"], n_neighbours: int, chunk_elements: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The same by comparing each point with all points of the cells around its own.

    A point is done once its last neighbour is nearer than the border of the cells that were searched;
    the others search twice as many rings of cells.
    """
    cells = _Cells(points, _POINTS_PER_CELL)
    distances = points.new_empty(len(points), n_neighbours)
    neighbours = torch.empty(len(points), n_neighbours, dtype=torch.int32, device=points.device)
    pending = torch.arange(len(points), device=points.device)
    n_rings = 1
    while len(pending):
        unfinished = []
        n_queries = max(1, chunk_elements // cells.most_candidates(n_rings))
        for queries in torch.split(pending, n_queries):
            found, indices, reach = cells.nearest(queries, n_neighbours, n_rings)
            distances[queries], neighbours[queries] = found, indices
            unfinished.append(queries[found[:, -1] > reach])
        pending = torch.cat(unfinished)
        n_rings *= 2
    order = cells.order.to(torch.int32)
    back = torch.empty_like(cells.order)
    back[cells.order] = torch.arange(len(points), device=points.device)
    return distances[back], order[neighbours[back].long()]


class _Cells:
    """Points sorted by cell, z fastest, so that the cells of a column are one range of points."""

    def __init__(self, points: Float[Tensor, "n 3"], points_per_cell: float) -> None:
        low, extent = points.amin(0), (points.amax(0) - points.amin(0)).clamp_min(1e-3)
        shifted, n_points = points - low, len(points)
        self.size = float(extent.prod()) ** (1 / 3)
        n_occupied = 1
        # The points fill only part of their box: cells are made smaller until they hold as many as wanted.
        for _ in range(4):
            size = self.size * (points_per_cell * n_occupied / n_points) ** (1 / 3)
            self.size = max(
                size, (float(extent.prod()) / (8 * n_points + 4096)) ** (1 / 3), float(extent.max()) / 1024
            )
            cell, self.n_cells = self._index(shifted, extent)
            n_occupied = len(torch.unique(cell))
        cell, self.order = torch.sort(cell, stable=True)
        self.points = shifted[self.order]
        every = torch.arange(math.prod(self.n_cells) + 1, device=points.device)
        self.starts = torch.searchsorted(cell, every)

    def _index(self, shifted: Tensor, extent: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        n_x, n_y, n_z = (int(n) + 1 for n in (extent / self.size).tolist())
        x, y, z = (shifted / self.size).long().unbind(1)
        return (x * n_y + y) * n_z + z, (n_x, n_y, n_z)

    def most_candidates(self, n_rings: int) -> int:
        """Most points that a query can be compared with."""
        width = 2 * n_rings + 1
        return width * width * self._longest(n_rings)

    def _longest(self, n_rings: int) -> int:
        reach = min(2 * n_rings + 1, self.n_cells[2])
        return max(1, int((self.starts[reach:] - self.starts[:-reach]).max()))

    def nearest(self, queries: Tensor, n_neighbours: int, n_rings: int) -> tuple[Tensor, Tensor, Tensor]:
        """Distances, indices, and up to which distance they are certain; indices in sorted order."""
        n_x, n_y, n_z = self.n_cells
        position = self.points[queries]
        cell = (position / self.size).long()
        steps = torch.arange(-n_rings, n_rings + 1, device=queries.device)
        x, y = torch.meshgrid(steps, steps, indexing="ij")
        x, y = cell[:, 0, None] + x.reshape(-1), cell[:, 1, None] + y.reshape(-1)
        column = (x * n_y + y) * n_z
        inside = (x >= 0) & (x < n_x) & (y >= 0) & (y < n_y)
        column = torch.where(inside, column, 0)
        first = self.starts[column + (cell[:, 2, None] - n_rings).clamp_min(0)]
        last = self.starts[column + (cell[:, 2, None] + n_rings + 1).clamp_max(n_z)]
        candidates = first[:, :, None] + torch.arange(self._longest(n_rings), device=queries.device)
        valid = inside[:, :, None] & (candidates < last[:, :, None]) & (candidates != queries[:, None, None])
        candidates = candidates.clamp_max(len(self.points) - 1).flatten(1)
        distance2 = ((self.points[candidates] - position[:, None]) ** 2).sum(2)
        distance2 = torch.where(valid.flatten(1), distance2, torch.inf)
        missing = n_neighbours - distance2.shape[1]
        if missing > 0:
            distance2 = torch.nn.functional.pad(distance2, (0, missing), value=torch.inf)
            candidates = torch.nn.functional.pad(candidates, (0, missing))
        found, places = torch.topk(distance2, n_neighbours, dim=1, largest=False, sorted=True)
        within = position - cell * self.size
        reach = torch.minimum(within, self.size - within).amin(1) + n_rings * self.size
        covered = n_rings >= max(self.n_cells)
        reach = torch.full_like(reach, torch.inf) if covered else reach
        return found.sqrt(), candidates.gather(1, places).to(torch.int32), reach
