"""Stage 1: a lattice of Gaussians over the anchor, moved from there only where that is asked for."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlasgs_bids.core.gaussians import (
    Gaussians,
    quaternions_of,
    voxel_size_mm,
    world_points,
)
from atlasgs_bids.core.metrics import decibels
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.core.solvers import Adam, conjugate_gradient
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import splat

_FIRST_RATES = 0.03, 0.03, 0.03, 0.02
"""Of means, scales, quaternions and amplitudes, per Adam step: voxels, log units, quaternion units,
fraction of the anchor's maximum."""
_LAST_RATE = 0.003
_SCALE_LIMITS_VOX = (0.25, 3.0)
_RIDGE = 1e-4
_LEAST_RESIDUAL = 1e-4
"""Of the anchor's amplitudes; they render it at more than 60 dB then."""
_MOST_ITERATIONS = 100


@dataclass(frozen=True)
class Scaffold:
    """Gaussians and how well they render the anchor."""

    gaussians: Gaussians
    anchor_psnr_db: float
    """Inside the support; range = the anchor's maximum."""
    n_steps: int
    """Of Adam on the geometry; 0: a lattice."""


def default_n_gaussians(n_support: int, settings: CoreSettings) -> int:
    """Most Gaussians for a support of so many voxels: as asked for, or one for each up to a limit."""
    asked = settings.scaffold.n_gaussians
    return min(n_support, settings.scaffold.max_gaussians) if asked is None else asked


def fit_scaffold(
    anchor: Float[Tensor, "x y z"],
    support: Bool[Tensor, "x y z"],
    world_from_voxel: Float[Tensor, "4 4"],
    settings: CoreSettings,
    on_step: Callable[[int], None] = lambda _: None,
) -> Scaffold:
    """Gaussians whose normalised rendering is the anchor inside ``support``.

    A lattice, whose geometry ``settings.scaffold.n_steps`` steps of Adam may move; then the amplitudes by
    conjugate gradients. ``on_step(1)`` is called after each step of Adam and at the end.
    """
    n_gaussians = default_n_gaussians(int(support.sum()), settings)
    gaussians = lattice_gaussians(support, world_from_voxel, n_gaussians, settings.scaffold.sigma_spacings)
    n_steps = 0
    if settings.scaffold.n_steps > 0:
        gaussians, n_steps = moved_gaussians(gaussians, anchor, support, world_from_voxel, settings, on_step)
    shape = (anchor.shape[0], anchor.shape[1], anchor.shape[2])
    splat_op = SplatOperator(gaussians, shape, world_from_voxel, support, settings.chunk_elements)
    gaussians = replace(gaussians, amplitudes=anchor_amplitudes(splat_op, anchor))
    on_step(1)
    return Scaffold(gaussians, rendering_psnr_db(splat_op, gaussians.amplitudes, anchor, support), n_steps)


def lattice_gaussians(
    support: Bool[Tensor, "x y z"],
    world_from_voxel: Float[Tensor, "4 4"],
    n_gaussians: int,
    sigma_spacings: float,
) -> Gaussians:
    """At most ``n_gaussians`` on a lattice along the voxel axes, where the nearest voxel is in ``support``.

    σ is ``sigma_spacings`` of the spacing along each axis, so that cells that are not cubic are filled as
    cubic ones are. With one for each voxel, they are at the centres. Amplitudes are 0.
    """
    points_vox, spacing_vox = _lattice(support, n_gaussians)
    # Σ = σ² M Mᵀ with M the lattice's cell in mm, whatever the affine: M = U S Vᵀ gives axes and lengths.
    axes, lengths_mm, _ = torch.linalg.svd(world_from_voxel[:3, :3].double().cpu() * spacing_vox)
    n, means_mm = len(points_vox), world_points(points_vox.double(), world_from_voxel.to(points_vox.device))
    quaternions = quaternions_of((axes * torch.linalg.det(axes).sign())[None])
    return Gaussians(
        means_mm=means_mm.float(),
        scales_mm=(sigma_spacings * lengths_mm).float().repeat(n, 1).to(points_vox.device),
        quaternions=quaternions.float().repeat(n, 1).to(points_vox.device),
        amplitudes=points_vox.new_zeros(n),
    )


def _lattice(support: Bool[Tensor, "x y z"], n_gaussians: int) -> tuple[Float[Tensor, "n 3"], float]:
    """Points in voxels and their spacing; through the voxel of the support nearest to its centre."""
    voxels = support.nonzero()
    if n_gaussians == len(voxels):
        return voxels.float(), 1.0
    centre = voxels.double().mean(0)
    origin = voxels[((voxels - centre) ** 2).sum(1).argmin()].double()
    low, high = voxels.amin(0) - origin - 0.5, voxels.amax(0) - origin + 0.5
    spacing = math.pow(len(voxels) / n_gaussians, 1 / 3)
    while True:
        first, last = (low / spacing).ceil().tolist(), (high / spacing).ceil().tolist()
        axes = [origin[k] + spacing * torch.arange(first[k], last[k]).to(origin) for k in range(3)]
        points = torch.cartesian_prod(*axes)
        index = tuple((points + 0.5).floor().long().unbind(1))
        points = points[support[index]]
        if len(points) <= n_gaussians:
            return points.float(), spacing
        spacing *= max(math.pow(len(points) / n_gaussians, 1 / 3), 1.001)


def anchor_amplitudes(splat_op: SplatOperator, image: Float[Tensor, "x y z"]) -> Float[Tensor, " n"]:
    """Amplitudes with which fixed Gaussians render an image best."""

    def normal(amplitudes: Tensor) -> Tensor:
        return splat_op.adjoint(splat_op.forward(amplitudes)) + _RIDGE * amplitudes

    row_sums = splat_op.adjoint(splat_op.forward(image.new_ones(splat_op.shape_in)))
    return conjugate_gradient(
        normal,
        splat_op.adjoint(image),
        inverse_diagonal=1 / (row_sums + _RIDGE),
        tolerance=_LEAST_RESIDUAL,
        max_iterations=_MOST_ITERATIONS,
    ).value


def rendering_psnr_db(
    splat_op: SplatOperator, amplitudes: Tensor, image: Tensor, support: Bool[Tensor, "x y z"]
) -> float:
    """How well amplitudes render an image inside the support, dB; range = the image's maximum there."""
    error = (splat_op.forward(amplitudes) - image)[support]
    return decibels(max(float((error**2).mean()), 1e-20), float(image[support].abs().max()))


def moved_gaussians(
    start: Gaussians,
    anchor: Float[Tensor, "x y z"],
    support: Bool[Tensor, "x y z"],
    world_from_voxel: Float[Tensor, "4 4"],
    settings: CoreSettings,
    on_step: Callable[[int], None] = lambda _: None,
) -> tuple[Gaussians, int]:
    """Gaussians moved by Adam until they render the anchor, and in how many steps.

    On means, scales, rotations and amplitudes, from the anchor's values; stops at
    ``settings.scaffold.n_steps`` or once ``target_psnr_db`` is reached.
    """
    scale = float(anchor[support].abs().max())
    target = anchor / scale
    # World axes in units of the voxel size, so that one set of learning rates fits every voxel size.
    size_mm = voxel_size_mm(world_from_voxel)
    world_from_voxel = world_from_voxel.to(target)
    voxel_from_world = torch.linalg.inv(world_from_voxel.double()).to(target)
    voxel_from_scaled = voxel_from_world.clone()
    voxel_from_scaled[:3, :3] *= size_mm
    limits_vox = [math.log(limit) for limit in _SCALE_LIMITS_VOX]
    nearest = world_points(start.means_mm, voxel_from_world).round().long().unbind(1)
    index = tuple(i.clamp(0, n - 1) for i, n in zip(nearest, anchor.shape, strict=True))
    means = (start.means_mm / size_mm).requires_grad_()
    log_scales = (start.scales_mm / size_mm).log().clamp(*limits_vox).requires_grad_()
    quaternions = start.quaternions.clone().requires_grad_()
    amplitudes = target[index].clone().requires_grad_()
    optimizer = Adam((means, log_scales, quaternions, amplitudes))
    n_total = settings.scaffold.n_steps
    n_support = float(support.sum())
    weight = support.to(target.dtype)
    shape = (anchor.shape[0], anchor.shape[1], anchor.shape[2])
    n_steps = 0
    while n_steps < n_total:
        rendered = splat(
            means, log_scales.exp(), quaternions, amplitudes, voxel_from_scaled, shape,
            settings.chunk_elements,
        )  # fmt: skip
        loss = (weight * (rendered - target) ** 2).sum()
        if _psnr_db(loss, n_support) >= settings.scaffold.target_psnr_db:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step(_rates(n_steps / n_total))
        with torch.no_grad():
            log_scales.clamp_(*limits_vox)
        n_steps += 1
        on_step(1)
    moved = Gaussians(
        means_mm=means.detach() * size_mm,
        scales_mm=log_scales.detach().exp() * size_mm,
        quaternions=torch.nn.functional.normalize(quaternions.detach(), dim=1),
        amplitudes=amplitudes.detach() * scale,
    )
    return moved, n_steps


def _rates(progress: float) -> list[float]:
    """Learning rates, which fall along half a cosine."""
    return [
        _LAST_RATE + (first - _LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2 for first in _FIRST_RATES
    ]


def _psnr_db(loss: Tensor, n_support: float) -> float:
    mean_square = float(loss.detach()) / n_support
    return decibels(max(mean_square, 1e-20), 1.0)
