"""Whether the two forms of a NIfTI header say the same of where an image lies."""

import numpy as np
import numpy.typing as npt

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.volume import voxel_sizes_mm

_MAX_DISAGREEMENT_MM = 0.1
_MAX_DISAGREEMENT_DEG = 0.1
_MAX_VOXEL_SIZE_RATIO = 1.01
UNKNOWN_ORIENTATION = (
    "the orientation is unknown (sform and qform codes are 0), so left and right may be swapped; convert the "
    "image again from DICOM, or set its forms"
)


def check_orientation(
    sform: npt.ArrayLike | None,
    sform_code: int,
    qform: npt.ArrayLike | None,
    qform_code: int,
    shape: tuple[int, ...] = (256, 256, 256),
) -> str | None:
    """Warning text where sform and qform place the image differently, or neither is set; else None.

    Differently means more than 0.1 mm at a corner of ``shape``, or 0.1 degrees. Raises InputError where
    handedness or voxel size differ: then one of the two is wrong and left may be right.
    """
    if sform_code <= 0 and qform_code <= 0:
        return UNKNOWN_ORIENTATION
    if sform is None or qform is None or sform_code <= 0 or qform_code <= 0:
        return None
    by_sform, by_qform = np.asarray(sform, dtype=np.float64), np.asarray(qform, dtype=np.float64)
    sizes_sform, sizes_qform = voxel_sizes_mm(by_sform), voxel_sizes_mm(by_qform)
    seen = f"sform (code {sform_code}) and qform (code {qform_code})"
    remedy = "set both to the right one (fslorient -copysform2qform or -copyqform2sform)"
    determinants = np.linalg.det(by_sform[:3, :3]), np.linalg.det(by_qform[:3, :3])
    if not np.isfinite(determinants).all() or min(abs(det) for det in determinants) < 1e-9:
        raise InputError(f"{seen}: one of them is singular, expected two valid affines; {remedy}")
    if determinants[0] * determinants[1] < 0:
        raise InputError(
            f"{seen} have opposite handedness, expected the same: left and right are uncertain; {remedy}"
        )
    ratios = np.maximum(sizes_sform / sizes_qform, sizes_qform / sizes_sform)
    if ratios.max() > _MAX_VOXEL_SIZE_RATIO:
        raise InputError(
            f"{seen} have voxel sizes {_sizes_text(sizes_sform)} and {_sizes_text(sizes_qform)} mm, "
            f"expected the same; {remedy}"
        )
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in shape[:3]], [1], indexing="ij"), -1).reshape(-1, 4)
    apart_mm = float(np.linalg.norm((corners @ (by_sform - by_qform).T)[:, :3], axis=1).max())
    apart_deg = _rotation_between_deg(by_sform[:3, :3], by_qform[:3, :3])
    if apart_mm <= _MAX_DISAGREEMENT_MM and apart_deg <= _MAX_DISAGREEMENT_DEG:
        return None
    return (
        f"{seen} differ by up to {apart_mm:.1f} mm and {apart_deg:.1f} degrees, expected the same place; "
        f"the sform is used; if it is the wrong one, {remedy}"
    )


def _rotation_between_deg(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    relative = (first / np.linalg.norm(first, axis=0)).T @ (second / np.linalg.norm(second, axis=0))
    # Half the Frobenius distance is accurate at small angles, where arccos of the trace is not.
    half_sine = np.linalg.norm(relative - np.eye(3)) / (2 * np.sqrt(2))
    return float(np.degrees(2 * np.arcsin(min(1.0, float(half_sine)))))


def _sizes_text(sizes_mm: npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes_mm)
