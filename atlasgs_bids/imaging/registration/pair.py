"""Anchor and target made ready for registration."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from atlasgs_bids.imaging.grid import resample_mask
from atlasgs_bids.imaging.volume import Volume, blocks_of, voxel_sizes_mm

_MARGIN_MM = 12.0
_MASK_MM = 2.0

Affine = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ImagePair:
    """Anchor and target made ready: cropped around the anchor's foreground, extreme intensities clipped."""

    anchor: Volume
    foreground: Volume
    target: Volume
    centre_world: npt.NDArray[np.float64]
    """Centre of the foreground, about which the target is turned."""
    radius_mm: float
    """Root mean square distance of the foreground from its centre."""

    @staticmethod
    def of(
        anchor: Volume,
        foreground: BoolArray,
        points_world: npt.NDArray[np.float64],
        target: Volume,
    ) -> ImagePair:
        """``points_world`` (n, 3) lie all over the foreground."""
        ceiling = np.percentile(anchor.data[foreground], 99.5)
        floor_target, ceiling_target = np.percentile(target.data, [0.1, 99.7])
        centre_world = points_world.mean(axis=0)
        mask = Volume(foreground.astype(np.float32), anchor.world_from_voxel)
        clipped = Volume(np.minimum(anchor.data, np.float32(ceiling)), anchor.world_from_voxel)
        return ImagePair(
            _around(clipped, foreground, "edge"),
            _around(mask, foreground, "constant"),
            Volume(
                np.clip(target.data, floor_target, ceiling_target), target.world_from_voxel, target.observed
            ),
            centre_world,
            float(np.sqrt(((points_world - centre_world) ** 2).sum(axis=1).mean())),
        )

    def mirrored(self) -> tuple[ImagePair, Affine]:
        """The pair with its target mirrored from left to right, and the map from the mirror image's world.

        The map takes a world point of the mirror image to where its content lies in the target's world.
        """
        columns = self.target.world_from_voxel[:3, :3]
        axis = int(np.argmax(np.abs(columns[0]) / np.linalg.norm(columns, axis=0)))
        flip = np.eye(4)
        flip[axis, axis], flip[axis, 3] = -1.0, self.target.data.shape[axis] - 1
        observed = self.target.observed
        target = replace(
            self.target,
            data=np.ascontiguousarray(np.flip(self.target.data, axis)),
            observed=None if observed is None else np.flip(observed, axis),
        )
        world_from_voxel = self.target.world_from_voxel
        return replace(self, target=target), world_from_voxel @ flip @ np.linalg.inv(world_from_voxel)

    def inside(self, target: Volume, anchor_from_target: Affine, dilation_mm: float = 0.0) -> BoolArray:
        """Observed voxels of ``target`` (at any scale) that lie in the foreground, dilated."""
        mask = scaled(self.foreground, _MASK_MM) if dilation_mm else self.foreground
        near = mask.data >= 0.5
        if dilation_mm:
            sizes_mm = voxel_sizes_mm(mask.world_from_voxel)
            near = ndimage.distance_transform_edt(~near, sampling=sizes_mm) <= dilation_mm
        near_volume = Volume(near.astype(np.float32), mask.world_from_voxel)
        inside = resample_mask(near_volume, target.grid, anchor_from_target)
        if self.target.observed is not None:
            observed = Volume(self.target.observed.astype(np.float32), self.target.world_from_voxel)
            inside &= resample_mask(observed, target.grid)
        return inside


def scaled(volume: Volume, size_mm: float) -> Volume:
    """The volume averaged over blocks of voxels so that every side is about ``size_mm``, or left as it is."""
    return volume.averaged(blocks_of(size_mm, volume.world_from_voxel))


def widened(volume: Volume, margin_mm: float) -> Volume:
    """The volume with its border repeated: targets that lie far off still have something to compare with."""
    margin = np.ceil(margin_mm / voxel_sizes_mm(volume.world_from_voxel)).astype(int)
    world_from_voxel = volume.world_from_voxel.copy()
    world_from_voxel[:3, 3] -= world_from_voxel[:3, :3] @ margin
    return Volume(np.pad(volume.data, [(n, n) for n in margin], mode="edge"), world_from_voxel)


def _around(volume: Volume, foreground: BoolArray, padding_mode: str) -> Volume:
    """The volume cut, or padded, to the foreground's bounding box and a margin."""
    margin = np.ceil(_MARGIN_MM / voxel_sizes_mm(volume.world_from_voxel)).astype(int)
    (box,) = ndimage.find_objects(foreground.astype(np.int8))
    inner, padding, first = [], [], []
    for span, n_margin, n_voxels in zip(box, margin.tolist(), volume.data.shape, strict=True):
        start, stop = span.start - n_margin, span.stop + n_margin
        inner.append(slice(max(0, start), min(n_voxels, stop)))
        padding.append((max(0, -start), max(0, stop - n_voxels)))
        first.append(start)
    data = np.pad(volume.data[tuple(inner)], padding, mode=padding_mode)  # type: ignore[call-overload]
    world_from_voxel = volume.world_from_voxel.copy()
    world_from_voxel[:3, 3] += world_from_voxel[:3, :3] @ np.array(first)
    return Volume(data, world_from_voxel)
