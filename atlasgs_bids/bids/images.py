"""What is known of an image before its data are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from atlasgs_bids.imaging.header import affine_mm, forms_mm, grid_problem, load_image


@dataclass(frozen=True)
class Gradients:
    """Diffusion weighting of every volume."""

    b_values: npt.NDArray[np.float64]
    """(n,) s/mm²."""
    directions: npt.NDArray[np.float64]
    """(n, 3) in voxel axes as FSL has them: x is flipped where the affine has a positive determinant."""


IMAGE_EXTENSIONS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class ImageHeader:
    """What an image's header says; the data were not read."""

    shape: tuple[int, ...]
    world_from_voxel: npt.NDArray[np.float64]
    """RAS mm, as the forms, whatever unit the file uses."""
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
    """The header of an image, or why there is none, or why it cannot be used; never raises."""
    try:
        if not path.exists():
            return None, f"{path.name} is a broken link; fetch its content (`datalad get`) or remove it"
        if not path.is_file():
            return None, f"{path.name} is no file, expected a NIfTI image; remove it"
        with path.open("rb") as file:
            start = file.read(64)
        if start.startswith((b"/annex/", b"../.git/annex", b".git/annex")):
            return None, f"{path.name} is a git-annex pointer without content; run `datalad get` on it"
        # A header may hold any number: what comes of it is checked, and no warning of numpy's.
        with np.errstate(all="ignore"):
            return _checked_header(path)
    except PermissionError as error:
        return None, (
            f"{path.name} cannot be read ({error.strerror}), expected a file that this user may read; "
            "give the right to read it (chmod a+r), or leave it out with --bids-filter-file"
        )
    except Exception as error:  # noqa: BLE001 - whatever nibabel raises is the trouble of this image alone
        seen = " ".join(str(error).split()) or type(error).__name__
        return None, f"{path.name} has no readable NIfTI header ({seen}); copy it anew from its source"


def _checked_header(path: Path) -> tuple[ImageHeader | None, str | None]:
    image = load_image(path)
    if not isinstance(image, nib.Nifti1Image):
        return None, f"{path.name} is {type(image).__name__}, expected NIfTI; convert it"
    shape = tuple(int(n) for n in image.shape)
    if min(shape, default=0) < 1 or len(shape) < 2:
        return None, f"{path.name} has shape {shape}, expected a volume; convert it anew"
    sform, qform = forms_mm(image)
    header = ImageHeader(
        shape=shape,
        world_from_voxel=affine_mm(image),
        sform=sform,
        sform_code=0 if sform is None else int(image.header["sform_code"]),
        qform=qform,
        qform_code=0 if qform is None else int(image.header["qform_code"]),
    )
    problem = grid_problem(image)
    if problem is not None:
        return header, f"{path.name} has {problem}"
    return header, _type_problem(path, image.get_data_dtype())


def _type_problem(path: Path, dtype: np.dtype) -> str | None:
    """Colours and complex numbers have no one intensity to restore."""
    if dtype.kind in "iufb":
        return None
    kind = (
        "colours" if dtype.fields else "complex numbers" if dtype.kind == "c" else f"values of type {dtype}"
    )
    return (
        f"{path.name} holds {kind}, expected one real number for each voxel; "
        "convert it to a magnitude image, or leave it out with --bids-filter-file"
    )


def same_grid(image: ImageFile, other: ImageFile, within_mm: float) -> bool:
    """Whether two images have the same voxels in space; False where a header cannot be read."""
    one, two = image.header, other.header
    if one is None or two is None or one.shape[:3] != two.shape[:3]:
        return False
    return bool(np.allclose(one.world_from_voxel, two.world_from_voxel, atol=within_mm))


def no_volume(image: ImageFile) -> str | None:
    """Why an image is no volume that can be read, whoever made it."""
    if image.problem is not None or image.header is None:
        return image.problem or "no header"
    shape = image.header.shape
    if len(shape) < 3 or any(n != 1 for n in shape[3:]) or min(shape[:3]) < 2:
        return f"shape {shape}, expected one 3-D volume"
    return None
