"""TODO."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.bids.plan.targets import StackPlan
from atlasgs_bids.core.metrics import noise_sd
from atlasgs_bids.imaging.grid import fov_mask, resample_mask
from atlasgs_bids.imaging.registration.register import Registration, given_registration, register
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.fit import logger
from atlasgs_bids.restoration.observation import Observation


@dataclass(frozen=True)
class PlacedStack:
    """An acquired stack whose position relative to the anchor is known."""

    plan: StackPlan
    acquired: Volume
    registration: Registration


def place(stack: StackPlan, acquired: Volume, anchor: Anchor, config: RunConfig, label: str) -> PlacedStack:
    """The stack registered to the anchor; what registration warns of is logged."""
    if stack.transform is not None:
        registration = given_registration(anchor.volume, anchor.foreground, acquired, stack.transform)
    else:
        registration = register(
            anchor.volume, anchor.foreground, acquired, config.registration, config.core.seed
        )
    for text in registration.warnings:
        logger.warning("%s: %s", label, text)
    return PlacedStack(stack, acquired, registration)


def covered(
    stack: StackPlan, acquired: Volume, target_from_anchor: npt.NDArray[np.float64], grid: Grid
) -> npt.NDArray[np.bool_]:
    """Where the slices, as thick as they are, cover a grid of the anchor's world with observed voxels."""
    reach = [0.5, 0.5, 0.5]
    reach[stack.geometry.axis] = 0.5 * stack.geometry.thickness_mm / stack.geometry.spacing_mm
    inside = fov_mask(acquired.grid, grid, target_from_anchor, (reach[0], reach[1], reach[2]))
    if acquired.observed is not None:
        observed = Volume(acquired.observed.astype(np.float32), acquired.world_from_voxel)
        inside &= resample_mask(observed, grid, target_from_anchor)
    return inside


def stack_noise_sd(stack: PlacedStack, observation: Observation) -> float:
    """Noise of a stack; 1 % of its mean where it has none at all (simulations)."""
    observed = observation.weights.cpu().numpy() > 0
    sd = noise_sd(stack.acquired.data, stack.plan.geometry.axis, observed)
    least = 0.01 * float(np.abs(stack.acquired.data[observed]).mean())
    return max(sd, least) if np.isfinite(sd) else max(least, 1e-6)
