"""Slice axis, spacing, thickness and profile from header and sidecar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.volume import voxel_sizes_mm

_MIN_THICKNESS_RATIO = 0.05
_MAX_THICKNESS_RATIO = 2.0
_MAX_SPACING_DISAGREEMENT = 0.05
_LEAST_ZERO_FILLING, _MOST_ZERO_FILLING = 1.05, 4.0


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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(sizes_mm: npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes_mm)
