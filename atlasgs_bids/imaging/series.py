"""A 4-D image in memory, in the type of its file: float32 exists for one volume at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.header import (
    RECOPY,
    SCANNER_CODE,
    affine_mm,
    form_code,
    grid_problem,
    seconds_per_volume,
)
from atlasgs_bids.imaging.no_data import find_no_data
from atlasgs_bids.imaging.volume import Volume, open_image, read_stored, to_nifti

_MOST_WARNINGS = 3


@dataclass(frozen=True)
class Series:
    """Volumes on one grid."""

    stored: npt.NDArray[Any]
    """(x, y, z, n) in the file's own type, before slope and intercept."""
    slope: float
    intercept: float
    world_from_voxel: npt.NDArray[np.float64]
    seconds_per_volume: float
    """Of the header; 0: it has none."""
    observed: npt.NDArray[np.bool_] | None
    """False where any volume is not finite, or holds no data; None: all voxels are observed."""
    lost: npt.NDArray[np.bool_] | None = None
    """Those of them that lie amid observed ones in every volume, as in Volume."""
    form_code: int = SCANNER_CODE
    warnings: tuple[str, ...] = ()
    """What the user is told of the values."""

    def __len__(self) -> int:
        return int(self.stored.shape[3])

    def volume(self, index: int) -> npt.NDArray[np.float32]:
        """(x, y, z) intensities of one volume; 0 where the series is not observed."""
        values = _intensities(self.stored[..., index], self.slope, self.intercept)
        return values if self.observed is None else np.where(self.observed, values, np.float32(0))

    def mean(self, indices: Sequence[int]) -> Volume:
        """Mean of some volumes; InputError where it is constant."""
        total = np.zeros(self.stored.shape[:3], dtype=np.float64)
        for index in indices:
            total += self.volume(index)
        mean = (total / len(indices)).astype(np.float32)
        if mean.min() == mean.max():
            raise InputError(
                f"the mean of {len(indices)} volumes is {mean.min():g} everywhere, expected an image; "
                f"{RECOPY}"
            )
        return Volume(mean, self.world_from_voxel, self.observed, self.lost, self.form_code, self.warnings)


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
        values = _intensities(stored[..., index], slope, intercept)
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


def _intensities(stored: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(stored.astype(np.float32) * np.float32(slope) + np.float32(intercept))


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
