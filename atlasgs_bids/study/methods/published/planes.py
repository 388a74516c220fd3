"""What both stages of the published method share: frames of planes, D-SSIM, neighbours."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


class InWorld(Protocol):
    """Gaussians in mm."""

    @property
    def means_mm(self) -> Tensor: ...
    @property
    def covariances_mm2(self) -> Tensor: ...


def in_planes(
    gaussians: InWorld, world_from_grid: npt.NDArray[np.floating], axis: int, device: str
) -> tuple[Tensor, Tensor]:
    """Means (n, 3) and covariances (n, 3, 3) in a grid's index coordinates, the slice axis last."""
    grid_from_world = torch.from_numpy(np.linalg.inv(world_from_grid)).float().to(device)
    order = [*(i for i in range(3) if i != axis), axis]
    linear = grid_from_world[:3, :3][order]
    means = gaussians.means_mm.to(device) @ linear.T + grid_from_world[:3, 3][order]
    return means, linear @ gaussians.covariances_mm2.to(device) @ linear.T


def dissimilarity(images: Tensor, truth: Tensor) -> Tensor:
    """1 − SSIM of planes (n, u, v) of intensities around 0 to 1, mean; window as in Wang 2004."""
    offsets = torch.arange(_WINDOW, device=images.device, dtype=images.dtype) - _WINDOW // 2
    window = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    window = window / window.sum()
    stacked = torch.stack([images, truth, images * images, truth * truth, images * truth]).flatten(0, 1)
    blurred = torch.nn.functional.conv2d(
        stacked[:, None], window.view(1, 1, -1, 1), padding=(_WINDOW // 2, 0)
    )
    blurred = torch.nn.functional.conv2d(blurred, window.view(1, 1, 1, -1), padding=(0, _WINDOW // 2))
    x, y, xx, yy, xy = blurred[:, 0].unflatten(0, (5, -1))
    covariance, variance = xy - x * y, (xx - x * x) + (yy - y * y)
    similarity = (2 * x * y + _C1) * (2 * covariance + _C2) / ((x * x + y * y + _C1) * (variance + _C2))
    return 1 - similarity.mean()


def neighbours(means_mm: Tensor, n_neighbours: int) -> Tensor:
    """(n, k) indices of the nearest other Gaussians."""
    points = means_mm.detach().cpu().numpy()
    k = min(n_neighbours, len(points) - 1)
    _, found = cKDTree(points).query(points, k=k + 1, workers=-1)
    return torch.from_numpy(np.asarray(found[:, 1:], dtype=np.int64))
