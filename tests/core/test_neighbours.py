"""Nearest neighbours: the grid against the k-d tree; those along ellipsoids against all pairs."""

import math

import numba
import pytest
import torch

from atlasgs_bids.core.priors.neighbours import aligned_neighbours, grid_neighbours, nearest_neighbours

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def _clouds() -> dict[str, torch.Tensor]:
    dense, sparse = torch.rand(400, 3) * 3, torch.rand(30, 3) * 90
    return {
        "uniform": torch.rand(2000, 3) * 30,
        "heavy tails": torch.randn(300, 3) ** 3,
        "a cluster and stragglers": torch.cat([dense, sparse]),
        "plane": torch.rand(300, 3) * torch.tensor([9.0, 5.0, 0.0]),
        "few": torch.rand(5, 3),
    }


@pytest.mark.parametrize("cloud", list(_clouds()))
@pytest.mark.parametrize("chunk_elements", [2000, 2**22])
def test_grid_finds_the_neighbours_of_the_tree(cloud: str, chunk_elements: int) -> None:
    points = _clouds()[cloud]
    k = min(16, len(points) - 1)
    want, _ = nearest_neighbours(points, k)
    got, indices = grid_neighbours(points, k, chunk_elements)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    # Each once, never the point itself, and at the distance that is said.
    assert not bool((indices == torch.arange(len(points))[:, None]).any())
    assert all(len(row.unique()) == k for row in indices)
    torch.testing.assert_close(
        (points[indices.long()] - points[:, None]).norm(dim=2), got, rtol=1e-4, atol=1e-5
    )


@pytest.mark.gpu
def test_a_gpu_finds_the_same() -> None:
    points = torch.rand(50_000, 3) * 40
    want, _ = nearest_neighbours(points, 32)
    got, _ = nearest_neighbours(points.cuda(), 32)
    torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-5)


def _ellipsoids(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Covariances of determinant 1, up to 5 times as long as wide; (n, 3, 3) and packed."""
    rotation, _ = torch.linalg.qr(torch.randn(n, 3, 3, dtype=torch.float64))
    logs = torch.rand(n, 3, dtype=torch.float64)
    squares = (2 * math.log(5) * (logs - logs.mean(1, keepdim=True))).exp()
    matrices = rotation @ torch.diag_embed(squares) @ rotation.transpose(1, 2)
    upper = [matrices[:, i, j] for i in range(3) for j in range(i, 3)]
    return matrices, torch.stack(upper, dim=1).float()


def _by_force(
    points: torch.Tensor, matrices: torch.Tensor, k: int, n_candidates: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """√2 times the Mahalanobis distances that are wanted, ascending, and radii, from all pairs in float64."""
    away = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    near = away.fill_diagonal_(math.inf).topk(n_candidates, largest=False)
    offsets = points.double()[near.indices] - points.double()[:, None]
    inverse = torch.linalg.inv(matrices[:, None] + matrices[near.indices])
    squares = torch.einsum("nki,nkij,nkj->nk", offsets, inverse, offsets)
    return (2 * squares).sqrt().topk(k, largest=False, sorted=True).values, near.values[:, -1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cloud", list(_clouds()))
def test_aligned_neighbours_are_those_of_all_pairs(cloud: str, device: str) -> None:
    points = _clouds()[cloud]
    matrices, packed = _ellipsoids(len(points))
    n_candidates = min(40, len(points) - 1)
    k = min(12, n_candidates)
    want, want_radii = _by_force(points, matrices, k, n_candidates)
    got, indices, radii = (
        x.cpu() for x in aligned_neighbours(points.to(device), packed.to(device), k, n_candidates, 2**16)
    )
    torch.testing.assert_close(radii.double(), want_radii, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.sort(1).values.double(), want, rtol=1e-3, atol=1e-4)
    # Each once, never the point itself, and at the distance that is said.
    assert not bool((indices == torch.arange(len(points))[:, None]).any())
    assert all(len(row.unique()) == k for row in indices)
    offsets = (points[indices.long()] - points[:, None]).double()
    inverse = torch.linalg.inv(matrices[:, None] + matrices[indices.long()])
    squares = torch.einsum("nki,nkij,nkj->nk", offsets, inverse, offsets)
    torch.testing.assert_close(got.double(), (2 * squares).sqrt(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_balls_have_the_nearest_neighbours(device: str) -> None:
    points = torch.rand(2000, 3) * 20
    balls = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0]).repeat(len(points), 1)
    want, _ = nearest_neighbours(points, 32)
    got, _, radii = aligned_neighbours(points.to(device), balls.to(device), 32, 92, 2**20)
    torch.testing.assert_close(got.cpu().sort(1).values, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(radii.cpu(), nearest_neighbours(points, 92)[0][:, -1], rtol=1e-4, atol=1e-5)


def test_any_number_of_threads_finds_the_same() -> None:
    lattice = torch.cartesian_prod(*[torch.arange(24.0)] * 3)  # where most distances are equal
    _, packed = _ellipsoids(len(lattice))
    n_threads = numba.get_num_threads()
    found = []
    for n in {1, n_threads}:
        numba.set_num_threads(n)
        found.append(aligned_neighbours(lattice, packed, 32, 92))
    numba.set_num_threads(n_threads)
    for one, other in zip(found[0], found[-1], strict=True):
        assert torch.equal(one, other)
