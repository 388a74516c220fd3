"""Training pairs of the learned prior: planes that are sharp, blurred along one of their axes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atlasgs_bids.core.priors.learned.degradation import Degradation, Sampling, along, degradation

HELD_OUT_SIDE = 12
"""Of the blocks that are kept from training to measure the error on, voxels."""


@dataclass(frozen=True)
class Batch:
    """Windows of ``w`` neighbouring planes; only the middle ones are to be restored."""

    blurred: Float[Tensor, "b w v u"]
    anchor: Float[Tensor, "b w v u"]
    sharp: Float[Tensor, "b v u"]
    weights: Float[Tensor, "b v u"]
    degradations: Float[Tensor, "b u u"]
    positions: Float[Tensor, "b 2 u"]


@dataclass(frozen=True)
class Planes:
    """A volume (w, v, u) that is sharp along u, seen as planes (v, u) to be blurred along u."""

    target: Float[Tensor, "phases w v u"]
    """For each phase of a blur along v that stays; one, where there is none."""
    anchor: Float[Tensor, "w v u"]
    weights: Float[Tensor, "w v u"]
    """1: counts in training."""
    degradation: Degradation

    def batch(self, choices: Int[Tensor, "b 6"], window: int, reach: int) -> Batch:
        """``choices``: plane, start of the window along v, phases along u and v, flips of both."""
        plane, start, phase, v_phase, flip_u, flip_v = choices.unbind(1)
        n_w, n_v, n_u = self.anchor.shape
        device = choices.device
        w = plane[:, None] + torch.arange(-reach, reach + 1, device=device)
        v = start[:, None] + torch.arange(min(window, n_v), device=device)
        u = torch.arange(n_u, device=device).expand(len(choices), -1)
        v = torch.where(flip_v[:, None] == 1, v.flip(1), v)
        u = torch.where(flip_u[:, None] == 1, u.flip(1), u)
        index = w.clamp(0, n_w - 1)[:, :, None, None], v[:, None, :, None], u[:, None, None, :]
        sharp = self.target[v_phase[:, None, None, None], index[0], index[1], index[2]]
        D = self.degradation.matrices[phase]
        middle = plane[:, None, None], v[:, :, None], u[:, None, :]
        return Batch(
            blurred=sharp @ D[:, None].mT,
            anchor=self.anchor[index],
            sharp=sharp[:, reach],
            weights=self.weights[middle],
            degradations=D,
            positions=self.degradation.positions[phase],
        )

    def choose(self, n: int, window: int, generator: torch.Generator) -> Int[Tensor, "n 6"]:
        """Windows drawn in proportion to the voxels in them that count."""
        mass = self.weights.sum(2).unfold(1, min(window, self.weights.shape[1]), 1).sum(2).cpu()
        flat = torch.multinomial(mass.flatten(), n, replacement=True, generator=generator)
        n_phases, n_v_phases = len(self.degradation.matrices), len(self.target)
        columns = [flat // mass.shape[1], flat % mass.shape[1]]
        columns += [torch.randint(high, (n,), generator=generator) for high in (n_phases, n_v_phases, 2, 2)]
        return torch.stack(columns, dim=1)


def make_planes(
    target: Float[Tensor, "w v u"],
    anchor: Float[Tensor, "w v u"],
    weights: Float[Tensor, "w v u"],
    along_u: Sampling,
    along_v: Sampling | None = None,
) -> Planes:
    """Planes to be blurred by ``along_u``; they stay blurred by ``along_v``, in input and truth."""
    phases = target[None]
    if along_v is not None:
        matrices = degradation(along_v, target.shape[1]).matrices.to(target.device)
        phases = torch.stack([along(D, target, 1) for D in matrices])
    return Planes(
        phases.contiguous(),
        anchor.contiguous(),
        weights.contiguous(),
        degradation(along_u, target.shape[2]).to(target.device),
    )


def pooled(x: Float[Tensor, "w v u"], n: int) -> Float[Tensor, "w v m"]:
    """Means of ``n`` neighbours along the last axis; what does not fill a group is dropped."""
    n_groups = x.shape[2] // n
    return x[..., : n_groups * n].reshape(*x.shape[:2], n_groups, n).mean(3)


def held_out_blocks(
    shape: tuple[int, int, int], n_slices: int, fraction: float, generator: torch.Generator
) -> Float[Tensor, "k v u"]:
    """1 in a random ``fraction`` of the blocks of ``n_slices`` slices.

    A block is about as deep as it is wide: next to a slice that is trained on, nothing is really held out.
    """
    sides = (n_slices, HELD_OUT_SIDE, HELD_OUT_SIDE)
    n_blocks = [-(-n // side) for n, side in zip(shape, sides, strict=True)]
    blocks = (torch.rand(n_blocks, generator=generator) < fraction).float()
    for axis, side in enumerate(sides):
        blocks = blocks.repeat_interleave(side, axis).narrow(axis, 0, shape[axis])
    return blocks


def fill_unobserved(
    slices: Float[Tensor, "k v u"], observed: Float[Tensor, "k v u"], reach: int = 4
) -> Float[Tensor, "k v u"]:
    """Mean of the observed neighbours within the slice where a voxel is not observed; 0 far from them."""
    size = 2 * reach + 1
    kept = torch.where(observed > 0, slices, 0.0)
    sums, counts = (
        torch.nn.functional.avg_pool2d(x[:, None], size, stride=1, padding=reach)[:, 0]
        for x in (kept, observed)
    )
    return torch.where(observed > 0, slices, sums / counts.clamp_min(1 / (2 * size**2)))
