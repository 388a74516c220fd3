"""Simulated slices as the app takes an acquired stack: their data, their geometry, their profile."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from atlasgs_bids.imaging.profile import SliceProfile, profile_of
from atlasgs_bids.imaging.slices import slice_geometry
from atlasgs_bids.imaging.volume import Volume, voxel_sizes_mm
from atlasgs_bids.restoration.restore import restore_stacks
from atlasgs_bids.restoration.result import TargetResult
from atlasgs_bids.restoration.scaffold import SessionScaffold
from atlasgs_bids.restoration.settings import RestorationSettings
from atlasgs_bids.restoration.stack import PlacedStack, StackInput, place
from atlasgs_bids.runtime.progress import Progress
from atlasgs_bids.study.simulation.degrade import Degradation


@dataclass(frozen=True)
class SimulatedStack:
    """Slices of a known image, in its own world."""

    source: StackInput
    acquired: Volume
    profile: SliceProfile

    def known_to(self, settings: RestorationSettings) -> RestorationSettings:
        """The settings of whoever knows the slice profile, and that nobody moved."""
        return replace(settings, registration="header", slice_profile=self.profile)

    def placed(self, scaffold: SessionScaffold, settings: RestorationSettings) -> PlacedStack:
        """The stack where its header says."""
        return place(self.source, self.acquired, scaffold.anchor, self.known_to(settings), Progress.quiet())

    def restored(self, scaffold: SessionScaffold, settings: RestorationSettings) -> TargetResult:
        """What the app makes of it."""
        placed = self.placed(scaffold, settings)
        return restore_stacks([placed], scaffold, self.known_to(settings), Progress.quiet())


def simulated_stack(
    truth: Volume, degradation: Degradation, noise: npt.NDArray[np.float32] | float = 0.0
) -> SimulatedStack:
    """The slices of an isotropic image, plus the noise."""
    clean, world_from_slices = degradation.slices(truth.data, truth.world_from_voxel)
    acquired = Volume(np.asarray(clean + noise, dtype=np.float32), world_from_slices)
    voxel_mm = float(voxel_sizes_mm(truth.world_from_voxel)[degradation.axis])
    sidecar = {"SliceThickness": degradation.factor * voxel_mm}
    source = StackInput("simulated", slice_geometry(clean.shape, world_from_slices, sidecar), sidecar)
    return SimulatedStack(source, acquired, profile_of(*degradation.profile(voxel_mm)))
