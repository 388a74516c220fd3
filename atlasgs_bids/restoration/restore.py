"""Images in, images out: a T1w and thick-slice targets -> isotropic images; no file is written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from atlasgs_bids.core.memory import with_smaller_chunks
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.displacement import Displacement, read_displacement
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import to_nifti
from atlasgs_bids.imaging.registration.register import Registration
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.given import ImageLike, given_mask, given_volume, view_of
from atlasgs_bids.restoration.metrics import doubts, target_metrics, warnings_of
from atlasgs_bids.restoration.prepared import (
    PreparedTarget,
    learn_side_by_side,
    prepare,
    targets_at_once,
)
from atlasgs_bids.restoration.result import TargetResult, mean_interpolated, rendered_result
from atlasgs_bids.restoration.scaffold import SessionScaffold, scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, StackInput, place
from atlasgs_bids.restoration.target import fit_target
from atlasgs_bids.restoration.views import TargetModel, View
from atlasgs_bids.runtime.costs import Clock
from atlasgs_bids.runtime.devices import devices, resolved_device
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)


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


def fit_scaffold(
    t1w: ImageLike,
    settings: RestorationSettings | None = None,
    *,
    brain_mask: ImageLike | None = None,
    progress: bool = False,
) -> SessionScaffold:
    """Gaussians fitted to an isotropic T1w, for any number of targets.

    ``brain_mask`` (on any grid of the T1w's world): where the brain is, else the head is found. Raises
    InputError for an image that cannot be used, ConfigurationError for a device that is not there.
    """
    settings = resolved(settings or RestorationSettings())
    volume = given_volume(t1w, "T1w")
    mask = None if brain_mask is None else given_mask(brain_mask)
    with _progress(progress) as report:
        return scaffold_of(anchor_of(volume, mask), settings, report)


def restore(
    scaffold: SessionScaffold | ImageLike,
    *targets: ImageLike | Sequence[ImageLike],
    thickness_mm: float | Sequence[float] | None = None,
    settings: RestorationSettings | None = None,
    phase_axis: int | None = None,
    displacement: Displacement | str | Path | None = None,
    progress: bool = False,
) -> Result | list[Result]:
    """Each target at isotropic resolution: one Result for one target, else a list of them.

    ``scaffold``: what ``fit_scaffold`` gave, or the T1w itself. A list of images is one target in several
    stacks. ``thickness_mm``: of the slices, for all or for each target; None: as far apart as they lie, with
    a warning. ``phase_axis``: voxel axis along which all targets, being echo-planar, may be displaced.
    ``displacement``: where points of the T1w's world are found in the targets, as another tool has it: an
    ITK field, or its file. Raises InputError for an image that cannot be used, ConfigurationError for a
    setting.
    """
    if not targets:
        raise InputError("found no target, expected at least one image after the T1w: restore(t1w, flair)")
    settings = resolved(settings or RestorationSettings())
    if not isinstance(scaffold, SessionScaffold):
        scaffold = fit_scaffold(scaffold, settings, progress=progress)
    thicknesses = _for_each(thickness_mm, len(targets))
    with _progress(progress) as report:
        found: list[Result] = []
        at_once = targets_at_once(settings)
        for first in range(0, len(targets), at_once):
            some = range(first, min(first + at_once, len(targets)))
            labels = [_name(targets[number], number + 1) for number in some]
            prepared = [
                _prepared(
                    scaffold,
                    _inputs(targets[number], thicknesses[number], phase_axis, displacement),
                    settings,
                    report.under(label),
                )
                for number, label in zip(some, labels, strict=True)
            ]
            prepared = learn_side_by_side(prepared, scaffold, settings, report.under(" and ".join(labels)))
            for each, label in zip(prepared, labels, strict=True):
                found.append(_restored(each, scaffold, settings, report.under(label)))
    return found[0] if len(found) == 1 else found


def restore_stacks(
    placed: Sequence[PlacedStack],
    scaffold: SessionScaffold,
    settings: RestorationSettings,
    progress: Progress,
    clock: Clock | None = None,
) -> TargetResult:
    """The stacks of one target -> its image: the door that command line, study and Python go through."""
    clock = clock or Clock()
    with clock.measure("calibration"):
        prepared = prepare(placed, scaffold, settings, progress)
    return restore_prepared(prepared, scaffold, settings, progress, clock)


def restore_prepared(
    prepared: PreparedTarget,
    scaffold: SessionScaffold,
    settings: RestorationSettings,
    progress: Progress,
    clock: Clock,
) -> TargetResult:
    """The second half of ``restore_stacks``: fit and image."""
    with clock.measure("appearance"):
        fitted = fit_target(prepared.placed, scaffold, settings, progress, predictions=prepared.predictions)
    with clock.measure("render"), progress.stage("rendering") as advance:
        result = rendered_result(fitted.fit, fitted.scaffold, settings, prepared.shifts)
        advance(1)
    return result


def resolved(settings: RestorationSettings) -> RestorationSettings:
    """The settings with one device and the network that suits it; ConfigurationError where there is none."""
    device = devices(resolved_device(settings.device))[0]
    return replace(settings, device=device).with_network_of_device()


def _prepared(
    scaffold: SessionScaffold,
    stacks: Sequence[tuple[StackInput, Volume]],
    settings: RestorationSettings,
    progress: Progress,
) -> PreparedTarget:
    placed = []
    for stack, volume in stacks:
        for text in stack.geometry.warnings:
            logger.warning("%s", progress.led(text))
        placed.append(place(stack, volume, scaffold.anchor, settings, progress))
    return with_smaller_chunks(
        lambda core: prepare(placed, scaffold, replace(settings, core=core), progress),
        settings.core,
        settings.device,
        len(scaffold.gaussians),
    )


def _restored(
    prepared: PreparedTarget, scaffold: SessionScaffold, settings: RestorationSettings, progress: Progress
) -> Result:
    result = with_smaller_chunks(
        lambda core: restore_prepared(prepared, scaffold, replace(settings, core=core), progress, Clock()),
        settings.core,
        settings.device,
        len(scaffold.gaussians),
    )
    for text in warnings_of(result):
        logger.warning("%s", progress.led(text))
    return Result(result, settings)


def _inputs(
    target: ImageLike | Sequence[ImageLike],
    thickness_mm: float | None,
    phase_axis: int | None,
    displacement: Displacement | str | Path | None,
) -> list[tuple[StackInput, Volume]]:
    """What is known of each stack of a target, and its image."""
    if isinstance(displacement, (str, Path)):
        displacement = read_displacement(displacement)
    found = []
    for name, volume in _stacks(target):
        geometry = slice_geometry(volume.data.shape, volume.world_from_voxel, {}, thickness_mm)
        stack = StackInput(name, geometry, phase_axis=phase_axis, displacement=displacement)
        found.append((stack, volume))
    return found


def _stacks(target: ImageLike | Sequence[ImageLike]) -> list[tuple[str, Volume]]:
    """Name and image of each stack of a target."""
    images = target if isinstance(target, list) else [target]
    if not images:
        raise InputError("a target is an empty list, expected the images of its stacks")
    return [
        (_name(image, number), given_volume(image, _name(image, number)))
        for number, image in enumerate(images, 1)
    ]


def _name(target: Any, number: int) -> str:
    if isinstance(target, (str, Path)):
        return Path(target).name
    if isinstance(target, nib.Nifti1Image) and (path := target.get_filename()):
        return Path(path).name
    if isinstance(target, list) and target:
        return _name(target[0], number)
    return f"target {number}"


def _for_each(thickness_mm: float | Sequence[float] | None, n_targets: int) -> list[float | None]:
    if thickness_mm is None or isinstance(thickness_mm, (int, float)):
        return [thickness_mm] * n_targets
    if len(thickness_mm) != n_targets:
        raise InputError(
            f"{len(thickness_mm)} slice thicknesses for {n_targets} targets, expected one, or one for each"
        )
    return list(thickness_mm)


def _alone(items: Sequence[Any]) -> Any:
    return items[0] if len(items) == 1 else tuple(items)


def _progress(shown: bool) -> Progress:
    return Progress() if shown else Progress.quiet()
