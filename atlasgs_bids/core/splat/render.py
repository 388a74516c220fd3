"""Normalised rendering f(x) = Σ w_i a_i / (Σ w_i + δ), differentiable in every parameter of the Gaussians."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.gaussians import Gaussians, ProjectedGaussians, project
from atlasgs_bids.core.splat import kernels
from atlasgs_bids.core.splat.reference import Shape

DENSITY_FLOOR = 1e-6
"""δ: far below exp(-4.5), the least weight inside the cut-off, so that it acts only where there is none."""


class _NormalizedSplat(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means_vox: Tensor,
        precisions_vox: Tensor,
        amplitudes: Tensor,
        half_extents_vox: Tensor,
        shape: Shape,
        chunk_elements: int,
    ) -> Tensor:
        projected = ProjectedGaussians(means_vox, precisions_vox, half_extents_vox)
        numerator, denominator = kernels.scatter(projected, amplitudes, shape, chunk_elements)
        denominator.add_(DENSITY_FLOOR)
        rendered = numerator.div_(denominator)
        ctx.save_for_backward(means_vox, precisions_vox, amplitudes, half_extents_vox, denominator, rendered)
        ctx.chunk_elements = chunk_elements
        return rendered

    @staticmethod
    def backward(ctx: Any, grad_rendered: Tensor) -> tuple[Tensor | None, ...]:
        means_vox, precisions_vox, amplitudes, half_extents_vox, denominator, rendered = ctx.saved_tensors
        projected = ProjectedGaussians(means_vox, precisions_vox, half_extents_vox)
        grad_amplitudes, grad_means, grad_precisions = kernels.gather(
            projected, amplitudes, grad_rendered / denominator, rendered, ctx.chunk_elements
        )
        return grad_means, grad_precisions, grad_amplitudes, None, None, None


def splat(
    projected: ProjectedGaussians, amplitudes: Float[Tensor, " n"], shape: Shape, chunk_elements: int
) -> Float[Tensor, "x y z"]:
    """f on a grid of ``shape``; gradients flow to means, precisions and amplitudes, not to the cut-off."""
    rendered: Tensor = _NormalizedSplat.apply(  # type: ignore[no-untyped-call]
        projected.means_vox,
        projected.precisions_vox,
        amplitudes,
        projected.half_extents_vox.detach(),
        shape,
        chunk_elements,
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
    projected = project(gaussians.means_mm, gaussians.scales_mm, gaussians.quaternions, voxel_from_world)
    return splat(projected, amplitudes, shape, chunk_elements)
