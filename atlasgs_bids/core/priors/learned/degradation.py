"""What an acquisition does to a line of cells, and the interpolation that goes back.

One matrix A (samples from cells) is known for each axis of a stack. The same sampling is laid over lines that
are sharp, to make training pairs: blurred by A and interpolated back, against what was acquired.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_CURVATURE_WEIGHT = 1e-4
"""Small beside the data, so that the interpolation honours the samples to about 1e-3."""
_SLOPE_WEIGHT = 1e-6
"""Keeps the ends flat where no sample tells their slope."""


@dataclass(frozen=True)
class Sampling:
    """How samples are taken along an axis, wherever they begin."""

    weights: Float[Tensor, " k"]
    """Of the cells of one sample; they sum to 1."""
    stride: int
    """Cells from one sample to the next."""

    @property
    def is_identity(self) -> bool:
        return self.stride == 1 and len(self.weights) == 1

    def matrix(self, n_cells: int, phase: int) -> Float[Tensor, "samples cells"]:
        """Samples over ``n_cells``, shifted by ``phase`` cells; those that lie at least half inside.

        Their weights are normalised to what lies inside.
        """
        reach = len(self.weights)
        first = -math.ceil(reach / self.stride) * self.stride + phase
        rows = []
        for begin in range(first, n_cells, self.stride):
            low, high = max(begin, 0), min(begin + reach, n_cells)
            inside = self.weights[low - begin : high - begin] if high > low else self.weights[:0]
            if float(inside.sum()) >= 0.5:
                row = torch.zeros(n_cells, dtype=self.weights.dtype)
                row[low:high] = inside / inside.sum()
                rows.append(row)
        return torch.stack(rows) if rows else torch.zeros(0, n_cells, dtype=self.weights.dtype)


def sampling_of(matrix: Float[Tensor, "samples cells"], cells_per_sample: int) -> Sampling:
    """The sampling whose ``matrix`` an AcquisitionOperator holds for one axis."""
    n_samples, n_cells = matrix.shape
    reach = n_cells - (n_samples - 1) * cells_per_sample
    return Sampling(matrix[0, :reach].cpu().double(), cells_per_sample)


def interpolation(
    matrix: Float[Tensor, "samples cells"], observed: Float[Tensor, " samples"]
) -> Float[Tensor, "cells samples"]:
    """Cells from samples: argmin_x ‖A x − y‖² + ε ‖x″‖², over the samples that are ``observed`` (1 or 0).

    The smoothest line that, seen through the slice profile, gives the samples; a cubic spline when the
    samples are points (Reinsch 1967).
    """
    A = matrix.double()
    n_cells = A.shape[1]
    slope = torch.diff(torch.eye(n_cells, dtype=torch.float64), dim=0)
    curvature = torch.diff(slope, dim=0)
    weighted = A.T * observed.double()
    normal = weighted @ A + _CURVATURE_WEIGHT * curvature.T @ curvature + _SLOPE_WEIGHT * slope.T @ slope
    solution: Tensor = torch.linalg.solve(normal, weighted)
    return solution


@dataclass(frozen=True)
class Degradation:
    """Blur by the sampling, then interpolation back to the cells: x -> D x, for each phase of the samples."""

    matrices: Float[Tensor, "phases cells cells"]
    positions: Float[Tensor, "phases 2 cells"]
    """Cosine and sine of the position between the samples' centres, 2π from one to the next."""

    def to(self, device: torch.device | str) -> "Degradation":
        return Degradation(self.matrices.to(device), self.positions.to(device))


def degradation(sampling: Sampling, n_cells: int) -> Degradation:
    """Every phase of a sampling over lines of ``n_cells``."""
    matrices, positions = [], []
    for phase in range(sampling.stride):
        A = sampling.matrix(n_cells, phase)
        matrices.append(interpolation(A, torch.ones(len(A))) @ A)
        positions.append(_positions(sampling, n_cells, phase))
    return Degradation(torch.stack(matrices).float(), torch.stack(positions).float())


def acquired_degradation(
    sampling: Sampling, matrix: Float[Tensor, "samples cells"], observed: Float[Tensor, " samples"]
) -> tuple[Float[Tensor, "cells samples"], Degradation]:
    """Interpolation of the acquired samples, and the one degradation that they went through."""
    back = interpolation(matrix.cpu(), observed.cpu())
    D = (back @ matrix.cpu().double()).float()
    return back.float(), Degradation(D[None], _positions(sampling, matrix.shape[1], 0)[None].float())


def _positions(sampling: Sampling, n_cells: int, phase: int) -> Float[Tensor, "2 cells"]:
    centre = float(sampling.weights @ torch.arange(len(sampling.weights), dtype=torch.float64))
    angle = 2 * math.pi * (torch.arange(n_cells, dtype=torch.float64) - centre - phase) / sampling.stride
    return torch.stack([angle.cos(), angle.sin()])


def along(matrix: Float[Tensor, "out in"], x: Tensor, axis: int) -> Tensor:
    """The matrix applied along one axis of a volume."""
    return torch.movedim(torch.tensordot(matrix.to(x), x, dims=([1], [axis])), 0, axis)
