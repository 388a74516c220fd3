"""Stage 1 and stage 2 on phantoms with a known truth."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from atlasgs_bids.core.acquisition import AcquisitionOperator, slice_sampling
from atlasgs_bids.core.appearance import fit_appearance
from atlasgs_bids.core.gaussians import Gaussians, rotations, world_points
from atlasgs_bids.core.metrics import psnr_db
from atlasgs_bids.core.observation import Observation
from atlasgs_bids.core.priors.graph import GraphLaplacian, anchor_features
from atlasgs_bids.core.regularization import N_SOLVES
from atlasgs_bids.core.scaffold import Scaffold, default_n_gaussians, fit_scaffold, lattice_gaussians
from atlasgs_bids.core.settings import CoreSettings, GraphSettings, ScaffoldSettings
from atlasgs_bids.core.splat.operator import SplatOperator
from atlasgs_bids.core.splat.render import render
from atlasgs_bids.imaging.structure import edge_ellipsoids
from atlasgs_bids.imaging.volume import Volume
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
    anchor, target = (_as_scanned(image) for image in (anchor, target))
    return anchor, target, radius < 11.5


def _as_scanned(image: torch.Tensor) -> torch.Tensor:
    """With a scanner's point spread, FWHM 1.65 voxels: a lattice has no edges sharper than its voxels."""
    return torch.from_numpy(ndimage.gaussian_filter(image.numpy(), 0.7))


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
    assert measured > 60


def test_geometry_follows_the_affine(scaffold: Scaffold) -> None:
    centre_mm = (WORLD @ torch.tensor([11.5, 11.5, 11.5, 1.0], dtype=torch.float64))[:3]
    distance_mm = (scaffold.gaussians.means_mm.double() - centre_mm).norm(dim=1)
    assert float(distance_mm.max()) < 1.5 * 12.5
    assert float(scaffold.gaussians.means_mm.double().mean(0).sub(centre_mm).norm()) < 0.2


@pytest.mark.parametrize("n_steps", [0, 3])
def test_same_input_same_bits(n_steps: int) -> None:
    anchor, _, support = _phantom()
    settings = CoreSettings(scaffold=ScaffoldSettings(n_gaussians=500, n_steps=n_steps))
    runs = [fit_scaffold(anchor, support, WORLD, settings) for _ in range(2)]
    assert runs[0].n_steps == n_steps
    for one, other in zip(*(vars(run.gaussians).values() for run in runs), strict=True):
        assert torch.equal(one, other)


def test_steps_help_where_gaussians_are_few() -> None:
    anchor, _, support = _phantom()
    psnr = []
    for n_steps in (0, 30):
        settings = CoreSettings(scaffold=ScaffoldSettings(n_gaussians=700, n_steps=n_steps))
        psnr.append(fit_scaffold(anchor, support, WORLD, settings).anchor_psnr_db)
    assert psnr[1] > psnr[0] + 3


def test_number_of_gaussians() -> None:
    default = CoreSettings()
    assert default_n_gaussians(1000, default) == 1000
    assert default_n_gaussians(10**9, default) == default.scaffold.max_gaussians
    asked = CoreSettings(scaffold=ScaffoldSettings(n_gaussians=7))
    assert default_n_gaussians(1000, asked) == 7


def test_the_lattice_is_the_voxels() -> None:
    support = _phantom()[2]
    gaussians = lattice_gaussians(support, WORLD, int(support.sum()), 0.6)
    voxel_from_world = torch.linalg.inv(WORLD).float()
    torch.testing.assert_close(
        world_points(gaussians.means_mm, voxel_from_world), support.nonzero().float(), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(gaussians.scales_mm, torch.full_like(gaussians.scales_mm, 0.9))


@pytest.mark.parametrize("n_gaussians", [1, 7, 300, 2000, 20_000])
def test_a_lattice_of_another_spacing_covers_the_support(n_gaussians: int) -> None:
    support = _phantom()[2]
    gaussians = lattice_gaussians(support, WORLD, n_gaussians, 0.6)
    assert 0.6 * n_gaussians <= len(gaussians) <= n_gaussians
    # Each voxel of the support lies within the reach of a Gaussian, 3 sigma, where there are more than a few.
    if n_gaussians >= 300:
        covered = render(gaussians, torch.ones(len(gaussians)), (SIZE,) * 3, WORLD, CHUNK)
        assert float(covered[support].min()) > 0.5


def test_a_lattice_fills_cells_of_any_shape() -> None:
    """Covariance is sigma squared times M Mt for cells that are long, turned, mirrored and sheared."""
    world = torch.eye(4, dtype=torch.float64)
    world[:3, :3] = torch.tensor([[0.2, -1.0, 0.3], [0.9, 0.1, 0.0], [0.1, 0.2, 2.5]])
    gaussians = lattice_gaussians(torch.ones(3, 3, 3, dtype=torch.bool), world, 27, 0.6)
    factors = rotations(gaussians.quaternions) * gaussians.scales_mm[:, None]
    wanted = (0.36 * world[:3, :3] @ world[:3, :3].T).float()
    torch.testing.assert_close(factors @ factors.mT, wanted.expand(27, 3, 3), rtol=1e-4, atol=1e-5)


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


def _sheet() -> tuple[Gaussians, torch.Tensor, torch.Tensor]:
    """A lattice over an oblique sheet of 1.5 voxels, its features, and how far each Gaussian is from it."""
    axes = torch.meshgrid(*[torch.arange(SIZE, dtype=torch.float32)] * 3, indexing="ij")
    normal = torch.tensor([0.6, 0.64, 0.48])
    across = sum(n * (axis - (SIZE - 1) / 2) for n, axis in zip(normal, axes, strict=True))
    image = 100 * torch.exp(-0.5 * (across / 0.75) ** 2)
    support = torch.ones((SIZE,) * 3, dtype=torch.bool)
    gaussians = lattice_gaussians(support, torch.eye(4, dtype=torch.float64), SIZE**3, 0.6)
    volume = Volume(image.numpy(), np.eye(4))
    ellipsoids = edge_ellipsoids(volume, 0.03 * 100, gaussians.means_mm.numpy())
    return gaussians, torch.from_numpy(ellipsoids), across.reshape(-1)


def test_edges_run_along_a_sheet_and_not_across_it() -> None:
    gaussians, ellipsoids, across = _sheet()
    alike = torch.zeros(len(gaussians), 1)  # so that the sheet is in the ellipsoids alone
    inside = (gaussians.means_mm - (SIZE - 1) / 2).abs().amax(1) < SIZE / 2 - 4
    on_sheet = (inside & (across.abs() < 0.5)).nonzero().squeeze(1)
    steps = []
    for own in (ellipsoids, None):
        directed = GraphLaplacian(gaussians, alike, GraphSettings(), ellipsoids=own)._directed.matrix
        starts, ends = directed.crow_indices(), directed.col_indices().long()
        edges = torch.cat([torch.arange(int(starts[i]), int(starts[i + 1])) for i in on_sheet])
        sources = on_sheet.repeat_interleave(starts.diff()[on_sheet])
        away = (across[ends[edges]] - across[sources]).abs()
        weights = directed.values()[edges]
        steps.append(float((weights * away).sum() / weights.sum()))
    along, nearest = steps
    assert along < 0.35  # voxels
    assert nearest > 0.6  # what the graph of distances does


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
    local_mean = torch.from_numpy(ndimage.gaussian_filter(anchor.numpy(), 1.0))
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
    assert error < 0.015


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
