"""Displacement by evidence on small problems: splines, gradients against differences, a known squeeze."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atlasgs_bids.core import deformation
from atlasgs_bids.core.bspline import ControlGrid
from atlasgs_bids.core.deformation import (
    DeformationEvidence,
    FoundDeformation,
    SmoothShift,
    Stiffness,
    find_deformation,
)
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.rigid import RigidFrame
from tests.core import test_position
from tests.core.test_position import DenseLaplacian, stack
from tests.helpers import assert_adjoint

AXIS = np.array([0.0, 1.0, 0.0])
scene = test_position.scene
OBLIQUE = np.array([0.2, 0.9, -0.4]) / np.linalg.norm([0.2, 0.9, -0.4])


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_values_and_slopes_are_those_of_the_spline():
    """Constants are kept, slopes are those of differences along any direction, both have their adjoint."""
    points = 30 * uniform(200, 3) - 10
    grid = ControlGrid.around(points, 7.0)
    coefficients = uniform(len(grid), seed=1)
    basis, slopes = grid.basis(points), grid.slope_basis(points, OBLIQUE)
    assert_adjoint(basis)
    assert_adjoint(slopes)
    torch.testing.assert_close(basis.forward(torch.ones_like(coefficients)), torch.ones(200).double())
    step = 1e-5 * torch.from_numpy(OBLIQUE)
    inside = ((points - points.amin(0) > 1e-3) & (points.amax(0) - points > 1e-3)).all(1)
    difference = (
        grid.basis(points[inside] + step).forward(coefficients)
        - grid.basis(points[inside] - step).forward(coefficients)
    ) / 2e-5
    torch.testing.assert_close(slopes.forward(coefficients)[inside], difference, atol=1e-8, rtol=1e-6)


def test_a_grid_of_half_the_spacing_holds_the_same_spline():
    points = 30 * uniform(100, 3)
    grid = ControlGrid.around(points, 9.0)
    coefficients = uniform(len(grid), seed=2).numpy()
    finer, same = grid.refined(coefficients)
    assert finer.spacing_mm == 4.5
    torch.testing.assert_close(
        finer.basis(points).forward(torch.from_numpy(same)),
        grid.basis(points).forward(torch.from_numpy(coefficients)),
    )


def test_bending_and_mass_are_integrals():
    """Of u = x² + x y over the spline's box: Σ (∂∂u)² is 4 + 2; planes do not bend."""
    grid = ControlGrid((-2.0, -2.0, -2.0), 2.0, (6, 5, 5))
    index = np.indices(grid.shape).reshape(3, -1) * 2.0 - 2.0
    x, y, _ = index
    # The spline of x² at a control point has the coefficient x² − h²/3.
    coefficients = x**2 - 4 / 3 + x * y
    volume = (5 - 2) * (4 - 2) * (4 - 2) * 8.0
    assert coefficients @ grid.bending() @ coefficients == pytest.approx(6 * volume)
    plane = 1 + 2 * x - y
    assert plane @ grid.bending() @ plane == pytest.approx(0, abs=1e-9)
    ones = np.ones(len(grid))
    assert ones @ grid.mass() @ ones == pytest.approx(volume)


def test_the_gradient_is_that_of_differences(monkeypatch):
    """Away from the start, with an oblique axis: position, shift and intensity at once."""
    monkeypatch.setattr(deformation, "_SOLVE_TOLERANCE", 1e-12)
    monkeypatch.setattr(deformation, "_SOLVE_STEPS", 500)
    n = 60
    gaussians = Gaussians(
        6 * uniform(n, 3), 0.6 + 0.8 * uniform(n, 3, seed=1), uniform(n, 4, seed=2) - 0.5, uniform(n)
    )
    weights = uniform(n, n, seed=3)
    world = torch.eye(4, dtype=torch.float64)
    observation = stack(gaussians, uniform(7, 7, 3), (uniform(7, 7, 3, seed=4) > 0.2).double(), world)
    control = ControlGrid.around(gaussians.means_mm, 5.0)
    evidence = DeformationEvidence(
        observation, gaussians, DenseLaplacian(weights + weights.T), 0.1, RigidFrame.of(gaussians.means_mm),
        SmoothShift(control, OBLIQUE, Stiffness(bending=0.1, size=0.01)),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    x = 0.5 * rng.normal(size=6 + len(control))
    _, gradient = evidence.value_and_gradient(x)
    step = 1e-5
    for own in [*np.eye(len(x))[:6], *rng.normal(size=(6, len(x)))]:
        higher, lower = (evidence.value_and_gradient(x + sign * step * own)[0] for sign in (1, -1))
        assert gradient @ own == pytest.approx((higher - lower) / (2 * step), rel=1e-5, abs=1e-6)


def test_a_known_squeeze_is_found(scene):
    """Of a millimetre at most, along y, its signal kept; with the position, which did not change."""
    gaussians, prior, contrast = scene
    control = ControlGrid.around(gaussians.means_mm, 8.0)
    index = np.indices(control.shape).reshape(3, -1) * 8.0 + np.array(control.first_mm)[:, None]
    truth = 2.5 * np.exp(-((index - 6.0) ** 2).sum(0) / (2 * 5.0**2))
    world = torch.eye(4, dtype=torch.float64)
    weights = torch.ones(12, 12, 6)
    weights[:2] = weights[-2:] = weights[:, :2] = weights[:, -2:] = 0.0
    weights[:, :, 0] = weights[:, :, -1] = 0.0
    empty = stack(gaussians, torch.zeros_like(weights), weights, world)

    def evidence(observation):
        frame, shift = RigidFrame.of(gaussians.means_mm), SmoothShift(control, AXIS, Stiffness(0.1, 1e-4))
        return DeformationEvidence(observation, gaussians, prior, 0.01, frame, shift)

    term, _, shares = evidence(empty)._at(np.zeros(6), truth)
    slices = term.slices_from_amplitudes.forward(contrast)
    assert float(shares.max() - shares.min()) > 0.1
    observed = replace(empty, slices=slices)
    start = FoundDeformation(np.zeros(6), control, np.zeros(len(control)))
    found = find_deformation(evidence(observed), start)
    basis = control.basis(gaussians.means_mm)
    seen = (gaussians.means_mm > 2.5).all(1) & (gaussians.means_mm < 8.5).all(1)
    true_mm, found_mm = (
        basis.forward(torch.from_numpy(own).float())[seen] for own in (truth, found.coefficients)
    )
    # What is common to all points is a shift of the head.
    found_mm = found_mm - float(found.motion[1])
    assert float(true_mm.abs().mean()) > 0.6
    assert float((found_mm - true_mm).abs().mean()) < 0.15
