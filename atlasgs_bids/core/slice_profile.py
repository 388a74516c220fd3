"""Which slice profile is true: the one with which the other slices, and the anchor, predict a slice best.

The misfit of slices that the fit has seen is no judge: it always likes a narrower profile, with which more
can be explained. Slices that it has not seen are as blurred as they are, and a prediction that is sharper or
softer than that misses them by more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from atlasgs_bids.core.acquisition import AcquisitionOperator, AxisSampling, point_sampling
from atlasgs_bids.core.objective import Objective
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.operators import LinearOperator
from atlasgs_bids.core.priors.quadratic import QuadraticPrior

N_FOLDS = 5
LEAST_SLICES = 8
_TOLERANCE, _STEPS = 1e-3, 60
_STEP = 1.25
"""Factor from one standard deviation that is tried to the next."""
_MOST_WIDER, _MOST_NARROWER = 4, 4
_LEAST_DIFFERENCE = 1e-6
"""Between the errors of neighbouring profiles, in parts of the slices' energy: the solves are no better."""
_N_RESAMPLINGS = 200
_SYSTEMATIC = 0.08
"""Of the logarithm: by how much the least lies off the truth on simulated profiles (decision 0020)."""


class Cells(LinearOperator):
    """Amplitudes of chosen cells -> the lattice; 0 elsewhere."""

    def __init__(self, chosen: Int[Tensor, " n"], shape: tuple[int, int, int]) -> None:
        """``chosen``: flat indices into the lattice."""
        self._chosen = chosen
        self.shape_in, self.shape_out = (len(chosen),), shape

    def forward(self, x: Tensor) -> Tensor:
        flat = x.new_zeros(self.shape_out[0] * self.shape_out[1] * self.shape_out[2], *x.shape[1:])
        flat[self._chosen] = x
        return flat.view(*self.shape_out, *x.shape[1:])

    def adjoint(self, y: Tensor) -> Tensor:
        return y.flatten(0, 2)[self._chosen]


@dataclass(frozen=True)
class ProfileProblem:
    """Slices, and cells of a lattice in their own frame that they are made of; the slice axis is the last."""

    slices: Float[Tensor, "x y z"]
    weights: Float[Tensor, "x y z"]
    cells: Int[Tensor, " n"]
    """Flat indices of those that may hold signal."""
    n_cells: int
    """Of the lattice along the slice axis."""
    prior: QuadraticPrior
    """Over the cells: by likeness in the anchor."""
    regularization: float


@dataclass(frozen=True)
class FoundProfile:
    """The standard deviation of the profile, and how certain it is."""

    sd_mm: float
    log_error: float
    """Standard error of its logarithm."""
    tried: dict[float, float]
    """Standard deviation (mm) -> RMS error on held-out slices, in the unit of the slices."""

    @property
    def error_mm(self) -> float:
        """Standard error of ``sd_mm``."""
        return self.sd_mm * self.log_error


def find_profile_sd(
    problem: ProfileProblem,
    sampling: Callable[[float], AxisSampling],
    start_mm: float,
) -> FoundProfile | None:
    """The standard deviation with the least error on held-out slices; None where that has no minimum.

    ``sampling(sd_mm)``: how the cells make up slices with such a profile, all on the problem's lattice. Tried
    in steps of a quarter from ``start_mm`` until the least is bracketed, then refined by a parabola.
    """
    if problem.slices.shape[2] < LEAST_SLICES:
        return None
    starts: list[Tensor | None] = [None] * N_FOLDS
    errors: dict[int, npt.NDArray[np.float64]] = {}

    def error(k: int) -> float:
        if k not in errors:
            errors[k] = _held_out_errors(problem, sampling(start_mm * _STEP**k), starts)
        return float(errors[k].sum())

    best = 0
    while error(best + 1) < error(best) and best < _MOST_WIDER:
        best += 1
    while error(best - 1) < error(best) and best > -_MOST_NARROWER:
        best -= 1
    beside = min(error(best - 1), error(best + 1))
    energy = float((problem.weights * problem.slices.square()).sum(dtype=torch.float64))
    if not beside - error(best) > _LEAST_DIFFERENCE * energy:
        return None
    parts = np.stack([errors[k] for k in (best - 1, best, best + 1)])
    offset = _vertex(parts.sum(1))
    n_observed = float((problem.weights > 0).sum())
    return FoundProfile(
        sd_mm=start_mm * _STEP ** (best + offset),
        log_error=math.hypot(math.log(_STEP) * _vertex_error(parts), _SYSTEMATIC),
        tried={start_mm * _STEP**k: (float(errors[k].sum()) / n_observed) ** 0.5 for k in sorted(errors)},
    )


def _held_out_errors(
    problem: ProfileProblem, sampling: AxisSampling, starts: list[Tensor | None]
) -> npt.NDArray[np.float64]:
    """(slices,) squared error of each slice as predicted from the others; each fold starts from its last."""
    n_x, n_y, n_slices = problem.slices.shape
    acquisition = AcquisitionOperator(
        (point_sampling(n_x), point_sampling(n_y), sampling), problem.slices.device
    )
    observation = LatticeObservation(
        slices=problem.slices,
        weights=problem.weights,
        slice_axis=2,
        acquisition=acquisition,
        splat=Cells(problem.cells, (n_x, n_y, problem.n_cells)),
        world_from_lattice=torch.eye(4),
    )
    errors = np.zeros(n_slices)
    for fold in range(N_FOLDS):
        held_out = np.arange(fold, n_slices, N_FOLDS)
        # Beyond the outermost slices nothing predicts.
        held_out = held_out[(held_out > 0) & (held_out < n_slices - 1)]
        weights = problem.weights.clone()
        weights[:, :, held_out] = 0.0
        objective = Objective((replace(observation, weights=weights),), problem.prior, problem.regularization)
        amplitudes = objective.solve(starts[fold], _TOLERANCE, _STEPS).value
        starts[fold] = amplitudes
        predicted = observation.slices_from_amplitudes.forward(amplitudes)
        squares = problem.weights * (predicted - problem.slices).square()
        errors[held_out] = squares.sum((0, 1), dtype=torch.float64).cpu().numpy()[held_out]
    return errors


def _vertex(values: npt.NDArray[np.float64]) -> float:
    """Where the parabola through three values at −1, 0, 1 is least, within ±1."""
    low, middle, high = (float(value) for value in values)
    curvature = low - 2 * middle + high
    if curvature <= 0:
        return float(np.sign(low - high))
    return float(np.clip(0.5 * (low - high) / curvature, -1, 1))


def _vertex_error(parts: npt.NDArray[np.float64]) -> float:
    """Standard deviation of the vertex if other slices had been acquired: slices drawn with replacement."""
    generator = np.random.default_rng(0)
    n_slices = parts.shape[1]
    drawn = generator.integers(0, n_slices, (_N_RESAMPLINGS, n_slices))
    return float(np.std([_vertex(parts[:, own].sum(1)) for own in drawn]))
