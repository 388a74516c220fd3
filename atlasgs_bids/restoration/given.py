"""Images as a caller has them, files, nibabel images or arrays, as this room knows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.header import affine_mm
from atlasgs_bids.imaging.nifti import load_mask, load_volume, open_image, to_nifti, volume_of
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.restoration.views import View

Array = npt.NDArray[Any]
ImageLike = nib.Nifti1Image | str | Path | tuple[Array, Array]
"""A nibabel image, the path of a NIfTI file, or an array (x, y, z) with its affine (4, 4), RAS mm."""


def given_volume(image: ImageLike, name: str) -> Volume:
    """The image; InputError, which says ``name``, for one that cannot be used."""
    if isinstance(image, (str, Path)):
        return load_volume(image)
    return volume_of(_nifti(image, name), name)


def given_mask(image: ImageLike) -> Volume:
    """1 where the image is above 0."""
    if isinstance(image, (str, Path)):
        return load_mask(image)
    nifti = _nifti(image, "brain mask")
    return Volume((np.asarray(nifti.dataobj) > 0).astype(np.float32), affine_mm(nifti))


def view_of(where: View | ImageLike) -> View:
    """The view itself, or the grid of an image, whose voxels are means of what they hold."""
    return where if isinstance(where, View) else View(_grid_of(where))


def _grid_of(image: ImageLike) -> Grid:
    if isinstance(image, (str, Path)):
        nifti = open_image(Path(image))
    elif isinstance(image, tuple) and np.ndim(image[0]) >= 3:
        # Its values may be anything: of an array only the shape is asked for.
        nifti = _nifti((np.zeros(np.shape(image[0])[:3], np.uint8), image[1]), "grid")
    else:
        nifti = _nifti(image, "grid")
    n_i, n_j, n_k = (int(n) for n in nifti.shape[:3])
    return Grid((n_i, n_j, n_k), affine_mm(nifti))


def _nifti(image: Any, name: str) -> nib.Nifti1Image:
    """The image in memory as NIfTI; InputError for anything else."""
    if isinstance(image, nib.Nifti1Image):
        return image
    if isinstance(image, tuple) and len(image) == 2 and np.shape(image[1]) == (4, 4):
        array, affine = np.asarray(image[0]), np.asarray(image[1], dtype=np.float64)
        if array.dtype.kind in "iufb" and np.isfinite(affine).all():
            return to_nifti(array, affine)
    shape = f" of shape {image.shape}" if isinstance(image, np.ndarray) else ""
    raise InputError(
        f"{name}: a {type(image).__name__}{shape}, expected a nibabel NIfTI image, the path of one, or "
        "(array, affine) with real numbers and a (4, 4) affine in mm"
    )
