"""What stage 2 minimises: misfits of the slices, and of what is expected of them, and the graph."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atlasgs_bids.core.gram import GramMatrices
from atlasgs_bids.core.observation import Observation
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.solvers import Solution, conjugate_gradient

_HOLD_OUT_EVERY = 5
_LEAST_SLICES = 6


@dataclass(frozen=True)
class Objective:
    """‖T a − y‖²_W summed over the terms, + λ (a − a₀)ᵀ L (a − a₀)."""

    terms: tuple[Observation, ...]
    """The slices, and what is expected of them."""
    prior: QuadraticPrior
    regularization: float
    centre: Tensor | None = None
    """a₀; None: 0."""
    gram: GramMatrices | None = None
    """Of the first T, where its Tᵀ W T is quicker as a matrix; None: products with T and Tᵀ each time."""

    def solve(self, start: Tensor | None, tolerance: float, max_iterations: int) -> Solution:
        right_side = sum(own.slices_from_amplitudes.adjoint(own.weights * own.slices) for own in self.terms)
        assert isinstance(right_side, Tensor)
        if self.centre is not None:
            right_side = right_side + self.regularization * self.prior.forward(self.centre)
        return self.solution(right_side, start, tolerance, max_iterations)

    def deviations(
        self, n_probes: int, seed: int, tolerance: float, max_iterations: int, *, of_noise_alone: bool = False
    ) -> Float[Tensor, "n probes"]:
        """Draws from the posterior of the amplitudes, less its mean (perturb and optimise: Papandreou 2010).

        The slices (the first term) are perturbed by their noise and the graph by its own, in units of that
        noise; a second term, an expectation, is not: its error is not white. ``of_noise_alone``: what the
        noise of the slices does to the amplitudes.
        """
        observed = self.terms[0]
        slices, weights = observed.slices, observed.weights
        generator = torch.Generator().manual_seed(seed)
        draws = []
        for probe in range(n_probes):
            noise = torch.randn(slices.shape[: weights.ndim], generator=generator).to(slices)
            drawn = observed.slices_from_amplitudes.adjoint(weights.sqrt() * noise)
            if len(self.terms) == 1 and not of_noise_alone:
                drawn += self.regularization**0.5 * self.prior.square_root_noise(seed + probe)
            # One after the other: two images side by side take four times as long on a CPU as one.
            draws.append(self.solution(observed.noise_sd * drawn, None, tolerance, max_iterations).value)
        return torch.stack(draws, dim=1)

    def solution(
        self, right_side: Tensor, start: Tensor | None, tolerance: float, max_iterations: int
    ) -> Solution:
        """x with (Σ Tᵀ W T + λ L) x = ``right_side``."""
        diagonal = self._diagonal()
        return conjugate_gradient(
            self.normal,
            right_side,
            start=start,
            inverse_diagonal=1 / (diagonal if right_side.ndim == 1 else diagonal[:, None]),
            tolerance=tolerance,
            max_iterations=max_iterations,
        )

    def normal(self, a: Tensor) -> Tensor:
        """(Σ Tᵀ W T + λ L) a."""
        return self._misfit(a).add_(self.prior.forward(a), alpha=self.regularization)

    def _misfit(self, a: Tensor) -> Tensor:
        """Σ Tᵀ W T a."""
        total = torch.zeros_like(a)
        for position, term in enumerate(self.terms):
            if position == 0 and self.gram is not None:
                total += self.gram.of(term.weights) @ a
                continue
            op = term.slices_from_amplitudes
            predicted = op.forward(a)
            # As many axes as the prediction: that of the diagonal has no volumes, whatever the data have.
            own = term.weights.reshape(*op.shape_out, *[1] * (predicted.ndim - len(op.shape_out)))
            total += op.adjoint(own * predicted)
        return total

    def _diagonal(self) -> Tensor:
        # No T has a negative entry, so the row sums of Tᵀ W T bound its spectrum (Gershgorin) at the cost of
        # one product, where its diagonal would need the whole matrix.
        diagonal = self.prior.diagonal
        total = self._misfit(torch.ones_like(diagonal)).add_(diagonal, alpha=self.regularization)
        return total.clamp_min(float(total.max()) * 1e-6)


def held_out_slices(observation: Observation) -> Tensor | None:
    """1 on every fifth of the observed slices, 0 elsewhere; None where there are too few to spare any."""
    weights, slice_axis = observation.weights, observation.slice_axis
    observed = torch.movedim(weights > 0, slice_axis, 0).flatten(1).any(1).nonzero().squeeze(1)
    if len(observed) < _LEAST_SLICES:
        return None
    held_out = torch.zeros_like(weights)
    torch.movedim(held_out, slice_axis, 0)[observed[_HOLD_OUT_EVERY // 2 :: _HOLD_OUT_EVERY]] = 1.0
    return held_out


def held_out_rows(observation: Observation) -> Bool[Tensor, " slices"] | None:
    """Every other of the observed slices; None where there are too few to spare any."""
    seen = torch.movedim(observation.weights > 0, observation.slice_axis, 0).flatten(1).any(1)
    if int(seen.sum()) < _LEAST_SLICES:
        return None
    return seen & (seen.cumsum(0) % 2 == 0)


def neighbours_rms(observation: Observation) -> float:
    """RMS error of the mean of its two neighbours as a guess at each held-out slice; infinite without any."""
    held_out = held_out_slices(observation)
    if held_out is None:
        return math.inf
    images = observation.slices, observation.weights > 0, held_out > 0
    y, seen, asked = (torch.movedim(image, observation.slice_axis, 0) for image in images)
    known = seen[:-2] & seen[1:-1] & seen[2:] & asked[1:-1]
    error = (y[1:-1] - 0.5 * (y[:-2] + y[2:]))[known]
    return float(error.square().mean().sqrt()) if len(error) else math.inf
