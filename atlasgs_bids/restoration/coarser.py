"""Fewer Gaussians for a series whose pixels are far coarser than the anchor's voxels.

Pixels of 3 mm say nothing of what lies within a millimetre, and each volume is solved for: two Gaussians
along a pixel restore it as well as three, in a third of the time (docs/decisions/0038-coarse-series.md).
"""

import math
import time
from dataclasses import replace

from atlasgs_bids.imaging.volume import voxel_sizes_mm
from atlasgs_bids.restoration.scaffold import SessionScaffold, anchor_gaussians, with_graph
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack
from atlasgs_bids.runtime.progress import Progress

_ALONG_PIXEL = 2.0
_WORTH = 1.5
"""Times as many Gaussians as suffice, from which on others are made."""


def coarser_scaffold(
    placed: PlacedStack, scaffold: SessionScaffold, config: RestorationSettings, progress: Progress
) -> SessionScaffold:
    """Gaussians of the anchor, two along a pixel, or the session's where those are not many more.

    The session's, too, where their number was asked for.
    """
    cell_mm = min(placed.source.geometry.acquired_in_plane_mm) / _ALONG_PIXEL
    anchor = scaffold.anchor
    voxel_mm3 = math.prod(voxel_sizes_mm(anchor.volume.world_from_voxel).tolist())
    n_gaussians = max(1, round(anchor.support.sum() * voxel_mm3 / cell_mm**3))
    core = config.core
    if core.scaffold.n_gaussians is not None or _WORTH * n_gaussians > len(scaffold.gaussians):
        return scaffold
    fewer = replace(config, core=replace(core, scaffold=replace(core.scaffold, n_gaussians=n_gaussians)))
    start = time.perf_counter()
    gaussians, psnr_db = anchor_gaussians(anchor, fewer, progress)
    seconds = time.perf_counter() - start
    return replace(with_graph(anchor, gaussians, psnr_db, seconds, fewer, progress), n_shared=0)
