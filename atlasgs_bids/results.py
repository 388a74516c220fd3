"""What was computed for one target, on its way from the fit to the files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from atlasgs_bids.core.appearance import Appearance
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.metrics import misfit_beyond_noise
from atlasgs_bids.core.priors.expectation import ExpectedStack
from atlasgs_bids.core.uncertainty import Uncertainty
from atlasgs_bids.imaging.anchor import Anchor
from atlasgs_bids.imaging.grid import fov_mask, resample
from atlasgs_bids.imaging.header import ALIGNED_CODE
from atlasgs_bids.imaging.registration import Registration
from atlasgs_bids.imaging.slice_motion import SlicePosition
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.targets import StackPlan

FloatArray = npt.NDArray[np.float32]
Interpolable = tuple[Volume, npt.NDArray[np.float64], float]
"""A stack, target_from_anchor (world, mm), and its gain."""


@dataclass(frozen=True)
class StackResult:
    """One acquired stack and what the model says about it."""

    plan: StackPlan
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
    """Part of the squared error of a learned prior that its anchor saves (core/priors/evidence.py)."""
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
            self.acquired.data - self.simulated, self.plan.geometry.axis, self.weights > 0, self.noise_sd
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
    sd: FloatArray | None
    """Standard deviation of its error; None: not asked for."""
    fov: npt.NDArray[np.bool_]
    """Where the acquired slices cover ``grid``."""
    inside: npt.NDArray[np.bool_]
    """Where the result is not set to 0: the field of view, and what was lost amid it, around the anchor."""
    anchor: Anchor
    gaussians: Gaussians
    n_shared: int
    """How many of them, the first ones, are the session's."""
    anchor_psnr_db: float
    coverage: float
    """Part of the anchor's foreground that ``fov`` covers."""
    difference_to_noise: float | None = None
    """ASL: RMS of acquired minus simulated difference of control and label, over its noise."""

    @property
    def form_code(self) -> int:
        """What may be claimed of the world of ``grid``: no more than of the images behind the result.

        Where the orientation of a stack is unknown the result is aligned with the anchor, and no more.
        """
        code = self.anchor.volume.form_code
        known = all(stack.acquired.form_code for stack in self.stacks)
        return code if known or code == 0 else ALIGNED_CODE

    @cached_property
    def prior_disagrees(self) -> float:
        """Part of the slices' voxels in which they and the prior disagree beyond the noise."""
        n_observed = sum(int((stack.weights > 0).sum()) for stack in self.stacks)
        return sum(int(stack.disagrees.sum()) for stack in self.stacks) / max(1, n_observed)


def mean_interpolated(stacks: Sequence[Interpolable], grid: Grid) -> FloatArray:
    """Cubic interpolation of the stacks, each over its gain, averaged where they overlap."""
    total, n_stacks = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    for acquired, target_from_anchor, gain in stacks:
        total += resample(acquired, grid, target_from_anchor) / np.float32(gain)
        n_stacks += fov_mask(acquired.grid, grid, target_from_anchor)
    return np.asarray(total / np.maximum(n_stacks, np.float32(1)))
