"""The anchor as the pipeline uses it: image, foreground, support, and what lies outside."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.bias import bias_field
from atlasgs_bids.imaging.detail import detail_by_axis
from atlasgs_bids.imaging.foreground import foreground_mask
from atlasgs_bids.imaging.grid import continued_mask, fov_mask, resample_mask
from atlasgs_bids.imaging.mp2rage import silent_air
from atlasgs_bids.imaging.nifti import load_mask, load_volume
from atlasgs_bids.imaging.volume import Grid, Volume, blocks_of, voxel_sizes_mm

_MARGIN_VOXELS = 2
_BRAIN_AT_MOST_ML = 2200.0
_EMPTY_FRACTION = 0.1
_LEAST_DETAIL = 0.5
"""Along one axis, of that along the others: 0.7 to 1 in scans acquired isotropic, 0.0 to 0.25 in ones
interpolated from slices of 2 to 5 voxels (docs/decisions/0018-doubtful-input.md)."""
_PARTLY, _WHOLLY = 0.05, 0.95

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Anchor:
    volume: Volume
    foreground: BoolArray
    """Head or brain."""
    support: BoolArray
    """The foreground and a margin of background: where Gaussians are placed."""
    exterior_is_empty: bool
    """Whether what lies outside the support has no signal (air, or set to zero)."""
    is_brain: bool
    """Whether the foreground is a brain without skull."""
    name: str = "T1w"
    """What figures and messages call it: its BIDS suffix."""

    @property
    def least_coverage(self) -> float:
        """Part of a slice's voxel that the support fills at least where the voxel is to be explained.

        Where the anchor's outside is empty (air, or an extracted brain), a slice that the foreground fills
        in part says as much as any other; where it is tissue that was masked away, it says nothing of the
        inside.
        """
        return _PARTLY if self.exterior_is_empty else _WHOLLY

    @property
    def scale(self) -> float:
        """99th percentile of the foreground: the unit in which intensities are alike."""
        return max(float(np.percentile(self.volume.data[self.foreground], 99)), 1e-6)

    @property
    def voxel_mm(self) -> float:
        """The smallest side of a voxel."""
        return float(voxel_sizes_mm(self.volume.world_from_voxel).min())

    @cached_property
    def corrected(self) -> "Anchor":
        """The anchor without its bias field, which would make one tissue look like two."""
        return self.divided_by(bias_field(self.volume, self.foreground))

    def divided_by(self, field: npt.NDArray[np.float32]) -> "Anchor":
        """The same anchor with its intensities over a smooth positive field."""
        return replace(self, volume=replace(self.volume, data=self.volume.data / field))

    def averaged(self, size_mm: float) -> "Anchor":
        """The anchor in voxels of about ``size_mm``, where that is larger than they are."""
        blocks = blocks_of(size_mm, self.volume.world_from_voxel)
        if max(blocks) == 1:
            return self
        image = self.volume.averaged(blocks)
        foreground, support = (
            replace(self.volume, data=mask.astype(np.float32), observed=None).averaged(blocks).data
            for mask in (self.foreground, self.support)
        )
        return replace(self, volume=image, foreground=foreground >= 0.5, support=support > 0)

    def with_local_mean(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The anchor and its local mean (σ = 1 voxel)."""
        return self.volume.data, ndimage.gaussian_filter(self.volume.data, 1.0)

    def sampled(
        self, points_vox: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The anchor and its local mean (σ = 1 voxel) at points (n, 3), linearly interpolated; each (n,)."""
        amplitude, local_mean = (
            ndimage.map_coordinates(image, points_vox.T, order=1, mode="nearest").astype(np.float32)
            for image in self.with_local_mean()
        )
        return amplitude, local_mean

    def support_on(self, grid: Grid) -> BoolArray:
        """The support on another grid of the same world."""
        return self._on(self.support, grid)

    def foreground_on(self, grid: Grid) -> BoolArray:
        """The foreground on another grid of the same world."""
        return self._on(self.foreground, grid)

    def unseen_on(self, grid: Grid) -> BoolArray:
        """Where a grid of the same world leaves the field of view through tissue.

        Beyond a border at which the anchor shows only air there is nothing that it could have shown.
        """
        support = Volume(self.support.astype(np.float32), self.volume.world_from_voxel)
        return continued_mask(support, grid) & ~fov_mask(self.volume.grid, grid)

    def _on(self, mask: BoolArray, grid: Grid) -> BoolArray:
        return resample_mask(Volume(mask.astype(np.float32), self.volume.world_from_voxel), grid)


def load_anchor(
    path: Path, brain_mask_path: Path | None, name: str = "T1w", magnitude_path: Path | None = None
) -> Anchor:
    """The anchor from its files; InputError where there is nothing to work with.

    ``name``: its BIDS suffix; ``magnitude_path``: of a UNIT1, the second inversion on the same grid.
    """
    volume = load_volume(path)
    if name == "UNIT1":
        volume = silent_air(volume, load_volume(magnitude_path) if magnitude_path else None)
    if brain_mask_path is None:
        return anchor_of(volume, name=name)
    return anchor_of(volume, load_mask(brain_mask_path), brain_mask_path.name, name)


def anchor_of(
    volume: Volume, brain_mask: Volume | None = None, mask_name: str = "brain mask", name: str = "T1w"
) -> Anchor:
    """The anchor from an image, and the brain in it where a mask (on any grid of its world) says so.

    Raises InputError where nothing stands out from the background, or the mask is empty on the image's grid.
    """
    volume = _without_lost(volume)
    volume = replace(volume, warnings=(*volume.warnings, *_blurred(volume, name)))
    if brain_mask is None:
        foreground = foreground_mask(volume)
    else:
        foreground = resample_mask(brain_mask, volume.grid)
        if not foreground.any():
            raise InputError(
                f"{mask_name}: empty on the {name}'s grid, expected a brain mask of it; repair or remove it"
            )
    support = ndimage.binary_dilation(foreground, iterations=_MARGIN_VOXELS)
    inside = float(np.abs(volume.data[foreground]).mean())
    outside = float(np.abs(volume.data[~support]).mean()) if not support.all() else 0.0
    volume_ml = float(foreground.sum() * np.prod(voxel_sizes_mm(volume.world_from_voxel)) / 1000)
    return Anchor(
        volume=volume,
        foreground=foreground,
        support=support,
        exterior_is_empty=outside < _EMPTY_FRACTION * inside,
        is_brain=brain_mask is not None or volume_ml < _BRAIN_AT_MOST_ML,
        name=name,
    )


def _blurred(volume: Volume, name: str) -> list[str]:
    """What is to be said of an anchor that looks as if it had been interpolated from thicker slices."""
    detail = detail_by_axis(volume)
    if detail is None or detail.min() >= _LEAST_DETAIL:
        return []
    axis = ("first", "second", "third")[int(detail.argmin())]
    said = (
        f"the {name} shows {detail.min():.0%} of the fine detail along its {axis} axis that it shows along "
        f"the others, expected at least {_LEAST_DETAIL:.0%}: it looks as if it had been interpolated from "
        "thicker slices, and what it guides gets no sharper than it is; use an anchor that was acquired "
        "isotropic (--anchor)"
    )
    return [said]


def _without_lost(volume: Volume) -> Volume:
    """The volume with the nearest observed value wherever a value was no data: 0 would be an edge."""
    if volume.lost is None:
        return volume
    nearest = ndimage.distance_transform_edt(
        volume.lost, sampling=voxel_sizes_mm(volume.world_from_voxel), return_distances=False,
        return_indices=True,
    )  # fmt: skip
    observed = volume.observed | volume.lost if volume.observed is not None else None
    return replace(volume, data=volume.data[tuple(nearest)], observed=observed)
