"""How an echo-planar image is squeezed and stretched: a smooth displacement by the evidence.

A point p of the head is acquired at p + u(p) d, along the phase-encoding axis d alone, and its signal is
kept: it is spread over 1 + ∂u/∂d of its length and divided by that (Chang and Fitzpatrick 1992). So the
Gaussians are displaced and their amplitudes divided, y = A S(u) D(u) a + noise, the amplitudes staying those
of the undistorted head. u is a cubic B-spline; J of position.py, with a penalty on its bending, is least at
the u that is looked for, together with the position.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atlasgs_bids.core.bspline import ControlGrid
from atlasgs_bids.core.descent import descended
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.objective import Objective
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.operators import Diagonal
from atlasgs_bids.core.position import pull_of, scores_of
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.rigid import RigidFrame
from atlasgs_bids.core.splat.operator import SplatOperator

Array = npt.NDArray[np.float64]

LEAST_STRETCH = 0.3
"""Of 1 + ∂u/∂d: beyond it signal piles up from several places, which no map can part again."""
_SOLVE_TOLERANCE, _SOLVE_STEPS = 1e-4, 100
_ENOUGH_MM, _MOST_STEPS = 0.05, 25
_N_RIGID = 6
_PROJECTED = 0.5
"""Of the misfit's curvature, that which amplitudes of their own leave of it: a guess to step by."""


@dataclass(frozen=True)
class Stiffness:
    """Penalties on a displacement, per mm³ of the head, in units of the slices' variance."""

    bending: float
    """On Σ (∂_i ∂_j u)², mm²."""
    size: float
    """On u², mm⁻²: what the slices do not tell stays where it is."""


@dataclass(frozen=True)
class SmoothShift:
    """What displacements may be like."""

    control: ControlGrid
    direction: Array
    """Unit vector (3,) of the anchor's world along which points are displaced."""
    stiffness: Stiffness


@dataclass(frozen=True)
class FoundDeformation:
    """Where the head lay and how it was displaced, relative to where it was looked for."""

    motion: Array
    """(6,) of the lattice's motion in the anchor's world, mm (RigidFrame)."""
    control: ControlGrid
    coefficients: Array
    """(m,) of u, mm."""

    @property
    def parameters(self) -> Array:
        """(6 + m,): those of DeformationEvidence."""
        return np.concatenate([self.motion, self.coefficients])


class DeformationEvidence:
    """J and its gradient for one stack, as a function of where it lies and of how it is displaced.

    Parameters (6 + m,): the motion of its lattice, then the coefficients of u, all in mm.
    """

    def __init__(
        self,
        observation: LatticeObservation,
        gaussians: Gaussians,
        prior: QuadraticPrior,
        regularization: float,
        frame: RigidFrame,
        shift: SmoothShift,
        chunk_elements: int = 2**24,
        asked: Tensor | None = None,
    ) -> None:
        """``observation``: where the stack is looked for; its weights hold for all displacements.

        ``asked``: above 0 for voxels that are to be predicted as well.
        """
        self._term, self._gaussians, self._prior = observation, gaussians, prior
        wanted = observation.weights if asked is None else observation.weights + asked
        self._needed = observation.acquisition.adjoint(wanted) > 0
        self._regularization, self._frame, self._chunk_elements = regularization, frame, chunk_elements
        control, stiffness = shift.control, shift.stiffness
        self._direction = torch.from_numpy(np.asarray(shift.direction, np.float64)).to(gaussians.means_mm)
        self._basis = control.basis(gaussians.means_mm)
        self._slopes = control.slope_basis(gaussians.means_mm, shift.direction)
        voxel_mm3 = abs(
            float(torch.linalg.det(observation.world_from_lattice[:3, :3].double()))
            / float(torch.linalg.det(observation.acquisition.native_from_lattice[:3, :3]))
        )
        self._penalty = (stiffness.bending * control.bending() + stiffness.size * control.mass()) / voxel_mm3
        self._amplitudes: Tensor | None = None
        self.n_evaluations = 0

    def value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        """J with its penalty, and its derivatives (6 + m,)."""
        self.n_evaluations += 1
        motion, coefficients = parameters[:_N_RIGID], parameters[_N_RIGID:]
        term, splat, shares = self._at(motion, coefficients)
        amplitudes = self._amplitudes = self._solved(term, self._amplitudes)
        error = term.slices_from_amplitudes.forward(amplitudes) - term.slices
        value = self._regularization * float((amplitudes * self._prior.forward(amplitudes)).sum())
        value += float((term.weights * error.square()).sum(dtype=torch.float64))
        by_cell = term.acquisition.adjoint(2 * term.weights * error)
        pull = pull_of(splat, by_cell, shares * amplitudes)
        by_motion = scores_of(pull, splat.gaussians, self._frame, motion).sum(0).cpu().numpy()
        # A share is one over the stretch: it falls by its square with it, unless the stretch is at its least.
        by_stretch = -shares.square() * (shares < 1 / LEAST_STRETCH) * amplitudes * pull.by_amplitude
        by_control = self._basis.adjoint(pull.force @ self._direction) + self._slopes.adjoint(by_stretch)
        held = self._penalty @ coefficients
        gradient = np.concatenate([by_motion, by_control.double().cpu().numpy() + 2 * held])
        return value + float(coefficients @ held), gradient

    def predicted(self, parameters: Array) -> Tensor:
        """The slices as the amplitudes of the least J at these parameters have them."""
        term, _, _ = self._at(parameters[:_N_RIGID], parameters[_N_RIGID:])
        return term.slices_from_amplitudes.forward(self._solved(term, None))

    def steps(self) -> Array:
        """(6 + m, 6 + m): an inverse of J's curvature, as it is guessed before anything is known.

        That of the misfit with fixed amplitudes, from the slope of what the Gaussians draw along the axis.
        """
        term = self._term
        amplitudes = self._amplitudes = self._solved(term, self._amplitudes)
        image = term.splat.forward(amplitudes) * self._needed
        lattice_direction = (
            torch.linalg.inv(term.world_from_lattice[:3, :3].double()) @ self._direction.cpu().double()
        )
        slope = sum(
            float(along) * torch.gradient(image, dim=axis)[0]
            for axis, along in enumerate(lattice_direction)
            if image.shape[axis] > 1
        )
        assert isinstance(slope, Tensor)
        seen = term.acquisition.forward(slope * self._needed)
        by_gaussian = 2 * _PROJECTED * float((term.weights * seen.square()).sum()) / len(self._gaussians)
        basis = self._basis.as_matrix()
        misfit = by_gaussian * (basis.T @ basis).toarray()
        curvature = misfit + 2 * self._penalty
        curvature[np.diag_indices(len(curvature))] += 1e-3 * by_gaussian
        inverse = np.zeros((_N_RIGID + len(curvature), _N_RIGID + len(curvature)))
        inverse[:_N_RIGID, :_N_RIGID] = np.eye(_N_RIGID) / (by_gaussian * len(self._gaussians))
        inverse[_N_RIGID:, _N_RIGID:] = np.linalg.inv(curvature)
        return inverse

    def _solved(self, term: LatticeObservation, start: Tensor | None) -> Tensor:
        """The amplitudes of the least J where the stack lies."""
        objective = Objective((term,), self._prior, self._regularization)
        return objective.solve(start, _SOLVE_TOLERANCE, _SOLVE_STEPS).value

    def _at(self, motion: Array, coefficients: Array) -> tuple[LatticeObservation, SplatOperator, Tensor]:
        """The stack there, how it shows the displaced Gaussians, and the factor on the amplitude of each."""
        along = torch.from_numpy(coefficients).to(self._gaussians.means_mm)
        shift_mm, stretch = self._basis.forward(along), 1 + self._slopes.forward(along)
        shares = 1 / stretch.clamp_min(LEAST_STRETCH)
        displaced = replace(
            self._gaussians, means_mm=self._gaussians.means_mm + shift_mm[:, None] * self._direction
        )
        world_from_lattice = self._frame.motion(motion) @ self._term.world_from_lattice.double()
        own = SplatOperator(
            displaced, self._term.lattice_shape, world_from_lattice, self._needed, self._chunk_elements
        )
        term = replace(self._term, splat=own @ Diagonal(shares), world_from_lattice=world_from_lattice)
        return term, own, shares


def find_deformation(
    evidence: DeformationEvidence, start: FoundDeformation, most_steps: int = _MOST_STEPS
) -> FoundDeformation:
    """The least J near ``start``, whose control points are the evidence's, to a twentieth of a millimetre."""
    reached = descended(
        evidence.value_and_gradient, start.parameters, evidence.steps(), _ENOUGH_MM, most_steps
    )
    return replace(start, motion=reached.x[:_N_RIGID], coefficients=reached.x[_N_RIGID:])
