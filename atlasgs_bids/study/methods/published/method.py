"""The published method (Gao 2026, arXiv 2606.02961) on gsplat's CUDA rasteriser, or a CPU's threads.

3-D Gaussians are fitted to the T1w, seen in planes as conditional 2-D Gaussians that are composited from
front to back. A target keeps their geometry; opacities and a latent of 4 channels, which a small decoder
turns into an intensity, are fitted to its thick slices, each the mean of its planes. What the publication
leaves open is said in settings.py and in docs/study.md.
"""

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atlasgs_bids.errors import error_text
from atlasgs_bids.restoration.observation import observe_placed
from atlasgs_bids.study.methods.protocol import Image, Restored, bright, kept
from atlasgs_bids.study.methods.published import persistence
from atlasgs_bids.study.methods.published.anchor import AnchorGaussians, anchor_gaussians
from atlasgs_bids.study.methods.published.conditional import (
    PlaneGaussians,
    Rasterizer,
    composite_gsplat,
    cut_by_planes,
    meeting_pairs,
    rasterizer_for,
)
from atlasgs_bids.study.methods.published.planes import dissimilarity, in_planes, neighbours
from atlasgs_bids.study.settings import PaperSettings, StudyConfig
from atlasgs_bids.study.simulation.case import Case

_RENDER_PLANES = 8
_DECODER_RATE = 0.5
"""Over the learning rate of latents and opacities."""
_PERSISTENCE_EVERY = 10
"""Steps from one persistence term to the next, which then counts for all of them: it takes the CPU 25 ms."""


@dataclass(frozen=True)
class Paper:
    """The method, and its variants."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    """To the study's PaperSettings."""

    def missing(self, study: StudyConfig, device: str) -> str | None:
        if study.in_plane_mm is not None:
            return "its planes are drawn on the T1w's pixels, and --in-plane asks for others"
        settings = replace(study.paper, **self.changes)
        if settings.persistence > 0 and (reason := persistence.missing()) is not None:
            return reason
        return None if device == "cpu" else _kernel_problem(device)

    def restore(self, case: Case) -> Restored:
        settings = replace(case.study.paper, **self.changes)
        rasterize = rasterizer_for(case.run.device)
        shared = anchor_gaussians(case, settings, rasterize)
        return Restored(kept(_restored(case, settings, shared, rasterize), case), shared.seconds)


def _restored(case: Case, settings: PaperSettings, shared: AnchorGaussians, rasterize: Rasterizer) -> Image:
    device, axis = case.run.device, case.slice_axis
    run = case.run if settings.profile else replace(case.run, slice_profile="box")
    observation = observe_placed(case.placed, case.scaffold.anchor, case.scaffold.gaussians, run)
    slab_weights = observation.acquisition.axis_matrix(axis).cpu().numpy()
    slices = torch.movedim(observation.slices, axis, 0)
    seen = torch.movedim((observation.weights > 0).float(), axis, 0)
    scale = bright(observation)
    slices = slices * seen / scale
    means, covariances = in_planes(shared, observation.world_from_lattice.numpy(), axis, device)
    stack = PlaneStack.of(means, covariances, slab_weights.shape[1])

    torch.manual_seed(case.study.seed)
    fields = Fields(shared, settings).to(device)
    optimizer = torch.optim.Adam(fields.groups(settings.learning_rate), eps=1e-15, fused=device != "cpu")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.n_target_steps)
    near = neighbours(shared.means_mm, settings.n_neighbours).to(device)
    rng = np.random.default_rng(case.study.seed)
    shape = (slices.shape[1], slices.shape[2])
    n_slices = min(settings.n_target_slices, len(slices))
    with case.progress.stage(f"{case.label}: opacities and latents", settings.n_target_steps) as advance:
        for step in range(settings.n_target_steps):
            chosen = rng.choice(len(slices), n_slices, replace=False)
            owners, planes = np.nonzero(slab_weights[chosen])
            weights = torch.from_numpy(slab_weights[chosen][owners, planes]).float().to(device)
            drawn = fields.draw(stack.chosen(planes), len(planes), shape, rasterize)
            slabs = torch.zeros((n_slices, *shape), device=device)
            slabs = slabs.index_add(0, torch.from_numpy(owners).to(device), drawn * weights[:, None, None])
            mask, truth = seen[chosen], slices[chosen]
            loss = ((slabs * mask - truth).abs().sum() / mask.sum().clamp_min(1)) + (
                settings.dissimilarity * dissimilarity(slabs * mask, truth)
            )
            loss = loss + settings.smoothness * fields.roughness(near)
            if settings.persistence > 0 and step % _PERSISTENCE_EVERY == 0:
                faint = persistence.faint_persistence(slabs * mask, settings.persistence_below)
                loss = loss + _PERSISTENCE_EVERY * settings.persistence * faint
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(1)
    return _rendered(case, shared, fields, rasterize) * np.float32(scale)


def _rendered(case: Case, shared: AnchorGaussians, fields: "Fields", rasterize: Rasterizer) -> Image:
    grid, axis, device = case.grid, shared.axis, case.run.device
    means, covariances = in_planes(shared, grid.world_from_voxel, axis, device)
    stack = PlaneStack.of(means, covariances, grid.shape[axis])
    in_plane = [n for i, n in enumerate(grid.shape) if i != axis]
    with torch.no_grad():
        parts = []
        for first in range(0, grid.shape[axis], _RENDER_PLANES):
            planes = np.arange(first, min(first + _RENDER_PLANES, grid.shape[axis]))
            cut = stack.chosen(planes)
            drawn = fields.draw(cut, len(planes), (in_plane[0], in_plane[1]), rasterize)
            parts.append(drawn.cpu())
    image: Image = np.moveaxis(torch.cat(parts).numpy(), 0, axis)
    return image


class Fields(nn.Module):
    """What a target has of its own: opacity and latent of each Gaussian, and the decoder of the latents."""

    def __init__(self, shared: AnchorGaussians, settings: PaperSettings) -> None:
        super().__init__()
        latents = 0.1 * torch.randn(len(shared.means_mm), settings.latent)
        latents[:, 0] = shared.colors
        self.latents = nn.Parameter(latents)
        self.logits = nn.Parameter(torch.logit(shared.opacities, eps=1e-4))
        self.decoder: nn.Module = nn.Identity()
        if settings.latent > 1:
            self.decoder = nn.Sequential(
                nn.Linear(settings.latent, settings.decoder_width),
                nn.ReLU(),
                nn.Linear(settings.decoder_width, 1),
            )

    def groups(self, learning_rate: float) -> list[dict[str, object]]:
        """Adam's."""
        return [
            {"params": [self.latents, self.logits], "lr": learning_rate},
            {"params": list(self.decoder.parameters()), "lr": _DECODER_RATE * learning_rate},
        ]

    def roughness(self, near: Tensor) -> Tensor:
        """Mean squared difference of the latents from those of the neighbours, (n, k) indices."""
        others = self.latents.index_select(0, near.flatten()).unflatten(0, near.shape)
        return (self.latents[:, None] - others).square().mean()

    def draw(
        self, cut: PlaneGaussians, n_planes: int, shape: tuple[int, int], rasterize: Rasterizer
    ) -> Tensor:
        """(planes, u, v) intensities."""
        opacities = torch.sigmoid(self.logits).index_select(0, cut.owners) * cut.marginals
        latents = self.latents.index_select(0, cut.owners)
        features = rasterize(cut, latents, opacities, n_planes, shape)
        drawn: Tensor = self.decoder(features)[..., 0]
        return drawn


@dataclass(frozen=True)
class PlaneStack:
    """The Gaussians of all planes of a grid, cut once: the geometry is frozen."""

    cut: PlaneGaussians
    starts: np.ndarray
    """(planes + 1,) where the pairs of each plane begin."""

    @classmethod
    def of(cls, means: Tensor, covariances: Tensor, n_planes: int) -> "PlaneStack":
        with torch.no_grad():
            parts, counts = [], []
            for planes in torch.arange(n_planes, device=means.device).split(_RENDER_PLANES):
                positions = planes.to(means.dtype)
                pairs = meeting_pairs(means, covariances, positions)
                cut = cut_by_planes(means, covariances, positions, pairs)
                counts.append(torch.bincount(cut.planes, minlength=len(planes)).cpu().numpy())
                parts.append(cut)
            joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])}
        return cls(PlaneGaussians(**joined), np.concatenate([[0], np.cumsum(np.concatenate(counts))]))

    def chosen(self, planes: Sequence[int] | np.ndarray) -> PlaneGaussians:
        """Those of some planes, in the order asked."""
        wanted = np.asarray(planes)
        counts = self.starts[wanted + 1] - self.starts[wanted]
        n_pairs, device = int(counts.sum()), self.cut.means.device
        shift = self.starts[wanted] - (np.cumsum(counts) - counts)
        table = torch.from_numpy(np.stack([counts, shift])).to(device)
        places = torch.arange(len(wanted), device=device)
        own = torch.repeat_interleave(places, table[0], output_size=n_pairs)
        index = torch.arange(n_pairs, device=device) + table[1][own]
        picked = {name: getattr(self.cut, name)[index] for name in vars(self.cut)}
        return PlaneGaussians(**{**picked, "planes": own})


@functools.cache
def _kernel_problem(device: str) -> str | None:
    """Why gsplat's kernels do not run; they are compiled here where they have not been, in a minute."""
    if importlib.util.find_spec("gsplat") is None:
        return "gsplat is not installed"
    one = torch.ones(1, device=device)
    cut = PlaneGaussians(
        planes=torch.zeros(1, dtype=torch.long, device=device),
        owners=torch.zeros(1, dtype=torch.long, device=device),
        means=torch.full((1, 2), 2.0, device=device),
        conics=torch.tensor([[1.0, 0.0, 1.0]], device=device),
        marginals=one,
        depths=one,
        radii=torch.full((1, 2), 3, dtype=torch.int32, device=device),
    )
    try:
        composite_gsplat(cut, one[:, None], 0.5 * one, 1, (8, 8))
    except Exception as error:  # noqa: BLE001 - a compiler, a driver, a missing library: all of them a reason
        return f"gsplat's CUDA kernels do not run: {error_text(error)}"
    return None


METHOD = Paper()
COLOR = Paper({"latent": 1})
"""Colour instead of latent and decoder."""
PROFILE = Paper({"profile": True})
"""Planes of a slab weighted by the known slice profile instead of alike."""
PERSISTENCE = Paper({"persistence": 0.1})
"""Faint blobs and holes of the slices cost something."""
