"""Nearest neighbours: the grid against the k-d tree."""

import pytest
import torch

from atlasgs_bids.core.priors.neighbours import grid_neighbours, nearest_neighbours


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
