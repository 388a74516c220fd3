"""The kernel for a device: numba on the CPU, the torch reference elsewhere; one interface (reference.py)."""

from typing import Any

import torch
from torch import Tensor

from atlasgs_bids.core.gaussians import ProjectedGaussians
from atlasgs_bids.core.splat import reference
from atlasgs_bids.core.splat.reference import Shape


def scatter(
    projected: ProjectedGaussians, amplitudes: Tensor, shape: Shape, chunk_elements: int
) -> tuple[Tensor, Tensor]:
    """See reference.scatter."""
    if amplitudes.device.type != "cpu":
        return reference.scatter(projected, amplitudes, shape, chunk_elements)
    from atlasgs_bids.core.splat import cpu  # noqa: PLC0415 - numba is loaded only where it runs

    means, precisions, extents = _arrays(projected)
    numerator, denominator = amplitudes.new_empty(shape), amplitudes.new_empty(shape)
    starts, members = cpu.slab_lists(means, extents, shape[0])
    cpu.scatter(
        means, precisions, extents, amplitudes.detach().contiguous().numpy(), starts, members,
        numerator.numpy(), denominator.numpy(),
    )  # fmt: skip
    return numerator, denominator


def gather(
    projected: ProjectedGaussians, amplitudes: Tensor, residual: Tensor, rendered: Tensor, chunk_elements: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See reference.gather."""
    if amplitudes.device.type != "cpu":
        return reference.gather(projected, amplitudes, residual, rendered, chunk_elements)
    from atlasgs_bids.core.splat import cpu  # noqa: PLC0415

    n = len(projected)
    gradients = amplitudes.new_empty(n), amplitudes.new_empty(n, 3), amplitudes.new_empty(n, 6)
    cpu.gather(
        *_arrays(projected), amplitudes.detach().contiguous().numpy(), residual.contiguous().numpy(),
        rendered.contiguous().numpy(), *(gradient.numpy() for gradient in gradients),
    )  # fmt: skip
    return gradients


def pairs(
    projected: ProjectedGaussians, row_of_voxel: Tensor, chunk_elements: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See reference.pairs."""
    if row_of_voxel.device.type != "cpu":
        return reference.pairs(projected, row_of_voxel, chunk_elements)
    from atlasgs_bids.core.splat import cpu  # noqa: PLC0415

    arrays = _arrays(projected)
    rows_grid = row_of_voxel.to(torch.int32).contiguous().numpy()
    starts = torch.zeros(len(projected) + 1, dtype=torch.int64)
    cpu.count_pairs(*arrays, rows_grid, starts[1:].numpy())
    starts = starts.cumsum(0)
    columns = torch.empty(int(starts[-1]), dtype=torch.int32)
    weights = torch.empty(int(starts[-1]), dtype=projected.means_vox.dtype)
    cpu.fill_pairs(*arrays, rows_grid, starts.numpy(), columns.numpy(), weights.numpy())
    return starts, columns, weights


def _arrays(projected: ProjectedGaussians) -> tuple[Any, Any, Any]:
    fields = projected.means_vox, projected.precisions_vox, projected.half_extents_vox
    means, precisions, half_extents = (field.detach().contiguous().numpy() for field in fields)
    return means, precisions, half_extents
