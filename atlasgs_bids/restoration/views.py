"""A target as Gaussians, and any view of it: rendered, never resampled from the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.grid import divided, output_grid, parts_of, resample_mask
from atlasgs_bids.imaging.header import SCANNER_CODE
from atlasgs_bids.imaging.planes import plane_axes, plane_grid, radial_axes
from atlasgs_bids.imaging.profile import SliceProfile, slice_profile
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm

FloatArray = npt.NDArray[np.float32]
Point = npt.ArrayLike

_SD_STEPS = 2
"""Of a correction by what rendering smooths away: the sd is off by 0.3 % then (decision 0025)."""
_REACH_VOX = 2.0
"""σ with which the sd is continued beyond where it is known, so that rendering draws no 0 in."""


@dataclass(frozen=True)
class View:
    """Where a target is rendered: a grid of the anchor's world."""

    grid: Grid
    profile: SliceProfile | None = None
    """Sensitivity through the planes, along the grid's third axis; None: the mean over a voxel."""


@dataclass(frozen=True)
class Slices:
    """How many planes lie in a stack, and how thick each of them is."""

    n: int = 1
    thickness_mm: float | None = None
    """None: as a pixel is wide."""
    distance_mm: float | None = None
    """From one centre to the next; None: the thickness."""
    profile: str | SliceProfile = "box"
    """Sensitivity through a plane, as ``imaging.profile.slice_profile`` has it."""


@dataclass(frozen=True)
class Region:
    """Where a result is not set to 0, on the grid of that result."""

    grid: Grid
    inside: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TargetModel:
    """Everything that a view of a target is rendered from."""

    gaussians: Gaussians
    """With the target's amplitudes."""
    cell_mm: npt.NDArray[np.float64]
    """(3, 3): what a Gaussian stands for, edges in columns."""
    sd: Tensor | None = None
    """(n,) standard deviation of the error at the Gaussians; None: not known."""
    region: Region | None = None
    """None: wherever Gaussians reach."""
    floor: float | None = None
    """Least value of an image; None: as it comes."""
    form_code: int = SCANNER_CODE
    """What a NIfTI file may claim of the world."""

    def to(self, device: torch.device | str) -> TargetModel:
        """The same on another device."""
        sd = None if self.sd is None else self.sd.to(device)
        return replace(self, gaussians=self.gaussians.to(device), sd=sd)

    def render(self, view: View) -> FloatArray:
        """The target on the view's grid, in its intensity units."""
        image = self._rendered(self.gaussians.amplitudes, view)
        return image if self.floor is None else np.maximum(image, np.float32(self.floor))

    def render_sd(self, view: View) -> FloatArray:
        """Standard deviation of its error there.

        Through thick planes, the mean of the standard deviations: what it is where errors lie all one way,
        and the most that it can be. Raises InputError where none was estimated.
        """
        if self.sd is None:
            raise InputError(
                "found no standard deviation with this target's Gaussians, expected one as AtlasGS writes it "
                "since schema atlasgs-appearance-2; run again with --overwrite, without --no-uncertainty"
            )
        return np.maximum(self._rendered(self.sd, view), np.float32(0))

    def plane(
        self,
        point_mm: Point,
        normal: Point,
        spacing_mm: float | None = None,
        *,
        slices: Slices = Slices(),
        up: Point | None = None,
        fov_mm: float | None = None,
    ) -> View:
        """Planes across a normal, the point in their middle; by default one, through everything.

        ``spacing_mm`` of pixels: None: the smallest edge of a Gaussian's cell. ``up`` and ``fov_mm`` as
        ``imaging.planes`` has them.
        """
        spacing_mm = self.finest_mm if spacing_mm is None else spacing_mm
        thickness_mm = spacing_mm if slices.thickness_mm is None else slices.thickness_mm
        distance_mm = thickness_mm if slices.distance_mm is None else slices.distance_mm
        axes = plane_axes(normal, up)
        grid = plane_grid(
            point_mm, axes, self._extent_mm(axes), spacing_mm,
            n_slices=slices.n, distance_mm=distance_mm, fov_mm=fov_mm,
        )  # fmt: skip
        return View(grid, slice_profile(slices.profile, thickness_mm))

    def radial(
        self,
        point_mm: Point,
        axis: Point,
        n_planes: int,
        spacing_mm: float | None = None,
        *,
        slices: Slices = Slices(),
        fov_mm: float | None = None,
    ) -> list[View]:
        """Planes through an axis, turned about it by 180° / n from one to the next."""
        return [
            self.plane(point_mm, axes[:, 2], spacing_mm, slices=slices, up=axes[:, 1], fov_mm=fov_mm)
            for axes in radial_axes(axis, n_planes)
        ]

    def whole(self, spacing_mm: float) -> View:
        """All of it in cubic voxels, along the axes of the result."""
        if self.region is not None:
            return View(output_grid(self.region.grid, spacing_mm))
        low, high = self._extent_mm(np.eye(3))
        shape = np.maximum(1, np.ceil(high - low)).astype(int)
        around = np.eye(4)
        around[:3, 3] = (low + high) / 2 - (shape - 1) / 2
        return View(output_grid(Grid((int(shape[0]), int(shape[1]), int(shape[2])), around), spacing_mm))

    @property
    def finest_mm(self) -> float:
        """The smallest edge of what a Gaussian stands for."""
        return float(np.linalg.norm(self.cell_mm, axis=0).min())

    def _extent_mm(self, axes: npt.NDArray[np.float64]) -> tuple[npt.NDArray, npt.NDArray]:
        """Lowest and highest corner around the Gaussians in the axes' coordinates."""
        along = self.gaussians.means_mm.double().cpu() @ torch.from_numpy(axes)
        margin_mm = self.finest_mm / 2
        return along.amin(0).numpy() - margin_mm, along.amax(0).numpy() + margin_mm

    def _rendered(self, amplitudes: Tensor, view: View) -> FloatArray:
        if view.profile is None:
            return self._within(rendered(self.gaussians, amplitudes, view.grid, self.cell_mm), view.grid)
        total = np.zeros(view.grid.shape, np.float32)
        for offset_mm, weight in sampled_profile(view.profile, view.grid, self.cell_mm):
            grid = shifted(view.grid, offset_mm)
            thin = rendered(self.gaussians, amplitudes, grid, self.cell_mm, thin=True)
            total += np.float32(weight) * self._within(thin, grid)
        return total

    def _within(self, image: FloatArray, grid: Grid) -> FloatArray:
        """The image, 0 outside the region."""
        if self.region is None:
            return image
        region = Volume(self.region.inside.astype(np.float32), self.region.grid.world_from_voxel)
        return np.where(resample_mask(region, grid), image, np.float32(0))


def rendered(
    gaussians: Gaussians,
    amplitudes: Tensor,
    grid: Grid,
    cell_mm: npt.NDArray[np.float64],
    chunk_elements: int = CoreSettings.chunk_elements,
    *,
    thin: bool = False,
) -> FloatArray:
    """The image at voxel centres; of voxels larger than a Gaussian's cell the mean, as of a pixel.

    ``thin``: no mean along the third axis.
    """
    i, j, k = parts_of(grid, cell_mm)
    parts = (i, j, 1 if thin else k)
    fine = divided(grid, parts)
    image = render(gaussians, amplitudes, fine.shape, torch.from_numpy(fine.world_from_voxel), chunk_elements)
    data: FloatArray = image.cpu().numpy()
    return data if max(parts) == 1 else Volume(data, fine.world_from_voxel).averaged(parts).data


def sampled_profile(
    profile: SliceProfile, grid: Grid, cell_mm: npt.NDArray[np.float64]
) -> list[tuple[float, float]]:
    """Offsets (mm) along the third axis, no further apart than a cell is long, and their weights."""
    low_mm, high_mm = float(profile.offsets_mm[0]), float(profile.offsets_mm[-1])
    extent = Grid(grid.shape, grid.world_from_voxel.copy())
    extent.world_from_voxel[:3, 2] *= (high_mm - low_mm) / voxel_sizes_mm(grid.world_from_voxel)[2]
    n_parts = parts_of(extent, cell_mm)[2]
    edges_mm = np.linspace(low_mm, high_mm, n_parts + 1)
    weights = np.diff(np.interp(edges_mm, profile.offsets_mm, profile.cumulative))
    centres_mm = (edges_mm[:-1] + edges_mm[1:]) / 2
    return [(float(offset), float(weight)) for offset, weight in zip(centres_mm, weights, strict=True)]


def shifted(grid: Grid, offset_mm: float) -> Grid:
    """The grid moved along its third axis."""
    moved = grid.world_from_voxel.copy()
    moved[:3, 3] += moved[:3, 2] * (offset_mm / voxel_sizes_mm(moved)[2])
    return Grid(grid.shape, moved)


def at_gaussians(
    image: FloatArray, region: Region, gaussians: Gaussians, render_on_grid: Callable[[Tensor], FloatArray]
) -> Tensor:
    """(n,) values ≥ 0 at the Gaussians that render an image of a region again.

    Sampled at the means, then corrected by what rendering smooths away, as far as that goes without a solve.
    """
    voxel_from_world = np.linalg.inv(region.grid.world_from_voxel)
    means_mm = gaussians.means_mm.double().cpu().numpy()
    means_vox = (means_mm @ voxel_from_world[:3, :3].T + voxel_from_world[:3, 3]).T

    def sampled(of: FloatArray) -> Tensor:
        values = ndimage.map_coordinates(of, means_vox, order=1, mode="nearest", output=np.float32)
        return torch.from_numpy(values).to(gaussians.means_mm)

    known = region.inside.astype(np.float32)
    share = ndimage.gaussian_filter(known, _REACH_VOX)
    around = ndimage.gaussian_filter(image * known, _REACH_VOX) / np.maximum(share, np.float32(1e-6))
    wanted = np.where(region.inside, image, around)
    values = sampled(wanted)
    for _ in range(_SD_STEPS):
        values += sampled(np.where(region.inside, wanted - render_on_grid(values), np.float32(0)))
        values.clamp_min_(0)
    return values
