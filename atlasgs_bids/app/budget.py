"""``--mem``: what a participant is expected to need, and what follows from it."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.core.settings import SAME_SIZE_RATIO, CoreSettings
from atlasgs_bids.imaging.volume import voxel_sizes_mm

_LIBRARIES_MIB = 1200.0
"""Resident memory that does not grow: Python with torch, SimpleITK and matplotlib at work."""
_KIB_PER_GAUSSIAN = 2.5
"""Measured peaks lie below it: graph, rendering matrix and draws grow with the number of Gaussians."""
_KIB_PER_VOXEL = 0.1
"""Images on the anchor's grid: about twenty in single precision."""
_CHUNK_SHARE = 0.25


def peak_memory_mib(plan: SubjectPlan, core: CoreSettings) -> float:
    """Upper estimate of a session's peak resident memory on the CPU, MiB, from the anchor's header.

    Every voxel of the anchor counts as foreground: an estimate for a head that fills the field of view.
    """
    shape = plan.anchor.header.shape[:3] if plan.anchor.header else ()
    n_voxels = math.prod(shape)
    scaffold = core.scaffold
    n_gaussians = scaffold.n_gaussians or min(n_voxels, scaffold.max_gaussians)
    n_gaussians += _own_gaussians(plan, core)
    return _LIBRARIES_MIB + (_KIB_PER_GAUSSIAN * n_gaussians + _KIB_PER_VOXEL * n_voxels) / 1024


def _own_gaussians(plan: SubjectPlan, core: CoreSettings) -> int:
    """Of the target with most of its own, because its pixels are finer than the anchor's voxels."""
    header = plan.anchor.header
    if header is None:
        return 0
    sizes_mm = voxel_sizes_mm(header.world_from_voxel)
    anchor_mm, volume_mm3 = float(sizes_mm.min()), float(np.prod(sizes_mm) * math.prod(header.shape[:3]))
    most = 0
    for target in plan.targets:
        for stack in target.stacks if target.series is None else ():
            pixel_mm = np.minimum(stack.geometry.acquired_in_plane_mm, anchor_mm)
            if pixel_mm.min() * SAME_SIZE_RATIO <= anchor_mm:
                most = max(most, int(volume_mm3 / (anchor_mm * pixel_mm.prod())))
    return min(most, core.appearance.own_gaussians, core.scaffold.n_gaussians or most)


def participant_memory_mib(plans: Sequence[SubjectPlan], config: RunConfig) -> float:
    """The largest estimate of a participant's sessions, which run one after the other, MiB."""
    return max(
        (peak_memory_mib(plan, config.restoration.core) for plan in plans if plan.targets), default=0.0
    )


def within_budget(config: RunConfig) -> RunConfig:
    """The settings with chunks that suit each process's share of ``--mem``.

    On a GPU chunks live in the GPU's memory, which ``--mem`` does not bound.
    """
    if config.memory_mib is None or config.restoration.device.startswith("cuda"):
        return config
    from atlasgs_bids.core.memory import chunk_elements_within  # noqa: PLC0415 - loads torch

    share_bytes = config.memory_mib * 2**20 / config.n_procs
    chunk_elements = min(
        config.restoration.core.chunk_elements, chunk_elements_within(_CHUNK_SHARE * share_bytes)
    )
    return config.restoring(core=replace(config.restoration.core, chunk_elements=chunk_elements))
