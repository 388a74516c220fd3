"""The matrix of Gaussian pairs against dense algebra, and the products that it saves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.appearance import fit_appearance, fit_guarded_appearance
from atlasgs_bids.core.gram import gram_matrices
from atlasgs_bids.core.observation import Observation
from atlasgs_bids.core.operators import Identity, LinearOperator, Scaled, SliceRows, StackedOperator
from atlasgs_bids.core.priors.graph import GraphLaplacian
from atlasgs_bids.core.settings import AppearanceSettings, GraphSettings
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.uncertainty import graph_uncertainty
from tests.helpers import random_gaussians

N, EXTENT_MM, PIXEL_MM = 60, 12.0, 0.8
SETTINGS = AppearanceSettings()


class _Counted(LinearOperator):
    """An operator, how many images went through it, and how often its matrix was made."""

    def __init__(self, op: LinearOperator) -> None:
        self._op, self.shape_in, self.shape_out = op, op.shape_in, op.shape_out
        self.n_images = self.n_matrices = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_images += x[0].numel()
        return self._op.forward(x)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        self.n_images += y[0, 0, 0].numel()
        return self._op.adjoint(y)

    def as_matrix(self):
        self.n_matrices += 1
        return self._op.as_matrix()


@pytest.fixture(scope="module")
def gaussians():
    torch.manual_seed(0)
    return random_gaussians(N, EXTENT_MM, dtype=torch.float32)


def slices_op(gaussians, slice_axis, matrix_gib=2.0):
    """Slices of 1.5 mm, 15 x 15 pixels, some lattice voxels left out."""
    shape, sizes_mm = [15] * 3, [PIXEL_MM] * 3
    shape[slice_axis], sizes_mm[slice_axis] = 8, 1.5
    box = np.array([-1.0, 1.0]), np.array([0.0, 1.0])  # thicker than their distance: cells are shared
    acquisition = AcquisitionOperator(
        slice_sampling(tuple(shape), tuple(sizes_mm), slice_axis, box, 0.8), "cpu"
    )
    world_from_native = torch.diag(torch.tensor([*sizes_mm, 1.0], dtype=torch.float64))
    needed = torch.rand(acquisition.shape_in) < 0.9
    world_from_lattice = world_from_native @ acquisition.native_from_lattice
    splat = SplatOperator(gaussians, acquisition.shape_in, world_from_lattice, needed, matrix_gib=matrix_gib)
    return acquisition @ splat


def joint_op(gaussians):
    """Two orthogonal stacks, one of them brighter, as rows of unequal length."""
    parts = [slices_op(gaussians, axis) for axis in (2, 0)]
    rows = [SliceRows(part.shape_out, axis, 230) for part, axis in zip(parts, (2, 0), strict=True)]
    return StackedOperator([rows[0] @ parts[0], rows[1] @ Scaled(parts[1], 1.7)])


@pytest.mark.parametrize("make", [lambda g: slices_op(g, 1), joint_op], ids=["one stack", "joint stacks"])
def test_gram_is_the_product_of_the_operators(gaussians, make):
    op = make(gaussians)
    weights = torch.rand(op.shape_out) * (torch.rand(op.shape_out) < 0.7)
    dense = torch.stack([op.forward(row).flatten() for row in torch.eye(N)], dim=1).double()
    expected = dense.T @ (weights.reshape(-1, 1) * dense)
    gram = gram_matrices(op, weights)
    torch.testing.assert_close(gram.of(weights).to_dense().double(), expected, rtol=1e-4, atol=1e-5)
    # One more W, and the first one again.
    halved = weights * (torch.rand(op.shape_out) < 0.5)
    expected = dense.T @ (halved.reshape(-1, 1) * dense)
    torch.testing.assert_close(gram.of(halved).to_dense().double(), expected, rtol=1e-4, atol=1e-5)
    assert gram.of(weights.clone()) is gram.of(weights)


def test_few_voxels_or_too_large_a_matrix_have_no_gram(gaussians):
    op = slices_op(gaussians, 2)
    few = torch.zeros(op.shape_out)
    few.view(-1)[: 8 * N - 1] = 1
    assert gram_matrices(op, few) is None
    few.view(-1)[8 * N] = 1
    assert gram_matrices(op, few) is not None
    direct = slices_op(gaussians, 2, matrix_gib=0.0)
    assert gram_matrices(direct, torch.ones(direct.shape_out)) is None
    assert gram_matrices(Identity((N,)) @ Identity((N,)), torch.ones(8 * N)) is None


def test_fine_pixels_cost_a_handful_of_products(gaussians):
    """λ, fit, calibration and draws: 15 images through the operator, however many steps their solves have."""
    op = _Counted(slices_op(gaussians, 2))
    prior = GraphLaplacian(gaussians, torch.zeros(N, 1), GraphSettings(6))
    slices = op.forward(torch.rand(N)) + 0.05 * torch.randn(op.shape_out)
    weights = (op.forward(torch.ones(N)) > 0.5).float()
    op.n_images = 0
    appearance = fit_appearance(Observation(slices, weights, op, 2, 0.05), prior, SETTINGS)
    found = graph_uncertainty(appearance.objective, SETTINGS, 0)
    assert op.n_images <= 15
    # The same problem through the operator.
    by_products = replace(appearance.objective, gram=None)
    op.n_images = 0
    expected = graph_uncertainty(by_products, SETTINGS, 0)
    assert op.n_images > 60
    solutions = [own.solve(None, 1e-6, 500).value for own in (appearance.objective, by_products)]
    torch.testing.assert_close(*solutions, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.deviations, expected.deviations, rtol=2e-2, atol=2e-4)


def test_volumes_of_a_series_are_solved_together(gaussians):
    op = slices_op(gaussians, 2)
    prior = GraphLaplacian(gaussians, torch.zeros(N, 1), GraphSettings(6))
    slices = op.forward(torch.rand(N, 3))
    settings = replace(SETTINGS, regularization=0.03, tolerance=1e-5)
    together = fit_appearance(Observation(slices, torch.ones(op.shape_out), op, 2), prior, settings)
    assert together.objective.gram is not None
    for volume in range(3):
        alone = Observation(slices[..., volume], torch.ones(op.shape_out), op, 2)
        objective = replace(together.objective, gram=None, terms=(alone,))
        expected = objective.solve(None, 1e-5, 300).value
        torch.testing.assert_close(together.amplitudes[:, volume], expected, rtol=1e-2, atol=1e-3)


def test_a_graph_without_the_anchor_uses_the_same_matrices(gaussians):
    """They are what takes the time, and do not know the graph."""
    op = _Counted(slices_op(gaussians, 2))
    prior = GraphLaplacian(gaussians, torch.zeros(N, 1), GraphSettings(6))
    asked = []

    def without_anchor():
        asked.append(prior)
        return prior

    # Noise: no graph predicts the slices that are held out.
    slices, weights = torch.randn(op.shape_out), torch.ones(op.shape_out)
    fit_guarded_appearance(Observation(slices, weights, op, 2), prior, without_anchor, SETTINGS)
    assert len(asked) == 1
    assert op.n_matrices == 1
