"""Stage 2: the amplitudes of one target, fitted to its acquired slices with the geometry frozen."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.operators import LinearOperator
from atlasgs_bids.core.priors.expectation import Expectation
from atlasgs_bids.core.priors.graph import GraphLaplacian
from atlasgs_bids.core.settings import AppearanceSettings
from atlasgs_bids.core.solvers import Solution, conjugate_gradient

_HOLD_OUT_EVERY = 5
_LEAST_SLICES = 6
_LEAST_TRUST = 1e-3
"""Of an expectation that contradicts the slices: below it there is nothing left of it."""


@dataclass(frozen=True)
class Appearance:
    """Amplitudes of a target and the evidence for them."""

    solution: Solution
    regularization: float
    held_out_rms: dict[float, float]
    """λ -> RMS error on the held-out slices, intensity units; empty where λ was given."""
    trust: float | None
    """Factor on the expectation's weights at which the slices are honoured; None without an expectation."""

    @property
    def amplitudes(self) -> Tensor:
        return self.solution.value


@dataclass(frozen=True)
class _Objective:
    """‖T a − b‖²_W summed over the terms, + λ (a − a₀)ᵀ L (a − a₀)."""

    terms: tuple[tuple[LinearOperator, Tensor, Tensor], ...]
    """(T, b, W)."""
    prior: GraphLaplacian
    regularization: float
    centre: Tensor | None = None
    """a₀; None: 0."""

    def solve(self, start: Tensor | None, tolerance: float, max_iterations: int) -> Solution:
        right_side = sum(op.adjoint(weights * data) for op, data, weights in self.terms)
        assert isinstance(right_side, Tensor)
        if self.centre is not None:
            right_side = right_side + self.regularization * self.prior.forward(self.centre)
        diagonal = self._diagonal()
        return conjugate_gradient(
            self._normal,
            right_side,
            start=start,
            inverse_diagonal=1 / (diagonal if right_side.ndim == 1 else diagonal[:, None]),
            tolerance=tolerance,
            max_iterations=max_iterations,
        )

    def _normal(self, a: Tensor) -> Tensor:
        total = self.regularization * self.prior.forward(a)
        for op, _, weights in self.terms:
            total += op.adjoint(weights * op.forward(a))
        return total

    def _diagonal(self) -> Tensor:
        # No T has a negative entry, so the row sums of Tᵀ W T bound its spectrum (Gershgorin) at the cost of
        # one product, where its diagonal would need the whole matrix.
        total = self.regularization * self.prior.diagonal
        ones = torch.ones_like(total)
        for op, _, weights in self.terms:
            total = total + op.adjoint(weights.reshape(op.shape_out) * op.forward(ones))
        return total.clamp_min(float(total.max()) * 1e-6)


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
    objective = _Objective(
        ((slices_from_amplitudes, slices, weights),), prior, settings.regularization or 0.0
    )
    if settings.regularization is None:
        chosen, held_out_rms, start = _choose_regularization(objective, slice_axis, settings, on_step)
        objective = replace(objective, regularization=chosen)
    solution = objective.solve(start, settings.tolerance, settings.max_iterations)
    on_step(1)
    return Appearance(solution, objective.regularization, held_out_rms, trust=None)


def fit_expected_appearance(
    slices_from_amplitudes: LinearOperator,
    slices: Float[Tensor, "x y z"],
    weights: Float[Tensor, "x y z"],
    prior: GraphLaplacian,
    expectation: Expectation,
    noise_sd: float,
    settings: AppearanceSettings,
) -> Appearance:
    """min_a ‖A S a − y‖²_W + μ ‖S a − p‖²_V + λ (a − a₀)ᵀ L (a − a₀): the slices and the expectation p.

    The slices have the last word: μ, 1 at first, is lowered until their misfit is at most
    ``settings.misfit_bound`` times ``noise_sd``, the noise of a native voxel in intensity units.
    """
    regularization = settings.regularization or settings.expected_regularization
    trust, start = 1.0, expectation.amplitudes
    while True:
        terms = (
            (slices_from_amplitudes, slices, weights),
            (expectation.image_from_amplitudes, expectation.image, trust * expectation.weights),
        )
        objective = _Objective(terms, prior, regularization, expectation.amplitudes)
        solution = objective.solve(start, settings.tolerance, settings.max_iterations)
        error = slices_from_amplitudes.forward(solution.value) - slices
        misfit = float(((weights * error**2).sum() / weights.sum()).sqrt())
        if not misfit > settings.misfit_bound * noise_sd or trust <= _LEAST_TRUST:
            return Appearance(solution, regularization, {}, trust)
        trust, start = trust / 4, solution.value


def _choose_regularization(
    objective: _Objective, slice_axis: int, settings: AppearanceSettings, on_step: Callable[[int], None]
) -> tuple[float, dict[float, float], Tensor | None]:
    ((op, slices, weights),) = objective.terms
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
        trial = replace(objective, terms=((op, slices, training),), regularization=candidate)
        start = trial.solve(start, settings.search_tolerance, settings.max_iterations).value
        error = op.forward(start) - slices
        rms[candidate] = float(((validation * error**2).sum() / validation.expand_as(error).sum()).sqrt())
        solutions[candidate] = start
        on_step(1)
    # The held-out error is flat where λ is small, and there only the noise in the result still grows.
    bound = settings.held_out_slack * min(rms.values())
    best = max(candidate for candidate in rms if rms[candidate] <= bound)
    return best, rms, solutions[best]
