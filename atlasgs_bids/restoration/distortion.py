"""How a target is displaced along its phase-encoding axis, found from its slices and the anchor.

Echo-planar images are squeezed and stretched by millimetres. Where they were to be registered, the position
by evidence is refined together with a smooth displacement (core/deformation.py), coarse to fine. With
``auto`` it is taken only where slices that took no part in finding it are predicted better with it
(docs/decisions/0034-deformable.md).
"""

import logging
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atlasgs_bids.core.bspline import ControlGrid
from atlasgs_bids.core.deformation import (
    DeformationEvidence,
    FoundDeformation,
    SmoothShift,
    Stiffness,
    find_deformation,
)
from atlasgs_bids.core.objective import held_out_slices
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.displacement import Displacement, centres_mm, coarse_grid
from atlasgs_bids.imaging.registration.register import moved_registration
from atlasgs_bids.imaging.volume import voxel_sizes_mm
from atlasgs_bids.restoration.guides import Guide, Guides
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import Calibration, Distortion, PlacedStack
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)

_CONTROL_MM = 20.0
"""Between control points at last; twice that at first."""
_FIRST_MM, _LAST_MM, _MOST_GAUSSIANS = 4.0, 3.0, 60_000
_REGULARIZATION = 1.0
_STIFFNESS = Stiffness(bending=30.0, size=1e-4)
_FIRST_STEPS, _AGAIN_STEPS, _LAST_STEPS = 20, 8, 15
_JUDGED_BY = 0.1
"""λ at which slices are predicted, as elsewhere: at the stiff one of the search far slices say too much."""
_BLOCK_MM = 16.0
_SURE = 2.0
"""Standard errors by which held-out slices are to be predicted better."""
_MARGIN_MM = 8.0
"""Of the control points' box around the anchor's support: half a voxel of the coarsest anchor and more."""

Array = npt.NDArray[np.float64]


def may_be_displaced(stack: PlacedStack, config: RestorationSettings) -> bool:
    """Whether a displacement is to be looked for."""
    return (
        config.registration in ("auto", "deformable")
        and stack.source.phase_axis is not None
        and not stack.source.transforms
        and stack.displacement is None
        # Gaussians that are moved for a target would undo a displacement, and none is kept while they are.
        and config.core.geometry.mode == "frozen"
    )


def with_displacement(
    stack: PlacedStack, guides: Guides, config: RestorationSettings, progress: Progress
) -> PlacedStack:
    """The stack with the displacement that its slices show, or as it is where they do not confirm any."""
    search = _Search(stack, guides, config)
    try:
        first = search.seen(_FIRST_MM)
    except InputError:  # nothing observed inside the head at this scale: the fit will say what that means
        return stack
    if first is None:
        return stack
    held_out = held_out_slices(first.observation)
    gain, error = None, None
    start = search.start()
    if config.registration == "auto":
        if held_out is None:
            said = f"{stack.source.name}: too few slices to confirm a displacement"
            logger.info("%s", progress.led(f"{said}: it is taken to be rigid"))
            return stack
        known = first.without(held_out)
        start = search.found(known, start, _FIRST_STEPS)
        gain, error = _gain(first, known, held_out, search, start)
        if not gain > _SURE * error:
            said = f"{stack.source.name}: held-out slices do not confirm a displacement"
            logger.info("%s", progress.led(f"{said} ({100 * gain:.1f} ± {100 * error:.1f} %)"))
            return _judged(stack, Distortion(gain, error, None))
    start = search.found(first, start, _FIRST_STEPS if gain is None else _AGAIN_STEPS)
    last = search.seen(search.last_mm)
    if last is not None:
        start = search.found(last, search.finer(start), _LAST_STEPS)
    return search.applied(start, gain, error)


@dataclass(frozen=True)
class _Seen:
    """A stack at one scale, in units of its own spread."""

    guide: Guide
    observation: LatticeObservation

    def without(self, held_out: Tensor) -> "_Seen":
        weights = self.observation.weights * (1 - held_out)
        return replace(self, observation=replace(self.observation, weights=weights))


@dataclass(frozen=True)
class _Search:
    stack: PlacedStack
    guides: Guides
    config: RestorationSettings

    @property
    def direction(self) -> Array:
        """Along which the slices are displaced, unit vector of the anchor's world."""
        axis = self.stack.source.phase_axis
        along = self.stack.acquired.world_from_voxel[:3, axis]
        anchor_from_target = self.stack.registration.target_from_anchor[:3, :3].T
        return np.asarray(anchor_from_target @ along / np.linalg.norm(along))

    @property
    def last_mm(self) -> float:
        """Of Gaussians and pixels at last."""
        voxel_mm3 = float(np.prod(voxel_sizes_mm(self.guides.anchor.volume.world_from_voxel)))
        return max(_LAST_MM, (self.guides.anchor.support.sum() * voxel_mm3 / _MOST_GAUSSIANS) ** (1 / 3))

    def seen(self, size_mm: float) -> _Seen | None:
        """None: an image without contrast."""
        guide = self.guides.at(size_mm, self.config)
        coarse = self.stack.averaged(size_mm)
        observation = observe_placed(coarse, guide.anchor, guide.gaussians, self.config)
        scale = float(observation.slices[observation.weights > 0].std())
        if not scale > 0:
            return None
        return _Seen(guide, replace(observation, slices=observation.slices / scale, noise_sd=1.0))

    def start(self) -> FoundDeformation:
        """No displacement, on the coarse control points."""
        anchor = self.guides.anchor
        index = np.argwhere(anchor.support)
        corners = np.array(np.meshgrid(*zip(index.min(0), index.max(0), strict=True))).reshape(3, -1).T
        world = corners @ anchor.volume.world_from_voxel[:3, :3].T + anchor.volume.world_from_voxel[:3, 3]
        box = np.stack([world.min(0) - _MARGIN_MM, world.max(0) + _MARGIN_MM])
        control = ControlGrid.around(torch.from_numpy(box), 2 * _CONTROL_MM)
        return FoundDeformation(np.zeros(6), control, np.zeros(len(control)))

    def finer(self, found: FoundDeformation) -> FoundDeformation:
        return FoundDeformation(found.motion, *found.control.refined(found.coefficients))

    def evidence(
        self, seen: _Seen, control: ControlGrid, regularization: float, asked: Tensor | None = None
    ) -> DeformationEvidence:
        return DeformationEvidence(
            seen.observation, seen.guide.gaussians, seen.guide.prior, regularization, self.guides.frame,
            SmoothShift(control, self.direction, _STIFFNESS), self.config.core.chunk_elements, asked,
        )  # fmt: skip

    def found(self, seen: _Seen, start: FoundDeformation, most_steps: int) -> FoundDeformation:
        return find_deformation(self.evidence(seen, start.control, _REGULARIZATION), start, most_steps)

    def applied(self, found: FoundDeformation, gain: float | None, error: float | None) -> PlacedStack:
        """The stack where it was found, with the displacement on a grid over the anchor."""
        stack, guides = self.stack, self.guides
        motion = self.guides.frame.motion(found.motion).numpy()
        target_from_anchor = stack.registration.target_from_anchor @ np.linalg.inv(motion)
        displacement = found_displacement(found, self.direction, guides)
        registration = moved_registration(stack.registration, target_from_anchor, guides.points_mm)
        lengths_mm = np.linalg.norm(displacement.at(guides.points_mm), axis=1)
        moved = replace(
            stack, registration=replace(registration, method="deformable"), displacement=displacement
        )
        known = Distortion(gain, error, (float(lengths_mm.mean()), float(lengths_mm.max())))
        return _judged(moved, known)


def found_displacement(found: FoundDeformation, direction: Array, guides: Guides) -> Displacement:
    """u d at the voxels of a coarse grid over the anchor, 0 where no spline is defined."""
    grid = coarse_grid(guides.anchor.volume.grid)
    points = centres_mm(grid)
    low = np.array(found.control.first_mm) + found.control.spacing_mm
    high = low + (np.array(found.control.shape) - 3) * found.control.spacing_mm
    inside = torch.from_numpy(np.clip(points, low, high))
    along = found.control.basis(inside).forward(torch.from_numpy(found.coefficients)).numpy()
    vectors = (along[:, None] * direction).astype(np.float32)
    return Displacement(vectors.reshape(*grid.shape, 3), grid)


def _judged(stack: PlacedStack, distortion: Distortion) -> PlacedStack:
    return replace(stack, calibration=replace(stack.calibration or Calibration(), distortion=distortion))


def _gain(
    seen: _Seen, known: _Seen, held_out: Tensor, search: _Search, found: FoundDeformation
) -> tuple[float, float]:
    """Part of the squared error on held-out slices that the displacement saves, and its standard error.

    The latter from blocks of voxels that are taken to be independent.
    """
    weights = seen.observation.weights * held_out
    evidence = search.evidence(known, found.control, _JUDGED_BY, asked=weights)
    squares = []
    for parameters in (np.zeros_like(found.parameters), found.parameters):
        error = evidence.predicted(parameters) - seen.observation.slices
        squares.append((weights * error.square()).double().cpu().numpy())
    sizes_mm = np.array(seen.observation.cell_mm) * (
        np.array(seen.observation.lattice_shape) / np.array(seen.observation.slices.shape)
    )
    blocks = np.maximum(1, np.round(_BLOCK_MM / sizes_mm)).astype(int)
    blocks[seen.observation.slice_axis] = 1
    saved = _sums(squares[0] - squares[1], blocks)
    total = float(squares[0].sum())
    if not total > 0:
        return 0.0, math.inf
    return float(saved.sum()) / total, float(np.sqrt((saved**2).sum())) / total


def _sums(image: Array, blocks: npt.NDArray[np.int64]) -> Array:
    """Of blocks of voxels."""
    for axis, size in enumerate(blocks):
        starts = np.arange(0, image.shape[axis], size)
        image = np.add.reduceat(image, starts, axis=axis)
    return np.asarray(image)
