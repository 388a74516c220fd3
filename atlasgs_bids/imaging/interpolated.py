"""Stacks interpolated on a grid: what an image is compared with."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from atlasgs_bids.imaging.grid import fov_mask, resample
from atlasgs_bids.imaging.volume import Grid, Volume

Interpolable = tuple[Volume, npt.NDArray[np.float64], float]
"""A stack, target_from_anchor (world, mm), and its gain."""


def mean_interpolated(stacks: Sequence[Interpolable], grid: Grid) -> npt.NDArray[np.float32]:
    """Cubic interpolation of the stacks, each over its gain, averaged where they overlap."""
    total, n_stacks = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    for acquired, target_from_anchor, gain in stacks:
        total += resample(acquired, grid, target_from_anchor) / np.float32(gain)
        n_stacks += fov_mask(acquired.grid, grid, target_from_anchor)
    return np.asarray(total / np.maximum(n_stacks, np.float32(1)))
