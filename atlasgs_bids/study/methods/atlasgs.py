"""The app itself, with one prior and one geometry, and without one of its parts."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from atlasgs_bids.core.settings import GeometryMode
from atlasgs_bids.restoration.restore import restore_stacks
from atlasgs_bids.restoration.result import TargetResult
from atlasgs_bids.restoration.scaffold import SessionScaffold, scaffold_of, spatial_prior
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
        return _restored(result, case)


def _restored(result: TargetResult, case: Case) -> Restored:
    # A standard deviation at the Gaussians would take time, and no view of it is scored.
    return Restored(result.sr, case.scaffold_seconds, replace(result, error=None).model)


GRAPH, LEARNED = AppMethod("graph", "frozen"), AppMethod("learned", "frozen")
"""The T1w's Gaussians as they are."""
OFFSET, OFFSET_LEARNED = AppMethod("graph", "offset"), AppMethod("learned", "offset")
"""Moved a little."""
JOINT, JOINT_LEARNED = AppMethod("graph", "joint"), AppMethod("learned", "joint")
"""Gaussians that start from the T1w's and are then free."""
OWN, OWN_LEARNED = AppMethod("graph", "own"), AppMethod("learned", "own")
"""The target's own, without the T1w."""


@dataclass(frozen=True)
class Ablation:
    """The graph prior on another scaffold of the same T1w (docs/decisions/0019-lattice-or-fitted.md)."""

    scaffold: Callable[[Case], SessionScaffold]

    def missing(self, study: StudyConfig, device: str) -> str | None:  # noqa: ARG002 - the protocol's
        return None

    def restore(self, case: Case) -> Restored:
        scaffold, run = self.scaffold(case), replace(case.run, prior="graph")
        result = restore_stacks([case.placed], scaffold, run, case.progress)
        return _restored(result, case)


def _fitted(case: Case) -> SessionScaffold:
    """Gaussians that Adam moves until they render the T1w, with their graph: a fit for each cell."""
    core = case.run.core
    fit = replace(core.scaffold, sigma_spacings=0.5, n_steps=40)
    run = replace(case.run, core=replace(core, scaffold=fit))
    return scaffold_of(case.scaffold.anchor, run, case.progress)


def _distance(case: Case) -> SessionScaffold:
    """The lattice with a graph that has not seen the T1w."""
    return replace(case.scaffold, prior=spatial_prior(case.scaffold.gaussians, case.run))


FITTED, DISTANCE = Ablation(_fitted), Ablation(_distance)
"""A geometry that follows the T1w instead of the lattice; the lattice without the T1w in its graph."""
