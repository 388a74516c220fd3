"""What the targets of a session share: the anchor, its Gaussians, the graph between them."""

import logging
import time
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
import torch

from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.app.sidecars import anchor_sidecars
from atlasgs_bids.bids.outputs.names import anchor_outputs
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.core.gaussians import Gaussians, world_points
from atlasgs_bids.core.memory import with_smaller_chunks
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.scaffold import default_n_gaussians, fit_scaffold
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.imaging.bias import bias_field
from atlasgs_bids.imaging.contrast import fit_contrast
from atlasgs_bids.imaging.grid import resample_mask
from atlasgs_bids.imaging.nifti import to_nifti
from atlasgs_bids.imaging.registration.register import Registration
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.scaffold_files import (
    _fingerprint,
    given_scaffold,
    load_scaffold,
    save_ply,
    save_scaffold,
)
from atlasgs_bids.runtime.files import atomic, save_json
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionScaffold:
    """The anchor and everything that was made from it."""

    anchor: Anchor
    gaussians: Gaussians
    anchor_psnr_db: float
    seconds: float
    """Time to fit the Gaussians; 0 where they were at hand."""
    prior: QuadraticPrior
    n_shared: int
    """How many Gaussians, the first ones, are the session's; the others are of one target."""


def session_scaffold(
    plan: SubjectPlan, anchor: Anchor, config: RestorationSettings, progress: Progress
) -> SessionScaffold:
    """Stage 1 and the graph; a scaffold that an earlier run made from the same anchor is used again."""
    outputs = anchor_outputs(config.out_dir, plan.participant, plan.session)
    fingerprint = _fingerprint(anchor, config)
    # A scaffold that comes from outside is written as the session's own, so it is never read back as one.
    stored = load_scaffold(outputs.scaffold_npz, fingerprint) if config.scaffold is None else None
    start = time.perf_counter()
    if stored is not None:
        gaussians, psnr_db, seconds = stored[0].to(config.device), stored[1], 0.0
    else:
        if config.scaffold is not None:
            gaussians, psnr_db = given_scaffold(config.scaffold, anchor, config)
            logger.info("%s: %d Gaussians from %s", plan.label, len(gaussians), config.scaffold)
            fingerprint = f"given: {config.scaffold.name}"
        else:
            gaussians, psnr_db = _fitted(plan, anchor, config, progress)
        seconds = time.perf_counter() - start
    if stored is None:
        # Another one's, which a later run would take for the origin of the PLY and the sidecar that come now.
        outputs.scaffold_npz.unlink(missing_ok=True)
    anchor_json, scaffold_json = anchor_sidecars(plan, config, anchor, len(gaussians), psnr_db)
    with atomic(outputs.anchor) as path:
        volume = anchor.volume
        nib.save(to_nifti(volume.data, volume.world_from_voxel, form_code=volume.form_code), path)
        save_json(anchor_json, outputs.anchor_json)
    save_json(scaffold_json, outputs.scaffold_json)
    if stored is None or not outputs.scaffold_ply.exists():
        with atomic(outputs.scaffold_ply) as path:
            save_ply(path, gaussians)
    if stored is None:
        with atomic(outputs.scaffold_npz) as path:
            save_scaffold(path, gaussians, fingerprint, psnr_db)
    with progress.stage(f"{plan.label}: graph") as advance:
        prior = with_smaller_chunks(
            lambda core: graph_prior(anchor, gaussians, replace(config, core=core)),
            config.core,
            config.device,
            len(gaussians),
        )
        advance(1)
    return SessionScaffold(anchor, gaussians, psnr_db, seconds, prior, len(gaussians))


def graph_prior(anchor: Anchor, gaussians: Gaussians, config: RestorationSettings) -> GraphLaplacian:
    """The graph over the Gaussians, weighted by likeness of the anchor without its bias field.

    Coil shading would make one tissue look like two; the geometry and the results never see this correction.
    """
    anchor = anchor.divided_by(bias_field(anchor.volume, anchor.foreground))
    voxel_from_world = torch.from_numpy(np.linalg.inv(anchor.volume.world_from_voxel)).float()
    means_vox = world_points(gaussians.means_mm.cpu(), voxel_from_world).numpy()
    amplitude, local_mean = anchor.sampled(means_vox)
    features = anchor_features(
        torch.from_numpy(amplitude), torch.from_numpy(local_mean), anchor.scale, config.core.graph
    )
    features = features.to(gaussians.means_mm.device)
    return GraphLaplacian(gaussians, features, config.core.graph, config.core.chunk_elements)


def spatial_prior(gaussians: Gaussians, config: RestorationSettings) -> GraphLaplacian:
    """The graph by distance alone: for an anchor that does not help."""
    alike = torch.zeros(len(gaussians), 1, device=gaussians.means_mm.device)
    return GraphLaplacian(gaussians, alike, config.core.graph, config.core.chunk_elements)


def _fitted(
    plan: SubjectPlan, anchor: Anchor, config: RestorationSettings, progress: Progress
) -> tuple[Gaussians, float]:
    core = config.core
    n_gaussians = default_n_gaussians(int(anchor.support.sum()), core)
    logger.info("%s: fitting %d Gaussians to the anchor", plan.label, n_gaussians)
    with progress.stage(f"{plan.label}: scaffold", core.scaffold.n_steps) as advance:
        image = torch.from_numpy(anchor.volume.data).to(config.device)
        support = torch.from_numpy(anchor.support).to(config.device)
        world_from_voxel = torch.from_numpy(anchor.volume.world_from_voxel)
        fitted = with_smaller_chunks(
            lambda settings: fit_scaffold(image, support, world_from_voxel, settings, advance),
            core,
            config.device,
            n_gaussians,
        )
    return fitted.gaussians, fitted.anchor_psnr_db


def explained_variance(
    scaffold: SessionScaffold, other: Volume, registration: Registration, config: RestorationSettings
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
