"""SplatOperator: amplitudes -> grid, with frozen geometry."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from atlasgs_bids.core.gaussians import Gaussians, ProjectedGaussians
from atlasgs_bids.core.operators import LinearOperator, SparseOperator
from atlasgs_bids.core.splat.kernels import kernels_for
from atlasgs_bids.core.splat.reference import Shape
from atlasgs_bids.core.splat.render import DENSITY_FLOOR, gathered

_BYTES_PER_PAIR = 16
"""Weight and index, in the matrix and in its transpose."""
_MATRIX_GIB = 2.0
"""Largest matrix that is kept; building it takes about three times as much for a moment (decision 0005)."""


class SplatOperator(LinearOperator):
    """f = S a on a grid with any affine.

    A solve applies S hundreds of times, so it is kept as a sparse matrix where that is small enough, and
    splatted anew each time where it is not. ``forward`` takes amplitudes (n,) or, for several images of the
    same geometry, (n, k).
    """

    def __init__(
        self,
        gaussians: Gaussians,
        shape: Shape,
        world_from_voxel: Float[Tensor, "4 4"],
        needed: Bool[Tensor, "x y z"] | None = None,
        chunk_elements: int = 2**24,
        matrix_gib: float = _MATRIX_GIB,
    ) -> None:
        """``needed``: the voxels that are computed; the others are 0 (None: all)."""
        kernels = kernels_for(gaussians.means_mm)
        voxel_from_world = torch.linalg.inv(world_from_voxel.double()).to(gaussians.means_mm)
        projected = kernels.project(
            gaussians.means_mm, gaussians.scales_mm, gaussians.quaternions, voxel_from_world
        )
        device = gaussians.means_mm.device
        flags = torch.ones(shape, dtype=torch.bool, device=device) if needed is None else needed
        voxels = flags.reshape(-1).nonzero().squeeze(1)
        row_of_voxel = torch.full((flags.numel(),), -1, dtype=torch.int32, device=device)
        row_of_voxel[voxels] = torch.arange(len(voxels), dtype=torch.int32, device=device)
        row_of_voxel = row_of_voxel.view(shape)
        counts = kernels.count_pairs(projected, row_of_voxel, chunk_elements)
        starts = torch.zeros(len(gaussians) + 1, dtype=torch.int64, device=device)
        torch.cumsum(counts, 0, out=starts[1:])
        self.shape_in, self.shape_out = (len(gaussians),), shape
        self.gaussians, self._voxel_from_world = gaussians, voxel_from_world
        self._chunk_elements = chunk_elements
        self.is_matrix = int(starts[-1]) * _BYTES_PER_PAIR <= matrix_gib * 2**30
        self._splat: _MatrixSplat | _DirectSplat
        if self.is_matrix:
            self._splat = _MatrixSplat(projected, starts, row_of_voxel, voxels, chunk_elements)
        else:
            self._splat = _DirectSplat(projected, flags, chunk_elements)

    def forward(self, x: Tensor) -> Tensor:
        return self._splat.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._splat.adjoint(y)

    def as_matrix(self) -> sparse.csr_matrix | None:
        return self._splat.as_matrix()

    def gradients(
        self, amplitudes: Float[Tensor, " n"], by_voxel: Float[Tensor, "x y z"]
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"], Float[Tensor, " n"]]:
        """Of Σ ``by_voxel`` · S a, by means, quaternions and amplitudes; what is not needed counts nothing.

        As the gradients of ``splat`` (core/splat/render.py), whose image and density are known here.
        """
        own = self.gaussians
        projected = kernels_for(own.means_mm).project(
            own.means_mm, own.scales_mm, own.quaternions, self._voxel_from_world
        )
        by_mean, _, by_quaternion, by_amplitude = gathered(
            projected, own.scales_mm, own.quaternions, amplitudes, self._voxel_from_world,
            self._splat.over_density(by_voxel), self.forward(amplitudes), self._chunk_elements,
        )  # fmt: skip
        return by_mean, by_quaternion, by_amplitude


class _MatrixSplat(LinearOperator):
    def __init__(
        self,
        projected: ProjectedGaussians,
        starts: Int[Tensor, " n_plus_1"],
        row_of_voxel: Int[Tensor, "x y z"],
        voxels: Int[Tensor, " rows"],
        chunk_elements: int,
    ) -> None:
        rows, weights = kernels_for(projected.means_vox).fill_pairs(
            projected, row_of_voxel, starts, chunk_elements
        )
        self._matrix = SparseOperator(starts, rows, weights, len(voxels)).T
        del rows, weights
        # By rows of the matrix, so that the sums are the same each time.
        density = self._matrix.forward(
            torch.ones(len(projected), device=starts.device, dtype=projected.means_vox.dtype)
        )
        self._scale = 1 / density.add_(DENSITY_FLOOR)
        self._voxels = voxels
        self.shape_in, self.shape_out = (len(projected),), tuple(row_of_voxel.shape)

    def forward(self, x: Tensor) -> Tensor:
        image = x.new_zeros((*self.shape_out, *x.shape[1:]))
        values = self._matrix.forward(x)
        image.view(-1, *x.shape[1:])[self._voxels] = values * _like(self._scale, values)
        return image

    def adjoint(self, y: Tensor) -> Tensor:
        values = y.reshape(-1, *y.shape[3:])[self._voxels]
        return self._matrix.adjoint(values * _like(self._scale, values))

    def over_density(self, image: Tensor) -> Tensor:
        """An image over the sum of the weights in each voxel; 0 where it is not needed."""
        found = image.new_zeros(image.shape)
        found.view(-1)[self._voxels] = image.reshape(-1)[self._voxels] * self._scale
        return found

    def as_matrix(self) -> sparse.csr_matrix:
        own = self._matrix.matrix.cpu()
        lengths = own.crow_indices().diff().numpy()
        starts = np.zeros(math.prod(self.shape_out) + 1, own.crow_indices().numpy().dtype)
        starts[1:][self._voxels.cpu().numpy()] = lengths
        values = own.values().numpy() * np.repeat(self._scale.cpu().numpy(), lengths)
        shape = len(starts) - 1, self.shape_in[0]
        return sparse.csr_matrix(
            (values, own.col_indices().numpy(), starts.cumsum(dtype=starts.dtype)), shape
        )


class _DirectSplat(LinearOperator):
    def __init__(
        self, projected: ProjectedGaussians, needed: Bool[Tensor, "x y z"], chunk_elements: int
    ) -> None:
        self._kernels = kernels_for(projected.means_vox)
        self._projected, self._chunk_elements = projected, chunk_elements
        self.shape_in, self.shape_out = (len(projected),), tuple(needed.shape)
        self._lists = self._kernels.lists(projected, self.shape_out)
        _, density = self._scatter(torch.ones_like(projected.means_vox[:, 0]))
        self._scale = needed / density.add_(DENSITY_FLOOR)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 1:
            return self._scatter(x)[0].mul_(self._scale)
        return torch.stack([self.forward(column) for column in x.unbind(1)], dim=-1)

    def adjoint(self, y: Tensor) -> Tensor:
        if y.ndim == len(self.shape_out):
            sums: Tensor = self._kernels.adjoint(self._projected, y * self._scale, self._chunk_elements)
            return sums
        return torch.stack([self.adjoint(image) for image in y.unbind(-1)], dim=1)

    def over_density(self, image: Tensor) -> Tensor:
        return image * self._scale

    def _scatter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sums: tuple[Tensor, Tensor] = self._kernels.scatter(
            self._projected, self._lists, x, self.shape_out, self._chunk_elements
        )
        return sums


def _like(scale: Tensor, values: Tensor) -> Tensor:
    return scale if values.ndim == 1 else scale[:, None]
