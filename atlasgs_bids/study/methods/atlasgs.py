"""The app itself, with one prior and one geometry: what its own rooms do to a target."""

from dataclasses import dataclass, replace

from atlasgs_bids.core.settings import GeometryMode
from atlasgs_bids.restoration.restore import restore_stacks
from atlasgs_bids.study.methods.protocol import Restored
from atlasgs_bids.study.settings import StudyConfig
from atlasgs_bids.study.simulation.case import Case


@dataclass(frozen=True)
class AppMethod:
    """A method of the app's: ``--prior`` and ``--geometry``."""

    prior: str
    geometry: GeometryMode

    def missing(self, study: StudyConfig, device: str) -> str | None:  # noqa: ARG002 - the protocol's
        return None

    def restore(self, case: Case) -> Restored:
        core = case.run.core
        run = replace(
            case.run,
            prior=self.prior,
            core=replace(core, geometry=replace(core.geometry, mode=self.geometry)),
        )
        result = restore_stacks([case.placed], case.scaffold, run, case.progress)
        return Restored(result.sr, case.scaffold_seconds)


GRAPH, LEARNED = AppMethod("graph", "frozen"), AppMethod("learned", "frozen")
"""The T1w's Gaussians as they are."""
OFFSET, OFFSET_LEARNED = AppMethod("graph", "offset"), AppMethod("learned", "offset")
"""Moved a little."""
JOINT, JOINT_LEARNED = AppMethod("graph", "joint"), AppMethod("learned", "joint")
"""Gaussians that start from the T1w's and are then free."""
OWN, OWN_LEARNED = AppMethod("graph", "own"), AppMethod("learned", "own")
"""The target's own, without the T1w."""
