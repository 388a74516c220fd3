"""Kernels on the CPU: tensors in and out of numba_kernels.py; the interface is that of reference.py."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atlasgs_bids.core.gaussians import ProjectedGaussians
from atlasgs_bids.core.splat import numba_kernels as numba
from atlasgs_bids.core.splat.reference import Shape

Lists = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]


def project(
    means: Tensor, scales: Tensor, quaternions: Tensor, voxel_from_world: Tensor
) -> ProjectedGaussians:
    """See reference.project."""
    linear, shift, inverse = _frame(voxel_from_world, means)
    out = means.new_empty(means.shape), means.new_empty(len(means), 6), means.new_empty(means.shape)
    numba.project(
        _array(means), _array(scales), _array(quaternions), linear, shift, inverse,
        *(tensor.numpy() for tensor in out),
    )  # fmt: skip
    return ProjectedGaussians(*out)


def project_backward(
    scales: Tensor,
    quaternions: Tensor,
    voxel_from_world: Tensor,
    grad_means_vox: Tensor,
    grad_precisions: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See reference.project_backward."""
    linear, _, inverse = _frame(voxel_from_world, scales)
    out = torch.empty_like(grad_means_vox), torch.empty_like(scales), torch.empty_like(quaternions)
    numba.project_backward(
        _array(scales), _array(quaternions), linear, inverse, _array(grad_means_vox), _array(grad_precisions),
        *(tensor.numpy() for tensor in out),
    )  # fmt: skip
    return out


def lists(projected: ProjectedGaussians, shape: Shape) -> Lists:
    """Members of each slab of the grid."""
    means, _, half_extents = _arrays(projected)
    starts, members = numba.slab_lists(means, half_extents, shape[0])
    return starts, members


def scatter(
    projected: ProjectedGaussians,
    slabs: Lists,
    amplitudes: Tensor,
    shape: Shape,
    chunk_elements: int,
) -> tuple[Tensor, Tensor]:
    """See reference.scatter."""
    numerator, denominator = amplitudes.new_empty(shape), amplitudes.new_empty(shape)
    numba.scatter(*_arrays(projected), _array(amplitudes), *slabs, numerator.numpy(), denominator.numpy())
    return numerator, denominator


def adjoint(
    projected: ProjectedGaussians,
    residual: Tensor,
    chunk_elements: int,
) -> Tensor:
    """See reference.adjoint."""
    sums = residual.new_empty(len(projected))
    numba.adjoint(*_arrays(projected), _array(residual), sums.numpy())
    return sums


def gather(
    projected: ProjectedGaussians,
    amplitudes: Tensor,
    residual: Tensor,
    rendered: Tensor,
    chunk_elements: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See reference.gather."""
    n = len(projected)
    gradients = amplitudes.new_empty(n), amplitudes.new_empty(n, 3), amplitudes.new_empty(n, 6)
    numba.gather(
        *_arrays(projected), _array(amplitudes), _array(residual), _array(rendered),
        *(gradient.numpy() for gradient in gradients),
    )  # fmt: skip
    return gradients


def count_pairs(
    projected: ProjectedGaussians,
    row_of_voxel: Tensor,
    chunk_elements: int,
) -> Tensor:
    """See reference.count_pairs."""
    counts = torch.empty(len(projected), dtype=torch.int64)
    numba.count_pairs(*_arrays(projected), _array(row_of_voxel), counts.numpy())
    return counts


def fill_pairs(
    projected: ProjectedGaussians,
    row_of_voxel: Tensor,
    starts: Tensor,
    chunk_elements: int,
) -> tuple[Tensor, Tensor]:
    """See reference.fill_pairs."""
    rows = torch.empty(int(starts[-1]), dtype=torch.int32)
    weights = torch.empty(int(starts[-1]), dtype=projected.means_vox.dtype)
    numba.fill_pairs(*_arrays(projected), _array(row_of_voxel), starts.numpy(), rows.numpy(), weights.numpy())
    return rows, weights


def _frame(
    voxel_from_world: Tensor, like: Tensor
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    linear = voxel_from_world[:3, :3].to(like)
    inverse = torch.linalg.inv(voxel_from_world[:3, :3].double()).to(like)
    return linear.contiguous().numpy(), voxel_from_world[:3, 3].to(like).contiguous().numpy(), inverse.numpy()


def _arrays(projected: ProjectedGaussians) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    fields = projected.means_vox, projected.precisions_vox, projected.half_extents_vox
    means, precisions, half_extents = (_array(field) for field in fields)
    return means, precisions, half_extents


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.detach().contiguous().numpy()
    return array
