"""Images in, images out: a T1w and thick-slice targets -> isotropic images; no file is written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib

from atlasgs_bids.core.memory import with_smaller_chunks
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.displacement import Displacement, read_displacement
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import anchor_of
from atlasgs_bids.restoration.given import ImageLike, given_mask, given_volume
from atlasgs_bids.restoration.images import Result
from atlasgs_bids.restoration.metrics import warnings_of
from atlasgs_bids.restoration.prepared import (
    PreparedTarget,
    learn_side_by_side,
    prepare,
    targets_at_once,
)
from atlasgs_bids.restoration.result import TargetResult, rendered_result
from atlasgs_bids.restoration.scaffold import SessionScaffold, scaffold_of
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, StackInput, place
from atlasgs_bids.restoration.target import fit_target
from atlasgs_bids.runtime.costs import Clock
from atlasgs_bids.runtime.devices import devices, resolved_device
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)


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


def _progress(shown: bool) -> Progress:
    return Progress() if shown else Progress.quiet()
