"""``--reports-only``: figures and dictionaries of tables again, from what an earlier run wrote."""

import json

import nibabel as nib
import numpy as np

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.confounds import describe_confounds, read_confounds
from atlasgs_bids.app.failures import SubjectResult, each_target
from atlasgs_bids.app.scaffold import session_anchor
from atlasgs_bids.app.series_figures import SeriesPosition, write_series_figures
from atlasgs_bids.app.target import TargetRun
from atlasgs_bids.bids.plan.files import stack_outputs
from atlasgs_bids.bids.plan.series import SeriesPlan
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.interpolated import mean_interpolated
from atlasgs_bids.imaging.nifti import load_series, load_volume
from atlasgs_bids.imaging.registration.itk_files import read_itk_transform
from atlasgs_bids.imaging.volume import Grid
from atlasgs_bids.report.columns import metrics_dictionary
from atlasgs_bids.report.figures.target import TargetImages, target_figure
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.runtime.files import atomic, save_json
from atlasgs_bids.runtime.progress import Progress


def redraw_subject(plan: SubjectPlan, config: RunConfig, progress: Progress) -> SubjectResult:
    """Draw every finished target of a session again; one without results is a failure of its own."""
    anchor = session_anchor(plan)

    def redraw(run: TargetRun) -> None:
        with progress.under(run.label).stage("figures") as advance:
            _redraw(run, anchor)
            advance(1)

    return each_target([TargetRun(plan, target, config) for target in plan.targets], (), redraw)


def _redraw(run: TargetRun, anchor: Anchor) -> None:
    outputs = run.outputs
    if not outputs.finished:
        raise InputError(
            f"found no {outputs.metrics_tsv.name}, which a finished target has; "
            "run without --reports-only first"
        )
    mask_image = nib.Nifti1Image.from_filename(outputs.fov_mask)
    x, y, z = mask_image.shape
    grid = Grid((x, y, z), np.asarray(mask_image.affine))
    fov = mask_image.get_fdata() > 0
    if run.target.series is None:
        _redraw_stacks(run, anchor, grid, fov)
    else:
        target_from_anchor = read_itk_transform(outputs.xfm)
        motion = read_confounds(run, anchor, target_from_anchor)
        position = SeriesPosition(grid, fov, target_from_anchor, motion)
        _redraw_series(run, run.target.series, anchor, position)
    save_json(metrics_dictionary(), outputs.metrics_json)


def _redraw_stacks(run: TargetRun, anchor: Anchor, grid: Grid, fov: np.ndarray) -> None:
    target, outputs = run.target, run.outputs
    own = [stack_outputs(stack, target, run.naming) for stack in target.stacks]
    sidecar = json.loads(outputs.sr_json.read_text(encoding="utf-8"))
    gains = sidecar.get("StackGains") or [1.0]
    stacks = [
        (load_volume(stack.source.path), read_itk_transform(of_stack.xfm), gain)
        for stack, of_stack, gain in zip(target.stacks, own, gains, strict=True)
    ]
    cubic = mean_interpolated(stacks, grid)
    sd = load_volume(outputs.srstd).data if outputs.srstd.exists() else None
    # Both may hold nothing.
    trusted, flagged = (
        nib.Nifti1Image.from_filename(path).get_fdata() if path.exists() else None
        for path in (outputs.trusted_mask, outputs.flags)
    )
    restored = load_volume(outputs.sr).data
    shown = TargetImages(resample(anchor.volume, grid), cubic, restored, sd, trusted, flagged, anchor.name)
    with atomic(outputs.figure) as path:
        mask, warnings = anchor.foreground_on(grid) & fov, sidecar.get("Warnings") or ()
        target_figure(path, shown, grid.world_from_voxel, run.label, mask, warnings)


def _redraw_series(run: TargetRun, kinds: SeriesPlan, anchor: Anchor, position: SeriesPosition) -> None:
    """The figure of each kind of volume; that of the reference, which is no file of its own, stays."""
    restored = load_series(run.outputs.sr)
    means = {kind: restored.mean(kinds.volumes_of(kind)).data for kind in dict.fromkeys(kinds.kinds)}
    sds = {}
    if run.outputs.srstd.exists():
        written = load_series(run.outputs.srstd)
        sds = {kind: written.volume(k) for k, kind in enumerate(kinds.each_kind)}
    write_series_figures(run, kinds, load_series(run.target.source.path), means, sds, anchor, position)
    if position.motion is not None:
        describe_confounds(run, position.motion)
