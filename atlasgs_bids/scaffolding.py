"""What the targets of a session share: the anchor, its Gaussians, the graph between them."""

import hashlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atlasgs_bids import __version__
from atlasgs_bids.bids.derivatives import anchor_outputs
from atlasgs_bids.bids.files import atomic, save_json
from atlasgs_bids.config import RunConfig
from atlasgs_bids.core.gaussians import Gaussians, world_points
from atlasgs_bids.core.memory import with_smaller_chunks
from atlasgs_bids.core.priors.graph import GraphLaplacian, QuadraticPrior, anchor_features
from atlasgs_bids.core.scaffold import default_n_gaussians, fit_scaffold
from atlasgs_bids.core.solvers import conjugate_gradient
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.errors import InputError
from atlasgs_bids.imaging.anchor import Anchor, load_anchor
from atlasgs_bids.imaging.bias import bias_field
from atlasgs_bids.imaging.scaffold_files import load_scaffold, read_scaffold, save_ply, save_scaffold
from atlasgs_bids.imaging.volume import to_nifti
from atlasgs_bids.outputs import anchor_sidecars
from atlasgs_bids.plan import SubjectPlan
from atlasgs_bids.progress import Progress

logger = logging.getLogger(__name__)

_LEAST_INSIDE = 0.5


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


def session_anchor(plan: SubjectPlan) -> Anchor:
    """The T1w of a session, and its brain mask where there is one."""
    return load_anchor(plan.anchor.path, plan.brain_mask.path if plan.brain_mask else None)


def session_scaffold(
    plan: SubjectPlan, anchor: Anchor, config: RunConfig, progress: Progress
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


def graph_prior(anchor: Anchor, gaussians: Gaussians, config: RunConfig) -> GraphLaplacian:
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


def spatial_prior(gaussians: Gaussians, config: RunConfig) -> GraphLaplacian:
    """The graph by distance alone: for an anchor that does not help."""
    alike = torch.zeros(len(gaussians), 1, device=gaussians.means_mm.device)
    return GraphLaplacian(gaussians, alike, config.core.graph, config.core.chunk_elements)


def given_scaffold(path: Path, anchor: Anchor, config: RunConfig) -> tuple[Gaussians, float]:
    """Gaussians of a file and how well they render the anchor, dB; InputError where they lie elsewhere."""
    gaussians, has_amplitudes = read_scaffold(path)
    gaussians = gaussians.to(config.device)
    support = torch.from_numpy(anchor.support).to(config.device)
    world_from_voxel = torch.from_numpy(anchor.volume.world_from_voxel)
    means_vox = (
        world_points(gaussians.means_mm.cpu(), torch.linalg.inv(world_from_voxel).float()).round().long()
    )
    limits = torch.tensor(anchor.support.shape)
    inside = ((means_vox >= 0) & (means_vox < limits)).all(1)
    inside[inside.clone()] = support.cpu()[tuple(means_vox[inside].T)]
    share = float(inside.float().mean())
    if share < _LEAST_INSIDE:
        raise InputError(
            f"{path.name}: {share:.0%} of the Gaussians lie in the anchor's foreground, expected at least "
            f"{_LEAST_INSIDE:.0%}; is it the scaffold of this T1w?"
        )
    shape = (anchor.support.shape[0], anchor.support.shape[1], anchor.support.shape[2])
    splat_op = SplatOperator(gaussians, shape, world_from_voxel, support, config.core.chunk_elements)
    image = torch.from_numpy(anchor.volume.data).to(config.device)
    if not has_amplitudes:
        gaussians = replace(gaussians, amplitudes=_anchor_amplitudes(splat_op, image))
    error = (splat_op.forward(gaussians.amplitudes) - image)[support]
    mean_square = max(float((error**2).mean()), 1e-20)
    return gaussians, float(20 * np.log10(float(image[support].abs().max())) - 10 * np.log10(mean_square))


def _anchor_amplitudes(splat_op: SplatOperator, image: Tensor) -> Tensor:
    """Amplitudes with which fixed Gaussians render the anchor best."""
    ridge = 1e-4

    def normal(amplitudes: Tensor) -> Tensor:
        return splat_op.adjoint(splat_op.forward(amplitudes)) + ridge * amplitudes

    row_sums = splat_op.adjoint(splat_op.forward(image.new_ones(splat_op.shape_in)))
    return conjugate_gradient(
        normal, splat_op.adjoint(image), inverse_diagonal=1 / (row_sums + ridge), max_iterations=100
    ).value


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
