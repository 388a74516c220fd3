"""How far a fitted target may be off: draws from the posterior of its amplitudes, calibrated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from scipy import special
from torch import Tensor

from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.local_error import HeldOut, at_gaussians, local_errors
from atlasgs_bids.core.objective import Objective, held_out_slices
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.expectation import Expectation
from atlasgs_bids.core.settings import AppearanceSettings
from atlasgs_bids.core.trust import Trust, trust_of

_TOLERANCE = 3e-3
"""Of the solves: two thirds of the steps of 1e-3, and a spread smaller by 0.1 %, of the noise alone 0.6 %."""
_PATTERN_TOLERANCE = 3e-2
"""Where the draws are a pattern that held-out errors weigh: half the steps, correlation 0.97."""
_NORMAL_90 = 1.645
"""Half width, in σ, of the interval that holds 90 % of a normal distribution."""
_INSIDE = 0.9
_UNGUIDED_SHARE = 0.4
"""Of the variance of expectations, that which goes by the contrast that the anchor does not have."""
_BEYOND_EXPECTED = 1.3
"""Variance of an image's error over what expectations say of it, who judge by slices like those they know."""
_FACTOR_LIMITS = (0.1, 10.0)
_VISIBLE = 2.0
"""Errors on held-out slices over their noise, below which the noise hides what there is to scale."""


@dataclass(frozen=True)
class Uncertainty:
    """The variance of an image is the mean square of the draws' images, and the square of the sd's image."""

    deviations: Float[Tensor, "n probes"]
    """Zero-mean draws of the amplitudes: what the slices' noise does to them; without ``expected_sd`` all."""
    expected_sd: Float[Tensor, " n"] | None
    """At the Gaussians: how far they err but for that noise; None where nothing measures it."""
    trust: Trust | None = None
    """Where the image may be believed; None where slices are too few to tell."""
    held_out: tuple[HeldOut, ...] = ()
    """The slices of each stack as the graph predicts them from others; empty where they are too few."""
    posterior: Float[Tensor, "n draws"] | None = None
    """Draws of what slices and graph leave open, uncalibrated; None: not drawn."""


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
    observations: Sequence[LatticeObservation],
    expectations: Sequence[Expectation],
    gaussians: Gaussians,
    amplitudes: Float[Tensor, " n"],
    settings: AppearanceSettings,
    seed: int,
) -> Uncertainty:
    """From slices that a fit did not see: where it errs, how far, and where it may be believed.

    ``observations``: the stacks of the objective's first term, with the noise that was found;
    ``amplitudes``: what explains them, beside the anchor's in ``gaussians``. With expectations their own
    error counts, in part moved to where the anchor does not have the target's contrast. Where slices are too
    few to leave any out, the graph's posterior, or the expectations, speak alone.
    """
    slices = replace(objective, terms=objective.terms[:1])
    n_probes, steps = settings.n_probes, settings.max_iterations
    draws = slices.deviations(n_probes, seed, _PATTERN_TOLERANCE, steps)
    local = local_errors(slices, observations, amplitudes, gaussians.amplitudes, draws, settings)
    if not expectations:
        if local is None:
            draws = slices.deviations(n_probes, seed, _TOLERANCE, steps)
            return Uncertainty(draws, None, posterior=draws)
        variance = at_gaussians([own.variance for own in local], local, observations, gaussians)
    else:
        precision = torch.stack([e.amplitude_weights / e.amplitude_sd.square() for e in expectations])
        weights = torch.stack([e.amplitude_weights for e in expectations])
        variance = _BEYOND_EXPECTED * weights.sum(0) / precision.sum(0)
        if local is not None:
            moved = at_gaussians([own.unguided for own in local], local, observations, gaussians)
            variance = (1 - _UNGUIDED_SHARE) * variance + _UNGUIDED_SHARE * variance.mean() * moved
    noise = objective.deviations(n_probes, seed, _TOLERANCE, steps, of_noise_alone=True)
    found = Uncertainty(noise, variance.sqrt(), posterior=draws)
    if local is None:
        return found
    contrast = at_gaussians([own.contrast for own in local], local, observations, gaussians)
    predicted = tuple(own.held_out for own in local)
    held_out: Sequence[HeldOut] = predicted
    if expectations:
        held_out = [
            replace(own, sd=stack.acquisition.forward(stack.splat.forward(variance.sqrt())))
            for own, stack in zip(predicted, observations, strict=True)
        ]
    return replace(found, trust=trust_of(held_out, contrast), held_out=predicted)


def volume_uncertainty(
    objective: Objective,
    observation: LatticeObservation,
    gaussians: Gaussians,
    amplitudes: Float[Tensor, "n k"],
    noise_draw: Float[Tensor, " n"],
    posterior: Float[Tensor, "n probes"],
    settings: AppearanceSettings,
) -> Uncertainty:
    """Of a volume of a series, in two solves: draws of the posterior are known, from another volume.

    ``objective``, ``observation``: of one volume; ``amplitudes``: of k volumes of its kind, ``noise_draw``:
    what the noise of one does to them. With too few slices ``posterior`` speaks alone.
    """
    quick = replace(settings, search_tolerance=_TOLERANCE)
    local = local_errors(objective, [observation], amplitudes, gaussians.amplitudes, posterior, quick)
    if local is None:
        return Uncertainty(posterior, None)
    variance = at_gaussians([own.variance for own in local], local, [observation], gaussians)
    return Uncertainty(noise_draw[:, None], variance.sqrt())


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
