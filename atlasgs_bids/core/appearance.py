"""Stage 2: the amplitudes of one target, fitted to its acquired slices with the geometry frozen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.gram import gram_matrices
from atlasgs_bids.core.objective import Objective, held_out_slices, neighbours_rms
from atlasgs_bids.core.observation import Observation
from atlasgs_bids.core.priors.expectation import Expectation
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.settings import AppearanceSettings
from atlasgs_bids.core.solvers import Solution

_LEAST_TRUST = 1e-3
"""Of an expectation that contradicts the slices: below it there is nothing left of it."""


_CLEARLY_BETTER = 0.6
"""Error on held-out slices over that of their neighbours' mean: 0.45 to 0.5 on real scans of one head."""


@dataclass(frozen=True)
class Appearance:
    """Amplitudes of a target and the evidence for them."""

    solution: Solution
    objective: Objective
    """What they minimise."""
    held_out_rms: dict[float, float]
    """λ -> RMS error on the held-out slices, intensity units; empty where λ was given."""
    trust: float | None
    """Factor on the expectation's weights at which the slices are honoured; None without an expectation."""
    follows_anchor: bool = True
    """False: the held-out slices were predicted better by a graph that does not know the anchor."""

    @property
    def regularization(self) -> float:
        """λ."""
        return self.objective.regularization

    @property
    def amplitudes(self) -> Tensor:
        return self.solution.value


def fit_appearance(
    observation: Observation,
    prior: QuadraticPrior,
    settings: AppearanceSettings,
    on_step: Callable[[int], None] = lambda _: None,
) -> Appearance:
    """min_a ‖T a − y‖²_W + λ aᵀ L a by preconditioned conjugate gradients.

    Several volumes of one acquisition, (x, y, z, k), are solved together, with one λ. It is taken from
    ``settings`` or chosen as the largest one that predicts every fifth slice from the others about as well as
    any. ``on_step(1)`` is called after each solve: one for each candidate and one more.
    """
    return _fitted(_graph_objective(observation, prior), settings, on_step)


def _graph_objective(observation: Observation, prior: QuadraticPrior) -> Objective:
    """The objective whose λ is not yet chosen."""
    weights = observation.weights
    gram = gram_matrices(observation.slices_from_amplitudes, weights)
    of_volumes = weights.reshape(*weights.shape, *[1] * (observation.slices.ndim - weights.ndim))
    return Objective((replace(observation, weights=of_volumes),), prior, regularization=0.0, gram=gram)


def _fitted(
    objective: Objective,
    settings: AppearanceSettings,
    on_step: Callable[[int], None] = lambda _: None,
) -> Appearance:
    held_out_rms: dict[float, float] = {}
    start = None
    chosen = settings.regularization
    if chosen is None:
        chosen, held_out_rms, start = _choose_regularization(objective, settings, on_step)
    objective = replace(objective, regularization=chosen)
    solution = objective.solve(start, settings.tolerance, settings.max_iterations)
    on_step(1)
    return Appearance(solution, objective, held_out_rms, trust=None)


def fit_guarded_appearance(
    observation: Observation,
    prior: QuadraticPrior,
    without_anchor: Callable[[], QuadraticPrior],
    settings: AppearanceSettings,
    on_step: Callable[[int], None] = lambda _: None,
) -> Appearance:
    """fit_appearance, with the prior ``without_anchor`` where that predicts the held-out slices better.

    It is asked for only where ``prior`` is not much better than the mean of their neighbours, which it is for
    an anchor of the same head: to make a graph takes time.
    """
    objective = _graph_objective(observation, prior)
    guided = _fitted(objective, settings, on_step)
    if not guided.held_out_rms:
        return guided
    least = min(guided.held_out_rms.values())
    if least < _CLEARLY_BETTER * neighbours_rms(observation):
        return guided
    blind = _fitted(replace(objective, prior=without_anchor()), settings)
    if min(blind.held_out_rms.values()) < least:
        return replace(blind, follows_anchor=False)
    return guided


def fit_expected_appearance(
    observation: Observation,
    prior: QuadraticPrior,
    expectations: Sequence[Expectation],
    settings: AppearanceSettings,
) -> Appearance:
    """min_a ‖T a − y‖²_W + μ Σ ‖S a − p‖²_V + λ (a − a₀)ᵀ L (a − a₀): slices and what is expected of them.

    There is an expectation for each stack. The slices have the last word: μ, 1 at first, is lowered until
    their misfit is at most ``settings.misfit_bound`` times their noise.
    """
    regularization = settings.regularization or settings.expected_regularization
    centre = _common_amplitudes(expectations)
    trust, start = 1.0, centre
    while True:
        terms = (observation, *(e.trusted(trust) for e in expectations))
        objective = Objective(terms, prior, regularization, centre)
        solution = objective.solve(start, settings.tolerance, settings.max_iterations)
        error = observation.slices_from_amplitudes.forward(solution.value) - observation.slices
        misfit = _spread((observation.weights.sqrt() * error)[observation.weights > 0])
        if not misfit > settings.misfit_bound * observation.noise_sd or trust <= _LEAST_TRUST:
            return Appearance(solution, objective, {}, trust)
        trust, start = trust / 4, solution.value


def _spread(error: Float[Tensor, " n"]) -> float:
    """What 68 % of the errors are within: σ, whatever the few do that no amplitudes can explain."""
    ordered = error.abs().sort().values
    return float(ordered[int(0.6827 * (len(ordered) - 1))])


def _common_amplitudes(expectations: Sequence[Expectation]) -> Tensor:
    """Mean of what the stacks expect of each Gaussian, each as far as it is to be trusted there."""
    total = sum(e.amplitude_weights for e in expectations)
    weighted = sum(e.amplitude_weights * e.amplitudes for e in expectations)
    assert isinstance(total, Tensor)
    assert isinstance(weighted, Tensor)
    return weighted / total


def _choose_regularization(
    objective: Objective, settings: AppearanceSettings, on_step: Callable[[int], None]
) -> tuple[float, dict[float, float], Tensor | None]:
    (observed,) = objective.terms
    held_out = held_out_slices(observed)
    if held_out is None:
        # Too few slices to spare any: a middle candidate; the error is flat there on every scan tried.
        return sorted(settings.candidates)[len(settings.candidates) // 2], {}, None
    validation = observed.weights * held_out
    training = replace(observed, weights=observed.weights * (1 - held_out))
    rms: dict[float, float] = {}
    solutions: dict[float, Tensor] = {}
    start = None
    for candidate in settings.candidates:
        trial = replace(objective, terms=(training,), regularization=candidate)
        start = trial.solve(start, settings.search_tolerance, settings.max_iterations).value
        error = observed.slices_from_amplitudes.forward(start) - observed.slices
        rms[candidate] = float(((validation * error**2).sum() / validation.expand_as(error).sum()).sqrt())
        solutions[candidate] = start
        on_step(1)
    # The held-out error is flat where λ is small, and there only the noise in the result still grows.
    bound = settings.held_out_slack * min(rms.values())
    best = max(candidate for candidate in rms if rms[candidate] <= bound)
    return best, rms, solutions[best]
