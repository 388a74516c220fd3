"""How wrong the network is, measured on voxels that it was not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from atlasgs_bids.core.priors.learned.degradation import Degradation, along
from atlasgs_bids.core.priors.learned.inference import restore_volume
from atlasgs_bids.core.priors.learned.network import RestorationNetwork
from atlasgs_bids.core.priors.learned.prepare import View, percentiles

_NORMAL_90 = 1.645
"""Half width, in σ, of the interval that holds 90 % of a normal distribution."""
_LAGS = 12
"""Voxels over which the error's correlation is taken: held-out blocks are as large."""
_N_FREQUENCIES = 64


@dataclass(frozen=True)
class ExpectedError:
    """From the network's raw expected error to a standard deviation."""

    factor: float
    """So that 90 % intervals hold 90 % of the held-out voxels of the slices."""
    thinning: float
    """Variance of the error in a cell of the lattice over that of its mean through a slice."""

    def variance(self, raw: Tensor) -> Tensor:
        """Of each cell, from the raw expected error."""
        return (raw * self.factor).square() * self.thinning


@torch.no_grad()
def measured_error(network: RestorationNetwork, views: Sequence[View]) -> ExpectedError:
    """The error of a network on the held-out voxels of the slices, when their planes are blurred once more.

    What can be measured is the error's mean through a slice. How much of the error such a mean takes away
    follows from how the error correlates along v, the sharp axis across the blurred one: along the slice
    axis, which is across the blurred one as well, it will do the same.
    """
    ratios, thinnings = [], []
    for view in views:
        planes = view.planes
        one_phase = Degradation(planes.degradation.matrices[:1], planes.degradation.positions[:1])
        blurred = planes.target[0] @ one_phase.matrices[0].mT
        restored, sd = restore_volume(network, blurred, planes.anchor, one_phase)
        if view.through is not None:
            restored, sd = along(view.through, restored, 0), along(view.through, sd, 0)
        error = (restored - view.acquired) * view.held_out
        ratios.append((error.abs() / sd)[view.held_out > 0])
        thinnings.append(1.0 if view.profile is None else _thinning(error, view))
    factor = percentiles(torch.cat(ratios), (0.9,))[0] / _NORMAL_90
    return ExpectedError(factor, sum(thinnings) / len(thinnings))


def _thinning(error: Float[Tensor, "k v u"], view: View) -> float:
    """Σ P(|ν|) / Σ P(|ν|) |W(ν_s)|² over the frequencies ν = (ν_v, ν_s) of the lattice.

    P is the spectrum of the error along v, W that of the profile. Means through slices leave of a spectrum
    that depends on |ν| alone what lies at ν_s ≈ 0, which is P(ν_v).
    """
    assert view.profile is not None
    products = []
    for lag in range(min(_LAGS, error.shape[1] - 1)):
        both = view.held_out[:, lag:] * view.held_out[:, : error.shape[1] - lag]
        product = (error[:, lag:] * error[:, : error.shape[1] - lag] * both).sum()
        products.append(float(product / both.sum().clamp_min(1)))
    if not products or products[0] <= 0:
        return 1.0
    lags = np.arange(len(products))
    # Hann's window over the lags keeps the spectrum of a short correlation from going below 0.
    tapered = np.array(products) / products[0] * 0.5 * (1 + np.cos(np.pi * lags / len(lags)))
    tapered[1:] *= 2
    frequency = (np.arange(_N_FREQUENCIES) + 0.5) / (2 * _N_FREQUENCIES)  # cycles per cell
    modulus = np.hypot(frequency[:, None], frequency[None, :]).clip(max=0.5)
    power = (np.cos(2 * np.pi * modulus[..., None] * lags * view.v_cells) @ tapered).clip(1e-3)
    cells = np.arange(len(view.profile))
    passed = np.abs(np.exp(-2j * np.pi * frequency[:, None] * cells) @ view.profile.numpy()) ** 2
    return float(power.sum() / (power @ passed).sum())
