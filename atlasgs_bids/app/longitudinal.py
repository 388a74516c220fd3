"""Does the scaffold of one session still explain the anchor of another?"""

import logging

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.bids.outputs.names import json_path, longitudinal_metrics
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.nifti import load_volume
from atlasgs_bids.report.columns import longitudinal_dictionary
from atlasgs_bids.restoration.calibration import aligned
from atlasgs_bids.restoration.scaffold import SessionScaffold, explained_variance
from atlasgs_bids.runtime.files import save_json, save_tsv

logger = logging.getLogger(__name__)


def check_other_session(plan: SubjectPlan, scaffold: SessionScaffold, config: RunConfig) -> None:
    """Write and log how much of another session's anchor the scaffold explains, where there is one."""
    if plan.other_anchor is None:
        return
    settings = config.restoration
    try:
        other = load_volume(plan.other_anchor.path)
        registration = aligned(other, plan.other_anchor.path.name, scaffold, settings).registration
    except InputError as error:
        logger.warning("%s: not compared with another session: %s", plan.label, error)
        return
    explained = explained_variance(scaffold, other, registration, settings)
    logger.info(
        "%s: the scaffold explains %.1f %% of the variance of %s",
        plan.label, 100 * explained, plan.other_anchor.path.name,
    )  # fmt: skip
    path = longitudinal_metrics(config.out_dir, plan.participant, plan.session, plan.space)
    row = {
        "other_image": plan.other_anchor.path.name,
        "explained_variance": explained,
        "registration_rotation": registration.rotation_deg,
        "registration_displacement": registration.displacement_mm,
    }
    save_json(longitudinal_dictionary(), json_path(path))
    save_tsv([row], path)
