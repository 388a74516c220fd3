"""What is known of an image before its data are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from atlasgs_bids.bids.companions import Gradients

IMAGE_EXTENSIONS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class ImageHeader:
    """What an image's header says; the data were not read."""

    shape: tuple[int, ...]
    world_from_voxel: npt.NDArray[np.float64]
    sform: npt.NDArray[np.float64] | None
    sform_code: int
    qform: npt.NDArray[np.float64] | None
    qform_code: int


@dataclass(frozen=True)
class ImageFile:
    path: Path
    entities: Mapping[str, str]
    """pybids' long names, with ``suffix``, ``datatype`` and ``extension``."""
    sidecar: Mapping[str, Any]
    """Metadata after inheritance."""
    header: ImageHeader | None
    problem: str | None
    """Why the image cannot be used; None: nothing is known against it."""
    gradients: Gradients | None = None
    """Of a diffusion series."""
    asl_context: tuple[str, ...] | None = None
    """What each volume of an ASL series is."""


def read_header(path: Path) -> tuple[ImageHeader | None, str | None]:
    """The header of an image, or why there is none."""
    if not path.exists():
        return None, f"{path.name} is a broken link; fetch its content (`datalad get`) or remove it"
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            return None, f"{path.name} is {type(image).__name__}, expected NIfTI; convert it"
        sform, sform_code = image.header.get_sform(coded=True)
        header = ImageHeader(
            shape=tuple(int(n) for n in image.shape),
            world_from_voxel=np.asarray(image.affine, dtype=np.float64),
            sform=sform,
            sform_code=int(sform_code),
            qform=None,
            qform_code=0,
        )
    except (OSError, EOFError, ValueError, ImageFileError, HeaderDataError) as error:
        with path.open("rb") as file:
            if file.read(64).startswith((b"/annex/", b"../.git/annex", b".git/annex")):
                return None, f"{path.name} is a git-annex pointer without content; run `datalad get` on it"
        return None, f"{path.name} has no readable NIfTI header ({error}); copy it anew from its source"
    return _with_qform(header, image), _geometry_problem(path, header)


def _with_qform(header: ImageHeader, image: nib.Nifti1Image) -> ImageHeader:
    try:
        qform, code = image.header.get_qform(coded=True)
    except HeaderDataError:  # an impossible quaternion counts as none: nibabel uses the sform
        return header
    return ImageHeader(
        header.shape, header.world_from_voxel, header.sform, header.sform_code, qform, int(code)
    )


def _geometry_problem(path: Path, header: ImageHeader) -> str | None:
    determinant = np.linalg.det(header.world_from_voxel[:3, :3])
    if not np.isfinite(header.world_from_voxel).all() or abs(determinant) < 1e-9:
        return f"{path.name} has an affine that cannot be inverted; correct its header"
    if 0 in header.shape or len(header.shape) < 2:
        return f"{path.name} has shape {header.shape}, expected a volume; convert it anew"
    return None
