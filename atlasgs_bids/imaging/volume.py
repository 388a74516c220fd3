"""Volume(data, affine) <-> NIfTI."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.header import (
    RECOPY,
    SCANNER_CODE,
    affine_mm,
    form_code,
    grid_problem,
    load_image,
)
from atlasgs_bids.imaging.no_data import find_no_data

_MAX_DISAGREEMENT_MM = 0.1
_MAX_DISAGREEMENT_DEG = 0.1
_MAX_VOXEL_SIZE_RATIO = 1.01
UNKNOWN_ORIENTATION = (
    "the orientation is unknown (sform and qform codes are 0), so left and right may be swapped; convert the "
    "image again from DICOM, or set its forms"
)


@dataclass(frozen=True)
class Grid:
    """A sampling grid: voxel centres at integer indices, RAS world in mm."""

    shape: tuple[int, int, int]
    world_from_voxel: npt.NDArray[np.float64]
    """(4, 4) affine, voxel index -> world mm."""


@dataclass(frozen=True)
class Volume:
    """A 3-D image in memory."""

    data: npt.NDArray[np.float32]
    world_from_voxel: npt.NDArray[np.float64]
    observed: npt.NDArray[np.bool_] | None = None
    """False where the file held NaN, infinity or no data (``data`` is 0 there); None: all are observed."""
    lost: npt.NDArray[np.bool_] | None = None
    """Voxels that are not observed, single or in whole slices, amid others that are; None: there are none."""
    form_code: int = SCANNER_CODE
    """NIfTI code of the form that the affine comes from; 0: none, left and right may be swapped."""
    warnings: tuple[str, ...] = ()
    """What the user is told of the values."""

    @property
    def with_lost(self) -> Volume:
        """The volume with what was lost amid its voxels taken for observed: as far as it reaches."""
        if self.lost is None or self.observed is None:
            return self
        observed = self.observed | self.lost
        return replace(self, observed=None if observed.all() else observed, lost=None)

    @property
    def grid(self) -> Grid:
        """The grid that the voxels lie on."""
        n_i, n_j, n_k = self.data.shape
        return Grid((n_i, n_j, n_k), self.world_from_voxel)


def voxel_sizes_mm(world_from_voxel: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(3,) distance between neighbouring voxel centres along each voxel axis, mm."""
    return np.linalg.norm(np.asarray(world_from_voxel, dtype=np.float64)[:3, :3], axis=0)


def load_volume(path: str | Path) -> Volume:
    """The 3-D image in a NIfTI file, float32 in the units of its scl_slope and scl_inter.

    A 4-D file with one volume counts as 3-D. What is not finite, or no data (no_data.py), becomes 0 and is
    marked in ``observed``. Raises InputError for a file that is missing, unreadable, of another shape, on an
    impossible grid, constant, or nowhere finite.
    """
    volume = load_mask(path)
    finite = np.ones(volume.data.shape, bool) if volume.observed is None else volume.observed
    no_data = find_no_data(volume.data, finite)
    if no_data is None:
        return volume
    observed = finite & ~no_data.voxels
    return replace(
        volume,
        data=np.where(observed, volume.data, np.float32(0)),
        observed=observed,
        lost=no_data.voxels,
        warnings=tuple(f"{Path(path).name}: {text}" for text in no_data.warnings),
    )


def load_mask(path: str | Path) -> Volume:
    """``load_volume`` for fractions and labels, whose few high values are what they are for."""
    path = Path(path)
    image = open_image(path)
    shape = tuple(int(n) for n in image.shape)
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise InputError(
            f"{path.name}: shape {shape}, expected one 3-D volume; "
            "extract the volume that you want, or leave the file out with --bids-filter-file"
        )
    problem = grid_problem(image)
    if problem is not None:
        raise InputError(f"{path.name}: {problem}")
    data = _read_data(image, path).reshape(shape[:3])
    finite = np.isfinite(data)
    if not finite.any():
        raise InputError(f"{path.name}: every voxel is NaN or infinite, expected an image; {RECOPY}")
    lowest, highest = float(data[finite].min()), float(data[finite].max())
    if lowest == highest:
        raise InputError(f"{path.name}: every voxel is {lowest:g}, expected an image; {RECOPY}")
    if finite.all():
        return Volume(data, affine_mm(image), form_code=form_code(image))
    return Volume(np.where(finite, data, np.float32(0)), affine_mm(image), finite, form_code=form_code(image))


def to_nifti(
    data: npt.NDArray[Any],
    world_from_voxel: npt.ArrayLike,
    dtype: npt.DTypeLike = np.float32,
    form_code: int = SCANNER_CODE,
) -> nib.Nifti1Image:
    """NIfTI image in mm with sform and qform both set, unscaled values of ``dtype``.

    ``form_code`` says what the world is (1: the scanner's; 0: nothing is known). Floating values are rounded
    where ``dtype`` is an integer.
    """
    values = np.asarray(data)
    if np.issubdtype(np.dtype(dtype), np.integer) and np.issubdtype(values.dtype, np.floating):
        values = np.rint(values)
    affine = np.asarray(world_from_voxel, dtype=np.float64)
    image = nib.Nifti1Image(values.astype(dtype), affine)
    # The sform is written last: set_qform also rewrites pixdim, and the qform cannot hold a shear.
    image.set_qform(affine, code=form_code)
    image.set_sform(affine, code=form_code)
    image.header.set_xyzt_units("mm")
    return image


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


def open_image(path: Path) -> nib.Nifti1Image:
    """The NIfTI image, data not yet read; InputError with the remedy where that fails."""
    if not path.exists():
        if path.is_symlink():
            raise InputError(
                f"{path.name}: a link to a file that is not here, expected the image; "
                f"fetch it with `datalad get '{path}'` (or `git annex get`)"
            )
        raise InputError(f"{path.name}: no such file, expected an image at {path}; {RECOPY}")
    try:
        image = load_image(path)
    except (ImageFileError, HeaderDataError, EOFError, OSError, ValueError, zlib.error) as error:
        raise InputError(f"{path.name}: not a readable NIfTI image ({error}); {RECOPY}") from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(f"{path.name}: a {type(image).__name__}, expected NIfTI; convert it to .nii.gz")
    return image


def read_stored(image: nib.Nifti1Image, path: Path) -> tuple[npt.NDArray[Any], float, float]:
    """The values as the file has them, with slope and intercept; InputError where they cannot be read."""
    _check_type(image, path)
    try:
        if path.suffix == ".gz":
            _check_sum(path)
        proxy: Any = image.dataobj
        stored = np.asarray(proxy.get_unscaled())
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise _damaged(path, error) from error
    return stored, float(proxy.slope), float(proxy.inter)


def _read_data(image: nib.Nifti1Image, path: Path) -> npt.NDArray[np.float32]:
    _check_type(image, path)
    try:
        if path.suffix == ".gz":
            _check_sum(path)
        # float64 beyond the range of float32 becomes infinity here and is then marked as not observed.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(image.dataobj).astype(np.float32)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise _damaged(path, error) from error


def _check_type(image: nib.Nifti1Image, path: Path) -> None:
    if image.get_data_dtype().kind not in "iufb":
        raise InputError(
            f"{path.name}: data type {image.get_data_dtype()}, expected real numbers; "
            "convert it to a magnitude image"
        )


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path.name}: the header is readable but the data are not ({error}): "
        f"the file is truncated or damaged; {RECOPY}"
    )


def _check_sum(path: Path) -> None:
    """Reads to the end, where gzip compares its checksum; nibabel stops at the last voxel, before that."""
    with gzip.open(path) as stream:
        while stream.read(2**24):
            pass


def _rotation_between_deg(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    relative = (first / np.linalg.norm(first, axis=0)).T @ (second / np.linalg.norm(second, axis=0))
    # Half the Frobenius distance is accurate at small angles, where arccos of the trace is not.
    half_sine = np.linalg.norm(relative - np.eye(3)) / (2 * np.sqrt(2))
    return float(np.degrees(2 * np.arcsin(min(1.0, float(half_sine)))))


def _sizes_text(sizes_mm: npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes_mm)
