"""Stage 1 and stage 2 on phantoms with a known truth."""

import dataclasses

import numpy as np
import pytest
import torch

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.appearance import fit_appearance
from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.observation import Observation
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.regularization import N_SOLVES
from atlasgs_bids.core.scaffold import Scaffold, default_n_gaussians, fit_scaffold
from atlasgs_bids.core.settings import CoreSettings, GraphSettings, ScaffoldSettings
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import render
from tests.helpers import assert_adjoint, dense_matrix, random_gaussians

SIZE = 24
CHUNK = 2**20
WORLD = torch.tensor(
    [[0.0, -1.5, 0.0, 20.0], [1.5, 0.0, 0.0, -7.0], [0.0, 0.0, 1.5, 3.0], [0.0, 0.0, 0.0, 1.0]],
    dtype=torch.float64,
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def _phantom() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Anchor, target of another contrast, and support: shells whose edges both images share."""
    axes = torch.meshgrid(*[torch.arange(SIZE, dtype=torch.float32)] * 3, indexing="ij")
    radius = sum((axis - (SIZE - 1) / 2) ** 2 for axis in axes).sqrt()
    wave = torch.sin(axes[0] * 0.9) * torch.cos(axes[1] * 0.7) * torch.sin(axes[2] * 0.8)
    labels = (radius < 10).float() + (radius < 7).float() + ((radius < 5) & (wave > 0)).float()
    anchor = torch.tensor([0.0, 100.0, 160.0, 60.0])[labels.long()]
    target = torch.tensor([0.0, 300.0, 120.0, 500.0])[labels.long()]
    return anchor, target, radius < 11.5


@pytest.fixture(scope="module")
def scaffold() -> Scaffold:
    anchor, _, support = _phantom()
    return fit_scaffold(anchor, support, WORLD, CoreSettings())


def test_scaffold_renders_the_anchor(scaffold: Scaffold) -> None:
    anchor, _, support = _phantom()
    gaussians = scaffold.gaussians
    rendered = render(gaussians, gaussians.amplitudes, (SIZE,) * 3, WORLD, CHUNK)
    measured = 10 * float(torch.log10(anchor.max() ** 2 / ((rendered - anchor)[support] ** 2).mean()))
    assert measured == pytest.approx(scaffold.anchor_psnr_db, abs=0.05)
    assert measured > 40


def test_geometry_follows_the_affine(scaffold: Scaffold) -> None:
    centre_mm = (WORLD @ torch.tensor([11.5, 11.5, 11.5, 1.0], dtype=torch.float64))[:3]
    distance_mm = (scaffold.gaussians.means_mm.double() - centre_mm).norm(dim=1)
    assert float(distance_mm.max()) < 1.5 * 12.5
    assert float(scaffold.gaussians.means_mm.double().mean(0).sub(centre_mm).norm()) < 0.2


def test_same_seed_same_bits_other_seed_other_gaussians() -> None:
    anchor, _, support = _phantom()
    short = CoreSettings(scaffold=ScaffoldSettings(n_gaussians=500, n_steps=3))
    runs = [fit_scaffold(anchor, support, WORLD, short).gaussians for _ in range(2)]
    assert torch.equal(runs[0].means_mm, runs[1].means_mm)
    other = fit_scaffold(anchor, support, WORLD, dataclasses.replace(short, seed=1)).gaussians
    assert not torch.equal(runs[0].means_mm, other.means_mm)


def test_number_of_gaussians() -> None:
    default = CoreSettings()
    assert default_n_gaussians(1000, default) == round(1000 * default.scaffold.gaussians_per_voxel)
    assert default_n_gaussians(10**9, default) == default.scaffold.max_gaussians
    asked = CoreSettings(scaffold=ScaffoldSettings(n_gaussians=7))
    assert default_n_gaussians(1000, asked) == 7
    anchor, _, support = _phantom()
    more_than_voxels = CoreSettings(
        scaffold=ScaffoldSettings(n_gaussians=int(support.sum()) + 300, n_steps=1)
    )
    assert len(fit_scaffold(anchor, support, WORLD, more_than_voxels).gaussians) == int(support.sum()) + 300


def test_graph_laplacian_is_symmetric_semidefinite_and_kills_constants() -> None:
    gaussians = random_gaussians(40, 6.0, dtype=torch.float32)
    features = torch.rand(40, 2)
    prior = GraphLaplacian(gaussians, features, GraphSettings(n_neighbours=8))
    assert_adjoint(_Double(prior))
    matrix = dense_matrix(_Double(prior))
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-5, atol=1e-7)
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-5
    assert float(matrix.sum(1).abs().max()) < 1e-5
    assert float(matrix.fill_diagonal_(0).max()) <= 0


class _Double:
    """A float32 operator seen through float64 operands."""

    def __init__(self, op: GraphLaplacian) -> None:
        self.op, self.shape_in, self.shape_out = op, op.shape_in, op.shape_out
        self.op.diagonal = op.diagonal.double()
        directed = op._directed
        directed.matrix, directed.transposed = directed.matrix.double(), directed.transposed.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op.forward(x)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self.op.adjoint(y)


def test_an_edge_of_the_anchor_parts_its_two_sides() -> None:
    means = torch.zeros(8, 3)
    means[:, 0] = torch.arange(8.0)
    gaussians = Gaussians(means, torch.ones(8, 3), torch.ones(8, 4), torch.ones(8))
    settings = GraphSettings(n_neighbours=2)
    amplitude = torch.tensor([10.0] * 4 + [90.0] * 4)
    features = anchor_features(amplitude, torch.full((8,), 20.0), 100.0, settings)
    weights = -dense_matrix(_Double(GraphLaplacian(gaussians, features, settings)))
    assert float(weights[2, 3]) > 1000 * float(weights[3, 4])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("slice_axis", [0, 2])
def test_target_is_restored_beyond_interpolation(scaffold: Scaffold, slice_axis: int, device: str) -> None:
    anchor, target, support = _phantom()
    gaussians = scaffold.gaussians.to(device)
    shape = [SIZE] * 3
    factor = 4
    shape[slice_axis] = SIZE // factor
    sizes = [1.0] * 3
    sizes[slice_axis] = float(factor)
    profile = np.array([-0.5, 0.5]) * factor, np.array([0.0, 1.0])
    acquisition = AcquisitionOperator(
        slice_sampling(tuple(shape), tuple(sizes), slice_axis, profile, 1.0), device
    )
    slices = acquisition.forward(target.to(device))
    native = torch.eye(4, dtype=torch.float64)  # anchor index from native index
    native[slice_axis, slice_axis] = factor
    native[slice_axis, 3] = (factor - 1) / 2
    lattice_world = WORLD @ native @ acquisition.native_from_lattice
    op = acquisition @ SplatOperator(gaussians, acquisition.shape_in, lattice_world.to(device))
    local_mean = anchor  # piecewise constant
    voxels = ((gaussians.means_mm.cpu().double() - WORLD[:3, 3]) @ torch.linalg.inv(WORLD[:3, :3]).T).round()
    index = tuple(voxels.long().clamp(0, SIZE - 1).T)
    settings = CoreSettings()
    features = anchor_features(anchor[index], local_mean[index], 160.0, settings.graph).to(device)
    prior = GraphLaplacian(gaussians, features, settings.graph)
    steps = []
    weights = torch.ones_like(slices)
    appearance = fit_appearance(
        Observation(slices, weights, op, slice_axis), prior, settings.appearance, steps.append
    )
    assert appearance.solution.converged
    low, high = settings.appearance.regularization_limits
    assert low * 0.999 <= appearance.regularization <= high * 1.001
    assert len(steps) == N_SOLVES
    image = render(gaussians, appearance.amplitudes, (SIZE,) * 3, WORLD.to(device), CHUNK).cpu()
    nearest = torch.repeat_interleave(slices.cpu(), factor, dim=slice_axis)
    truth, mask = target.numpy(), support.numpy()
    assert psnr_db(truth, image.numpy(), mask) > psnr_db(truth, nearest.numpy(), mask) + 5
    # The acquired slices are honoured.
    error = float((op.forward(appearance.amplitudes) - slices).norm() / slices.norm())
    assert error < 0.02


def test_unobserved_slices_have_no_say(scaffold: Scaffold) -> None:
    _, target, _ = _phantom()
    acquisition = AcquisitionOperator(
        slice_sampling(
            (SIZE, SIZE, 6), (1.0, 1.0, 4.0), 2, (np.array([-2.0, 2.0]), np.array([0.0, 1.0])), 1.0
        ),
        "cpu",
    )
    native = torch.eye(4, dtype=torch.float64)
    native[2, 2], native[2, 3] = 4.0, 1.5
    op = acquisition @ SplatOperator(
        scaffold.gaussians, acquisition.shape_in, WORLD @ native @ acquisition.native_from_lattice
    )
    slices = acquisition.forward(target)
    weights = torch.ones_like(slices)
    weights[..., 3] = 0
    spoiled = slices.clone()
    spoiled[..., 3] = 1e4
    features = torch.zeros(len(scaffold.gaussians), 2)
    prior = GraphLaplacian(scaffold.gaussians, features, GraphSettings())
    settings = dataclasses.replace(CoreSettings().appearance, regularization=0.1)
    fits = [fit_appearance(Observation(data, weights, op, 2), prior, settings) for data in (slices, spoiled)]
    assert torch.equal(fits[0].amplitudes, fits[1].amplitudes)


def test_volumes_of_one_acquisition_are_solved_together(scaffold: Scaffold) -> None:
    _, target, _ = _phantom()
    profile = np.array([-2.0, 2.0]), np.array([0.0, 1.0])
    acquisition = AcquisitionOperator(
        slice_sampling((SIZE, SIZE, 6), (1.0, 1.0, 4.0), 2, profile, 1.0), "cpu"
    )
    native = torch.eye(4, dtype=torch.float64)
    native[2, 2], native[2, 3] = 4.0, 1.5
    op = acquisition @ SplatOperator(
        scaffold.gaussians, acquisition.shape_in, WORLD @ native @ acquisition.native_from_lattice
    )
    volumes = torch.stack([acquisition.forward(target), 3 * acquisition.forward(target.flip(0))], dim=-1)
    weights = torch.ones_like(volumes[..., 0])
    weights[..., 1] = 0
    prior = GraphLaplacian(scaffold.gaussians, torch.zeros(len(scaffold.gaussians), 2), GraphSettings())
    settings = dataclasses.replace(CoreSettings().appearance, tolerance=1e-6)
    together = fit_appearance(Observation(volumes, weights, op, 2), prior, settings)
    given = dataclasses.replace(settings, regularization=together.regularization)
    for k in range(2):
        alone = fit_appearance(Observation(volumes[..., k].contiguous(), weights, op, 2), prior, given)
        error = (together.amplitudes[:, k] - alone.amplitudes).norm() / alone.amplitudes.norm()
        assert float(error) < 1e-3
