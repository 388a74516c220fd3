"""The geometry of one target: the scaffold's, the scaffold's relaxed to its slices, or one of its own."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlasgs_bids.core.appearance import Appearance
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.objective import Objective
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.scaffold import fit_scaffold
from atlasgs_bids.core.settings import CoreSettings, RelaxationSettings
from atlasgs_bids.core.solvers import Adam
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import render

_UNITS = {"means": 0.5, "log_scales": 0.2, "quaternions": 0.2}
"""The unit of a move: like effects on a Gaussian of a voxel of 1 mm. In mm, log units, quaternion units."""


@dataclass(frozen=True)
class TargetData:
    """A target as its stacks tell it, and interpolated between their slices."""

    terms: tuple[LatticeObservation, ...]
    """What the stacks show, and what is expected of them, weighted as in the objective; without gains."""
    interpolated: Float[Tensor, "x y z"]
    support: Bool[Tensor, "x y z"]
    """Where ``interpolated`` is known, and Gaussians are wanted."""
    world_from_voxel: Float[Tensor, "4 4"]
    """Of ``interpolated``."""


@dataclass(frozen=True)
class Relaxation:
    """Gaussians for one target, and what they improved."""

    gaussians: Gaussians
    objectives: tuple[float, ...]
    """Objective and penalty after each round, over the first fit's; empty if nothing was relaxed."""


def relax_geometry(
    gaussians: Gaussians,
    first_fit: Appearance,
    target: TargetData,
    settings: CoreSettings,
    on_step: Callable[[int], None] = lambda _: None,
) -> Relaxation:
    """The Gaussians that ``settings.geometry.mode`` asks for, given a fit with the scaffold's geometry.

    ``offset`` and ``joint``: means, scales and (joint) rotations θ that lower the objective of the first fit,
    Σ ‖A S(θ) a − y‖²_W + λ (a − a₀)ᵀ L (a − a₀). ``own``: a scaffold of the interpolated target; the given
    Gaussians play no part in it. ``frozen`` asks for nothing, and this is not to be called. The amplitudes,
    and a graph for ``own``, have to be made anew. ``on_step(1)`` is called after each Adam step.
    """
    if settings.geometry.mode == "own":
        own = fit_scaffold(target.interpolated, target.support, target.world_from_voxel, settings, on_step)
        return Relaxation(own.gaussians, ())
    limits = {"offset": settings.geometry.offset, "joint": settings.geometry.joint}[settings.geometry.mode]
    return _relax(gaussians, first_fit, target, limits, settings, on_step)


def _relax(
    scaffold: Gaussians,
    first_fit: Appearance,
    target: TargetData,
    limits: RelaxationSettings,
    settings: CoreSettings,
    on_step: Callable[[int], None],
) -> Relaxation:
    """Rounds of Adam on the moves and conjugate gradients on the amplitudes; the best round counts."""
    geometry, chunk_elements = settings.geometry, settings.chunk_elements
    objective, amplitudes = first_fit.objective, first_fit.amplitudes
    prior = objective.prior

    def roughness() -> float:
        difference = amplitudes if objective.centre is None else amplitudes - objective.centre
        return objective.regularization * float((difference * prior.forward(difference)).sum())

    first = float(_misfit(target.terms, scaffold, amplitudes, chunk_elements)) + roughness()
    if not first > 0:  # an image without contrast says nothing about the geometry
        return Relaxation(scaffold, ())
    free = {"means": scaffold.means_mm, "log_scales": scaffold.scales_mm}
    if limits.rotates:
        free["quaternions"] = scaffold.quaternions
    moves = {name: torch.zeros_like(values).requires_grad_() for name, values in free.items()}
    optimizer = Adam(list(moves.values()))
    best, objectives = scaffold, [1.0]
    for _ in range(geometry.n_rounds):
        for _ in range(geometry.n_steps):
            bounded = _bounded(moves, limits)
            misfit = _misfit(target.terms, _moved(scaffold, bounded), amplitudes, chunk_elements)
            (misfit / first + _penalty(bounded, prior, limits)).backward()  # type: ignore[no-untyped-call]
            optimizer.step([geometry.learning_rate] * len(moves))
            on_step(1)
        with torch.no_grad():
            bounded = _bounded(moves, limits)
            moved = _moved(scaffold, bounded)
            amplitudes = _amplitudes(target.terms, moved, objective, amplitudes, settings)
            misfit = _misfit(target.terms, moved, amplitudes, chunk_elements)
            total = (float(misfit) + roughness()) / first + float(_penalty(bounded, prior, limits))
        if total < min(objectives):
            best = moved
        objectives.append(total)
    return Relaxation(best, tuple(objectives))


def _bounded(moves: dict[str, Tensor], limits: RelaxationSettings) -> dict[str, Tensor]:
    """Moves in their units, each Gaussian's shorter than its bound: u / √(1 + |u|²/bound²)."""
    bounds = {
        "means": limits.max_offset_mm / _UNITS["means"],
        "log_scales": math.log(limits.max_scale_factor) / _UNITS["log_scales"],
        "quaternions": math.inf,
    }
    return {
        name: move / (1 + (move * move).sum(1, keepdim=True) / bounds[name] ** 2).sqrt()
        for name, move in moves.items()
    }


def _moved(scaffold: Gaussians, bounded: dict[str, Tensor]) -> Gaussians:
    steps = {name: _UNITS[name] * move for name, move in bounded.items()}
    moved = replace(
        scaffold,
        means_mm=scaffold.means_mm + steps["means"],
        scales_mm=scaffold.scales_mm * steps["log_scales"].exp(),
    )
    if "quaternions" not in steps:
        return moved
    unit = torch.nn.functional.normalize(scaffold.quaternions, dim=1)
    quaternions = torch.nn.functional.normalize(unit + steps["quaternions"], dim=1)
    return replace(moved, quaternions=quaternions)


def _penalty(bounded: dict[str, Tensor], prior: QuadraticPrior, limits: RelaxationSettings) -> Tensor:
    """Σ smoothness · tr(uᵀ L u)/n + attachment · |u|²/n over the moves u in their units.

    A move by one unit of every Gaussian costs ``attachment`` times the first fit's objective.
    """
    costs = []
    for move in bounded.values():
        fixed = move.detach()
        # Value uᵀ L u and gradient 2 L u from one product, since L is symmetric.
        rough = ((2 * move - fixed) * prior.forward(fixed)).sum()
        costs.append((limits.smoothness * rough + limits.attachment * (move * move).sum()) / len(move))
    return torch.stack(costs).sum()


def _misfit(
    terms: Sequence[LatticeObservation], gaussians: Gaussians, amplitudes: Tensor, chunk_elements: int
) -> Float[Tensor, ""]:
    """Σ ‖A S(θ) a − y‖²_W, differentiable in the geometry."""
    total = torch.zeros((), device=amplitudes.device)
    for term in terms:
        image = render(gaussians, amplitudes, term.lattice_shape, term.world_from_lattice, chunk_elements)
        error = term.acquisition.forward(image) - term.slices
        total = total + (term.weights * error**2).sum()
    return total


def _amplitudes(
    terms: Sequence[LatticeObservation],
    gaussians: Gaussians,
    objective: Objective,
    start: Tensor,
    settings: CoreSettings,
) -> Tensor:
    """The minimiser of the objective with these Gaussians."""
    with_moved = []
    for term in terms:
        needed = term.acquisition.adjoint(term.weights) > 0
        splat = SplatOperator(
            gaussians, term.lattice_shape, term.world_from_lattice, needed, settings.chunk_elements
        )
        with_moved.append(replace(term, splat=splat))
    return (
        replace(objective, terms=tuple(with_moved))
        .solve(start, settings.appearance.search_tolerance, settings.appearance.max_iterations)
        .value
    )
