"""The geometry switch on a phantom whose target is the anchor's anatomy, displaced by a part of a voxel."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.appearance import Appearance, fit_appearance
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.geometry import TargetData, _bounded, _penalty, relax_geometry
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.objective import Objective
from atlasgs_bids.core.observation import LatticeObservation
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.scaffold import fit_scaffold
from atlasgs_bids.core.settings import (
    CoreSettings,
    GeometryMode,
    GeometrySettings,
    RelaxationSettings,
    ScaffoldSettings,
)
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import render
from tests.helpers import random_gaussians

SIZE, FACTOR, SUBDIVISION = 20, 4, 3
WORLD = torch.eye(4, dtype=torch.float64)
SETTINGS = CoreSettings(scaffold=ScaffoldSettings(sigma_spacings=0.5, n_steps=40))
"""Gaussians that were fitted: those of a lattice have no edges that could be moved with the target's."""
ANCHOR_OF_TISSUE, TARGET_OF_TISSUE = torch.tensor([[0.0, 100.0, 160.0, 60.0], [0.0, 300.0, 120.0, 500.0]])
SHIFT_MM = (0.3, -0.3, 0.2)


def tissue_image(intensities: torch.Tensor, shift_mm: tuple[float, float, float] = (0, 0, 0)) -> torch.Tensor:
    """Shells and a folded core, each voxel the mean over its parts, so that parts of a voxel show."""
    centre = (SIZE - 1) / 2
    points = (torch.arange(SIZE * SUBDIVISION) + 0.5) / SUBDIVISION - 0.5
    x, y, z = (
        axis - shift
        for axis, shift in zip(torch.meshgrid(points, points, points, indexing="ij"), shift_mm, strict=True)
    )
    radius = ((x - centre) ** 2 + (y - centre) ** 2 + (z - centre) ** 2).sqrt()
    wave = torch.sin(x * 0.9) * torch.cos(y * 0.7) * torch.sin(z * 0.8)
    tissue = (radius < 8.5).long() + (radius < 6).long() + ((radius < 4.5) & (wave > 0)).long()
    return torch.nn.functional.avg_pool3d(intensities[tissue][None, None], SUBDIVISION)[0, 0]


def support() -> torch.Tensor:
    points = torch.arange(SIZE) - (SIZE - 1) / 2
    return sum(axis**2 for axis in torch.meshgrid(points, points, points, indexing="ij")) < 10**2


def graph(image: torch.Tensor, gaussians: Gaussians) -> GraphLaplacian:
    means_vox = gaussians.means_mm.numpy().T
    smooth = ndimage.gaussian_filter(image.numpy(), 1.0)
    sampled = (
        torch.from_numpy(ndimage.map_coordinates(values, means_vox, order=1, mode="nearest"))
        for values in (image.numpy(), smooth)
    )
    features = anchor_features(*sampled, float(image.max()), SETTINGS.graph)
    return GraphLaplacian(gaussians, features, SETTINGS.graph)


@dataclass(frozen=True)
class Case:
    """A target in thick slices, fitted with the anchor's geometry."""

    gaussians: Gaussians
    truth: torch.Tensor
    target: TargetData
    first_fit: Appearance

    @property
    def term(self) -> LatticeObservation:
        return self.target.terms[0]

    @property
    def prior(self) -> GraphLaplacian:
        return self.first_fit.objective.prior

    def fit(self, gaussians: Gaussians, prior: GraphLaplacian) -> Appearance:
        return _fit(_of(self.term, gaussians), prior, self.first_fit.regularization)

    def objective(self, gaussians: Gaussians, amplitudes: torch.Tensor) -> float:
        error = _of(self.term, gaussians).slices_from_amplitudes.forward(amplitudes) - self.term.slices
        rough = (amplitudes * self.prior.forward(amplitudes)).sum()
        return float((self.term.weights * error**2).sum() + self.first_fit.regularization * rough)

    def psnr_db(self, gaussians: Gaussians, amplitudes: torch.Tensor) -> float:
        image = render(gaussians, amplitudes, (SIZE,) * 3, WORLD, SETTINGS.chunk_elements)
        return psnr_db(self.truth.numpy(), image.numpy(), support().numpy())

    def relaxed(self, mode: GeometryMode, **changes: object) -> tuple[Gaussians, tuple[float, ...]]:
        geometry = replace(GeometrySettings(mode=mode), **changes)
        relaxation = relax_geometry(
            self.gaussians, self.first_fit, self.target, replace(SETTINGS, geometry=geometry)
        )
        return relaxation.gaussians, relaxation.objectives


def _of(term: LatticeObservation, gaussians: Gaussians) -> LatticeObservation:
    """The same observed with other Gaussians."""
    return replace(term, splat=SplatOperator(gaussians, term.lattice_shape, term.world_from_lattice))


def _fit(term: LatticeObservation, prior: GraphLaplacian, regularization: float | None) -> Appearance:
    settings = replace(SETTINGS.appearance, regularization=regularization)
    return fit_appearance(term, prior, settings)


def make_case(anchor: torch.Tensor, truth: torch.Tensor) -> Case:
    gaussians = fit_scaffold(anchor, support(), WORLD, SETTINGS).gaussians
    profile = np.array([-0.5, 0.5]) * FACTOR, np.array([0.0, 1.0])
    native_shape, native_mm = (SIZE, SIZE, SIZE // FACTOR), (1.0, 1.0, float(FACTOR))
    acquisition = AcquisitionOperator(slice_sampling(native_shape, native_mm, 2, profile, 1.0), "cpu")
    native = torch.eye(4, dtype=torch.float64)
    native[2, 2], native[2, 3] = FACTOR, (FACTOR - 1) / 2
    slices = acquisition.forward(truth)
    lattice = native @ acquisition.native_from_lattice
    term = LatticeObservation(
        slices,
        torch.ones_like(slices),
        2,
        acquisition=acquisition,
        splat=SplatOperator(gaussians, acquisition.shape_in, lattice),
        world_from_lattice=lattice,
    )
    interpolated = ndimage.affine_transform(
        slices.numpy(), [1, 1, 1 / FACTOR], [0, 0, 0.5 / FACTOR - 0.5], (SIZE,) * 3, order=3, mode="nearest"
    )
    prior = graph(anchor, gaussians)
    target = TargetData((term,), torch.from_numpy(interpolated), support(), WORLD)
    return Case(gaussians, truth, target, _fit(term, prior, SETTINGS.geometry.regularization))


@pytest.fixture(scope="module")
def shifted() -> Case:
    return make_case(tissue_image(ANCHOR_OF_TISSUE), tissue_image(TARGET_OF_TISSUE, SHIFT_MM))


@pytest.mark.parametrize(("mode", "least_gain_db"), [("offset", 0.7), ("joint", 1.0)])
def test_a_small_shift_is_followed(shifted: Case, mode: GeometryMode, least_gain_db: float) -> None:
    gaussians, objectives = shifted.relaxed(mode)
    amplitudes = shifted.fit(gaussians, shifted.prior).amplitudes
    frozen_db = shifted.psnr_db(shifted.gaussians, shifted.first_fit.amplitudes)
    assert shifted.psnr_db(gaussians, amplitudes) > frozen_db + least_gain_db
    before = shifted.objective(shifted.gaussians, shifted.first_fit.amplitudes)
    after = shifted.objective(gaussians, amplitudes)
    assert after < 0.7 * before
    assert after <= 1.001 * min(objectives) * before


def test_what_is_expected_between_the_slices_is_followed_too(shifted: Case) -> None:
    term = shifted.term
    cells = AcquisitionOperator.of_cells(term.lattice_shape)
    weights = torch.full(term.lattice_shape, 0.3)
    expected = replace(term, slices=shifted.truth, weights=weights, acquisition=cells)
    centre = 0.9 * shifted.first_fit.amplitudes

    def objective(gaussians: Gaussians) -> Objective:
        terms = tuple(_of(each, gaussians) for each in (term, expected))
        return Objective(terms, shifted.prior, 0.01, centre)

    def solved(gaussians: Gaussians) -> tuple[Appearance, float]:
        own = objective(gaussians)
        solution = own.solve(None, 1e-5, 300)
        difference = solution.value - centre
        predicted = [each.slices_from_amplitudes.forward(solution.value) for each in own.terms]
        pairs = zip(own.terms, predicted, strict=True)
        misfits = [float((each.weights * (image - each.slices) ** 2).sum()) for each, image in pairs]
        rough = float((difference * shifted.prior.forward(difference)).sum())
        return Appearance(solution, own, 1.0), sum(misfits) + 0.01 * rough

    first_fit, before = solved(shifted.gaussians)
    target = replace(shifted.target, terms=(term, expected))
    gaussians, objectives = replace(shifted, target=target, first_fit=first_fit).relaxed("offset")
    _, after = solved(gaussians)
    penalty = min(objectives) - after / before
    assert after < 0.8 * before
    assert 0 <= penalty < 0.2


def test_offsets_and_scales_stay_within_their_bounds(shifted: Case) -> None:
    limits = RelaxationSettings(
        rotates=False, max_offset_mm=0.1, max_scale_factor=1.05, smoothness=0.0, attachment=0.0
    )
    gaussians, _ = shifted.relaxed("offset", offset=limits, learning_rate=1.0)
    offsets_mm = (gaussians.means_mm - shifted.gaussians.means_mm).norm(dim=1)
    assert 0.09 < float(offsets_mm.max()) < 0.1 + 1e-5
    factors = gaussians.scales_mm / shifted.gaussians.scales_mm
    assert 1.04 < float(torch.maximum(factors, 1 / factors).max()) < 1.05 + 1e-5
    assert gaussians.quaternions is shifted.gaussians.quaternions
    assert gaussians.amplitudes is shifted.gaussians.amplitudes


def test_no_length_of_a_move_reaches_its_bound() -> None:
    moves = {
        "means": torch.logspace(-6, 6, 100)[:, None] * torch.nn.functional.normalize(torch.randn(100, 3))
    }
    bounded = _bounded(moves, GeometrySettings().offset)["means"]
    assert float(bounded.norm(dim=1).max()) <= 1 + 1e-6
    torch.testing.assert_close(bounded[:20], moves["means"][:20])
    free = _bounded(moves, GeometrySettings().joint)["means"]
    torch.testing.assert_close(free, moves["means"], rtol=0, atol=0)


def test_a_step_too_long_changes_nothing(shifted: Case) -> None:
    gaussians, objectives = shifted.relaxed("joint", learning_rate=2.0, n_rounds=1, n_steps=1)
    assert objectives[1] > objectives[0] == 1.0
    assert gaussians is shifted.gaussians


def test_an_image_without_contrast_moves_nothing(shifted: Case) -> None:
    term = replace(shifted.term, slices=torch.zeros_like(shifted.term.slices))
    nothing = replace(
        shifted,
        target=replace(shifted.target, terms=(term,)),
        first_fit=_fit(term, shifted.prior, 0.1),
    )
    gaussians, objectives = nothing.relaxed("offset")
    assert gaussians is shifted.gaussians
    assert objectives == ()


@pytest.mark.parametrize("mode", ["offset", "joint", "own"])
def test_same_input_same_bits_and_all_of_them_finite(shifted: Case, mode: GeometryMode) -> None:
    weights = shifted.term.weights.clone()
    weights[..., 2] = 0
    partial = replace(
        shifted, target=replace(shifted.target, terms=(replace(shifted.term, weights=weights),))
    )
    first, second = (partial.relaxed(mode, n_rounds=1, n_steps=3)[0] for _ in range(2))
    for name, values in vars(first).items():
        assert torch.equal(values, getattr(second, name)), name
        assert bool(torch.isfinite(values).all()), name
        assert values.dtype == torch.float32


def test_penalty_is_that_of_its_formula_in_float64() -> None:
    gaussians = random_gaussians(30, 6.0, dtype=torch.float32)
    prior = GraphLaplacian(gaussians, torch.rand(30, 2), replace(SETTINGS.graph, n_neighbours=6))
    laplacian = torch.stack([prior.forward(row) for row in torch.eye(30)], dim=1).double()
    limits = replace(GeometrySettings().joint, smoothness=3.0, attachment=0.7)
    moves = {name: torch.randn(30, n).requires_grad_() for name, n in (("means", 3), ("quaternions", 4))}
    value = _penalty(moves, prior, limits)
    value.backward()
    copies = {name: move.detach().double().requires_grad_() for name, move in moves.items()}
    expected = sum(
        (3.0 * (copy * (laplacian @ copy)).sum() + 0.7 * (copy * copy).sum()) / 30 for copy in copies.values()
    )
    expected.backward()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    for name, move in moves.items():
        torch.testing.assert_close(move.grad.double(), copies[name].grad, rtol=1e-4, atol=1e-6)


def test_own_geometry_does_without_a_useless_anchor() -> None:
    noise = torch.rand(SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 160
    case = make_case(noise, tissue_image(TARGET_OF_TISSUE))
    gaussians, _ = case.relaxed("own")
    appearance = case.fit(gaussians, graph(case.target.interpolated, gaussians))
    own_db = case.psnr_db(gaussians, appearance.amplitudes)
    frozen_db = case.psnr_db(case.gaussians, case.first_fit.amplitudes)
    interpolated = case.target.interpolated.numpy()
    interpolated_db = psnr_db(case.truth.numpy(), interpolated, support().numpy())
    assert math.isfinite(own_db)
    assert own_db > frozen_db + 1.0
    assert own_db > interpolated_db
