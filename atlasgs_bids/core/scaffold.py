"""Stage 1: the geometry of the Gaussians, fitted to the anchor."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlasgs_bids.core.gaussians import Gaussians, sample_positions, voxel_size_mm, world_points
from atlasgs_bids.core.metrics import decibels, gradient_magnitude
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.core.solvers import Adam
from atlasgs_bids.core.splat.render import splat

_FIRST_RATES = 0.03, 0.03, 0.03, 0.02
"""Of means, scales, quaternions and amplitudes, per Adam step: voxels, log units, quaternion units,
fraction of the anchor's maximum."""
_LAST_RATE = 0.003
_SCALE_LIMITS_VOX = (0.25, 3.0)
_LOG_SCALE_LIMITS = (math.log(_SCALE_LIMITS_VOX[0]), math.log(_SCALE_LIMITS_VOX[1]))
_FLAT_WEIGHT = 0.3
"""Sampling weight of a voxel without gradient, relative to one at the 90th percentile of the gradient."""


@dataclass(frozen=True)
class Scaffold:
    """Fitted Gaussians and how well they render the anchor."""

    gaussians: Gaussians
    anchor_psnr_db: float
    """Inside the support; range = the anchor's maximum."""
    n_steps: int


def default_n_gaussians(n_support: int, settings: CoreSettings) -> int:
    """Number of Gaussians for a support of so many voxels."""
    asked = settings.scaffold.n_gaussians
    wanted = asked if asked is not None else round(settings.scaffold.gaussians_per_voxel * n_support)
    return max(1, wanted if asked is not None else min(wanted, settings.scaffold.max_gaussians))


def fit_scaffold(
    anchor: Float[Tensor, "x y z"],
    support: Bool[Tensor, "x y z"],
    world_from_voxel: Float[Tensor, "4 4"],
    settings: CoreSettings,
    on_step: Callable[[int], None] = lambda _: None,
) -> Scaffold:
    """Gaussians whose normalised rendering is the anchor inside ``support``.

    Adam on means, scales, rotations and amplitudes from one Gaussian on each of the drawn voxels; stops at
    ``settings.scaffold.n_steps`` or once ``target_psnr_db`` is reached. ``on_step(1)`` is called after each.
    """
    device = anchor.device
    scale = float(anchor[support].abs().max())
    target = anchor / scale
    start_vox = _initial_positions(target, support, settings)
    # World axes in units of the voxel size, so that one set of learning rates fits every voxel size.
    size_mm = voxel_size_mm(world_from_voxel)
    world_from_voxel = world_from_voxel.to(target)
    voxel_from_scaled = torch.linalg.inv(world_from_voxel.double()).to(target)
    voxel_from_scaled[:3, :3] *= size_mm
    means = (world_points(start_vox, world_from_voxel) / size_mm).requires_grad_()
    log_scales = (
        torch.full_like(start_vox, _initial_scale_vox(len(start_vox), support)).log().requires_grad_()
    )
    quaternions = torch.zeros(len(start_vox), 4, device=device)
    quaternions[:, 0] = 1.0
    quaternions.requires_grad_()
    nearest = start_vox.round().long().unbind(1)
    limits = [n - 1 for n in anchor.shape]
    index = tuple(i.clamp(0, limit) for i, limit in zip(nearest, limits, strict=True))
    amplitudes = target[index].clone().requires_grad_()
    optimizer = Adam((means, log_scales, quaternions, amplitudes))
    n_total = settings.scaffold.n_steps
    n_support = float(support.sum())
    weight = support.to(target.dtype)

    def loss_now() -> Tensor:
        shape = (anchor.shape[0], anchor.shape[1], anchor.shape[2])
        rendered = splat(
            means,
            log_scales.exp(),
            quaternions,
            amplitudes,
            voxel_from_scaled,
            shape,
            settings.chunk_elements,
        )
        return (weight * (rendered - target) ** 2).sum()

    n_steps = 0
    psnr_db = float("-inf")
    while n_steps < n_total:
        loss = loss_now()
        psnr_db = _psnr_db(loss, n_support)
        if psnr_db >= settings.scaffold.target_psnr_db:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step(_rates(n_steps / n_total))
        with torch.no_grad():
            log_scales.clamp_(*_LOG_SCALE_LIMITS)
        n_steps += 1
        on_step(1)
    else:
        with torch.no_grad():
            psnr_db = _psnr_db(loss_now(), n_support)
    gaussians = Gaussians(
        means_mm=means.detach() * size_mm,
        scales_mm=log_scales.detach().exp() * size_mm,
        quaternions=torch.nn.functional.normalize(quaternions.detach(), dim=1),
        amplitudes=amplitudes.detach() * scale,
    )
    return Scaffold(gaussians, psnr_db, n_steps)


def _rates(progress: float) -> list[float]:
    """Learning rates, which fall along half a cosine."""
    return [
        _LAST_RATE + (first - _LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2 for first in _FIRST_RATES
    ]


def _psnr_db(loss: Tensor, n_support: float) -> float:
    mean_square = float(loss.detach()) / n_support
    return decibels(max(mean_square, 1e-20), 1.0)


def _initial_positions(target: Tensor, support: Tensor, settings: CoreSettings) -> Tensor:
    generator = torch.Generator().manual_seed(settings.seed)
    slope = gradient_magnitude(target)
    inside = slope[support].cpu()
    reference = float(torch.quantile(inside[:: max(1, len(inside) // 100_000)], 0.9)) or 1.0
    weights = (slope / reference).clamp(0, 1) + _FLAT_WEIGHT
    n_gaussians = default_n_gaussians(int(support.sum()), settings)
    return sample_positions(support, weights, n_gaussians, generator)


def _initial_scale_vox(n_gaussians: int, support: Tensor) -> float:
    """Half the mean spacing; 0.4 and 0.6 of it were fitted more slowly."""
    spacing = math.pow(float(support.sum()) / n_gaussians, 1 / 3)
    return min(max(0.5 * spacing, _SCALE_LIMITS_VOX[0]), _SCALE_LIMITS_VOX[1])
