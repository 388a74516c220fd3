"""One target fitted with the geometry that was asked for: the scaffold's, or another made for it alone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from atlasgs_bids.core.gaussians import joined
from atlasgs_bids.core.geometry import Relaxation, TargetData, relax_geometry
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.expectation import ExpectedStack, Prediction
from atlasgs_bids.core.priors.quadratic import PartialLaplacian
from atlasgs_bids.core.specific import missing_image, specific_gaussians
from atlasgs_bids.imaging.interpolated import mean_interpolated
from atlasgs_bids.imaging.volume import Volume
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.finer import FinerScaffold, finer_scaffold
from atlasgs_bids.restoration.fit import fit_stacks
from atlasgs_bids.restoration.learning import expected_of
from atlasgs_bids.restoration.motion import fit_moving_stacks
from atlasgs_bids.restoration.observation import measured, observe_placed
from atlasgs_bids.restoration.result import StackResult, TargetFit
from atlasgs_bids.restoration.scaffold import SessionScaffold, graph_prior, spatial_prior
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, covered
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FittedTarget:
    """A fit, and the scaffold and the operators that it was made with."""

    scaffold: SessionScaffold
    """The session's, or that with Gaussians and a graph of this target."""
    observations: tuple[LatticeObservation, ...]
    """As the stacks are observed one by one, with the noise that was found: without gains."""
    fit: TargetFit


def fit_target(
    placed: Sequence[PlacedStack],
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
    expected: Sequence[ExpectedStack] | None = None,
    predictions: Sequence[Prediction] = (),
) -> FittedTarget:
    """The amplitudes of a target; once more with other Gaussians where the session's cannot show it.

    ``expected``: what a learned prior said of the stacks before; None: it is asked, if wanted.
    ``predictions``: the same of stacks that will be observed anew, where the geometry is frozen.
    """
    if config.motion == "slice":
        observations = observed_alone(placed, scaffold, config)
        moving = fit_moving_stacks(placed, observations, scaffold, config, progress)
        return FittedTarget(scaffold, _with_noise(observations, moving), moving)
    mode = config.core.geometry.mode
    if mode == "frozen":
        finer = finer_scaffold(placed, scaffold, config, progress)
        if finer is not None:
            return _with_detail(finer, placed, scaffold, config, progress)
        first = _fitted(placed, scaffold, config, progress, expected, predictions=predictions)
        return _with_specific(first, placed, config, progress)
    stiff = config.core.appearance.regularization or config.core.geometry.regularization
    # The fit that only starts the geometry needs no uncertainty.
    starting = _with_regularization(replace(config, estimate_uncertainty=False), stiff)
    first = _fitted(placed, scaffold, starting, progress, expected)
    own_anchor = _own_anchor(scaffold.anchor, first.fit.stacks)
    target = TargetData(
        terms=_terms(first),
        interpolated=torch.from_numpy(own_anchor.volume.data).to(config.device),
        support=torch.from_numpy(own_anchor.support).to(config.device),
        world_from_voxel=torch.from_numpy(own_anchor.volume.world_from_voxel),
    )
    with progress.stage("geometry") as advance:
        relaxed: Relaxation = relax_geometry(
            scaffold.gaussians, first.fit.appearance, target, config.core, advance
        )
    own_scaffold = replace(scaffold, gaussians=relaxed.gaussians, n_shared=0)
    if mode == "own":
        # A graph by the anchor would bring back the edges that this geometry is meant to do without.
        own_scaffold = replace(own_scaffold, prior=graph_prior(own_anchor, relaxed.gaussians, config))
    else:
        # The geometry has seen every slice, so none is left to choose λ by.
        config = _with_regularization(config, first.fit.appearance.regularization)
    known = first.fit.stacks if expected is not None else ()
    return _fitted(placed, own_scaffold, config, progress, expected, known)


def _with_detail(
    finer: FinerScaffold,
    placed: Sequence[PlacedStack],
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
) -> FittedTarget:
    """The fit with Gaussians as fine as the target's pixels, by the prior that is asked for."""
    if config.image_prior != "learned":
        return _detailed(finer, placed, scaffold, config, progress)
    # For the noise, by which a network is trusted: to the session's Gaussians alone detail would be noise.
    quick = replace(config, prior="graph", estimate_uncertainty=False)
    measured_stacks = _detailed(finer, placed, scaffold, quick, progress).fit.stacks
    anchor = finer.carried(
        scaffold.gaussians, scaffold.gaussians.amplitudes[:, None], config.core.chunk_elements
    )
    own = replace(
        finer.scaffold, gaussians=replace(finer.scaffold.gaussians, amplitudes=anchor[:, 0].contiguous())
    )
    learned = _fitted(placed, own, config, progress, None, measured_stacks)
    if learned.fit.expected:
        return learned
    return _detailed(finer, placed, scaffold, replace(config, prior="graph"), progress)


def _detailed(
    finer: FinerScaffold,
    placed: Sequence[PlacedStack],
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
) -> FittedTarget:
    """The graph's fit with the session's Gaussians, and with finer ones what that leaves of the slices.

    Between the slices it is the session's that know how the T1w guides the target: fitted to finer ones alone
    it is 0.5 to 0.9 dB worse (docs/decisions/0022-finer-in-plane.md).
    """
    first = _fitted(placed, scaffold, config, progress, None)
    appearance, uncertainty, own = first.fit.appearance, first.fit.uncertainty, finer.scaffold
    if not appearance.follows_anchor:
        own = replace(own, prior=spatial_prior(own.gaussians, config))
    columns = [appearance.amplitudes[:, None], scaffold.gaussians.amplitudes[:, None]]
    columns += [uncertainty.deviations] if uncertainty else []
    carried = finer.carried(scaffold.gaussians, torch.cat(columns, dim=1), config.core.chunk_elements)
    own = replace(own, gaussians=replace(own.gaussians, amplitudes=carried[:, 1].contiguous()))
    detailed = _fitted(placed, own, config, progress, None, first.fit.stacks, carried[:, 0])
    fit = detailed.fit
    # The two are added, and so are the variances of their errors.
    if fit.uncertainty is not None:
        both = fit.uncertainty.deviations + carried[:, 2:]
        fit = replace(fit, uncertainty=replace(fit.uncertainty, deviations=both))
    judged = replace(
        fit.appearance, held_out_rms=appearance.held_out_rms, follows_anchor=appearance.follows_anchor
    )
    return replace(detailed, fit=replace(fit, appearance=judged))


def _with_specific(
    first: FittedTarget, placed: Sequence[PlacedStack], config: RestorationSettings, progress: Progress
) -> FittedTarget:
    """The fit with Gaussians of the target's own where the shared ones cannot follow what is expected."""
    appearance, expected, scaffold = first.fit.appearance, first.fit.expected, first.scaffold
    if not expected or appearance.trust is None:
        return first
    settings = config.core.appearance
    missing = [missing_image(own, appearance.amplitudes, appearance.trust, settings) for own in expected]
    more = specific_gaussians(missing, expected, len(scaffold.gaussians), settings)
    if more is None:
        return first
    shift = placed[0].displacement
    if shift is not None:  # they lie where the slices show them
        means_mm = torch.from_numpy(shift.undone(more.means_mm.double().cpu().numpy()))
        more = replace(more, means_mm=means_mm.to(more.means_mm))
    logger.info("%s", progress.led(f"{len(more)} Gaussians of its own"))
    richer = replace(
        scaffold,
        gaussians=joined([scaffold.gaussians, more]),
        prior=PartialLaplacian(scaffold.prior, len(more)),
    )
    return _fitted(placed, richer, config, progress, expected, first.fit.stacks)


def _fitted(
    placed: Sequence[PlacedStack],
    scaffold: SessionScaffold,
    config: RestorationSettings,
    progress: Progress,
    expected: Sequence[ExpectedStack] | None,
    known: Sequence[StackResult] = (),
    amplitudes: Tensor | None = None,
    predictions: Sequence[Prediction] = (),
) -> FittedTarget:
    """``known``: the stacks with noise and gains as an earlier fit has them; empty: they are measured.

    ``amplitudes``: what they leave of the slices is fitted, and added to them.
    """
    alone = observed_alone(placed, scaffold, config)
    observations: Sequence[LatticeObservation] = alone
    if known:
        pairs_known = zip(alone, known, strict=True)
        observations = [replace(own, noise_sd=stack.noise_sd, gain=stack.gain) for own, stack in pairs_known]
    elif len(placed) > 1 or expected is not None or config.image_prior == "learned":
        observations = measured(placed, alone, scaffold.prior, config.core.appearance)
    moved = None
    if expected is not None:
        pairs = zip(expected, observations, strict=True)
        moved = [own.on(observation.splat, scaffold.gaussians) for own, observation in pairs]
    elif predictions:
        moved = expected_of(predictions, observations, scaffold)
    fit = fit_stacks(placed, observations, scaffold, config, progress, moved, amplitudes)
    return FittedTarget(scaffold, _with_noise(alone, fit), fit)


def observed_alone(
    placed: Sequence[PlacedStack], scaffold: SessionScaffold, config: RestorationSettings
) -> tuple[LatticeObservation, ...]:
    """The stacks as each is observed by itself, its noise not yet known."""
    return tuple(observe_placed(stack, scaffold.anchor, scaffold.gaussians, config) for stack in placed)


def _with_noise(observations: Sequence[LatticeObservation], fit: TargetFit) -> tuple[LatticeObservation, ...]:
    pairs = zip(observations, fit.stacks, strict=True)
    return tuple(replace(own, noise_sd=stack.noise_sd) for own, stack in pairs)


def _terms(fitted: FittedTarget) -> tuple[LatticeObservation, ...]:
    """Σ_s (σ_0/σ_s)² ‖g_s A_s S a − y_s‖²_W, as the fit weighs the stacks, and what was expected of them."""
    fit = fitted.fit
    pairs = zip(fitted.observations, fit.stacks, strict=True)
    acquired = [replace(own, gain=stack.gain).beside(fit.stacks[0].noise_sd) for own, stack in pairs]
    trust = fit.appearance.trust
    expected = [] if trust is None else [own.expectation.trusted(trust) for own in fit.expected]
    return (*acquired, *expected)


def _own_anchor(anchor: Anchor, stacks: Sequence[StackResult]) -> Anchor:
    """The target in the anchor's place: interpolated on its grid, inside the field of view.

    Interpolated, not as the first fit renders it: that image has the anchor's edges.
    """
    grid = anchor.volume.grid
    inside = np.zeros(grid.shape, dtype=bool)
    for stack in stacks:
        inside |= covered(stack.source, stack.acquired, stack.registration.target_from_anchor, grid)
    return replace(
        anchor,
        volume=Volume(
            mean_interpolated([stack.interpolable for stack in stacks], grid), grid.world_from_voxel
        ),
        foreground=anchor.foreground & inside,
        support=anchor.support & inside,
    )


def _with_regularization(config: RestorationSettings, regularization: float) -> RestorationSettings:
    appearance = replace(config.core.appearance, regularization=regularization)
    return replace(config, core=replace(config.core, appearance=appearance))
