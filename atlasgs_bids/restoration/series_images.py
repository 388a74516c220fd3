"""The volumes of a series on the output grid, one by one."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from atlasgs_bids.restoration.result import (
    TargetResult,
    rendered_volume,
)
from atlasgs_bids.restoration.series_fit import SeriesFit
from atlasgs_bids.runtime.costs import Clock


@dataclass(frozen=True)
class RestoredVolume:
    """One volume of a series, in memory until the next one is asked for."""

    index: int
    rendered: npt.NDArray[np.float32]
    """On the output grid."""
    simulated: npt.NDArray[np.float32]
    """What the model predicts for the acquired slices, native grid."""
    observed: npt.NDArray[np.bool_]
    """Native voxels that took part."""
    amplitudes: Tensor
    """(n,)"""


def restored_volumes(
    fit: SeriesFit, reference: TargetResult, floor: float | None, clock: Clock
) -> Iterator[RestoredVolume]:
    """Every volume on the reference's grid, in turn: a series as float32 would fill the memory.

    None lies below ``floor``. The clock counts solving as ``appearance`` and rendering as ``render``.
    """
    solved = fit.solved()
    for index in range(len(fit.series)):
        with clock.measure("appearance"):
            amplitudes, observation = next(solved)
        with clock.measure("render"):
            rendered = rendered_volume(
                amplitudes, reference.grid, reference.inside, fit.scaffold, fit.config, floor=floor
            )
            simulated = observation.slices_from_amplitudes.forward(amplitudes).cpu().numpy()
        observed = observation.weights.cpu().numpy() > 0
        yield RestoredVolume(index, rendered, simulated, observed, amplitudes)
