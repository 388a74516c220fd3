"""Training pairs of the learned prior: acquired planes, blurred once more along one of their axes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atlasgs_bids.core.priors.degradation import Degradation, Sampling, along, degradation

_HELD_OUT_BLOCK = 12
"""Side, in voxels, of the squares that are kept from training to measure the error on."""


@dataclass(frozen=True)
class Batch:
    blurred: Float[Tensor, "b v u"]
    anchor: Float[Tensor, "b v u"]
    sharp: Float[Tensor, "b v u"]
    weights: Float[Tensor, "b v u"]
    degradations: Float[Tensor, "b u u"]
    positions: Float[Tensor, "b 2 u"]


@dataclass(frozen=True)
class Planes:
    """Acquired planes (k, v, u), to be blurred along u."""

    target: Float[Tensor, "phases k v u"]
    """For each phase of the blur along v that stays (one, where v is as fine as the lattice)."""
    anchor: Float[Tensor, "k v u"]
    weights: Float[Tensor, "k v u"]
    """1: seen in training."""
    held_out: Float[Tensor, "k v u"]
    """1: kept from training."""
    degradation: Degradation

    def batch(self, choices: Int[Tensor, "b 6"], width: int, *, held_out: bool) -> Batch:
        """Windows of ``width`` along v; ``choices``: plane, start, phases along u and v, flips of both."""
        plane, start, phase, v_phase, flip_u, flip_v = choices.unbind(1)
        v = start[:, None] + torch.arange(width, device=choices.device)
        v = torch.where(flip_v[:, None] == 1, v.flip(1), v)
        n_u = self.anchor.shape[-1]
        u = torch.arange(n_u, device=choices.device).expand(len(choices), -1)
        u = torch.where(flip_u[:, None] == 1, u.flip(1), u)
        index = plane[:, None, None], v[:, :, None], u[:, None, :]
        sharp = self.target[v_phase[:, None, None], plane[:, None, None], v[:, :, None], u[:, None, :]]
        D = self.degradation.matrices[phase]
        weights = (self.held_out if held_out else self.weights)[index]
        return Batch(sharp @ D.mT, self.anchor[index], sharp, weights, D, self.degradation.positions[phase])

    def choose(self, n: int, width: int, generator: torch.Generator, *, held_out: bool) -> Int[Tensor, "n 6"]:
        """Windows drawn in proportion to what they hold of the observed voxels."""
        weights = (self.held_out if held_out else self.weights).sum(2)
        mass = weights.unfold(1, width, 1).sum(2).cpu()
        flat = torch.multinomial(mass.flatten(), n, replacement=True, generator=generator)
        n_phases, n_v_phases = len(self.degradation.matrices), len(self.target)
        columns = [flat // mass.shape[1], flat % mass.shape[1]]
        columns += [torch.randint(high, (n,), generator=generator) for high in (n_phases, n_v_phases, 2, 2)]
        return torch.stack(columns, dim=1)


def make_planes(
    target: Float[Tensor, "k v u"],
    anchor: Float[Tensor, "k v u"],
    observed: Float[Tensor, "k v u"],
    held_out: Float[Tensor, "k v u"],
    along_u: Sampling,
    along_v: Sampling,
) -> Planes:
    device = target.device
    if along_v.is_identity:
        phases = target[None]
    else:
        phases = torch.stack(
            [along(D, target, 1) for D in degradation(along_v, target.shape[1]).matrices.to(device)]
        )
    D_u = degradation(along_u, target.shape[2]).to(device)
    training, measured = observed * (1 - held_out), observed * held_out
    if not (bool(training.any()) and bool(measured.any())):
        training = measured = (
            observed  # too few voxels to spare any: the error is measured where it was trained
        )
    return Planes(phases.contiguous(), anchor.contiguous(), training, measured, D_u)


def held_out_squares(
    shape: tuple[int, int, int], fraction: float, generator: torch.Generator
) -> Float[Tensor, "k v u"]:
    """1 in a random ``fraction`` of the squares of every plane."""
    n_k, n_v, n_u = shape
    n_blocks = (n_k, -(-n_v // _HELD_OUT_BLOCK), -(-n_u // _HELD_OUT_BLOCK))
    blocks = (torch.rand(n_blocks, generator=generator) < fraction).float()
    return blocks.repeat_interleave(_HELD_OUT_BLOCK, 1).repeat_interleave(_HELD_OUT_BLOCK, 2)[:, :n_v, :n_u]


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
