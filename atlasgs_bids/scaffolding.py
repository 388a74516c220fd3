"""What the targets of a session share: the anchor, its Gaussians, the graph between them."""

import hashlib
import logging
import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from atlasgs_bids import __version__
from atlasgs_bids.bids.derivatives import anchor_outputs
from atlasgs_bids.bids.files import atomic, save_image, save_json
from atlasgs_bids.config import RunConfig
from atlasgs_bids.core.gaussians import Gaussians, world_points
from atlasgs_bids.core.memory import with_smaller_chunks
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.scaffold import default_n_gaussians, fit_scaffold
from atlasgs_bids.imaging.anchor import Anchor, load_anchor
from atlasgs_bids.imaging.scaffold_files import load_scaffold, save_ply, save_scaffold
from atlasgs_bids.imaging.volume import to_nifti
from atlasgs_bids.outputs import anchor_sidecars
from atlasgs_bids.plan import SubjectPlan
from atlasgs_bids.progress import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionScaffold:
    """The anchor and everything that was made from it."""

    anchor: Anchor
    gaussians: Gaussians
    anchor_psnr_db: float
    seconds: float
    """Time to fit the Gaussians; 0 where they were at hand."""
    prior: GraphLaplacian


def session_scaffold(plan: SubjectPlan, config: RunConfig, progress: Progress) -> SessionScaffold:
    """Stage 1 and the graph; a scaffold that an earlier run made from the same anchor is used again."""
    anchor = load_anchor(plan.anchor.path, plan.brain_mask.path if plan.brain_mask else None)
    outputs = anchor_outputs(config.out_dir, plan.participant, plan.session)
    fingerprint = _fingerprint(anchor, config)
    stored = load_scaffold(outputs.scaffold_npz, fingerprint)
    start = time.perf_counter()
    if stored is None:
        gaussians, psnr_db = _fitted(plan, anchor, config, progress)
        seconds = time.perf_counter() - start
    else:
        gaussians, psnr_db, seconds = stored[0].to(config.device), stored[1], 0.0
    if stored is None or not outputs.scaffold_ply.exists():
        with atomic(outputs.scaffold_ply) as path:
            save_ply(path, gaussians)
    anchor_json, scaffold_json = anchor_sidecars(plan, config, anchor, len(gaussians), psnr_db)
    save_image(to_nifti(anchor.volume.data, anchor.volume.world_from_voxel), outputs.anchor)
    save_json(anchor_json, outputs.anchor_json)
    save_json(scaffold_json, outputs.scaffold_json)
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
    return SessionScaffold(anchor, gaussians, psnr_db, seconds, prior)


def graph_prior(anchor: Anchor, gaussians: Gaussians, config: RunConfig) -> GraphLaplacian:
    """The graph over the Gaussians, weighted by likeness of the anchor."""
    voxel_from_world = torch.from_numpy(np.linalg.inv(anchor.volume.world_from_voxel)).float()
    means_vox = world_points(gaussians.means_mm.cpu(), voxel_from_world).numpy()
    amplitude, local_mean = anchor.sampled(means_vox)
    features = anchor_features(
        torch.from_numpy(amplitude), torch.from_numpy(local_mean), anchor.scale, config.core.graph
    )
    features = features.to(gaussians.means_mm.device)
    return GraphLaplacian(gaussians, features, config.core.graph, config.core.chunk_elements)


def _fitted(
    plan: SubjectPlan, anchor: Anchor, config: RunConfig, progress: Progress
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


def _fingerprint(anchor: Anchor, config: RunConfig) -> str:
    """Changes with everything that the scaffold is made from."""
    digest = hashlib.sha256(repr((__version__, config.core.scaffold, config.core.seed)).encode())
    arrays: tuple[npt.NDArray, ...] = (anchor.volume.data, anchor.volume.world_from_voxel, anchor.support)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
