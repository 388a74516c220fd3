"""The evidence for where the head was in each slice: J of core/position.py, a position and gain for each."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.gaussians import CUTOFF, Gaussians
from atlasgs_bids.core.objective import Objective
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.operators import Chosen
from atlasgs_bids.core.position import motion_scores
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.rigid import RigidFrame
from atlasgs_bids.core.splat.operator import SplatOperator

N_PARAMETERS = 7
GAIN_UNIT = 0.1
"""Of log gain: the seventh parameter counts it as a millimetre of movement."""
_SOLVE_TOLERANCE, _SOLVE_STEPS = 1e-4, 100
"""With 1e-3, amplitudes stay where they were for a step before, and the gradient with them."""
_BESIDE_MM = 0.5
BLOCK_MM = 16.0
"""Side of the blocks whose residuals are taken to be independent, as for the position of a stack."""
_COLOURS = 3
"""Every third slice is moved at once: those so far apart hardly know of one another."""

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class MovementEvidence:
    """J and its gradient for single slices, as functions of where the head was in each, and of its gain."""

    def __init__(
        self,
        slices: Sequence[LatticeObservation],
        gaussians: Gaussians,
        prior: QuadraticPrior,
        regularization: float,
        frame: RigidFrame,
        chunk_elements: int = 2**24,
    ) -> None:
        """``slices``: in their order, where they are looked for; weights hold for all positions."""
        self._terms = list(slices)
        self._needed = [term.acquisition.adjoint(term.weights) > 0 for term in self._terms]
        self._gaussians, self._prior, self._regularization = gaussians, prior, regularization
        self._frame, self._chunk_elements = frame, chunk_elements
        self._reach_mm = CUTOFF * float(gaussians.scales_mm.max())
        self._amplitudes: Tensor | None = None
        cells = torch.div(gaussians.means_mm - gaussians.means_mm.amin(0), BLOCK_MM).long()
        self._block = torch.unique(cells, dim=0, return_inverse=True)[1]
        self._spread = np.zeros((len(self._terms), 6, 6))
        self.n_evaluations = 0

    @property
    def spread(self) -> Float[np.ndarray, "slices 6 6"]:
        """Of the last gradient by positions: its square, if what single blocks contribute is independent."""
        return self._spread

    @property
    def n_pixels(self) -> Float[np.ndarray, " slices"]:
        """How many of each slice are observed."""
        return np.array([float((term.weights > 0).sum()) for term in self._terms])

    def value_and_gradient(
        self, parameters: Float[np.ndarray, "slices 7"]
    ) -> tuple[float, Float[np.ndarray, "slices 7"]]:
        """J, and its derivatives. A factor common to all gains changes nothing."""
        self.n_evaluations += 1
        log_gains = parameters[:, 6] - parameters[:, 6].mean()
        moved = [
            self._moved(number, x, float(np.exp(GAIN_UNIT * log_gain)))
            for number, (x, log_gain) in enumerate(zip(parameters[:, :6], log_gains, strict=True))
        ]
        objective = Objective(tuple(term for term, *_ in moved), self._prior, self._regularization)
        amplitudes = objective.solve(self._amplitudes, _SOLVE_TOLERANCE, _SOLVE_STEPS).value
        self._amplitudes = amplitudes
        value = self._regularization * float((amplitudes * self._prior.forward(amplitudes)).sum())
        gradient = np.zeros(parameters.shape)
        for number, (term, splat, members) in enumerate(moved):
            predicted = term.slices_from_amplitudes.forward(amplitudes)
            error = predicted - term.slices
            value += float((term.weights * error.square()).sum(dtype=torch.float64))
            force = 2 * term.weights * error
            by_cell = term.acquisition.adjoint(term.gain * force)
            scores = motion_scores(splat, by_cell, amplitudes[members], self._frame, parameters[number, :6])
            blocks = torch.zeros(int(self._block.max()) + 1, 6, dtype=torch.float64, device=scores.device)
            blocks = blocks.index_add_(0, self._block[members], scores)
            self._spread[number] = (blocks.T @ blocks).cpu().numpy()
            gradient[number, :6] = scores.sum(0).cpu().numpy()
            gradient[number, 6] = GAIN_UNIT * float((force * predicted).sum(dtype=torch.float64))
        gradient[:, 6] -= gradient[:, 6].mean()
        return value, gradient

    def curvature(self, parameters: Float[np.ndarray, "slices 7"]) -> Float[np.ndarray, "slices 7 slices 7"]:
        """Of J, from the gradients half a millimetre away; 0 between slices that are no neighbours."""
        _, here = self.value_and_gradient(parameters)
        n = len(parameters)
        found = np.zeros((n, N_PARAMETERS, n, N_PARAMETERS))
        for first in range(_COLOURS):
            for k in range(N_PARAMETERS):
                beside = parameters.copy()
                beside[first::_COLOURS, k] += _BESIDE_MM
                change = (self.value_and_gradient(beside)[1] - here) / _BESIDE_MM
                for moved in range(first, n, _COLOURS):
                    near = slice(max(moved - 1, 0), moved + 2)
                    found[near, :, moved, k] = change[near]
        return np.asarray(0.5 * (found + found.transpose(2, 3, 0, 1)))

    def _moved(self, number: int, x: Array, gain: float) -> tuple[LatticeObservation, SplatOperator, Tensor]:
        """A slice with the head elsewhere, how it shows some of the Gaussians, and which of them."""
        term = self._terms[number]
        world_from_lattice = self._frame.motion(x) @ term.world_from_lattice.double()
        axis, means = term.slice_axis, self._gaussians.means_mm
        lattice_from_world = torch.linalg.inv(world_from_lattice).to(means)
        along = means @ lattice_from_world[axis, :3] + lattice_from_world[axis, 3]
        reach = self._reach_mm * float(lattice_from_world[axis, :3].norm())
        members = ((along > -reach) & (along < term.lattice_shape[axis] - 1 + reach)).nonzero().squeeze(1)
        part = Gaussians(**{name: value[members] for name, value in vars(self._gaussians).items()})
        own = SplatOperator(
            part, term.lattice_shape, world_from_lattice, self._needed[number],
            self._chunk_elements,
        )  # fmt: skip
        splat = own @ Chosen(members, len(means))
        moved = replace(term, splat=splat, world_from_lattice=world_from_lattice, gain=gain)
        return moved, own, members
