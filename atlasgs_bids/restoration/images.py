"""One restored target as a library hands it out: images, metrics, warnings, views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.interpolated import mean_interpolated
from atlasgs_bids.imaging.nifti import to_nifti
from atlasgs_bids.imaging.registration.register import Registration
from atlasgs_bids.imaging.volume import Grid
from atlasgs_bids.restoration.given import ImageLike, view_of
from atlasgs_bids.restoration.metrics import doubts, target_metrics
from atlasgs_bids.restoration.result import TargetResult
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.views import TargetModel, View


@dataclass(frozen=True)
class Result:
    """One restored target: images on the output grid and on that of the slices, and what is known of them."""

    target: TargetResult
    """Everything as arrays."""
    settings: RestorationSettings

    @cached_property
    def image(self) -> nib.Nifti1Image:
        """The restored image (x, y, z), float32, in the target's intensity units."""
        return self._on_grid(self.target.sr)

    @cached_property
    def sd(self) -> nib.Nifti1Image | None:
        """Standard deviation of the image's error, in its units; None where it was not asked for."""
        return None if self.target.sd is None else self._on_grid(self.target.sd)

    @cached_property
    def trusted(self) -> nib.Nifti1Image | None:
        """1 where the error is expected below half the local contrast; None where nothing tells."""
        target = self.target
        if target.trust is None:
            return None
        return to_nifti(target.trust.mask, target.grid.world_from_voxel, np.uint8, target.form_code)

    @cached_property
    def flags(self) -> nib.Nifti1Image | None:
        """1 where slices contradict the T1w, 2 where they lie elsewhere; None where it was not asked for."""
        target = self.target
        if target.flags is None:
            return None
        return to_nifti(target.flags.labels, target.grid.world_from_voxel, np.uint8, target.form_code)

    @cached_property
    def fov(self) -> nib.Nifti1Image:
        """1 where the acquired slices cover the image, else 0."""
        target = self.target
        return to_nifti(target.fov, target.grid.world_from_voxel, np.uint8, target.form_code)

    @cached_property
    def simulated(self) -> nib.Nifti1Image | tuple[nib.Nifti1Image, ...]:
        """What the image predicts for the acquired slices, on their grid; one for each of several stacks."""
        return _alone(
            [
                to_nifti(own.simulated, own.acquired.world_from_voxel, form_code=own.acquired.form_code)
                for own in self.target.stacks
            ]
        )

    @property
    def registration(self) -> Registration | tuple[Registration, ...]:
        """Where the target lies relative to the T1w; one for each of several stacks."""
        return _alone([own.registration for own in self.target.stacks])

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What is measured without a truth, by name, as in ``desc-sr_metrics.tsv``."""
        target = self.target
        anchor_image = resample(target.anchor.volume, target.grid)
        cubic = mean_interpolated([own.interpolable for own in target.stacks], target.grid)
        return target_metrics(1, target, anchor_image, cubic, target.anchor.foreground_on(target.grid))

    @property
    def warnings(self) -> list[str]:
        """What whoever looks at the image has to know; empty: nothing."""
        return doubts(self.target)

    @property
    def model(self) -> TargetModel:
        """The target as Gaussians: its ``plane``, ``radial`` and ``whole`` make views for ``render``."""
        return self.target.model

    def render(self, where: View | ImageLike) -> nib.Nifti1Image:
        """The target anywhere in the T1w's world, straight from the Gaussians; 0 outside their support.

        ``where``: a view, or an image on the grid; of an (array, affine) pair the array's shape counts.
        """
        view = view_of(where)
        return self._on(view.grid, self.model.render(view))

    def render_sd(self, where: View | ImageLike) -> nib.Nifti1Image:
        """Standard deviation of the error of ``render``; InputError where it was not asked for."""
        view = view_of(where)
        return self._on(view.grid, self.model.render_sd(view))

    def _on(self, grid: Grid, data: npt.NDArray[np.float32]) -> nib.Nifti1Image:
        return to_nifti(data, grid.world_from_voxel, form_code=self.target.form_code)

    def _on_grid(self, data: npt.NDArray[np.float32]) -> nib.Nifti1Image:
        return self._on(self.target.grid, data)


def _alone(items: Sequence[Any]) -> Any:
    return items[0] if len(items) == 1 else tuple(items)
