"""What was computed for one target, on its way from the fit to the files."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atlasgs_bids.core.appearance import Appearance
from atlasgs_bids.core.uncertainty import Uncertainty
from atlasgs_bids.imaging.anchor import Anchor
from atlasgs_bids.imaging.registration import Registration
from atlasgs_bids.imaging.slice_motion import SlicePosition
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.targets import StackPlan

FloatArray = npt.NDArray[np.float32]


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
    motion: tuple[SlicePosition, ...] = ()
    """Of each slice, relative to the stack; empty: the slices were taken to lie still."""


@dataclass(frozen=True)
class TargetFit:
    """The amplitudes that explain all stacks of a target."""

    appearance: Appearance
    uncertainty: Uncertainty
    stacks: tuple[StackResult, ...]


@dataclass(frozen=True)
class TargetResult:
    """Everything that was computed for one target."""

    stacks: tuple[StackResult, ...]
    appearance: Appearance
    grid: Grid
    sr: FloatArray
    """The result on ``grid``."""
    sd: FloatArray
    """Standard deviation of its error."""
    fov: npt.NDArray[np.bool_]
    """Where the acquired slices cover ``grid``."""
    anchor: Anchor
    n_gaussians: int
    anchor_psnr_db: float
    coverage: float
    """Part of the anchor's foreground that ``fov`` covers."""
    difference_to_noise: float | None = None
    """ASL: RMS of acquired minus simulated difference of control and label, over its noise."""
