"""How images are restored: one frozen object without paths, for command line, study and Python alike."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from atlasgs_bids.core.settings import LEARNED_CPU, LEARNED_FAST, CoreSettings

if TYPE_CHECKING:  # loads numpy, and the command line reads its defaults from here
    from atlasgs_bids.imaging.profile import SliceProfile

REGISTRATIONS = ("rigid", "auto", "deformable", "header")
PRIORS = ("auto", "graph", "learned")
MOTIONS = ("none", "volume", "slice")


@dataclass(frozen=True)
class RestorationSettings:
    """Each default stands here; ``atlasgs_bids.Settings`` is another name of this."""

    device: str = "auto"
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:n``."""
    n_threads: int | None = None
    """Threads of this process that may be counted on; None: one."""
    registration: str = "rigid"
    """``rigid``; ``deformable``: echo-planar targets are displaced along their phase-encoding axis as well;
    ``auto``: where held-out slices confirm that; or ``header``."""
    prior: str = "auto"
    """``graph``, ``learned``, or ``auto``: learned for images on a GPU, graph for series and on the CPU."""
    fast: bool = False
    """A smaller network for the learned prior."""
    resolution: str | float = "iso"
    """``iso``, ``anchor``, ``native`` (isotropic at a target's pixel size) or a voxel size in mm."""
    slice_profile: str | SliceProfile = "auto"
    """``auto`` (found from the slices), ``box``, ``gaussian`` or a profile of its own."""
    motion: str = "none"
    """``volume``: volumes of a series lie where the evidence puts them; ``slice``: slices of other targets
    as well; ``none``."""
    estimate_uncertainty: bool = True
    """Whether a standard deviation is estimated beside each result; series have none."""
    core: CoreSettings = field(default_factory=CoreSettings)

    @property
    def image_prior(self) -> str:
        """The prior of a target that is no series, once ``device`` is known: ``graph`` or ``learned``."""
        if self.prior != "auto":
            return self.prior
        return "graph" if self.device == "cpu" else "learned"

    def with_network_of_device(self) -> RestorationSettings:
        """The settings with the network that suits the device."""
        network = LEARNED_CPU if self.device == "cpu" else LEARNED_FAST if self.fast else self.core.learned
        return replace(self, core=replace(self.core, learned=network))
