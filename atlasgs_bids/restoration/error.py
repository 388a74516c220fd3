"""How far a restored image may be off in each voxel, and where it may be believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from torch import Tensor

from atlasgs_bids.core.rigid import UncertainPosition
from atlasgs_bids.core.uncertainty import Uncertainty
from atlasgs_bids.imaging.volume import Grid

_SMOOTHING_VOX = 1.0
"""σ over which the mean square of two draws is averaged; of fewer, over as much more of the image."""
_DRAWS = 2
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrustedVoxels:
    """Where the error is below half the local contrast, at a risk that held-out slices bear out."""

    mask: npt.NDArray[np.bool_]
    risk: float
    """Wrong ones among the believed voxels of the held-out slices."""
    risk_everywhere: float
    """Wrong ones among all voxels of those slices."""
    n_slices: int


@dataclass(frozen=True)
class ImageError:
    """Of one image, on its grid."""

    sd: FloatArray
    """Standard deviation of the error."""
    noise_sd: FloatArray | None
    """The part that the noise of the slices makes; None: not told from the rest."""
    trust: TrustedVoxels | None
    """None: the slices are too few to tell."""

    def beside(self, other: ImageError) -> ImageError:
        """Of the sum of two images whose errors have nothing in common."""
        noise_sd = None
        if self.noise_sd is not None and other.noise_sd is not None:
            noise_sd = np.hypot(self.noise_sd, other.noise_sd)
        return ImageError(np.hypot(self.sd, other.sd), noise_sd, None)


@dataclass(frozen=True)
class UncertainProfile:
    """The slice profile of one stack, as it was found."""

    normal: npt.NDArray[np.float64]
    """(3,) unit vector along the slice axis, in the anchor's world."""
    sd_mm: float
    error_mm: float
    """Standard error of ``sd_mm``."""


def error_of(
    uncertainty: Uncertainty,
    drawn: Callable[[Tensor], FloatArray],
    image: FloatArray,
    grid: Grid,
    inside: npt.NDArray[np.bool_],
    seen: npt.NDArray[np.bool_],
    positions: Sequence[UncertainPosition],
    profiles: Sequence[UncertainProfile],
) -> ImageError:
    """What amplitudes, position and slice profile leave open.

    ``drawn``: the image of amplitudes. ``seen``: the anchor's foreground in the slices, where there is trust.
    """
    noise = _noise_variance(uncertainty, drawn, inside)
    variance = noise.copy()
    if uncertainty.expected_sd is not None:
        variance += drawn(uncertainty.expected_sd) ** 2
    variance[inside] += position_variance(image, grid, inside, positions)
    variance[inside] += profile_variance(image, grid, inside, profiles)
    sd, trust = np.sqrt(variance), None
    if (own := uncertainty.trust) is not None:
        mask = inside & seen & (sd <= own.bound * drawn(own.half_contrast))
        trust = TrustedVoxels(mask, own.risk, own.risk_everywhere, own.n_slices)
    return ImageError(sd, None if uncertainty.expected_sd is None else np.sqrt(noise), trust)


def _noise_variance(
    uncertainty: Uncertainty, drawn: Callable[[Tensor], FloatArray], inside: npt.NDArray[np.bool_]
) -> FloatArray:
    """The draws' mean square, smoothed: a few tell the variance of a voxel to a third only."""
    draws = uncertainty.deviations.unbind(1)
    variance = np.zeros(inside.shape, np.float32)
    for draw in draws:
        variance += drawn(draw) ** 2 / len(draws)
    sigma = _SMOOTHING_VOX * max(1.0, _DRAWS / len(draws)) ** (1 / 3)
    share = ndimage.gaussian_filter(inside.astype(np.float32), sigma)
    variance = ndimage.gaussian_filter(variance, sigma) / np.maximum(share, np.float32(1e-6))
    return np.where(inside, variance, np.float32(0))


def position_variance(
    image: FloatArray,
    grid: Grid,
    inside: npt.NDArray[np.bool_],
    positions: Sequence[UncertainPosition],
) -> FloatArray:
    """(n inside,) variance of the image because of where its stacks may lie: ∇f Cov(u) ∇fᵀ, u their motion.

    The mean over the stacks, as if their errors were one.
    """
    variance = np.zeros(int(inside.sum()), np.float32)
    if not positions:
        return variance
    slope_mm, points_mm = slopes_mm(image, grid, inside), places_mm(grid, inside)
    for own in positions:
        turning = np.cross(points_mm - own.frame.centre_mm.numpy(), slope_mm) / own.frame.radius_mm
        by_parameter = np.concatenate([slope_mm, turning], axis=1)
        variance += ((by_parameter @ own.covariance) * by_parameter).sum(axis=1) / len(positions)
    return variance


def slopes_mm(image: FloatArray, grid: Grid, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(n inside, 3) by the world's axes."""
    slope_vox = np.stack([slope[inside] for slope in list(np.gradient(image))], axis=1)
    return np.asarray(slope_vox @ np.linalg.inv(grid.world_from_voxel[:3, :3]))


def places_mm(grid: Grid, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(n inside, 3) world."""
    return np.asarray(np.argwhere(inside) @ grid.world_from_voxel[:3, :3].T + grid.world_from_voxel[:3, 3])


def profile_variance(
    image: FloatArray, grid: Grid, inside: npt.NDArray[np.bool_], profiles: Sequence[UncertainProfile]
) -> FloatArray:
    """(n inside,) variance of the image because of how wide its slice profiles may be; mean over the stacks.

    A profile that is taken for narrower by δ in its variance leaves the image blurred by as much:
    f − f* = ½ δ ∂²f/∂n².
    """
    variance = np.zeros(int(inside.sum()), np.float32)
    for own in profiles:
        # Voxels for a step of 1 mm along the slice axis.
        step_vox = np.linalg.inv(grid.world_from_voxel[:3, :3]) @ own.normal
        bend = _along(_along(image, step_vox), step_vox)[inside]
        variance += (own.sd_mm * own.error_mm * bend) ** 2 / len(profiles)
    return variance


def _along(image: FloatArray, step_vox: npt.NDArray[np.float64]) -> FloatArray:
    """Slope for a step."""
    slope = np.zeros_like(image)
    for part, step in zip(np.gradient(image), step_vox, strict=True):
        slope += np.float32(step) * part
    return slope
