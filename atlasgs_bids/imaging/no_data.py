"""Values in a file that are no data: absurd intensities, and slices that were lost on the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_RANGE_PERCENT = (1.0, 99.0)
_BEYOND_RANGES = 5.0
"""Ranges of the middle 98 % beyond it: acquired scans (T1w, T2w, FLAIR, PDw, DWI, ASL) reach 2.8."""
_LEAST_VALUES = 100
_MOST_SAMPLES = 2_000_000
_BRIGHT = 0.25
_CUT_TISSUE = 1 / 3
"""Bright part of the largest plane above which a head is cut rather than ends."""
_N_NAMED = 5

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NoData:
    """Voxels whose values are none, and what to tell the user of them."""

    voxels: BoolArray
    warnings: tuple[str, ...]


def find_no_data(data: FloatArray, finite: BoolArray) -> NoData | None:
    """Values far outside of the robust range, and constant planes amid the image; None: all are data.

    The range is that of the values that are not 0: air that was set to 0 says nothing of it. A plane along
    any axis is lost where it is constant and others, on both of its sides, are not; at an end of the image
    where the head is cut there rather than ends.
    """
    limits = _limits(data, finite)
    if limits is None:
        return None
    low, high = limits
    reach = _BEYOND_RANGES * (high - low)
    beyond = np.asarray(finite & ((data < low - reach) | (data > high + reach)))
    warnings = [_beyond_warning(data, beyond, low - reach, high + reach)] if beyond.any() else []
    lost = np.zeros(data.shape, dtype=bool)
    good = finite & ~beyond
    bright = good & (data > low + _BRIGHT * (high - low))
    for axis in range(3):
        planes = _lost_planes(data, good, bright, axis)
        if planes:
            lost[tuple(planes if other == axis else slice(None) for other in range(3))] = True
            warnings.append(_planes_warning(planes, axis, data.shape[axis]))
    return NoData(beyond | lost, tuple(warnings)) if warnings else None


def _limits(data: FloatArray, finite: BoolArray) -> tuple[float, float] | None:
    """Ends of the middle 98 % of the values that are not 0; None where there is no range."""
    flat = data.reshape(-1)[:: max(1, data.size // _MOST_SAMPLES)]
    values = flat[finite.reshape(-1)[:: max(1, data.size // _MOST_SAMPLES)] & (flat != 0)]
    if values.size < _LEAST_VALUES:
        return None
    low, high = (float(limit) for limit in np.percentile(values.astype(np.float64), _RANGE_PERCENT))
    return (low, high) if high > low else None


def _lost_planes(data: FloatArray, good: BoolArray, bright: BoolArray, axis: int) -> list[int]:
    """Indices along an axis of planes whose good values are constant amid the image."""
    others = tuple(other for other in range(3) if other != axis)
    lowest = data.min(axis=others, where=good, initial=np.inf)
    constant = lowest == data.max(axis=others, where=good, initial=-np.inf)
    if not constant.any() or constant.all():
        return []
    seen = np.flatnonzero(~constant)
    first, last = int(seen[0]), int(seen[-1])
    lost = [int(k) for k in np.flatnonzero(constant) if first < k < last]
    n_bright = bright.sum(axis=others)
    if n_bright[first] >= _CUT_TISSUE * n_bright.max() > 0:
        lost = [*range(first), *lost]
    if n_bright[last] >= _CUT_TISSUE * n_bright.max() > 0:
        lost += range(last + 1, len(constant))
    return lost


def _beyond_warning(data: FloatArray, beyond: BoolArray, lowest: float, highest: float) -> str:
    places = np.argwhere(beyond)
    values = data[beyond]
    return (
        f"{len(places)} voxels with values of {values.min():.3g} to {values.max():.3g}, far outside of what "
        f"the image holds ({lowest:.3g} to {highest:.3g} at most), count as not observed: "
        f"{_named([str(tuple(place.tolist())) for place in places[:_N_NAMED]], len(places))}"
    )


def _planes_warning(planes: list[int], axis: int, n: int) -> str:
    one = len(planes) == 1
    return (
        f"{len(planes)} of {n} slices along axis {axis} {'is' if one else 'are'} constant amid the image, as "
        f"lost in transfer, and {'counts' if one else 'count'} as not observed: "
        f"{_named([str(plane) for plane in planes[:_N_NAMED]], len(planes))}"
    )


def _named(names: list[str], n: int) -> str:
    return ", ".join(names) + (f" and {n - len(names)} more" if n > len(names) else "")
