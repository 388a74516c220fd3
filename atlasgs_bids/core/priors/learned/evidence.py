"""Where the acquired slices bear a network out, and where they contradict it.

Along the slice axis nobody knows whether an edge of the anchor is one of the target, but within the slices
the same network can be asked the same question and the answer is known: is a slice, blurred along an in-plane
axis, restored better by the network or by interpolation? Where by interpolation, the network's part is taken
back along the slice axis, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.priors.expectation import Evidence
from atlasgs_bids.core.priors.learned.degradation import Degradation, along
from atlasgs_bids.core.priors.learned.inference import restore_volume
from atlasgs_bids.core.priors.learned.network import RestorationNetwork
from atlasgs_bids.core.priors.learned.prepare import PreparedStack, View

_WINDOW_SLICES = 0.5
"""σ of the neighbourhood in which slices are asked, in slice distances, within slices and across them."""
_SHARE_SD = 0.5
"""How far the share is expected to be from 1 before any slice is asked."""
_CORRELATED_VOXELS = 4.0
"""Voxels of a slice whose restorations err together."""
_CONTRADICTION = 16.0
"""Improvement of the fit, in variances of the restoration's error, from which the slices contradict."""


@dataclass
class _Sums:
    """Of errors over all views and phases."""

    counted: float = 0.0
    error: float = 0.0
    compared_error: float = 0.0
    misled_error: float = 0.0


@torch.no_grad()
def network_evidence(network: RestorationNetwork, data: PreparedStack, views: Sequence[View]) -> Evidence:
    """From the views of one stack: local regression of what interpolation misses on what the network adds.

    With d = restored − interpolated and r = acquired − interpolated, the share is the posterior mean of c in
    r = c d + error, c being 1 ± ``_SHARE_SD`` before.
    """
    n_x, n_y, n_z = data.target.shape
    products = torch.zeros(2, n_x, n_y, n_z, device=data.target.device)
    sums = _Sums()
    for view in views:
        planes = view.planes
        n_phases = len(planes.degradation.matrices)
        for phase in sorted({0, n_phases // 2}):
            only = slice(phase, phase + 1)
            one = Degradation(planes.degradation.matrices[only], planes.degradation.positions[only])
            blurred = planes.target[0] @ one.matrices[0].mT
            restored = _through(view, restore_volume(network, blurred, planes.anchor, one)[0])
            interpolated = _through(view, blurred)
            added, missed = restored - interpolated, view.acquired - interpolated
            error = ((missed - added).square() * view.counted).sum()
            for which, product in enumerate((added * missed, added.square())):
                products[which] += view.unpooled(product * view.counted, (n_x, n_y, n_z))
            sums.counted += float(view.counted.sum())
            sums.error += float(error)
            if phase == 0:
                misled = restore_volume(network, blurred, planes.anchor.flip(0, 1, 2), one)[0]
                misled_error = (_through(view, misled) - view.acquired).square() * view.counted
                sums.compared_error += float(error)
                sums.misled_error += float(misled_error.sum())
    gain = 1 - sums.compared_error / max(sums.misled_error, 1e-12)
    local, n_voxels = _local_means(products, data)
    joint, power = local / max(sums.counted / max(float(data.observed.sum()), 1.0), 1e-6)
    error_variance = max(sums.error / max(sums.counted, 1.0), 1e-12)
    variance = error_variance / max(1.0, n_voxels / _CORRELATED_VOXELS)
    prior = variance / _SHARE_SD**2
    share = ((joint + prior) / (power + prior)).clamp(0, 1)
    best = joint / power.clamp_min(1e-12)
    improvement = power * (1 - best).square() / variance
    contradicted = ((improvement > _CONTRADICTION) & (best < 0.5)).float() * data.observed
    return Evidence(share, contradicted, gain)


def _through(view: View, planes: Tensor) -> Float[Tensor, "k v u"]:
    """What the slices would show of planes."""
    return planes if view.through is None else along(view.through, planes, 0)


def lattice_share(evidence: Evidence, data: PreparedStack) -> Float[Tensor, "X Y Z"]:
    """The share in each cell of the lattice."""
    share = evidence.share
    for axis in range(3):
        share = along(data.linear(axis), share, axis)
    return share


def _local_means(
    products: Float[Tensor, "n x y z"], data: PreparedStack
) -> tuple[Float[Tensor, "n x y z"], float]:
    """Means over a Gaussian neighbourhood, and how many voxels that is."""
    weights, n_voxels = torch.ones_like(products[:1]), 1.0
    for axis in range(3):
        sigma = _WINDOW_SLICES * data.slice_distance(axis)
        n = products.shape[axis + 1]
        line = torch.arange(n, device=products.device, dtype=products.dtype)
        kernel = torch.exp(-0.5 * ((line[:, None] - line) / sigma) ** 2)
        products, weights = along(kernel, products, axis + 1), along(kernel, weights, axis + 1)
        n_voxels *= max(1.0, 2 * math.sqrt(math.pi) * sigma)
    return products / weights, n_voxels
