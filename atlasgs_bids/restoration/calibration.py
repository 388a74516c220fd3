"""What no header says well enough, found from the slices and the anchor: position and slice profile.

Both come from the model's own evidence (core/position.py, core/slice_profile.py), on lattices of Gaussians
and cells that are coarse where that does not matter: at 3 and 2 mm a position is known to a tenth of a
millimetre, in seconds, and a profile is a matter of one axis (docs/decisions/0020-calibration.md).
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from atlasgs_bids.core.appearance import solve_appearance
from atlasgs_bids.core.position import FoundPositions, PositionEvidence, find_positions
from atlasgs_bids.core.rigid import UncertainPosition
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.registration.register import apart_mm, moved_registration
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.distortion import may_be_displaced, with_displacement
from atlasgs_bids.restoration.guides import Guides
from atlasgs_bids.restoration.observation import observe_placed, with_gains
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.slice_profile import with_found_profile
from atlasgs_bids.restoration.stack import Calibration, PlacedStack, PositionSearch, StackInput, place
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)

_FIRST_MM = 3.0
"""Of anchor and pixels, at which the position of registration is refined first, then as fine as guides go."""
_REGULARIZATION = 0.1
_LATTICE_ERROR_MM = 0.05
"""By which the lattice of the Gaussians holds a target: beside the standard error, measured."""
_MOST_UNCERTAIN_MM = 0.5
"""Standard error of a position from which on the user is told: 0.05 to 0.1 on scans of one head."""
_MOST_MOVED_MM = 5.0
"""From where mutual information had it: farther away evidence has other minima."""


def calibrated(
    placed: Sequence[PlacedStack], guides: Guides, config: RestorationSettings, progress: Progress
) -> list[PlacedStack]:
    """The stacks of one target where the evidence puts them, with the slice profiles that it finds.

    Stacks that have been through this before stay as they are. Positions are refined where registration was
    to find them, profiles found where the setting is ``auto``.
    """
    stacks = list(placed)
    moves = config.registration != "header" and all(not own.source.transforms for own in stacks)
    finds_profile = config.slice_profile == "auto"
    known = all(own.calibration is not None for own in stacks)
    if known or not (moves or finds_profile):
        return stacks
    # A displacement that is given is that of a position, which is given with it or in the headers.
    moves = moves and all(own.displacement is None for own in stacks)
    first, second = _FIRST_MM, guides.fine_mm
    with progress.stage("calibration") as advance:
        found = None
        if moves:
            stacks, found = _positioned(stacks, guides, first, None, config)
        if finds_profile:
            stacks = [with_found_profile(own, guides, config, progress) for own in stacks]
        if found is not None:
            stacks, found = _positioned(stacks, guides, second, found.curvature, config)
        advance(1)
    if found is not None:
        pairs = zip(stacks, placed, strict=True)
        stacks = [_believed(own, before, guides, progress) for own, before in pairs]
    if len(stacks) == 1 and may_be_displaced(stacks[0], config):
        with progress.stage("distortion") as advance:
            stacks = [with_displacement(stacks[0], guides, config, progress)]
            advance(1)
    return stacks


def aligned(image: Volume, name: str, scaffold: SessionScaffold, config: RestorationSettings) -> PlacedStack:
    """An isotropic image in its position: registered, then refined, as a stack of thin slices."""
    quiet, boxes = Progress.quiet().under(name), replace(config, slice_profile="box")
    geometry = slice_geometry(image.data.shape, image.world_from_voxel, {}, None)
    placed = place(StackInput(name, geometry), image, scaffold.anchor, boxes, quiet)
    return calibrated([placed], scaffold.guides, boxes, quiet)[0]


def _positioned(
    stacks: Sequence[PlacedStack],
    guides: Guides,
    size_mm: float,
    curvature: npt.NDArray[np.float64] | None,
    config: RestorationSettings,
) -> tuple[list[PlacedStack], FoundPositions | None]:
    """The stacks where the evidence at one scale puts them together, and what it says of that."""
    guide = guides.at(size_mm, config)
    try:
        coarse = [own.averaged(size_mm) for own in stacks]
        observations = [observe_placed(own, guide.anchor, guide.gaussians, config) for own in coarse]
    except InputError:  # nothing observed inside the head at this scale: the fit will say what that means
        return list(stacks), None
    first = observations[0]
    scale = float(first.slices[first.weights > 0].std())
    if not scale > 0:  # an image without contrast says nothing about where it lies
        return list(stacks), None
    observations = [replace(own, slices=own.slices / scale, noise_sd=1.0) for own in observations]
    if len(stacks) > 1:
        alone = solve_appearance(observations[0], guide.prior, _REGULARIZATION, config.core.appearance)
        observations = with_gains(coarse, observations, alone.amplitudes)
    found = find_positions(
        PositionEvidence(
            observations, guide.gaussians, guide.prior, _REGULARIZATION, guides.frame,
            config.core.chunk_elements,
        ),
        curvature,
    )  # fmt: skip
    return [_moved(own, found, number, guides) for number, own in enumerate(stacks)], found


def _moved(stack: PlacedStack, found: FoundPositions, number: int, guides: Guides) -> PlacedStack:
    own = slice(6 * number, 6 * number + 6)
    parameters = found.parameters[own]
    motion = guides.frame.motion(parameters).numpy()
    target_from_anchor = stack.registration.target_from_anchor @ np.linalg.inv(motion)
    lattice_error = np.diag([_LATTICE_ERROR_MM**2 / 3] * 3 + [0.0] * 3)
    position = UncertainPosition(guides.frame, found.covariance[own, own] + lattice_error)
    known = stack.calibration or Calibration()
    search = known.search
    if found.rises is not None:
        rises = replace(found.rises, rises=found.rises.rises[:, own], slopes=found.rises.slopes[:, own])
        search = PositionSearch(rises, registered_mm=-parameters, found_mm=np.zeros(6))
    elif search is not None:
        search = replace(search, found_mm=parameters)
    return replace(
        stack,
        registration=moved_registration(stack.registration, target_from_anchor, guides.points_mm),
        calibration=replace(known, position=position, search=search),
    )


def _believed(stack: PlacedStack, before: PlacedStack, guides: Guides, progress: Progress) -> PlacedStack:
    """The stack as calibrated, or where registration had it if the evidence leads too far from there."""
    found, registered = stack.registration.target_from_anchor, before.registration.target_from_anchor
    moved_mm = apart_mm(found, registered, guides.points_mm)
    if moved_mm < _MOST_MOVED_MM:
        return _with_doubt(stack, progress)
    logger.warning(
        "%s: the evidence leads %.1f mm from where registration has it, expected less than %.0f mm; it is "
        "left there: check the figure",
        progress.led(stack.source.name), moved_mm, _MOST_MOVED_MM,
    )  # fmt: skip
    unknown = replace(stack.calibration or Calibration(), position=None, search=None)
    return replace(stack, registration=before.registration, calibration=unknown)


def _with_doubt(stack: PlacedStack, progress: Progress) -> PlacedStack:
    """The stack, with a warning where the evidence hardly tells where it lies."""
    error_mm = None if stack.calibration is None else stack.calibration.position_error_mm
    if error_mm is None or error_mm < _MOST_UNCERTAIN_MM:
        return stack
    warning = (
        f"the slices tell their position to {error_mm:.1f} mm only, expected {_MOST_UNCERTAIN_MM:g} mm or "
        "better: they show little that the anchor shows; check the figure"
    )
    logger.warning("%s", progress.led(f"{stack.source.name}: {warning}"))
    registration = stack.registration
    return replace(stack, registration=replace(registration, warnings=(*registration.warnings, warning)))
