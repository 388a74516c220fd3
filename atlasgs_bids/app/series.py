"""A DWI, ASL or M0 series: registered once, then written volume by volume."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from atlasgs_bids.app.confounds import write_confounds
from atlasgs_bids.app.series_figures import SeriesPosition, write_series_figures
from atlasgs_bids.app.sidecars import target_sidecars
from atlasgs_bids.app.stacks import phase_axis, stack_input
from atlasgs_bids.app.target import TargetRun
from atlasgs_bids.bids.images import Gradients
from atlasgs_bids.bids.inputs.companions import gradients_text
from atlasgs_bids.bids.outputs.names import json_path
from atlasgs_bids.bids.plan.files import companions, remove_old_files
from atlasgs_bids.bids.plan.series import SeriesPlan
from atlasgs_bids.core.metrics import noise_sd
from atlasgs_bids.imaging.directions import rotated_directions
from atlasgs_bids.imaging.nifti import image_stream, load_series, series_header, to_nifti, write_image
from atlasgs_bids.imaging.series import Series
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.imaging.volume_motion import SeriesMotion
from atlasgs_bids.restoration.calibration import calibrated
from atlasgs_bids.restoration.coarser import coarser_scaffold
from atlasgs_bids.restoration.result import StackResult, TargetResult
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.series import fit_series
from atlasgs_bids.restoration.series_error import volume_errors, volume_uncertainties
from atlasgs_bids.restoration.series_fit import SeriesFit
from atlasgs_bids.restoration.series_images import restored_volumes
from atlasgs_bids.restoration.stack import PlacedStack, place
from atlasgs_bids.restoration.volume_positions import with_motion
from atlasgs_bids.runtime.costs import Clock
from atlasgs_bids.runtime.files import atomic, save_json, save_text, save_tsv
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float32]
Directions = npt.NDArray[np.float64]


def restore_series(
    run: TargetRun, kinds: SeriesPlan, scaffold: SessionScaffold, clock: Clock, progress: Progress
) -> TargetResult:
    """Every volume restored and written; what is returned is the reference.

    The mean of the reference volumes (b0; M0, else control and label) is registered, or the separate M0 scan,
    and the volumes lie where the evidence puts them from there.
    """
    settings = run.config.restoration
    series = load_series(run.target.source.path)
    reference = series.mean(kinds.reference)
    with clock.measure("registration"), progress.stage("registration") as advance:
        placed = _placed(run, kinds, reference, scaffold, progress)
        advance(1)
    with clock.measure("calibration"):
        (placed,) = calibrated([placed], scaffold.guides, settings, progress.under("reference"))
        placed, motion = _in_motion(run, kinds, series, placed, scaffold, progress)
    if run.config.scaffold is None:
        scaffold = coarser_scaffold(placed, scaffold, settings, progress)
    with clock.measure("appearance"):
        fit = fit_series(placed, series, kinds, scaffold, settings, progress, motion)
    with clock.measure("render"):
        result = replace(fit.reference_result(), motion=motion)
    means, result = _write_volumes(run, fit, result, clock, progress)
    (stack,) = result.stacks
    with clock.measure("writing"):
        position = SeriesPosition(result.grid, result.fov, stack.registration.target_from_anchor, motion)
        sds = {kind: own.sd for kind, own in result.volume_errors.items()}
        write_series_figures(run, kinds, series, means.rendered, sds, result.anchor, position)
        if motion is not None:
            write_confounds(run, motion, result.anchor, position.target_from_anchor)
    return replace(result, difference_to_noise=_difference_to_noise(kinds, series, means, fit))


def _in_motion(
    run: TargetRun,
    kinds: SeriesPlan,
    series: Series,
    placed: PlacedStack,
    scaffold: SessionScaffold,
    progress: Progress,
) -> tuple[PlacedStack, SeriesMotion | None]:
    """The reference without those of its volumes that lay elsewhere, and where all of them lay."""
    settings, gradients = run.config.restoration, run.target.source.gradients
    if run.target.movement(settings.motion) == "none" or len(series) == 1:
        return placed, None
    directions = None if gradients is None else gradients.directions
    found, motion = with_motion(placed, series, kinds, directions, scaffold.guides, settings, progress)
    if found is not placed and found.displacement is None:
        # Position and profile were those of a mean that was blurred by movement.
        blurred = replace(found, calibration=None)
        (found,) = calibrated([blurred], scaffold.guides, settings, progress.under("reference"))
    return found, motion


@dataclass
class _Means:
    """Running means over the volumes of each kind."""

    rendered: dict[str, Array]
    """On the output grid."""
    simulated: dict[str, Array]
    """Native grid."""

    def add(self, kind: str, share: float, rendered: Array, simulated: Array) -> None:
        for means, image in ((self.rendered, rendered), (self.simulated, simulated)):
            means[kind] = means.get(kind, np.float32(0)) + np.float32(share) * image


def _placed(
    run: TargetRun, kinds: SeriesPlan, reference: Volume, scaffold: SessionScaffold, progress: Progress
) -> PlacedStack:
    """The reference volume in the position of what is registered; that of a separate scan is final."""
    settings = run.config.restoration
    stack = stack_input(run.target.stacks[0], settings)
    separate = kinds.registered_by
    if separate is None:
        return place(stack, reference, scaffold.anchor, settings, progress)
    registered = load_series(separate.path)
    moving = registered.mean(range(len(registered)))
    # As the scan itself is placed where it is a target of its own.
    given_mm = stack.geometry.thickness_mm if stack.geometry.thickness_source == "--slice-thickness" else None
    geometry = slice_geometry(moving.data.shape, moving.world_from_voxel, separate.sidecar, given_mm)
    own = replace(stack, geometry=geometry, sidecar=separate.sidecar, phase_axis=phase_axis(separate.sidecar))
    placed = place(own, moving, scaffold.anchor, settings, progress)
    (found,) = calibrated([placed], scaffold.guides, settings, progress)
    stated = [image.get("PhaseEncodingDirection") for image in (stack.sidecar, separate.sidecar)]
    if found.displacement is not None and not stack.transforms and stated[0] != stated[1]:
        logger.warning(
            "%s: encoded along %s, its M0 along %s; it is taken to be undistorted",
            progress.led(stack.name), *stated,
        )  # fmt: skip
        found = replace(found, displacement=None)
    return replace(found, source=stack, acquired=reference)


def _write_volumes(
    run: TargetRun, fit: SeriesFit, result: TargetResult, clock: Clock, progress: Progress
) -> tuple[_Means, TargetResult]:
    """Result, simulated and residual volumes, one at a time: no series lies in memory as float32.

    Then how far one of each kind may be off, which is part of the result that is returned. Sidecars,
    gradients and contexts are there before the images get their names.
    """
    series, outputs, grid, kinds = fit.series, run.outputs, result.grid, fit.kinds.kinds
    # Differences of perfusion volumes are the point of them, and a floor would not be linear.
    floor = None if run.target.entities["suffix"] == "asl" or series.volume(0).min() < 0 else 0.0
    n, step_s = len(series), series.seconds_per_volume
    native_header = series_header(
        (*result.stacks[0].acquired.data.shape, n), series.world_from_voxel, step_s, series.form_code
    )
    grid_header = series_header((*grid.shape, n), grid.world_from_voxel, step_s, result.form_code)
    means, samples = _Means({}, {}), {name: list[Tensor]() for name in fit.contrasts}
    with ExitStack() as files, progress.stage("volumes", n) as advance:
        add_sr = files.enter_context(image_stream(outputs.sr, grid_header))
        add_simulated = files.enter_context(image_stream(outputs.simulated, native_header))
        add_residual = files.enter_context(image_stream(outputs.residual, native_header))
        for volume in restored_volumes(fit, result, floor, clock):
            with clock.measure("writing"):
                acquired, kind = series.volume(volume.index), kinds[volume.index]
                add_sr(volume.rendered)
                add_simulated(volume.simulated)
                add_residual(np.where(volume.observed, acquired - volume.simulated, np.float32(0)))
                means.add(kind, 1 / kinds.count(kind), volume.rendered, volume.simulated)
            if volume.index in fit.samples:
                samples[fit.kinds.contrasts[volume.index]].append(volume.amplitudes)
            advance(1)
        with clock.measure("uncertainty"), progress.stage("uncertainty"):
            uncertainties = volume_uncertainties(fit, samples)
            errors = volume_errors(fit, result, means.rendered, uncertainties)
            result = replace(result, volume_errors=errors)
        with clock.measure("writing"):
            maps = {
                outputs.srstd: [own.sd for own in errors.values()],
                outputs.srnoisestd: [own.noise_sd for own in errors.values() if own.noise_sd is not None],
            }
            known = {path: images for path, images in maps.items() if images}
            for path, images in known.items():
                stacked = to_nifti(np.stack(images, 3), grid.world_from_voxel, form_code=result.form_code)
                write_image(stacked, files.enter_context(atomic(path)))
            remove_old_files(run.target, run.naming)
            sidecars = target_sidecars(run, result)
            for path in (outputs.sr, outputs.simulated, outputs.residual, *known):
                save_json(sidecars[path], json_path(path))
            _write_companions(run, result.stacks[0], grid, fit.motion)
            for path in known:
                _write_kinds(run, path, list(errors))
    return means, result


def _write_companions(run: TargetRun, stack: StackResult, grid: Grid, motion: SeriesMotion | None) -> None:
    """bval and bvec, each turned with the head into the output's voxel axes; the ASL context as it is."""
    source, outputs = run.target.source, run.outputs
    if source.gradients is not None:
        own = _turned(source.gradients.directions, stack, grid, motion)
        _save_gradients(Gradients(source.gradients.b_values, own), companions(run.target, outputs.sr))
        for native in (outputs.simulated, outputs.residual):
            _save_gradients(source.gradients, companions(run.target, native))
    if source.asl_context is not None:
        rows = [{"volume_type": kind} for kind in source.asl_context]
        for image in (outputs.sr, outputs.simulated, outputs.residual):
            save_tsv(rows, companions(run.target, image)["aslcontext"])


def _write_kinds(run: TargetRun, image: Path, kinds: Sequence[str]) -> None:
    """Beside an image with a volume for each kind: its b-value, without a direction, or its ASL context."""
    if run.target.source.gradients is not None:
        b_values = np.array([float(kind.removeprefix("b")) for kind in kinds])
        _save_gradients(Gradients(b_values, np.zeros((len(kinds), 3))), companions(run.target, image))
    if run.target.source.asl_context is not None:
        save_tsv([{"volume_type": kind} for kind in kinds], companions(run.target, image)["aslcontext"])


def _turned(given: Directions, stack: StackResult, grid: Grid, motion: SeriesMotion | None) -> Directions:
    """(n, 3) directions of a bvec file for the output, each turned with the head in its volume."""
    native, position = stack.acquired.world_from_voxel, stack.registration.target_from_anchor
    turned = rotated_directions(given, native, position, grid.world_from_voxel)
    if motion is not None:
        for v in motion.moved:
            own = motion.target_from_anchor(v, position)
            turned[v] = rotated_directions(given[v : v + 1], native, own, grid.world_from_voxel)[0]
    return turned


def _save_gradients(gradients: Gradients, paths: Mapping[str, Path]) -> None:
    for text, name in zip(gradients_text(gradients), ("bval", "bvec"), strict=True):
        save_text(text, paths[name])


def _acquired_difference(kinds: SeriesPlan, series: Series) -> Array:
    control, label = (series.mean(kinds.volumes_of(kind)).data for kind in ("control", "label"))
    return control - label


def _difference_to_noise(kinds: SeriesPlan, series: Series, means: _Means, fit: SeriesFit) -> float | None:
    """RMS of the acquired minus the simulated mean difference of control and label, over its noise."""
    if not kinds.is_perfusion:
        return None
    acquired = _acquired_difference(kinds, series)
    observed = fit.observation.weights.cpu().numpy() > 0
    error = acquired - (means.simulated["control"] - means.simulated["label"])
    noise = noise_sd(acquired, fit.observation.slice_axis, observed)
    return float(np.sqrt(np.mean(error[observed] ** 2)) / noise) if noise > 0 else None
