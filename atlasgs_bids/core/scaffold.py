"""Stage 1: the geometry of the Gaussians, fitted to the anchor."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlasgs_bids.core.gaussians import (
    Gaussians,
    project,
    sample_positions,
    voxel_size_mm,
    world_points,
)
from atlasgs_bids.core.metrics import gradient_magnitude
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.core.splat.render import splat

_LEARNING_RATES = {"means": 0.03, "log_scales": 0.03, "quaternions": 0.03, "amplitudes": 0.02}
"""Per Adam step: voxels, log units, quaternion units, fraction of the anchor's maximum."""
_SCALE_LIMITS_VOX = (0.25, 3.0)
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
    # In voxels, so that one set of learning rates fits every voxel size; to mm at the end.
    means = start_vox.clone().requires_grad_()
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
    parameters = {
        "means": means, "log_scales": log_scales, "quaternions": quaternions, "amplitudes": amplitudes
    }  # fmt: skip
    optimizer = torch.optim.Adam(
        [{"params": [value], "lr": _LEARNING_RATES[name]} for name, value in parameters.items()],
        betas=(0.9, 0.99),
    )
    n_total = settings.scaffold.n_steps
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, n_total), eta_min=0.003)
    identity = torch.eye(4, device=device)
    n_support = float(support.sum())
    weight = support.to(target.dtype)

    def loss_now() -> Tensor:
        projected = project(means, log_scales.exp(), quaternions, identity)
        shape = (anchor.shape[0], anchor.shape[1], anchor.shape[2])
        rendered = splat(projected, amplitudes, shape, settings.chunk_elements)
        return (weight * (rendered - target) ** 2).sum()

    n_steps = 0
    psnr_db = float("-inf")
    while n_steps < n_total:
        loss = loss_now()
        psnr_db = _psnr_db(loss, n_support)
        if psnr_db >= settings.scaffold.target_psnr_db:
            break
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            log_scales.clamp_(*(float(torch.tensor(limit).log()) for limit in _SCALE_LIMITS_VOX))
        n_steps += 1
        on_step(1)
    else:
        with torch.no_grad():
            psnr_db = _psnr_db(loss_now(), n_support)
    fitted = Gaussians(means.detach(), log_scales.detach().exp(), quaternions.detach(), amplitudes.detach())
    return Scaffold(_to_world(fitted, world_from_voxel.to(device), scale), psnr_db, n_steps)


def _psnr_db(loss: Tensor, n_support: float) -> float:
    return -10 * float(torch.log10(loss.detach() / n_support + 1e-20))


def _initial_positions(target: Tensor, support: Tensor, settings: CoreSettings) -> Tensor:
    generator = torch.Generator().manual_seed(settings.seed)
    slope = gradient_magnitude(target)
    inside = slope[support].cpu()
    reference = float(torch.quantile(inside[:: max(1, len(inside) // 100_000)], 0.9)) or 1.0
    weights = (slope / reference).clamp(0, 1) + _FLAT_WEIGHT
    n_gaussians = default_n_gaussians(int(support.sum()), settings)
    return sample_positions(support, weights, n_gaussians, generator)


def _initial_scale_vox(n_gaussians: int, support: Tensor) -> float:
    """σ of half the mean spacing: neighbours then overlap by about one σ (measured: 0.4 and 0.6 are worse)."""
    spacing = (float(support.sum()) / n_gaussians) ** (1 / 3)
    return min(max(0.5 * spacing, _SCALE_LIMITS_VOX[0]), _SCALE_LIMITS_VOX[1])


def _to_world(gaussians: Gaussians, world_from_voxel: Tensor, scale: float) -> Gaussians:
    """Voxel units to mm, for a grid of near-cubic voxels; the rotation is taken over by the quaternions.

    An anchor with unequal voxel sides is brought to cubic ones before it is fitted (subject.py), so
    world_from_voxel is a rotation (or reflection) times one voxel size.
    """
    size_mm = voxel_size_mm(world_from_voxel)
    rotation = world_from_voxel[:3, :3].double() / size_mm
    if torch.linalg.det(rotation) < 0:
        # A Gaussian has no handedness: R and −R give the same covariance.
        rotation = -rotation
    grid_quaternion = _quaternion(rotation.cpu()).to(gaussians.quaternions)
    quaternions = torch.nn.functional.normalize(_product(grid_quaternion, gaussians.quaternions), dim=1)
    return replace(
        gaussians,
        means_mm=world_points(gaussians.means_mm, world_from_voxel.to(gaussians.means_mm)),
        scales_mm=gaussians.scales_mm * size_mm,
        quaternions=quaternions,
        amplitudes=gaussians.amplitudes * scale,
    )


def _quaternion(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "4"]:
    """Unit quaternion (w, x, y, z) of a rotation: the largest eigenvector of Bar-Itzhack's matrix (2000)."""
    r = rotation
    k = torch.tensor(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]],
            [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]],
            [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
        ],
        dtype=torch.float64,
    )
    x, y, z, w = torch.linalg.eigh(k).eigenvectors[:, -1].unbind()
    return torch.stack([w, x, y, z])


def _product(left: Float[Tensor, "4"], right: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Hamilton product: the rotation ``left`` after each of ``right``."""
    a, b, c, d = left.unbind()
    w, x, y, z = right.unbind(1)
    return torch.stack(
        [
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ],
        dim=1,
    )
