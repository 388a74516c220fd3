"""The stacks of one target -> its amplitudes: registered, observed, fitted together."""

import logging
from collections.abc import Sequence
from functools import partial

from atlasgs_bids.core.appearance import (
    Appearance,
    fit_appearance,
    fit_expected_appearance,
    fit_guarded_appearance,
)
from atlasgs_bids.core.observation import JointObservation
from atlasgs_bids.core.priors.expectation import Evidence, Expectation, ExpectedStack
from atlasgs_bids.core.uncertainty import Uncertainty, estimate_uncertainty
from atlasgs_bids.restoration.learning import learn
from atlasgs_bids.restoration.observation import Observation, estimate_gains, join
from atlasgs_bids.restoration.result import StackResult, TargetFit
from atlasgs_bids.restoration.scaffold import SessionScaffold, spatial_prior
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, stack_noise_sd
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)


def fit_stacks(
    placed: Sequence[PlacedStack],
    observations: Sequence[Observation],
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
    expected: Sequence[ExpectedStack] | None = None,
) -> TargetFit:
    """The amplitudes that explain all stacks, what they say of each, and, if wanted, how far they may be off.

    ``expected`` is what a learned prior said of the same stacks before; None: it is asked, if wanted.
    """
    settings = config.core.appearance
    axes = [stack.source.geometry.axis for stack in placed]
    noise_sds = [stack_noise_sd(stack, own.weights) for stack, own in zip(placed, observations, strict=True)]
    gains, slice_axis, problem = [1.0], axes[0], _alone(observations[0])
    if len(placed) > 1:
        gains = estimate_gains(observations, axes, scaffold.prior, settings)
        slice_axis, problem = 0, join(observations, axes, gains, noise_sds)
    if expected is None:
        expected = ()
        if config.image_prior == "learned":
            levels = list(zip(axes, gains, noise_sds, strict=True))
            expected = learn(observations, levels, scaffold, config, progress)
    expectations = [own.expectation for own in expected]
    n_solves = 1 + (len(settings.candidates) if settings.regularization is None else 0)
    with progress.stage("appearance", 1 if expectations else n_solves) as advance:
        if expectations:
            appearance = fit_expected_appearance(
                problem.slices_from_amplitudes, problem.slices, problem.weights, scaffold.prior, expectations,
                noise_sds[0], settings,
            )  # fmt: skip
            advance(1)
        elif len(placed) == 1:
            appearance = fit_guarded_appearance(
                problem.slices_from_amplitudes, problem.slices, problem.weights, scaffold.prior,
                partial(spatial_prior, scaffold.gaussians, config), slice_axis, settings, advance,
            )  # fmt: skip
        else:
            appearance = fit_appearance(
                problem.slices_from_amplitudes, problem.slices, problem.weights, scaffold.prior,
                slice_axis, settings, advance,
            )  # fmt: skip
    uncertainty = _uncertainty(appearance, expectations, slice_axis, noise_sds[0], config, progress)
    log_fit(appearance, config, progress)
    evidences = [own.evidence for own in expectations] or [None] * len(placed)
    stacks = zip(placed, observations, gains, noise_sds, evidences, strict=True)
    results = tuple(_stack_result(*own, appearance) for own in stacks)
    return TargetFit(appearance, uncertainty, results, tuple(expected))


def _uncertainty(
    appearance: Appearance,
    expectations: Sequence[Expectation],
    slice_axis: int,
    noise_sd: float,
    config: RestorationSettings,
    progress: Progress,
) -> Uncertainty | None:
    """How far the amplitudes may be off; None: not asked for."""
    if not config.estimate_uncertainty:
        return None
    with progress.stage("uncertainty") as advance:
        uncertainty = estimate_uncertainty(
            appearance.objective,
            expectations,
            slice_axis,
            noise_sd,
            config.core.appearance,
            config.core.seed,
        )
        advance(1)
    return uncertainty


def _stack_result(
    stack: PlacedStack,
    observation: Observation,
    gain: float,
    noise_sd: float,
    evidence: Evidence | None,
    appearance: Appearance,
) -> StackResult:
    """What the amplitudes say of one stack."""
    simulated = gain * observation.slices_from_amplitudes.forward(appearance.amplitudes)
    return StackResult(
        source=stack.source,
        acquired=stack.acquired,
        registration=stack.registration,
        simulated=simulated.cpu().numpy(),
        weights=observation.weights.cpu().numpy(),
        gain=gain,
        noise_sd=noise_sd,
        contradicted=None if evidence is None else (evidence.contradicted > 0).cpu().numpy(),
        anchor_gain=None if evidence is None else evidence.anchor_gain,
    )


def _alone(observation: Observation) -> JointObservation:
    return JointObservation(observation.slices, observation.weights, observation.slices_from_amplitudes)


def log_fit(appearance: Appearance, config: RestorationSettings, progress: Progress) -> None:
    """Say what weight was chosen, and where the solve did not get to its tolerance."""
    held_out = ", ".join(f"{value:g}: {rms:.4g}" for value, rms in appearance.held_out_rms.items())
    said = f"λ {appearance.regularization:g}; held-out RMS {held_out or 'not needed'}"
    logger.debug("%s", progress.led(said))
    if not appearance.solution.converged:
        logger.warning(
            "%s of %.1e after %d steps, expected %.0e; raise --max-iterations",
            progress.led("the solve stopped at a relative residual"),
            appearance.solution.relative_residual, appearance.solution.n_steps,
            config.core.appearance.tolerance,
        )  # fmt: skip
