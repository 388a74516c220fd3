"""Smooth displacements of a head: a vector for each voxel of a coarse grid, and ITK's files of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.itk import LPS_FROM_RAS
from atlasgs_bids.imaging.nifti import open_image
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm

_ROUNDS, _ENOUGH_MM = 50, 1e-3
_SHARE = 0.7
"""Of what is missed, made good in a round: all of it would part from where space is stretched twofold."""
_VECTOR_INTENT = "vector"
_FOUND_MM = 4.0
"""Voxels of a field that was found: a spline of control points 20 mm apart is linear there to 0.05 mm."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Displacement:
    """p -> p + u(p) in one world (RAS, mm): where a point of the head is found in an image of it."""

    vectors_mm: npt.NDArray[np.float32]
    """(x, y, z, 3) at the voxel centres of ``grid``; beyond them the nearest."""
    grid: Grid

    @property
    def voxel_mm(self) -> float:
        """The longest edge of its voxels."""
        return float(voxel_sizes_mm(self.grid.world_from_voxel).max())

    def at(self, points_mm: Array) -> Array:
        """u (n, 3) at points (n, 3)."""
        index = self._index(points_mm)
        columns = [
            ndimage.map_coordinates(
                self.vectors_mm[..., k], index, order=1, mode="nearest", output=np.float64
            )
            for k in range(3)
        ]
        return np.stack(columns, axis=1)

    def covers(self, points_mm: Array) -> npt.NDArray[np.bool_]:
        """(n,) whether points (n, 3) lie inside its voxels."""
        index, shape = self._index(points_mm).T, np.array(self.grid.shape)
        return np.asarray(((index >= -0.5) & (index <= shape - 0.5)).all(axis=1))

    def stretch_at(self, points_mm: Array) -> Array:
        """(n,) det(I + ∂u/∂p): by how much volume grows there; signal that is kept is divided by it."""
        index = self._index(points_mm)
        return np.asarray(
            ndimage.map_coordinates(self._stretch(), index, order=1, mode="nearest", output=np.float64)
        )

    def in_world(self, other_from_own: Array) -> Displacement:
        """The same displacement in a world that is turned and shifted: (4, 4) rigid."""
        vectors = self.vectors_mm @ other_from_own[:3, :3].T.astype(np.float32)
        return Displacement(vectors, Grid(self.grid.shape, other_from_own @ self.grid.world_from_voxel))

    def thinned(self, size_mm: float) -> Displacement:
        """Every second voxel, or third, as far as they are no larger than this."""
        i, j, k = np.maximum(1, size_mm // voxel_sizes_mm(self.grid.world_from_voxel)).astype(int).tolist()
        vectors = self.vectors_mm[::i, ::j, ::k]
        n_i, n_j, n_k = vectors.shape[:3]
        return Displacement(
            vectors, Grid((n_i, n_j, n_k), self.grid.world_from_voxel @ np.diag([i, j, k, 1.0]))
        )

    def undone(self, points_mm: Array) -> Array:
        """(n, 3): the points that the displacement brings to these, by fixed-point iteration."""
        found = points_mm - self.at(points_mm)
        for _ in range(_ROUNDS):
            missed = points_mm - found - self.at(found)
            found = found + _SHARE * missed
            if np.abs(missed).max(initial=0) < _ENOUGH_MM:
                break
        return np.asarray(found)

    def _index(self, points_mm: Array) -> Array:
        voxel_from_world = np.linalg.inv(self.grid.world_from_voxel)
        return np.asarray((points_mm @ voxel_from_world[:3, :3].T + voxel_from_world[:3, 3]).T)

    def _stretch(self) -> Array:
        # ∂u/∂p = ∂u/∂i · ∂i/∂p, with axes of length 1 constant.
        slopes = np.zeros((*self.grid.shape, 3, 3))
        for axis, n in enumerate(self.grid.shape):
            if n > 1:
                slopes[..., axis] = np.gradient(self.vectors_mm.astype(np.float64), axis=axis)
        by_world = slopes @ np.linalg.inv(self.grid.world_from_voxel[:3, :3])
        return np.asarray(np.linalg.det(np.eye(3) + by_world))


def parted(whole: Displacement, points_mm: Array) -> tuple[Array, Displacement]:
    """p -> p + u(p) as a displacement and then the rigid map (4, 4) that comes nearest to it (Kabsch 1976).

    ``points_mm`` (n, 3) lie all over the head. What is left is small, whatever the position.
    """
    moved = points_mm + whole.at(points_mm)
    centre, there = points_mm.mean(0), moved.mean(0)
    left, _, right = np.linalg.svd((moved - there).T @ (points_mm - centre))
    rotation = left @ np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))]) @ right
    rigid = np.eye(4)
    rigid[:3, :3], rigid[:3, 3] = rotation, there - rotation @ centre
    nodes = centres_mm(whole.grid)
    back = np.linalg.inv(rigid)
    rest = (nodes + whole.vectors_mm.reshape(-1, 3)) @ back[:3, :3].T + back[:3, 3] - nodes
    vectors = rest.astype(np.float32).reshape(whole.vectors_mm.shape)
    return rigid, Displacement(vectors, whole.grid)


def unwarped(
    image: Volume, grid: Grid, target_from_anchor: Array, displacement: Displacement
) -> npt.NDArray[np.float32]:
    """The displaced image on a grid of the undistorted world, its signal put back; cubic, 0 outside."""
    points = centres_mm(grid)
    there = points + displacement.at(points)
    voxel_from_anchor = np.linalg.inv(image.world_from_voxel) @ target_from_anchor
    index = (there @ voxel_from_anchor[:3, :3].T + voxel_from_anchor[:3, 3]).T
    values = ndimage.map_coordinates(image.data, index, order=3, output=np.float32)
    return np.asarray((values * displacement.stretch_at(points)).reshape(grid.shape), np.float32)


def centres_mm(grid: Grid) -> Array:
    """(n, 3) world coordinates of the voxel centres, the last axis fastest."""
    index = np.indices(grid.shape).reshape(3, -1).T
    return np.asarray(index @ grid.world_from_voxel[:3, :3].T + grid.world_from_voxel[:3, 3])


def coarse_grid(grid: Grid, size_mm: float = _FOUND_MM) -> Grid:
    """A grid of larger voxels whose centres reach over the field of view of another."""
    steps = np.maximum(1.0, size_mm / voxel_sizes_mm(grid.world_from_voxel))
    n_i, n_j, n_k = (np.ceil((np.array(grid.shape) - 1) / steps).astype(int) + 1).tolist()
    world_from_voxel = grid.world_from_voxel.copy()
    world_from_voxel[:3, :3] *= steps
    return Grid((n_i, n_j, n_k), world_from_voxel)


def target_from_anchor_field(
    displacement: Displacement, target_from_anchor: Array, anchor: Grid
) -> nib.Nifti1Image:
    """ITK field over the anchor: its points to the target's, as the target is resampled onto the anchor."""
    grid = coarse_grid(anchor, displacement.voxel_mm)
    points = centres_mm(grid)
    moved = points + displacement.at(points)
    moved = moved @ target_from_anchor[:3, :3].T + target_from_anchor[:3, 3]
    return _itk_field(moved - points, grid)


def anchor_from_target_field(
    displacement: Displacement, target_from_anchor: Array, target: Grid
) -> nib.Nifti1Image:
    """ITK field over the target: its points to the anchor's, as the anchor is resampled onto the target."""
    grid = coarse_grid(target, displacement.voxel_mm)
    points = centres_mm(grid)
    anchor_from_target = np.linalg.inv(target_from_anchor)
    moved = points @ anchor_from_target[:3, :3].T + anchor_from_target[:3, 3]
    return _itk_field(displacement.undone(moved) - points, grid)


def read_displacement(path: str | Path) -> Displacement:
    """A displacement from an ITK NIfTI file (x, y, z, 1, 3), LPS; InputError for another image."""
    path = Path(path)
    image = open_image(path)
    if image.ndim != 5 or image.shape[3:] != (1, 3):
        shape = " x ".join(str(n) for n in image.shape)
        raise InputError(
            f"{path.name}: an image of {shape}, expected a displacement field of ITK, x x y x z x 1 x 3"
        )
    vectors = np.asarray(image.dataobj, np.float32)[:, :, :, 0] @ LPS_FROM_RAS[:3, :3].astype(np.float32)
    return displacement_of(vectors, np.asarray(image.affine, np.float64), path.name)


def displacement_of(vectors_mm: npt.NDArray[np.float32], world_from_voxel: Array, name: str) -> Displacement:
    """(x, y, z, 3) vectors of a file, RAS mm; InputError where one is no number."""
    if not np.isfinite(vectors_mm).all():
        raise InputError(f"{name}: holds values that are no numbers, expected mm; write it again")
    n_i, n_j, n_k = vectors_mm.shape[:3]
    return Displacement(vectors_mm, Grid((n_i, n_j, n_k), world_from_voxel))


def _itk_field(vectors_ras_mm: Array, grid: Grid) -> nib.Nifti1Image:
    data = (vectors_ras_mm @ LPS_FROM_RAS[:3, :3]).reshape(*grid.shape, 1, 3)
    image = nib.Nifti1Image(data.astype(np.float32), grid.world_from_voxel)
    image.header.set_intent(_VECTOR_INTENT)
    image.header.set_xyzt_units("mm")
    return image
