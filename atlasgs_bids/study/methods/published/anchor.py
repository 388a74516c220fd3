"""First stage of the published method: 3-D Gaussians fitted to planes of the T1w, once for a session."""

import hashlib
import logging
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from atlasgs_bids.core.gaussians import rotations, world_points
from atlasgs_bids.core.metrics import decibels, gradient_magnitude
from atlasgs_bids.runtime.files import atomic
from atlasgs_bids.study.methods.published.conditional import Rasterizer, cut_by_planes, meeting_pairs
from atlasgs_bids.study.methods.published.planes import dissimilarity, in_planes
from atlasgs_bids.study.settings import PaperSettings
from atlasgs_bids.study.simulation.case import Case

logger = logging.getLogger(__name__)

_MEAN_RATE, _LAST_MEAN_RATE, _SCALE_RATE, _ROTATION_RATE, _OPACITY_RATE, _COLOR_RATE = (
    0.02, 2e-4, 5e-3, 2e-3, 2e-2, 1e-2,
)  # fmt: skip
"""Adam's, per step; means in voxels."""
_BASE_WEIGHT = 0.1
"""Of a voxel without gradient when positions are drawn, over the mean gradient."""


@dataclass(frozen=True)
class AnchorGaussians:
    means_mm: Tensor
    covariances_mm2: Tensor
    opacities: Tensor
    colors: Tensor
    """In units of the anchor's 99th percentile."""
    axis: int
    """Of the anchor, through the planes that it was fitted in."""
    psnr_db: float
    seconds: float


def anchor_gaussians(case: Case, settings: PaperSettings, rasterize: Rasterizer) -> AnchorGaussians:
    """The session's Gaussians, fitted by whoever needs them first."""
    axis = _anchor_axis(case)
    path = _stored_path(case, settings, axis)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        stored = _load(path)
        if stored is None:
            stored = _fitted(case, settings, axis, rasterize)
            with atomic(path) as temporary:
                np.savez(temporary, **_arrays(stored))  # type: ignore[arg-type]
    return stored


def _arrays(stored: AnchorGaussians) -> dict[str, np.ndarray]:
    return {k: np.asarray(v.cpu() if torch.is_tensor(v) else v) for k, v in vars(stored).items()}


def _anchor_axis(case: Case) -> int:
    """The anchor's voxel axis nearest to the slices' normal."""
    affine = case.grid.world_from_voxel[:3, :3]
    to_anchor = case.placed.registration.target_from_anchor[:3, :3].T
    normal = to_anchor @ case.placed.acquired.world_from_voxel[:3, case.slice_axis]
    return int(np.abs((affine / np.linalg.norm(affine, axis=0)).T @ normal).argmax())


def _stored_path(case: Case, settings: PaperSettings, axis: int) -> Path:
    about = (
        settings.n_points, settings.n_anchor_steps, settings.n_anchor_slices, settings.dissimilarity,
        settings.smallest_scale_vox, case.study.seed, axis,
    )  # fmt: skip
    who = case.session.replace(" ", "_")
    return case.shared_dir / f"{who}_paper-{hashlib.sha256(repr(about).encode()).hexdigest()[:10]}.npz"


def _load(path: Path) -> AnchorGaussians | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = ("means_mm", "covariances_mm2", "opacities", "colors")
            tensors = {name: torch.from_numpy(stored[name]) for name in names}
            return AnchorGaussians(
                **tensors,
                axis=int(stored["axis"]),
                psnr_db=float(stored["psnr_db"]),
                seconds=float(stored["seconds"]),
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):  # damaged: fitted again
        return None


def _fitted(case: Case, settings: PaperSettings, axis: int, rasterize: Rasterizer) -> AnchorGaussians:
    """Adam on all parameters, some planes at a time."""
    started, device = time.perf_counter(), case.run.device
    anchor = case.scaffold.anchor
    world = torch.from_numpy(anchor.volume.world_from_voxel).float()
    image = torch.from_numpy(anchor.volume.data / anchor.scale).to(device)
    support = torch.from_numpy(anchor.support).to(device)
    slices, seen = torch.movedim(image * support, axis, 0), torch.movedim(support, axis, 0)
    occupied = np.nonzero(seen.flatten(1).any(1).cpu().numpy())[0]

    parameters = _initial(image, support, world, settings, case.study.seed, device)
    voxel_mm = float(torch.linalg.norm(world[:3, :3], dim=0).mean())
    rates = (_MEAN_RATE * voxel_mm, _SCALE_RATE, _ROTATION_RATE, _OPACITY_RATE, _COLOR_RATE)
    groups = [{"params": [p], "lr": rate} for p, rate in zip(parameters.values(), rates, strict=True)]
    optimizer = torch.optim.Adam(groups, eps=1e-15, fused=device != "cpu")
    decay = (_LAST_MEAN_RATE / _MEAN_RATE) ** (1 / max(1, settings.n_anchor_steps))
    rng = np.random.default_rng(case.study.seed)
    shape = (slices.shape[1], slices.shape[2])
    n_planes = min(settings.n_anchor_slices, len(occupied))
    smallest_mm = settings.smallest_scale_vox * voxel_mm
    with case.progress.stage(f"{case.label}: Gaussians of the T1w", settings.n_anchor_steps) as advance:
        for _ in range(settings.n_anchor_steps):
            chosen = rng.choice(occupied, n_planes, replace=False)
            drawn = _drawn(parameters, smallest_mm, world, axis, chosen, shape, rasterize, device)
            mask = seen[chosen].float()
            truth = slices[chosen]
            loss = ((drawn * mask - truth).abs().sum() / mask.sum()) + (
                settings.dissimilarity * dissimilarity(drawn * mask, truth)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            optimizer.param_groups[0]["lr"] *= decay
            advance(1)
    with torch.no_grad():
        squared, n_voxels = 0.0, 0.0
        for first in range(0, len(occupied), 8):
            chosen = occupied[first : first + 8]
            drawn = _drawn(parameters, smallest_mm, world, axis, chosen, shape, rasterize, device)
            error = (drawn - slices[chosen])[seen[chosen]]
            squared, n_voxels = squared + float((error**2).sum()), n_voxels + error.numel()
        psnr_db = decibels(max(squared / n_voxels, 1e-20), float(slices.max()))
    logger.info("%s: %d Gaussians, T1w at %.1f dB", case.label, len(parameters["means"]), psnr_db)
    values = {name: p.detach() for name, p in parameters.items()}
    return AnchorGaussians(
        means_mm=values["means"].cpu(),
        covariances_mm2=_covariances(values, smallest_mm).cpu(),
        opacities=torch.sigmoid(values["logits"]).cpu(),
        colors=values["colors"].cpu(),
        axis=axis,
        psnr_db=psnr_db,
        seconds=time.perf_counter() - started,
    )


def _initial(
    image: Tensor, support: Tensor, world: Tensor, settings: PaperSettings, seed: int, device: str
) -> dict[str, Tensor]:
    """Points drawn by gradient magnitude, as wide as their mean spacing, half opaque."""
    gradient = gradient_magnitude(image)
    weights = gradient + _BASE_WEIGHT * gradient[support].mean().clamp_min(1e-6)
    generator = torch.Generator().manual_seed(seed)
    points_vox = _positions(support, weights, settings.n_points, generator).to(device)
    index = points_vox.round().long().clamp_min(0)
    index = torch.minimum(index, torch.tensor(image.shape, device=device) - 1)
    spacing_vox = (float(support.sum()) / len(points_vox)) ** (1 / 3)
    voxel_mm = float(torch.linalg.norm(world[:3, :3], dim=0).mean())
    quaternions = torch.zeros(len(points_vox), 4, device=device)
    quaternions[:, 0] = 1
    parameters = {
        "means": world_points(points_vox, world.to(device)),
        "log_scales": torch.full(
            (len(points_vox), 3), float(np.log(0.5 * spacing_vox * voxel_mm)), device=device
        ),
        "quaternions": quaternions,
        "logits": torch.zeros(len(points_vox), device=device),
        "colors": image[tuple(index.T)].clone(),
    }
    return {name: value.requires_grad_() for name, value in parameters.items()}


def _positions(support: Tensor, weights: Tensor, n_gaussians: int, generator: torch.Generator) -> Tensor:
    """Voxel indices drawn from ``support`` without replacement, with probability by ``weights`` (> 0).

    Where more Gaussians than voxels are asked for, every voxel is taken once and the rest is drawn again
    with a jitter of up to half a voxel. The generator lives on the CPU, so any device draws the same.
    """
    voxels = support.nonzero().cpu()
    chosen_weights = weights.cpu()[tuple(voxels.T)].double()
    parts = []
    remaining = n_gaussians
    jitter = 0.0
    while remaining > 0:
        # The largest keys of log(u)/w are a weighted sample without replacement (Efraimidis 2006).
        uniform = torch.rand(len(voxels), generator=generator, dtype=torch.float64)
        keys = uniform.clamp_min(1e-300).log() / chosen_weights
        chosen = torch.topk(keys, min(remaining, len(voxels))).indices.sort().values
        shift = (torch.rand(len(chosen), 3, generator=generator) - 0.5) * jitter
        parts.append(voxels[chosen].float() + shift)
        remaining -= len(chosen)
        jitter = 1.0
    return torch.cat(parts).to(weights.device)


def _covariances(parameters: dict[str, Tensor], smallest_mm: float) -> Tensor:
    """(n, 3, 3) mm²."""
    scales_mm = parameters["log_scales"].exp().clamp_min(smallest_mm)
    factor = rotations(parameters["quaternions"]) * scales_mm[:, None, :]
    return factor @ factor.transpose(1, 2)


def _drawn(
    parameters: dict[str, Tensor],
    smallest_mm: float,
    world: Tensor,
    axis: int,
    planes: np.ndarray,
    shape: tuple[int, int],
    rasterize: Rasterizer,
    device: str,
) -> Tensor:
    """(planes, u, v) of the anchor."""
    moving = _Moving(parameters["means"], _covariances(parameters, smallest_mm))
    means, covariances = in_planes(moving, world.double().numpy(), axis, device)
    positions = torch.from_numpy(planes).to(means)
    cut = cut_by_planes(means, covariances, positions, meeting_pairs(means, covariances, positions))
    opacities = torch.sigmoid(parameters["logits"]).index_select(0, cut.owners) * cut.marginals
    colors = parameters["colors"][:, None].index_select(0, cut.owners)
    drawn = rasterize(cut, colors, opacities, len(planes), shape)
    return drawn[..., 0]


@dataclass(frozen=True)
class _Moving:
    means_mm: Tensor
    covariances_mm2: Tensor
