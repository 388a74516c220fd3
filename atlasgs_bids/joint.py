"""Stacks of one contrast as one observation of the same amplitudes, each with its own gain and noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.appearance import fit_appearance
from atlasgs_bids.core.operators import LinearOperator, SliceRows, StackedOperator
from atlasgs_bids.core.priors.graph import QuadraticPrior
from atlasgs_bids.core.settings import AppearanceSettings
from atlasgs_bids.imaging.grid import fov_mask
from atlasgs_bids.observation import Observation

_GAIN_LIMITS = (0.2, 5.0)


@dataclass(frozen=True)
class JointObservation:
    """Several observations below each other, a row for each slice; the slice axis is 0."""

    slices: Float[Tensor, "n p 1"]
    weights: Float[Tensor, "n p 1"]
    slices_from_amplitudes: LinearOperator


def join(
    observations: Sequence[Observation],
    slice_axes: Sequence[int],
    gains: Sequence[float],
    noise_sds: Sequence[float],
) -> JointObservation:
    """The joint problem Σ_s (σ_0/σ_s)² ‖g_s A_s S a − y_s‖²: the first stack's noise is the unit."""
    stacks = list(zip(observations, slice_axes, strict=True))
    n_pixels = max(own.slices.numel() // own.slices.shape[axis] for own, axis in stacks)
    rows = [SliceRows(tuple(own.slices.shape), axis, n_pixels) for own, axis in stacks]
    pairs = list(zip(rows, observations, strict=True))
    scales = [(noise_sds[0] / noise_sd) ** 2 for noise_sd in noise_sds]
    weights = [row.forward(own.weights) for row, own in pairs]
    return JointObservation(
        slices=torch.cat([row.forward(own.slices) for row, own in pairs]),
        weights=torch.cat([scale * own for scale, own in zip(scales, weights, strict=True)]),
        slices_from_amplitudes=StackedOperator(
            [row @ own.slices_from_amplitudes for row, own in pairs], gains
        ),
    )


def estimate_gains(
    observations: Sequence[Observation],
    slice_axes: Sequence[int],
    prior: QuadraticPrior,
    settings: AppearanceSettings,
) -> list[float]:
    """Intensity of each stack over that of the first, where both saw the same.

    The first stack's own solution predicts the others; a ratio of sums, since noise in the prediction would
    pull a regression coefficient towards 0.
    """
    first = observations[0]
    middle = settings.regularization or sorted(settings.candidates)[len(settings.candidates) // 2]
    quick = replace(settings, regularization=middle, tolerance=settings.search_tolerance)
    amplitudes = fit_appearance(
        first.slices_from_amplitudes, first.slices, first.weights, prior, slice_axes[0], quick
    ).amplitudes
    gains = [1.0]
    for observation in observations[1:]:
        shared = torch.from_numpy(fov_mask(first.native, observation.native)).to(observation.weights)
        shared *= observation.weights
        predicted = float((shared * observation.slices_from_amplitudes.forward(amplitudes)).sum())
        seen = float((shared * observation.slices).sum())
        gain = seen / predicted if predicted > 0 else 1.0
        gains.append(float(np.clip(gain, *_GAIN_LIMITS)) if seen > 0 else 1.0)
    return gains
