"""A 4-D image in memory, in the type of its file: float32 exists for one volume at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.header import (
    RECOPY,
    SCANNER_CODE,
)
from atlasgs_bids.imaging.volume import Volume


@dataclass(frozen=True)
class SeriesKinds:
    """What the volumes of a DWI, ASL or M0 series are."""

    kinds: tuple[str, ...]
    """Of each volume: ``b0``, ``b1000``, ``control``, ``label``, ``m0scan``."""
    contrasts: tuple[str, ...]
    """Of each volume: volumes of one contrast share the prior, and its weight."""
    reference: tuple[int, ...]
    """Volumes whose mean is registered and measured: all of one contrast."""

    def of_contrast(self, contrast: str) -> list[int]:
        """Indices of the volumes of one contrast."""
        return [index for index, of_volume in enumerate(self.contrasts) if of_volume == contrast]

    def volumes_of(self, kind: str) -> list[int]:
        """Indices of the volumes of one kind."""
        return [index for index, of_volume in enumerate(self.kinds) if of_volume == kind]

    @property
    def each_kind(self) -> tuple[str, ...]:
        """Every kind once, that of the reference first."""
        return tuple(dict.fromkeys([self.kinds[self.reference[0]], *self.kinds]))

    @property
    def is_perfusion(self) -> bool:
        """Whether the difference of control and label is what the series is for."""
        return {"control", "label"} <= set(self.kinds)


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
        values = intensities(self.stored[..., index], self.slope, self.intercept)
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


def intensities(stored: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[np.float32]:
    """Values as stored -> intensities, infinite where float32 does not hold them."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(stored.astype(np.float32) * np.float32(slope) + np.float32(intercept))
