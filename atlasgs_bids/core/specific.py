"""Target-specific Gaussians: where the shared scaffold cannot follow what a target shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.gaussians import Gaussians, joined, voxel_size_mm, world_points
from atlasgs_bids.core.priors.expectation import ExpectedStack
from atlasgs_bids.core.settings import AppearanceSettings
from atlasgs_bids.core.solvers import conjugate_gradient

_SCALE_VOX = 0.5


@dataclass(frozen=True)
class Missing:
    """What the shared Gaussians do not show of one stack."""

    image: Float[Tensor, "X Y Z"]
    """The image that the same objective has on voxels, less the rendered one; the stack's lattice."""
    allowed_rms: float
    """RMS that costs ``settings.specific_loss_db`` of what the image is expected to be off by anyway."""


def missing_image(
    expected: ExpectedStack,
    amplitudes: Float[Tensor, " n"],
    trust: float,
    settings: AppearanceSettings,
) -> Missing:
    """The voxels' solution of ‖A x − y‖²_W + μ ‖x − p‖²_V, less S a; 0 outside the support."""
    observation, expectation = expected.observation, expected.expectation
    A, W = observation.acquisition, observation.weights
    weights = expectation.trusted(trust).weights

    def normal(x: Tensor) -> Tensor:
        image = x.view(expectation.image.shape)
        return (A.adjoint(W * A.forward(image)) + weights * image).reshape(-1)

    right_side = A.adjoint(W * observation.slices) + weights * expectation.image
    solution = conjugate_gradient(
        normal,
        right_side.reshape(-1),
        start=expectation.image.reshape(-1),
        tolerance=settings.tolerance,
        max_iterations=settings.max_iterations,
    )
    rendered = observation.splat.forward(amplitudes)
    reached = expected.support & (observation.splat.forward(torch.ones_like(amplitudes)) > 0.5)
    difference = torch.where(reached, solution.value.view(rendered.shape) - rendered, 0.0)
    expected_rms = float(expectation.sd[reached].square().mean().sqrt())
    return Missing(difference, expected_rms * (10 ** (settings.specific_loss_db / 10) - 1) ** 0.5)


def specific_gaussians(
    missing: Sequence[Missing],
    expected: Sequence[ExpectedStack],
    n_shared: int,
    settings: AppearanceSettings,
) -> Gaussians | None:
    """One Gaussian on each of the voxels that miss most, until the rest is below what is allowed.

    At most ``settings.specific_fraction`` of the shared ones; None where nothing is missing.
    """
    parts = []
    budget = int(settings.specific_fraction * n_shared) // len(expected)
    for gap, own in zip(missing, expected, strict=True):
        energy = gap.image.square().reshape(-1)
        n_voxels = int((gap.image != 0).sum())
        if n_voxels == 0 or float(energy.sum()) <= gap.allowed_rms**2 * n_voxels:
            continue
        ordered, voxels = torch.sort(energy, descending=True, stable=True)
        left = ordered.sum(dtype=torch.float64) - ordered.cumsum(0, dtype=torch.float64)
        # Half of what is allowed: a Gaussian takes most of a voxel's energy, not all of it.
        wanted = int((left > 0.5 * gap.allowed_rms**2 * n_voxels).sum()) + 1
        chosen = voxels[: min(wanted, budget)]
        points = torch.stack(torch.unravel_index(chosen, gap.image.shape), dim=1).float()
        size_mm = voxel_size_mm(own.observation.world_from_lattice)
        world = own.observation.world_from_lattice.to(points)
        quaternions = points.new_zeros(len(points), 4)
        quaternions[:, 0] = 1.0
        parts.append(
            Gaussians(
                means_mm=world_points(points, world),
                scales_mm=torch.full_like(points, _SCALE_VOX * size_mm),
                quaternions=quaternions,
                amplitudes=own.expectation.image.reshape(-1)[chosen],
            )
        )
    return joined(parts) if parts else None
