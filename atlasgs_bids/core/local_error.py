"""Where a fit errs, and how far, from slices that it did not see (docs/decisions/0028-local-error.md).

Every other slice is predicted from the rest, then the others from these. What their errors say is spread over
the volume by what goes with an error wherever it was measured: how uncertain slices and graph alone are, how
steep the image is along the slice axis, how wrong the neighbours' prediction was; and by the contrast that
the anchor does not have. The first three are weighed by the errors themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import optimize
from torch import Tensor

from atlasgs_bids.core.acquisition import along_axis
from atlasgs_bids.core.gaussians import Gaussians, world_points
from atlasgs_bids.core.local_means import STEEP_MM, LocalMeans, gaussian_kernel
from atlasgs_bids.core.objective import Objective, held_out_rows
from atlasgs_bids.core.observation import LatticeObservation, Observation
from atlasgs_bids.core.priors.expectation import sample_lattice
from atlasgs_bids.core.settings import AppearanceSettings

LEAST_SLICES = 6
"""Slices of a stack below which none can be spared."""
_LEAST_REGULARIZATION = 0.03
"""λ of the predictions: at a smaller one what lies far from a slice is not reached, and errors are twice
as large as those of the image; at it they are 0.83 to 1.14 times those (mean square, 14 cases)."""
BEYOND_SLICES = 1.4
"""Variance of a voxel's error over that of a held-out slice's voxel."""
_OWN_SHARE = 0.4
"""Of the variance, that which goes by the contrast that the anchor does not have."""
_NORMAL_90 = 1.645
_INSIDE = 0.9
_OWN_MM, _MISSED_MM = 1.5, 1.2
"""σ over which the anchor's missing contrast, and the errors within slices, are averaged."""
_AIR = 0.05
"""Of the anchor's 99th percentile: below it there is no tissue; CSF has a tenth of it in a T1w."""
_LEAST_TISSUE = 0.1
"""Of what the slices show, the part that is tissue at least; with less the anchor does not tell."""
_ROUNDS = 8
_OUTSIDE = 1e-6
"""Relative weight of a stack where no slice of it reaches."""


@dataclass(frozen=True)
class HeldOut:
    """The slices of one stack, each predicted from others, in the intensities of the amplitudes."""

    error: Float[Tensor, "x y z"]
    sd: Float[Tensor, "x y z"]
    """Standard deviation that is expected of the error, its noise apart."""
    contrast: Float[Tensor, "x y z"]
    """Local standard deviation of the image, seen through the slices."""
    observed: Bool[Tensor, "x y z"]
    slice_axis: int


@dataclass(frozen=True)
class LocalError:
    """Of the image on the lattice of one stack."""

    variance: Float[Tensor, "X Y Z"]
    unguided: Float[Tensor, "X Y Z"]
    """Squared contrast that the anchor does not have, over its mean inside."""
    contrast: Float[Tensor, "X Y Z"]
    """Local standard deviation of the image."""
    inside: Bool[Tensor, "X Y Z"]
    """Cells that the observed voxels are made of; elsewhere the others hold their mean."""
    held_out: HeldOut


def local_errors(
    objective: Objective,
    observations: Sequence[LatticeObservation],
    amplitudes: Float[Tensor, "n *k"],
    anchor: Float[Tensor, " n"],
    draws: Float[Tensor, "n probes"],
    settings: AppearanceSettings,
) -> list[LocalError] | None:
    """Of each stack of the objective's first term; None where a stack has too few slices.

    ``amplitudes``: of the image, or of k images, over which errors are then expected to be spread on average.
    ``anchor``: its amplitudes on the same Gaussians. ``draws``: of the posterior, for their variance.
    """
    folds = _predictions(objective, settings)
    if folds is None or any(_n_observed(own) < LEAST_SLICES for own in observations):
        return None
    rows, found, first = folds[0][0], [], 0
    for observation in observations:
        own = observation.without_gain()
        n_rows = own.slices.shape[own.slice_axis]
        held_out = [rows[first : first + n_rows], ~rows[first : first + n_rows]]
        first += n_rows
        predicted = [(of, prediction) for of, (_, prediction) in zip(held_out, folds, strict=True)]
        found.append(_local_error(own, amplitudes, anchor, draws, predicted))
    return found


def at_gaussians(
    images: Sequence[Float[Tensor, "X Y Z"]],
    errors: Sequence[LocalError],
    observations: Sequence[LatticeObservation],
    gaussians: Gaussians,
) -> Float[Tensor, " n"]:
    """Images on the stacks' lattices at the Gaussians' means: the mean of the stacks that reach them."""
    total = torch.zeros_like(gaussians.amplitudes)
    weights = torch.zeros_like(total)
    for image, error, observation in zip(images, errors, observations, strict=True):
        lattice_from_world = torch.linalg.inv(observation.world_from_lattice.double()).to(total)
        means_vox = world_points(gaussians.means_mm, lattice_from_world)
        own = sample_lattice(error.inside.to(total), means_vox).clamp_min(_OUTSIDE)
        total += own * sample_lattice(image, means_vox)
        weights += own
    return total / weights


def _n_observed(observation: LatticeObservation) -> int:
    seen = torch.movedim(observation.weights > 0, observation.slice_axis, 0)
    return int(seen.flatten(1).any(1).sum())


def _predictions(
    objective: Objective, settings: AppearanceSettings
) -> list[tuple[Bool[Tensor, " slices"], Tensor]] | None:
    """Which rows were held out, and the amplitudes that the others give; for each half of the slices."""
    observed = objective.terms[0]
    rows = held_out_rows(observed)
    if rows is None:
        return None
    alone = replace(
        objective, centre=None, regularization=max(objective.regularization, _LEAST_REGULARIZATION)
    )
    found = []
    for out in (rows, ~rows):
        kept = observed.weights * ~_as_rows(out, observed)
        trial = replace(alone, terms=(replace(observed, weights=kept),))
        solution = trial.solve(None, settings.search_tolerance, settings.max_iterations)
        found.append((out, solution.value))
    return found


def _local_error(
    observation: LatticeObservation,
    amplitudes: Tensor,
    anchor: Tensor,
    draws: Tensor,
    folds: Sequence[tuple[Tensor, Tensor]],
) -> LocalError:
    own, acquisition = observation, observation.acquisition
    images = [own.splat.forward(column) for column in amplitudes.reshape(len(anchor), -1).unbind(1)]
    guide = own.splat.forward(anchor)
    inside = acquisition.adjoint((own.weights > 0).to(own.slices)) > 0
    tissue = _tissue(guide, inside)
    observed = (own.weights > 0) & (acquisition.forward(tissue.to(own.slices)) > 0.5)
    lattice = LocalMeans(own.cell_mm, own.slice_axis, tissue)
    uncertain = torch.zeros_like(guide)
    for draw in draws.unbind(1):
        uncertain += own.splat.forward(draw).square()
    uncertain = lattice.mean(uncertain, STEEP_MM)
    error, steep = torch.zeros_like(own.slices), torch.zeros_like(own.slices)
    for rows, prediction in folds:
        out = _as_rows(rows, own)
        fitted = own.splat.forward(prediction)
        error = torch.where(out, acquisition.forward(fitted) - own.slices, error)
        steep = torch.where(out, acquisition.forward(lattice.steepness(fitted)), steep)
    missed = _in_plane_mean(error.square(), observed, own)
    patterns = [acquisition.forward(uncertain), steep, _of_neighbours(missed, own.slice_axis)]
    seen = [pattern[observed] for pattern in patterns]
    shares, total, expected = _weighed(seen, error[observed], own.noise_sd)
    steepness = _mean([lattice.steepness(image) for image in images])
    everywhere = [uncertain, steepness, _spread(missed, observed, own)]
    variance = lattice.shared(everywhere, shares)
    alone = _mean([(image - lattice.explained(image, guide)).square() for image in images])
    unguided = lattice.shared([lattice.mean(alone, _OWN_MM)], [1.0])
    variance = (1 - _OWN_SHARE) * variance + _OWN_SHARE * unguided
    sd = torch.zeros_like(own.slices)
    sd[observed] = expected.sqrt()
    contrast = _mean([lattice.contrast(image).square() for image in images]).sqrt()
    held_out = HeldOut(error, sd, acquisition.forward(contrast), observed, own.slice_axis)
    return LocalError(BEYOND_SLICES * total * variance, unguided, contrast, inside, held_out)


def _mean(images: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(images)).mean(0)


def _tissue(guide: Tensor, inside: Tensor) -> Tensor:
    """Cells inside in which the anchor has signal: air errs by nothing, and its border is no contrast."""
    values = guide[inside].sort().values
    tissue = inside & (guide > _AIR * float(values[int(0.99 * (len(values) - 1))]))
    return tissue if int(tissue.sum()) > _LEAST_TISSUE * len(values) else inside


def _as_rows(rows: Tensor, observation: Observation) -> Tensor:
    """Flags of slices, along the slice axis of their weights."""
    shape = [1] * observation.weights.ndim
    shape[observation.slice_axis] = -1
    return rows.reshape(shape)


def _weighed(
    patterns: Sequence[Float[Tensor, " m"]], error: Float[Tensor, " m"], noise_sd: float
) -> tuple[list[float], float, Float[Tensor, " m"]]:
    """Shares of the patterns in the variance of the errors, its mean, and what it is expected to be.

    Non-negative least squares of error² − noise², each weighted by the variance that it is expected to have;
    the mean is such that 90 % of the errors are within 1.645 σ, and at least that of the first pattern.
    """
    means = [max(float(pattern.mean()), 1e-20) for pattern in patterns]
    columns = torch.stack([pattern / mean for pattern, mean in zip(patterns, means, strict=True)], 1).double()
    squared = error.double().square() - noise_sd**2
    expected = torch.ones_like(squared)
    parts = np.zeros(len(patterns))
    for _ in range(_ROUNDS):
        weighted = columns / expected[:, None]
        normal = (weighted.T @ weighted).cpu().numpy() + 1e-9 * np.eye(len(patterns))
        right = (weighted.T @ (squared / expected)).cpu().numpy()
        root = np.linalg.cholesky(normal)
        parts = optimize.nnls(root.T, np.linalg.solve(root, right))[0]
        if not parts.any():
            parts[0] = 1e-12
        expected = columns @ torch.from_numpy(parts).to(columns) + noise_sd**2
        expected = expected.clamp_min(float(expected.mean()) * 1e-3)
    ratio = (error.double().square() / expected).sort().values
    scale = float(ratio[int(_INSIDE * (len(ratio) - 1))]) / _NORMAL_90**2
    total = max(scale * float(parts.sum()), means[0])
    shares = parts / parts.sum()
    local = total * (columns @ torch.from_numpy(shares).to(columns))
    return shares.tolist(), total, local.to(error)


def _of_neighbours(image: Tensor, slice_axis: int) -> Tensor:
    """Mean of the slices beside each; of the one beside an end."""
    rows = torch.movedim(image, slice_axis, 0)
    padded = torch.cat([rows[1:2], rows, rows[-2:-1]])
    return torch.movedim((padded[:-2] + padded[2:]) / 2, 0, slice_axis)


def _in_plane_mean(image: Tensor, observed: Tensor, own: LatticeObservation) -> Tensor:
    """Over a neighbourhood within each slice, of its observed voxels."""
    total, share = image * observed, observed.to(image)
    scale = own.acquisition.native_from_lattice.diagonal()[:3].tolist()
    for axis, (size, step) in enumerate(zip(own.cell_mm, scale, strict=True)):
        if axis != own.slice_axis:
            kernel = gaussian_kernel(total.shape[axis], _MISSED_MM * step / size, total)
            total, share = along_axis(kernel, total, axis), along_axis(kernel, share, axis)
    return total / share.clamp_min(1e-3)


def _spread(missed: Tensor, observed: Tensor, own: LatticeObservation) -> Tensor:
    """On the lattice: of the two slices beside a cell, each as near as it is; pixels as they are."""
    acquisition = own.acquisition
    weights = observed.to(missed)
    total = missed * weights
    for axis in range(3):
        n_native, n_cells = missed.shape[axis], acquisition.shape_in[axis]
        step, first = (float(acquisition.native_from_lattice[axis, k]) for k in (axis, 3))
        at = first + step * torch.arange(n_cells, device=missed.device, dtype=missed.dtype)
        distance = (at[:, None] - torch.arange(n_native, device=missed.device)).abs()
        linear = (1 - distance).clamp_min(1e-6)
        total, weights = along_axis(linear, total, axis), along_axis(linear, weights, axis)
    return total / weights.clamp_min(1e-12)
