"""NIfTI files -> volumes and series, and back; whatever cannot be read is an InputError with the remedy."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import IOBase
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip
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
    seconds_per_volume,
)
from atlasgs_bids.imaging.no_data import find_no_data
from atlasgs_bids.imaging.series import Series, intensities
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.runtime.files import atomic

_MOST_WARNINGS = 3
_COMPRESSION = 1
"""Of 0 to 3: as small as zlib makes it."""


def save_image(image: nib.Nifti1Image, path: Path) -> None:
    with atomic(path) as temporary:
        write_image(image, temporary)


def write_image(image: nib.Nifti1Image, path: Path) -> None:
    """What ``nib.save`` does, ten times as fast where the file is compressed (``.gz``)."""
    with _opened(path) as file:
        image.to_stream(file)


@contextmanager
def _opened(path: Path) -> Iterator[IOBase]:
    """To be written; a compressed file tells neither name nor time, so that it is the same each time."""
    with path.open("wb") as plain:
        if path.suffix != ".gz":
            yield plain
            return
        with igzip.GzipFile("", "wb", _COMPRESSION, plain, mtime=0) as file:
            yield file


@contextmanager
def image_stream(path: Path, header: nib.Nifti1Header) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends one float32 volume to a NIfTI file, which appears when the block succeeds.

    Closing after fewer or more volumes than the header has raises ValueError.
    """
    n_expected, n_written = header.get_data_shape()[3], 0
    with atomic(path) as temporary:
        with _opened(temporary) as file:
            header.write_to(file)

            def append(volume: np.ndarray) -> None:
                nonlocal n_written
                file.write(np.asarray(volume, dtype=header.get_data_dtype()).tobytes(order="F"))
                n_written += 1

            yield append
        if n_written != n_expected:
            raise ValueError(f"{path.name}: {n_written} volumes were written, the header has {n_expected}")


def load_volume(path: str | Path) -> Volume:
    """The 3-D image in a NIfTI file, float32 in the units of its scl_slope and scl_inter.

    A 4-D file with one volume counts as 3-D. What is not finite, or no data (no_data.py), becomes 0 and is
    marked in ``observed``. Raises InputError for a file that is missing, unreadable, of another shape, on an
    impossible grid, constant, or nowhere finite.
    """
    return without_no_data(load_mask(path), Path(path).name)


def load_mask(path: str | Path) -> Volume:
    """``load_volume`` for fractions and labels, whose few high values are what they are for."""
    path = Path(path)
    image = open_image(path)
    _check_3d(image, path.name)
    return _volume(image, _read_data(image, path), path.name)


def volume_of(image: nib.Nifti1Image, name: str) -> Volume:
    """``load_volume`` for an image in memory; messages call it ``name``."""
    _check_3d(image, name)
    with np.errstate(over="ignore", invalid="ignore"):
        data = np.asarray(image.dataobj).astype(np.float32)
    return without_no_data(_volume(image, data, name), name)


def without_no_data(volume: Volume, name: str) -> Volume:
    """The volume with what is no data marked as not observed, and its warnings led by the name."""
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
        warnings=tuple(f"{name}: {text}" for text in no_data.warnings),
    )


def _check_3d(image: nib.Nifti1Image, name: str) -> None:
    shape = tuple(int(n) for n in image.shape)
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise InputError(
            f"{name}: shape {shape}, expected one 3-D volume; "
            "extract the volume that you want, or leave the file out with --bids-filter-file"
        )
    problem = grid_problem(image)
    if problem is not None:
        raise InputError(f"{name}: {problem}")


def _volume(image: nib.Nifti1Image, data: npt.NDArray[np.float32], name: str) -> Volume:
    data = data.reshape(image.shape[:3])
    finite = np.isfinite(data)
    if not finite.any():
        raise InputError(f"{name}: every voxel is NaN or infinite, expected an image; {RECOPY}")
    lowest, highest = float(data[finite].min()), float(data[finite].max())
    if lowest == highest:
        raise InputError(f"{name}: every voxel is {lowest:g}, expected an image; {RECOPY}")
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


def load_series(path: Path) -> Series:
    """The 3-D or 4-D image in a NIfTI file; InputError where it cannot be read or is nowhere finite."""
    image = open_image(path)
    if len(image.shape) < 3 or any(n != 1 for n in image.shape[4:]):
        raise InputError(f"{path.name}: shape {image.shape}, expected a series of 3-D volumes; {RECOPY}")
    stored, slope, intercept = read_stored(image, path)
    stored = stored.reshape(*image.shape[:3], -1)
    problem = grid_problem(image)
    if problem is not None:
        raise InputError(f"{path.name}: {problem}")
    observed = np.ones(stored.shape[:3], dtype=bool)
    lost = np.zeros(stored.shape[:3], dtype=bool)
    warnings: list[str] = []
    for index in range(stored.shape[3]):
        values = intensities(stored[..., index], slope, intercept)
        finite = np.isfinite(values)
        observed &= finite
        no_data = find_no_data(values, finite)
        if no_data is not None:
            lost |= no_data.voxels
            warnings += [f"{path.name}, volume {index}: {text}" for text in no_data.warnings]
    if not observed.any():
        raise InputError(f"{path.name}: no voxel is finite in every volume, expected images; {RECOPY}")
    lost &= observed
    observed &= ~lost
    if len(warnings) > _MOST_WARNINGS:
        warnings = [*warnings[:_MOST_WARNINGS], f"{path.name}: {len(warnings)} such findings in all"]
    return Series(
        stored=stored,
        slope=slope,
        intercept=intercept,
        world_from_voxel=affine_mm(image),
        seconds_per_volume=seconds_per_volume(image),
        observed=None if observed.all() else observed,
        lost=lost if lost.any() else None,
        form_code=form_code(image),
        warnings=tuple(warnings),
    )


def series_header(
    shape: tuple[int, ...],
    world_from_voxel: npt.ArrayLike,
    seconds_per_volume: float,
    form_code: int = SCANNER_CODE,
) -> nib.Nifti1Header:
    """Header of a float32 series of ``shape`` (x, y, z, n); both forms set."""
    header = to_nifti(np.zeros((1, 1, 1)), world_from_voxel, form_code=form_code).header.copy()
    sizes_mm = header.get_zooms()[:3]
    header.set_data_shape(shape)
    header.set_zooms((*sizes_mm, seconds_per_volume or 1.0))
    header.set_xyzt_units("mm", "sec")
    return header
