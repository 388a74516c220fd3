"""Reference kernels of the normalised splat in torch: any device and precision, memory bounded by chunks.

The three functions are the interface of every kernel: ``scatter`` sums into voxels, ``gather`` sums into
Gaussians, ``pairs`` lists the weights.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atlasgs_bids.core.gaussians import CUTOFF, ProjectedGaussians

Shape = tuple[int, int, int]


def scatter(
    projected: ProjectedGaussians, amplitudes: Float[Tensor, " n"], shape: Shape, chunk_elements: int
) -> tuple[Float[Tensor, "x y z"], Float[Tensor, "x y z"]]:
    """Σ_i w_i(x) a_i and Σ_i w_i(x) at every voxel."""
    numerator = amplitudes.new_zeros(shape).view(-1)
    denominator = torch.zeros_like(numerator)
    for members, voxels, weights, _ in _windows(projected, shape, chunk_elements):
        numerator.index_add_(0, voxels.view(-1), (weights * amplitudes[members, None]).view(-1))
        denominator.index_add_(0, voxels.view(-1), weights.view(-1))
    return numerator.view(shape), denominator.view(shape)


def gather(
    projected: ProjectedGaussians,
    amplitudes: Float[Tensor, " n"],
    residual: Float[Tensor, "x y z"],
    rendered: Float[Tensor, "x y z"],
    chunk_elements: int,
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"], Float[Tensor, "n 6"]]:
    """Gradients of a loss with respect to amplitudes, means and precisions.

    ``residual`` is ∂loss/∂f divided by (Σw + δ); ``rendered`` is f.
    """
    grad_amplitudes = torch.zeros_like(amplitudes)
    grad_means = torch.zeros_like(projected.means_vox)
    grad_precisions = torch.zeros_like(projected.precisions_vox)
    shape: Shape = (residual.shape[0], residual.shape[1], residual.shape[2])
    for members, voxels, weights, offsets in _windows(projected, shape, chunk_elements):
        weighted = weights * residual.reshape(-1)[voxels]
        grad_amplitudes[members] = weighted.sum(1)
        slope = weighted * (amplitudes[members, None] - rendered.reshape(-1)[voxels])
        first = torch.einsum("cw,cwi->ci", slope, offsets)
        second = torch.einsum("cw,cwi,cwj->cij", slope, offsets, offsets)
        pxx, pxy, pxz, pyy, pyz, pzz = projected.precisions_vox[members].unbind(1)
        x, y, z = first.unbind(1)
        grad_means[members] = torch.stack(
            [pxx * x + pxy * y + pxz * z, pxy * x + pyy * y + pyz * z, pxz * x + pyz * y + pzz * z], dim=1
        )
        grad_precisions[members] = torch.stack(
            [second[:, i, j] * (-0.5 if i == j else -1.0) for i in range(3) for j in range(i, 3)], dim=1
        )
    return grad_amplitudes, grad_means, grad_precisions


def pairs(
    projected: ProjectedGaussians, row_of_voxel: Int[Tensor, "x y z"], chunk_elements: int
) -> tuple[Int[Tensor, " n_plus_1"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """Weights of each Gaussian in the voxels that have a row (``row_of_voxel`` >= 0), as CSR by Gaussian."""
    rows = row_of_voxel.reshape(-1)
    shape: Shape = (row_of_voxel.shape[0], row_of_voxel.shape[1], row_of_voxel.shape[2])
    found = []
    for members, voxels, weights, _ in _windows(projected, shape, chunk_elements):
        keep = (weights > 0) & (rows[voxels] >= 0)
        owners = members[:, None].expand_as(voxels)[keep]
        found.append((owners, rows[voxels[keep]], weights[keep]))
    owners, columns, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = torch.argsort(owners, stable=True)
    starts = torch.zeros(len(projected) + 1, dtype=torch.int64, device=owners.device)
    starts[1:] = torch.bincount(owners, minlength=len(projected)).cumsum(0)
    return starts, columns[order], values[order]


def _windows(
    projected: ProjectedGaussians, shape: Shape, chunk_elements: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Chunks of Gaussians of like size: members (c,), voxels (c, w), weights (c, w), offsets (c, w, 3).

    A chunk holds at most ``chunk_elements`` pairs (at least one Gaussian). Pairs outside the grid or the
    cut-off have weight 0 and voxel 0.
    """
    means, extents = projected.means_vox.detach(), projected.half_extents_vox.detach()
    limits = torch.tensor(shape, device=means.device)
    low = torch.ceil(means - extents).clamp_min(0).to(torch.int64)
    high = torch.minimum(torch.floor(means + extents).to(torch.int64), limits - 1)
    sides = (high - low + 1).clamp_min(0)
    widths = torch.where((sides > 0).all(1), sides.max(1).values, 0)
    order = torch.argsort(widths, stable=True)
    sorted_widths = widths[order]
    begin = int((sorted_widths == 0).sum())
    while begin < len(order):
        width = int(sorted_widths[begin])
        n_same = int((sorted_widths[begin:] == width).sum())
        end = begin + min(n_same, max(1, chunk_elements // width**3))
        members = order[begin:end]
        begin = end
        steps = torch.arange(width, device=means.device)
        window = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1).view(1, -1, 3)
        indices = low[members, None, :] + window
        offsets = indices - means[members, None, :]
        pxx, pxy, pxz, pyy, pyz, pzz = projected.precisions_vox.detach()[members].T[:, :, None]
        x, y, z = offsets.unbind(-1)
        distance2 = x * (pxx * x + 2 * (pxy * y + pxz * z)) + y * (pyy * y + 2 * pyz * z) + pzz * z * z
        inside = (distance2 <= CUTOFF**2) & (indices < limits).all(-1)
        weights = torch.where(inside, torch.exp(-0.5 * distance2), 0.0)
        voxels = (indices[..., 0] * shape[1] + indices[..., 1]) * shape[2] + indices[..., 2]
        yield members, torch.where(inside, voxels, 0), weights, offsets
