"""What was computed for one target, on its way from the fit to the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atlasgs_bids.core.appearance import Appearance
from atlasgs_bids.core.contradiction import without_small
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.local_shifts import LocalShifts
from atlasgs_bids.core.metrics import misfit_beyond_noise
from atlasgs_bids.core.priors.expectation import ExpectedStack
from atlasgs_bids.core.rigid import UncertainPosition
from atlasgs_bids.core.uncertainty import Uncertainty
from atlasgs_bids.imaging.displacement import Displacement
from atlasgs_bids.imaging.grid import output_grid
from atlasgs_bids.imaging.header import ALIGNED_CODE
from atlasgs_bids.imaging.interpolated import Interpolable
from atlasgs_bids.imaging.registration.register import Registration
from atlasgs_bids.imaging.slice_motion import SlicePosition
from atlasgs_bids.imaging.slices import slice_normal
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm
from atlasgs_bids.imaging.volume_motion import SeriesMotion
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.error import ImageError, TrustedVoxels, UncertainProfile, error_of
from atlasgs_bids.restoration.flags import Contradicting, Flags, flags_of, with_flags
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import Calibration, StackInput, covered
from atlasgs_bids.restoration.views import Region, TargetModel, at_gaussians, rendered

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StackResult:
    """One acquired stack and what the model says about it."""

    source: StackInput
    acquired: Volume
    registration: Registration
    simulated: FloatArray
    """The model's slices, native grid and intensities."""
    weights: FloatArray
    """0: the native voxel took no part in the fit."""
    gain: float
    """Intensity of this stack over that of the first one."""
    noise_sd: float
    contradicted: npt.NDArray[np.bool_] | None = None
    """Native voxels in which the slices contradict a learned prior."""
    anchor_gain: float | None = None
    """Part of a learned prior's squared error that its anchor saves (core/priors/learned/evidence.py)."""
    contradiction: FloatArray | None = None
    """By how much its native voxels contradict anchor or image where they do, else 0, intensity of the
    result; None: not asked for, or slices are too few to tell (core/contradiction.py)."""
    calibration: Calibration | None = None
    """What its position and its slice profile were found from; None: taken from headers and registration."""
    displacement: Displacement | None = None
    """Of the head in the anchor's world, before its position; None: it is taken to be undistorted."""
    motion: tuple[SlicePosition, ...] = ()
    """Of each slice, relative to the stack; empty: the slices were taken to lie still."""

    @property
    def interpolable(self) -> Interpolable:
        """What mean_interpolated needs of it."""
        return self.acquired, self.registration.target_from_anchor, self.gain

    @property
    def disagrees(self) -> npt.NDArray[np.bool_]:
        """Native voxels in which slices and prior disagree beyond the noise."""
        misfit = misfit_beyond_noise(
            self.acquired.data - self.simulated, self.source.geometry.axis, self.weights > 0, self.noise_sd
        )
        return misfit if self.contradicted is None else misfit | self.contradicted


@dataclass(frozen=True)
class TargetFit:
    """The amplitudes that explain all stacks of a target."""

    appearance: Appearance
    uncertainty: Uncertainty | None
    """How far they may be off; None: not asked for."""
    stacks: tuple[StackResult, ...]
    expected: tuple[ExpectedStack, ...]
    """What a learned prior said of each stack; empty without one."""


@dataclass(frozen=True)
class TargetResult:
    """Everything that was computed for one target."""

    stacks: tuple[StackResult, ...]
    appearance: Appearance
    grid: Grid
    sr: FloatArray
    """The result on ``grid``."""
    error: ImageError | None
    """How far the result may be off; None: not asked for."""
    fov: npt.NDArray[np.bool_]
    """Where the acquired slices cover ``grid``."""
    inside: npt.NDArray[np.bool_]
    """Where the result is not set to 0: the field of view, and what was lost amid it, around the anchor."""
    anchor: Anchor
    gaussians: Gaussians
    n_shared: int
    """How many of them, the first ones, are the session's."""
    cell_mm: npt.NDArray[np.float64]
    """(3, 3): what a Gaussian stands for, edges in columns."""
    anchor_psnr_db: float
    coverage: float
    """Part of the anchor's foreground that ``fov`` covers."""
    flags: Flags | None = None
    """Where slices contradict the anchor, or lie elsewhere; None: not asked for."""
    difference_to_noise: float | None = None
    """ASL: RMS of acquired minus simulated difference of control and label, over its noise."""
    motion: SeriesMotion | None = None
    """Of the volumes of a series; None: they were taken to lie where the reference does."""
    volume_errors: Mapping[str, ImageError] = field(default_factory=dict)
    """Of one volume of each kind of a series, the reference's kind first; empty: not asked for."""

    @property
    def form_code(self) -> int:
        """What may be claimed of the world of ``grid``: no more than of the images behind the result.

        Where the orientation of a stack is unknown the result is aligned with the anchor, and no more.
        """
        code = self.anchor.volume.form_code
        known = all(stack.acquired.form_code for stack in self.stacks)
        return code if known or code == 0 else ALIGNED_CODE

    @property
    def sd(self) -> FloatArray | None:
        """Standard deviation of the result's error; None: not asked for."""
        return None if self.error is None else self.error.sd

    @property
    def trust(self) -> TrustedVoxels | None:
        """Where it may be believed; None: not asked for, or the slices are too few to tell."""
        return None if self.error is None else self.error.trust

    @cached_property
    def model(self) -> TargetModel:
        """What any view of it is rendered from."""
        gaussians = replace(self.gaussians, amplitudes=self.appearance.amplitudes)
        region, sd = Region(self.grid, self.inside), None
        if self.sd is not None:
            sd = at_gaussians(
                self.sd, region, gaussians,
                lambda values: rendered(gaussians, values, self.grid, self.cell_mm),
            )  # fmt: skip
        floor = 0.0 if _is_magnitude(self.stacks) else None
        return TargetModel(gaussians, self.cell_mm, sd, region, floor, self.form_code)

    @cached_property
    def prior_disagrees(self) -> float:
        """Part of the slices' voxels in which they and the prior disagree beyond the noise."""
        n_observed = sum(int((stack.weights > 0).sum()) for stack in self.stacks)
        return sum(int(stack.disagrees.sum()) for stack in self.stacks) / max(1, n_observed)


def rendered_result(
    fit: TargetFit,
    scaffold: SessionScaffold,
    config: RestorationSettings,
    shifts: Sequence[LocalShifts] = (),
) -> TargetResult:
    """The amplitudes on the output grid; 0 outside the acquired field of view and the anchor's support.

    What was lost amid the slices is inferred as what lies between them; the field of view does not hold it.
    ``shifts``: of the stacks, patch by patch.
    """
    anchor, stacks, uncertainty = scaffold.anchor, fit.stacks, fit.uncertainty
    grid = output_grid(anchor.volume.grid, _resolution(stacks, config))
    fov = np.zeros(grid.shape, dtype=bool)
    for stack in stacks:
        fov |= covered(stack.source, stack.acquired, stack.registration.target_from_anchor, grid)
    foreground = anchor.foreground_on(grid)
    inside = _reached(stacks, grid) & anchor.support_on(grid)
    image = rendered_volume(
        fit.appearance.amplitudes, grid, inside, scaffold, config,
        floor=0.0 if _is_magnitude(stacks) else None,
    )  # fmt: skip
    error, flags = None, None
    if uncertainty is not None:
        drawn = partial(
            rendered_volume, grid=grid, inside=inside, scaffold=scaffold, config=config, floor=None
        )
        known = uncertain_positions(stacks), uncertain_profiles(stacks)
        error = error_of(uncertainty, drawn, image, grid, inside, foreground & fov, *known)
        if (contradicting := _contradicting(stacks)) or shifts:
            flags = flags_of(contradicting, shifts, image, grid, foreground & fov, anchor)
            error = with_flags(error, flags)
    return TargetResult(
        stacks=stacks,
        appearance=fit.appearance,
        grid=grid,
        sr=image,
        error=error,
        fov=fov,
        inside=inside,
        anchor=anchor,
        gaussians=scaffold.gaussians,
        n_shared=scaffold.n_shared,
        cell_mm=scaffold.cell_mm,
        anchor_psnr_db=scaffold.anchor_psnr_db,
        coverage=float((fov & foreground).sum() / max(1, foreground.sum())),
        flags=flags,
    )  # fmt: skip


def _contradicting(stacks: Sequence[StackResult]) -> list[Contradicting]:
    """Where the slices contradict anchor and image, and a learned prior by itself."""
    found = []
    for own in stacks:
        if own.contradiction is None:
            continue
        amount = own.contradiction
        if own.contradicted is not None:
            sizes_mm = voxel_sizes_mm(own.acquired.world_from_voxel)
            learned = without_small(torch.from_numpy(own.contradicted), sizes_mm.tolist()).numpy()
            misfit = np.abs(own.acquired.data - own.simulated) / np.float32(own.gain)
            amount = np.where(learned, np.maximum(amount, misfit), amount)
        found.append((amount, own.acquired, own.registration.target_from_anchor))
    return found


def _resolution(stacks: Sequence[StackResult], config: RestorationSettings) -> str | float:
    """The setting; for ``native``, mm of the smallest pixel side of the stacks."""
    if config.resolution != "native":
        return config.resolution
    return min(min(stack.source.geometry.in_plane_mm) for stack in stacks)


def _reached(stacks: Sequence[StackResult], grid: Grid) -> npt.NDArray[np.bool_]:
    """Where the slices cover a grid of the anchor's world, what was lost amid them included."""
    reached = np.zeros(grid.shape, dtype=bool)
    for stack in stacks:
        reached |= covered(
            stack.source, stack.acquired.with_lost, stack.registration.target_from_anchor, grid
        )
    return reached


def _is_magnitude(stacks: Sequence[StackResult]) -> bool:
    """Magnitude images have no negative intensities; the least squares fit overshoots at edges."""
    return all(stack.acquired.data.min() >= 0 for stack in stacks)


def uncertain_positions(stacks: Sequence[StackResult]) -> list[UncertainPosition]:
    """Of the stacks whose position the evidence was asked for."""
    known = [own.calibration.position for own in stacks if own.calibration is not None]
    return [position for position in known if position is not None]


def uncertain_profiles(stacks: Sequence[StackResult]) -> list[UncertainProfile]:
    """Of the stacks whose slice profile the evidence was asked for, and told."""
    found = []
    for own in stacks:
        profile = None if own.calibration is None else own.calibration.found_profile
        if profile is not None:
            normal = slice_normal(own.acquired.world_from_voxel, own.source.geometry.axis)
            anchor_from_target = own.registration.target_from_anchor[:3, :3].T
            found.append(UncertainProfile(anchor_from_target @ normal, profile.sd_mm, profile.error_mm))
    return found


def rendered_volume(
    amplitudes: Tensor,
    grid: Grid,
    inside: npt.NDArray[np.bool_],
    scaffold: SessionScaffold,
    config: RestorationSettings,
    *,
    floor: float | None,
) -> npt.NDArray[np.float32]:
    """The image of the amplitudes on a grid, 0 outside the mask, nowhere below the floor."""
    drawn = rendered(scaffold.gaussians, amplitudes, grid, scaffold.cell_mm, config.core.chunk_elements)
    image = np.where(inside, drawn, np.float32(0))
    return image if floor is None else np.maximum(image, np.float32(floor))
