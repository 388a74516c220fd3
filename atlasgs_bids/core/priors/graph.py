"""The graph prior: Gaussians that are close, and alike in the anchor, are alike in the target."""

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from scipy.spatial import cKDTree
from torch import Tensor

from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.operators import LinearOperator, SparseOperator
from atlasgs_bids.core.settings import GraphSettings

_LEAST_WEIGHT = 1e-6
"""Keeps the graph connected where nothing in the neighbourhood looks alike."""


class GraphLaplacian(LinearOperator):
    """L = D − W, symmetric positive semidefinite: aᵀ L a = ½ Σ_ij W_ij (a_i − a_j)²."""

    def __init__(self, gaussians: Gaussians, features: Float[Tensor, "n f"], settings: GraphSettings) -> None:
        """``features``: what has to be alike, in units of ``settings.similarity_scale`` (anchor_features)."""
        n = len(gaussians)
        self.shape_in = self.shape_out = (n,)
        weights = _weights(gaussians.means_mm.cpu().numpy(), features.cpu().numpy(), settings)
        device = gaussians.means_mm.device
        self.diagonal = torch.from_numpy(np.asarray(weights.sum(axis=1)).ravel()).to(device)
        self._weights = SparseOperator(
            torch.from_numpy(weights.indptr).to(device),
            torch.from_numpy(weights.indices).to(device),
            torch.from_numpy(weights.data).to(device),
            n,
        ).matrix  # symmetric, so its transpose need not be kept

    def forward(self, x: Tensor) -> Tensor:
        return self.diagonal * x - self._weights @ x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)


def anchor_features(
    amplitude: Float[Tensor, " n"], local_mean: Float[Tensor, " n"], scale: float, settings: GraphSettings
) -> Float[Tensor, "n 2"]:
    """What has to be alike: the anchor at each mean and its local mean, over the anchor's ``scale``.

    The local mean tells apart voxels of equal intensity in different surroundings (the partial volume
    between grey matter and CSF from white matter beside a ventricle) and is less noisy.
    """
    return torch.stack([amplitude, settings.local_mean_weight * local_mean], dim=1) / scale


def _weights(
    means_mm: np.ndarray, features: np.ndarray, settings: GraphSettings
) -> sparse.csr_matrix:  # (n, n), symmetric
    n = len(means_mm)
    n_neighbours = min(settings.n_neighbours, n - 1)
    if n_neighbours < 1:
        return sparse.csr_matrix((n, n), dtype=np.float32)
    distances_mm, neighbours = cKDTree(means_mm).query(
        means_mm, k=n_neighbours + 1, workers=torch.get_num_threads()
    )
    distances_mm, neighbours = distances_mm[:, 1:].astype(np.float32), neighbours[:, 1:].astype(np.int32)
    # A ball of radius r holds n_neighbours Gaussians: the spacing follows from its volume.
    spacing_mm = np.median(distances_mm[:, -1]) / (3 * n_neighbours / (4 * np.pi)) ** (1 / 3)
    exponent = (distances_mm / (settings.distance_scale * max(spacing_mm, 1e-6))) ** 2
    for column in features.T:
        exponent += ((column[neighbours] - column[:, None]) / settings.similarity_scale) ** 2
    weights = np.exp(-0.5 * exponent) + np.float32(_LEAST_WEIGHT)
    weights /= 2 * weights.sum(axis=1, keepdims=True)
    starts = np.arange(n + 1, dtype=np.int64 if n * n_neighbours >= 2**31 else np.int32) * n_neighbours
    directed = sparse.csr_matrix((weights.ravel(), neighbours.ravel(), starts), shape=(n, n))
    return (directed + directed.T).tocsr()
