"""Stage 2: the amplitudes of one target, fitted to its acquired slices with the geometry frozen."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.operators import LinearOperator
from atlasgs_bids.core.priors.graph import GraphLaplacian
from atlasgs_bids.core.settings import AppearanceSettings
from atlasgs_bids.core.solvers import Solution, conjugate_gradient

_HOLD_OUT_EVERY = 5
_LEAST_SLICES = 6


@dataclass(frozen=True)
class Appearance:
    """Amplitudes of a target and the evidence for them."""

    solution: Solution
    regularization: float
    held_out_rms: dict[float, float]
    """λ -> RMS error on the held-out slices, intensity units; empty where λ was given."""

    @property
    def amplitudes(self) -> Tensor:
        return self.solution.value


def fit_appearance(
    slices_from_amplitudes: LinearOperator,
    slices: Float[Tensor, "x y z *k"],
    weights: Float[Tensor, "x y z"],
    prior: GraphLaplacian,
    slice_axis: int,
    settings: AppearanceSettings,
    on_step: Callable[[int], None] = lambda _: None,
) -> Appearance:
    """min_a ‖A S a − y‖²_W + λ aᵀ L a by preconditioned conjugate gradients.

    ``slices`` may be several volumes of one acquisition, (x, y, z, k): they are solved together, with one λ.
    ``weights`` is W (0: not observed). λ is taken from ``settings`` or chosen as the largest one that
    predicts every fifth slice from the others about as well as any.
    ``on_step(1)`` is called after each solve: one for each candidate and one more.
    """
    held_out_rms: dict[float, float] = {}
    start = None
    weights = weights.reshape(*weights.shape, *[1] * (slices.ndim - weights.ndim))
    regularization = settings.regularization
    if regularization is None:
        regularization, held_out_rms, start = _choose_regularization(
            slices_from_amplitudes, slices, weights, prior, slice_axis, settings, on_step
        )
    solution = _solve(
        slices_from_amplitudes, slices, weights, prior, regularization, settings.tolerance, start, settings
    )
    on_step(1)
    return Appearance(solution, regularization, held_out_rms)


def _choose_regularization(
    op: LinearOperator,
    slices: Tensor,
    weights: Tensor,
    prior: GraphLaplacian,
    slice_axis: int,
    settings: AppearanceSettings,
    on_step: Callable[[int], None],
) -> tuple[float, dict[float, float], Tensor | None]:
    observed = torch.movedim(weights > 0, slice_axis, 0).flatten(1).any(1).nonzero().squeeze(1)
    if len(observed) < _LEAST_SLICES:
        # Too few slices to spare any: a middle candidate; the error is flat there on every scan tried.
        return sorted(settings.candidates)[len(settings.candidates) // 2], {}, None
    held_out = torch.zeros_like(weights)
    torch.movedim(held_out, slice_axis, 0)[observed[_HOLD_OUT_EVERY // 2 :: _HOLD_OUT_EVERY]] = 1.0
    training, validation = weights * (1 - held_out), weights * held_out
    rms: dict[float, float] = {}
    solutions: dict[float, Tensor] = {}
    start = None
    for candidate in settings.candidates:
        start = _solve(
            op, slices, training, prior, candidate, settings.search_tolerance, start, settings
        ).value
        error = op.forward(start) - slices
        rms[candidate] = float(((validation * error**2).sum() / validation.expand_as(error).sum()).sqrt())
        solutions[candidate] = start
        on_step(1)
    # The held-out error is flat where λ is small, and there only the noise in the result still grows.
    bound = settings.held_out_slack * min(rms.values())
    best = max(candidate for candidate in rms if rms[candidate] <= bound)
    return best, rms, solutions[best]


def _solve(
    op: LinearOperator,
    slices: Tensor,
    weights: Tensor,
    prior: GraphLaplacian,
    regularization: float,
    tolerance: float,
    start: Tensor | None,
    settings: AppearanceSettings,
) -> Solution:
    def normal(a: Tensor) -> Tensor:
        return op.adjoint(weights * op.forward(a)) + regularization * prior.forward(a)

    # A S has no negative entry, so the row sums of Sᵀ Aᵀ W A S bound its spectrum (Gershgorin) at the cost of
    # one product, where its diagonal would need the whole matrix.
    flat = weights.reshape(weights.shape[:3])
    row_sums = op.adjoint(
        flat * op.forward(torch.ones(op.shape_in, device=slices.device, dtype=slices.dtype))
    )
    diagonal = row_sums + regularization * prior.diagonal
    if slices.ndim > flat.ndim:
        diagonal = diagonal[:, None]
    return conjugate_gradient(
        normal,
        op.adjoint(weights * slices),
        start=start,
        inverse_diagonal=1 / diagonal.clamp_min(float(diagonal.max()) * 1e-6),
        tolerance=tolerance,
        max_iterations=settings.max_iterations,
    )
