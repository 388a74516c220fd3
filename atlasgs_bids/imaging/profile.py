"""Sensitivity of a slice through its plane, and of a pixel in its plane."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from atlasgs_bids.errors import ConfigurationError

_SIGMAS_PER_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))
_GAUSSIAN_CUT_SIGMAS = 3.0
_SINC_FWHM = 1.207
_PROFILE_EXTENT_MM = (0.05, 100.0)


@dataclass(frozen=True)
class SliceProfile:
    """Through-plane sensitivity of a slice as a cumulative distribution."""

    offsets_mm: npt.NDArray[np.float64]
    """Ascending, along the slice normal; 0 is the slice centre."""
    cumulative: npt.NDArray[np.float64]
    """From 0 to 1, piecewise linear between the offsets."""

    @property
    def sd_mm(self) -> float:
        """Standard deviation, mm: a box's is its width / √12, and a blur adds in squares.

        >>> round(slice_profile("box", 3.0).sd_mm, 3)
        0.866
        """
        mass, low, high = np.diff(self.cumulative), self.offsets_mm[:-1], self.offsets_mm[1:]
        mean = float(mass @ (low + high)) / 2
        second = float(mass @ (low * low + low * high + high * high)) / 3
        return math.sqrt(max(second - mean * mean, 0.0))


def slice_profile(spec: str | SliceProfile, thickness_mm: float) -> SliceProfile:
    """Profile named ``box``, ``gaussian`` or ``auto``; one that is given is used whatever the thickness.

    ``box`` is constant over the thickness, and what ``auto`` stands for until the slices have told;
    ``gaussian`` has the thickness as its full width at half maximum and is cut at 3 sigma. Raises
    ConfigurationError for another name.
    """
    if isinstance(spec, SliceProfile):
        return spec
    if not (math.isfinite(thickness_mm) and thickness_mm > 0):
        raise ConfigurationError(f"slice thickness {thickness_mm} mm, expected a positive number")
    if spec in ("box", "auto"):
        return SliceProfile(np.array([-0.5, 0.5]) * thickness_mm, np.array([0.0, 1.0]))
    if spec == "gaussian":
        sigma_mm = thickness_mm * _SIGMAS_PER_FWHM
        offsets_sigmas = np.linspace(-_GAUSSIAN_CUT_SIGMAS, _GAUSSIAN_CUT_SIGMAS, 121)
        cumulative = np.array([0.5 * (1 + math.erf(z / math.sqrt(2))) for z in offsets_sigmas])
        cumulative = (cumulative - cumulative[0]) / (cumulative[-1] - cumulative[0])
        return SliceProfile(offsets_sigmas * sigma_mm, cumulative)
    raise ConfigurationError(f"slice profile {spec!r}, expected auto, box, gaussian or a SliceProfile")


def profile_with_sd(sd_mm: float, thickness_mm: float) -> SliceProfile:
    """Profile of a given standard deviation (mm) in the family box ⊗ Gaussian.

    The box has the stated thickness as long as that allows it, and the Gaussian what is missing; a profile
    that is narrower than this box is a narrower box.
    """
    box_sd_mm = thickness_mm / math.sqrt(12)
    if sd_mm <= box_sd_mm:
        return slice_profile("box", sd_mm * math.sqrt(12))
    return _blurred_box(thickness_mm, math.sqrt(sd_mm**2 - box_sd_mm**2))


def _blurred_box(thickness_mm: float, sigma_mm: float) -> SliceProfile:
    """Box ⊗ Gaussian, cut at 3 sigma beyond the box."""
    reach_mm = thickness_mm / 2 + _GAUSSIAN_CUT_SIGMAS * sigma_mm
    offsets_mm = np.linspace(-reach_mm, reach_mm, 161)
    edges = (offsets_mm[:, None] + np.array([1, -1]) * thickness_mm / 2) / max(sigma_mm, 1e-6)
    density = ndtr(edges[:, 0]) - ndtr(edges[:, 1])
    return profile_of(offsets_mm, density)


def truncation_profile(acquired_mm: float) -> SliceProfile:
    """In-plane point spread of a zero-filled image: a Gaussian as wide as the main lobe of its sinc.

    The sinc of an acquired voxel has a full width at half maximum of 1.207 voxels; its side lobes are left
    out, since scanners filter them away.
    """
    return slice_profile("gaussian", _SINC_FWHM * acquired_mm)


def read_slice_profile(path: Path) -> SliceProfile:
    """Profile from a text file of two columns, offset in mm and weight >= 0; else ConfigurationError.

    The density is linear between the offsets.
    """
    label = f"slice profile '{path}'"
    expected = "expected two numbers, offset in mm and weight"
    remedy = "write one 'offset weight' pair per line, or use --slice-profile box or gaussian"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{label}: not a readable text file ({error}), and neither 'box' nor 'gaussian'; {remedy}"
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        fields = line.split("#")[0].replace(",", " ").split()
        if not fields:
            continue
        try:
            rows.append([float(text) for text in fields])
        except ValueError:
            rows.append([math.nan])
        if len(rows[-1]) != 2 or not all(math.isfinite(x) for x in rows[-1]):
            raise ConfigurationError(f"{label}, line {number}: {line.strip()!r}, {expected}; {remedy}")
    table = np.array(rows, dtype=np.float64).reshape(-1, 2)
    offsets_mm, weights = table.T
    problem = _profile_problem(offsets_mm, weights)
    if problem:
        raise ConfigurationError(f"{label}: {problem}; {remedy}")
    return profile_of(offsets_mm, weights)


def profile_of(offsets_mm: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> SliceProfile:
    """Profile of a density that is linear between ascending offsets, whatever its integral."""
    # The integral of a piecewise linear density is quadratic: tabulated finely enough to be linear again.
    steps = np.linspace(0, 1, 33)[:-1]
    fine_mm = np.append(
        (offsets_mm[:-1, None] + np.diff(offsets_mm)[:, None] * steps).ravel(), offsets_mm[-1]
    )
    density = np.interp(fine_mm, offsets_mm, weights)
    mass = np.diff(fine_mm) * (density[1:] + density[:-1]) / 2
    cumulative = np.concatenate([[0.0], np.cumsum(mass)])
    return SliceProfile(fine_mm, cumulative / cumulative[-1])


def _profile_problem(offsets_mm: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> str | None:
    if len(offsets_mm) < 2:
        return f"{len(offsets_mm)} lines of numbers, expected at least 2"
    if (np.diff(offsets_mm) <= 0).any():
        return "the offsets do not ascend from line to line, expected strictly ascending offsets"
    if (weights < 0).any():
        return f"a weight of {weights.min():g}, expected weights >= 0"
    if not (weights > 0).any():
        return "all weights are 0, expected a positive one"
    shortest_mm, longest_mm = _PROFILE_EXTENT_MM
    if not shortest_mm <= offsets_mm[-1] - offsets_mm[0] <= longest_mm:
        return (
            f"offsets from {offsets_mm[0]:g} to {offsets_mm[-1]:g}, expected an extent of {shortest_mm:g} "
            f"to {longest_mm:g} mm (are they in mm?)"
        )
    return None
