"""Local errors on cells: a half of a volume that no slice foretells beside one that every slice does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.local_error import _predictions, at_gaussians, local_errors
from atlasgs_bids.core.objective import Objective, held_out_rows
from atlasgs_bids.core.observation import LatticeObservation, join
from atlasgs_bids.core.operators import LinearOperator
from atlasgs_bids.core.priors.graph import GraphLaplacian
from atlasgs_bids.core.settings import AppearanceSettings, GraphSettings
from atlasgs_bids.core.uncertainty import estimate_uncertainty

SHAPE, FACTOR, NOISE = (20, 20, 48), 3, 0.5
N = int(np.prod(SHAPE))
SETTINGS = AppearanceSettings()


class _Cells(LinearOperator):
    """Amplitudes as the cells of a lattice."""

    shape_in, shape_out = (N,), SHAPE

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(*SHAPE, *x.shape[1:])

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return y.reshape(N, *y.shape[3:])


@pytest.fixture(scope="module")
def gaussians() -> Gaussians:
    means = torch.cartesian_prod(*(torch.arange(float(n)) for n in SHAPE))
    return Gaussians(
        means, torch.full((N, 3), 0.6), torch.tensor([[1.0, 0, 0, 0]]).repeat(N, 1), torch.ones(N)
    )


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    """Slow waves everywhere; in the upper half of x others of two slices' length, of amplitude 10."""
    x, y, z = torch.meshgrid(*(torch.arange(float(n)) for n in SHAPE), indexing="ij")
    slow = 100 + 5 * torch.sin(x / 6) + 5 * torch.sin(y / 5 + z / 16)
    phase = 6.28 * torch.rand(SHAPE[:2], generator=torch.Generator().manual_seed(0))[..., None]
    fast = 10 * torch.sin(6.283 * z / (2.3 * FACTOR) + phase)
    return slow + torch.where(x >= SHAPE[0] // 2, fast, torch.zeros(()))


@pytest.fixture(scope="module")
def prior(gaussians: Gaussians) -> GraphLaplacian:
    return GraphLaplacian(gaussians, torch.zeros(N, 1), GraphSettings(n_neighbours=6))


def _observed(truth: torch.Tensor, noise: float = NOISE, seed: int = 1) -> LatticeObservation:
    box = np.array([-0.5, 0.5]) * FACTOR, np.array([0.0, 1.0])
    native = (SHAPE[0], SHAPE[1], SHAPE[2] // FACTOR)
    acquisition = AcquisitionOperator(slice_sampling(native, (1.0, 1.0, float(FACTOR)), 2, box, 1.0), "cpu")
    slices = acquisition.forward(truth)
    slices = slices + noise * torch.randn(slices.shape, generator=torch.Generator().manual_seed(seed))
    return LatticeObservation(
        slices, torch.ones_like(slices), 2, noise, acquisition=acquisition, splat=_Cells(),
        world_from_lattice=torch.eye(4, dtype=torch.float64),
    )  # fmt: skip


def _objective(prior: GraphLaplacian, *observations: LatticeObservation) -> Objective:
    problem = join(observations) if len(observations) > 1 else observations[0]
    return Objective((problem,), prior, 0.01)


def test_the_error_is_where_the_slices_foretell_nothing(gaussians, truth, prior) -> None:
    observed = _observed(truth)
    objective = _objective(prior, observed)
    amplitudes = objective.solve(None, 1e-4, 300).value
    found = estimate_uncertainty(objective, [observed], [], gaussians, amplitudes, SETTINGS, 0)
    assert found.expected_sd is not None
    sd = (found.expected_sd.square() + found.deviations.square().mean(1)).sqrt().reshape(SHAPE)
    error = (amplitudes.reshape(SHAPE) - truth).abs()
    # Away from the border between the halves, and from the ends of the stack.
    calm, wild = (slice(0, 7), ..., slice(3, -3)), (slice(13, None), ..., slice(3, -3))
    for half in (calm, wild):
        inside = float((error[half] <= 1.645 * sd[half]).float().mean())
        assert 0.8 <= inside <= 1.0
    true_ratio = float(error[wild].square().mean() / error[calm].square().mean()) ** 0.5
    said_ratio = float(sd[wild].square().mean() / sd[calm].square().mean()) ** 0.5
    assert true_ratio > 5
    assert said_ratio > 4
    # One factor for all would have the calm half's sd in the wild one: nearly nothing inside.
    assert float((error[wild] <= 1.645 * float(sd[calm].mean())).float().mean()) < 0.5


def test_no_slice_has_a_part_in_its_own_prediction(truth, prior) -> None:
    observed = _observed(truth)
    folds = _predictions(_objective(prior, observed), SETTINGS)
    assert folds is not None
    rows = held_out_rows(observed)
    assert rows is not None
    assert 0.4 < float(rows.float().mean()) < 0.6
    spoilt = replace(observed, slices=torch.where(rows, 1e6, observed.slices))
    again = _predictions(_objective(prior, spoilt), SETTINGS)
    assert again is not None
    torch.testing.assert_close(again[0][1], folds[0][1])
    assert float((again[1][1] - folds[1][1]).abs().max()) > 1e5


def test_contrast_that_the_anchor_has_not_raises_the_error(gaussians, truth, prior) -> None:
    """A cylinder along the slice axis: no slice errs by it, but its shape is the target's alone."""
    spot = torch.zeros(SHAPE)
    spot[3:7, 8:12] = 40.0
    observed = _observed(truth + spot)
    objective = _objective(prior, observed)
    amplitudes = objective.solve(None, 1e-4, 300).value
    draws = objective.deviations(2, 0, 1e-3, 200)

    def variance_of(anchor: torch.Tensor) -> torch.Tensor:
        (found,) = local_errors(objective, [observed], amplitudes, anchor, draws, SETTINGS) or []
        return at_gaussians([found.variance], [found], [observed], gaussians).reshape(SHAPE)

    blind, guided = variance_of(truth.flatten()), variance_of((truth + spot).flatten())
    edge = (slice(2, 8), slice(7, 13), slice(6, -6))
    assert float(blind[edge].mean()) > 1.5 * float(guided[edge].mean())


def test_two_stacks_are_told_apart(gaussians, truth, prior) -> None:
    """The second one is spoilt by noise: its own error is the larger one."""
    pair = [_observed(truth), _observed(truth, noise=8.0, seed=5)]
    objective = _objective(prior, *pair)
    amplitudes = objective.solve(None, 1e-4, 300).value
    draws = objective.deviations(2, 0, 1e-3, 200)
    found = local_errors(objective, pair, amplitudes, torch.ones(N), draws, SETTINGS)
    assert found is not None
    first, second = (float(own.held_out.error.square().mean()) for own in found)
    assert second - first == pytest.approx(8.0**2 - NOISE**2, rel=0.1)
    for own, observation in zip(found, pair, strict=True):
        assert own.held_out.error.shape == observation.slices.shape


def test_five_slices_are_too_few(gaussians, truth, prior) -> None:
    observed = _observed(truth)
    few = torch.zeros_like(observed.weights)
    few[..., :5] = 1
    observed = replace(observed, weights=few)
    objective = _objective(prior, observed)
    amplitudes = objective.solve(None, 1e-3, 300).value
    found = estimate_uncertainty(objective, [observed], [], gaussians, amplitudes, SETTINGS, 0)
    assert found.expected_sd is None
    assert found.trust is None
    assert found.deviations.shape == (N, SETTINGS.n_probes)
