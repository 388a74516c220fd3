"""Target-specific Gaussians: what a sparse scaffold cannot show is shown by them."""

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.appearance import fit_expected_appearance
from atlasgs_bids.core.gaussians import Gaussians, joined, world_points
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.expectation import Expectation, ExpectedStack, sample_lattice
from atlasgs_bids.core.priors.graph import GraphLaplacian
from atlasgs_bids.core.priors.quadratic import PartialLaplacian
from atlasgs_bids.core.scaffold import fit_scaffold
from atlasgs_bids.core.settings import AppearanceSettings, CoreSettings, GraphSettings, ScaffoldSettings
from atlasgs_bids.core.specific import missing_image, specific_gaussians
from atlasgs_bids.core.splat.operator import SplatOperator
from tests.helpers import assert_adjoint, random_gaussians

SIZE, FACTOR = 24, 4
SETTINGS = AppearanceSettings(specific_fraction=3.0)


def _scene(n_gaussians: int) -> tuple[Gaussians, LatticeObservation, Expectation]:
    """A scaffold of a smooth anchor that fades at its border, and a target with a lesion of its own."""
    axes = torch.meshgrid(*[torch.arange(SIZE, dtype=torch.float32)] * 3, indexing="ij")
    radius = sum((axis - 11.5) ** 2 for axis in axes).sqrt()
    anchor = 100 * torch.exp(-((radius / 4.5) ** 2))
    lesion = sum((axis - c) ** 2 for axis, c in zip(axes, (8.0, 13.0, 10.0), strict=True)) < 7
    # As a scanner shows it: a lattice has no edges that are sharper than its voxels.
    target = anchor + torch.from_numpy(ndimage.gaussian_filter(80 * lesion.numpy().astype(np.float32), 0.7))
    world = torch.eye(4, dtype=torch.float64)
    scaffold = ScaffoldSettings(n_gaussians=n_gaussians)
    gaussians = fit_scaffold(anchor, _support(), world, CoreSettings(scaffold=scaffold)).gaussians
    box = np.array([-0.5, 0.5]) * FACTOR, np.array([0.0, 1.0])
    sampling = slice_sampling((SIZE, SIZE, SIZE // FACTOR), (1.0, 1.0, float(FACTOR)), 2, box, 1.0)
    acquisition = AcquisitionOperator(sampling, "cpu")
    native = torch.eye(4, dtype=torch.float64)
    native[2, 2], native[2, 3] = FACTOR, (FACTOR - 1) / 2
    lattice = native @ acquisition.native_from_lattice
    slices = acquisition.forward(target)
    splat = SplatOperator(gaussians, (SIZE, SIZE, SIZE), lattice)
    weights = torch.ones_like(slices)
    stack = LatticeObservation(
        slices, weights, 2, acquisition=acquisition, splat=splat, world_from_lattice=lattice
    )
    return gaussians, stack, _expectation(target, stack, gaussians)


def _support() -> torch.Tensor:
    axes = torch.meshgrid(*[torch.arange(SIZE, dtype=torch.float32)] * 3, indexing="ij")
    return sum((axis - 11.5) ** 2 for axis in axes).sqrt() < 11


def _expectation(image: torch.Tensor, stack: LatticeObservation, gaussians: Gaussians) -> Expectation:
    """The truth itself, said to be off by 2."""
    lattice_from_world = torch.linalg.inv(stack.world_from_lattice).float()
    points = world_points(gaussians.means_mm, lattice_from_world)
    sd = torch.full_like(image, 2.0)
    cells = replace(
        stack,
        slices=image,
        weights=0.25 * torch.ones_like(image),
        acquisition=AcquisitionOperator.of_cells((SIZE, SIZE, SIZE)),
    )
    ones = torch.ones(len(gaussians))
    return Expectation(cells, sd, sample_lattice(image, points), 2 * ones, ones)


def _said(stack: LatticeObservation, expectation: Expectation) -> ExpectedStack:
    return ExpectedStack(stack, _support(), expectation)


def _fitted_rms(
    stack: LatticeObservation, expectation: Expectation, prior: object
) -> tuple[torch.Tensor, float]:
    appearance = fit_expected_appearance(stack, prior, [expectation], SETTINGS)
    gap = missing_image(
        _said(stack, expectation),
        appearance.amplitudes,
        appearance.trust or 0.0,
        SETTINGS,
    )
    return appearance.amplitudes, float(gap.image[gap.image != 0].square().mean().sqrt()) / gap.allowed_rms


def test_a_sparse_scaffold_gets_the_gaussians_that_it_lacks() -> None:
    gaussians, stack, expectation = _scene(1500)
    prior = GraphLaplacian(gaussians, torch.zeros(len(gaussians), 1), GraphSettings())
    amplitudes, before = _fitted_rms(stack, expectation, prior)
    assert before > 1.5
    gap = missing_image(_said(stack, expectation), amplitudes, 1.0, SETTINGS)
    more = specific_gaussians([gap], [_said(stack, expectation)], len(gaussians), SETTINGS)
    assert more is not None
    assert len(more) <= 3 * len(gaussians)
    together = joined([gaussians, more])
    splat = SplatOperator(together, (SIZE, SIZE, SIZE), stack.world_from_lattice)
    richer = replace(stack, splat=splat)
    expected = _expectation(expectation.image, richer, together)
    _, after = _fitted_rms(richer, expected, PartialLaplacian(prior, len(more)))
    assert after < 1.0
    assert after < 0.5 * before


def test_a_dense_scaffold_gets_none() -> None:
    gaussians, stack, expectation = _scene(int(_support().sum()))
    prior = GraphLaplacian(gaussians, torch.zeros(len(gaussians), 1), GraphSettings())
    amplitudes, share = _fitted_rms(stack, expectation, prior)
    assert share < 1
    gap = missing_image(_said(stack, expectation), amplitudes, 1.0, SETTINGS)
    assert specific_gaussians([gap], [_said(stack, expectation)], len(gaussians), SETTINGS) is None


def test_partial_laplacian() -> None:
    shared = GraphLaplacian(
        random_gaussians(30, 6.0, dtype=torch.float32), torch.rand(30, 1), GraphSettings(6)
    )
    partial = PartialLaplacian(shared, 5)
    assert_adjoint(_Single(partial), 1e-5)
    x = torch.rand(35)
    assert torch.equal(partial.forward(x)[:30], shared.forward(x[:30]))
    assert float(partial.square_root_noise(0)[30:].abs().max()) > 0


class _Single:
    """A float32 operator under float64 operands."""

    def __init__(self, op: PartialLaplacian) -> None:
        self.op, self.shape_in, self.shape_out = op, op.shape_in, op.shape_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op.forward(x.float()).double()

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self.op.adjoint(y.float()).double()
