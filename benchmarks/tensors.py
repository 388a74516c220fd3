"""Diffusion tensors of a series by dipy, and how far they are from known ones."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

FIBRES = 0.25
"""Fractional anisotropy above which a voxel's first eigenvector means something."""


@dataclass(frozen=True)
class Tensors:
    """Of n voxels."""

    fa: Array
    """(n,) fractional anisotropy."""
    md: Array
    """(n,) mean diffusivity, mm²/s."""
    first: Array
    """(n, 3) unit vectors of the largest diffusivity, voxel axes."""


def fitted(signals: Array, b_values: npt.NDArray[np.float64], directions: npt.NDArray[np.float64]) -> Tensors:
    """Weighted least squares on signals (n, volumes) whose directions (volumes, 3) are in voxel axes."""
    from dipy.core.gradients import gradient_table  # noqa: PLC0415 - whoever reads tables needs no dipy
    from dipy.reconst.dti import TensorModel  # noqa: PLC0415

    table = gradient_table(b_values, bvecs=directions, b0_threshold=50)
    fit = TensorModel(table, fit_method="WLS").fit(np.maximum(signals, 1e-3).astype(np.float64))
    return Tensors(*(np.asarray(x, np.float32) for x in (fit.fa, fit.md, fit.evecs[..., 0])))


def gradients_beside(image: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """b values and directions in voxel axes of an image, from the files beside it, as dipy reads them."""
    from dipy.io.gradients import read_bvals_bvecs  # noqa: PLC0415

    stem = image.name.removesuffix(".nii.gz")
    b_values, directions = read_bvals_bvecs(*(str(image.with_name(stem + end)) for end in (".bval", ".bvec")))
    # FSL's x points the other way where the voxel axes are right-handed.
    flip = -1 if np.linalg.det(nib.Nifti1Image.from_filename(image).affine[:3, :3]) > 0 else 1
    return b_values, directions * [flip, 1, 1]


def errors(found: Tensors, truth: Tensors) -> dict[str, float]:
    """Mean error of FA, of MD in per cent, median angle in degrees where there are fibres."""
    fibres = truth.fa > FIBRES
    cosine = np.abs((found.first * truth.first).sum(1))[fibres]
    return {
        "fa": float(np.abs(found.fa - truth.fa).mean()),
        "fa_bias": float((found.fa - truth.fa).mean()),
        "md": float(100 * (np.abs(found.md - truth.md) / truth.md).mean()),
        "angle": float(np.degrees(np.median(np.arccos(np.clip(cosine, 0, 1))))),
    }
