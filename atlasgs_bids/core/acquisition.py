"""AcquisitionOperator: a fine lattice in the target's own frame -> its native slices.

The lattice divides every native voxel into equal cells, at most as large as the anchor's voxel. The Gaussians
are rendered at the cells' centres through the rigid transform, so nothing is interpolated on the way: the
acquisition itself is a weighted sum over cells, one small matrix per axis.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from atlasgs_bids.core.operators import LinearOperator
from atlasgs_bids.core.settings import SAME_SIZE_RATIO


@dataclass(frozen=True)
class AxisSampling:
    """How the cells along one axis make up the native samples."""

    weights: npt.NDArray[np.float64]
    """(n_native, n_cells); rows sum to 1."""
    first: float
    """Native index coordinate of the first cell's centre."""
    step: float
    """Native index units from one cell to the next."""


def point_sampling(n_native: int) -> AxisSampling:
    """One cell per sample: no averaging along this axis."""
    return AxisSampling(np.eye(n_native), 0.0, 1.0)


def profile_sampling(
    n_native: int,
    spacing_mm: float,
    offsets_mm: npt.NDArray[np.float64],
    cumulative: npt.NDArray[np.float64],
    max_cell_mm: float,
) -> AxisSampling:
    """Cells of at most ``max_cell_mm`` weighted by the integral of a profile over each.

    The profile is its cumulative distribution, piecewise linear over ``offsets_mm`` from the sample's centre;
    it may be narrower than the spacing (a gap) or wider (overlap). Its mass is normalised to 1.
    """
    n_cells_per_sample = max(1, math.ceil(spacing_mm / max_cell_mm - 1e-3))
    cell_mm = spacing_mm / n_cells_per_sample
    # Cell c covers [c, c + 1] cell_mm − spacing/2 from the centre of the sample.
    low = math.floor((offsets_mm[0] + spacing_mm / 2) / cell_mm + 1e-6)
    high = math.ceil((offsets_mm[-1] + spacing_mm / 2) / cell_mm - 1e-6)
    edges_mm = np.arange(low, high + 1) * cell_mm - spacing_mm / 2
    cell_weights = np.diff(np.interp(edges_mm, offsets_mm, cumulative))
    cell_weights = cell_weights / cell_weights.sum()
    n_cells = (n_native - 1) * n_cells_per_sample + (high - low)
    weights = np.zeros((n_native, n_cells))
    for k in range(n_native):
        begin = k * n_cells_per_sample
        weights[k, begin : begin + high - low] = cell_weights
    step = 1 / n_cells_per_sample
    return AxisSampling(weights, (low + 0.5) * step - 0.5, step)


def slice_sampling(
    native_shape: tuple[int, int, int],
    native_voxel_mm: tuple[float, float, float],
    slice_axis: int,
    profile: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    anchor_voxel_mm: float,
) -> tuple[AxisSampling, AxisSampling, AxisSampling]:
    """Sampling of a stack: the profile (offsets in mm, cumulative) along the slice axis, voxels in plane."""
    axes = []
    for axis, (n, size_mm) in enumerate(zip(native_shape, native_voxel_mm, strict=True)):
        if axis == slice_axis:
            axes.append(profile_sampling(n, size_mm, *profile, anchor_voxel_mm))
        elif size_mm > SAME_SIZE_RATIO * anchor_voxel_mm:
            box = np.array([-0.5, 0.5]) * size_mm, np.array([0.0, 1.0])
            axes.append(profile_sampling(n, size_mm, *box, anchor_voxel_mm))
        else:
            axes.append(point_sampling(n))
    return axes[0], axes[1], axes[2]


class AcquisitionOperator(LinearOperator):
    """Native slices from a lattice: the product of three small matrices, one per axis."""

    def __init__(
        self, samplings: tuple[AxisSampling, AxisSampling, AxisSampling], device: torch.device | str
    ) -> None:
        self.native_from_lattice = torch.eye(4, dtype=torch.float64)
        """Index coordinates of the native grid from those of the lattice."""
        self._matrices: list[Tensor | None] = []
        for axis, sampling in enumerate(samplings):
            self.native_from_lattice[axis, axis] = sampling.step
            self.native_from_lattice[axis, 3] = sampling.first
            n_native, n_cells = sampling.weights.shape
            identity = n_native == n_cells and np.array_equal(sampling.weights, np.eye(n_native))
            matrix = None if identity else torch.tensor(sampling.weights, dtype=torch.float32, device=device)
            self._matrices.append(matrix)
        self.shape_out = tuple(sampling.weights.shape[0] for sampling in samplings)
        self.shape_in = tuple(sampling.weights.shape[1] for sampling in samplings)

    @classmethod
    def of_cells(cls, shape: tuple[int, int, int]) -> "AcquisitionOperator":
        """The identity: each cell of a lattice is acquired as it is."""
        n_x, n_y, n_z = shape
        return cls((point_sampling(n_x), point_sampling(n_y), point_sampling(n_z)), "cpu")

    @property
    def cell_noise(self) -> float:
        """Noise of a cell over that of a native voxel, if the voxel is the weighted mean of such cells."""
        squares = [1.0 if m is None else float(m.square().sum(1).median()) for m in self._matrices]
        return math.prod(squares) ** -0.5

    def axis_matrix(self, axis: int) -> Float[Tensor, "native cells"]:
        """Weights of the cells along ``axis`` in each native sample; rows sum to 1."""
        matrix = self._matrices[axis]
        return torch.eye(self.shape_in[axis]) if matrix is None else matrix

    def forward(self, x: Float[Tensor, "x y z *k"]) -> Tensor:
        for axis, matrix in enumerate(self._matrices):
            if matrix is not None:
                x = along_axis(matrix.to(x.dtype), x, axis)
        return x

    def adjoint(self, y: Float[Tensor, "x y z *k"]) -> Tensor:
        for axis, matrix in enumerate(self._matrices):
            if matrix is not None:
                y = along_axis(matrix.to(y.dtype).T, y, axis)
        return y

    def as_matrix(self) -> sparse.csr_matrix:
        x, y, z = (
            sparse.eye(n, dtype=np.float32, format="csr") if m is None else sparse.csr_matrix(m.cpu().numpy())
            for n, m in zip(self.shape_in, self._matrices, strict=True)
        )
        return sparse.kron(sparse.kron(x, y, format="csr"), z, format="csr")


def along_axis(matrix: Float[Tensor, "out in"], x: Tensor, axis: int) -> Tensor:
    """The matrix applied along one axis of a volume."""
    return torch.movedim(torch.tensordot(matrix, x, dims=([1], [axis])), 0, axis)
