"""Where the acquired slices bear the anchor out, and where they contradict it.

Along the slice axis nobody knows whether an edge of the anchor is one of the target, but within the slices
the same network can be asked the same question and the answer is known: blurred along an in-plane axis, is a
slice restored better with the anchor or without? Where without, the anchor's part is taken back along the
slice axis.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.priors.degradation import Degradation, along
from atlasgs_bids.core.priors.inference import restore_volume
from atlasgs_bids.core.priors.network import RestorationNetwork
from atlasgs_bids.core.priors.stacks import PreparedStack, View

_WINDOW_SLICES = 0.5
"""σ of the neighbourhood in which slices are asked, in slice distances, within slices and across them."""
_GATE_SD = 0.5
"""How far the anchor's part is expected to be from 1 before any slice is asked."""
_CORRELATED_VOXELS = 4.0
"""Voxels of a slice whose restorations err together."""
_CONTRADICTION = 16.0
"""Improvement of the fit, in variances of the restoration's error, from which the slices contradict."""


@dataclass(frozen=True)
class AnchorEvidence:
    """What the slices say of the anchor, on their own grid."""

    share: Float[Tensor, "x y z"]
    """Of what the anchor adds to the result, the part that the slices bear out: 0 to 1."""
    contradicted: Float[Tensor, "x y z"]
    """1 where they contradict it beyond what the restoration errs by anyway."""
    gain: float
    """1 − squared error with the anchor over that without it, over all slices."""


@torch.no_grad()
def anchor_evidence(
    network: RestorationNetwork, data: PreparedStack, views: Sequence[View]
) -> AnchorEvidence:
    """From the views of one stack: local regression of what a slice shows on what the anchor adds to it.

    With d = restored with the anchor − restored without, and r = acquired − restored without, the share is
    the posterior mean of c in r = c d + error, c being 1 ± ``_GATE_SD`` before.
    """
    n_x, n_y, n_z = data.target.shape
    shape = (n_x, n_y, n_z)
    products = torch.zeros(3, *shape, device=data.target.device)
    totals = torch.zeros(3, dtype=torch.float64)
    for view in views:
        planes = view.planes
        n_phases = len(planes.degradation.matrices)
        for phase in sorted({0, n_phases // 2}):
            one = Degradation(
                planes.degradation.matrices[phase : phase + 1],
                planes.degradation.positions[phase : phase + 1],
            )
            blurred = planes.target[0] @ one.matrices[0].mT
            seen, blind = (
                restore_volume(network, blurred, anchor, one)[0]
                for anchor in (planes.anchor, torch.zeros_like(planes.anchor))
            )
            if view.through is not None:
                seen, blind = along(view.through, seen, 0), along(view.through, blind, 0)
            added, missed = seen - blind, view.acquired - blind
            counted = view.counted
            for which, product in enumerate((added * missed, added.square(), (missed - added).square())):
                products[which] += view.unpooled(product * counted, shape)
            totals += torch.stack(
                [
                    ((missed - added).square() * counted).sum(),
                    (missed.square() * counted).sum(),
                    counted.sum(),
                ]
            ).cpu()
    n_tests = max(float(totals[2]) / max(float(data.observed.sum()), 1.0), 1e-6)
    error_variance = float(totals[0] / totals[2].clamp_min(1))
    local, n_voxels = _local_means(products, data)
    joint, power = local[0] / n_tests, local[1] / n_tests
    n_independent = max(1.0, n_voxels / _CORRELATED_VOXELS)
    variance = max(error_variance, 1e-12) / n_independent
    prior = variance / _GATE_SD**2
    share = ((joint + prior) / (power + prior)).clamp(0, 1)
    best = joint / power.clamp_min(1e-12)
    improvement = power * (1 - best).square() / variance
    contradicted = ((improvement > _CONTRADICTION) & (best < 0.5)).float() * data.observed
    return AnchorEvidence(share, contradicted, 1 - float(totals[0] / totals[1].clamp_min(1e-12)))


def lattice_share(evidence: AnchorEvidence, data: PreparedStack) -> Float[Tensor, "X Y Z"]:
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
