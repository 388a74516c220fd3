"""How far a fitted target may be off: draws from the posterior of its amplitudes, calibrated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from scipy import special
from torch import Tensor

from atlasgs_bids.core.objective import Objective, held_out_slices
from atlasgs_bids.core.priors.expectation import Expectation
from atlasgs_bids.core.settings import AppearanceSettings

_TOLERANCE = 1e-3
"""Of the solves; at 1e-2 what the slices hardly see is not yet reached, and the spread is too small."""
_NORMAL_90 = 1.645
"""Half width, in σ, of the interval that holds 90 % of a normal distribution."""
_INSIDE = 0.9
_FACTOR_LIMITS = (0.1, 10.0)
_VISIBLE = 2.0
"""Errors on held-out slices over their noise, below which the noise hides what there is to scale."""


@dataclass(frozen=True)
class Uncertainty:
    """Zero-mean draws of the amplitudes; an image of each, squared and averaged, is the variance."""

    deviations: Float[Tensor, "n probes"]
    expected_sd: Float[Tensor, " n"] | None
    """Of an expectation at the Gaussians' means, to be added in squares; None without one."""


def graph_uncertainty(
    objective: Objective,
    settings: AppearanceSettings,
    seed: int,
) -> Uncertainty:
    """The posterior of slices and graph, scaled so that 90 % intervals hold 90 % of held-out slices.

    Every fifth slice is predicted from the others; where there are too few slices for that, the scale is 1.
    """
    n_probes, steps = settings.n_probes, settings.max_iterations
    factor = 1.0
    observed = objective.terms[0]
    held_out = held_out_slices(observed)
    if held_out is not None:
        training = replace(observed, weights=observed.weights * (1 - held_out))
        trial = replace(objective, terms=(training,))
        # From nothing: the full fit as a start would already know the slices that are held out.
        solution = trial.solve(None, settings.search_tolerance, steps)
        deviations = trial.deviations(n_probes, seed, _TOLERANCE, steps)
        op = observed.slices_from_amplitudes
        variance = op.forward(deviations).square().mean(-1)
        error = (op.forward(solution.value) - observed.slices).abs()
        seen = observed.weights * held_out > 0
        factor = _calibration(error[seen], variance[seen], n_probes, observed.noise_sd)
    deviations = objective.deviations(n_probes, seed, _TOLERANCE, steps)
    return Uncertainty(factor * deviations, None)


def estimate_uncertainty(
    objective: Objective,
    expectations: Sequence[Expectation],
    settings: AppearanceSettings,
    seed: int,
) -> Uncertainty:
    """That of the graph, or, with expectations, the slices' noise beside the expectations' own error."""
    if not expectations:
        return graph_uncertainty(objective, settings, seed)
    deviations = objective.deviations(settings.n_probes, seed, _TOLERANCE, settings.max_iterations)
    precision = torch.stack([e.amplitude_weights / e.amplitude_sd.square() for e in expectations])
    weights = torch.stack([e.amplitude_weights for e in expectations])
    return Uncertainty(deviations, (weights.sum(0) / precision.sum(0)).sqrt())


def _calibration(
    error: Float[Tensor, " m"], variance: Float[Tensor, " m"], n_probes: int, noise_sd: float
) -> float:
    """c with which 90 % of the errors are within 1.645 √(c² v + noise²), v being the expected ``variance``.

    A variance from a few draws is itself uncertain, which makes error / (c √variance) Student's t: its
    quantile takes the normal one's place here, and c belongs to a variance that is known.
    """
    largest = error.sort().values[int(_INSIDE * (len(error) - 1))]
    if float(largest) < _VISIBLE * _NORMAL_90 * noise_sd:
        return 1.0
    student_90 = float(special.stdtrit(n_probes, (1 + _INSIDE) / 2))
    low, high = _FACTOR_LIMITS
    for _ in range(30):
        middle = (low * high) ** 0.5
        half_width = ((student_90 * middle) ** 2 * variance + (_NORMAL_90 * noise_sd) ** 2).sqrt()
        inside = float((error <= half_width).double().mean())
        low, high = (low, middle) if inside > _INSIDE else (middle, high)
    return high
