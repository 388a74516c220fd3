"""Cubic B-spline interpolation of the slices, at their true centres."""

from dataclasses import dataclass

import numpy as np

from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm
from atlasgs_bids.study.methods.protocol import Restored, kept
from atlasgs_bids.study.settings import StudyConfig
from atlasgs_bids.study.simulation.case import Case


@dataclass(frozen=True)
class Cubic:
    displaced: bool = False
    """Put the slices where their first voxel of the T1w lies instead of their middle one."""

    def missing(self, study: StudyConfig, device: str) -> str | None:  # noqa: ARG002 - the protocol's
        return None

    def restore(self, case: Case) -> Restored:
        acquired = _displaced(case) if self.displaced else case.placed.acquired
        target_from_anchor = case.placed.registration.target_from_anchor
        return Restored(kept(resample(acquired, case.grid, target_from_anchor, order=3), case))


def _displaced(case: Case) -> Volume:
    """The slices with an affine that was scaled without moving its origin, (thickness − voxel)/2 astray."""
    acquired, axis = case.placed.acquired, case.slice_axis
    thickness_mm = voxel_sizes_mm(acquired.world_from_voxel)[axis]
    voxel_mm = voxel_sizes_mm(case.grid.world_from_voxel)[axis]
    shift = np.eye(4)
    shift[axis, 3] = -(thickness_mm - voxel_mm) / 2 / thickness_mm
    return Volume(acquired.data, acquired.world_from_voxel @ shift)


METHOD = Cubic()
DISPLACED = Cubic(displaced=True)
"""What a baseline scores whose origin is displaced, as in the published code."""
