"""What the targets of a session share: the anchor, its Gaussians, the graph between them."""

import logging
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.memory import with_smaller_chunks
from atlasgs_bids.core.priors.graph import GraphLaplacian
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.scaffold import default_n_gaussians, fit_scaffold
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.imaging.contrast import fit_contrast
from atlasgs_bids.imaging.grid import resample_mask
from atlasgs_bids.imaging.registration.register import Registration
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.guides import Guides, graph_of
from atlasgs_bids.restoration.scaffold_files import load_scaffold, save_scaffold, scaffold_fingerprint
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.files import atomic
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
    own_cell_mm: npt.NDArray[np.float64] | None = None
    """(3, 3), edges of a cell of a target's own lattice in columns; None: the anchor's voxel."""

    @property
    def cell_mm(self) -> npt.NDArray[np.float64]:
        """(3, 3): what a Gaussian stands for, edges in columns."""
        return self.anchor.volume.world_from_voxel[:3, :3] if self.own_cell_mm is None else self.own_cell_mm

    @cached_property
    def guides(self) -> Guides:
        """The anchor at coarser scales, for what is found before a target is fitted."""
        return Guides(self.anchor)


def anchor_gaussians(
    anchor: Anchor, settings: RestorationSettings, progress: Progress
) -> tuple[Gaussians, float]:
    """Stage 1: Gaussians fitted to the anchor, and how well they render it, dB."""
    core = settings.core
    n_gaussians = default_n_gaussians(int(anchor.support.sum()), core)
    logger.info("%s", progress.led(f"placing up to {n_gaussians} Gaussians on the anchor"))
    with progress.stage("scaffold", core.scaffold.n_steps + 1) as advance:
        image = torch.from_numpy(anchor.volume.data).to(settings.device)
        support = torch.from_numpy(anchor.support).to(settings.device)
        world_from_voxel = torch.from_numpy(anchor.volume.world_from_voxel)
        fitted = with_smaller_chunks(
            lambda chunked: fit_scaffold(image, support, world_from_voxel, chunked, advance),
            core,
            settings.device,
            n_gaussians,
        )
    return fitted.gaussians, fitted.anchor_psnr_db


def with_graph(
    anchor: Anchor,
    gaussians: Gaussians,
    anchor_psnr_db: float,
    seconds: float,
    settings: RestorationSettings,
    progress: Progress,
) -> SessionScaffold:
    """The scaffold of these Gaussians: with the graph between them."""
    with progress.stage("graph") as advance:
        prior = with_smaller_chunks(
            lambda core: graph_prior(anchor, gaussians, replace(settings, core=core)),
            settings.core,
            settings.device,
            len(gaussians),
        )
        advance(1)
    return SessionScaffold(anchor, gaussians, anchor_psnr_db, seconds, prior, len(gaussians))


def scaffold_of(anchor: Anchor, settings: RestorationSettings, progress: Progress) -> SessionScaffold:
    """Stage 1 and the graph of an anchor."""
    start = time.perf_counter()
    gaussians, psnr_db = anchor_gaussians(anchor, settings, progress)
    return with_graph(anchor, gaussians, psnr_db, time.perf_counter() - start, settings, progress)


def kept_scaffold(
    path: Path, anchor: Anchor, settings: RestorationSettings, progress: Progress
) -> SessionScaffold:
    """The scaffold in a file if it is that of this anchor and settings, else one that is then kept there."""
    fingerprint = scaffold_fingerprint(anchor, settings)
    stored = load_scaffold(path, fingerprint)
    start = time.perf_counter()
    gaussians, psnr_db = stored or anchor_gaussians(anchor, settings, progress)
    seconds = 0.0 if stored else time.perf_counter() - start
    if stored is None:
        with atomic(path) as temporary:
            save_scaffold(temporary, gaussians, fingerprint, psnr_db)
    return with_graph(anchor, gaussians.to(settings.device), psnr_db, seconds, settings, progress)


def graph_prior(anchor: Anchor, gaussians: Gaussians, config: RestorationSettings) -> GraphLaplacian:
    """The graph along the edges of the anchor without its bias field, weighted by likeness in it.

    Coil shading would make one tissue look like two; the geometry and the results never see this correction.
    """
    return graph_of(anchor.corrected, gaussians, config)


def spatial_prior(gaussians: Gaussians, config: RestorationSettings) -> GraphLaplacian:
    """The graph by distance alone: for an anchor that does not help."""
    alike = torch.zeros(len(gaussians), 1, device=gaussians.means_mm.device)
    return GraphLaplacian(gaussians, alike, config.core.graph, config.core.chunk_elements)


def explained_variance(
    scaffold: SessionScaffold, other: Volume, registration: Registration, config: RestorationSettings
) -> float:
    """Part of the other image's variance in the foreground that the rendered scaffold explains, 0 to 1.

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
