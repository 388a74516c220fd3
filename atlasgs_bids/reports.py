"""``--reports-only``: figures and dictionaries of tables again, from what an earlier run wrote."""

import traceback

import nibabel as nib

from atlasgs_bids.bids.derivatives import TargetOutputs, target_outputs
from atlasgs_bids.bids.files import save_json
from atlasgs_bids.config import RunConfig
from atlasgs_bids.errors import InputError, error_text
from atlasgs_bids.imaging.anchor import Anchor, load_anchor
from atlasgs_bids.imaging.grid import resample
from atlasgs_bids.imaging.registration import read_itk_transform
from atlasgs_bids.imaging.volume import load_volume
from atlasgs_bids.outputs import write_figure
from atlasgs_bids.plan import SubjectPlan, TargetPlan
from atlasgs_bids.progress import Progress
from atlasgs_bids.report.dictionary import metrics_dictionary
from atlasgs_bids.subject import Failure, SubjectResult


def redraw_subject(plan: SubjectPlan, config: RunConfig, progress: Progress) -> SubjectResult:
    """Draw every finished target of a session again; one without results is a failure of its own."""
    anchor = load_anchor(plan.anchor.path, plan.brain_mask.path if plan.brain_mask else None)
    finished, failures = [], []
    for target in plan.targets:
        try:
            outputs = target_outputs(config.out_dir, target.source.entities, config.resolution)
            with progress.stage(f"{plan.label} {target.label}: figure") as advance:
                _redraw(plan, target, outputs, anchor)
                advance(1)
            finished.append(target.label)
        except Exception as error:  # noqa: BLE001 - whatever breaks one target breaks no other
            failures.append(Failure(target.label, error_text(error), traceback.format_exc()))
            if config.stop_on_first_crash:
                break
    return SubjectResult(tuple(finished), (), tuple(failures))


def _redraw(plan: SubjectPlan, target: TargetPlan, outputs: TargetOutputs, anchor: Anchor) -> None:
    if not outputs.finished:
        raise InputError(
            f"found no {outputs.metrics_tsv.name}, which a finished target has; "
            "run without --reports-only first"
        )
    result = load_volume(outputs.sr)
    acquired = load_volume(target.source.path)
    cubic = resample(acquired, result.grid, read_itk_transform(outputs.xfm))
    fov = nib.Nifti1Image.from_filename(outputs.fov_mask).get_fdata() > 0
    images = (resample(anchor.volume, result.grid), cubic, result.data)
    write_figure(plan, target, outputs, images, result.grid, anchor.foreground_on(result.grid) & fov)
    save_json(metrics_dictionary(), outputs.metrics_json)
