"""Cubic B-splines on a regular grid of control points: values, slopes, refinement and bending energy."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from atlasgs_bids.core.operators import SparseOperator

_SUPPORT = 4
"""Control points along an axis that a point depends on."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ControlGrid:
    """Control points along the world's axes; a spline is defined within one spacing of their hull's faces."""

    first_mm: tuple[float, float, float]
    spacing_mm: float
    shape: tuple[int, int, int]

    @classmethod
    def around(cls, points_mm: Float[Tensor, "n 3"], spacing_mm: float) -> "ControlGrid":
        """The grid on which splines are defined wherever the points are."""
        low, high = points_mm.amin(0).double().cpu(), points_mm.amax(0).double().cpu()
        n_i, n_j, n_k = (((high - low) / spacing_mm).floor().long() + _SUPPORT).tolist()
        room = (torch.tensor([n_i, n_j, n_k]) - _SUPPORT + 1) * spacing_mm - (high - low)
        i, j, k = (low - spacing_mm - room / 2).tolist()
        return cls((i, j, k), spacing_mm, (n_i, n_j, n_k))

    def __len__(self) -> int:
        """How many control points there are."""
        n_i, n_j, n_k = self.shape
        return n_i * n_j * n_k

    def basis(self, points_mm: Float[Tensor, "n 3"]) -> SparseOperator:
        """Coefficients -> values at points within the grid."""
        return _operator(self._matrix(points_mm, (0, 0, 0)), points_mm)

    def slope_basis(self, points_mm: Float[Tensor, "n 3"], direction: Array) -> SparseOperator:
        """Coefficients -> derivative along a direction (3,), mm⁻¹."""
        parts = [
            self._matrix(points_mm, (int(axis == 0), int(axis == 1), int(axis == 2))) * float(along)
            for axis, along in enumerate(direction)
        ]
        return _operator(parts[0] + parts[1] + parts[2], points_mm)

    def refined(self, coefficients: Array) -> tuple["ControlGrid", Array]:
        """The grid of half the spacing, and the same spline on it: (m,) -> (finer m,)."""
        values = coefficients.reshape(self.shape)
        for axis, n in enumerate(self.shape):
            # Between two control points their mean; at one of them 1/8, 6/8, 1/8 of it and its neighbours.
            finer = np.zeros((2 * n - 1, n))
            finer[1::2] = 0.5 * (np.eye(n)[1:] + np.eye(n)[:-1])
            finer[::2] = (6 * np.eye(n) + np.eye(n, k=1) + np.eye(n, k=-1)) / 8
            values = np.moveaxis(np.tensordot(finer, values, axes=(1, axis)), 0, axis)
        n_i, n_j, n_k = (2 * n - 1 for n in self.shape)
        grid = replace(self, spacing_mm=self.spacing_mm / 2, shape=(n_i, n_j, n_k))
        return grid, np.asarray(values.reshape(-1), np.float64)

    def bending(self) -> Array:
        """(m, m) matrix K with cᵀ K c = ∫ Σ_ij (∂_i ∂_j u)² over where the spline is defined (mm² · mm⁻¹)."""
        total = np.zeros((len(self), len(self)))
        for orders in itertools.product(range(3), repeat=3):
            if sum(orders) != 2:
                continue
            count = 1.0 if max(orders) == 2 else 2.0  # ∂_i ∂_j and ∂_j ∂_i
            x, y, z = (self._gram(n, order) for n, order in zip(self.shape, orders, strict=True))
            total += count * np.kron(np.kron(x, y), z)
        return total

    def mass(self) -> Array:
        """(m, m) matrix M with cᵀ M c = ∫ u² over where the spline is defined (mm² · mm³)."""
        x, y, z = (self._gram(n, 0) for n in self.shape)
        return np.asarray(np.kron(np.kron(x, y), z))

    def _gram(self, n: int, order: int) -> Array:
        """∫ of products of the splines' derivatives along one axis, exactly: four Gauss points a cell."""
        nodes, weights = np.polynomial.legendre.leggauss(4)
        t = 0.5 * (nodes + 1)
        values = _weights(t, order) / self.spacing_mm**order
        cell = np.einsum("q,qa,qb->ab", 0.5 * weights * self.spacing_mm, values, values)
        gram = np.zeros((n, n))
        for first in range(n - _SUPPORT + 1):
            gram[first : first + _SUPPORT, first : first + _SUPPORT] += cell
        return gram

    def _matrix(self, points_mm: Tensor, orders: tuple[int, int, int]) -> sparse.csr_matrix:
        """(n, m) of the product of one derivative of the given order along each axis."""
        position = (points_mm.double().cpu().numpy() - np.array(self.first_mm)) / self.spacing_mm
        # Of the four control points around it the first: never one whose other three would lie outside.
        first = np.clip(np.floor(position).astype(np.int64) - 1, 0, np.array(self.shape) - _SUPPORT)
        t = position - first - 1
        if (t < -1e-9).any() or (t > 1 + 1e-9).any():
            raise ValueError(f"points leave the control grid by {max(-t.min(), t.max() - 1):.3g} spacings")
        x, y, z = (_weights(t[:, axis], order) / self.spacing_mm**order for axis, order in enumerate(orders))
        values = np.einsum("na,nb,nc->nabc", x, y, z).reshape(len(t), -1)
        along = [first[:, axis, None] + np.arange(_SUPPORT) for axis in range(3)]
        columns = along[0][:, :, None, None] * self.shape[1] + along[1][:, None, :, None]
        columns = columns * self.shape[2] + along[2][:, None, None, :]
        starts = np.arange(len(t) + 1) * _SUPPORT**3
        return sparse.csr_matrix((values.ravel(), columns.ravel(), starts), shape=(len(t), len(self)))


def _weights(t: Array, order: int) -> Array:
    """(n, 4): the four cubic B-splines that reach a cell, or their derivatives, at t in [0, 1] of it."""
    s = 1 - t
    if order == 0:
        parts = [s**3, 3 * t**3 - 6 * t**2 + 4, 3 * s**3 - 6 * s**2 + 4, t**3]
        return np.stack(parts, axis=1) / 6
    if order == 1:
        return np.stack([-(s**2), 3 * t**2 - 4 * t, 4 * s - 3 * s**2, t**2], axis=1) / 2
    return np.stack([s, 3 * t - 2, 3 * s - 2, t], axis=1)


def _operator(matrix: sparse.csr_matrix, points_mm: Tensor) -> SparseOperator:
    matrix.sort_indices()
    starts, columns = (
        torch.from_numpy(part).to(points_mm.device) for part in (matrix.indptr, matrix.indices)
    )
    values = torch.from_numpy(matrix.data).to(points_mm)
    return SparseOperator(starts, columns, values, matrix.shape[1])
