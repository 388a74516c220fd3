"""Planes at an angle to the slices: rendered by what can render, interpolated from the others' voxels."""

from itertools import product

import numpy as np

from atlasgs_bids.core.metrics import decibels
from atlasgs_bids.imaging.grid import resample, resample_mask
from atlasgs_bids.imaging.planes import plane_axes, plane_grid
from atlasgs_bids.imaging.profile import slice_profile
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm
from atlasgs_bids.restoration.views import View
from atlasgs_bids.study.methods.protocol import Restored
from atlasgs_bids.study.results.scores import Reference

ANGLES_DEG = (30, 45)
_N_PLANES, _DISTANCE_MM = 3, 20.0
"""Of a stack: the middle one through the middle of the mask."""


def oblique_scores(restored: Restored, reference: Reference) -> dict[str, float]:
    """PSNR (dB) in planes at 30° and 45° to the slices: ``oblique_30``, ``oblique_45``.

    Six planes for each angle, turned about either axis in the slices. The truth is interpolated there
    (cubic B-splines); its range is that in the mask, as for the PSNR of the volume.
    """
    return {f"oblique_{angle}": _psnr_db(restored, reference, angle) for angle in ANGLES_DEG}


def _psnr_db(restored: Restored, reference: Reference, angle_deg: float) -> float:
    affine = reference.world_from_voxel
    truth, image, mask = (
        Volume(np.asarray(of, np.float32), affine) for of in (reference.truth, restored.image, reference.mask)
    )
    thin = slice_profile("box", float(voxel_sizes_mm(affine).min()))
    squared, n_pixels = 0.0, 0
    for grid in oblique_grids(reference, angle_deg):
        inside = resample_mask(mask, grid)
        expected = resample(truth, grid, order=3)
        if restored.model is not None:
            shown = restored.model.render(View(grid, thin))
        else:
            shown = resample(image, grid, order=3)
        squared += float(((shown - expected)[inside].astype(np.float64) ** 2).sum())
        n_pixels += int(inside.sum())
    return decibels(squared / n_pixels, reference.range) if n_pixels else np.nan


def oblique_grids(reference: Reference, angle_deg: float) -> list[Grid]:
    """Stacks of planes through the mask, turned about either axis in the slices; pixels as the voxels."""
    affine = reference.world_from_voxel
    sizes_mm = voxel_sizes_mm(affine)
    directions = affine[:3, :3] / sizes_mm
    middle_mm = affine[:3, :3] @ np.argwhere(reference.mask).mean(axis=0) + affine[:3, 3]
    corners = np.array(list(product(*((-0.5, n - 0.5) for n in reference.mask.shape))))
    corners_mm = corners @ affine[:3, :3].T + affine[:3, 3]
    turn = np.radians(angle_deg)
    grids = []
    for within in (i for i in range(3) if i != reference.axis):
        axes = plane_axes(np.cos(turn) * directions[:, reference.axis] + np.sin(turn) * directions[:, within])
        along = corners_mm @ axes
        around_mm = along.min(axis=0), along.max(axis=0)
        spacing_mm = float(sizes_mm.min())
        grids.append(
            plane_grid(middle_mm, axes, around_mm, spacing_mm, n_slices=_N_PLANES, distance_mm=_DISTANCE_MM)
        )
    return grids
