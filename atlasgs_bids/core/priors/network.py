"""The network of the learned prior: planes blurred along one axis -> what they miss, and how sure that is."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atlasgs_bids.core.settings import LearnedSettings

N_CHANNELS = 5
"""Interpolated target, anchor, anchor degraded like the target, and two for the position between samples."""


class ResidualBlock(nn.Module):
    """x + W₂ σ(W₁ x), without normalisation (Lim 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        correction: Tensor = self.second(torch.relu(self.first(x)))
        return x + correction


class RestorationNetwork(nn.Module):
    """Residual convolutions over planes whose last axis is the blurred one."""

    def __init__(self, settings: LearnedSettings) -> None:
        super().__init__()
        self.head = nn.Conv2d(N_CHANNELS, settings.width, 3, padding=1)
        self.blocks = nn.Sequential(*[ResidualBlock(settings.width) for _ in range(settings.n_blocks)])
        self.mean = nn.Conv2d(settings.width, 1, 3, padding=1)
        self.log_sd = nn.Sequential(
            nn.Conv2d(settings.width, 16, 1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1)
        )

    def forward(
        self, channels: Float[Tensor, "b c v u"]
    ) -> tuple[Float[Tensor, "b v u"], Float[Tensor, "b v u"]]:
        """Correction of the interpolated target, and the logarithm of its expected error."""
        features = self.blocks(self.head(channels))
        # The expected error is learned beside the image, and must not bend it.
        return self.mean(features).squeeze(1), self.log_sd(features.detach()).squeeze(1)


def restore(
    network: nn.Module,
    blurred: Float[Tensor, "b v u"],
    anchor: Float[Tensor, "b v u"],
    degradations: Float[Tensor, "b u u"],
    positions: Float[Tensor, "b 2 u"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "b v u"], Float[Tensor, "b v u"]]:
    """Restored planes and the logarithm of their expected error, in float32.

    The correction is x − D x: what the samples cannot see. So the result agrees with the acquired samples
    as well as ``blurred`` does, whatever the network says (null-space network, Schwab 2019).
    """
    degraded_anchor = anchor @ degradations.mT
    expanded = positions[:, :, None, :].expand(-1, -1, blurred.shape[1], -1)
    channels = torch.cat([torch.stack([blurred, anchor, degraded_anchor], dim=1), expanded], dim=1)
    with torch.autocast(blurred.device.type, dtype=dtype, enabled=dtype != torch.float32):
        correction, log_sd = network(channels.contiguous(memory_format=torch.channels_last))
    correction = correction.float()
    return blurred + correction - correction @ degradations.mT, log_sd.float()
