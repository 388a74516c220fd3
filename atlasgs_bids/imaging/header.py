"""What a NIfTI header says of space and time, in mm and s; and what no header of a head can say."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

RECOPY = "copy it again from its source, or convert it again from DICOM"
SCANNER_CODE, ALIGNED_CODE = 1, 2
"""NIfTI codes of a form: the scanner's own coordinates, and those of another image."""
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}
"""By the low three bits of xyzt_units: metre, millimetre, micron; where it says nothing, mm is meant."""
_SECONDS_PER_UNIT = {8: 1.0, 16: 1e-3, 24: 1e-6}
_UNIT_NAMES = {1: "metre", 3: "micron"}
_VALID_CODES = range(6)
_VOXEL_MM = (0.05, 50.0)
_LONGEST_MM = 2000.0
MOST_VOXELS = 1e9
"""More than this no machine renders or reads in time."""


class _TolerantHeader(nib.Nifti1Header):
    """Takes a quaternion that is a little longer than 1, as rounding leaves it, for one of length 1."""

    quaternion_threshold = np.float64(1e-4)


class _TolerantImage(nib.Nifti1Image):
    header_class = _TolerantHeader


def load_image(path: Path) -> nib.filebasedimages.FileBasedImage:
    """nibabel's image of a file, data not yet read; raises as nibabel does, but for a rounded quaternion."""
    try:
        return nib.load(path)
    except (HeaderDataError, ValueError):
        return _TolerantImage.from_filename(path)


def affine_mm(image: nib.Nifti1Image) -> npt.NDArray[np.float64]:
    """(4, 4) world_from_voxel, RAS mm, whatever unit of length the header uses."""
    with np.errstate(all="ignore"):  # a header may hold anything; grid_problem says so
        return np.asarray(_scaling(image) @ np.asarray(image.affine, dtype=np.float64))


def forms_mm(
    image: nib.Nifti1Image,
) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None]:
    """sform and qform, RAS mm; None where the header has none, or an impossible quaternion."""
    scale = _scaling(image)
    sform = image.header.get_sform(coded=True)[0]
    try:
        qform = image.header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):  # nibabel itself uses the sform then
        qform = None
    return (None if sform is None else scale @ sform), (None if qform is None else scale @ qform)


def form_code(image: nib.Nifti1Image) -> int:
    """The NIfTI code of the form that the affine comes from; 0: none, so that the orientation is unknown."""
    for name in ("sform_code", "qform_code"):
        code = int(image.header[name])
        if code > 0:
            return code if code in _VALID_CODES else ALIGNED_CODE
    return 0


def seconds_per_volume(image: nib.Nifti1Image) -> float:
    """Fourth voxel size, s; 0 where the header has none that is a time."""
    zooms = image.header.get_zooms()
    if len(zooms) < 4:
        return 0.0
    seconds = float(zooms[3]) * _SECONDS_PER_UNIT.get(_units(image) & 56, 1.0)
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def grid_problem(image: nib.Nifti1Image) -> str | None:
    """Why the grid of an image is none that a head is scanned on; None: it may be one."""
    affine = affine_mm(image)
    shape = [int(n) for n in image.shape[:3]]
    with np.errstate(all="ignore"):
        sizes_mm = np.linalg.norm(affine[:3, :3], axis=0)
        volume_mm3 = abs(float(np.linalg.det(affine[:3, :3]))) if np.isfinite(affine).all() else 0.0
        is_regular = volume_mm3 > 1e-6 * float(np.prod(sizes_mm)) > 0
    if not is_regular:
        return (
            "an affine that is singular or not finite, expected voxel axes of non-zero length in mm; convert "
            "the image again from DICOM"
        )
    unit = _UNIT_NAMES.get(_units(image) & 7)
    said = f" (the header's unit of length is the {unit})" if unit else ""
    seen = " x ".join(f"{size:.3g}" for size in sizes_mm)
    if sizes_mm.min() < _VOXEL_MM[0] or sizes_mm.max() > _VOXEL_MM[1]:
        return (
            f"voxels of {seen} mm{said}, expected sides of {_VOXEL_MM[0]:g} to {_VOXEL_MM[1]:g} mm; correct "
            "pixdim and xyzt_units, or convert the image again from DICOM"
        )
    longest_mm = float(max(n * size for n, size in zip(shape, sizes_mm, strict=False)))
    if longest_mm > _LONGEST_MM or math.prod(shape) > MOST_VOXELS:
        return (
            f"{' x '.join(map(str, shape))} voxels of {seen} mm{said}, expected at most {_LONGEST_MM:g} mm "
            f"along an axis and {MOST_VOXELS:.0e} voxels; crop the image or correct its header"
        )
    return None


def _scaling(image: nib.Nifti1Image) -> npt.NDArray[np.float64]:
    """(4, 4) from the header's unit of length to mm."""
    mm = _MM_PER_UNIT.get(_units(image) & 7, 1.0)
    return np.diag([mm, mm, mm, 1.0])


def _units(image: nib.Nifti1Image) -> int:
    return int(image.header["xyzt_units"])
