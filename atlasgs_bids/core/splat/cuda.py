"""Kernels on a GPU in float32: launches triton_kernels.py; the interface is that of reference.py.

Triton compiles at the first call of a process and keeps the result in its cache.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from atlasgs_bids.core.gaussians import CUTOFF, SCALE_FLOOR, ProjectedGaussians
from atlasgs_bids.core.splat import triton_kernels
from atlasgs_bids.core.splat.reference import Shape

_BRICK = {"BX": 4, "BY": 4, "BZ": 8}
"""Voxels of a brick; measured in decision 0005."""
_LANES = {"BLOCK": 64, "num_warps": 2}
"""Gaussians of a program; few, since the largest box among them decides how long all of them take."""
_CUTOFF2 = CUTOFF * CUTOFF
Lists = tuple[Tensor, Tensor]


def project(
    means: Tensor, scales: Tensor, quaternions: Tensor, voxel_from_world: Tensor
) -> ProjectedGaussians:
    """See reference.project."""
    n = len(means)
    out = means.new_empty(n, 3), means.new_empty(n, 6), means.new_empty(n, 3)
    inputs = (tensor.detach().contiguous() for tensor in (means, scales, quaternions))
    _launch(triton_kernels.project, n, *inputs, _frame(voxel_from_world, means), *out, n, CUTOFF, SCALE_FLOOR)
    return ProjectedGaussians(*out)


def project_backward(
    scales: Tensor,
    quaternions: Tensor,
    voxel_from_world: Tensor,
    grad_means_vox: Tensor,
    grad_precisions: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See reference.project_backward."""
    n = len(scales)
    out = scales.new_empty(n, 3), scales.new_empty(n, 3), scales.new_empty(n, 4)
    _launch(
        triton_kernels.project_backward, n, scales.detach().contiguous(), quaternions.detach().contiguous(),
        _frame(voxel_from_world, scales), grad_means_vox.contiguous(), grad_precisions.contiguous(), *out,
        n, SCALE_FLOOR,
    )  # fmt: skip
    return out


def lists(projected: ProjectedGaussians, shape: Shape) -> Lists:
    """Members of each brick, in ascending order, as (starts, members)."""
    n, device = len(projected), projected.means_vox.device
    grid = _bricks(shape)
    box = projected.means_vox, projected.half_extents_vox
    counts = torch.empty(n, dtype=torch.int32, device=device)
    _launch(triton_kernels.count_bricks, n, *box, counts, n, *shape, **_BRICK)
    ends = counts.cumsum(0)
    bricks = torch.empty(int(ends[-1]), dtype=torch.int32, device=device)
    members = torch.empty_like(bricks)
    _launch(triton_kernels.list_bricks, n, *box, ends, bricks, members, n, *shape, *grid[1:], **_BRICK)
    bricks, order = torch.sort(bricks, stable=True)
    all_bricks = torch.arange(grid[0] * grid[1] * grid[2] + 1, dtype=torch.int32, device=device)
    return torch.searchsorted(bricks, all_bricks), members[order]


def scatter(
    projected: ProjectedGaussians,
    bricks: Lists,
    amplitudes: Tensor,
    shape: Shape,
    chunk_elements: int,
) -> tuple[Tensor, Tensor]:
    """See reference.scatter."""
    numerator, denominator = amplitudes.new_empty(shape), amplitudes.new_empty(shape)
    grid = _bricks(shape)
    with torch.cuda.device_of(amplitudes):  # type: ignore[no-untyped-call]
        triton_kernels.scatter[(grid[0] * grid[1] * grid[2],)](
            projected.means_vox, projected.precisions_vox, amplitudes.detach().contiguous(), *bricks,
            numerator, denominator, *shape, *grid[1:], _CUTOFF2, **_BRICK, num_warps=2,
        )  # fmt: skip
    return numerator, denominator


def adjoint(
    projected: ProjectedGaussians,
    residual: Tensor,
    chunk_elements: int,
) -> Tensor:
    """See reference.adjoint."""
    sums = residual.new_empty(len(projected))
    _gather(projected, residual, None, sums, None)
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
    sums, grad_means = amplitudes.new_empty(n), amplitudes.new_empty(n, 3)
    grad_precisions = amplitudes.new_empty(n, 6)
    image = amplitudes.detach().contiguous(), rendered.contiguous()
    _gather(projected, residual, image, sums, (grad_means, grad_precisions))
    return sums, grad_means, grad_precisions


def count_pairs(
    projected: ProjectedGaussians,
    row_of_voxel: Tensor,
    chunk_elements: int,
) -> Tensor:
    """See reference.count_pairs."""
    counts = torch.empty(len(projected), dtype=torch.int32, device=row_of_voxel.device)
    _pairs(projected, row_of_voxel, None, counts, None)
    return counts.to(torch.int64)


def fill_pairs(
    projected: ProjectedGaussians,
    row_of_voxel: Tensor,
    starts: Tensor,
    chunk_elements: int,
) -> tuple[Tensor, Tensor]:
    """See reference.fill_pairs."""
    rows = torch.empty(int(starts[-1]), dtype=torch.int32, device=starts.device)
    weights = torch.empty(int(starts[-1]), dtype=torch.float32, device=starts.device)
    _pairs(projected, row_of_voxel, starts, None, (rows, weights))
    return rows, weights


def _gather(
    projected: ProjectedGaussians,
    residual: Tensor,
    image: tuple[Tensor, Tensor] | None,
    sums: Tensor,
    gradients: tuple[Tensor, Tensor] | None,
) -> None:
    n = len(projected)
    _launch(
        triton_kernels.gather, n, projected.means_vox, projected.precisions_vox, projected.half_extents_vox,
        None if image is None else image[0], residual.contiguous(), None if image is None else image[1],
        sums, *(gradients or (None, None)), n, *residual.shape, _CUTOFF2, GEOMETRY=image is not None,
    )  # fmt: skip


def _pairs(
    projected: ProjectedGaussians,
    row_of_voxel: Tensor,
    starts: Tensor | None,
    counts: Tensor | None,
    filled: tuple[Tensor, Tensor] | None,
) -> None:
    n = len(projected)
    _launch(
        triton_kernels.pairs, n, projected.means_vox, projected.precisions_vox, projected.half_extents_vox,
        row_of_voxel.contiguous(), starts, counts, *(filled or (None, None)), n, *row_of_voxel.shape,
        _CUTOFF2, FILL=starts is not None,
    )  # fmt: skip


def _launch(kernel: Any, n: int, *arguments: Any, **constants: Any) -> None:
    with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
        kernel[(triton.cdiv(n, _LANES["BLOCK"]),)](*arguments, **constants, **_LANES)


def _bricks(shape: Shape) -> tuple[int, int, int]:
    return (
        triton.cdiv(shape[0], _BRICK["BX"]),
        triton.cdiv(shape[1], _BRICK["BY"]),
        triton.cdiv(shape[2], _BRICK["BZ"]),
    )


def _frame(voxel_from_world: Tensor, like: Tensor) -> Tensor:
    matrix = voxel_from_world.double().cpu()
    parts = matrix[:3, :3].reshape(-1), matrix[:3, 3], torch.linalg.inv(matrix[:3, :3]).reshape(-1)
    return torch.cat(parts).to(like)
