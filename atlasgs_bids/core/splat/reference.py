"""Reference kernels of the normalised splat in torch: any device and precision, memory bounded by chunks.

Its functions are the interface of every kernel: ``project`` brings Gaussians to a grid, ``lists`` orders
them for it, ``scatter`` sums into voxels, ``adjoint`` and ``gather`` into Gaussians, ``count_pairs`` and
``fill_pairs`` list the weights.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atlasgs_bids.core import gaussians
from atlasgs_bids.core.gaussians import CUTOFF, ProjectedGaussians

Shape = tuple[int, int, int]


def project(
    means: Float[Tensor, "n 3"],
    scales: Float[Tensor, "n 3"],
    quaternions: Float[Tensor, "n 4"],
    voxel_from_world: Float[Tensor, "4 4"],
) -> ProjectedGaussians:
    """gaussians.project, without a graph for its gradient."""
    with torch.no_grad():
        return gaussians.project(means, scales, quaternions, voxel_from_world)


def project_backward(
    scales: Float[Tensor, "n 3"],
    quaternions: Float[Tensor, "n 4"],
    voxel_from_world: Float[Tensor, "4 4"],
    grad_means_vox: Float[Tensor, "n 3"],
    grad_precisions: Float[Tensor, "n 6"],
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"], Float[Tensor, "n 4"]]:
    """Gradients with respect to means, scales and quaternions from those of the projection."""
    with torch.enable_grad():
        leaves = [
            tensor.detach().requires_grad_() for tensor in (torch.zeros_like(scales), scales, quaternions)
        ]
        means, scales, quaternions = leaves
        projected = gaussians.project(means, scales, quaternions, voxel_from_world)
        outputs = [projected.means_vox, projected.precisions_vox]
        grads = torch.autograd.grad(outputs, leaves, [grad_means_vox, grad_precisions])
    return grads[0], grads[1], grads[2]


def lists(projected: ProjectedGaussians, shape: Shape) -> None:
    """What ``scatter`` needs to know of the geometry, made once for it; here nothing."""


def scatter(
    projected: ProjectedGaussians,
    lists: None,
    amplitudes: Float[Tensor, " n"],
    shape: Shape,
    chunk_elements: int,
) -> tuple[Float[Tensor, "x y z"], Float[Tensor, "x y z"]]:
    """Σ_i w_i(x) a_i and Σ_i w_i(x) at every voxel."""
    numerator = amplitudes.new_zeros(shape).view(-1)
    denominator = torch.zeros_like(numerator)
    for members, voxels, weights, _ in _windows(projected, shape, chunk_elements):
        numerator.index_add_(0, voxels.view(-1), (weights * amplitudes[members, None]).view(-1))
        denominator.index_add_(0, voxels.view(-1), weights.view(-1))
    return numerator.view(shape), denominator.view(shape)


def adjoint(
    projected: ProjectedGaussians, residual: Float[Tensor, "x y z"], chunk_elements: int
) -> Float[Tensor, " n"]:
    """Σ_x w_i(x) residual(x) of every Gaussian."""
    sums = residual.new_zeros(len(projected))
    shape: Shape = (residual.shape[0], residual.shape[1], residual.shape[2])
    for members, voxels, weights, _ in _windows(projected, shape, chunk_elements):
        sums[members] = (weights * residual.reshape(-1)[voxels]).sum(1)
    return sums


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


def count_pairs(
    projected: ProjectedGaussians, row_of_voxel: Int[Tensor, "x y z"], chunk_elements: int
) -> Int[Tensor, " n"]:
    """Number of voxels with a row (``row_of_voxel`` >= 0) in which each Gaussian has weight."""
    counts = torch.zeros(len(projected), dtype=torch.int64, device=row_of_voxel.device)
    for members, _, kept, _ in _kept_pairs(projected, row_of_voxel, chunk_elements):
        counts[members] = kept.sum(1)
    return counts


def fill_pairs(
    projected: ProjectedGaussians,
    row_of_voxel: Int[Tensor, "x y z"],
    starts: Int[Tensor, " n_plus_1"],
    chunk_elements: int,
) -> tuple[Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """Rows and weights of those pairs, those of Gaussian i at ``starts[i]:starts[i + 1]``."""
    rows = torch.empty(int(starts[-1]), dtype=torch.int32, device=starts.device)
    weights = projected.means_vox.new_empty(len(rows))
    for members, voxels, kept, values in _kept_pairs(projected, row_of_voxel, chunk_elements):
        places = (starts[members, None] + kept.cumsum(1) - 1)[kept]
        rows[places] = row_of_voxel.reshape(-1)[voxels[kept]].to(torch.int32)
        weights[places] = values[kept]
    return rows, weights


def _kept_pairs(
    projected: ProjectedGaussians, row_of_voxel: Tensor, chunk_elements: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Members (c,), voxels (c, w), whether the pair counts (c, w), weights (c, w)."""
    shape: Shape = (row_of_voxel.shape[0], row_of_voxel.shape[1], row_of_voxel.shape[2])
    for members, voxels, weights, _ in _windows(projected, shape, chunk_elements):
        yield members, voxels, (weights > 0) & (row_of_voxel.reshape(-1)[voxels] >= 0), weights


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
