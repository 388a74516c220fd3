"""Thick slices simulated from an isotropic scan, so that a result can be scored against the truth."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, special

from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.study.settings import DegradationKind

_SIGMAS_PER_FWHM = 1 / (2 * np.sqrt(2 * np.log(2)))
_GAUSSIAN_CUT_SIGMAS = 3.0

Image = npt.NDArray[np.floating]
Slices = tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]
"""Data, and world_from_voxel (mm)."""


@dataclass(frozen=True)
class Degradation:
    """How an isotropic image becomes slices of ``factor`` voxels along ``axis``."""

    kind: DegradationKind
    """``paper``: Gaussian blur of σ = 1 voxel, then mean; ``box``: mean; ``gaussian``: a Gaussian whose full
    width at half maximum is the thickness."""
    axis: int
    factor: int
    in_plane: int = 1
    """Voxels of a pixel, each way: their mean."""

    @property
    def blocks(self) -> tuple[int, int, int]:
        """Fine voxels that one voxel of the slices stands for, along each axis."""
        i, j, k = (self.factor if axis == self.axis else self.in_plane for axis in range(3))
        return i, j, k

    def slices(self, data: Image, world_from_voxel: npt.NDArray[np.floating]) -> Slices:
        """The slices without noise; slice k has its centre at (k + ½) f − ½ fine voxels."""
        if self.kind == "gaussian":
            thick, affine = _gaussian_slices(data, world_from_voxel, self.axis, self.factor)
        else:
            blur = 1.0 if self.kind == "paper" else 0.0
            thick, affine = simulate_thick_slices(data, world_from_voxel, self.axis, self.factor, blur)
        if self.in_plane == 1:
            return thick, affine
        i, j, k = (1 if axis == self.axis else self.in_plane for axis in range(3))
        coarse = Volume(thick, affine).averaged((i, j, k))
        return coarse.data, coarse.world_from_voxel

    def profile(self, voxel_mm: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Offsets (mm) and weights of the slice profile, for a fine voxel of ``voxel_mm``."""
        thickness_mm = self.factor * voxel_mm
        if self.kind == "paper":
            return true_slice_profile(thickness_mm, voxel_mm)
        if self.kind == "box":
            return np.array([-0.5, 0.5]) * thickness_mm, np.array([1.0, 1.0])
        sigmas = np.linspace(-_GAUSSIAN_CUT_SIGMAS, _GAUSSIAN_CUT_SIGMAS, 121)
        return sigmas * thickness_mm * _SIGMAS_PER_FWHM, np.exp(-0.5 * sigmas**2)


def simulate_thick_slices(
    data: Image,
    world_from_voxel: npt.NDArray[np.floating],
    axis: int,
    factor: int,
    blur_sigma_voxels: float = 1.0,
) -> Slices:
    """Slices of ``factor`` voxels along ``axis`` (Gaussian blur, then mean), and their world_from_voxel (mm).

    Slice k averages the fine voxels k f ... (k + 1) f - 1, so its centre lies at (k + ½) f - ½ fine voxels,
    which the returned affine says. Trailing voxels that do not fill a slice are dropped. The blur stands for
    the smooth flanks of a real slice profile.

    >>> ramp = np.arange(7.0).reshape(1, 1, 7)
    >>> slices, _ = simulate_thick_slices(ramp, np.eye(4), axis=2, factor=3, blur_sigma_voxels=0)
    >>> slices.ravel().tolist()
    [1.0, 4.0]
    """
    n_slices = _n_slices(data, axis, factor)
    fine = np.asarray(data, dtype=np.float64)
    if blur_sigma_voxels > 0:
        fine = ndimage.gaussian_filter1d(fine, blur_sigma_voxels, axis=axis, mode="nearest")
    filled = np.moveaxis(fine, axis, -1)[..., : n_slices * factor]
    slices = filled.reshape(*filled.shape[:-1], n_slices, factor).mean(axis=-1)
    affine = _slices_affine(world_from_voxel, axis, factor)
    return np.moveaxis(slices, -1, axis).astype(np.float32), affine


def _gaussian_slices(
    data: Image, world_from_voxel: npt.NDArray[np.floating], axis: int, factor: int
) -> Slices:
    n_fine, n_slices = data.shape[axis], _n_slices(data, axis, factor)
    centres = (np.arange(n_slices) + 0.5) * factor - 0.5
    offsets = (np.arange(n_fine)[None] - centres[:, None]) / (factor * _SIGMAS_PER_FWHM)
    weights = np.where(np.abs(offsets) <= _GAUSSIAN_CUT_SIGMAS, np.exp(-0.5 * offsets**2), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    slices = np.moveaxis(np.asarray(data, np.float64), axis, -1) @ weights.T
    affine = _slices_affine(world_from_voxel, axis, factor)
    return np.moveaxis(slices, -1, axis).astype(np.float32), affine


def _n_slices(data: Image, axis: int, factor: int) -> int:
    if not 1 <= factor <= data.shape[axis]:
        raise ValueError(f"factor {factor} on an axis of {data.shape[axis]} voxels; expected 1 to its length")
    return data.shape[axis] // factor


def _slices_affine(
    world_from_voxel: npt.NDArray[np.floating], axis: int, factor: int
) -> npt.NDArray[np.float64]:
    fine_from_slice = np.eye(4)
    fine_from_slice[axis, axis] = factor
    fine_from_slice[axis, 3] = (factor - 1) / 2
    return np.asarray(world_from_voxel @ fine_from_slice, dtype=np.float64)


def true_slice_profile(
    thickness_mm: float, blur_sigma_mm: float, step_mm: float = 0.05
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Offsets (mm) and weights (1/mm, integral 1) of a box convolved with a Gaussian, to 4 σ past the box.

    What ``simulate_thick_slices`` does to a continuous object: box of the thickness, blurred by the Gaussian.
    """
    reach_mm = thickness_mm / 2 + 4 * blur_sigma_mm
    n_steps = int(np.ceil(reach_mm / step_mm))
    offsets_mm = np.linspace(-reach_mm, reach_mm, 2 * n_steps + 1)
    edges = (offsets_mm[:, None] + np.array([-1, 1]) * thickness_mm / 2) / (blur_sigma_mm * np.sqrt(2))
    lower, upper = special.erf(edges).T
    return offsets_mm, (upper - lower) / (2 * thickness_mm)


def with_rician_noise(
    slices: npt.NDArray[np.float32], sd: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Magnitude of the slices after noise of ``sd`` in both channels."""
    if sd == 0:
        return slices
    real, imaginary = rng.normal(0, sd, (2, *slices.shape))
    return np.hypot(slices + real, imaginary).astype(np.float32)


def rigid_motion(
    millimetres: float, degrees: float, centre_mm: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """A (4, 4) world map: turned about the centre and shifted by so much, in directions that are drawn."""
    from scipy.spatial.transform import Rotation  # noqa: PLC0415 - only where a head moves

    axis, direction = rng.normal(size=(2, 3))
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    shift_mm = millimetres * direction / np.linalg.norm(direction)
    moved[:3, 3] = centre_mm - moved[:3, :3] @ centre_mm + shift_mm
    return moved
