"""Slice axis, spacing, thickness and profile from header and sidecar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atlasgs_bids.errors import ConfigurationError, InputError
from atlasgs_bids.imaging.volume import voxel_sizes_mm

_MIN_THICKNESS_RATIO = 0.05
_MAX_THICKNESS_RATIO = 2.0
_MAX_SPACING_DISAGREEMENT = 0.05
_SIGMAS_PER_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))
_GAUSSIAN_CUT_SIGMAS = 3.0
_SINC_FWHM = 1.207
_LEAST_ZERO_FILLING, _MOST_ZERO_FILLING = 1.05, 4.0
_PROFILE_EXTENT_MM = (0.05, 100.0)


@dataclass(frozen=True)
class SliceGeometry:
    """How the slices of one acquired image lie."""

    axis: int
    """Voxel axis through the slices: the one with the largest voxel size, from the affine."""
    spacing_mm: float
    """Distance between neighbouring slice planes, along their normal."""
    thickness_mm: float
    thickness_source: str
    """``--slice-thickness``, ``SliceThickness`` or ``voxel size``."""
    in_plane_mm: tuple[float, float]
    """Voxel sizes along the two other axes, in axis order."""
    acquired_in_plane_mm: tuple[float, float]
    """The same before the scanner interpolated the image; equal to ``in_plane_mm`` where it did not."""
    warnings: tuple[str, ...]

    @property
    def gap_mm(self) -> float:
        """Space between neighbouring slices, mm; negative where they overlap."""
        return self.spacing_mm - self.thickness_mm


@dataclass(frozen=True)
class SliceProfile:
    """Through-plane sensitivity of a slice as a cumulative distribution."""

    offsets_mm: npt.NDArray[np.float64]
    """Ascending, along the slice normal; 0 is the slice centre."""
    cumulative: npt.NDArray[np.float64]
    """From 0 to 1, piecewise linear between the offsets."""


def slice_normal(world_from_voxel: npt.ArrayLike, axis: int) -> npt.NDArray[np.float64]:
    """(3,) unit normal of the slice planes in world, towards increasing slice index."""
    columns = np.asarray(world_from_voxel, dtype=np.float64)[:3, :3]
    first, second = (columns[:, other] for other in range(3) if other != axis)
    normal = np.cross(first, second)
    normal /= np.linalg.norm(normal)
    return normal if normal @ columns[:, axis] > 0 else -normal


def slice_geometry(
    shape: Sequence[int],
    world_from_voxel: npt.ArrayLike,
    sidecar: Mapping[str, Any],
    given_thickness_mm: float | None = None,
) -> SliceGeometry:
    """Slice axis and spacing from the affine, thickness from the first of three sources that has one.

    ``given_thickness_mm`` (the user's), then ``SliceThickness`` (mm) where it can be true, then the voxel
    size with a warning. Raises InputError for a singular affine, a single slice or an impossible thickness.
    """
    affine = np.asarray(world_from_voxel, dtype=np.float64)
    sizes_mm = voxel_sizes_mm(affine)
    volume = abs(np.linalg.det(affine[:3, :3])) if np.isfinite(affine).all() else 0.0
    if volume < 1e-9:
        raise InputError(
            "the header's affine is singular or not finite, expected voxel axes of non-zero length in mm; "
            "convert the image again from DICOM"
        )
    thickest = [i for i in range(3) if sizes_mm[i] > 0.99 * sizes_mm.max()]
    axis = min(thickest, key=lambda i: shape[i])
    if shape[axis] < 2:
        raise InputError(
            f"{shape[axis]} slice in an image of shape {tuple(shape[:3])}, expected a stack of at least 2; "
            "leave the image out with --bids-filter-file"
        )
    in_plane = [float(sizes_mm[i]) for i in range(3) if i != axis]
    acquired = acquired_voxel_mm(shape, sizes_mm, axis, sidecar)
    # Across a sheared stack (gantry tilt) the planes are closer than the voxel centres.
    spacing_mm = float(abs(slice_normal(affine, axis) @ affine[:3, axis]))
    warnings = []
    if len(thickest) > 1 and sizes_mm.max() >= 1.5 * sizes_mm.min():
        warnings.append(
            f"voxel sizes {_text(sizes_mm)} mm have no single thick axis; "
            f"axis {axis} is taken as the slice axis"
        )
    thickness_mm, warning = _thickness(sidecar.get("SliceThickness"), spacing_mm)
    source = "voxel size" if thickness_mm is None else "SliceThickness"
    if given_thickness_mm is not None:
        thickness_mm, warning, source = given_thickness_mm, None, "--slice-thickness"
        _check_given_thickness(given_thickness_mm, spacing_mm)
    warnings += [warning] if warning else []
    warning = _spacing_warning(sidecar.get("SpacingBetweenSlices"), spacing_mm)
    warnings += [warning] if warning else []
    return SliceGeometry(
        axis=axis,
        spacing_mm=spacing_mm,
        thickness_mm=spacing_mm if thickness_mm is None else thickness_mm,
        thickness_source=source,
        in_plane_mm=(in_plane[0], in_plane[1]),
        acquired_in_plane_mm=(acquired[0], acquired[1]),
        warnings=tuple(warnings),
    )


def acquired_voxel_mm(
    shape: Sequence[int], sizes_mm: npt.NDArray[np.float64], slice_axis: int, sidecar: Mapping[str, Any]
) -> list[float]:
    """Voxel sizes in plane, in axis order, before zero-filling in k-space made them look smaller, mm.

    From ``AcquisitionVoxelSize``, else from the acquired matrix as dcm2niix writes it: along the
    phase-encoding axis ``AcquisitionMatrixPE`` of ``ReconMatrixPE``, along the other one ``BaseResolution``.
    """
    in_plane = [axis for axis in range(3) if axis != slice_axis]
    stated = sidecar.get("AcquisitionVoxelSize")
    if isinstance(stated, (list, tuple)) and len(stated) == 3 and all(_is_number(x) for x in stated):
        return [_coarser(float(stated[axis]) / sizes_mm[axis]) * float(sizes_mm[axis]) for axis in in_plane]
    phase_axis = _phase_axis(sidecar)
    ratios = dict.fromkeys(in_plane, 1.0)
    if phase_axis in ratios:
        (readout_axis,) = (axis for axis in in_plane if axis != phase_axis)
        n_phase = sidecar.get("ReconMatrixPE", shape[phase_axis])
        ratios[phase_axis] = _ratio(n_phase, sidecar.get("AcquisitionMatrixPE"))
        ratios[readout_axis] = _ratio(shape[readout_axis], sidecar.get("BaseResolution"))
    return [_coarser(ratios[axis]) * float(sizes_mm[axis]) for axis in in_plane]


def slice_profile(spec: str | Path, thickness_mm: float) -> SliceProfile:
    """Profile named ``box`` or ``gaussian``, or read from a two-column text file (offset in mm, weight >= 0).

    ``box`` is constant over the thickness; ``gaussian`` has the thickness as its full width at half maximum
    and is cut at 3 sigma; a file gives a density that is linear between its offsets, used where it lies and
    whatever the thickness. Raises ConfigurationError for a file that is none.
    """
    if not (math.isfinite(thickness_mm) and thickness_mm > 0):
        raise ConfigurationError(f"slice thickness {thickness_mm} mm, expected a positive number")
    if spec == "box":
        return SliceProfile(np.array([-0.5, 0.5]) * thickness_mm, np.array([0.0, 1.0]))
    if spec == "gaussian":
        sigma_mm = thickness_mm * _SIGMAS_PER_FWHM
        offsets_sigmas = np.linspace(-_GAUSSIAN_CUT_SIGMAS, _GAUSSIAN_CUT_SIGMAS, 121)
        cumulative = np.array([0.5 * (1 + math.erf(z / math.sqrt(2))) for z in offsets_sigmas])
        cumulative = (cumulative - cumulative[0]) / (cumulative[-1] - cumulative[0])
        return SliceProfile(offsets_sigmas * sigma_mm, cumulative)
    return _read_profile(Path(spec))


def truncation_profile(acquired_mm: float) -> SliceProfile:
    """In-plane point spread of a zero-filled image: a Gaussian as wide as the main lobe of its sinc.

    The sinc of an acquired voxel has a full width at half maximum of 1.207 voxels; its side lobes are left
    out, since scanners filter them away.
    """
    return slice_profile("gaussian", _SINC_FWHM * acquired_mm)


def _phase_axis(sidecar: Mapping[str, Any]) -> int | None:
    """Voxel axis of the phase encoding, where the sidecar says it."""
    direction = str(sidecar.get("PhaseEncodingDirection") or sidecar.get("PhaseEncodingAxis") or "")[:1]
    if direction in ("i", "j", "k"):
        return "ijk".index(direction)
    return {"ROW": 0, "COL": 1}.get(str(sidecar.get("InPlanePhaseEncodingDirectionDICOM")))


def _ratio(n_reconstructed: Any, n_acquired: Any) -> float:
    if not (_is_number(n_reconstructed) and _is_number(n_acquired)) or n_acquired <= 0:
        return 1.0
    return float(n_reconstructed / n_acquired)


def _coarser(ratio: float) -> float:
    """Acquired over reconstructed voxel; 1 where it is none, or beyond what scanners do."""
    return ratio if _LEAST_ZERO_FILLING <= ratio <= _MOST_ZERO_FILLING else 1.0


def _check_given_thickness(given_mm: float, spacing_mm: float) -> None:
    low_mm, high_mm = _MIN_THICKNESS_RATIO * spacing_mm, _MAX_THICKNESS_RATIO * spacing_mm
    if not low_mm <= given_mm <= high_mm:
        raise InputError(
            f"--slice-thickness {given_mm:g} mm, expected {low_mm:.3g} to {high_mm:.3g} mm for slices that "
            f"lie {spacing_mm:.3g} mm apart; give each kind of image its own, as in --slice-thickness FLAIR=5"
        )


def _thickness(value: Any, spacing_mm: float) -> tuple[float | None, str | None]:
    """(thickness in mm, None), or (None, why the voxel size is used instead)."""
    fallback = f"the slice spacing, {spacing_mm:.3g} mm, is used"
    remedy = "write the nominal slice thickness in mm into the sidecar"
    if value is None:
        return None, f"no SliceThickness in the sidecar, expected one in mm; {fallback}; {remedy}"
    if not _is_number(value):
        return None, f"SliceThickness is {value!r}, expected a number in mm; {fallback}; {remedy}"
    if _MIN_THICKNESS_RATIO * spacing_mm <= value <= _MAX_THICKNESS_RATIO * spacing_mm:
        return float(value), None
    limits = f"{_MIN_THICKNESS_RATIO * spacing_mm:.3g} to {_MAX_THICKNESS_RATIO * spacing_mm:.3g} mm"
    in_metres = 0.5 * spacing_mm <= 1000 * value <= _MAX_THICKNESS_RATIO * spacing_mm
    seen = f"SliceThickness is {value:g}" + (", which looks like metres" if in_metres else "")
    return None, f"{seen}, expected {limits} for this slice spacing; {fallback}; {remedy}"


def _spacing_warning(value: Any, spacing_mm: float) -> str | None:
    if value is None or (
        _is_number(value) and abs(value - spacing_mm) <= _MAX_SPACING_DISAGREEMENT * spacing_mm
    ):
        return None
    seen = f"{value:g}" if _is_number(value) else repr(value)
    return (
        f"SpacingBetweenSlices is {seen}, but the affine has {spacing_mm:.3g} mm between slice centres; "
        "the affine is used; check that no slice is missing"
    )


def _read_profile(path: Path) -> SliceProfile:
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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(sizes_mm: npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes_mm)
