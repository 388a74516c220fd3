"""A head with known tissues (MNI152, from nilearn), and a scanner that cuts thick slices anywhere."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from nilearn import datasets
from scipy import ndimage
from scipy.spatial.transform import Rotation

from atlasgs_bids.imaging.volume import Volume


class Contrast(NamedTuple):
    grey: float
    white: float
    fluid: float
    scalp: float


T1W = Contrast(grey=60, white=100, fluid=25, scalp=110)
FLAIR = Contrast(grey=90, white=65, fluid=12, scalp=80)
T2W = Contrast(grey=65, white=45, fluid=120, scalp=50)


@functools.cache
def _tissues(size_mm: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """(4, x, y, z) fractions of grey, white, fluid and scalp; and the grid's affine."""
    grey, white, brain = (
        load(resolution=size_mm)
        for load in (
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
            datasets.load_mni152_brain_mask,
        )
    )
    margin = 16 // size_mm
    fractions = [np.pad(np.clip(image.get_fdata(), 0, 1), margin) for image in (grey, white, brain)]
    fluid = np.clip(fractions[2] - fractions[0] - fractions[1], 0, 1)
    outside_mm = ndimage.distance_transform_edt(fractions[2] < 0.5, sampling=size_mm)
    scalp = np.clip(np.minimum(outside_mm - 7, 13 - outside_mm) / size_mm, 0, 1)
    affine = grey.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, margin)
    return np.stack([*fractions[:2], fluid, scalp]).astype(np.float32), affine


def head(contrast: Contrast, size_mm: int = 2, *, with_scalp: bool = True, noise: float = 0.0) -> Volume:
    """The phantom in one contrast, on the isotropic grid of the atlas; Rician noise of standard deviation."""
    fractions, world_from_voxel = _tissues(size_mm)
    weights = np.array(contrast if with_scalp else (*contrast[:3], 0), dtype=np.float32)
    data = np.einsum("c,cxyz->xyz", weights, fractions)
    return Volume(_noisy(data, noise), world_from_voxel)


def rigid(
    rotation_deg: npt.ArrayLike, shift_mm: npt.ArrayLike, centre_world: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """(4, 4) rotation (a vector along the axis, degrees) about the centre, then the shift."""
    result = np.eye(4)
    result[:3, :3] = Rotation.from_rotvec(np.asarray(rotation_deg, dtype=float), degrees=True).as_matrix()
    result[:3, 3] = (
        np.asarray(centre_world) + np.asarray(shift_mm) - result[:3, :3] @ np.asarray(centre_world)
    )
    return result


def stack_affine(
    volume: Volume,
    axis: int,
    in_plane_mm: float,
    spacing_mm: float,
    tilt: npt.NDArray[np.float64] | None = None,
) -> tuple[tuple[int, int, int], npt.NDArray[np.float64]]:
    """(shape, affine) of a stack that covers the volume, thick along world axis ``axis``, tilted (3, 3)."""
    sizes_mm = np.full(3, in_plane_mm)
    sizes_mm[axis] = spacing_mm
    extent_mm = np.array(volume.data.shape) * np.linalg.norm(volume.world_from_voxel[:3, :3], axis=0)
    shape = np.ceil(extent_mm / sizes_mm).astype(int)
    world_from_voxel = np.eye(4)
    world_from_voxel[:3, :3] = (np.eye(3) if tilt is None else tilt) @ np.diag(sizes_mm)
    centre_world = volume.world_from_voxel @ [*((np.array(volume.data.shape) - 1) / 2), 1]
    world_from_voxel[:3, 3] = centre_world[:3] - world_from_voxel[:3, :3] @ ((shape - 1) / 2)
    return (int(shape[0]), int(shape[1]), int(shape[2])), world_from_voxel


def acquire(
    image: Volume,
    shape: tuple[int, int, int],
    world_from_voxel: npt.NDArray[np.float64],
    image_from_world: npt.NDArray[np.float64],
    noise: float = 0.0,
) -> Volume:
    """Every voxel of the stack the mean of the image over the voxel's box, at the moved position."""
    n_steps = np.maximum(1, np.round(np.linalg.norm(world_from_voxel[:3, :3], axis=0))).astype(int)
    offsets = [(np.arange(n) + 0.5) / n - 0.5 for n in n_steps]
    voxel_from_voxel = np.linalg.inv(image.world_from_voxel) @ image_from_world @ world_from_voxel
    total = np.zeros(shape, dtype=np.float64)
    for offset in np.stack(np.meshgrid(*offsets, indexing="ij"), -1).reshape(-1, 3):
        total += ndimage.affine_transform(
            image.data,
            voxel_from_voxel[:3, :3],
            voxel_from_voxel[:3, :3] @ offset + voxel_from_voxel[:3, 3],
            output_shape=shape,
            order=1,
        )
    return Volume(_noisy((total / np.prod(n_steps)).astype(np.float32), noise), world_from_voxel)


def _noisy(data: npt.NDArray[np.float32], noise: float) -> npt.NDArray[np.float32]:
    if noise == 0:
        return data.astype(np.float32)
    rng = np.random.default_rng(data.size)
    real, imaginary = rng.normal(0, noise, (2, *data.shape))
    return np.asarray(np.hypot(data + real, imaginary), np.float32)
