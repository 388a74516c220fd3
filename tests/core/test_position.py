"""Position by evidence on small problems: its gradient against differences, and a known motion."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from atlasgs_bids.core import position
from atlasgs_bids.core.acquisition import AcquisitionOperator, point_sampling, profile_sampling
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.position import PositionEvidence, find_positions
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.rigid import RigidFrame
from atlasgs_bids.core.splat.operator import SplatOperator

BOX = np.array([-1.0, 1.0]), np.array([0.0, 1.0])
SIDE = 12


class DenseLaplacian(QuadraticPrior):
    """Of a full matrix of weights, in its precision."""

    def __init__(self, weights):
        self._matrix = torch.diag(weights.sum(1)) - weights
        self.diagonal = self._matrix.diagonal()
        self.shape_in = self.shape_out = (len(weights),)

    def forward(self, x):
        return self._matrix @ x

    def adjoint(self, y):
        return self._matrix @ y

    def square_root_noise(self, seed):
        raise NotImplementedError


def stack(gaussians, slices, weights, world_from_lattice):
    n_x, n_y, n_slices = slices.shape
    acquisition = AcquisitionOperator(
        (point_sampling(n_x), point_sampling(n_y), profile_sampling(n_slices, 2.0, *BOX, 1.0)), "cpu"
    )
    return LatticeObservation(
        slices=slices,
        weights=weights,
        slice_axis=2,
        acquisition=acquisition,
        splat=SplatOperator(gaussians, acquisition.shape_in, world_from_lattice),
        world_from_lattice=world_from_lattice,
    )


@pytest.mark.parametrize("is_expected", [False, True])
def test_the_gradient_is_that_of_differences(monkeypatch, is_expected):
    """Two stacks, elongated and turned Gaussians, away from where the stacks were looked for.

    Once with amplitudes that are expected, of Gaussians that show a share of their signal each.
    """
    monkeypatch.setattr(position, "_SOLVE_TOLERANCE", 1e-12)
    monkeypatch.setattr(position, "_SOLVE_STEPS", 500)
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    n = 60
    gaussians = Gaussians(6 * uniform(n, 3), 0.6 + 0.8 * uniform(n, 3), uniform(n, 4) - 0.5, uniform(n))
    weights = uniform(n, n)
    world = torch.eye(4, dtype=torch.float64)
    stacks = [stack(gaussians, uniform(7, 7, 3), (uniform(7, 7, 3) > 0.2).double(), world) for _ in range(2)]
    more = {"expected": 3 * uniform(n), "shares": 0.5 + uniform(n)} if is_expected else {}
    evidence = PositionEvidence(
        stacks, gaussians, DenseLaplacian(weights + weights.T), 0.1, RigidFrame.of(gaussians.means_mm), **more
    )
    x = np.random.default_rng(0).normal(size=12) * 0.3
    _, gradient = evidence.value_and_gradient(x)
    step = 1e-5
    differences = [
        (evidence.value_and_gradient(x + own)[0] - evidence.value_and_gradient(x - own)[0]) / (2 * step)
        for own in step * np.eye(12)
    ]
    np.testing.assert_allclose(gradient, differences, atol=1e-7)
    np.testing.assert_allclose(evidence.block_gradients(x).sum(0), gradient, rtol=1e-9)


def test_a_turn_by_a_millimetre_moves_the_head_by_one():
    points = torch.randn(2000, 3, generator=torch.Generator().manual_seed(1)).double() * 40
    frame = RigidFrame.of(points + 100)
    for k in range(3, 6):
        motion = frame.motion(np.eye(6)[k]).numpy()
        moved = (points + 100).numpy() @ motion[:3, :3].T + motion[:3, 3] - (points + 100).numpy()
        assert np.sqrt((moved**2).sum(1).mean()) == pytest.approx(1.0, abs=0.05)


@pytest.fixture(scope="module")
def scene():
    """Blobs with sharp edges on a lattice, a graph that knows the edges, and what the lattice shows."""
    index = torch.cartesian_prod(*[torch.arange(SIDE, dtype=torch.float32)] * 3)
    centres = torch.tensor([[3.0, 4, 5], [8, 8, 4], [6, 3, 9], [4, 9, 8]])
    labels = torch.cdist(index, centres).argmin(1)
    n = len(index)
    gaussians = Gaussians(index, torch.full((n, 3), 0.65), torch.eye(4)[:1].repeat(n, 1), torch.zeros(n))
    near = torch.cdist(index, index) < 1.8
    alike = labels[:, None] == labels[None]
    prior = DenseLaplacian((near & alike).float() + 1e-3 * near.float())
    contrast = torch.tensor([1.0, 3.0, 2.0, 5.0])[labels]
    return gaussians, prior, contrast


def test_a_known_motion_is_found_and_its_error_is_told(scene, monkeypatch):
    # Of the whole in one block the gradient vanishes at the least J, and with it what is said of its error.
    monkeypatch.setattr(position, "_BLOCK_MM", 4.0)
    gaussians, prior, contrast = scene
    frame = RigidFrame.of(gaussians.means_mm)
    truth = np.array([0.5, -0.4, 0.3, 0.3, -0.2, 0.25])
    world = torch.eye(4, dtype=torch.float64)
    empty = torch.zeros(SIDE, SIDE, 6)
    weights = torch.ones_like(empty)
    weights[:2] = weights[-2:] = weights[:, :2] = weights[:, -2:] = 0.0
    weights[:, :, 0] = weights[:, :, -1] = 0.0
    where_it_is = stack(gaussians, empty, weights, frame.motion(truth) @ world)
    slices = where_it_is.slices_from_amplitudes.forward(contrast)
    noise = 0.02 * torch.randn(slices.shape, generator=torch.Generator().manual_seed(2))
    looked_for = stack(gaussians, slices + noise, weights, world)
    evidence = PositionEvidence([looked_for], gaussians, prior, 0.01, frame)
    found = find_positions(evidence)
    off = found.parameters - truth
    assert np.abs(off).max() < 0.1
    assert np.linalg.norm(truth) > 0.8
    # The covariance is that of the model's own errors: of the size of what is seen.
    expected = np.sqrt(np.trace(found.covariance))
    assert 0.2 * np.linalg.norm(off) < expected < 10 * np.linalg.norm(off) + 0.01
    # With the curvature known from before, the search ends where it did, with fewer evaluations.
    at_once = PositionEvidence([looked_for], gaussians, prior, 0.01, frame)
    again = find_positions(at_once, found.curvature)
    np.testing.assert_allclose(again.parameters, found.parameters, atol=0.03)
    assert at_once.n_evaluations < evidence.n_evaluations
    # J rises to both sides along every parameter, as its slopes and its curvature have it.
    assert again.rises is None
    assert found.rises is not None
    assert (found.rises.rises[[0, 2]] > 0).all()
    np.testing.assert_array_equal(np.sign(found.rises.slopes[[0, 2]]), [[-1.0] * 6, [1.0] * 6])
    across = (found.rises.slopes[2] - found.rises.slopes[0]) / (
        found.rises.offsets_mm[2] - found.rises.offsets_mm[0]
    )
    np.testing.assert_allclose(across, np.diag(found.curvature), rtol=1e-9)


def test_the_turn_of_a_frame_is_a_rotation():
    motion = RigidFrame(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), 50.0).motion(
        np.array([0, 0, 0, 5.0, -10.0, 2.0])
    )
    expected = Rotation.from_rotvec(np.array([5.0, -10.0, 2.0]) / 50).as_matrix()
    np.testing.assert_allclose(motion[:3, :3].numpy(), expected, atol=1e-12)
    np.testing.assert_allclose((motion @ torch.tensor([1.0, 2, 3, 1]).double())[:3], [1, 2, 3], atol=1e-12)
