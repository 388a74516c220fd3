"""λ by generalised cross-validation, and the noise that is left at it (Golub, Heath & Wahba 1979).

The model is linear, T a(λ) = H y, and its effective number of parameters is γ = tr H. λ has the least
m ‖T a − y‖²_W / (m − γ)², the mean error at voxels that were left out, and ‖T a − y‖²_W / (m − γ) is then the
variance of the noise: a model that takes anatomy for noise, or noise for anatomy, predicts worse. Both are
read from three λ, since the misfit and γ are smooth in log λ (docs/decisions/0021-noise-and-lambda.md).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from atlasgs_bids.core.objective import Objective
from atlasgs_bids.core.settings import AppearanceSettings
from atlasgs_bids.core.solvers import Solution

N_SOLVES = 4
"""Of a search for λ: three that judge, and the one that counts."""
_FIRST, _SECOND = 0.1, 0.01
_BETWEEN, _BEYOND = 0.03, 0.001
"""The third λ: beyond the second where that predicts better than the first."""
_STEP_TOLERANCE = 0.1
"""Of a solve from the one before, over what that leaves: misfits and m − γ are then off by 1 %."""
_PROBE_TOLERANCE = 0.03
"""Of the first solve for a probe, which has no mean that drowns the rest."""
_PER_DECADE = 24
_LEAST_NOISE = 1e-3
"""Over the RMS of the slices: smaller noise is of simulations, and is not told from where a solve stops."""
_SEED = 0


@dataclass(frozen=True)
class Balance:
    """λ, and what is known at it."""

    regularization: float
    solution: Solution
    noise_sd: float
    """Of a voxel of weight 1, in units of the slices."""
    predicted_error: float
    """Mean square error at voxels that were left out, as λ is chosen by."""
    n_effective: float
    """γ of one volume: how many of its voxels' values the amplitudes follow."""
    noise_draw: Tensor
    """(n,) what noise of that size in the slices of one volume does to its amplitudes: one draw."""


def balance(
    objective: Objective,
    settings: AppearanceSettings,
    on_step: Callable[[int], None] = lambda _: None,
) -> Balance:
    """λ within ``settings.regularization_limits``, or the one that ``settings`` gives, and the noise.

    ``objective`` has the slices as its only term; its own λ does not matter. ``on_step(1)`` is called after
    each of N_SOLVES solves, or the one.
    """
    path = _Path(objective)
    if settings.regularization is None:
        chosen = _least_predicted_error(path, settings, on_step)
    else:
        chosen = settings.regularization
    solution = path.solution(chosen, settings)
    n_effective = path.n_effective(chosen, settings)
    misfit = path.misfit(solution.value)
    on_step(1)
    n_free = max(path.n_voxels - path.n_volumes * n_effective, 1.0)
    noise_sd = max((misfit / n_free) ** 0.5, _LEAST_NOISE * path.rms)
    predicted_error = path.n_voxels * misfit / n_free**2
    noise_draw = noise_sd * path.response(chosen, settings)
    return Balance(chosen, solution, noise_sd, predicted_error, n_effective, noise_draw)


def solve_from_stiffer(objective: Objective, settings: AppearanceSettings) -> Solution:
    """The objective's minimum, reached by way of a stiffer λ.

    Where λ is small, what lies between the slices is reached late: from nothing to 1e-4 a T2w at
    λ = 0.003 has 25.97 dB, by way of 0.1 in fewer steps 26.07, converged 26.13.
    """
    return _Path(objective).solution(objective.regularization, settings)


def _least_predicted_error(
    path: "_Path", settings: AppearanceSettings, on_step: Callable[[int], None]
) -> float:
    tried: dict[float, tuple[float, float]] = {}

    def evaluate(regularization: float) -> float:
        misfit = path.misfit(path.amplitudes(regularization, settings)) / path.n_voxels
        free = 1 - path.n_volumes * path.n_effective(regularization, settings) / path.n_voxels
        # A noise-free simulation may be explained to the last digit.
        misfit = max(misfit, 1e-12 * path.rms**2, 1e-30)
        tried[regularization] = float(np.log(misfit)), float(np.log(max(free, 1e-6)))
        on_step(1)
        return tried[regularization][0] - 2 * tried[regularization][1]

    softer = evaluate(_FIRST) > evaluate(_SECOND)
    evaluate(_BEYOND if softer else _BETWEEN)
    at = np.log10(list(tried))
    misfits, free = np.array(list(tried.values())).T
    low, high = np.log10(settings.regularization_limits)
    grid = np.linspace(low, high, round(_PER_DECADE * (high - low)) + 1)
    error = np.polyval(np.polyfit(at, misfits, 2), grid) - 2 * np.polyval(np.polyfit(at, free, 2), grid)
    return float(10 ** grid[error.argmin()])


class _Path:
    """Solutions of an objective at one λ after the other, each from the one before."""

    def __init__(self, objective: Objective) -> None:
        (self._observed,) = objective.terms
        self._objective = objective
        observed, op = self._observed, self._observed.slices_from_amplitudes
        weights = observed.weights.reshape(op.shape_out)
        self.n_volumes = observed.slices.numel() // weights.numel()
        self.n_voxels = int((weights > 0).sum()) * self.n_volumes
        squares = (observed.weights * observed.slices.square()).sum(dtype=torch.float64)
        self.rms = (float(squares) / max(self.n_voxels, 1)) ** 0.5
        self._right_side = op.adjoint(observed.weights * observed.slices)
        self._amplitudes: dict[float, Tensor] = {}
        self._responses: dict[float, Tensor] = {}

    @cached_property
    def _probe(self) -> Tensor:
        """Of Hutchinson's estimate; one is enough, since its error is some √(2 γ) voxels."""
        op = self._observed.slices_from_amplitudes
        weights = self._observed.weights.reshape(op.shape_out)
        generator = torch.Generator().manual_seed(_SEED)
        signs = torch.randint(0, 2, op.shape_out, generator=generator).to(weights) * 2 - 1
        return op.adjoint(weights.sqrt() * signs)

    def solution(self, regularization: float, settings: AppearanceSettings) -> Solution:
        """The amplitudes as exact as ``settings`` has it."""
        at = replace(self._objective, regularization=regularization)
        if regularization < _FIRST and not self._amplitudes:
            self.amplitudes(_FIRST, settings)
        start = self.amplitudes(regularization, settings) if self._amplitudes else None
        return at.solve(start, settings.tolerance, settings.max_iterations)

    def amplitudes(self, regularization: float, settings: AppearanceSettings) -> Tensor:
        right_side, first_tolerance = self._right_side, settings.search_tolerance
        return self._next(right_side, self._amplitudes, regularization, first_tolerance, settings)

    def n_effective(self, regularization: float, settings: AppearanceSettings) -> float:
        """γ = tr T (Tᵀ W T + λ L)⁻¹ Tᵀ W."""
        probe, at = self._probe, replace(self._objective, regularization=regularization)
        response = self.response(regularization, settings)
        # 2 pᵀ x − xᵀ A x for pᵀ A⁻¹ p: what the solve left open counts in squares.
        twice = 2 * probe - at.normal(response)
        return float((twice * response).sum(dtype=torch.float64))

    def response(self, regularization: float, settings: AppearanceSettings) -> Tensor:
        """(Tᵀ W T + λ L)⁻¹ Tᵀ √W s, s of random signs: noise of unit variance."""
        return self._next(self._probe, self._responses, regularization, _PROBE_TOLERANCE, settings)

    def misfit(self, amplitudes: Tensor) -> float:
        """‖T a − y‖²_W, of all volumes."""
        observed = self._observed
        error = observed.slices_from_amplitudes.forward(amplitudes) - observed.slices
        return float((observed.weights * error.square()).sum(dtype=torch.float64))

    def _next(
        self,
        right_side: Tensor,
        known: dict[float, Tensor],
        regularization: float,
        first_tolerance: float,
        settings: AppearanceSettings,
    ) -> Tensor:
        """(Tᵀ W T + λ L)⁻¹ ``right_side``, from the solution at the next stiffer λ that is known."""
        if regularization in known:
            return known[regularization]
        at = replace(self._objective, regularization=regularization)
        stiffer = [own for own in known if own >= regularization]
        if stiffer:
            start = known[min(stiffer)]
            # The tolerance is relative to what is left: the mean of an image would drown the noise in it.
            left = right_side - at.normal(start)
            value = start + at.solution(left, None, _STEP_TOLERANCE, settings.max_iterations).value
        else:
            value = at.solution(right_side, None, first_tolerance, settings.max_iterations).value
        known[regularization] = value
        return value
