"""The graph prior: Gaussians that are close, and alike in the anchor, are alike in the target."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atlasgs_bids.core.gaussians import Gaussians
from atlasgs_bids.core.operators import SparseOperator, csr_matrix
from atlasgs_bids.core.priors.neighbours import aligned_neighbours, nearest_neighbours
from atlasgs_bids.core.priors.quadratic import QuadraticPrior
from atlasgs_bids.core.settings import GraphSettings

_LEAST_WEIGHT = 1e-6
"""Keeps the graph connected where nothing in the neighbourhood looks alike."""


class GraphLaplacian(QuadraticPrior):
    """L = D − W, symmetric positive semidefinite: aᵀ L a = ½ Σ_ij W_ij (a_i − a_j)².

    W = V + Vᵀ with the weights V of each Gaussian's neighbours, so it need not be put together: the nearest,
    or those along the ellipsoids. Takes amplitudes (n,) or (n, k).
    """

    def __init__(
        self,
        gaussians: Gaussians,
        features: Float[Tensor, "n f"],
        settings: GraphSettings,
        chunk_elements: int = 2**24,
        ellipsoids: Float[Tensor, "n 6"] | None = None,
    ) -> None:
        """``features``: what has to be alike, in units of ``settings.similarity_scale`` (anchor_features).

        ``ellipsoids``: covariances, packed as xx, xy, xz, yy, yz, zz, of determinant 1, along which distances
        are short; None: unit balls.
        """
        n = len(gaussians)
        self.shape_in = self.shape_out = (n,)
        self._chunk_elements = chunk_elements
        n_neighbours = min(settings.n_neighbours, n - 1)
        starts = torch.arange(n + 1, device=features.device) * n_neighbours
        near = _near(gaussians.means_mm, ellipsoids, n_neighbours, settings, chunk_elements)
        weights, neighbours = _weights(*near, features, settings, chunk_elements)
        self._directed = SparseOperator(starts, neighbours.reshape(-1), weights.reshape(-1), n)
        ones = torch.ones(n, device=features.device)
        self.diagonal = self._directed.forward(ones) + self._directed.adjoint(ones)

    def forward(self, x: Tensor) -> Tensor:
        diagonal = self.diagonal if x.ndim == 1 else self.diagonal[:, None]
        return diagonal * x - self._directed.forward(x) - self._directed.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def square_root_noise(self, seed: int) -> Float[Tensor, " n"]:
        # White noise on each edge i -> j, times √V_ij (e_i − e_j): summed by rows, then by columns.
        by_rows = self._edge_sums(self._directed.matrix, seed, starts_in_rows=True)
        return by_rows - self._edge_sums(self._directed.transposed, seed, starts_in_rows=False)

    def _edge_sums(self, matrix: Tensor, seed: int, *, starts_in_rows: bool) -> Float[Tensor, " n"]:
        """Sum of the noise of the edges in each row; in parts, since there are 32 edges for each Gaussian."""
        starts, columns, values = matrix.crow_indices(), matrix.col_indices(), matrix.values()
        n = self.shape_in[0]
        ones = values.new_ones(n)
        n_rows = max(1, self._chunk_elements * n // max(1, len(values)))
        sums = []
        for first in range(0, n, n_rows):
            own = starts[first : first + n_rows + 1]
            low, high = int(own[0]), int(own[-1])
            rows = torch.arange(first, first + len(own) - 1, dtype=torch.int32, device=values.device)
            rows = torch.repeat_interleave(rows, own.diff(), output_size=high - low)
            nearby = columns[low:high]
            ends = (rows, nearby.int()) if starts_in_rows else (nearby.int(), rows)
            noise = values[low:high].sqrt().mul_(_edge_signs(*ends, seed))
            sums.append(csr_matrix(own - low, nearby, noise, (len(own) - 1, n)) @ ones)
        return torch.cat(sums)


def _edge_signs(source: Int[Tensor, " m"], target: Int[Tensor, " m"], seed: int) -> Float[Tensor, " m"]:
    """−1 or 1 for each edge, as good as drawn, whatever the order in which the edges come.

    Signs have the variance of standard normal numbers; their sums over the edges of a Gaussian are nearly
    normal. A hash of 32 bits (products wrap around): normal numbers in float64 took eight times as long.
    """
    own = (seed + 1) * 0x02B2AE35 % 2**31
    state = source * 0x1E3779B1 + target * 0x05EBCA6B
    for shift, multiplier in ((15, 0x2C1B3C6D), (12, 0x297A2D39), (15, 0x1B56C4E9)):
        state = ((state ^ (state >> shift)) + own) * multiplier
    return torch.where(state < 0, -1.0, 1.0)


def anchor_features(
    amplitude: Float[Tensor, " n"], local_mean: Float[Tensor, " n"], scale: float, settings: GraphSettings
) -> Float[Tensor, "n 2"]:
    """What has to be alike: the anchor at each mean and its local mean, over the anchor's ``scale``.

    The local mean tells apart voxels of equal intensity in different surroundings (the partial volume
    between grey matter and CSF from white matter beside a ventricle) and is less noisy.
    """
    return torch.stack([amplitude, settings.local_mean_weight * local_mean], dim=1) / scale


def _near(
    means_mm: Tensor,
    ellipsoids: Tensor | None,
    n_neighbours: int,
    settings: GraphSettings,
    chunk_elements: int,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Distances of each Gaussian's neighbours in mean spacings of the Gaussians, and which they are."""
    n = len(means_mm)
    if n_neighbours < 1:
        return means_mm.new_zeros(n, 0), torch.zeros(n, 0, dtype=torch.int32, device=means_mm.device)
    if ellipsoids is None:
        distances_mm, neighbours = nearest_neighbours(means_mm, n_neighbours, chunk_elements)
        radii_mm, n_inside = distances_mm[:, -1], n_neighbours
    else:
        n_inside = max(n_neighbours, min(settings.n_candidates, n - 1))
        distances_mm, neighbours, radii_mm = aligned_neighbours(
            means_mm, ellipsoids, n_neighbours, n_inside, chunk_elements
        )
    # A ball of radius r holds n_inside Gaussians: the spacing follows from its volume.
    spacing_mm = float(radii_mm.median()) / (3 * n_inside / (4 * math.pi)) ** (1 / 3)
    return distances_mm.div_(max(spacing_mm, 1e-6)), neighbours


def _weights(
    distances: Float[Tensor, "n k"],
    neighbours: Int[Tensor, "n k"],
    features: Tensor,
    settings: GraphSettings,
    chunk_elements: int,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Weights of each Gaussian's neighbours, ½ in sum, and which they are."""
    n, n_neighbours = distances.shape
    exponent = distances.div_(settings.distance_scale).square_()
    everyone = torch.arange(n, device=distances.device)
    for part in torch.split(everyone, max(1, chunk_elements // max(1, n_neighbours))):
        nearby = neighbours[part].long()
        for column in features.unbind(1):
            exponent[part] += ((column[nearby] - column[part, None]) / settings.similarity_scale) ** 2
    weights = exponent.mul_(-0.5).exp_().add_(_LEAST_WEIGHT)
    weights /= 2 * weights.sum(1, keepdim=True)
    return weights, neighbours
