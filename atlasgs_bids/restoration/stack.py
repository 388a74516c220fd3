"""One acquired stack: how its slices lie, and where the anchor is."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from atlasgs_bids.core.deformation import LEAST_STRETCH
from atlasgs_bids.core.position import Rises
from atlasgs_bids.core.rigid import Parameters, UncertainPosition
from atlasgs_bids.core.slice_profile import FoundProfile
from atlasgs_bids.errors import ConfigurationError, InputError
from atlasgs_bids.imaging.displacement import Displacement
from atlasgs_bids.imaging.grid import fov_mask, resample_mask
from atlasgs_bids.imaging.profile import SliceProfile, slice_profile
from atlasgs_bids.imaging.registration.given import displaced_registration, given_registration
from atlasgs_bids.imaging.registration.itk_files import TransformStep
from atlasgs_bids.imaging.registration.register import Registration, foreground_points, in_view, register
from atlasgs_bids.imaging.slices import SliceGeometry
from atlasgs_bids.imaging.volume import Grid, Volume, blocks_of, voxel_sizes_mm
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)

_MOST_FOLDED = 0.01
"""Part of the head in the slices from which on a displacement that is given cannot be believed."""


@dataclass(frozen=True)
class StackInput:
    """An acquired image before its data are read."""

    name: str
    """How messages call it."""
    geometry: SliceGeometry
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    """Its metadata, by BIDS name; ``SliceTiming`` and its like say which slices form a shot."""
    transforms: tuple[TransformStep, ...] = ()
    """ITK files that lead from it to the anchor; none: it is registered."""
    phase_axis: int | None = None
    """Voxel axis along which an echo-planar image is displaced; None: it is not one, or nobody says."""
    displacement: Displacement | None = None
    """From points of the anchor to the target's, position included; None: it is that of ``transforms``, or is
    looked for."""


@dataclass(frozen=True)
class PositionSearch:
    """How the evidence for a position changes around it, by three shifts and three turns, mm."""

    rises: Rises
    """Of the stack's six parameters, from the best position on the coarse lattice."""
    registered_mm: Parameters
    """(6,): where registration had it, from there."""
    found_mm: Parameters
    """(6,): where it was found at last, from there."""


@dataclass(frozen=True)
class Distortion:
    """What the slices say of how they are displaced along their phase-encoding axis."""

    gain: float | None
    """Part of the squared error on held-out slices that a displacement saves; None: they were not asked."""
    gain_error: float | None
    """Its standard error."""
    length_mm: tuple[float, float] | None
    """Mean and largest length over the anchor's foreground; None: held-out slices did not confirm it."""


@dataclass(frozen=True)
class Calibration:
    """What the model's evidence says of a stack; None: it was not asked, or does not tell."""

    profile: SliceProfile | None = None
    found_profile: FoundProfile | None = None
    position: UncertainPosition | None = None
    search: PositionSearch | None = None
    distortion: Distortion | None = None
    """None: it was not looked for."""
    warnings: tuple[str, ...] = ()

    @property
    def position_error_mm(self) -> float | None:
        """Standard error of the position, mean over the anchor's foreground."""
        return None if self.position is None else self.position.error_mm


@dataclass(frozen=True)
class PlacedStack:
    """An acquired stack whose position relative to the anchor is known."""

    source: StackInput
    acquired: Volume
    registration: Registration
    calibration: Calibration | None = None
    """None: headers, sidecar and registration are taken at their word."""
    displacement: Displacement | None = None
    """Of the head in the anchor's world, before ``registration``; None: the slices show it undistorted."""

    def profile(self, config: RestorationSettings) -> SliceProfile:
        """Of its slices: as found, else as the settings have it."""
        if self.calibration is not None and self.calibration.profile is not None:
            return self.calibration.profile
        return slice_profile(config.slice_profile, self.source.geometry.thickness_mm)

    def averaged(self, size_mm: float) -> "PlacedStack":
        """The stack with pixels averaged to about ``size_mm``; a mean is missing where a part of it is."""
        axis = self.source.geometry.axis
        sizes_mm = voxel_sizes_mm(self.acquired.world_from_voxel)
        blocks = blocks_of(size_mm, self.acquired.world_from_voxel)
        i, j, k = (1 if a == axis else n for a, n in enumerate(blocks))
        first, second = (float(sizes_mm[a]) * n for a, n in enumerate(blocks) if a != axis)
        geometry = replace(
            self.source.geometry, in_plane_mm=(first, second), acquired_in_plane_mm=(first, second)
        )
        return replace(
            self,
            source=replace(self.source, geometry=geometry),
            acquired=self.acquired.averaged((i, j, k)),
        )

    def at(self, target_from_anchor: npt.NDArray[np.float64]) -> "PlacedStack":
        """The stack in another position (4, 4)."""
        return replace(self, registration=replace(self.registration, target_from_anchor=target_from_anchor))

    def only(self, k: int) -> "PlacedStack":
        """Slice ``k`` as a stack of its own."""
        axis, volume = self.source.geometry.axis, self.acquired
        affine = volume.world_from_voxel.copy()
        affine[:3, 3] += k * affine[:3, axis]
        observed = None if volume.observed is None else volume.observed.take([k], axis)
        return replace(self, acquired=Volume(volume.data.take([k], axis), affine, observed))


def place(
    stack: StackInput, acquired: Volume, anchor: Anchor, config: RestorationSettings, progress: Progress
) -> PlacedStack:
    """The stack registered to the anchor; what registration warns of is logged.

    Where a displacement is given, or found in the transforms, the position is what is rigid in it. InputError
    where it cannot be believed.
    """
    displacement = None
    if stack.transforms:
        registration, displacement = given_registration(
            anchor.volume, anchor.foreground, acquired, stack.transforms
        )
    elif stack.displacement is not None:
        points_mm = foreground_points(anchor.volume, anchor.foreground)
        registration, displacement = displaced_registration(points_mm, acquired, stack.displacement)
    else:
        method = "header" if config.registration == "header" else "rigid"
        registration = register(anchor.volume, anchor.foreground, acquired, method)
    if displacement is not None:
        _check_displacement(stack, acquired, anchor, registration, displacement, config)
    for text in registration.warnings:
        logger.warning("%s", progress.led(text))
    return PlacedStack(stack, acquired, registration, displacement=displacement)


def _check_displacement(
    stack: StackInput,
    acquired: Volume,
    anchor: Anchor,
    registration: Registration,
    displacement: Displacement,
    config: RestorationSettings,
) -> None:
    names = ", ".join(step.path.name for step in stack.transforms) or stack.name
    if config.core.geometry.mode != "frozen":
        raise ConfigurationError(
            f"{names}: a displacement is given and --geometry {config.core.geometry.mode}, expected one "
            "of them: the Gaussians that it displaces are the T1w's; use --geometry frozen"
        )
    points_mm = foreground_points(anchor.volume, anchor.foreground)
    shown = points_mm[in_view(registration.target_from_anchor, points_mm, acquired)]
    folded = float((displacement.stretch_at(shown) <= LEAST_STRETCH).mean())
    if folded > _MOST_FOLDED:
        raise InputError(
            f"{names}: the displacement folds {folded:.1%} of the head in the slices (determinant of its "
            f"Jacobian {LEAST_STRETCH:g} or less), expected at most {_MOST_FOLDED:.0%}; check that it "
            "belongs to this image, or give its affine part alone"
        )


def covered(
    stack: StackInput, acquired: Volume, target_from_anchor: npt.NDArray[np.float64], grid: Grid
) -> npt.NDArray[np.bool_]:
    """Where the slices, as thick as they are, cover a grid of the anchor's world with observed voxels."""
    reach = [0.5, 0.5, 0.5]
    reach[stack.geometry.axis] = 0.5 * stack.geometry.thickness_mm / stack.geometry.spacing_mm
    inside = fov_mask(acquired.grid, grid, target_from_anchor, (reach[0], reach[1], reach[2]))
    if acquired.observed is not None:
        observed = Volume(acquired.observed.astype(np.float32), acquired.world_from_voxel)
        inside &= resample_mask(observed, grid, target_from_anchor)
    return inside
