"""How sharp an image is beside the truth, and in how many patches it shows something else: no network."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

PATCH_VOX, STRIDE_VOX = 16, 8
N_SHELLS = 3
"""Of a patch's spectrum: periods of 16, 8 and 5.3 voxels, what one would call a structure."""
ALIKE = 0.5
"""Correlation of a shell below which truth and image do not show the same there."""
LEAST_DIFFERENCE = 0.01
"""RMS of what differs, over the truth's range in the mask: less is noise."""
_MOST_OUTSIDE = 0.1
"""Part of a patch that may lie outside the mask."""
_BRENNER_VOX = 2
Image = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


def sharpness(truth: Image, image: Image, mask: Mask, axis: int) -> float:
    """RMS difference of voxels two apart along the slice axis, over that of the truth; 1: as sharp.

    The root of Brenner's focus measure (Brenner 1976). A difference over two voxels passes most at a period
    of four, which thick slices have lost, and nothing at a period of two, where noise has its share.
    """
    before, after = slice(None, -_BRENNER_VOX), slice(_BRENNER_VOX, None)
    seen = np.moveaxis(mask, axis, 0)
    both = seen[before] & seen[after]

    def rms(of: Image) -> float:
        lines = np.moveaxis(of.astype(np.float64), axis, 0)
        return float(np.sqrt(np.mean((lines[after] - lines[before])[both] ** 2))) if both.any() else np.nan

    known = rms(truth)
    return rms(image) / known if known > 0 else np.nan


@dataclass(frozen=True)
class Patches:
    """Cubes of 16 voxels, 8 apart, that lie in the mask."""

    n: int
    n_invented: int
    """In which the image shows something else than the truth, and more of it."""
    n_erased: int
    """Something else, and less."""


def unlike_patches(truth: Image, image: Image, mask: Mask) -> Patches:
    """Patches in which truth and image do not correlate, counted after sFRC (Kc 2026, arXiv 2603.04673).

    There rings of 2-D patches are correlated, and a patch is unlike where the curve falls below a threshold
    before some frequency. Here they are shells of cubes under a Hann window, and a patch is unlike where any
    shell with periods from 16 to 5.3 voxels correlates by less than one half, and what differs in them has
    an RMS of 1 % of the truth's range or more. Invented or erased: by the energy in these shells.
    """
    window = np.hanning(PATCH_VOX + 2)[1:-1]
    window = window[:, None, None] * window[None, :, None] * window[None, None]
    least = LEAST_DIFFERENCE * float(np.ptp(truth[mask])) if mask.any() else 0.0
    n = n_invented = n_erased = 0
    for part in _parts(mask.shape):
        inside = mask[part]
        if inside.mean() < 1 - _MOST_OUTSIDE:
            continue
        n += 1
        weights = window * inside
        of_truth, of_image = (_spectrum(of[part].astype(np.float64), weights) for of in (truth, image))
        difference = _in_shells(np.abs(of_truth - of_image) ** 2).sum() / (weights.size * (weights**2).sum())
        if difference < least**2:
            continue
        common = _in_shells((of_truth * of_image.conj()).real)
        power_of_truth, power_of_image = (_in_shells(np.abs(own) ** 2) for own in (of_truth, of_image))
        if (common <= ALIKE * np.sqrt(power_of_truth * power_of_image)).any():
            more = power_of_image.sum() > power_of_truth.sum()
            n_invented, n_erased = n_invented + int(more), n_erased + int(not more)
    return Patches(n, n_invented, n_erased)


def _parts(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    starts = (range(0, n - PATCH_VOX + 1, STRIDE_VOX) for n in shape)
    for corner in product(*starts):
        yield tuple(slice(start, start + PATCH_VOX) for start in corner)


def _spectrum(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.complex128]:
    mean = (values * weights).sum() / weights.sum()
    return np.asarray(np.fft.fftn((values - mean) * weights))


@functools.cache
def _shells() -> npt.NDArray[np.intp]:
    """Of each coefficient of a patch, the cycles in the patch, rounded."""
    cycles = np.fft.fftfreq(PATCH_VOX, 1 / PATCH_VOX)
    squares = cycles[:, None, None] ** 2 + cycles[None, :, None] ** 2 + cycles[None, None] ** 2
    return np.asarray(np.rint(np.sqrt(squares)).astype(np.intp))


def _in_shells(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sums over the shells that count."""
    sums = np.bincount(_shells().ravel(), values.ravel())
    return np.asarray(sums[1 : N_SHELLS + 1])
