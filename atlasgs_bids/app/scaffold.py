"""A session's anchor and scaffold, read from its files where they are, and written there."""

import logging
import time

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.app.sidecars import anchor_sidecars
from atlasgs_bids.bids.outputs.names import anchor_outputs
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.imaging.nifti import to_nifti, write_image
from atlasgs_bids.restoration.anchor import Anchor, load_anchor
from atlasgs_bids.restoration.scaffold import SessionScaffold, anchor_gaussians, with_graph
from atlasgs_bids.restoration.scaffold_files import (
    given_scaffold,
    load_scaffold,
    save_ply,
    save_scaffold,
    scaffold_fingerprint,
)
from atlasgs_bids.runtime.files import atomic, save_json
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)


def session_anchor(plan: SubjectPlan) -> Anchor:
    """The anchor of a session, with its brain mask where there is one; a UNIT1 without its noisy air."""
    brain_mask = plan.brain_mask.path if plan.brain_mask else None
    magnitude = plan.magnitude.path if plan.magnitude else None
    return load_anchor(plan.anchor.path, brain_mask, plan.space, magnitude)


def session_scaffold(
    plan: SubjectPlan, anchor: Anchor, config: RunConfig, progress: Progress
) -> SessionScaffold:
    """Stage 1 and the graph; a scaffold that an earlier run made from the same anchor is used again."""
    settings = config.restoration
    outputs = anchor_outputs(config.out_dir, plan.participant, plan.session, plan.space)
    fingerprint = scaffold_fingerprint(anchor, settings)
    # A scaffold that comes from outside is written as the session's own, so it is never read back as one.
    stored = load_scaffold(outputs.scaffold_npz, fingerprint) if config.scaffold is None else None
    start = time.perf_counter()
    if stored is not None:
        gaussians, psnr_db, seconds = stored[0].to(settings.device), stored[1], 0.0
    else:
        if config.scaffold is not None:
            gaussians, psnr_db = given_scaffold(config.scaffold, anchor, settings)
            logger.info("%s", progress.led(f"{len(gaussians)} Gaussians from {config.scaffold}"))
            fingerprint = f"given: {config.scaffold.name}"
        else:
            gaussians, psnr_db = anchor_gaussians(anchor, settings, progress)
        seconds = time.perf_counter() - start
    if stored is None:
        # Another one's, which a later run would take for the origin of the PLY and the sidecar that come now.
        outputs.scaffold_npz.unlink(missing_ok=True)
    anchor_json, scaffold_json = anchor_sidecars(plan, config, anchor, len(gaussians), psnr_db)
    with atomic(outputs.anchor) as path:
        volume = anchor.volume
        write_image(to_nifti(volume.data, volume.world_from_voxel, form_code=volume.form_code), path)
        save_json(anchor_json, outputs.anchor_json)
    save_json(scaffold_json, outputs.scaffold_json)
    if stored is None or not outputs.scaffold_ply.exists():
        with atomic(outputs.scaffold_ply) as path:
            save_ply(path, gaussians)
    if stored is None:
        with atomic(outputs.scaffold_npz) as path:
            save_scaffold(path, gaussians, fingerprint, psnr_db)
    return with_graph(anchor, gaussians, psnr_db, seconds, settings, progress)
