"""Diffusion and ASL series of the phantom as a scanner and its converter write them, with their truth."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atlasgs_bids.imaging.volume import Volume
from tests.imaging.phantom import Contrast, acquire, head, stack_affine

Array = npt.NDArray[np.float64]
SIZE_MM = 4
B0 = Contrast(grey=80, white=55, fluid=160, scalp=0)
M0 = Contrast(grey=100, white=80, fluid=120, scalp=0)
PERFUSION = Contrast(grey=6, white=2, fluid=0, scalp=0)
ANATOMY_DIRECTIONS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0]], dtype=float)
"""In the head's own axes (RAS); the first volume is a b0."""
B_VALUES = np.array([0, 1000, 1000, 1000, 1000], dtype=float)


@dataclass(frozen=True)
class Acquired:
    """A series with what was true at its time."""

    data: npt.NDArray[np.float32]
    """(x, y, z, n)"""
    world_from_voxel: Array
    truth: list[Volume]
    """Each volume without noise, on the anchor's grid."""


def diffusion_contrast(b_value: float, direction: Array) -> Contrast:
    """Signal of each tissue, mm²/s: white matter's fibres all run from left to right."""
    white = 0.3e-3 + 1.2e-3 * direction[0] ** 2
    diffusivities = (0.8e-3, white, 3.0e-3, 1.0e-3)
    return Contrast(*(s0 * np.exp(-b_value * d) for s0, d in zip(B0, diffusivities, strict=True)))


def diffusion_series(
    target_from_anchor: Array,
    spacing_mm: float,
    noise: float,
    b_values: Array = B_VALUES,
    directions: Array = ANATOMY_DIRECTIONS,
    size_mm: int = SIZE_MM,
) -> Acquired:
    """b0 and four b1000 volumes of the moved head, or others; (n, 4, 4): each volume where it lay."""
    pairs = zip(b_values, directions, strict=True)
    return _acquired(
        [diffusion_contrast(b, g) for b, g in pairs], target_from_anchor, spacing_mm, noise, size_mm
    )


def labelling_series(target_from_anchor: Array, spacing_mm: float, noise: float, n_pairs: int) -> Acquired:
    """Control and label in turn."""
    label = Contrast(*(a - b for a, b in zip(M0, PERFUSION, strict=True)))
    return _acquired([M0, label] * n_pairs, target_from_anchor, spacing_mm, noise)


def fsl_directions(world_directions: Array, world_from_voxel: Array) -> Array:
    """(n, 3) as dcm2niix writes bvec: voxel axes, x flipped where the determinant is positive."""
    axes = world_from_voxel[:3, :3] / np.linalg.norm(world_from_voxel[:3, :3], axis=0)
    along = world_directions @ axes
    return along * [-1 if np.linalg.det(axes) > 0 else 1, 1, 1]


def world_directions(fsl: Array, world_from_voxel: Array) -> Array:
    """The way back."""
    axes = world_from_voxel[:3, :3] / np.linalg.norm(world_from_voxel[:3, :3], axis=0)
    return (fsl * [-1 if np.linalg.det(axes) > 0 else 1, 1, 1]) @ axes.T


def _acquired(
    contrasts: list[Contrast],
    target_from_anchor: Array,
    spacing_mm: float,
    noise: float,
    size_mm: int = SIZE_MM,
) -> Acquired:
    truth = [head(contrast, size_mm) for contrast in contrasts]
    shape, affine = stack_affine(truth[0], 2, size_mm, spacing_mm)
    rng = np.random.default_rng(0)
    volumes = []
    positions = np.broadcast_to(target_from_anchor, (len(truth), 4, 4))
    for image, position in zip(truth, positions, strict=True):
        clean = acquire(image, shape, affine, np.linalg.inv(position)).data
        real, imaginary = rng.normal(0, noise, (2, *shape))
        volumes.append(np.hypot(clean + real, imaginary).astype(np.float32))
    return Acquired(np.stack(volumes, axis=3), affine, truth)
