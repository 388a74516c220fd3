"""Where an image may be believed: conformal risk control over slices that a fit did not see.

A voxel is believed where the standard deviation of its error is at most a bound times half the local
contrast, the contrast being the standard deviation of the image around it (RMS contrast). The bound is the
largest at which, of the believed voxels of held-out slices, at most a tenth err by more than half the
contrast (Angelopoulos et al. 2024, arXiv 2404.15274; docs/decisions/0029-trusted-mask.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.local_error import HeldOut

RISK = 0.1
"""Of the believed voxels, those that may be wrong."""
_LEAST_BELIEVED = 0.02
"""Part of the voxels from which a share of wrong ones among them means anything."""


@dataclass(frozen=True)
class Trust:
    """What the mask of trust is made from, and what held-out slices say of it."""

    bound: float
    """Largest sd over half the local contrast that is believed; 0: nothing is."""
    half_contrast: Float[Tensor, " n"]
    """At the Gaussians."""
    risk: float
    """Wrong ones among the believed voxels of the held-out slices."""
    risk_everywhere: float
    """Wrong ones among all their voxels."""
    n_slices: int


def trust_of(stacks: Sequence[HeldOut], contrast: Float[Tensor, " n"]) -> Trust:
    """The bound from all held-out slices; each counts as one observation of the risk."""
    half_contrast = contrast / 2
    ratios, wrong, slices, n_slices = [], [], [], 0
    for stack in stacks:
        observed, numbers = stack.observed, _slice_numbers(stack)
        half = stack.contrast[observed].clamp_min(1e-12) / 2
        ratios.append(stack.sd[observed] / half)
        wrong.append(stack.error[observed].abs() > half)
        slices.append(numbers[observed] + n_slices)
        n_slices += stack.error.shape[stack.slice_axis]
    ratio, is_wrong = torch.cat(ratios), torch.cat(wrong).double()
    n_seen = int((torch.cat(slices).bincount() > 0).sum())
    order = ratio.argsort()
    believed = torch.arange(1, len(ratio) + 1, device=ratio.device, dtype=torch.float64)
    share = is_wrong[order].cumsum(0) / believed
    everywhere = float(is_wrong.mean())
    allowed = ((n_seen * share + 1) / (n_seen + 1) <= RISK).nonzero().flatten()
    last = int(allowed[-1]) if len(allowed) else 0
    if last < _LEAST_BELIEVED * len(share):
        return Trust(0.0, half_contrast, 0.0, everywhere, n_seen)
    return Trust(float(ratio[order[last]]), half_contrast, float(share[last]), everywhere, n_seen)


def _slice_numbers(stack: HeldOut) -> Tensor:
    shape = [1, 1, 1]
    shape[stack.slice_axis] = -1
    numbers = torch.arange(stack.error.shape[stack.slice_axis], device=stack.error.device)
    return numbers.reshape(shape).expand(stack.error.shape)
