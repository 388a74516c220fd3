"""A lattice of a target's own, where its pixels are finer than the T1w's voxels: in plane alone.

What the session's Gaussians explain of such a target stays; these carry what they leave, the detail in the
planes of the slices (docs/decisions/0022-finer-in-plane.md). Along the slices nothing is finer than the T1w.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.scaffold import anchor_amplitudes, lattice_gaussians
from atlasgs_bids.core.settings import SAME_SIZE_RATIO
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.imaging.grid import fov_mask
from atlasgs_bids.imaging.volume import Grid, voxel_sizes_mm
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.scaffold import SessionScaffold, with_graph
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)

_MARGIN_MM = 2.0
"""Of Gaussians around the pixels of a stack."""
_ACROSS = 0.5
"""Cosine between slice normals below which one stack's planes show what another's slices average."""


@dataclass(frozen=True)
class FinerScaffold:
    """Gaussians of one target and their graph, one on each cell of a lattice along its slices."""

    scaffold: SessionScaffold
    lattice: Grid
    """In the anchor's world."""
    support: npt.NDArray[np.bool_]
    """Cells with a Gaussian."""

    def carried(
        self, gaussians: Gaussians, columns: Float[Tensor, "n k"], chunk_elements: int
    ) -> Float[Tensor, "m k"]:
        """Amplitudes of these Gaussians that draw the images that others draw with theirs."""
        own, lattice = self.scaffold.gaussians, self.lattice
        world_from_voxel = torch.from_numpy(lattice.world_from_voxel)
        support = torch.from_numpy(self.support).to(own.means_mm.device)
        splat = SplatOperator(own, lattice.shape, world_from_voxel, support, chunk_elements)
        images = (
            render(gaussians, column, lattice.shape, world_from_voxel, chunk_elements) * support
            for column in columns.unbind(1)
        )
        return torch.stack([anchor_amplitudes(splat, image) for image in images], dim=1)


def finer_scaffold(
    placed: Sequence[PlacedStack], scaffold: SessionScaffold, config: RestorationSettings, progress: Progress
) -> FinerScaffold | None:
    """A lattice as fine in plane as a target's pixels, with a graph along the T1w's edges.

    None where no pixel is finer than the anchor's voxel by SAME_SIZE_RATIO. At most ``own_gaussians``, or as
    many as were asked for: more lie farther apart, and there are none where that would not be finer.
    """
    limit, anchor_mm = _most_gaussians(config), scaffold.anchor.voxel_mm
    finest, cell_mm, finer = _finest(placed, anchor_mm)
    if limit == 0 or not finer.any():
        return None
    while True:
        lattice = _lattice(finest, cell_mm, scaffold.anchor)
        support = _support(lattice, placed, scaffold.anchor, config)
        n = int(support.sum())
        if n <= limit:
            break
        cell_mm = np.where(finer, cell_mm * max((n / limit) ** (1 / finer.sum()), 1.001), cell_mm)
        if cell_mm[finer].min() * SAME_SIZE_RATIO > anchor_mm:
            logger.warning(
                "%s finer than the T1w's voxels, which takes more than %d Gaussians: detail below %.2g mm is "
                "left out",
                progress.led("pixels"), limit, anchor_mm,
            )  # fmt: skip
            return None
    if n == 0:
        return None
    size = " x ".join(f"{side:.2g}" for side in cell_mm)
    logger.info("%s", progress.led(f"{n} Gaussians of its own, {size} mm apart"))
    means_from_cells = torch.from_numpy(lattice.world_from_voxel)
    cells = torch.from_numpy(support).to(config.device)
    gaussians = lattice_gaussians(cells, means_from_cells, n, config.core.scaffold.sigma_spacings)
    own = with_graph(scaffold.anchor, gaussians, scaffold.anchor_psnr_db, 0.0, config, progress)
    own = replace(own, n_shared=0, own_cell_mm=lattice.world_from_voxel[:3, :3])
    return FinerScaffold(own, lattice, support)


def wants_finer(
    placed: Sequence[PlacedStack], scaffold: SessionScaffold, config: RestorationSettings
) -> bool:
    """Whether ``finer_scaffold`` would try: a pixel is finer than the anchor's voxel."""
    _, _, finer = _finest(placed, scaffold.anchor.voxel_mm)
    return _most_gaussians(config) > 0 and bool(finer.any())


def _most_gaussians(config: RestorationSettings) -> float:
    return min(config.core.appearance.own_gaussians, config.core.scaffold.n_gaussians or math.inf)


def _finest(
    placed: Sequence[PlacedStack], anchor_mm: float
) -> tuple[PlacedStack, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The stack with the smallest pixels, its cells (3,) in mm, and which of their sides are finer."""
    finest = min(placed, key=lambda own: math.prod(own.source.geometry.acquired_in_plane_mm))
    cell_mm, seen = _cell_mm(finest, placed, anchor_mm)
    return finest, cell_mm, seen & (cell_mm * SAME_SIZE_RATIO <= anchor_mm)


def _cell_mm(
    finest: PlacedStack, placed: Sequence[PlacedStack], anchor_mm: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(3,) along the axes of the finest stack, and which of them are seen in plane.

    Its pixels in plane, and the anchor's voxel along the slices, unless planes of another stack show that
    axis: then their pixels.
    """
    axis, spacing_mm = finest.source.geometry.axis, finest.source.geometry.spacing_mm
    across = [own for own in placed if abs(float(_normal(own) @ _normal(finest))) < _ACROSS]
    along_mm = min([anchor_mm, *(min(own.source.geometry.acquired_in_plane_mm) for own in across)])
    in_plane = [a for a in range(3) if a != axis]
    cell_mm, seen = np.empty(3), np.ones(3, bool)
    cell_mm[in_plane] = np.minimum(finest.source.geometry.acquired_in_plane_mm, anchor_mm)
    # As the acquisition divides the slices.
    cell_mm[axis] = spacing_mm / max(1, math.ceil(spacing_mm / along_mm - 1e-3))
    seen[axis] = bool(across)
    return cell_mm, seen


def _normal(stack: PlacedStack) -> npt.NDArray[np.float64]:
    """Direction of the slice axis in the anchor's world."""
    column = _anchor_from_native(stack)[:3, stack.source.geometry.axis]
    return column / np.linalg.norm(column)


def _anchor_from_native(stack: PlacedStack) -> npt.NDArray[np.float64]:
    return np.linalg.inv(stack.registration.target_from_anchor) @ stack.acquired.world_from_voxel


def _lattice(stack: PlacedStack, cell_mm: npt.NDArray[np.float64], anchor: Anchor) -> Grid:
    """Cells along the stack's axes around the anchor's support; where they are pixels, on the pixels."""
    steps = cell_mm / voxel_sizes_mm(stack.acquired.world_from_voxel)
    native_from_cells = np.diag([*steps, 1.0])
    native_from_cells[:3, 3] = (steps - 1) / 2
    anchor_from_cells = _anchor_from_native(stack) @ native_from_cells
    inside = np.argwhere(anchor.support)
    low, high = inside.min(0) - 0.5, inside.max(0) + 0.5
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3)
    cells_from_anchor_vox = np.linalg.inv(anchor_from_cells) @ anchor.volume.world_from_voxel
    corners = corners @ cells_from_anchor_vox[:3, :3].T + cells_from_anchor_vox[:3, 3]
    first, last = np.floor(corners.min(0) + 0.5).astype(int), np.ceil(corners.max(0) - 0.5).astype(int)
    anchor_from_cells[:3, 3] += anchor_from_cells[:3, :3] @ first
    n_i, n_j, n_k = (last - first + 1).tolist()
    return Grid((n_i, n_j, n_k), anchor_from_cells)


def _support(
    lattice: Grid, placed: Sequence[PlacedStack], anchor: Anchor, config: RestorationSettings
) -> npt.NDArray[np.bool_]:
    """Cells of the anchor's support that a stack sees, and some around them."""
    reached = np.zeros(lattice.shape, dtype=bool)
    for stack in placed:
        geometry, sizes_mm = stack.source.geometry, voxel_sizes_mm(stack.acquired.world_from_voxel)
        reach = 0.5 + _MARGIN_MM / sizes_mm
        profile_mm = float(np.abs(stack.profile(config).offsets_mm).max())
        reach[geometry.axis] = 0.5 + max(profile_mm, _MARGIN_MM) / geometry.spacing_mm
        target_from_anchor = stack.registration.target_from_anchor
        i, j, k = reach.tolist()
        reached |= fov_mask(stack.acquired.grid, lattice, target_from_anchor, (i, j, k))
    return reached & anchor.support_on(lattice)
