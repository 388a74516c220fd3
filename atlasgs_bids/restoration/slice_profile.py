"""The slice profile of a stack, from the slices themselves: the problem that core/slice_profile.py solves.

Of the middle of the head, on cells in the slices' own frame: as fine as the anchor through the slices, coarse
in plane, where nothing is asked (docs/decisions/0020-calibration.md).
"""

import logging
import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from atlasgs_bids.core.acquisition import AxisSampling, profile_sampling
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.slice_profile import FoundProfile, ProfileProblem, find_profile_sd
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.profile import profile_with_sd, slice_profile
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.guides import Guides
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import Calibration, PlacedStack
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)

_PROFILE_MM = 3.0
"""Of the cells in plane."""
_PROFILE_REGULARIZATION = 1.0
_MOST_CELLS = 80_000
_LEAST_CELLS = 2_000
_WIDEST = 3.0
"""Standard deviation of the widest profile, over that of a box as thick as the slices lie apart."""
_MOST_LOG_ERROR = 0.25
"""Of the profile's standard deviation: beyond it the slices do not tell."""
_DISAGREES = 0.15


def with_found_profile(
    stack: PlacedStack, guides: Guides, config: RestorationSettings, progress: Progress
) -> PlacedStack:
    """The stack with the profile that its slices show, or as it is, which the log then says."""
    geometry = stack.source.geometry
    stated = slice_profile("box", geometry.thickness_mm)
    found = found_profile(stack, guides, config)
    calibration = stack.calibration or Calibration()
    if found is None or found.log_error > _MOST_LOG_ERROR:
        said = f"{stack.source.name}: the slices do not tell their profile"
        logger.info("%s", progress.led(f"{said}: a box of {geometry.thickness_mm:.3g} mm is assumed"))
        return stack
    profile = profile_with_sd(found.sd_mm, geometry.thickness_mm)
    off = math.log(found.sd_mm / stated.sd_mm)
    warnings: tuple[str, ...] = ()
    if abs(off) > max(_DISAGREES, 2 * found.log_error):
        seen = f"{found.sd_mm:.2f} ± {found.error_mm:.2f} mm"
        stated_box = f"a box of the stated {geometry.thickness_mm:.3g} mm has {stated.sd_mm:.2f} mm"
        warnings = (
            f"the slices show a profile of {seen} standard deviation, {stated_box}: it is what is used",
        )
    return replace(
        stack, calibration=replace(calibration, profile=profile, found_profile=found, warnings=warnings)
    )


def found_profile(stack: PlacedStack, guides: Guides, config: RestorationSettings) -> FoundProfile | None:
    """What the slices of a placed stack say of their profile; None: nothing."""
    geometry = stack.source.geometry
    thickness_mm, spacing_mm = geometry.thickness_mm, geometry.spacing_mm
    cell_mm = guides.anchor.voxel_mm
    n_slices = stack.acquired.data.shape[geometry.axis]

    def sampled(sd_mm: float) -> AxisSampling:
        profile = profile_with_sd(sd_mm, thickness_mm)
        return profile_sampling(n_slices, spacing_mm, profile.offsets_mm, profile.cumulative, cell_mm)

    widest = sampled(_WIDEST * max(spacing_mm, thickness_mm) / math.sqrt(12))
    problem = _profile_problem(stack, widest, guides, config)
    if problem is None:
        return None
    start_mm = 1.2 * thickness_mm / math.sqrt(12)
    return find_profile_sd(problem, lambda sd_mm: _within(sampled(sd_mm), widest), start_mm)


def _within(sampling: AxisSampling, lattice: AxisSampling) -> AxisSampling:
    """The sampling with the cells of a longer lattice."""
    before = round((sampling.first - lattice.first) / lattice.step)
    weights = np.zeros_like(lattice.weights)
    columns = np.arange(sampling.weights.shape[1]) + before
    inside = (columns >= 0) & (columns < weights.shape[1])
    weights[:, columns[inside]] = sampling.weights[:, inside]
    weights /= weights.sum(axis=1, keepdims=True)
    return AxisSampling(weights, lattice.first, lattice.step)


def _profile_problem(
    stack: PlacedStack, lattice: AxisSampling, guides: Guides, config: RestorationSettings
) -> ProfileProblem | None:
    """The middle of the head: pixels of about 3 mm, cells along the slice axis as fine as the anchor."""
    axis = stack.source.geometry.axis
    anchor = guides.anchor.corrected
    averaged = stack.averaged(_PROFILE_MM).acquired
    data = np.moveaxis(averaged.data, axis, 2)
    observed = np.ones(data.shape, bool)
    if averaged.observed is not None:
        observed = np.moveaxis(averaged.observed, axis, 2)
    order = [a for a in range(3) if a != axis] + [axis]
    world_from_slices = np.eye(4)
    world_from_slices[:3, 3] = averaged.world_from_voxel[:3, 3]
    world_from_slices[:3, :3] = averaged.world_from_voxel[:3, order]
    slices_from_lattice = np.diag([1.0, 1.0, lattice.step, 1.0])
    slices_from_lattice[2, 3] = lattice.first
    anchor_from_target = np.linalg.inv(stack.registration.target_from_anchor)
    grid = Grid(
        (data.shape[0], data.shape[1], lattice.weights.shape[1]),
        anchor_from_target @ world_from_slices @ slices_from_lattice,
    )
    support = anchor.support_on(grid)
    covered = np.tensordot(support.astype(np.float32), lattice.weights.T.astype(np.float32), axes=1)
    weights = observed & (covered > anchor.least_coverage)
    box = _middle(np.asarray(weights.any(2)), support.sum(2))
    if box is None:
        return None
    support, weights, data = support[box], weights[box], data[box]
    grid = _cropped(grid, box)
    cells = np.flatnonzero(support)
    if len(cells) < _LEAST_CELLS or not weights.any():
        return None
    return ProfileProblem(
        slices=torch.from_numpy(np.ascontiguousarray(data / (data[weights].std() or 1.0))).to(config.device),
        weights=torch.from_numpy(weights.astype(np.float32)).to(config.device),
        cells=torch.from_numpy(cells).to(config.device),
        n_cells=grid.shape[2],
        prior=_cell_prior(anchor, grid, cells, config),
        regularization=_PROFILE_REGULARIZATION,
    )


def _cell_prior(
    anchor: Anchor, grid: Grid, cells: npt.NDArray[np.int64], config: RestorationSettings
) -> GraphLaplacian:
    """The graph between the cells of a lattice: by likeness of the anchor, averaged over each."""
    sizes_mm = voxel_sizes_mm(grid.world_from_voxel)
    # In plane as coarse as the cells, along the slice axis as fine as the anchor.
    fine = int(max(1, round(float(sizes_mm[0]) / anchor.voxel_mm)))
    n_x, n_y, n_z = grid.shape
    finer = np.diag([1 / fine, 1 / fine, 1.0, 1.0])
    finer[:2, 3] = (1 - fine) / (2 * fine)
    points = Grid((n_x * fine, n_y * fine, n_z), grid.world_from_voxel @ finer)
    images = []
    for image in anchor.with_local_mean():
        sampled = resample(Volume(image, anchor.volume.world_from_voxel), points, order=1)
        images.append(sampled.reshape(n_x, fine, n_y, fine, n_z).mean((1, 3)).reshape(-1)[cells])
    amplitude, local_mean = (torch.from_numpy(np.ascontiguousarray(image)) for image in images)
    features = anchor_features(amplitude, local_mean, anchor.scale, config.core.graph).to(config.device)
    index = np.stack(np.unravel_index(cells, grid.shape), 1).astype(np.float32)
    means = torch.from_numpy(index).to(config.device)
    n = len(cells)
    round_ones = Gaussians(
        means, means.new_ones(n, 3), torch.eye(4)[:1].to(means).expand(n, 4), means.new_zeros(n)
    )
    return GraphLaplacian(round_ones, features, config.core.graph, config.core.chunk_elements)


def _middle(
    shown: npt.NDArray[np.bool_], n_cells: npt.NDArray[np.int64]
) -> tuple[slice, slice, slice] | None:
    """A rectangle of columns around the middle of the head, with as many cells as are allowed."""
    places = np.argwhere(shown)
    if not len(places):
        return None
    low, high = places.min(0), places.max(0) + 1
    centre = (low + high) / 2
    for share in np.linspace(1.0, 0.1, 19):
        half = np.maximum(share * (high - low) / 2, 1.0)
        first = np.maximum(np.floor(centre - half), 0).astype(int)
        last = np.ceil(centre + half).astype(int)
        box = slice(first[0], last[0]), slice(first[1], last[1])
        if n_cells[box].sum() <= _MOST_CELLS:
            return (*box, slice(None))
    return None


def _cropped(grid: Grid, box: tuple[slice, slice, slice]) -> Grid:
    first = [span.start or 0 for span in box]
    shape = [len(range(*span.indices(n))) for span, n in zip(box, grid.shape, strict=True)]
    world_from_voxel = grid.world_from_voxel.copy()
    world_from_voxel[:3, 3] += world_from_voxel[:3, :3] @ first
    return Grid((shape[0], shape[1], shape[2]), world_from_voxel)
