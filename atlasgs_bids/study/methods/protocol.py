"""What a study asks of a method."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from atlasgs_bids.core.observation import Observation
from atlasgs_bids.restoration.views import TargetModel
from atlasgs_bids.study.settings import StudyConfig
from atlasgs_bids.study.simulation.case import Case

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Restored:
    image: Image
    """On the case's grid."""
    seconds_shared: float = 0.0
    """Time for what other targets of the session use as well, whenever it was spent."""
    model: TargetModel | None = None
    """What renders any view of it; None: there are voxels only."""


class Method(Protocol):
    """A module with these two functions, or an object."""

    def missing(self, study: StudyConfig, device: str) -> str | None:
        """Why it cannot run here; None: it can."""

    def restore(self, case: Case) -> Restored:
        """The target at the anchor's resolution."""


def bright(observation: Observation) -> float:
    """The acquired slices' 99th percentile: a unit of intensity for networks and opacities."""
    values = observation.slices[observation.weights > 0]
    return float(values[:: max(1, len(values) // 1_000_000)].quantile(0.99))  # torch's takes up to 2²⁴ values


def kept(image: Image, case: Case) -> Image:
    """The image where a result is wanted, 0 elsewhere, nowhere below the floor: alike for every method."""
    inside = np.where(case.wanted, image, np.float32(0)).astype(np.float32)
    return inside if case.floor is None else np.maximum(inside, np.float32(case.floor))
