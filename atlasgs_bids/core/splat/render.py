"""Normalised rendering f(x) = Σ w_i a_i / (Σ w_i + δ), differentiable in every parameter of the Gaussians."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.gaussians import Gaussians, ProjectedGaussians
from atlasgs_bids.core.splat.kernels import kernels_for
from atlasgs_bids.core.splat.reference import Shape

DENSITY_FLOOR = 1e-6
"""δ: far below exp(-4.5), the least weight inside the cut-off, so that it acts only where there is none."""


class _NormalizedSplat(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        scales: Tensor,
        quaternions: Tensor,
        amplitudes: Tensor,
        voxel_from_world: Tensor,
        shape: Shape,
        chunk_elements: int,
    ) -> Tensor:
        kernels = kernels_for(means)
        projected = kernels.project(means, scales, quaternions, voxel_from_world)
        lists = kernels.lists(projected, shape)
        rendered: Tensor
        rendered, density = kernels.scatter(projected, lists, amplitudes, shape, chunk_elements)
        density.add_(DENSITY_FLOOR)
        rendered.div_(density)
        ctx.save_for_backward(
            scales, quaternions, amplitudes, voxel_from_world, *vars(projected).values(), density, rendered
        )
        ctx.chunk_elements = chunk_elements
        return rendered

    @staticmethod
    def backward(ctx: Any, grad_rendered: Tensor) -> tuple[Tensor | None, ...]:
        scales, quaternions, amplitudes, voxel_from_world, *fields, density, rendered = ctx.saved_tensors
        grads = gathered(
            ProjectedGaussians(*fields), scales, quaternions, amplitudes, voxel_from_world,
            grad_rendered / density, rendered, ctx.chunk_elements,
        )  # fmt: skip
        return *grads, None, None, None


def gathered(
    projected: ProjectedGaussians,
    scales: Float[Tensor, "n 3"],
    quaternions: Float[Tensor, "n 4"],
    amplitudes: Float[Tensor, " n"],
    voxel_from_world: Float[Tensor, "4 4"],
    grad_over_density: Float[Tensor, "x y z"],
    rendered: Float[Tensor, "x y z"],
    chunk_elements: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by means (n, 3), scales (n, 3), quaternions (n, 4) and amplitudes (n,) from the image's."""
    kernels = kernels_for(scales)
    by_amplitude, by_mean_vox, by_precision = kernels.gather(
        projected, amplitudes, grad_over_density, rendered, chunk_elements
    )
    by_mean, by_scale, by_quaternion = kernels.project_backward(
        scales, quaternions, voxel_from_world, by_mean_vox, by_precision
    )
    return by_mean, by_scale, by_quaternion, by_amplitude


def splat(
    means: Float[Tensor, "n 3"],
    scales: Float[Tensor, "n 3"],
    quaternions: Float[Tensor, "n 4"],
    amplitudes: Float[Tensor, " n"],
    voxel_from_world: Float[Tensor, "4 4"],
    shape: Shape,
    chunk_elements: int,
) -> Float[Tensor, "x y z"]:
    """f on a grid of ``shape``; means and scales in the world's unit.

    Gradients flow to means, scales, quaternions and amplitudes, not through the cut-off.
    """
    rendered: Tensor = _NormalizedSplat.apply(  # type: ignore[no-untyped-call]
        means, scales, quaternions, amplitudes, voxel_from_world, shape, chunk_elements
    )
    return rendered


def render(
    gaussians: Gaussians,
    amplitudes: Float[Tensor, " n"],
    shape: Shape,
    world_from_voxel: Float[Tensor, "4 4"],
    chunk_elements: int,
) -> Float[Tensor, "x y z"]:
    """The image of ``amplitudes`` on any grid, in the amplitudes' units; 0 where no Gaussian reaches."""
    voxel_from_world = torch.linalg.inv(world_from_voxel.double()).to(gaussians.means_mm)
    return splat(
        gaussians.means_mm, gaussians.scales_mm, gaussians.quaternions, amplitudes, voxel_from_world, shape,
        chunk_elements,
    )  # fmt: skip
