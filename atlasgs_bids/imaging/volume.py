"""Volume(data, affine) <-> NIfTI."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from atlasgs_bids.imaging.header import SCANNER_CODE


@dataclass(frozen=True)
class Grid:
    """A sampling grid: voxel centres at integer indices, RAS world in mm."""

    shape: tuple[int, int, int]
    world_from_voxel: npt.NDArray[np.float64]
    """(4, 4) affine, voxel index -> world mm."""


@dataclass(frozen=True)
class Volume:
    """A 3-D image in memory."""

    data: npt.NDArray[np.float32]
    world_from_voxel: npt.NDArray[np.float64]
    observed: npt.NDArray[np.bool_] | None = None
    """False where the file held NaN, infinity or no data (``data`` is 0 there); None: all are observed."""
    lost: npt.NDArray[np.bool_] | None = None
    """Voxels that are not observed, single or in whole slices, amid others that are; None: there are none."""
    form_code: int = SCANNER_CODE
    """NIfTI code of the form that the affine comes from; 0: none, left and right may be swapped."""
    warnings: tuple[str, ...] = ()
    """What the user is told of the values."""

    @property
    def with_lost(self) -> Volume:
        """The volume with what was lost amid its voxels taken for observed: as far as it reaches."""
        if self.lost is None or self.observed is None:
            return self
        observed = self.observed | self.lost
        return replace(self, observed=None if observed.all() else observed, lost=None)

    def averaged(self, factors: tuple[int, int, int]) -> Volume:
        """Means over blocks of voxels, observed where all of a block is; incomplete blocks are dropped."""
        shape = [max(1, n // f) for f, n in zip(factors, self.data.shape, strict=True)]
        factors = tuple(min(f, n) for f, n in zip(factors, self.data.shape, strict=True))
        whole = tuple(slice(n * f) for n, f in zip(shape, factors, strict=True))
        split = [size for pair in zip(shape, factors, strict=True) for size in pair]
        data = self.data[whole].reshape(split).mean((1, 3, 5), dtype=np.float32)
        observed = None
        if self.observed is not None:
            observed = np.asarray(self.observed[whole].reshape(split).all((1, 3, 5)))
        world_from_voxel = self.world_from_voxel.copy()
        world_from_voxel[:3, 3] += world_from_voxel[:3, :3] @ ((np.array(factors) - 1) / 2)
        world_from_voxel[:3, :3] *= factors
        return Volume(data, world_from_voxel, observed, form_code=self.form_code)

    @property
    def grid(self) -> Grid:
        """The grid that the voxels lie on."""
        n_i, n_j, n_k = self.data.shape
        return Grid((n_i, n_j, n_k), self.world_from_voxel)


def voxel_sizes_mm(world_from_voxel: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(3,) distance between neighbouring voxel centres along each voxel axis, mm."""
    return np.linalg.norm(np.asarray(world_from_voxel, dtype=np.float64)[:3, :3], axis=0)


def blocks_of(size_mm: float, world_from_voxel: npt.ArrayLike) -> tuple[int, int, int]:
    """Voxels along each axis that together are about ``size_mm`` long; at least 1."""
    i, j, k = np.maximum(1, np.round(size_mm / voxel_sizes_mm(world_from_voxel))).astype(int).tolist()
    return i, j, k
