"""The uncertainty against dense algebra, and on errors that are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atlasgs_bids.core.objective import Objective
from atlasgs_bids.core.observation import Observation
from atlasgs_bids.core.operators import LinearOperator
from atlasgs_bids.core.priors.graph import GraphLaplacian
from atlasgs_bids.core.settings import AppearanceSettings, GraphSettings
from atlasgs_bids.core.uncertainty import _calibration, graph_uncertainty
from tests.helpers import dense_matrix, random_gaussians

N = 40


class _Dense(LinearOperator):
    """A matrix whose range has the shape of slices; one operand or several."""

    def __init__(self, matrix: torch.Tensor, shape: tuple[int, int, int]) -> None:
        self.matrix, self.shape_in, self.shape_out = matrix, (matrix.shape[1],), shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.matrix @ x).reshape(*self.shape_out, *x.shape[1:])

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self.matrix.T @ y.reshape(self.matrix.shape[0], *y.shape[3:])


def _objective(n: int = N, noise_sd: float = 1.0) -> tuple[Objective, torch.Tensor]:
    """An objective with 24 slices, 2.4 voxels for each amplitude, and the matrix of its quadratic form."""
    regularization, shape = 0.5, (1, n // 10, 24)
    generator = torch.Generator().manual_seed(1)
    # A voxel is a mean of some five amplitudes, as one of a slice is.
    matrix = torch.rand(24 * shape[1], n, generator=generator)
    op = _Dense(matrix * (torch.rand(matrix.shape, generator=generator) < 5 / n) / 2.5, shape)
    weights = torch.ones(shape)
    weights[:, 0] = 0
    torch.manual_seed(1)
    prior = GraphLaplacian(random_gaussians(n, 6.0, dtype=torch.float32), torch.zeros(n, 1), GraphSettings(6))
    slices = torch.rand(shape, generator=generator)
    objective = Objective((Observation(slices, weights, op, 2, noise_sd),), prior, regularization)
    laplacian = torch.stack([prior.forward(row) for row in torch.eye(n)], dim=1)
    misfit = op.matrix.T @ (weights.reshape(-1, 1) * op.matrix)
    return objective, misfit + regularization * laplacian


def test_edge_noise_has_the_covariance_of_the_laplacian() -> None:
    prior = _objective()[0].prior
    draws = torch.stack([prior.square_root_noise(seed) for seed in range(600)], dim=1)
    laplacian = torch.stack([prior.forward(row) for row in torch.eye(N)], dim=1)
    covariance = draws @ draws.T / draws.shape[1]
    assert (
        float((covariance - laplacian).norm() / laplacian.norm()) < 0.4
    )  # √(40 / 600) = 0.26 from so few draws


def test_noise_alone_moves_the_amplitudes_less_than_noise_and_graph() -> None:
    """H⁻¹ Tᵀ W T H⁻¹ against H⁻¹, in units of the noise."""
    objective, hessian = _objective(noise_sd=2.0)
    inverse = torch.linalg.inv(hessian.double())
    laplacian = torch.stack([objective.prior.forward(row) for row in torch.eye(N)], dim=1).double()
    misfit = hessian.double() - objective.regularization * laplacian
    exact = 4.0 * inverse @ misfit @ inverse
    noise = objective.deviations(600, 0, 1e-4, 500, of_noise_alone=True).double()
    covariance = noise @ noise.T / noise.shape[1]
    assert float((covariance - exact).norm() / exact.norm()) < 0.3
    assert float((4.0 * inverse - exact).norm() / exact.norm()) > 0.5


def test_deviations_have_the_covariance_of_the_posterior() -> None:
    objective, hessian = _objective(noise_sd=2.0)
    deviations = objective.deviations(600, 0, 1e-4, 500)
    covariance = deviations @ deviations.T / deviations.shape[1]
    exact = 4.0 * torch.linalg.inv(hessian.double())
    assert float((covariance - exact).norm() / exact.norm()) < 0.4
    again = objective.deviations(3, 0, 1e-4, 500)
    torch.testing.assert_close(again, deviations[:, :3], rtol=1e-2, atol=1e-3)


def test_intervals_of_the_graph_hold_the_truth() -> None:
    """Amplitudes drawn from the prior itself, slices with the noise that is said: 90 % inside."""
    noise_sd, n = 0.2, 400
    objective, _ = _objective(n, noise_sd)
    (observed,) = objective.terms
    inverse = torch.linalg.pinv(torch.stack([objective.prior.forward(row) for row in torch.eye(n)], dim=1))
    settings = AppearanceSettings(n_probes=20)
    inside = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        truth = inverse @ objective.prior.square_root_noise(1000 + seed) + 1.0
        slices = observed.slices_from_amplitudes.forward(truth)
        slices = slices + noise_sd * torch.randn(slices.shape, generator=generator)
        # λ = noise² / variance of the prior
        drawn = Objective((replace(observed, slices=slices),), objective.prior, noise_sd**2)
        amplitudes = drawn.solve(None, 1e-5, 500).value
        found = graph_uncertainty(drawn, settings, seed)
        assert found.expected_sd is None
        sd = found.deviations.square().mean(1).sqrt()
        inside.append(float(((amplitudes - truth).abs() <= 1.645 * sd).float().mean()))
    assert 0.85 <= np.mean(inside) <= 0.95


@pytest.mark.parametrize("n_probes", [1, 2, 6])
def test_few_draws_scale_as_many_would(n_probes: int) -> None:
    """Errors three times as large as the posterior says, whose variance is known from a few draws only."""
    generator = torch.Generator().manual_seed(n_probes)
    posterior_sd = 0.5 + torch.rand(20_000, generator=generator)
    draws = posterior_sd * torch.randn(n_probes, 20_000, generator=generator)
    error = 3 * posterior_sd * torch.randn(20_000, generator=generator).abs()
    factor = _calibration(error, draws.square().mean(0), n_probes, noise_sd=0.01)
    assert factor == pytest.approx(3.0, rel=0.05)


def test_dense_operator_is_what_it_says() -> None:
    op = _Dense(torch.rand(6, 3, dtype=torch.float64), (1, 2, 3))
    torch.testing.assert_close(dense_matrix(op), op.matrix)
