"""8-bit volumes inside a page: crops in RAS order that scrolling and viewer share."""

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from atlasgs_bids.imaging.nifti import to_nifti
from atlasgs_bids.imaging.volume import Grid, Volume, voxel_sizes_mm

Bytes = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

GREY, COLOUR, MASK, SIGNED = "grey", "colour", "mask", "signed"
"""How the bytes of a layer are shown: in grey, as colours or a tint over others, around a grey of 128."""
_COMPRESSION = 6
_MARGIN_MM = 4.0


@dataclass(frozen=True)
class Layer:
    """One image of a view."""

    name: str
    volume: Bytes
    kind: str = GREY
    caption: str = ""
    """What the greatest and smallest of its values are."""
    key: str = ""
    """Of the volume in the page; views that share it embed it once."""


@dataclass(frozen=True)
class View:
    """Images on one grid, in RAS order, and the planes of them that are shown."""

    key: str
    """Of the HTML element; letters, digits and hyphens."""
    layers: tuple[Layer, ...]
    """On that grid."""
    grid: Grid
    planes: tuple[int, ...]
    """Axes that the planes stand upright on: 2 axial, 1 coronal, 0 sagittal."""
    point: tuple[int, int, int]
    """Voxel that the first planes go through."""
    warning: str = ""

    def layer(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    @property
    def sizes_mm(self) -> npt.NDArray[np.float64]:
        return voxel_sizes_mm(self.grid.world_from_voxel)


def ras(data: npt.NDArray, world_from_voxel: npt.ArrayLike) -> tuple[npt.NDArray, npt.NDArray[np.float64]]:
    """The array with its axes in the order nearest to R, A, S, and the affine that goes with it."""
    affine = np.asarray(world_from_voxel, dtype=np.float64)
    to_ras = nib.orientations.io_orientation(affine)
    moved = nib.orientations.apply_orientation(data, to_ras)
    return moved, affine @ nib.orientations.inv_ornt_aff(to_ras, data.shape)


def ras_axis(axis: int, world_from_voxel: npt.ArrayLike) -> int:
    """Where ``ras`` puts a voxel axis."""
    return int(nib.orientations.io_orientation(np.asarray(world_from_voxel))[axis, 0])


def box_around(inside: BoolArray, sizes_mm: npt.NDArray[np.float64]) -> tuple[slice, slice, slice]:
    """The box of a mask with a margin; everything where the mask is empty."""
    if not inside.any():
        return (slice(None), slice(None), slice(None))
    spans = []
    for axis, size_mm in enumerate(sizes_mm):
        others = tuple(other for other in range(3) if other != axis)
        (hit,) = np.nonzero(inside.any(axis=others))
        margin = int(np.ceil(_MARGIN_MM / size_mm))
        spans.append(slice(max(0, int(hit[0]) - margin), min(inside.shape[axis], int(hit[-1]) + 1 + margin)))
    return spans[0], spans[1], spans[2]


def cropped(volume: Volume, box: Sequence[slice]) -> Volume:
    """A box of a volume, where it lies in the world."""
    starts = [span.indices(n)[0] for span, n in zip(box, volume.data.shape, strict=True)]
    affine = volume.world_from_voxel.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array(starts)
    return Volume(volume.data[tuple(box)], affine, form_code=volume.form_code)


def centre_of(inside: BoolArray) -> tuple[int, int, int]:
    """The voxel at the centre of mass of a mask, or of everything."""
    middle = ndimage.center_of_mass(inside) if inside.any() else [(n - 1) / 2 for n in inside.shape]
    i, j, k = (round(value) for value in middle)
    return i, j, k


def coarser(grid: Grid, factor: float) -> Grid:
    """The same field of view in voxels ``factor`` times as wide."""
    i, j, k = (max(1, int(np.ceil(n / factor))) for n in grid.shape)
    affine = grid.world_from_voxel.copy()
    affine[:3, 3] += affine[:3, :3] @ np.full(3, (factor - 1) / 2)
    affine[:3, :3] *= factor
    return Grid((i, j, k), affine)


def encoded(layer: Layer, grid: Grid) -> str:
    """The layer as a gzipped NIfTI file in base64; the same bytes every time."""
    image = to_nifti(layer.volume, grid.world_from_voxel, np.uint8)
    return base64.b64encode(gzip.compress(image.to_bytes(), _COMPRESSION, mtime=0)).decode()
