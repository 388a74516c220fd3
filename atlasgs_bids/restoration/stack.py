"""One acquired stack: how its slices lie, and where the anchor is."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atlasgs_bids.imaging.grid import fov_mask, resample_mask
from atlasgs_bids.imaging.registration.register import Registration, given_registration, register
from atlasgs_bids.imaging.slices import SliceGeometry
from atlasgs_bids.imaging.volume import Grid, Volume
from atlasgs_bids.restoration.anchor import Anchor
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.runtime.progress import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StackInput:
    """An acquired image before its data are read."""

    name: str
    """How messages call it."""
    geometry: SliceGeometry
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    """Its metadata, by BIDS name; ``SliceTiming`` and its like say which slices form a shot."""
    transform: Path | None = None
    """ITK text file with its position relative to the anchor; None: it is registered."""


@dataclass(frozen=True)
class PlacedStack:
    """An acquired stack whose position relative to the anchor is known."""

    source: StackInput
    acquired: Volume
    registration: Registration


def place(
    stack: StackInput, acquired: Volume, anchor: Anchor, config: RestorationSettings, progress: Progress
) -> PlacedStack:
    """The stack registered to the anchor; what registration warns of is logged."""
    if stack.transform is not None:
        registration = given_registration(anchor.volume, anchor.foreground, acquired, stack.transform)
    else:
        registration = register(
            anchor.volume, anchor.foreground, acquired, config.registration, config.core.seed
        )
    for text in registration.warnings:
        logger.warning("%s", progress.led(text))
    return PlacedStack(stack, acquired, registration)


def covered(
    stack: StackInput, acquired: Volume, target_from_anchor: npt.NDArray[np.float64], grid: Grid
) -> npt.NDArray[np.bool_]:
    """Where the slices, as thick as they are, cover a grid of the anchor's world with observed voxels."""
    reach = [0.5, 0.5, 0.5]
    reach[stack.geometry.axis] = 0.5 * stack.geometry.thickness_mm / stack.geometry.spacing_mm
    inside = fov_mask(acquired.grid, grid, target_from_anchor, (reach[0], reach[1], reach[2]))
    if acquired.observed is not None:
        observed = Volume(acquired.observed.astype(np.float32), acquired.world_from_voxel)
        inside &= resample_mask(observed, grid, target_from_anchor)
    return inside
