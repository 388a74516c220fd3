"""Diffusion directions carried from the axes of one image to those of another."""

import numpy as np
import numpy.typing as npt
from scipy.linalg import polar

Array = npt.NDArray[np.float64]


def rotated_directions(
    directions: Array,
    source_world_from_voxel: Array,
    source_from_output_world: Array,
    output_world_from_voxel: Array,
) -> Array:
    """(n, 3) directions of a bvec file for the output's grid from those for the source's.

    FSL's convention: components along the voxel axes, x negated where the affine has a positive determinant.
    ``source_from_output_world`` is the rigid point map; a direction that is fixed to the head goes the other
    way, by the transpose of its rotation.
    """
    source_world = _world_from_fsl(source_world_from_voxel)
    output_world = _world_from_fsl(output_world_from_voxel)
    rotation = output_world.T @ source_from_output_world[:3, :3].T @ source_world
    return directions @ rotation.T


def _world_from_fsl(world_from_voxel: Array) -> Array:
    """(3, 3) orthogonal; the polar factor takes voxel sizes and shears out."""
    orthogonal, _ = polar(world_from_voxel[:3, :3])
    flip = -1.0 if np.linalg.det(world_from_voxel[:3, :3]) > 0 else 1.0
    return np.asarray(orthogonal @ np.diag([flip, 1.0, 1.0]))
