"""The stacks of one target -> its amplitudes: registered, observed, fitted together."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from atlasgs_bids.config import RunConfig
from atlasgs_bids.core.appearance import (
    Appearance,
    fit_appearance,
    fit_expected_appearance,
    fit_guarded_appearance,
)
from atlasgs_bids.core.metrics import noise_sd
from atlasgs_bids.core.priors.expectation import ExpectedStack
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.core.uncertainty import Uncertainty, estimate_uncertainty
from atlasgs_bids.imaging.anchor import Anchor
from atlasgs_bids.imaging.grid import fov_mask, output_grid, resample_mask
from atlasgs_bids.imaging.registration import Registration, given_registration, register
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.joint import JointObservation, estimate_gains, join
from atlasgs_bids.learning import learn
from atlasgs_bids.observation import Observation, observe
from atlasgs_bids.progress import Progress
from atlasgs_bids.results import StackResult, TargetFit, TargetResult
from atlasgs_bids.scaffolding import SessionScaffold, spatial_prior
from atlasgs_bids.targets import StackPlan

logger = logging.getLogger(__name__)

_SD_SMOOTHING_VOX = 1.0


@dataclass(frozen=True)
class PlacedStack:
    """An acquired stack whose position relative to the anchor is known."""

    plan: StackPlan
    acquired: Volume
    registration: Registration


def place(stack: StackPlan, acquired: Volume, anchor: Anchor, config: RunConfig, label: str) -> PlacedStack:
    """The stack registered to the anchor; what registration warns of is logged."""
    if stack.transform is not None:
        registration = given_registration(anchor.volume, anchor.foreground, acquired, stack.transform)
    else:
        registration = register(
            anchor.volume, anchor.foreground, acquired, config.registration, config.core.seed
        )
    for text in registration.warnings:
        logger.warning("%s: %s", label, text)
    return PlacedStack(stack, acquired, registration)


def observe_placed(placed: PlacedStack, scaffold: SessionScaffold, config: RunConfig) -> Observation:
    """The operators and weights of a stack in its position."""
    target_from_anchor = placed.registration.target_from_anchor
    return observe(
        placed.plan, placed.acquired, target_from_anchor, scaffold.anchor, scaffold.gaussians, config
    )


def fit_stacks(
    placed: Sequence[PlacedStack],
    observations: Sequence[Observation],
    scaffold: SessionScaffold,
    config: RunConfig,
    progress: Progress,
    label: str,
    expected: Sequence[ExpectedStack] | None = None,
) -> TargetFit:
    """The amplitudes that explain all stacks, what they say of each, and, if wanted, how far they may be off.

    ``expected`` is what a learned prior said of the same stacks before; None: it is asked, if wanted.
    """
    settings = config.core.appearance
    axes = [stack.plan.geometry.axis for stack in placed]
    noise_sds = [stack_noise_sd(stack, own) for stack, own in zip(placed, observations, strict=True)]
    gains, slice_axis, problem = [1.0], axes[0], _alone(observations[0])
    if len(placed) > 1:
        gains = estimate_gains(observations, axes, scaffold.prior, settings)
        slice_axis, problem = 0, join(observations, axes, gains, noise_sds)
    if expected is None:
        expected = ()
        if config.image_prior == "learned":
            levels = list(zip(axes, gains, noise_sds, strict=True))
            expected = learn(observations, levels, scaffold, config, progress, label)
    expectations = [own.expectation for own in expected]
    n_solves = 1 + (len(settings.candidates) if settings.regularization is None else 0)
    with progress.stage(f"{label}: appearance", 1 if expectations else n_solves) as advance:
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
    uncertainty = None
    if config.estimate_uncertainty:
        with progress.stage(f"{label}: uncertainty") as advance:
            uncertainty = estimate_uncertainty(
                appearance.objective, expectations, slice_axis, noise_sds[0], settings, config.core.seed
            )
            advance(1)
    log_fit(appearance, config, label)
    evidences = [own.evidence for own in expectations] or [None] * len(placed)
    results = tuple(
        StackResult(
            plan=stack.plan,
            acquired=stack.acquired,
            registration=stack.registration,
            simulated=(gain * own.slices_from_amplitudes.forward(appearance.amplitudes)).cpu().numpy(),
            weights=own.weights.cpu().numpy(),
            gain=gain,
            noise_sd=sd,
            contradicted=None if evidence is None else (evidence.contradicted > 0).cpu().numpy(),
            anchor_gain=None if evidence is None else evidence.anchor_gain,
        )
        for stack, own, gain, sd, evidence in zip(
            placed, observations, gains, noise_sds, evidences, strict=True
        )
    )
    return TargetFit(appearance, uncertainty, results, tuple(expected))


def _alone(observation: Observation) -> JointObservation:
    return JointObservation(observation.slices, observation.weights, observation.slices_from_amplitudes)


def rendered_result(fit: TargetFit, scaffold: SessionScaffold, config: RunConfig) -> TargetResult:
    """The amplitudes on the output grid; 0 outside the acquired field of view and the anchor's support.

    What was lost amid the slices is inferred as what lies between them; the field of view does not hold it.
    """
    anchor, stacks = scaffold.anchor, fit.stacks
    grid = output_grid(anchor.volume.grid, config.resolution)
    fov, reached = np.zeros((2, *grid.shape), dtype=bool)
    for stack in stacks:
        position = stack.registration.target_from_anchor
        fov |= covered(stack.plan, stack.acquired, position, grid)
        reached |= covered(stack.plan, stack.acquired.with_lost, position, grid)
    foreground = anchor.foreground_on(grid)
    inside = reached & anchor.support_on(grid)
    return TargetResult(
        stacks=stacks,
        appearance=fit.appearance,
        grid=grid,
        # Magnitude images have no negative intensities; the least squares fit overshoots at edges.
        sr=rendered_volume(
            fit.appearance.amplitudes, grid, inside, scaffold, config,
            floor=0.0 if all(stack.acquired.data.min() >= 0 for stack in stacks) else None,
        ),
        sd=None if fit.uncertainty is None else _rendered_sd(fit.uncertainty, grid, inside, scaffold, config),
        fov=fov,
        inside=inside,
        anchor=anchor,
        gaussians=scaffold.gaussians,
        n_shared=scaffold.n_shared,
        anchor_psnr_db=scaffold.anchor_psnr_db,
        coverage=float((fov & foreground).sum() / max(1, foreground.sum())),
    )  # fmt: skip


def _rendered_sd(
    uncertainty: Uncertainty,
    grid: Grid,
    inside: npt.NDArray[np.bool_],
    scaffold: SessionScaffold,
    config: RunConfig,
) -> npt.NDArray[np.float32]:
    """Standard deviation of the result: the draws' mean square, smoothed, and the expectation's own error."""
    draws = uncertainty.deviations.unbind(1)
    variance = np.zeros(grid.shape, np.float32)
    for draw in draws:
        variance += rendered_volume(draw, grid, inside, scaffold, config, floor=None) ** 2 / len(draws)
    # A few draws tell the variance of a voxel to a third only; its neighbours' are much alike.
    share = ndimage.gaussian_filter(inside.astype(np.float32), _SD_SMOOTHING_VOX)
    variance = ndimage.gaussian_filter(variance, _SD_SMOOTHING_VOX) / np.maximum(share, np.float32(1e-6))
    if uncertainty.expected_sd is not None:
        sd = rendered_volume(uncertainty.expected_sd, grid, inside, scaffold, config, floor=None)
        variance += sd**2
    return np.where(inside, np.sqrt(variance), np.float32(0))


def rendered_volume(
    amplitudes: Tensor,
    grid: Grid,
    inside: npt.NDArray[np.bool_],
    scaffold: SessionScaffold,
    config: RunConfig,
    *,
    floor: float | None,
) -> npt.NDArray[np.float32]:
    """The image of the amplitudes on a grid, 0 outside the mask, nowhere below the floor."""
    rendered = render(
        scaffold.gaussians,
        amplitudes,
        grid.shape,
        torch.from_numpy(grid.world_from_voxel),
        config.core.chunk_elements,
    )
    image = np.where(inside, rendered.cpu().numpy(), np.float32(0))
    return image if floor is None else np.maximum(image, np.float32(floor))


def covered(
    stack: StackPlan, acquired: Volume, target_from_anchor: npt.NDArray[np.float64], grid: Grid
) -> npt.NDArray[np.bool_]:
    """Where the slices, as thick as they are, cover a grid of the anchor's world with observed voxels."""
    reach = [0.5, 0.5, 0.5]
    reach[stack.geometry.axis] = 0.5 * stack.geometry.thickness_mm / stack.geometry.spacing_mm
    inside = fov_mask(acquired.grid, grid, target_from_anchor, (reach[0], reach[1], reach[2]))
    if acquired.observed is not None:
        observed = Volume(acquired.observed.astype(np.float32), acquired.world_from_voxel)
        inside &= resample_mask(observed, grid, target_from_anchor)
    return inside


def log_fit(appearance: Appearance, config: RunConfig, label: str) -> None:
    """Say what weight was chosen, and where the solve did not get to its tolerance."""
    held_out = ", ".join(f"{value:g}: {rms:.4g}" for value, rms in appearance.held_out_rms.items())
    logger.debug("%s: λ %g; held-out RMS %s", label, appearance.regularization, held_out or "not needed")
    if not appearance.solution.converged:
        logger.warning(
            "%s: the solve stopped at a relative residual of %.1e after %d steps, expected %.0e; "
            "raise --max-iterations",
            label, appearance.solution.relative_residual, appearance.solution.n_steps,
            config.core.appearance.tolerance,
        )  # fmt: skip


def stack_noise_sd(stack: PlacedStack, observation: Observation) -> float:
    """Noise of a stack; 1 % of its mean where it has none at all (simulations)."""
    observed = observation.weights.cpu().numpy() > 0
    sd = noise_sd(stack.acquired.data, stack.plan.geometry.axis, observed)
    least = 0.01 * float(np.abs(stack.acquired.data[observed]).mean())
    return max(sd, least) if np.isfinite(sd) else max(least, 1e-6)
