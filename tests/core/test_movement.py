"""Movement between shots by evidence on small problems: its gradient against differences, known movements."""

import numpy as np
import pytest
import torch

from atlasgs_bids.core import movement
from atlasgs_bids.core.acquisition import AcquisitionOperator, point_sampling, profile_sampling
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.movement import GAIN_UNIT, MovementEvidence
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.operators import Chosen
from atlasgs_bids.core.rigid import RigidFrame
from atlasgs_bids.core.shots import find_movement, gain_over_rest
from atlasgs_bids.core.splat.operator import SplatOperator
from tests.core.test_position import BOX, DenseLaplacian
from tests.helpers import assert_adjoint

SIDE = 12
N_SLICES = SIDE // 2


def one_slice(gaussians, k, motion, slices=None, weights=None, side=SIDE):
    """Slice ``k`` of 2 mm, looked for where ``motion`` has it."""
    acquisition = AcquisitionOperator(
        (point_sampling(side), point_sampling(side), profile_sampling(1, 2.0, *BOX, 1.0)), "cpu"
    )
    world = torch.eye(4, dtype=torch.float64)
    world[2, 3] = 2.0 * k
    world = motion @ world
    empty = torch.zeros(side, side, 1)
    return LatticeObservation(
        slices=empty if slices is None else slices,
        weights=torch.ones_like(empty) if weights is None else weights,
        slice_axis=2,
        acquisition=acquisition,
        splat=SplatOperator(gaussians, acquisition.shape_in, world),
        world_from_lattice=world,
    )


def test_some_elements_of_a_vector():
    chosen = Chosen(torch.tensor([3, 0, 4]), 6)
    assert_adjoint(chosen)
    assert chosen.forward(torch.arange(6.0)).tolist() == [3, 0, 4]


def test_the_gradient_is_that_of_differences(monkeypatch):
    """Three slices with positions and gains of their own, elongated and turned Gaussians, float64."""
    monkeypatch.setattr(movement, "_SOLVE_TOLERANCE", 1e-12)
    monkeypatch.setattr(movement, "_SOLVE_STEPS", 500)
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    n, still = 60, torch.eye(4, dtype=torch.float64)
    gaussians = Gaussians(6 * uniform(n, 3), 0.6 + 0.8 * uniform(n, 3), uniform(n, 4) - 0.5, uniform(n))
    graph = uniform(n, n)
    slices = [
        one_slice(gaussians, k, still, uniform(7, 7, 1), (uniform(7, 7, 1) > 0.2).double(), side=7)
        for k in range(3)
    ]
    evidence = MovementEvidence(
        slices, gaussians, DenseLaplacian(graph + graph.T), 0.1, RigidFrame.of(gaussians.means_mm)
    )
    x = np.random.default_rng(0).normal(size=(3, 7)) * 0.3
    _, gradient = evidence.value_and_gradient(x)
    differences = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-5
        values = [evidence.value_and_gradient(x + sign * step)[0] for sign in (1, -1)]
        differences[index] = (values[0] - values[1]) / 2e-5
    assert np.abs(gradient).min() > 1e-4
    np.testing.assert_allclose(gradient, differences, atol=1e-7)


@pytest.fixture(scope="module")
def scene():
    """Blobs with sharp edges on a lattice, a graph that knows the edges, and what the lattice shows."""
    index = torch.cartesian_prod(*[torch.arange(SIDE, dtype=torch.float32)] * 3)
    generator = torch.Generator().manual_seed(4)
    centres = SIDE * torch.rand(12, 3, generator=generator)
    labels = torch.cdist(index, centres).argmin(1)
    n = len(index)
    gaussians = Gaussians(index, torch.full((n, 3), 0.65), torch.eye(4)[:1].repeat(n, 1), torch.zeros(n))
    near = torch.cdist(index, index) < 1.8
    alike = labels[:, None] == labels[None]
    prior = DenseLaplacian((near & alike).float() + 1e-3 * near.float())
    contrast = (1 + 4 * torch.rand(12, generator=generator))[labels]
    return gaussians, prior, contrast, RigidFrame.of(gaussians.means_mm)


def evidence_of(scene, truth):
    """Of slices of a head that moved as ``truth`` (slices, 7) says, looked for at rest; with noise."""
    gaussians, prior, contrast, frame = scene
    weights = torch.zeros(SIDE, SIDE, 1)
    weights[2:-2, 2:-2] = 1.0
    noise = torch.Generator().manual_seed(2)
    slices = []
    for k, own in enumerate(truth):
        there = one_slice(gaussians, k, frame.motion(own[:6]))
        seen = float(np.exp(GAIN_UNIT * own[6])) * there.slices_from_amplitudes.forward(contrast)
        seen = seen + 0.04 * torch.randn(seen.shape, generator=noise)
        slices.append(one_slice(gaussians, k, torch.eye(4, dtype=torch.float64), seen, weights))
    return MovementEvidence(slices, gaussians, prior, 0.01, frame)


PACKETS = [0] * 3 + [1] * 3
"""Of the shots: even slices, then odd ones."""
SHOT_OF = [0, 3, 1, 4, 2, 5]
REST = np.zeros((N_SLICES, 7))


def test_a_head_that_lies_still_is_left_alone(scene):
    found = find_movement(evidence_of(scene, REST), SHOT_OF, PACKETS, [REST])
    np.testing.assert_array_equal(found.parameters, REST)
    assert not found.moves.any()
    assert found.gain == 0


@pytest.mark.xfail(reason="the search, which the app does not use, moves one shot more (decision 27)")
def test_one_shot_that_moved_is_found_and_the_others_are_left_alone(scene):
    truth = REST.copy()
    truth[2, :6] = [0.7, -0.6, 0.3, 0.3, -0.2, 0.6]
    found = find_movement(evidence_of(scene, truth), SHOT_OF, PACKETS, [REST])
    assert found.moves.tolist() == [k == SHOT_OF[2] for k in range(N_SLICES)]
    off = found.parameters[SHOT_OF] - truth
    assert np.linalg.norm(truth[2, :3]) > 0.9
    assert np.linalg.norm(off[2, :3]) < 0.25
    assert np.linalg.norm(off[2, :6]) < 0.5 * np.linalg.norm(truth[2])
    assert found.gain > 0
    held = find_movement(evidence_of(scene, truth), SHOT_OF, PACKETS, [REST], ~found.moves)
    assert not held.moves.any()


@pytest.mark.slow
def test_a_packet_that_moved_and_is_brighter_is_found_as_one(scene):
    truth = REST.copy()
    truth[1::2] = [0.5, 0.4, -0.5, 0.2, 0.3, -0.3, 1.0]
    found = find_movement(evidence_of(scene, truth), SHOT_OF, PACKETS, [REST])
    assert not found.moves.any()
    by_slice = found.parameters[SHOT_OF]
    np.testing.assert_array_equal(by_slice[::2], 0 * by_slice[::2] + by_slice[0])
    # Their positions differ by the truth's: where both lie, and how bright, is known less well.
    apart = by_slice[1] - by_slice[0]
    assert np.linalg.norm(apart[:6] - truth[1, :6]) < 0.25
    assert GAIN_UNIT * apart[6] == pytest.approx(0.1, abs=0.03)


def test_a_movement_that_was_is_likelier_than_rest_and_another_is_not(scene):
    wrong = np.random.default_rng(1).normal(size=REST.shape) * ([0.5] * 6 + [0.0])
    assert gain_over_rest(evidence_of(scene, REST), SHOT_OF, PACKETS, wrong) < 0
    truth = np.zeros_like(REST)
    truth[3:, :6] = [0.9, 0.8, -0.9, 0.4, 0.6, -0.6]
    evidence = evidence_of(scene, truth[SHOT_OF])
    assert gain_over_rest(evidence, SHOT_OF, PACKETS, truth) > 0
    assert gain_over_rest(evidence, SHOT_OF, PACKETS, REST) == 0
