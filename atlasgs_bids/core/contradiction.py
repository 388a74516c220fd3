"""Where slices contradict the anchor or the image, slice voxel by slice voxel (docs/decisions/0037-flags.md).

Three signs, each at the scale of a lesion. Something unforeseen: neither the other slices nor the anchor's
intensities foretell what a slice shows, and both err to the same side. Something missing: the anchor has
contrast where the slices have hardly any of either sign. Something lost: the image does not explain a slice.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from atlasgs_bids.core.local_error import HeldOut
from atlasgs_bids.core.local_means import LocalMeans
from atlasgs_bids.core.observation import LatticeObservation

_SPOT_MM = 0.8
"""σ over which errors are averaged: a lesion of 3 mm and more."""
_UNFORESEEN_BY_SLICES, _UNFORESEEN_BY_ANCHOR = 4.5, 3.0
"""Errors over what is usual, from which neither foretells a voxel."""
_AROUND_MM = 6.0
"""σ within which the anchor's errors tell what is usual for it there."""
_BORDER_MM = 1.5
"""σ of the window whose contrast is compared."""
_MISSING = 1.2
"""How far below the usual contrast a window's is, natural log: at most 0.3 of it."""
_LEAST_CONTRAST = 0.2
"""Of the anchor's standard deviation, from which a window of it has contrast."""
_LOST = 16.0
"""Residuals of the fit over what is usual."""
_LEAST_LOST = 0.02
"""Of the slices' standard deviation, what a residual has to be."""
_LEAST_MM3, _LEAST_VOXELS = 20.0, 3
"""Of a cluster; a ball of 3 mm has 14 mm³, and a slice spreads it."""
_SURROUNDINGS_MM = (2.0, 5.0)
"""σ of the anchor's local means by which its intensity is mapped, beside itself."""
_N_KNOTS, _N_KNOTS_AROUND = 16, 8
_ROUNDS, _MOST_FITTED = 4, 60_000
_RIDGE = 1e-6

Native = Float[Tensor, "x y z"]


def contradiction_of(
    observation: LatticeObservation,
    amplitudes: Float[Tensor, "*n"],
    anchor: Float[Tensor, "*n"],
    held_out: HeldOut,
) -> Native:
    """By how much image or anchor and slices differ where they contradict each other, else 0.

    Of one stack, on its own voxels, in the intensities of the amplitudes; ``anchor``: its amplitudes on the
    same Gaussians.
    """
    own = observation.without_gain()
    guide = own.splat.forward(anchor)
    observed = held_out.observed
    around = LocalMeans(voxel_mm(own), own.slice_axis, observed)
    simulated = own.acquisition.forward(own.splat.forward(amplitudes))
    mapped = mapped_anchor(own, guide, observed)
    signs = [
        _unforeseen(held_out, own.slices - mapped, around),
        _missing(own, own.acquisition.forward(guide), mapped, observed, around),
        _lost(own.slices - simulated, own.slices, observed, around),
    ]
    amount = torch.stack(signs).amax(0)
    return amount * without_small(amount > 0, voxel_mm(own))


def voxel_mm(observation: LatticeObservation) -> tuple[float, float, float]:
    """Spacing of the slices' voxels along each axis."""
    steps = observation.acquisition.native_from_lattice.diagonal()[:3].tolist()
    x, y, z = (size / step for size, step in zip(observation.cell_mm, steps, strict=True))
    return x, y, z


def _unforeseen(held_out: HeldOut, unmapped: Native, around: LocalMeans) -> Native:
    """Error of the held-out prediction where it, and the anchor's, is far beyond what is usual.

    ``unmapped``: what the anchor's intensities leave of the slices.
    """
    observed = held_out.observed
    error = -around.mean(held_out.error, _SPOT_MM)
    by_slices = _over_usual(error / around.mean(held_out.sd, _SPOT_MM).clamp_min(1e-12), observed)
    usual = around.mean(unmapped.square(), _AROUND_MM).sqrt().clamp_min(1e-12)
    by_anchor = _over_usual(around.mean(unmapped, _SPOT_MM) / usual, observed)
    found = observed & (by_slices.abs() > _UNFORESEEN_BY_SLICES) & (by_anchor.abs() > _UNFORESEEN_BY_ANCHOR)
    return error.abs() * (found & (by_slices * by_anchor > 0))


def _missing(
    own: LatticeObservation, guide: Native, mapped: Native, observed: Tensor, around: LocalMeans
) -> Native:
    """Contrast that slices usually have beside the anchor's, where they have hardly any of it.

    Of the two that are expected, by the anchor's own contrast and by that of its mapped intensities, the
    lesser one counts: two tissues may be alike in the target.
    """
    strong = observed & (around.contrast(guide, _BORDER_MM) > _LEAST_CONTRAST * guide[observed].std())
    if not strong.any():
        return torch.zeros_like(guide)
    contrast = (around.contrast(own.slices, _BORDER_MM).square() + own.noise_sd**2).sqrt().clamp_min(1e-12)
    expected = torch.full_like(guide, torch.inf)
    for image in (guide, mapped):
        foretold = around.contrast(image, _BORDER_MM).clamp_min(1e-12)
        expected = torch.minimum(expected, foretold * _usual_ratio(contrast, foretold, strong))
    found = strong & (contrast < math.exp(-_MISSING) * _usual_ratio(contrast, expected, strong) * expected)
    return expected * found


def _usual_ratio(contrast: Native, foretold: Native, strong: Tensor) -> Tensor:
    return (contrast[strong] / foretold[strong]).median()


def _lost(residual: Native, slices: Native, observed: Tensor, around: LocalMeans) -> Native:
    """Residuals of the fit far beyond what is usual; without noise that may be next to nothing."""
    spot = around.mean(residual, _SPOT_MM)
    seen = observed & (spot.abs() > _LEAST_LOST * slices[observed].std())
    return spot.abs() * (seen & (_over_usual(spot, observed).abs() > _LOST))


def _over_usual(image: Native, observed: Tensor) -> Native:
    """Over the standard deviation that half of the voxels are within 0.67 of."""
    return image / (1.4826 * image[observed].abs().median()).clamp_min(1e-12)


def mapped_anchor(own: LatticeObservation, guide: Float[Tensor, "X Y Z"], observed: Tensor) -> Native:
    """The slices as the anchor's intensities foretell them, 0 where nothing is observed.

    A sum of piecewise linear maps of the anchor and of its local means, each seen through the slices, and of
    a slow shading: least squares, with voxels that err by more than twice the usual counting less (Huber).
    """
    acquisition = own.acquisition
    inside = acquisition.adjoint(observed.to(own.slices)) > 0
    lattice = LocalMeans(own.cell_mm, own.slice_axis, inside)
    columns, places = [], observed.flatten().nonzero().squeeze(1)
    for image, n_knots in (
        (guide, _N_KNOTS),
        *((lattice.mean(guide, sigma_mm), _N_KNOTS_AROUND) for sigma_mm in _SURROUNDINGS_MM),
    ):
        columns += [
            acquisition.forward(hat * inside).flatten()[places] for hat in _hats(image, inside, n_knots)
        ]
    columns += _shading(observed, acquisition.forward(guide)[observed])
    design = torch.stack(columns, 1)
    every = max(1, len(design) // _MOST_FITTED)
    part, seen = design[::every].double(), own.slices[observed][::every].double()
    weights, solved = torch.ones_like(seen), torch.zeros_like(part[0])
    for _ in range(_ROUNDS):
        weighted = part * weights[:, None]
        normal = weighted.T @ part
        ridge = _RIDGE * normal.diagonal() + 1e-3 * _RIDGE * normal.trace()
        solved = torch.linalg.solve(normal + torch.diag(ridge), weighted.T @ seen)
        error = (seen - part @ solved).abs()
        weights = (2 * 1.4826 * error.median() / error.clamp_min(1e-12)).clamp_max(1)
    found = torch.zeros_like(own.slices)
    found[observed] = design @ solved.to(design)
    return found


def _hats(image: Float[Tensor, "X Y Z"], inside: Tensor, n_knots: int) -> Sequence[Tensor]:
    """Piecewise linear functions of the image that are 1 at one of its quantiles and 0 at the others."""
    values = image[inside]
    values = values[:: max(1, len(values) // _MOST_FITTED)].sort().values
    places = torch.linspace(0.01, 0.99, n_knots, device=values.device) * (len(values) - 1)
    knots = torch.unique(torch.cat([values[:1], values[places.long()]]))
    if len(knots) < 2:
        return [torch.ones_like(image)]
    upper = torch.bucketize(image.clamp(knots[0], knots[-1]).contiguous(), knots).clamp(1, len(knots) - 1)
    low, high = knots[upper - 1], knots[upper]
    position = upper - 1 + ((image - low) / (high - low)).clamp(0, 1)
    return [(1 - (position - k).abs()).clamp_min(0) for k in range(len(knots))]


def _shading(observed: Tensor, guide: Float[Tensor, " m"]) -> list[Float[Tensor, " m"]]:
    """Place, alone, squared, and times the anchor."""
    found = []
    for axis, n in enumerate(observed.shape):
        shape = [1, 1, 1]
        shape[axis] = -1
        line = torch.linspace(-1, 1, n, device=guide.device, dtype=guide.dtype)
        place = line.reshape(shape).expand(observed.shape)[observed]
        found += [place, place.square(), place * guide / guide.abs().mean().clamp_min(1e-12)]
    return found


def without_small(flagged: Bool[Tensor, "x y z"], size_mm: Sequence[float]) -> Bool[Tensor, "x y z"]:
    """Without the clusters, over corners too, that are smaller than a lesion in a slice."""
    labels, n = ndimage.label(flagged.cpu().numpy(), np.ones((3, 3, 3)))
    if n == 0:
        return flagged
    counts = np.bincount(labels.ravel())
    large = (counts * float(np.prod(size_mm)) >= _LEAST_MM3) & (counts >= _LEAST_VOXELS)
    large[0] = False
    return torch.from_numpy(large[labels]).to(flagged.device)
