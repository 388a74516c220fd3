"""One target of a run: what every step from its images to its files has to know."""

from dataclasses import dataclass, replace

from atlasgs_bids.app.config import RunConfig
from atlasgs_bids.bids.outputs.names import Naming, TargetOutputs, target_outputs
from atlasgs_bids.bids.plan.session import SubjectPlan
from atlasgs_bids.bids.plan.targets import TargetPlan


@dataclass(frozen=True)
class TargetRun:
    """What is restored, for whom, how, and where its files go."""

    plan: SubjectPlan
    target: TargetPlan
    config: RunConfig

    @property
    def label(self) -> str:
        """``sub-01 FLAIR``, ``sub-01 ses-1 FLAIR``."""
        return f"{self.plan.label} {self.target.label}"

    @property
    def naming(self) -> Naming:
        """What the names of the target's files depend on."""
        return replace(self.config.naming, space=self.plan.space)

    @property
    def outputs(self) -> TargetOutputs:
        naming = self.naming
        return target_outputs(naming.out_dir, self.target.entities, naming.resolution, naming.space)
