"""Does the scaffold of one session still explain the T1w of another?"""

import logging

import numpy as np
import torch

from atlasgs_bids.bids.derivatives import json_path, longitudinal_metrics
from atlasgs_bids.bids.files import save_json, save_tsv
from atlasgs_bids.config import RunConfig
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.contrast import fit_contrast
from atlasgs_bids.imaging.grid import resample_mask
from atlasgs_bids.imaging.registration import Registration, register
from atlasgs_bids.imaging.volume import Volume, load_volume
from atlasgs_bids.plan import SubjectPlan
from atlasgs_bids.report.dictionary import longitudinal_dictionary
from atlasgs_bids.scaffolding import SessionScaffold

logger = logging.getLogger(__name__)


def check_other_session(plan: SubjectPlan, scaffold: SessionScaffold, config: RunConfig) -> None:
    """Write and log how much of another session's T1w the scaffold explains; nothing where there is none."""
    if plan.other_anchor is None:
        return
    anchor = scaffold.anchor
    try:
        other = load_volume(plan.other_anchor.path)
        registration = register(
            anchor.volume, anchor.foreground, other, config.registration, config.core.seed
        )
    except InputError as error:
        logger.warning("%s: not compared with another session: %s", plan.label, error)
        return
    explained = explained_variance(scaffold, other, registration, config)
    logger.info(
        "%s: the scaffold explains %.1f %% of the variance of %s",
        plan.label, 100 * explained, plan.other_anchor.path.name,
    )  # fmt: skip
    path = longitudinal_metrics(config.out_dir, plan.participant, plan.session)
    row = {
        "other_image": plan.other_anchor.path.name,
        "explained_variance": explained,
        "registration_rotation": registration.rotation_deg,
        "registration_displacement": registration.displacement_mm,
    }
    save_json(longitudinal_dictionary(), json_path(path))
    save_tsv([row], path)


def explained_variance(
    scaffold: SessionScaffold, other: Volume, registration: Registration, config: RunConfig
) -> float:
    """Part of the other T1w's variance in the foreground that the rendered scaffold explains, 0 to 1.

    After the rigid registration and a piecewise linear map of intensities, which scanners change at will:
    what is left is noise, and anatomy that is no longer the same.
    """
    anchor = scaffold.anchor
    rendered = render(
        scaffold.gaussians, scaffold.gaussians.amplitudes, anchor.volume.grid.shape,
        torch.from_numpy(anchor.volume.world_from_voxel), config.core.chunk_elements,
    )  # fmt: skip
    image = Volume(rendered.cpu().numpy(), anchor.volume.world_from_voxel)
    anchor_from_other = np.asarray(np.linalg.inv(registration.target_from_anchor), np.float64)
    foreground = Volume(anchor.foreground.astype(np.float32), anchor.volume.world_from_voxel)
    inside = resample_mask(foreground, other.grid, anchor_from_other)
    return fit_contrast(
        image, anchor.foreground, other, inside, anchor_from_other, config.core.seed
    ).explained
