"""A DWI, ASL or M0 series: registered once, observed by one operator, solved and written volume by volume."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.outputs import target_sidecars
from atlasgs_bids.app.stacks import stack_input
from atlasgs_bids.bids.images import Gradients
from atlasgs_bids.bids.inputs.companions import gradients_text
from atlasgs_bids.bids.outputs.names import TargetOutputs, json_path
from atlasgs_bids.bids.plan.files import companions, remove_old_files
from atlasgs_bids.bids.plan.series import SeriesPlan
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.bids.plan.targets import TargetPlan
from atlasgs_bids.core.metrics import noise_sd
from atlasgs_bids.core.observation import Observation
from atlasgs_bids.imaging.directions import rotated_directions
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import image_stream, load_series, series_header
from atlasgs_bids.imaging.series import Series
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.report.figures.target import target_figure
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.result import TargetResult, rendered_result, rendered_volume
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.series import SeriesFit, fit_series
from atlasgs_bids.restoration.stack import PlacedStack, place
from atlasgs_bids.runtime.files import atomic, save_json, save_text, save_tsv
from atlasgs_bids.runtime.progress import Progress

Array = npt.NDArray[np.float32]
Measure = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class SeriesRun:
    """One series, and all that is needed to restore it."""

    plan: SubjectPlan
    target: TargetPlan
    series: SeriesPlan
    outputs: TargetOutputs
    scaffold: SessionScaffold
    config: RunConfig
    progress: Progress

    @property
    def label(self) -> str:
        return f"{self.plan.label} {self.target.label}"


def restore_series(run: SeriesRun, measure: Measure) -> TargetResult:
    """Every volume restored and written; what is returned is the reference.

    The mean of the reference volumes (b0; M0, else control and label) is registered, or the separate M0 scan,
    and all volumes share its position.
    """
    target, config = run.target, run.config
    series = load_series(target.source.path)
    reference = series.mean(run.series.reference)
    with measure("registration"), run.progress.stage("registration") as advance:
        placed = _placed(run, reference)
        advance(1)
    with measure("appearance"):
        fit = fit_series(placed, series, run.series, run.scaffold, config.restoration, run.progress)
    result = rendered_result(fit.reference.fit, fit.scaffold, config.restoration)
    with measure("render"):
        means = _write_volumes(run, fit, result, placed)
    (stack,) = result.stacks
    write_series_figures(
        run.label, run.series, run.outputs, series, means.rendered, result.anchor,
        SeriesPosition(result.grid, result.fov, stack.registration.target_from_anchor),
    )  # fmt: skip
    return replace(result, difference_to_noise=_difference_to_noise(run, series, means, fit.observation))


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


def _placed(run: SeriesRun, reference: Volume) -> PlacedStack:
    """The reference volume in the position of what is registered."""
    stack, settings = stack_input(run.target.stacks[0]), run.config.restoration
    separate = run.series.registered_by
    if separate is None:
        return place(stack, reference, run.scaffold.anchor, settings, run.progress)
    registered = load_series(separate.path)
    moving = registered.mean(range(len(registered)))
    return replace(place(stack, moving, run.scaffold.anchor, settings, run.progress), acquired=reference)


def _write_volumes(run: SeriesRun, fit: SeriesFit, result: TargetResult, placed: PlacedStack) -> _Means:
    """Result, simulated and residual volumes, one at a time: no series lies in memory as float32.

    Their sidecars, gradients and contexts are there before the images get their names.
    """
    series, observation = fit.series, fit.observation
    grid, inside, kinds = result.grid, result.inside, run.series.kinds
    weights = observation.weights.cpu().numpy()
    # Differences of perfusion volumes are the point of them, and a floor would not be linear.
    floor = None if run.target.entities["suffix"] == "asl" or series.volume(0).min() < 0 else 0.0
    n, step_s = len(series), series.seconds_per_volume
    native_header = series_header((*weights.shape, n), series.world_from_voxel, step_s, series.form_code)
    grid_header = series_header((*grid.shape, n), grid.world_from_voxel, step_s, result.form_code)
    means = _Means({}, {})
    with ExitStack() as files, run.progress.stage("volumes", n) as advance:
        add_sr = files.enter_context(image_stream(run.outputs.sr, grid_header))
        add_simulated = files.enter_context(image_stream(run.outputs.simulated, native_header))
        add_residual = files.enter_context(image_stream(run.outputs.residual, native_header))
        for index, amplitudes in enumerate(fit.amplitudes()):
            sr = rendered_volume(amplitudes, grid, inside, fit.scaffold, run.config.restoration, floor=floor)
            simulated = observation.slices_from_amplitudes.forward(amplitudes).cpu().numpy()
            add_sr(sr)
            add_simulated(simulated)
            add_residual(np.where(weights > 0, series.volume(index) - simulated, np.float32(0)))
            means.add(kinds[index], 1 / kinds.count(kinds[index]), sr, simulated)
            advance(1)
        remove_old_files(run.target, run.config.naming)
        sidecars = target_sidecars(run.plan, run.target, run.outputs, result, run.config)
        for image in (run.outputs.sr, run.outputs.simulated, run.outputs.residual):
            save_json(sidecars[image], json_path(image))
        _write_companions(run, placed, grid)
    return means


def _write_companions(run: SeriesRun, placed: PlacedStack, grid: Grid) -> None:
    """bval and bvec, turned with the head into the output's voxel axes; the ASL context as it is."""
    source, outputs = run.target.source, run.outputs
    if source.gradients is not None:
        turned = rotated_directions(
            source.gradients.directions,
            placed.acquired.world_from_voxel,
            placed.registration.target_from_anchor,
            grid.world_from_voxel,
        )
        _save_gradients(Gradients(source.gradients.b_values, turned), companions(run.target, outputs.sr))
        for native in (outputs.simulated, outputs.residual):
            _save_gradients(source.gradients, companions(run.target, native))
    if source.asl_context is not None:
        rows = [{"volume_type": kind} for kind in source.asl_context]
        for image in (outputs.sr, outputs.simulated, outputs.residual):
            save_tsv(rows, companions(run.target, image)["aslcontext"])


def _save_gradients(gradients: Gradients, paths: Mapping[str, Path]) -> None:
    for text, name in zip(gradients_text(gradients), ("bval", "bvec"), strict=True):
        save_text(text, paths[name])


@dataclass(frozen=True)
class SeriesPosition:
    """Where a series lies on the output grid."""

    grid: Grid
    fov: npt.NDArray[np.bool_]
    target_from_anchor: npt.NDArray[np.float64]


def write_series_figures(
    label: str,
    kinds: SeriesPlan,
    outputs: TargetOutputs,
    series: Series,
    restored_means: Mapping[str, Array],
    anchor: Anchor,
    position: SeriesPosition,
) -> None:
    """One figure for each kind of volume, the mean of its volumes; for ASL control minus label as well."""
    grid = position.grid
    anchor_image = resample(anchor.volume, grid)
    mask = anchor.foreground_on(grid) & position.fov

    def draw(name: str, acquired: Volume, restored: Array) -> None:
        cubic = resample(acquired, grid, position.target_from_anchor)
        with atomic(outputs.figure_of(name)) as path:
            target_figure(
                path, anchor_image, cubic, restored, grid.world_from_voxel, f"{label}: {name}", mask
            )

    for kind in dict.fromkeys(kinds.kinds):
        draw(kind, series.mean(kinds.volumes_of(kind)), restored_means[kind])
    if kinds.is_perfusion:
        acquired = Volume(_acquired_difference(kinds, series), series.world_from_voxel, series.observed)
        draw("difference", acquired, restored_means["control"] - restored_means["label"])


def _acquired_difference(kinds: SeriesPlan, series: Series) -> Array:
    control, label = (series.mean(kinds.volumes_of(kind)).data for kind in ("control", "label"))
    return control - label


def _difference_to_noise(
    run: SeriesRun, series: Series, means: _Means, observation: Observation
) -> float | None:
    """RMS of the acquired minus the simulated mean difference of control and label, over its noise."""
    if not run.series.is_perfusion:
        return None
    acquired = _acquired_difference(run.series, series)
    observed = observation.weights.cpu().numpy() > 0
    error = acquired - (means.simulated["control"] - means.simulated["label"])
    noise = noise_sd(acquired, run.target.geometry.axis, observed)
    return float(np.sqrt(np.mean(error[observed] ** 2)) / noise) if noise > 0 else None
