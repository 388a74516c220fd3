"""Where the head lay: the rigid position at which the model's evidence is greatest, and how certain that is.

J(x) = min_a Σ_s ‖A_s S(x_s) a − y_s‖²_W + λ aᵀ L a is the least that slices and graph cost together if the
head lay at x. A wrong position costs because the anchor's edges, which the graph lets the target cross only
at a price, no longer lie on the target's: no map from one contrast to the other is needed. By the envelope
theorem the gradient is that of the misfit at the minimising a, so one solve gives all of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.descent import Point, descended, positive_inverse
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.objective import Objective
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.operators import Diagonal
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.rigid import Parameters, RigidFrame, left_jacobian
from atlasgs_bids.core.splat.operator import SplatOperator

_SOLVE_TOLERANCE, _SOLVE_STEPS = 1e-4, 100
"""At 1e-3 the amplitudes of a position nearby pass for those of this one: its gradient is theirs."""
_TINY = 1e-300
_BESIDE_MM = 0.5
"""To both sides along each parameter, where J is asked for beside its least value."""
_LONGEST_NEWTON_MM = 0.1
_BLOCK_MM = 16.0
"""Side of the blocks whose residuals are taken to be independent; within one, model errors are alike."""


@dataclass(frozen=True)
class Rises:
    """J along each parameter through its least value, as a part of that."""

    offsets_mm: Float[np.ndarray, " k"]
    rises: Float[np.ndarray, "k n"]
    """J over its least value, less 1."""
    slopes: Float[np.ndarray, "k n"]
    """Its derivative, mm⁻¹."""


@dataclass(frozen=True)
class FoundPositions:
    """Where the stacks of a target lie, relative to where they were looked for."""

    parameters: Parameters
    """(6 n): those of a motion of each stack's lattice in the anchor's world, mm."""
    curvature: Parameters
    """(6 n, 6 n) of J over its least value, mm⁻²."""
    covariance: Parameters
    """(6 n, 6 n) of the parameters, mm²."""
    rises: Rises | None
    """None where the curvature was given."""


class PositionEvidence:
    """J and its gradient for the stacks of one target, as functions of where each of them lies."""

    def __init__(
        self,
        observations: Sequence[LatticeObservation],
        gaussians: Gaussians,
        prior: QuadraticPrior,
        regularization: float,
        frame: RigidFrame,
        chunk_elements: int = 2**24,
        expected: Float[Tensor, " n"] | None = None,
        shares: Float[Tensor, " n"] | None = None,
    ) -> None:
        """``observations``: of the stacks where they are looked for; their weights hold for all positions.

        ``expected``: amplitudes a₀ from which the graph counts, λ (a − a₀)ᵀ L (a − a₀); None: from 0.
        ``gaussians`` are where the slices show them, and ``shares`` of their signal; None: all of it.
        """
        self._expected, self._shares = expected, shares
        self._terms = [own.beside(observations[0].noise_sd) for own in observations]
        self._needed = [term.acquisition.adjoint(term.weights) > 0 for term in self._terms]
        self._gaussians, self._prior, self._regularization = gaussians, prior, regularization
        self.frame, self._chunk_elements = frame, chunk_elements
        self._amplitudes: Tensor | None = None
        self._last: tuple[Parameters, float, list[Tensor]] | None = None
        self.n_evaluations = 0

    @property
    def n_stacks(self) -> int:
        """How many positions there are: parameters come as (6 n,)."""
        return len(self._terms)

    def amplitudes(self, parameters: Parameters) -> Float[Tensor, " n"]:
        """a that minimises J at a position."""
        self._scored(parameters)
        assert self._amplitudes is not None
        return self._amplitudes

    def predicted(self, parameters: Parameters, amplitudes: Float[Tensor, " n"]) -> list[Tensor]:
        """What amplitudes would show in each stack at a position."""
        parts = np.split(np.asarray(parameters, np.float64), self.n_stacks)
        return [
            self._moved(term, needed, x)[0].slices_from_amplitudes.forward(amplitudes)
            for term, needed, x in zip(self._terms, self._needed, parts, strict=True)
        ]

    def value_and_gradient(self, parameters: Parameters) -> tuple[float, Parameters]:
        """J, and its derivative by the parameters (6 n,), mm⁻¹ of J's unit."""
        value, scores = self._scored(parameters)
        return value, np.concatenate([score.sum(0).cpu().numpy() for score in scores])

    def scores(self, parameters: Parameters) -> list[Float[Tensor, "n 6"]]:
        """For each stack, what each Gaussian contributes to the gradient by its position."""
        return self._scored(parameters)[1]

    def block_gradients(self, parameters: Parameters) -> npt.NDArray[np.float64]:
        """(blocks, 6 n): the gradient in parts, one for each block of the head."""
        _, scores = self._scored(parameters)
        cells = torch.div(self._gaussians.means_mm - self._gaussians.means_mm.amin(0), _BLOCK_MM).long()
        _, block = torch.unique(cells, dim=0, return_inverse=True)
        sums = torch.zeros(int(block.max()) + 1, 6 * len(scores), dtype=torch.float64, device=block.device)
        return sums.index_add_(0, block, torch.cat(scores, dim=1)).cpu().numpy()

    def _scored(self, parameters: Parameters) -> tuple[float, list[Float[Tensor, "n 6"]]]:
        """J, and what each Gaussian contributes to its gradient by the position of each stack."""
        if self._last is not None and np.array_equal(parameters, self._last[0]):
            return self._last[1:]
        self.n_evaluations += 1
        parts = np.split(np.asarray(parameters, np.float64), self.n_stacks)
        moved = [
            self._moved(term, needed, x)
            for term, needed, x in zip(self._terms, self._needed, parts, strict=True)
        ]
        terms = [term for term, _ in moved]
        objective = Objective(tuple(terms), self._prior, self._regularization, self._expected)
        start = self._expected if self._amplitudes is None else self._amplitudes
        amplitudes = objective.solve(start, _SOLVE_TOLERANCE, _SOLVE_STEPS).value
        self._amplitudes = amplitudes
        unexpected = amplitudes if self._expected is None else amplitudes - self._expected
        value = self._regularization * float((unexpected * self._prior.forward(unexpected)).sum())
        shown = amplitudes if self._shares is None else self._shares * amplitudes
        scores = []
        for (term, splat), x in zip(moved, parts, strict=True):
            error = term.slices_from_amplitudes.forward(amplitudes) - term.slices
            value += float((term.weights * error.square()).sum(dtype=torch.float64))
            by_cell = term.acquisition.adjoint(2 * term.weights * error)
            scores.append(motion_scores(splat, by_cell, shown, self.frame, x))
        self._last = np.array(parameters), value, scores
        return value, scores

    def _moved(
        self, term: LatticeObservation, needed: Tensor, x: Parameters
    ) -> tuple[LatticeObservation, SplatOperator]:
        """A stack with the head elsewhere, and how its lattice shows the Gaussians, without shares."""
        world_from_lattice = self.frame.motion(x) @ term.world_from_lattice.double()
        own = SplatOperator(
            self._gaussians, term.lattice_shape, world_from_lattice, needed, self._chunk_elements
        )
        splat = own if self._shares is None else own @ Diagonal(self._shares)
        return replace(term, splat=splat, world_from_lattice=world_from_lattice), own


@dataclass(frozen=True)
class Pull:
    """Derivatives of Σ F · S a, F an image on the lattice, by each Gaussian: shift, quaternion, amplitude."""

    force: Float[Tensor, "n 3"]
    by_quaternion: Float[Tensor, "n 4"]
    by_amplitude: Float[Tensor, " n"]


def pull_of(splat: SplatOperator, by_cell: Float[Tensor, "x y z"], amplitudes: Float[Tensor, " n"]) -> Pull:
    """What an image on the lattice pulls each of the Gaussians that ``splat`` shows by."""
    return Pull(*splat.gradients(amplitudes, by_cell))


def motion_scores(
    splat: SplatOperator,
    by_cell: Float[Tensor, "x y z"],
    amplitudes: Float[Tensor, " n"],
    frame: RigidFrame,
    x: Parameters,
) -> Float[Tensor, "n 6"]:
    """∂/∂x of Σ ``by_cell`` · S(x) a split by Gaussian: a lattice that moves is Gaussians that move back.

    ``splat``: S, where x has moved the lattice.
    """
    return scores_of(pull_of(splat, by_cell, amplitudes), splat.gaussians, frame, x)


def scores_of(pull: Pull, gaussians: Gaussians, frame: RigidFrame, x: Parameters) -> Float[Tensor, "n 6"]:
    """What a pull does along the six parameters of the lattice's motion, split by Gaussian."""
    means, quaternions = gaussians.means_mm.double(), gaussians.quaternions.double()
    shift = torch.from_numpy(x[:3]).to(means.device)
    arm = means - (frame.centre_mm.to(means.device) + shift)
    force = pull.force.double()
    torque = torch.linalg.cross(arm, force) + _turning(pull.by_quaternion.double(), quaternions)
    # From a small turn after the motion to a change of its rotation vector.
    jacobian = left_jacobian(x[3:] / frame.radius_mm).to(means.device) / frame.radius_mm
    return -torch.cat([force, torque @ jacobian], dim=1)


def find_positions(
    evidence: PositionEvidence,
    curvature: Parameters | None = None,
    start: Parameters | None = None,
    enough_mm: float = 0.01,
) -> FoundPositions:
    """The least J near ``start`` (None: where the stacks were looked for), to ``enough_mm``.

    ``curvature``: that of J over its value from a search at another scale, to step by; None: found once there
    from the gradients half a millimetre to both sides. The covariance is H⁻¹ C H⁻¹ with C from the gradients
    of blocks that are taken to be independent: the model's errors are no white noise.
    """
    start = np.zeros(6 * evidence.n_stacks) if start is None else start
    inverse, rises = None, None
    if curvature is not None:
        inverse = positive_inverse(curvature) / max(evidence.value_and_gradient(start)[0], _TINY)
    reached = descended(evidence.value_and_gradient, start, inverse, enough_mm)
    x, value, gradient = reached.x, reached.value, reached.gradient
    if curvature is None:
        rises, curvature = _surroundings(evidence, reached)
        newton = -positive_inverse(curvature) @ gradient / value
        if np.abs(newton).max() < _LONGEST_NEWTON_MM:
            x = x + newton
    inverse = positive_inverse(curvature) / value
    blocks = evidence.block_gradients(x)
    return FoundPositions(x, curvature, inverse @ (blocks.T @ blocks) @ inverse, rises)


def _surroundings(evidence: PositionEvidence, least: Point) -> tuple[Rises, Parameters]:
    """J to both sides of a point along each parameter, and its curvature over its value."""
    n, scale = len(least.x), max(least.value, _TINY)
    rises, slopes, gradients = np.zeros((3, n)), np.zeros((3, n)), np.zeros((2, n, n))
    slopes[1] = least.gradient / scale
    for side, sign in enumerate((-1, 1)):
        for k in range(n):
            value, gradient = evidence.value_and_gradient(least.x + sign * _BESIDE_MM * np.eye(n)[k])
            rises[2 * side, k], slopes[2 * side, k] = value / scale - 1, gradient[k] / scale
            gradients[side, k] = gradient
    curvature = (gradients[1] - gradients[0]) / (2 * _BESIDE_MM * scale)
    offsets_mm = np.array([-_BESIDE_MM, 0.0, _BESIDE_MM])
    return Rises(offsets_mm, rises, slopes), 0.5 * (curvature + curvature.T)


def _turning(by_quaternion: Float[Tensor, "n 4"], quaternions: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3"]:
    """Derivative by a small turn of each Gaussian from that by its quaternion: dq = ½ (0, θ) q."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=1).unbind(1)
    length = quaternions.norm(dim=1)
    gw, gx, gy, gz = (by_quaternion * length[:, None]).unbind(1)
    return 0.5 * torch.stack(
        [
            -gw * x + gx * w - gy * z + gz * y,
            -gw * y + gx * z + gy * w - gz * x,
            -gw * z - gx * y + gy * x + gz * w,
        ],
        dim=1,
    )
