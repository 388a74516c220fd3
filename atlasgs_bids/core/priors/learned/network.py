"""The network of the learned prior: planes blurred along one axis -> what they miss, and how sure that is."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atlasgs_bids.core.settings import LearnedSettings


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
    """Residual convolutions over planes whose last axis is the blurred one.

    Channels: the blurred target, the anchor, the anchor blurred like the target, and the position between
    samples. ``reach`` neighbouring planes on either side come with the anchor, one of them with the target.
    """

    def __init__(self, settings: LearnedSettings, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.target_reach = min(reach, 1)
        n_channels = (2 * self.target_reach + 1) + (2 * reach + 1) + 3
        self.head = nn.Conv2d(n_channels, settings.width, 3, padding=1)
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
    network: RestorationNetwork,
    blurred: Float[Tensor, "b w v u"],
    anchor: Float[Tensor, "b w v u"],
    degradations: Float[Tensor, "b u u"],
    positions: Float[Tensor, "b 2 u"],
) -> tuple[Float[Tensor, "b v u"], Float[Tensor, "b v u"]]:
    """The middle ones of ``w`` planes restored, and the logarithm of their expected error.

    The correction is x − D x: what the samples cannot see. So the result agrees with the samples as well as
    ``blurred`` does, whatever the network says (null-space network, Schwab 2019).
    """
    middle = network.reach
    near = slice(middle - network.target_reach, middle + network.target_reach + 1)
    degraded_anchor = (anchor[:, middle] @ degradations.mT)[:, None]
    expanded = positions[:, :, None, :].expand(-1, -1, blurred.shape[2], -1)
    channels = torch.cat([blurred[:, near], anchor, degraded_anchor, expanded], dim=1)
    dtype = _dtype(blurred.device)
    with torch.autocast(blurred.device.type, dtype=dtype, enabled=dtype != torch.float32):
        correction, log_sd = network(channels.contiguous(memory_format=torch.channels_last))
    correction = correction.float()
    return blurred[:, middle] + correction - correction @ degradations.mT, log_sd.float()


def _dtype(device: torch.device) -> torch.dtype:
    # Where the card has matrix units for bfloat16 it takes half the time of float32, at equal fidelity.
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if fast else torch.float32
