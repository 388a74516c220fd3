"""The phantom as an MP2RAGE sees it: two inversions with complex noise, and the UNIT1 of them."""

import functools

import numpy as np
import numpy.typing as npt

from atlasgs_bids.imaging.volume import Volume
from tests.imaging.phantom import Contrast, head

FIRST = Contrast(grey=-5, white=45, fluid=-55, scalp=50)
"""Signed: grey matter is about to recover, fluid is far from it."""
SECOND = Contrast(grey=75, white=80, fluid=60, scalp=80)
_NOISE = 3.0
_MOST = 4095


@functools.cache
def _complex_inversions(
    size_mm: int,
) -> tuple[list[npt.NDArray[np.complex128]], npt.NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    found = []
    for contrast in (FIRST, SECOND):
        image = head(contrast, size_mm)
        real, imaginary = rng.normal(0, _NOISE, (2, *image.data.shape))
        found.append(image.data + real + 1j * imaginary)
    return found, image.world_from_voxel


def inversions(size_mm: int = 2) -> list[Volume]:
    """Magnitude of the first and of the second inversion."""
    images, affine = _complex_inversions(size_mm)
    return [Volume(np.abs(image).astype(np.float32), affine) for image in images]


def unit1(size_mm: int = 2) -> Volume:
    """Re(S₁* S₂) / (|S₁|² + |S₂|²) (Marques 2010), stored as whole numbers from 0 to 4095."""
    (one, two), affine = _complex_inversions(size_mm)
    quotient = (one.conj() * two).real / (np.abs(one) ** 2 + np.abs(two) ** 2)
    return Volume(np.round((quotient + 0.5) * _MOST).astype(np.float32), affine)
