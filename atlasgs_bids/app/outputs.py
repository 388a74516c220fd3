"""The files of one session: images, sidecars, figure and metrics, the metrics last."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from atlasgs_bids.app.sidecars import target_sidecars
from atlasgs_bids.app.target import TargetRun
from atlasgs_bids.bids.outputs.names import TargetOutputs, json_path
from atlasgs_bids.bids.plan.files import remove_old_files, stack_outputs
from atlasgs_bids.imaging.displacement import (
    Displacement,
    anchor_from_target_field,
    centres_mm,
    target_from_anchor_field,
    unwarped,
)
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.interpolated import mean_interpolated
from atlasgs_bids.imaging.nifti import to_nifti, write_image
from atlasgs_bids.imaging.profile import slice_profile
from atlasgs_bids.imaging.registration.register import write_itk_transform
from atlasgs_bids.report.columns import metrics_dictionary, motion_dictionary
from atlasgs_bids.report.figures.calibration import calibration_figure
from atlasgs_bids.report.figures.distortion import DistortionImages, distortion_figure
from atlasgs_bids.report.figures.motion import motion_figure
from atlasgs_bids.report.figures.target import TargetImages, target_figure
from atlasgs_bids.restoration.flags import LABELS
from atlasgs_bids.restoration.metrics import doubts, target_metrics
from atlasgs_bids.restoration.result import StackResult, TargetResult
from atlasgs_bids.restoration.stack import Calibration
from atlasgs_bids.restoration.target_files import save_target
from atlasgs_bids.runtime.costs import Clock, peak_gpu_memory_mib, peak_memory_mib
from atlasgs_bids.runtime.files import atomic, save_json, save_tsv

Sidecars = Mapping[Path, Mapping[str, Any]]
"""Of each file of a target, by the file's path."""


def _save_images(run: TargetRun, result: TargetResult, sidecars: Sidecars) -> None:
    """The result, and for each stack the simulated and residual slices on its own grid."""
    target, outputs, naming = run.target, run.outputs, run.naming
    remove_old_files(target, naming)
    on_grid = partial(to_nifti, world_from_voxel=result.grid.world_from_voxel, form_code=result.form_code)
    _save_described(on_grid(result.sr), outputs.sr, sidecars)
    if result.sd is not None:
        _save_described(on_grid(result.sd), outputs.srstd, sidecars)
    if result.trust is not None:
        _save_described(on_grid(result.trust.mask, dtype=np.uint8), outputs.trusted_mask, sidecars)
    if result.flags is not None:
        save_tsv([{"index": label, "name": name} for label, name in LABELS.items()], outputs.flags_tsv)
        _save_described(on_grid(result.flags.labels, dtype=np.uint8), outputs.flags, sidecars)
    with _described(outputs.scaffold_npz, sidecars) as path:
        save_target(path, result.model, result.n_shared)
    for planned, stack in zip(target.stacks, result.stacks, strict=True):
        own = stack_outputs(planned, target, naming)
        residual = np.where(stack.weights > 0, stack.acquired.data - stack.simulated, np.float32(0))
        acquired = stack.acquired
        native = partial(to_nifti, world_from_voxel=acquired.world_from_voxel, form_code=acquired.form_code)
        _save_described(native(stack.simulated), own.simulated, sidecars)
        _save_described(native(residual), own.residual, sidecars)


@contextmanager
def _described(path: Path, sidecars: Sidecars) -> Iterator[Path]:
    """``atomic``, with the sidecar in place before the file: no moment shows the one without the other."""
    with atomic(path) as temporary:
        yield temporary
        save_json(sidecars[path], json_path(path))


def _save_described(image: nib.Nifti1Image, path: Path, sidecars: Sidecars) -> None:
    with _described(path, sidecars) as temporary:
        write_image(image, temporary)


def write_target(run: TargetRun, result: TargetResult, clock: Clock) -> None:
    """Every file of a target but the volumes of a series; the metrics last, which say that it is finished."""
    with clock.measure("writing"):
        row = _write_files(run, result)
    row["seconds_uncertainty"] = None  # of an image a part of its appearance
    row |= {f"seconds_{stage}": value for stage, value in clock.seconds.items()}
    row |= {"peak_memory": peak_memory_mib(), "peak_gpu_memory": peak_gpu_memory_mib()}
    row["device"] = run.config.restoration.device
    save_json(metrics_dictionary(), run.outputs.metrics_json)
    save_tsv([row], run.outputs.metrics_tsv)


def _write_files(run: TargetRun, result: TargetResult) -> dict[str, Any]:
    """Every file but the metrics, which are returned: both need the interpolated images.

    What only computes goes on beside what is written and drawn.
    """
    with ThreadPoolExecutor(1) as beside:
        grid, anchor = result.grid, result.anchor
        anchor_image = beside.submit(resample, anchor.volume, grid)
        stacks = [stack.interpolable for stack in result.stacks]
        cubic = beside.submit(mean_interpolated, stacks, grid)
        _write_images(run, result)
        foreground = anchor.foreground_on(grid)
        n_volumes = 1 if run.target.series is None else len(run.target.series.kinds)
        metrics = beside.submit(
            target_metrics, n_volumes, result, anchor_image.result(), cubic.result(), foreground
        )
        with atomic(run.outputs.figure) as path:
            trusted = None if result.trust is None else result.trust.mask
            flagged = None if result.flags is None else result.flags.labels
            shown = TargetImages(
                anchor_image.result(), cubic.result(), result.sr, result.sd, trusted, flagged, anchor.name
            )
            mask = foreground & result.fov
            target_figure(path, shown, grid.world_from_voxel, run.label, mask, doubts(result))
        return metrics.result()


def _write_images(run: TargetRun, result: TargetResult) -> None:
    """Images, transforms and the figures of each stack."""
    target, outputs, naming = run.target, run.outputs, run.naming
    grid, sidecars = result.grid, target_sidecars(run, result)
    if target.series is None:
        _save_images(run, result, sidecars)
    mask_image = to_nifti(result.fov, grid.world_from_voxel, np.uint8, result.form_code)
    _save_described(mask_image, outputs.fov_mask, sidecars)
    for planned, stack in zip(target.stacks, result.stacks, strict=True):
        own = stack_outputs(planned, target, naming)
        with _described(own.xfm, sidecars) as path:
            write_itk_transform(path, stack.registration)
        if stack.displacement is not None:
            _write_displacement(stack, stack.displacement, result, own, sidecars)
        if stack.motion:
            _write_motion(stack, own)
        if stack.calibration is not None:
            _draw_calibration(stack, stack.calibration, own)


def _write_displacement(
    stack: StackResult, found: Displacement, result: TargetResult, own: TargetOutputs, sidecars: Sidecars
) -> None:
    """Where points of the head are found in the slices, and back, as fields and as a figure."""
    pose, anchor = stack.registration.target_from_anchor, result.anchor
    grid = anchor.volume.grid
    _save_described(target_from_anchor_field(found, pose, grid), own.deformed_to_anchor, sidecars)
    back = anchor_from_target_field(found, pose, stack.acquired.grid)
    _save_described(back, own.deformed_from_anchor, sidecars)
    shown = DistortionImages(
        anchor.volume.data,
        resample(stack.acquired, grid, pose),
        unwarped(stack.acquired, grid, pose, found),
        found.at(centres_mm(grid)).reshape(*grid.shape, 3),
        anchor.foreground,
    )
    with atomic(own.figure_of("distortion")) as path:
        files = ", ".join(step.path.name for step in stack.source.transforms)
        way = f"by {files}" if files else "along the phase-encoding axis"
        title = f"{stack.source.name}: displacement {way}"
        distortion_figure(path, shown, grid.world_from_voxel, title)


def _draw_calibration(stack: StackResult, found: Calibration, own: TargetOutputs) -> None:
    """What the slices say of their position and profile, beside what header and sidecar say."""
    with atomic(own.figure_of("calibration")) as path:
        stated = slice_profile("box", stack.source.geometry.thickness_mm)
        calibration_figure(path, found, stated, f"Position and slice profile of {stack.source.name}")


def _write_motion(stack: StackResult, own: TargetOutputs) -> None:
    """Where every slice lay, as a table and as a figure."""
    rows = [
        {
            "slice": k,
            **dict(zip(("translation_x", "translation_y", "translation_z"), p.translation_mm, strict=True)),
            **dict(zip(("rotation_x", "rotation_y", "rotation_z"), p.rotation_deg, strict=True)),
            "gain": p.gain,
            "estimated": p.estimated,
        }
        for k, p in enumerate(stack.motion)
    ]
    save_json(motion_dictionary(), json_path(own.motion_tsv))
    save_tsv(rows, own.motion_tsv)
    with atomic(own.figure_of("motion")) as path:
        title = f"Movement between the slices of {stack.source.name}"
        motion_figure(path, stack.motion, title)
