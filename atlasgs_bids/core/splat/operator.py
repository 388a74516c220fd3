"""SplatOperator: amplitudes -> grid, with frozen geometry."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlasgs_bids.core.gaussians import Gaussians, project
from atlasgs_bids.core.operators import LinearOperator, SparseOperator
from atlasgs_bids.core.splat import kernels
from atlasgs_bids.core.splat.reference import Shape
from atlasgs_bids.core.splat.render import DENSITY_FLOOR


class SplatOperator(LinearOperator):
    """f = S a on a grid with any affine; a sparse matrix, since a solve applies it hundreds of times."""

    def __init__(
        self,
        gaussians: Gaussians,
        shape: Shape,
        world_from_voxel: Float[Tensor, "4 4"],
        needed: Bool[Tensor, "x y z"] | None = None,
        chunk_elements: int = 2**24,
    ) -> None:
        """``needed``: the voxels that are computed; the others are 0 (None: all)."""
        voxel_from_world = torch.linalg.inv(world_from_voxel.double()).to(gaussians.means_mm)
        projected = project(gaussians.means_mm, gaussians.scales_mm, gaussians.quaternions, voxel_from_world)
        device = gaussians.means_mm.device
        flags = torch.ones(shape, dtype=torch.bool, device=device) if needed is None else needed
        self._voxels = flags.reshape(-1).nonzero().squeeze(1)
        n_rows = len(self._voxels)
        row_of_voxel = torch.full((flags.numel(),), -1, dtype=torch.int32, device=device)
        row_of_voxel[self._voxels] = torch.arange(n_rows, dtype=torch.int32, device=device)
        starts, rows, weights = kernels.pairs(projected, row_of_voxel.view(shape), chunk_elements)
        density = torch.zeros(n_rows, dtype=weights.dtype, device=device).index_add_(0, rows, weights)
        weights /= density.add_(DENSITY_FLOOR)[rows]
        self._matrix = SparseOperator(starts, rows, weights, n_rows).T
        self.shape_in, self.shape_out = (len(gaussians),), shape

    def forward(self, x: Tensor) -> Tensor:
        image = x.new_zeros(self.shape_out)
        image.view(-1)[self._voxels] = self._matrix.forward(x)
        return image

    def adjoint(self, y: Tensor) -> Tensor:
        return self._matrix.adjoint(y.reshape(-1)[self._voxels])
