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
from atlasgs_bids.imaging.volume import RECOPY, Volume, open_image, read_stored, to_nifti


@dataclass(frozen=True)
class Series:
    """Volumes on one grid."""

    stored: npt.NDArray[Any]
    """(x, y, z, n) in the file's own type, before slope and intercept."""
    slope: float
    intercept: float
    world_from_voxel: npt.NDArray[np.float64]
    seconds_per_volume: float
    """Fourth voxel size of the header."""
    observed: npt.NDArray[np.bool_] | None
    """False where any volume is not finite; None: all voxels are observed."""

    def __len__(self) -> int:
        return int(self.stored.shape[3])

    def volume(self, index: int) -> npt.NDArray[np.float32]:
        """(x, y, z) intensities of one volume; 0 where it is not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.stored[..., index].astype(np.float32) * np.float32(self.slope)
        return np.nan_to_num(values + np.float32(self.intercept), nan=0.0, posinf=0.0, neginf=0.0)

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
        return Volume(mean, self.world_from_voxel, self.observed)


def load_series(path: Path) -> Series:
    """The 3-D or 4-D image in a NIfTI file; InputError where it cannot be read or is nowhere finite."""
    image = open_image(path)
    if len(image.shape) < 3 or any(n != 1 for n in image.shape[4:]):
        raise InputError(f"{path.name}: shape {image.shape}, expected a series of 3-D volumes; {RECOPY}")
    stored, slope, intercept = read_stored(image, path)
    stored = stored.reshape(*image.shape[:3], -1)
    observed = None
    if stored.dtype.kind == "f":
        observed = np.ones(stored.shape[:3], dtype=bool)
        for index in range(stored.shape[3]):
            observed &= np.isfinite(stored[..., index])
        if not observed.any():
            raise InputError(f"{path.name}: no voxel is finite in every volume, expected images; {RECOPY}")
    zooms = image.header.get_zooms()
    return Series(
        stored=stored,
        slope=slope,
        intercept=intercept,
        world_from_voxel=np.asarray(image.affine, dtype=np.float64),
        seconds_per_volume=float(zooms[3]) if len(zooms) > 3 else 0.0,
        observed=None if observed is None or observed.all() else observed,
    )


def series_header(
    shape: tuple[int, ...], world_from_voxel: npt.ArrayLike, seconds_per_volume: float
) -> nib.Nifti1Header:
    """Header of a float32 series of ``shape`` (x, y, z, n); both forms set."""
    header = to_nifti(np.zeros((1, 1, 1)), world_from_voxel).header.copy()
    sizes_mm = header.get_zooms()[:3]
    header.set_data_shape(shape)
    header.set_zooms((*sizes_mm, seconds_per_volume or 1.0))
    header.set_xyzt_units("mm", "sec")
    return header
