"""Interpolation that knows the slice profile and no T1w: lines that, seen through it, give the slices.

Of all such lines the smoothest: what the learned prior starts from (core/priors/learned/degradation.py).
"""

import numpy as np
import torch

from atlasgs_bids.core.acquisition import profile_sampling
from atlasgs_bids.core.priors.learned.degradation import interpolation
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.profile import SliceProfile
from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm
from atlasgs_bids.study.methods.protocol import Restored, kept
from atlasgs_bids.study.settings import StudyConfig
from atlasgs_bids.study.simulation.case import Case


def missing(study: StudyConfig, device: str) -> str | None:  # noqa: ARG001 - the protocol's
    """Nothing: it can always run."""
    return None


def restore(case: Case) -> Restored:
    """The lines along the slice axis, between them a cubic spline."""
    placed = case.placed
    cell_mm = float(voxel_sizes_mm(case.grid.world_from_voxel).min())
    lines = splined(placed.acquired, case.slice_axis, placed.profile(case.run), cell_mm)
    return Restored(kept(resample(lines, case.grid, placed.registration.target_from_anchor, order=3), case))


def splined(slices: Volume, axis: int, profile: SliceProfile, cell_mm: float) -> Volume:
    """The slices on cells of about ``cell_mm`` along their axis."""
    n_slices = slices.data.shape[axis]
    spacing_mm = float(voxel_sizes_mm(slices.world_from_voxel)[axis])
    sampling = profile_sampling(n_slices, spacing_mm, profile.offsets_mm, profile.cumulative, cell_mm)
    back = interpolation(torch.from_numpy(sampling.weights), torch.ones(n_slices)).numpy()
    data = np.moveaxis(np.tensordot(back, slices.data, axes=([1], [axis])), 0, axis)
    native_from_lattice = np.eye(4)
    native_from_lattice[axis, axis] = sampling.step
    native_from_lattice[axis, 3] = sampling.first
    return Volume(data.astype(np.float32), slices.world_from_voxel @ native_from_lattice)
