"""The stacks of one target -> its amplitudes: registered, observed, fitted together."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from atlasgs_bids.core.appearance import (
    Appearance,
    fit_appearance,
    fit_detail,
    fit_expected_appearance,
    fit_guarded_appearance,
)
from atlasgs_bids.core.contradiction import contradiction_of
from atlasgs_bids.core.observation import LatticeObservation, join
from atlasgs_bids.core.priors.expectation import Evidence, Expectation, ExpectedStack
from atlasgs_bids.core.regularization import N_SOLVES
from atlasgs_bids.core.uncertainty import Uncertainty, estimate_uncertainty
from atlasgs_bids.restoration.learning import learn
from atlasgs_bids.restoration.result import StackResult, TargetFit
from atlasgs_bids.restoration.scaffold import SessionScaffold, spatial_prior
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)


def fit_stacks(
    placed: Sequence[PlacedStack],
    observations: Sequence[LatticeObservation],
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
    expected: Sequence[ExpectedStack] | None = None,
    known: Tensor | None = None,
) -> TargetFit:
    """The amplitudes that explain all stacks, what they say of each, and, if wanted, how far they may be off.

    The noise of the observations counts where there are several, or something is expected of them; one by
    itself needs none. ``expected`` is what a learned prior said of the same stacks before; None: it is asked,
    if wanted. ``known``: amplitudes to which only what they leave of the slices is added, by the graph.
    """
    settings = config.core.appearance
    problem = join(observations) if len(observations) > 1 else observations[0]
    if expected is None:
        expected = ()
        if known is None and config.image_prior == "learned":
            expected = learn(observations, scaffold, config, progress)
    expectations = [own.expectation for own in expected]
    n_solves = 1 if expectations or settings.regularization is not None else N_SOLVES
    with progress.stage("appearance", n_solves) as advance:
        if expectations:
            appearance = fit_expected_appearance(problem, scaffold.prior, expectations, settings)
            advance(1)
        elif known is not None:
            appearance = fit_detail(problem, scaffold.prior, known, settings, advance)
        elif len(placed) == 1:
            without_anchor = partial(spatial_prior, scaffold.gaussians, config)
            appearance = fit_guarded_appearance(problem, scaffold.prior, without_anchor, settings, advance)
        else:
            appearance = fit_appearance(problem, scaffold.prior, settings, advance)
    over_assumed = appearance.noise_sd / problem.noise_sd
    known_noise = [replace(own, noise_sd=over_assumed * own.noise_sd) for own in observations]
    uncertainty = uncertainty_of(appearance, known_noise, expectations, scaffold, config, progress)
    log_fit(appearance, config, progress)
    evidences = [own.evidence for own in expectations] or [None] * len(placed)
    contradictions = _contradictions(appearance, known_noise, uncertainty, scaffold)
    stacks = zip(placed, observations, evidences, contradictions, strict=True)
    results = tuple(_stack_result(*own, appearance, over_assumed) for own in stacks)
    return TargetFit(appearance, uncertainty, results, tuple(expected))


def _contradictions(
    appearance: Appearance,
    observations: Sequence[LatticeObservation],
    uncertainty: Uncertainty | None,
    scaffold: SessionScaffold,
) -> Sequence[Tensor | None]:
    """Where each stack contradicts anchor and image; None where nothing was held out."""
    if uncertainty is None or not uncertainty.held_out:
        return [None] * len(observations)
    return [
        contradiction_of(observation, appearance.amplitudes, scaffold.gaussians.amplitudes, held_out)
        for observation, held_out in zip(observations, uncertainty.held_out, strict=True)
    ]


def uncertainty_of(
    appearance: Appearance,
    observations: Sequence[LatticeObservation],
    expectations: Sequence[Expectation],
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
) -> Uncertainty | None:
    """How far the amplitudes may be off; None: not asked for."""
    if not config.estimate_uncertainty:
        return None
    core = config.core
    with progress.stage("uncertainty") as advance:
        uncertainty = estimate_uncertainty(
            appearance.objective, observations, expectations, scaffold.gaussians, appearance.amplitudes,
            core.appearance, core.seed,
        )  # fmt: skip
        advance(1)
    return uncertainty


def _stack_result(
    stack: PlacedStack,
    observation: LatticeObservation,
    evidence: Evidence | None,
    contradiction: Tensor | None,
    appearance: Appearance,
    over_assumed: float,
) -> StackResult:
    """What the amplitudes say of one stack, whose noise is ``over_assumed`` times what it was taken for."""
    simulated = observation.slices_from_amplitudes.forward(appearance.amplitudes)
    return StackResult(
        source=stack.source,
        acquired=stack.acquired,
        registration=stack.registration,
        simulated=simulated.cpu().numpy(),
        weights=observation.weights.cpu().numpy(),
        gain=observation.gain,
        noise_sd=over_assumed * observation.noise_sd,
        calibration=stack.calibration,
        displacement=stack.displacement,
        contradicted=None if evidence is None else (evidence.contradicted > 0).cpu().numpy(),
        anchor_gain=None if evidence is None else evidence.anchor_gain,
        contradiction=None if contradiction is None else contradiction.cpu().numpy(),
    )


def log_fit(appearance: Appearance, config: RestorationSettings, progress: Progress) -> None:
    """Say what weight was chosen, and where the solve did not get to its tolerance."""
    rms = appearance.held_out_rms
    held_out = "not needed" if rms is None else f"{rms:.4g}"
    said = f"λ {appearance.regularization:.3g}; noise {appearance.noise_sd:.4g}; held-out RMS {held_out}"
    logger.debug("%s", progress.led(said))
    if not appearance.solution.converged:
        logger.warning(
            "%s of %.1e after %d steps, expected %.0e; raise --max-iterations",
            progress.led("the solve stopped at a relative residual"),
            appearance.solution.relative_residual, appearance.solution.n_steps,
            config.core.appearance.tolerance,
        )  # fmt: skip
