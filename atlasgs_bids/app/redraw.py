"""``--reports-only``: figures and dictionaries of tables again, from what an earlier run wrote."""

import json
import traceback

import nibabel as nib
import numpy as np

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.failures import Failure, SubjectResult
from atlasgs_bids.app.scaffold import session_anchor
from atlasgs_bids.app.series import SeriesPosition, write_series_figures
from atlasgs_bids.bids.outputs.names import TargetOutputs, target_outputs
from atlasgs_bids.bids.plan.series import SeriesPlan
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.bids.plan.targets import TargetPlan
from atlasgs_bids.errors import InputError, error_text
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.nifti import load_series, load_volume
from atlasgs_bids.imaging.registration.register import read_itk_transform
from atlasgs_bids.imaging.volume import Grid
from atlasgs_bids.report.columns import metrics_dictionary
from atlasgs_bids.report.figures.target import target_figure
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.result import mean_interpolated
from atlasgs_bids.runtime.files import atomic, save_json
from atlasgs_bids.runtime.progress import Progress


def redraw_subject(plan: SubjectPlan, config: RunConfig, progress: Progress) -> SubjectResult:
    """Draw every finished target of a session again; one without results is a failure of its own."""
    anchor = session_anchor(plan)
    finished, failures = [], []
    for target in plan.targets:
        label = f"{plan.label} {target.label}"
        try:
            with progress.stage(f"{label}: figures") as advance:
                _redraw(label, target, anchor, config)
                advance(1)
            finished.append(target.label)
        except Exception as error:  # noqa: BLE001 - whatever breaks one target breaks no other
            failures.append(Failure(target.label, error_text(error), traceback.format_exc()))
            if config.stop_on_first_crash:
                break
    return SubjectResult(tuple(finished), (), tuple(failures))


def _redraw(label: str, target: TargetPlan, anchor: Anchor, config: RunConfig) -> None:
    outputs = target_outputs(config.out_dir, target.entities, config.restoration.resolution)
    if not outputs.finished:
        raise InputError(
            f"found no {outputs.metrics_tsv.name}, which a finished target has; "
            "run without --reports-only first"
        )
    mask_image = nib.Nifti1Image.from_filename(outputs.fov_mask)
    x, y, z = mask_image.shape
    grid = Grid((x, y, z), np.asarray(mask_image.affine))
    fov = mask_image.get_fdata() > 0
    if target.series is None:
        _redraw_stacks(label, target, outputs, anchor, grid, fov, config)
    else:
        position = SeriesPosition(grid, fov, read_itk_transform(outputs.xfm))
        _redraw_series(label, target, target.series, outputs, anchor, position)
    save_json(metrics_dictionary(), outputs.metrics_json)


def _redraw_stacks(
    label: str,
    target: TargetPlan,
    outputs: TargetOutputs,
    anchor: Anchor,
    grid: Grid,
    fov: np.ndarray,
    config: RunConfig,
) -> None:
    own = [outputs]
    if len(target.stacks) > 1:
        own = [
            target_outputs(config.out_dir, stack.source.entities, config.restoration.resolution)
            for stack in target.stacks
        ]
    sidecar = json.loads(outputs.sr_json.read_text(encoding="utf-8"))
    gains = sidecar.get("StackGains") or [1.0]
    stacks = [
        (load_volume(stack.source.path), read_itk_transform(of_stack.xfm), gain)
        for stack, of_stack, gain in zip(target.stacks, own, gains, strict=True)
    ]
    cubic = mean_interpolated(stacks, grid)
    images = (resample(anchor.volume, grid), cubic, load_volume(outputs.sr).data)
    with atomic(outputs.figure) as path:
        mask, warnings = anchor.foreground_on(grid) & fov, sidecar.get("Warnings") or ()
        target_figure(path, *images, grid.world_from_voxel, label, mask, warnings)


def _redraw_series(
    label: str,
    target: TargetPlan,
    kinds: SeriesPlan,
    outputs: TargetOutputs,
    anchor: Anchor,
    position: SeriesPosition,
) -> None:
    """The figure of each kind of volume; that of the reference, which is no file of its own, stays."""
    restored = load_series(outputs.sr)
    means = {kind: restored.mean(kinds.volumes_of(kind)).data for kind in dict.fromkeys(kinds.kinds)}
    write_series_figures(label, kinds, outputs, load_series(target.source.path), means, anchor, position)
