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
from atlasgs_bids.core.regularization import Balance, balance, solve_from_stiffer
from atlasgs_bids.core.settings import AppearanceSettings
from atlasgs_bids.core.solvers import Solution

_LEAST_TRUST = 1e-3
"""Of an expectation that contradicts the slices: below it there is nothing left of it."""


_CLEARLY_BETTER = 0.6
"""Error on held-out slices over that of their neighbours' mean: 0.45 to 0.5 on real scans of one head."""

_JUDGING_REGULARIZATION = 0.1
"""λ at which they are predicted, whatever λ the fit has: at a small one far slices are not reached."""


@dataclass(frozen=True)
class Appearance:
    """Amplitudes of a target and the evidence for them."""

    solution: Solution
    objective: Objective
    """What they minimise; the noise of its first term is that which was found."""
    trust: float | None = None
    """Factor on the expectation's weights at which the slices are honoured; None without an expectation."""
    held_out_rms: float | None = None
    """Of the anchor's graph on every fifth slice, predicted from the others; None: not asked for."""
    follows_anchor: bool = True
    """False: cross-validation prefers a graph that does not know the anchor."""
    noise_draw: Tensor | None = None
    """(n,) what the slices' noise does to the amplitudes, once; None: neither λ nor noise was asked for."""

    @property
    def regularization(self) -> float:
        """λ."""
        return self.objective.regularization

    @property
    def noise_sd(self) -> float:
        """Of a voxel of weight 1 of the slices."""
        return self.objective.terms[0].noise_sd

    @property
    def amplitudes(self) -> Tensor:
        return self.solution.value


def fit_appearance(
    observation: Observation,
    prior: QuadraticPrior,
    settings: AppearanceSettings,
    on_step: Callable[[int], None] = lambda _: None,
) -> Appearance:
    """min_a ‖T a − y‖²_W + λ aᵀ L a, with λ and the noise by cross-validation (core/regularization.py).

    Several volumes of one acquisition, (x, y, z, k), are solved together, with one λ. ``settings`` may give
    it; the noise is then what is left at it. ``on_step(1)`` is called after each solve.
    """
    objective = _graph_objective(observation, prior)
    return _balanced(objective, balance(objective, settings, on_step))


def solve_appearance(
    observation: Observation, prior: QuadraticPrior, regularization: float, settings: AppearanceSettings
) -> Appearance:
    """The same at a λ that is known, with the noise that ``observation`` states."""
    objective = replace(_graph_objective(observation, prior), regularization=regularization)
    return Appearance(solve_from_stiffer(objective, settings), objective)


def fit_detail(
    observation: Observation,
    prior: QuadraticPrior,
    known: Float[Tensor, " n"],
    settings: AppearanceSettings,
    on_step: Callable[[int], None] = lambda _: None,
) -> Appearance:
    """min_d ‖T (a₀ + d) − y‖²_W + λ dᵀ L d: a₀ (``known``) and what it leaves of the slices; a₀ + d.

    λ and the noise as in ``fit_appearance``, of what is left.
    """
    left = replace(observation, slices=observation.slices - observation.slices_from_amplitudes.forward(known))
    detail = fit_appearance(left, prior, settings, on_step)
    (term,) = detail.objective.terms
    objective = replace(detail.objective, terms=(replace(term, slices=observation.slices),), centre=known)
    return Appearance(replace(detail.solution, value=known + detail.amplitudes), objective)


def _graph_objective(observation: Observation, prior: QuadraticPrior) -> Objective:
    """The objective whose λ is not yet chosen."""
    weights = observation.weights
    gram = gram_matrices(observation.slices_from_amplitudes, weights)
    of_volumes = weights.reshape(*weights.shape, *[1] * (observation.slices.ndim - weights.ndim))
    return Objective((replace(observation, weights=of_volumes),), prior, regularization=0.0, gram=gram)


def _balanced(objective: Objective, found: Balance) -> Appearance:
    """What was found for the objective, with the noise in its only term."""
    (observed,) = objective.terms
    measured = (replace(observed, noise_sd=found.noise_sd),)
    objective = replace(objective, terms=measured, regularization=found.regularization)
    return Appearance(found.solution, objective, noise_draw=found.noise_draw)


def fit_guarded_appearance(
    observation: Observation,
    prior: QuadraticPrior,
    without_anchor: Callable[[], QuadraticPrior],
    settings: AppearanceSettings,
    on_step: Callable[[int], None] = lambda _: None,
) -> Appearance:
    """fit_appearance, with the prior ``without_anchor`` where that has the lower error by cross-validation.

    It is asked for only where ``prior`` does not predict held-out slices much better than the mean of their
    neighbours, as an anchor of the same head does: to make a graph takes time. Nor is it where λ is given, or
    slices are few.
    """
    objective = _graph_objective(observation, prior)
    found = balance(objective, settings, on_step)
    guided = _balanced(objective, found)
    if settings.regularization is not None or held_out_slices(observation) is None:
        return guided
    rms = _held_out_rms(objective, settings)
    guided = replace(guided, held_out_rms=rms)
    if rms < _CLEARLY_BETTER * neighbours_rms(observation):
        return guided
    objective = replace(objective, prior=without_anchor())
    blind = balance(objective, settings)
    if blind.predicted_error < found.predicted_error:
        return replace(_balanced(objective, blind), held_out_rms=rms, follows_anchor=False)
    return guided


def _held_out_rms(objective: Objective, settings: AppearanceSettings) -> float:
    """RMS error on every fifth slice, predicted from the others at a stiff λ."""
    (observed,) = objective.terms
    held_out = held_out_slices(observed)
    assert held_out is not None
    training = replace(observed, weights=observed.weights * (1 - held_out))
    trial = replace(objective, terms=(training,), regularization=_JUDGING_REGULARIZATION)
    predicted = trial.solve(None, settings.search_tolerance, settings.max_iterations).value
    error = observed.slices_from_amplitudes.forward(predicted) - observed.slices
    validation = observed.weights * held_out
    return float(((validation * error**2).sum() / validation.expand_as(error).sum()).sqrt())


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
            return Appearance(solution, objective, trust)
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
