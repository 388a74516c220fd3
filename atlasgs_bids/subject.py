"""One session of a participant: load, scaffold, then for each target register, fit, render, write."""

import hashlib
import logging
import resource
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from atlasgs_bids import __version__
from atlasgs_bids.bids.derivatives import TargetOutputs, anchor_outputs, target_outputs
from atlasgs_bids.bids.files import atomic, save_image, save_json
from atlasgs_bids.config import RunConfig
from atlasgs_bids.core.appearance import Appearance, fit_appearance
from atlasgs_bids.core.gaussians import Gaussians, world_points
from atlasgs_bids.core.memory import with_smaller_chunks
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.scaffold import default_n_gaussians, fit_scaffold
from atlasgs_bids.core.settings import CoreSettings
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.errors import error_text
from atlasgs_bids.imaging.anchor import Anchor, load_anchor
from atlasgs_bids.imaging.grid import fov_mask, output_grid
from atlasgs_bids.imaging.registration import Registration, register
from atlasgs_bids.imaging.scaffold_files import load_scaffold, save_ply, save_scaffold
from atlasgs_bids.imaging.volume import Volume, load_volume, to_nifti
from atlasgs_bids.observation import Observation, observe
from atlasgs_bids.outputs import TargetResult, anchor_sidecars, write_target
from atlasgs_bids.plan import SubjectPlan, TargetPlan
from atlasgs_bids.progress import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    label: str
    message: str
    traceback: str


@dataclass(frozen=True)
class SubjectResult:
    """Labels of the targets by what became of them."""

    finished: tuple[str, ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]


@dataclass
class _Clock:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


@dataclass(frozen=True)
class _Scaffold:
    """What the targets of a session share."""

    anchor: Anchor
    gaussians: Gaussians
    anchor_psnr_db: float
    seconds: float
    prior: GraphLaplacian


def process_subject(plan: SubjectPlan, config: RunConfig, progress: Progress) -> SubjectResult:
    """Every target of one session; a target that fails stops no other. An unusable anchor raises."""
    pending, skipped = [], []
    for target in plan.targets:
        outputs = target_outputs(config.out_dir, target.source.entities, config.resolution)
        if outputs.finished and not config.overwrite:
            skipped.append(target.label)
        else:
            outputs.metrics_tsv.unlink(missing_ok=True)
            pending.append((target, outputs))
    if not pending:
        return SubjectResult((), tuple(skipped), ())
    scaffold = _scaffold(plan, config, progress)
    finished, failures = [], []
    for target, outputs in pending:
        try:
            with_smaller_chunks(
                partial(_process_target, plan, target, outputs, scaffold, config, progress),
                config.core,
                config.device,
                len(scaffold.gaussians),
            )
            finished.append(target.label)
        except Exception as error:  # noqa: BLE001 - whatever breaks one target breaks no other
            failures.append(Failure(target.label, error_text(error), traceback.format_exc()))
            if config.stop_on_first_crash:
                break
    return SubjectResult(tuple(finished), tuple(skipped), tuple(failures))


def _scaffold(plan: SubjectPlan, config: RunConfig, progress: Progress) -> _Scaffold:
    """Stage 1 and the graph; a scaffold that an earlier run made from the same anchor is used again."""
    anchor = load_anchor(plan.anchor.path, plan.brain_mask.path if plan.brain_mask else None)
    outputs = anchor_outputs(config.out_dir, plan.participant, plan.session)
    core = config.core
    fingerprint = _fingerprint(anchor, config)
    clock = _Clock()
    stored = load_scaffold(outputs.scaffold_npz, fingerprint)
    image = torch.from_numpy(anchor.volume.data).to(config.device)
    with clock.measure("scaffold"):
        if stored is None:
            n_gaussians = default_n_gaussians(int(anchor.support.sum()), core)
            logger.info("%s: fitting %d Gaussians to the anchor", plan.label, n_gaussians)
            with progress.stage(f"{plan.label}: scaffold", core.scaffold.n_steps) as advance:
                support = torch.from_numpy(anchor.support).to(config.device)
                world_from_voxel = torch.from_numpy(anchor.volume.world_from_voxel)
                fitted = with_smaller_chunks(
                    lambda settings: fit_scaffold(image, support, world_from_voxel, settings, advance),
                    core,
                    config.device,
                    n_gaussians,
                )
            gaussians, psnr_db = fitted.gaussians, fitted.anchor_psnr_db
        else:
            gaussians, psnr_db = stored[0].to(config.device), stored[1]
    seconds = clock.seconds["scaffold"] if stored is None else 0.0
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
            lambda settings: _graph_prior(anchor, gaussians, replace(config, core=settings)),
            core,
            config.device,
            len(gaussians),
        )
        advance(1)
    return _Scaffold(anchor, gaussians, psnr_db, seconds, prior)


def _graph_prior(anchor: Anchor, gaussians: Gaussians, config: RunConfig) -> GraphLaplacian:
    voxel_from_world = torch.from_numpy(np.linalg.inv(anchor.volume.world_from_voxel)).float()
    means_vox = world_points(gaussians.means_mm.cpu(), voxel_from_world).numpy()
    amplitude, local_mean = anchor.sampled(means_vox)
    features = anchor_features(
        torch.from_numpy(amplitude), torch.from_numpy(local_mean), anchor.scale, config.core.graph
    )
    return GraphLaplacian(gaussians, features.to(gaussians.means_mm.device), config.core.graph)


def _process_target(
    plan: SubjectPlan,
    target: TargetPlan,
    outputs: TargetOutputs,
    scaffold: _Scaffold,
    config: RunConfig,
    progress: Progress,
    core: CoreSettings,
) -> None:
    config = replace(config, core=core)
    label = f"{plan.label} {target.label}"
    anchor = scaffold.anchor
    clock = _Clock({"scaffold": scaffold.seconds})
    acquired = load_volume(target.source.path)
    with clock.measure("registration"), progress.stage(f"{label}: registration") as advance:
        registration = register(
            anchor.volume, anchor.foreground, acquired, config.registration, config.core.seed
        )
        advance(1)
    for text in registration.warnings:
        logger.warning("%s: %s", label, text)
    with clock.measure("appearance"):
        observation = observe(
            target, acquired, registration.target_from_anchor, anchor, scaffold.gaussians, config
        )
        settings = config.core.appearance
        n_solves = 1 + (len(settings.candidates) if settings.regularization is None else 0)
        with progress.stage(f"{label}: appearance", n_solves) as advance:
            appearance = fit_appearance(
                observation.slices_from_amplitudes,
                observation.slices,
                observation.weights,
                scaffold.prior,
                target.geometry.axis,
                settings,
                advance,
            )
    held_out = ", ".join(f"{value:g}: {rms:.4g}" for value, rms in appearance.held_out_rms.items())
    logger.debug("%s: λ %g; held-out RMS %s", label, appearance.regularization, held_out or "not needed")
    if not appearance.solution.converged:
        logger.warning(
            "%s: the solve stopped at a relative residual of %.1e after %d steps, expected %.0e; "
            "raise --max-iterations",
            label, appearance.solution.relative_residual, appearance.solution.n_steps,
            config.core.appearance.tolerance,
        )  # fmt: skip
    with progress.stage(f"{label}: rendering and writing") as advance:
        with clock.measure("render"):
            result = _result(acquired, registration, appearance, observation, scaffold, config)
        write_target(plan, target, outputs, result, config, clock.seconds, _memory(config))
        advance(1)


def _result(
    acquired: Volume,
    registration: Registration,
    appearance: Appearance,
    observation: Observation,
    scaffold: _Scaffold,
    config: RunConfig,
) -> TargetResult:
    anchor = scaffold.anchor
    grid = output_grid(anchor.volume.grid, config.resolution)
    rendered = render(
        scaffold.gaussians,
        appearance.amplitudes,
        grid.shape,
        torch.from_numpy(grid.world_from_voxel),
        config.core.chunk_elements,
    )
    fov = fov_mask(acquired.grid, grid, registration.target_from_anchor)
    sr = np.where(fov & anchor.support_on(grid), rendered.cpu().numpy(), np.float32(0))
    if acquired.data.min() >= 0:
        # Magnitude images have no negative intensities; the least squares fit overshoots at edges.
        sr = np.maximum(sr, np.float32(0))
    return TargetResult(
        acquired=acquired,
        registration=registration,
        appearance=appearance,
        simulated=observation.slices_from_amplitudes.forward(appearance.amplitudes).cpu().numpy(),
        weights=observation.weights.cpu().numpy(),
        grid=grid,
        sr=sr,
        fov=fov,
        anchor=anchor,
        n_gaussians=len(scaffold.gaussians),
        anchor_psnr_db=scaffold.anchor_psnr_db,
    )


def _fingerprint(anchor: Anchor, config: RunConfig) -> str:
    """Changes with everything that the scaffold is made from."""
    digest = hashlib.sha256(repr((__version__, config.core.scaffold, config.core.seed)).encode())
    arrays: tuple[npt.NDArray, ...] = (anchor.volume.data, anchor.volume.world_from_voxel, anchor.support)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _memory(config: RunConfig) -> dict[str, float | None]:
    """Peak memory of this process, MiB."""
    gpu = torch.cuda.max_memory_allocated(config.device) / 2**20 if config.device != "cpu" else None
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_memory": peak_kib / 1024, "peak_gpu_memory": gpu}
