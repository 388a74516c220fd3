"""A trained network over a whole volume."""

import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.priors.learned.degradation import Degradation
from atlasgs_bids.core.priors.learned.network import RestorationNetwork, restore
from atlasgs_bids.core.priors.learned.training import LEAST_LOG_SD

_CHUNK_VOXELS = 500_000
"""Of the planes that go through the network at once: bounds the memory."""


@torch.no_grad()
def restore_volume(
    network: RestorationNetwork,
    blurred: Float[Tensor, "w v u"],
    anchor: Float[Tensor, "w v u"],
    degradation: Degradation,
) -> tuple[Float[Tensor, "w v u"], Float[Tensor, "w v u"]]:
    """Every plane (v, u) restored along u, and the raw expected error; the degradation has one phase."""
    n_w = len(blurred)
    offsets = torch.arange(-network.reach, network.reach + 1, device=blurred.device)
    neighbours = (torch.arange(n_w, device=blurred.device)[:, None] + offsets).clamp(0, n_w - 1)
    restored, sd = torch.empty_like(anchor), torch.empty_like(anchor)
    size = max(1, _CHUNK_VOXELS // blurred[0].numel())
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        for begin in range(0, n_w, size):
            rows = slice(begin, min(begin + size, n_w))
            index = neighbours[rows]
            D = degradation.matrices.expand(len(index), -1, -1)
            positions = degradation.positions.expand(len(index), -1, -1)
            restored[rows], log_sd = restore(network, blurred[index], anchor[index], D, positions)
            sd[rows] = torch.exp(log_sd.clamp_min(LEAST_LOG_SD))
    return restored, sd
