"""Where in the head slices and anchor fit better if moved against each other (docs/decisions/0037-flags.md).

The evidence of position.py, split by patches of the head: what the slices pull a patch by, from the solve
where they lie, and how that pull changes when they are moved by a millimetre to either side. One Newton step
is the shift that a patch prefers, and what its blocks differ by is its standard error.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import special

from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.position import PositionEvidence

_STEP_MM = 16.0
"""Between the centres of patches, and side of the blocks whose pulls are taken to be independent."""
_PATCH_MM = 10.0
"""σ of a patch: nine tenths of it lie within 25 mm."""
_REACH = 3.0
"""σ of a patch beyond which Gaussians count nothing."""
_BESIDE_MM = 1.0
_LEAST_PATCH = 0.35
"""Of the fullest patch: with less head in it, it says nothing."""
_LEAST_BLOCKS = 3.0
_LEAST_CURVATURE = 0.05
"""Of the largest, along a direction in which a patch is all alike."""
_SHIFTED_MM, _SURE = 1.0, 2.0
"""What a shift has to exceed, by how many standard errors."""
_TOLD_MM = 0.5
"""Median standard error of the patches, from which on a shift of a millimetre is not told from chance."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LocalShifts:
    """On a lattice of patches in the anchor's world, axes as the world's."""

    first_mm: Array
    """(3,) corner of the first patch's cell, whose side is ``step_mm``."""
    step_mm: float
    shift_mm: npt.NDArray[np.float64]
    """(a, b, c, 3): by which the slices show the head elsewhere than the anchor has it; NaN: not told."""
    error_mm: npt.NDArray[np.float64]
    """(a, b, c): standard error of its length."""

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """(a, b, c): by more than a millimetre, by two standard errors."""
        length = np.linalg.norm(self.shift_mm, axis=-1)
        return np.asarray(length - _SHIFTED_MM > _SURE * self.error_mm)

    @property
    def tells(self) -> bool:
        """Whether the slices tell where patches lie: half of them to half a millimetre."""
        known = self.error_mm[np.isfinite(self.shift_mm).all(-1)]
        return len(known) > 0 and float(np.median(known)) < _TOLD_MM

    def cells_of(self, points_mm: Array) -> npt.NDArray[np.int64]:
        """(n, 3) cell that each point of the anchor's world lies in; the nearest one outside of all."""
        cells = np.floor((points_mm - self.first_mm) / self.step_mm).astype(np.int64)
        return np.clip(cells, 0, np.array(self.error_mm.shape) - 1)


def local_shifts(evidence: PositionEvidence, gaussians: Gaussians) -> LocalShifts:
    """Of one stack: seven evaluations of its evidence. ``gaussians``: those of the evidence."""
    pulls = {(0, 0): _pulls(evidence, np.zeros(3))}
    for axis in range(3):
        for side in (-1, 1):
            pulls[axis, side] = _pulls(evidence, side * _BESIDE_MM * np.eye(3)[axis])
    here = pulls[0, 0]
    slopes = [(pulls[axis, 1] - pulls[axis, -1]) / (2 * _BESIDE_MM) for axis in range(3)]
    means = gaussians.means_mm.cpu()
    first = means.amin(0)
    shape = tuple(int(n) for n in torch.div(means.amax(0) - first, _STEP_MM).floor().long() + 1)
    cells = torch.div(means - first, _STEP_MM).floor().long()
    filled, blocks = torch.unique(cells, dim=0, return_inverse=True)
    masses, n_blocks = np.zeros(shape), len(filled)
    shift, error = np.full((*shape, 3), np.nan), np.full(shape, np.nan)
    for cell in filled:
        index = tuple(cell.tolist())
        centre = first + _STEP_MM * (cell.to(means) + 0.5)
        squares = (means - centre).square().sum(1)
        own = (squares < (_REACH * _PATCH_MM) ** 2).nonzero().squeeze(1)
        weights = torch.exp(-0.5 * squares[own] / _PATCH_MM**2).double()
        masses[index] = float(weights.sum())
        pull = (weights @ here[own]).numpy()
        curvature = np.stack([(weights @ slope[own]).numpy() for slope in slopes], axis=1)
        values, vectors = np.linalg.eigh(0.5 * (curvature + curvature.T))
        if not values[-1] > 0:
            continue
        values = np.maximum(values, _LEAST_CURVATURE * values[-1])
        inverse = (vectors / values) @ vectors.T
        # What the blocks pull by beyond their part of the whole patch: that they disagree is the error.
        beyond = weights[:, None] * (here[own] - torch.from_numpy(pull).to(here) / masses[index])
        sums = torch.zeros(n_blocks, 3, dtype=torch.float64)
        shifted = (sums.index_add_(0, blocks[own], beyond) @ torch.from_numpy(inverse)).numpy()
        moved = -inverse @ pull
        shift[index] = -moved
        direction = moved / max(float(np.linalg.norm(moved)), 1e-12)
        own_masses = torch.zeros_like(sums[:, 0]).index_add_(0, blocks[own], weights)
        n_own = float(own_masses.sum().square() / own_masses.square().sum())
        error[index] = _of_few(n_own) * np.sqrt(((shifted @ direction) ** 2).sum())
    hardly = masses < _LEAST_PATCH * masses.max()
    shift[hardly], error[hardly] = np.nan, np.nan
    return LocalShifts(first.double().numpy(), _STEP_MM, shift, error)


def _of_few(n: float) -> float:
    """By how much a standard error from so many blocks grows for two of it to hold 95 % (Student)."""
    if n < _LEAST_BLOCKS:
        return np.inf
    return float(special.stdtrit(n - 1, 0.975) / special.ndtri(0.975) * np.sqrt(n / (n - 1)))


def _pulls(evidence: PositionEvidence, shift_mm: Array) -> torch.Tensor:
    """(n, 3) derivative of J by the stack's shift, by Gaussian; on the CPU, whose sums keep an order."""
    (scores,) = evidence.scores(np.concatenate([shift_mm, np.zeros(3)]))
    return scores[:, :3].cpu()
