"""Oracles that several tests share."""

import torch
from torch import Tensor

from atlasgs_bids.core.acquisition import AcquisitionOperator
from atlasgs_bids.core.gaussians import CUTOFF, Gaussians, rotations
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.operators import Identity, LinearOperator


def assert_adjoint(op: LinearOperator, relative_tolerance: float = 1e-10, device: str = "cpu") -> None:
    """|<A x, y> − <x, Aᵀ y>| is small beside ‖A x‖ ‖y‖, in float64 with random operands."""
    x = torch.randn(op.shape_in, dtype=torch.float64).to(device)
    y = torch.randn(op.shape_out, dtype=torch.float64).to(device)
    forward, adjoint = op.forward(x), op.adjoint(y)
    assert forward.shape == op.shape_out
    assert adjoint.shape == op.shape_in
    difference = abs(float((forward * y).sum() - (x * adjoint).sum()))
    assert difference <= relative_tolerance * float(forward.norm() * y.norm())


def of_cells(
    slices: Tensor,
    slice_axis: int,
    acquisition: AcquisitionOperator,
    cell_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> LatticeObservation:
    """Slices of a lattice without Gaussians: its cells are the amplitudes."""
    return LatticeObservation(
        slices,
        torch.ones_like(slices),
        slice_axis,
        acquisition=acquisition,
        splat=Identity(acquisition.shape_in),
        world_from_lattice=torch.diag(torch.tensor([*cell_mm, 1.0], dtype=torch.float64)),
    )


def dense_matrix(op: LinearOperator) -> Tensor:
    """The operator as a matrix, column by column."""
    n = int(torch.tensor(op.shape_in).prod())
    columns = [op.forward(row.reshape(op.shape_in)).reshape(-1) for row in torch.eye(n, dtype=torch.float64)]
    return torch.stack(columns, dim=1)


def random_gaussians(
    n: int, extent_mm: float, anisotropy: float = 3.0, dtype: torch.dtype = torch.float64
) -> Gaussians:
    """Gaussians in and around a cube of ``extent_mm``, some of them beyond its border."""
    scales_mm = 0.8 * anisotropy ** (torch.rand(n, 3, dtype=torch.float64) - 0.5)
    return Gaussians(
        means_mm=((torch.rand(n, 3, dtype=torch.float64) * 1.5 - 0.25) * extent_mm).to(dtype),
        scales_mm=scales_mm.to(dtype),
        quaternions=torch.randn(n, 4, dtype=torch.float64).to(dtype),
        amplitudes=torch.randn(n, dtype=torch.float64).to(dtype),
    )


def dense_weights(gaussians: Gaussians, shape: tuple[int, ...], world_from_voxel: Tensor) -> Tensor:
    """w_i(x) for every pair, (n_voxels, n), straight from the definition."""
    axes = [torch.arange(size, dtype=torch.float64) for size in shape]
    voxels = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    world_mm = voxels @ world_from_voxel[:3, :3].T + world_from_voxel[:3, 3]
    offsets = world_mm[:, None, :] - gaussians.means_mm[None]
    rotation = rotations(gaussians.quaternions)
    standardized = torch.einsum("vni,nij->vnj", offsets, rotation) / gaussians.scales_mm
    distance2 = (standardized**2).sum(-1)
    return torch.where(distance2 <= CUTOFF**2, torch.exp(-0.5 * distance2), 0.0)
