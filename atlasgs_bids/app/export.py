"""``--export raw``: the anchor and the finished images of a session, once more under names of raw images.

Loads no torch: a run over a thousand finished participants asks whether each is exported.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.contents_files import load_rows
from atlasgs_bids.app.provenance import content_digest, source_uri
from atlasgs_bids.app.target import TargetRun
from atlasgs_bids.bids.outputs.dataset import PIPELINE
from atlasgs_bids.bids.outputs.locks import session_lock
from atlasgs_bids.bids.outputs.names import bids_uri, image_sidecar, json_path
from atlasgs_bids.bids.outputs.raw import (
    raw_anchor_path,
    raw_dir,
    raw_target_path,
    write_raw_dataset_files,
)
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.imaging.nifti import load_mask, to_nifti, write_image
from atlasgs_bids.imaging.volume import voxel_sizes_mm
from atlasgs_bids.runtime.files import atomic, load_json, plain_json, save_json
from atlasgs_bids.version import __version__

logger = logging.getLogger(__name__)

RECON_ALL_BELOW_MM = 1.2
"""Largest voxel side that sMRIPrep takes for the refinement of a surface (niworkflows, ``detect_inputs``)."""
_FULL_COVERAGE = 0.98
_OF_THE_FIT = ("SliceThicknessUsed", "SpacingBetweenSlicesUsed", "Prior", "Warnings")


def write_export(plan: SubjectPlan, config: RunConfig) -> None:
    """Bring the export of a session up to its results: what is there and current stays as it is.

    Whoever calls it holds the session's lock.
    """
    root = raw_dir(config.out_dir)
    runs = _exported_runs(plan, config)
    for run in _image_runs(plan, config):
        if run not in runs:  # its results went before they were to be made again
            _remove(raw_target_path(root, run.target.entities))
    if is_exported(plan, config):
        return
    targets = [raw_target_path(root, run.target.entities) for run in runs]
    write_raw_dataset_files(
        config.out_dir, config.bids_dir, __version__, config.derivatives, plan.participant, targets
    )
    with session_lock(root, plan.participant, plan.anchor.entities.get("session")):
        _export_anchor(plan, config)
    with session_lock(root, plan.participant, plan.session):
        for run, path in zip(runs, targets, strict=True):
            _export_target(run, path)


def is_exported(plan: SubjectPlan, config: RunConfig) -> bool:
    """Whether the export of a session's finished images is there and current, or none is asked for.

    Never raises: what is wrong is told where it is written.
    """
    if config.export == "none":
        return True
    runs = _exported_runs(plan, config)
    if not runs:
        return True
    root = raw_dir(config.out_dir)
    try:
        return _anchor_is_current(plan, config) and all(
            _is_current(raw_target_path(root, run.target.entities), _target_sidecar(run)) for run in runs
        )
    except Exception:
        logger.debug("%s: export", plan.label, exc_info=True)
        return False


def _image_runs(plan: SubjectPlan, config: RunConfig) -> list[TargetRun]:
    """The targets that are one volume and mean something by themselves, as a ``m0scan`` does not."""
    return [
        TargetRun(plan, target, config)
        for target in plan.targets
        if target.series is None and target.entities["datatype"] == "anat"
    ]


def _exported_runs(plan: SubjectPlan, config: RunConfig) -> list[TargetRun]:
    return [run for run in _image_runs(plan, config) if run.outputs.finished]


def _export_anchor(plan: SubjectPlan, config: RunConfig) -> None:
    """A copy, since neither kind of link will do.

    A symbolic link leads out of what a container mounts, and a tool that writes into its inputs would write
    into the source dataset through a hard one.
    """
    if _anchor_is_current(plan, config):
        return
    path = raw_anchor_path(raw_dir(config.out_dir), plan.anchor.path)
    _remove(path)
    with atomic(path) as temporary:
        shutil.copyfile(plan.anchor.path, temporary)
        save_json(_anchor_sidecar(plan, config), json_path(path))


def _anchor_is_current(plan: SubjectPlan, config: RunConfig) -> bool:
    path = raw_anchor_path(raw_dir(config.out_dir), plan.anchor.path)
    return (
        _is_current(path, _anchor_sidecar(plan, config))
        and path.stat().st_size == plan.anchor.path.stat().st_size
        and content_digest(path) == content_digest(plan.anchor.path)
    )


def _anchor_sidecar(plan: SubjectPlan, config: RunConfig) -> dict[str, Any]:
    return {**plan.anchor.sidecar, "Sources": [source_uri(plan.anchor.path, config)]}


def _export_target(run: TargetRun, path: Path) -> None:
    """The result without its negative values, which no scanner writes."""
    sidecar = _target_sidecar(run)
    if _is_current(path, sidecar):
        return
    result = load_mask(run.outputs.sr)
    data = np.maximum(result.data, np.float32(0))
    _remove(path)
    with atomic(path) as temporary:
        write_image(to_nifti(data, result.world_from_voxel, form_code=result.form_code), temporary)
        save_json(sidecar, json_path(path))
    for doubt in _doubts(run, float(voxel_sizes_mm(result.world_from_voxel).max())):
        logger.warning("%s: exported, but %s", run.label, doubt)


def _target_sidecar(run: TargetRun) -> dict[str, Any]:
    """What still holds of the acquisition, what was made of it, and of which file.

    Whoever takes the image for a raw one finds ``ProcessedBy`` here. There is no ``SliceThickness``: it would
    describe voxels that are gone.
    """
    stored, outputs = load_json(run.outputs.sr_json), run.outputs
    version = stored.get("Settings", {}).get("version")
    result = bids_uri(outputs.sr, run.config.out_dir, PIPELINE.lower())
    return image_sidecar(
        stored,
        description=f"Restored from thick slices, guided by the {run.plan.space}; no acquired image, though "
        "named like one",
        sources=[result, *stored.get("Sources", [])],
        skull_stripped=stored.get("SkullStripped"),
        **{name: stored.get(name) for name in _OF_THE_FIT},
        ProcessedBy=[{"Name": PIPELINE, **({"Version": version} if version else {})}],
        SourceContentDigest=content_digest(outputs.sr),
    )


def _doubts(run: TargetRun, voxel_mm: float) -> list[str]:
    """What tools that expect a raw image of a whole head may stumble over."""
    found = []
    if voxel_mm >= RECON_ALL_BELOW_MM:
        found.append(
            f"its voxels of {voxel_mm:.3g} mm are too large for sMRIPrep, which takes those below "
            f"{RECON_ALL_BELOW_MM:g} mm for surfaces; --resolution 1 makes smaller ones"
        )
    if load_json(run.outputs.sr_json).get("SkullStripped"):
        found.append(
            "it shows a brain alone, as its anchor does or a brain mask says, and many tools expect a head"
        )
    (metrics,) = load_rows(run.outputs.metrics_tsv)
    coverage = float(metrics["fov_coverage"])
    if coverage < _FULL_COVERAGE:
        found.append(f"its slices cover {100 * coverage:.0f} % of the head; it is 0 elsewhere")
    return found


def _is_current(path: Path, sidecar: Mapping[str, Any]) -> bool:
    return path.exists() and load_json(json_path(path)) == plain_json(sidecar)


def _remove(path: Path) -> None:
    """An image goes before its sidecar: no moment shows the one with another one's."""
    path.unlink(missing_ok=True)
    json_path(path).unlink(missing_ok=True)
